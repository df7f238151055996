//! Resource quotas: says in each quota's status how much of it is used (upstream: `pkg/controller/resourcequota`). The apiserver's admission counts up
//! from there; what goes away, or counts for less, is only counted here.
//!
//! Pods, claims and services are counted from the shared caches. Of other kinds only the number counts: their metadata is watched ([`kinds`]), but only of
//! kinds that a quota bounds.

mod kinds;

use crate::controller::{Context, Controller, Keys};
use crate::ops::{Op, Request};
use api::quantity::Quantity;
use api::quota::{self, Counted, Usage};
use client::cache::Cacheable;
use client::{Cache, Change, ObjectKey};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often a quota is counted anew whatever happens (`--resource-quota-sync-period`).
const SYNC_PERIOD: Duration = Duration::from_secs(5 * 60);
/// How long changes are gathered before they are counted (upstream: a fixed batching delay).
const GATHER: Duration = Duration::from_millis(200);
/// When to look again at the latest if a count is not known yet.
const SOON: Duration = Duration::from_secs(1);
/// What the caches count.
const CACHED: [&str; 3] = ["pods", "persistentvolumeclaims", "services"];
/// Kinds that can be counted under their bare name too.
const BARE: [&str; 4] = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];

/// Keys are quotas.
pub struct ResourceQuotaController {
    context: Context,
    quotas: Arc<Cache<ResourceQuota>>,
    pods: Arc<Cache<Pod>>,
    claims: Arc<Cache<PersistentVolumeClaim>>,
    services: Arc<Cache<Service>>,
    kinds: kinds::Kinds,
    /// Its queue and what ends it, once it has them.
    running: OnceLock<(Keys, CancellationToken)>,
}

impl ResourceQuotaController {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        Self {
            quotas: context.caches.of(),
            pods: context.caches.of(),
            claims: context.caches.of(),
            services: context.caches.of(),
            kinds: kinds::Kinds::default(),
            running: OnceLock::new(),
            context,
        }
    }

    async fn sync(&self, key: &ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(quota) = self.quotas.get(key) else { return Ok(None) };
        let mut used = self.used_of_cached(&quota);
        if quota::in_scope(&quota, Counted::Other) {
            for (name, resource) in counted_elsewhere(&quota) {
                let Some(count) = self.count(&key.namespace, &resource).await? else { return Ok(Some(SOON)) };
                used.insert(name, Quantity::from_units(count));
            }
        }
        self.context.executor.apply(plan(&quota, &used)).await?;
        Ok(Some(SYNC_PERIOD))
    }

    fn used_of_cached(&self, quota: &ResourceQuota) -> Usage {
        let namespace = quota.metadata.namespace.as_deref().unwrap_or_default();
        let mut used = Usage::new();
        let mut add = |usage: Usage| usage.into_iter().for_each(|(name, amount)| quota::add(&mut used, name, amount));
        for pod in self.pods.in_namespace(namespace) {
            if quota::in_scope(quota, Counted::Pod(&pod)) {
                add(quota::pod_usage(&pod));
            }
        }
        for claim in self.claims.in_namespace(namespace) {
            if quota::in_scope(quota, Counted::Claim(&claim)) {
                add(quota::claim_usage(&claim));
            }
        }
        if quota::in_scope(quota, Counted::Other) {
            self.services.in_namespace(namespace).iter().for_each(|service| add(quota::service_usage(service)));
        }
        used
    }

    /// How many objects of a kind there are, once that is known; the quotas of a namespace are looked at again whenever it changes.
    async fn count(&self, namespace: &str, kind: &str) -> anyhow::Result<Option<i64>> {
        let Some((keys, stop)) = self.running.get() else { return Ok(None) };
        let (queue, quotas) = (keys.clone(), self.quotas.clone());
        let changed = move |namespace: Option<&str>| {
            let concerned = namespace.map_or_else(|| quotas.list(), |namespace| quotas.in_namespace(namespace));
            concerned.iter().for_each(|quota| queue.add_after(ObjectKey::of(quota.as_ref()), GATHER));
        };
        self.kinds.count(self.context.executor.client(), kind, namespace, stop, changed).await
    }
}

