//! What a controller is, and the loop that runs one.

use crate::ops::{Executor, is_conflict, namespace_is_terminating};
use client::clock::Clock;
use client::{Cache, Change, ObjectKey, SharedCaches, WorkQueue};
use futures::future::BoxFuture;
use kube::Resource;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The keys that a controller has to look at.
pub type Keys = Arc<WorkQueue<ObjectKey>>;

/// What every controller is given.
#[derive(Clone)]
pub struct Context {
    /// The caches, one per kind, shared by all controllers.
    pub caches: Arc<SharedCaches>,
    /// Does what the controller has decided, in its name.
    pub executor: Executor,
    /// Flags that some controllers need.
    pub settings: Arc<Settings>,
    /// What time it is.
    pub clock: Clock,
}

/// Flags that some controllers need.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The certificate authority that pods are to trust, in PEM (`--root-ca-file`).
    pub root_ca: Option<String>,
    /// The key that signs tokens of service accounts, in PEM (`--service-account-private-key-file`).
    pub service_account_key: Option<String>,
    /// What signs certificates that are asked for, by the names of signers.
    pub signing: BTreeMap<&'static str, Signing>,
    /// The networks that nodes are given for their pods (`--allocate-node-cidrs`).
    pub node_networks: Option<crate::controllers::node_ipam::Networks>,
    /// Where load balancers' addresses come from (`--load-balancer-cidr`, `--load-balancer-on-nodes`).
    pub load_balancers: Option<crate::controllers::service_lb::Pool>,
    /// How autoscalers are looked at (`--horizontal-pod-autoscaler-*`).
    pub autoscaling: crate::controllers::horizontal_pod_autoscaler::Tuning,
    /// How long a token that nobody uses is kept (`--legacy-service-account-token-clean-up-period`).
    pub unused_tokens: crate::controllers::legacy_tokens::Period,
    /// How many finished pods are kept; 0 keeps all (`--terminated-pod-gc-threshold`).
    pub finished_pods_kept: usize,
    /// When a node counts as failed, and how fast failed nodes are emptied (`--node-monitor-grace-period` and the like).
    pub node_health: crate::controllers::node_lifecycle::NodeHealth,
    /// What bounds Endpoints and their slices (`--max-endpoints-per-slice` and the like).
    pub endpoints: crate::endpoint_slices::Limits,
    /// Provisioners are not told of claims (`--enable-dynamic-provisioning=false`).
    pub provisions_nothing: bool,
    /// A volume that a node has in use stays attached to it however long that lasts (`--disable-force-detach-on-timeout`).
    pub detaches_only_what_is_free: bool,
    /// How many keys controllers work on at a time, by their names, where that is not their own number (`--concurrent-*-syncs`).
    pub workers: BTreeMap<&'static str, usize>,
}

/// The authority that signs certificates (`--cluster-signing-*`).
#[derive(Clone, Debug)]
pub struct Signing {
    /// Its certificate, in PEM.
    pub certificate: String,
    /// Its key, in PEM.
    pub key: String,
    /// How long certificates last at most.
    pub duration: Duration,
}

/// One controller. Its reconciling is level-triggered: it is told which key to look at, and never what happened.
pub trait Controller: Send + Sync + 'static {
    /// How many keys are worked on at a time. Upstream's default for most is 5.
    fn workers(&self) -> usize {
        5
    }

    /// Subscribes to its caches: whoever changes puts keys into the queue.
    fn watch(self: Arc<Self>, keys: &Keys);

    /// Looks at a key and does what has to be done about it. Returns when to look again at the latest, if at all.
    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>>;

    /// What it does besides reconciling keys, for as long as it runs.
    fn run(self: Arc<Self>, keys: Keys, stop: CancellationToken) -> BoxFuture<'static, ()> {
        let _ = keys;
        Box::pin(async move { stop.cancelled().await })
    }
}

/// Runs a controller until cancelled, with as many workers. The caches it uses have to be filled before.
pub async fn run(name: &'static str, controller: Arc<dyn Controller>, workers: usize, keys: Keys, stop: CancellationToken) {
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        let (controller, keys) = (controller.clone(), keys.clone());
        tasks.spawn(async move {
            while let Some(key) = keys.get().await {
                work(name, controller.as_ref(), &keys, &key).await;
                keys.done(&key);
            }
        });
    }
    tasks.spawn(controller.run(keys.clone(), stop.clone()));
    stop.cancelled().await;
    keys.close();
    // What is under way is finished, so that no half-done work is left; the requests have time limits of their own.
    while tasks.join_next().await.is_some() {}
}

async fn work(name: &'static str, controller: &dyn Controller, keys: &Keys, key: &ObjectKey) {
    match controller.reconcile(key).await {
        Ok(after) => {
            keys.forget(key);
            if let Some(after) = after {
                keys.add_after(key.clone(), after);
            }
        }
        // Whoever asked for what cannot be created there any more is going, too.
        Err(error) if error.downcast_ref().is_some_and(namespace_is_terminating) => {
            tracing::debug!(controller = name, %key, error = format!("{error:#}"), "the namespace is being deleted");
            keys.forget(key);
        }
        Err(error) => {
            if is_conflict(&error) {
                tracing::debug!(controller = name, %key, error = format!("{error:#}"), "overtaken, trying again");
            } else {
                // What the apiserver said is in the error three times over; once is enough.
                let text = error.downcast_ref().map_or_else(|| format!("{error:#}"), crate::children::text);
                tracing::warn!(controller = name, %key, error = text, "failed, trying again");
            }
            keys.add_rate_limited(key.clone());
        }
    }
}

/// Puts the key of every object that changes into the queue.
pub fn watch_all<K: client::cache::Cacheable>(cache: &Cache<K>, keys: &Keys) {
    let keys = keys.clone();
    cache.subscribe(move |change| keys.add(ObjectKey::of(change.object().as_ref())));
}

/// Puts the key of the controller of every object that changes into the queue, if that is of kind `O`. An object that changes hands concerns both.
pub fn watch_owned<O, K>(cache: &Cache<K>, keys: &Keys)
where
    O: Resource<DynamicType = ()>,
    K: client::cache::Cacheable,
{
    let keys = keys.clone();
    cache.subscribe(move |change| {
        let old = if let Change::Updated { old, .. } = change { controller_key::<O, K>(old) } else { None };
        for key in [old, controller_key::<O, K>(change.object())].into_iter().flatten() {
            keys.add(key);
        }
    });
}

/// The key of an object's controller, if that is of kind `O`.
pub fn controller_key<O: Resource<DynamicType = ()>, K: Resource>(object: &K) -> Option<ObjectKey> {
    let owner = controller_of(object)?;
    let same_group = owner.api_version.split('/').next() == O::api_version(&()).split('/').next();
    (same_group && owner.kind == O::kind(&())).then(|| ObjectKey::new(object.meta().namespace.as_deref().unwrap_or_default(), &owner.name))
}

/// The owner reference of an object's controller.
pub fn controller_of<K: Resource>(object: &K) -> Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference> {
    object.meta().owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}
