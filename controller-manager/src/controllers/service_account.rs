//! Every namespace has a service account `default` (upstream: `pkg/controller/serviceaccount/serviceaccounts_controller.go`).

use crate::controller::{Context, Controller, Keys, watch_all};
use crate::ops::{Op, Request, namespace_is_terminating};
use client::{Cache, Change, ObjectKey};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::sync::Arc;
use std::time::Duration;

const NAME: &str = "default";

/// Keys are namespaces.
pub struct ServiceAccountController {
    context: Context,
    namespaces: Arc<Cache<Namespace>>,
    accounts: Arc<Cache<ServiceAccount>>,
}

impl ServiceAccountController {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        Self { namespaces: context.caches.of(), accounts: context.caches.of(), context }
    }
}

fn plan(namespace: &Namespace, account: Option<&ServiceAccount>) -> Vec<Op> {
    if account.is_some() || namespace.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let metadata = ObjectMeta { namespace: namespace.metadata.name.clone(), name: Some(NAME.to_owned()), ..ObjectMeta::default() };
    let account = ServiceAccount { metadata, ..ServiceAccount::default() };
    vec![Op::send(Request::create(&account).tolerating(&[409]))]
}

impl Controller for ServiceAccountController {
    fn watch(self: Arc<Self>, keys: &Keys) {
        watch_all(&self.namespaces, keys);
        let keys = keys.clone();
        self.accounts.subscribe(move |change| {
            if let Change::Deleted(account) = change
                && account.metadata.name.as_deref() == Some(NAME)
            {
                keys.add(ObjectKey::new("", account.metadata.namespace.as_deref().unwrap_or_default()));
            }
        });
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(async move {
            let Some(namespace) = self.namespaces.get(key) else { return Ok(None) };
            let account = self.accounts.get(&ObjectKey::new(&key.name, NAME));
            match self.context.executor.apply(plan(&namespace, account.as_deref())).await {
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
    fn one_default_account_per_living_namespace() {
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "ns"}})).unwrap();
        let going: Namespace =
            serde_json::from_value(json!({"metadata": {"name": "ns", "deletionTimestamp": "2026-01-01T00:00:00Z"}})).unwrap();
        let [Op::Send(request)] = &plan(&namespace, None)[..] else { panic!("one request") };
        assert_eq!(
            (request.path.as_str(), &request.body["metadata"]["name"]),
            ("/api/v1/namespaces/ns/serviceaccounts", &json!("default"))
        );
        assert!(plan(&namespace, Some(&ServiceAccount::default())).is_empty());
        assert!(plan(&going, None).is_empty());
    }
}
