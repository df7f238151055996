//! Removes bootstrap tokens when they expire.

use super::{Expiry, expiry, tokens};
use crate::controller::{Context, Controller, Keys, watch_all};
use crate::ops::{DeleteOptions, Op, Request};
use client::{Cache, ObjectKey};
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use std::sync::Arc;
use std::time::Duration;

/// Keys are tokens.
pub struct TokenCleaner {
    context: Context,
    tokens: Arc<Cache<Secret>>,
}

impl TokenCleaner {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        Self { tokens: tokens(&context.caches), context }
    }
}

fn plan(token: &Secret, now: Timestamp) -> Option<Op> {
    match expiry(token, now) {
        Expiry::Never => None,
        Expiry::At(at) => Some(Op::After(Duration::try_from(at.duration_since(now)).unwrap_or_default())),
        Expiry::Past => {
            let options = DeleteOptions { uid: token.metadata.uid.clone(), ..DeleteOptions::default() };
            Some(Op::send(Request::delete::<Secret>(&ObjectKey::of(token), &options).tolerating(&[404, 409])))
        }
    }
}

impl Controller for TokenCleaner {
    fn watch(self: Arc<Self>, keys: &Keys) {
        watch_all(&self.tokens, keys);
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(async move {
            let Some(token) = self.tokens.get(key) else { return Ok(None) };
            Ok(self.context.executor.apply(plan(&token, Timestamp::now()).into_iter().collect()).await?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tokens_go_when_they_expire() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let token = |expiration: Option<&str>| -> Secret {
            let mut secret: Secret =
                serde_json::from_value(json!({"metadata": {"namespace": "kube-system", "name": "bootstrap-token-abcdef"}})).unwrap();
            let data = expiration.map(|text| ("expiration".to_owned(), k8s_openapi::ByteString(text.as_bytes().to_vec())));
            secret.data = Some(data.into_iter().collect());
            secret
        };
        assert_eq!(plan(&token(None), now), None);
        assert_eq!(plan(&token(Some("2026-01-01T00:00:05Z")), now), Some(Op::After(Duration::from_secs(5))));
        for past in ["2026-01-01T00:00:00Z", "2025-12-31T23:00:00+01:00", "soon"] {
            let Some(Op::Send(request)) = plan(&token(Some(past)), now) else { panic!("{past}: a request") };
            assert_eq!(
                (request.method, request.path.as_str()),
                ("DELETE", "/api/v1/namespaces/kube-system/secrets/bootstrap-token-abcdef")
            );
        }
    }
}
