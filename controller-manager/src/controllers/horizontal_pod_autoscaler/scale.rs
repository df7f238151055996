//! The `scale` subresource of whatever kind has one, found by discovery.

use crate::children::text;
use crate::discovery::{self, Served};
use kube::Client;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::HashMap;

/// A workload's scale.
#[derive(Clone, Debug)]
pub struct Scale {
    /// `spec.replicas`.
    pub replicas: i32,
    /// `status.replicas`.
    pub status_replicas: i32,
    /// `status.selector`.
    pub selector: String,
    path: String,
    object: Value,
}

/// Finds and changes scales. Which path a kind has is asked once, and again when it is not found there.
pub struct Scales {
    client: Client,
    kinds: Mutex<HashMap<(String, String), Served>>,
}

impl Scales {
    /// As the controller's account.
    pub fn new(client: Client) -> Self {
        Self { client, kinds: Mutex::default() }
    }

    /// The kind of an `apiVersion`'s group, as the apiserver serves it.
    pub async fn kind(&self, api_version: &str, kind: &str) -> Result<Served, String> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        if api_version.split('/').count() > 2 {
            return Err(format!("invalid API version in scale target reference: unexpected GroupVersion string: {api_version}"));
        }
        let key = (group.to_owned(), kind.to_owned());
        if let Some(known) = self.kinds.lock().get(&key) {
            return Ok(known.clone());
        }
        let served = discovery::served(&self.client).await.map_err(|error| format!("{error:#}"))?;
        let found = served.into_iter().find(|served| served.resource.group == group && served.resource.kind == kind);
        let named = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let found = found.ok_or_else(|| format!("no matches for kind {named:?} in group {group:?}"))?;
        self.kinds.lock().insert(key, found.clone());
        Ok(found)
    }

    /// The scale of a workload.
    pub async fn get(&self, namespace: &str, api_version: &str, kind: &str, name: &str) -> Result<Scale, String> {
        let served = self.kind(api_version, kind).await?;
        let path = format!("{}/scale", served.path(namespace, name));
        let request = http::Request::get(&path).body(Vec::new()).map_err(|error| error.to_string())?;
        let object: Value = self.client.request(request).await.map_err(|error| {
            if matches!(&error, kube::Error::Api(status) if status.code == 404) {
                self.kinds.lock().retain(|_, known| known.resource.kind != kind);
            }
            text(&error)
        })?;
        let number = |part: &str| object[part]["replicas"].as_i64().and_then(|number| i32::try_from(number).ok()).unwrap_or(0);
        let selector = object["status"]["selector"].as_str().unwrap_or_default().to_owned();
        Ok(Scale { replicas: number("spec"), status_replicas: number("status"), selector, path, object })
    }

    /// Sets the number of replicas, unless the workload has changed since.
    pub async fn set(&self, scale: &Scale, replicas: i32) -> kube::Result<()> {
        let mut wanted = scale.object.clone();
        wanted["spec"]["replicas"] = json!(replicas);
        let body = serde_json::to_vec(&wanted).map_err(kube::Error::SerdeError)?;
        let request = http::Request::put(&scale.path).header(http::header::CONTENT_TYPE, "application/json").body(body);
        self.client.request::<Value>(request.map_err(kube::Error::HttpError)?).await.map(|_| ())
    }
}
