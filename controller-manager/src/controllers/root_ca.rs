//! Every namespace has a ConfigMap with the certificate authority by which pods recognise the apiserver (upstream: `pkg/controller/certificates/rootcacertpublisher`).

use crate::controller::{Context, Controller, Keys, watch_all};
use crate::ops::{Op, Request, namespace_is_terminating};
use client::{Cache, ObjectKey};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const NAME: &str = "kube-root-ca.crt";
const FIELD: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const DESCRIPTION_TEXT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

/// Keys are namespaces.
pub struct RootCaPublisher {
    context: Context,
    authority: String,
    namespaces: Arc<Cache<Namespace>>,
    config_maps: Arc<Cache<ConfigMap>>,
}

impl RootCaPublisher {
    /// With the shared caches; `None` if there is no authority to publish.
    pub fn new(context: Context) -> Option<Self> {
        let authority = context.settings.root_ca.clone()?;
        // Only these: other ConfigMaps are large and no business of ours.
        let named = kube::runtime::watcher::Config::default().any_semantic().fields(&format!("metadata.name={NAME}"));
        Some(Self { authority, namespaces: context.caches.of(), config_maps: context.caches.selected(named), context })
    }
}

fn plan(namespace: &Namespace, present: Option<&ConfigMap>, authority: &str) -> Vec<Op> {
    if namespace.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let key = ObjectKey::new(namespace.metadata.name.as_deref().unwrap_or_default(), NAME);
    let data = BTreeMap::from([(FIELD.to_owned(), authority.to_owned())]);
    let Some(present) = present else {
        let annotations = BTreeMap::from([(DESCRIPTION.to_owned(), DESCRIPTION_TEXT.to_owned())]);
        let metadata =
            ObjectMeta { namespace: Some(key.namespace), name: Some(key.name), annotations: Some(annotations), ..ObjectMeta::default() };
        return vec![Op::send(Request::create(&ConfigMap { metadata, data: Some(data), ..ConfigMap::default() }).tolerating(&[409]))];
    };
    let described = present
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(DESCRIPTION))
        .is_some_and(|text| text == DESCRIPTION_TEXT);
    if present.data.as_ref() == Some(&data) && described {
        return Vec::new();
    }
    let mut restored = present.clone();
    restored.data = Some(data);
    restored.metadata.annotations.get_or_insert_default().insert(DESCRIPTION.to_owned(), DESCRIPTION_TEXT.to_owned());
    vec![Op::send(Request::replace(&restored).tolerating(&[404]))]
}

impl Controller for RootCaPublisher {
    fn watch(self: Arc<Self>, keys: &Keys) {
        watch_all(&self.namespaces, keys);
        let keys = keys.clone();
        self.config_maps
            .subscribe(move |change| keys.add(ObjectKey::new("", change.object().metadata.namespace.as_deref().unwrap_or_default())));
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(async move {
            let Some(namespace) = self.namespaces.get(key) else { return Ok(None) };
            let present = self.config_maps.get(&ObjectKey::new(&key.name, NAME));
            match self.context.executor.apply(plan(&namespace, present.as_deref(), &self.authority)).await {
                Err(error) if namespace_is_terminating(&error) => Ok(None),
                other => Ok(other?),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn made_and_kept_as_it_is() {
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "ns"}})).unwrap();
        let [Op::Send(create)] = &plan(&namespace, None, "PEM")[..] else { panic!("one request") };
        assert_eq!((create.method, &create.body["data"]), ("POST", &json!({"ca.crt": "PEM"})));
        let made: ConfigMap = serde_json::from_value(create.body.clone()).unwrap();
        assert!(plan(&namespace, Some(&made), "PEM").is_empty());
        let mut meddled = made;
        meddled.data.get_or_insert_default().insert("more".to_owned(), "x".to_owned());
        let [Op::Send(restore)] = &plan(&namespace, Some(&meddled), "PEM")[..] else { panic!("one request") };
        assert_eq!((restore.method, &restore.body["data"]), ("PUT", &json!({"ca.crt": "PEM"})));
    }
}