/// What a quota bounds that the caches do not count: the quota's name of it, and the kind.
fn counted_elsewhere(quota: &ResourceQuota) -> Vec<(String, String)> {
    let hard = quota.spec.iter().flat_map(|spec| spec.hard.iter().flatten());
    hard.filter_map(|(name, _)| {
        let kind = name.strip_prefix("count/").or_else(|| BARE.contains(&name.as_str()).then_some(name.as_str()))?;
        (!CACHED.contains(&kind)).then(|| (name.clone(), kind.to_owned()))
    })
    .collect()
}

fn plan(quota: &ResourceQuota, used: &Usage) -> Vec<Op> {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default();
    let of = |name: &String| used.get(name).copied().unwrap_or(Quantity::ZERO);
    let same = |status: &ResourceQuotaStatus| {
        let told = status.used.clone().unwrap_or_default();
        status.hard.clone().unwrap_or_default() == hard
            && told.len() == hard.len()
            && hard.keys().all(|name| told.get(name).and_then(|told| Quantity::of(told).ok()) == Some(of(name)))
    };
    if quota.status.as_ref().is_some_and(same) {
        return Vec::new();
    }
    let mut updated = quota.clone();
    let used: BTreeMap<_, _> = hard.keys().map(|name| (name.clone(), of(name).into())).collect();
    updated.status = Some(ResourceQuotaStatus { hard: Some(hard), used: Some(used) });
    vec![Op::send(Request::replace_status(&updated).tolerating(&[404]))]
}

/// Puts the quotas of an object's namespace into the queue, if the object now counts for something else.
fn watch_counted<K: Cacheable>(cache: &Cache<K>, quotas: &Arc<Cache<ResourceQuota>>, keys: &Keys, usage: fn(&K) -> Usage) {
    let (quotas, keys) = (quotas.clone(), keys.clone());
    cache.subscribe(move |change| {
        if let Change::Updated { old, new } = change
            && usage(old) == usage(new)
        {
            return;
        }
        for quota in quotas.in_namespace(change.object().meta().namespace.as_deref().unwrap_or_default()) {
            keys.add_after(ObjectKey::of(quota.as_ref()), GATHER);
        }
    });
}

impl Controller for ResourceQuotaController {
    fn watch(self: Arc<Self>, keys: &Keys) {
        let queue = keys.clone();
        self.quotas.subscribe(move |change| {
            // Its status is written by the admission all the time.
            if let Change::Updated { old, new } = change
                && old.spec == new.spec
                && new.status.as_ref().and_then(|status| status.hard.as_ref()) == new.spec.as_ref().and_then(|spec| spec.hard.as_ref())
            {
                return;
            }
            queue.add(ObjectKey::of(change.object().as_ref()));
        });
        watch_counted(&self.pods, &self.quotas, keys, quota::pod_usage);
        watch_counted(&self.claims, &self.quotas, keys, quota::claim_usage);
        watch_counted(&self.services, &self.quotas, keys, quota::service_usage);
    }

    fn run(self: Arc<Self>, keys: Keys, stop: CancellationToken) -> BoxFuture<'static, ()> {
        self.running.get_or_init(|| (keys, stop.clone()));
        Box::pin(async move { stop.cancelled().await })
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(self.sync(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn quota(hard: Value, status: Value) -> ResourceQuota {
        serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "q"}, "spec": {"hard": hard}, "status": status})).unwrap()
    }

    #[test]
    fn the_status_says_what_is_used_of_what_is_bounded() {
        let used = Usage::from([("pods".to_owned(), Quantity::from_units(2)), ("services".to_owned(), Quantity::from_units(9))]);
        let fresh = quota(json!({"pods": "5", "cpu": "1"}), json!({}));
        let [Op::Send(request)] = &plan(&fresh, &used)[..] else { panic!("one request") };
        assert_eq!(request.body["status"], json!({"hard": {"pods": "5", "cpu": "1"}, "used": {"pods": "2", "cpu": "0"}}));
        let told: ResourceQuota = serde_json::from_value(request.body.clone()).unwrap();
        assert!(plan(&told, &used).is_empty());
        assert_eq!(plan(&told, &Usage::new()).len(), 1, "what has gone is no longer used");
    }

    #[test]
    fn what_has_to_be_asked_for() {
        let quota = quota(json!({"pods": "1", "count/pods": "1", "secrets": "1", "count/jobs.batch": "1", "requests.cpu": "1"}), json!({}));
        let expected = [("count/jobs.batch", "jobs.batch"), ("secrets", "secrets")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(counted_elsewhere(&quota), expected);
    }
}
