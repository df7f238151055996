//! Signs `kube-public/cluster-info`, so that whoever holds a bootstrap token knows that the cluster's address and authority in it are genuine: for each token a
//! detached JWS (HS256) over the kubeconfig, under `jws-kubeconfig-ID`. Signatures of tokens that are no more go.

use super::{Expiry, expiry, field, tokens};
use crate::controller::{Context, Controller, Keys};
use crate::ops::{Op, Request};
use client::{Cache, ObjectKey};
use futures::future::BoxFuture;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
const SIGNED: &str = "kubeconfig";
const PREFIX: &str = "jws-kubeconfig-";

/// There is one key, the ConfigMap's.
pub struct Signer {
    context: Context,
    tokens: Arc<Cache<Secret>>,
    published: Arc<Cache<ConfigMap>>,
}

impl Signer {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        let fields = format!("metadata.namespace={NAMESPACE},metadata.name={NAME}");
        let only = kube::runtime::watcher::Config::default().any_semantic().fields(&fields);
        Self { tokens: tokens(&context.caches), published: context.caches.selected(only), context }
    }
}

/// The id and secret of a token that may sign now.
fn signing(token: &Secret, now: Timestamp) -> Option<(&str, &str)> {
    let (id, secret) = (field(token, "token-id"), field(token, "token-secret"));
    let named = token.metadata.name.as_deref() == Some(format!("bootstrap-token-{id}").as_str());
    let usable = named && !secret.is_empty() && field(token, "usage-bootstrap-signing") == "true" && expiry(token, now) != Expiry::Past;
    usable.then_some((id, secret))
}

/// A JWS whose payload is left out, for it stands beside it.
fn detached(content: &str, id: &str, secret: &str) -> anyhow::Result<String> {
    use base64::Engine;
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let header = Header { typ: None, kid: Some(id.to_owned()), ..Header::new(Algorithm::HS256) };
    let header = engine.encode(serde_json::to_vec(&header)?);
    let signed = format!("{header}.{}", engine.encode(content));
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &EncodingKey::from_secret(secret.as_bytes()), Algorithm::HS256)?;
    Ok(format!("{header}..{signature}"))
}

fn plan(published: &ConfigMap, tokens: &[Arc<Secret>], now: Timestamp) -> anyhow::Result<Option<Op>> {
    let data = published.data.clone().unwrap_or_default();
    let Some(content) = data.get(SIGNED) else { return Ok(None) };
    let mut wanted: BTreeMap<String, String> =
        data.iter().filter(|(name, _)| !name.starts_with(PREFIX)).map(|(k, v)| (k.clone(), v.clone())).collect();
    for (id, secret) in tokens.iter().filter_map(|token| signing(token, now)) {
        wanted.insert(format!("{PREFIX}{id}"), detached(content, id, secret)?);
    }
    if wanted == data {
        return Ok(None);
    }
    let mut signed = published.clone();
    signed.data = Some(wanted);
    Ok(Some(Op::send(Request::replace(&signed).tolerating(&[404]))))
}

impl Controller for Signer {
    fn watch(self: Arc<Self>, keys: &Keys) {
        let queue = keys.clone();
        self.published.subscribe(move |_| queue.add(ObjectKey::new(NAMESPACE, NAME)));
        let queue = keys.clone();
        self.tokens.subscribe(move |_| queue.add(ObjectKey::new(NAMESPACE, NAME)));
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(async move {
            let Some(published) = self.published.get(key) else { return Ok(None) };
            let ops = plan(&published, &self.tokens.list(), Timestamp::now())?;
            Ok(self.context.executor.apply(ops.into_iter().collect()).await?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use serde_json::json;

    fn token(id: &str, fields: &[(&str, &str)]) -> Arc<Secret> {
        let mut secret: Secret = serde_json::from_value(json!({"metadata": {"name": format!("bootstrap-token-{id}")}})).unwrap();
        let all = [("token-id", id), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-signing", "true")];
        secret.data = Some(all.iter().chain(fields).map(|(k, v)| ((*k).to_owned(), ByteString(v.as_bytes().to_vec()))).collect());
        Arc::new(secret)
    }

    /// The example of upstream's own tests (`cluster-bootstrap/token/jws`): payload, token and signature.
    #[test]
    fn signatures_are_upstreams() {
        let signed =
            detached("Hello from the other side. I must have called a thousand times.", "joshua", "my voice is my passcode").unwrap();
        assert_eq!(signed, "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8");
    }

    #[test]
    fn each_usable_token_signs() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let published: ConfigMap = serde_json::from_value(
            json!({"metadata": {"namespace": NAMESPACE, "name": NAME}, "data": {"kubeconfig": "x", "jws-kubeconfig-gone00": "y"}}),
        )
        .unwrap();
        let tokens = [
            token("good00", &[]),
            token("later0", &[("expiration", "2026-01-02T00:00:00Z")]),
            token("old000", &[("expiration", "2025-01-02T00:00:00Z")]),
            token("other0", &[("usage-bootstrap-signing", "false")]),
        ];
        let Some(Op::Send(request)) = plan(&published, &tokens, now).unwrap() else { panic!("a request") };
        let names: Vec<_> = request.body["data"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(names, ["jws-kubeconfig-good00", "jws-kubeconfig-later0", "kubeconfig"]);
        let signed: ConfigMap = serde_json::from_value(request.body).unwrap();
        assert_eq!(plan(&signed, &tokens, now).unwrap(), None);
    }
}
