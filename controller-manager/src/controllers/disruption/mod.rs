//! PodDisruptionBudgets: how many pods are healthy and how many may be evicted now (upstream: `pkg/controller/disruption`). The apiserver's eviction counts
//! down what this counts up, so the status is always replaced in the edition that was read.
//!
//! It also takes back the mark `DisruptionTarget` from pods that were to be deleted and never were.

mod plan;

use crate::children;
use crate::controller::{Context, Controller, Keys, controller_of, watch_all};
use crate::discovery;
use crate::ops::{Op, PatchKind, Request, is_conflict};
use client::cache::Cacheable;
use client::{Cache, Change, ObjectKey, WorkQueue};
use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::DynamicObject;
use kube::{Api, Resource};
use plan::{expected, is_relative, selects, stale_in, status};
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Keys are budgets; pods whose mark may be stale wait in a queue of their own.
pub struct DisruptionController {
    context: Context,
    budgets: Arc<Cache<PodDisruptionBudget>>,
    pods: Arc<Cache<Pod>>,
    replication_controllers: Arc<Cache<ReplicationController>>,
    replica_sets: Arc<Cache<ReplicaSet>>,
    deployments: Arc<Cache<Deployment>>,
    stateful_sets: Arc<Cache<StatefulSet>>,
    marked: Arc<WorkQueue<ObjectKey>>,
}

/// The scale of an owner: its UID and its replicas.
type Scale = Option<(String, i32)>;

/// An owner by the reference to it, if it is of this kind and still the same.
fn owner<K: Cacheable + Resource<DynamicType = ()>>(cache: &Cache<K>, namespace: &str, reference: &OwnerReference) -> Option<Arc<K>> {
    let group = |version: &str| version.rsplit_once('/').map_or("", |(group, _)| group).to_owned();
    if reference.kind != K::kind(&()) || group(&reference.api_version) != K::group(&()) {
        return None;
    }
    cache.get(&ObjectKey::new(namespace, &reference.name)).filter(|found| found.meta().uid.as_ref() == Some(&reference.uid))
}

impl DisruptionController {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        let caches = &context.caches;
        Self {
            budgets: caches.of(),
            pods: caches.of(),
            replication_controllers: caches.of(),
            replica_sets: caches.of(),
            deployments: caches.of(),
            stateful_sets: caches.of(),
            marked: Arc::default(),
            context,
        }
    }

    /// The scale of an owner of a kind that is known here. `Err` if the kind is another.
    fn known_scale(&self, namespace: &str, reference: &OwnerReference) -> Result<Scale, ()> {
        let scale = |uid: &Option<String>, replicas: Option<i32>| Some((uid.clone().unwrap_or_default(), replicas.unwrap_or(1)));
        if let Some(set) = owner(&self.replica_sets, namespace, reference) {
            // The scale that counts is the Deployment's: during a rollout its ReplicaSets have more together.
            if let Some(deployment) = controller_of(set.as_ref()).and_then(|parent| owner(&self.deployments, namespace, parent)) {
                return Ok(scale(&deployment.metadata.uid, deployment.spec.as_ref().and_then(|spec| spec.replicas)));
            }
            return Ok(scale(&set.metadata.uid, set.spec.as_ref().and_then(|spec| spec.replicas)));
        }
        if let Some(set) = owner(&self.stateful_sets, namespace, reference) {
            return Ok(scale(&set.metadata.uid, set.spec.as_ref().and_then(|spec| spec.replicas)));
        }
        if let Some(controller) = owner(&self.replication_controllers, namespace, reference) {
            return Ok(scale(&controller.metadata.uid, controller.spec.as_ref().and_then(|spec| spec.replicas)));
        }
        let known = [("ReplicaSet", "apps/v1"), ("StatefulSet", "apps/v1"), ("ReplicationController", "v1")];
        if known.contains(&(reference.kind.as_str(), reference.api_version.as_str())) { Ok(None) } else { Err(()) }
    }

    /// The scales of owners of other kinds, which the apiserver is asked for; or why it could not be asked.
    async fn other_scales(&self, namespace: &str, pods: &[Arc<Pod>]) -> Result<HashMap<String, Result<Scale, String>>, String> {
        let mut scales = HashMap::new();
        let mut kinds = None;
        for reference in pods.iter().filter_map(|pod| controller_of(pod.as_ref())) {
            if scales.contains_key(&reference.uid) || self.known_scale(namespace, reference).is_ok() {
                continue;
            }
            if kinds.is_none() {
                kinds = Some(discovery::served(self.context.executor.client()).await.map_err(|error| format!("{error:#}"))?);
            }
            let group = reference.api_version.rsplit_once('/').map_or("", |(group, _)| group);
            let mut all = kinds.iter().flatten();
            let scale = match all.find(|kind| kind.resource.kind == reference.kind && kind.resource.group == group) {
                None => Err(format!("no matches for kind \"{}\" in version \"{}\"", reference.kind, reference.api_version)),
                Some(kind) => {
                    let api: Api<DynamicObject> = Api::namespaced_with(self.context.executor.client().clone(), namespace, &kind.resource);
                    match api.get_scale(&reference.name).await {
                        Ok(scale) => {
                            let replicas = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
                            Ok(scale.metadata.uid.map(|uid| (uid, replicas)))
                        }
                        Err(kube::Error::Api(status)) if status.code == 404 => {
                            match api.get_opt(&reference.name).await.map_err(|error| children::text(&error))? {
                                Some(_) => {
                                    Err(format!("{} does not implement the scale subresource", kind.qualified().trim_end_matches('.')))
                                }
                                None => Ok(None),
                            }
                        }
                        Err(error) => return Err(children::text(&error)),
                    }
                }
            };
            scales.insert(reference.uid.clone(), scale);
        }
        Ok(scales)
    }

    async fn sync(&self, key: &ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(budget) = self.budgets.get(key) else { return Ok(None) };
        let synced = self.work_out(key, &budget).await;
        // Whoever was overtaken looks again; of all else that goes wrong the budget tells, and allows nothing meanwhile.
        if let Err(error) = synced.as_ref()
            && !is_conflict(error)
        {
            let why = error.downcast_ref().map_or_else(|| format!("{error:#}"), children::text);
            self.tell(&budget, plan::failed(&budget, &why, self.context.clock.now())).await?;
        }
        synced
    }

    async fn work_out(&self, key: &ObjectKey, budget: &PodDisruptionBudget) -> anyhow::Result<Option<Duration>> {
        let executor = &self.context.executor;
        let mut pods = self.pods.in_namespace(&key.namespace);
        pods.retain(|pod| selects(budget, pod));
        if pods.is_empty() {
            executor.apply(vec![Op::normal(budget, "NoPods", "No matching pods found")]).await?;
        }
        let others = if is_relative(budget) { self.other_scales(&key.namespace, &pods).await } else { Ok(HashMap::new()) };
        let scale_of = |reference: &OwnerReference| match (self.known_scale(&key.namespace, reference), &others) {
            (Ok(scale), _) => Ok(scale),
            (Err(()), Ok(others)) => others.get(&reference.uid).cloned().unwrap_or(Ok(None)),
            (Err(()), Err(why)) => Err(why.clone()),
        };
        let now = self.context.clock.now();
        let expected = match expected(budget, &pods, &scale_of) {
            Ok(expected) => expected,
            Err(why) => {
                let message = format!("Failed to calculate the number of expected pods: {why}");
                executor.apply(vec![Op::warning(budget, "CalculateExpectedPodCountFailed", message)]).await?;
                anyhow::bail!(why);
            }
        };
        if !expected.unmanaged.is_empty() {
            let message = format!(
                "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of the PDB cannot be \
                 calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of \
                 the PDB to an integer value.",
                shown(budget)
            );
            executor.apply(vec![Op::warning(budget, "UnmanagedPods", message)]).await?;
        }
        let (status, ops) = status(budget, &pods, &expected, now);
        self.tell(budget, status).await?;
        Ok(executor.apply(ops).await?)
    }

    async fn tell(&self, budget: &PodDisruptionBudget, status: PodDisruptionBudgetStatus) -> Result<(), kube::Error> {
        if budget.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let told = PodDisruptionBudget { status: Some(status), ..budget.clone() };
        self.context.executor.send(Request::replace_status(&told).tolerating(&[404])).await.map(drop)
    }

    /// Takes a pod's mark back if it is stale. When it will be, otherwise.
    async fn unmark(&self, key: &ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(pod) = self.pods.get(key) else { return Ok(None) };
        let now = self.context.clock.now();
        let Some(left) = stale_in(&pod, now) else { return Ok(None) };
        if left.is_positive() {
            return Ok(Some(left.unsigned_abs()));
        }
        let condition = json!({
            "type": "DisruptionTarget", "status": "False", "reason": null, "message": null,
            "lastTransitionTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now), "observedGeneration": pod.metadata.generation});
        // The version makes sure that nobody has marked it anew in between.
        let metadata = json!({"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version});
        let patch = json!({"metadata": metadata, "status": {"conditions": [condition]}});
        self.context.executor.send(Request::patch::<Pod>(key, "status", PatchKind::Strategic, patch).tolerating(&[404])).await?;
        Ok(None)
    }
}

/// A selector as upstream's messages show it: `app=web,tier in (a,b)`.
fn shown(budget: &PodDisruptionBudget) -> String {
    let Some(selector) = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()) else { return String::new() };
    let labels = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}"));
    let expressions = selector.match_expressions.iter().flatten().map(|expression| {
        let (key, values) = (&expression.key, expression.values.as_deref().unwrap_or_default().join(","));
        match expression.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.clone(),
        }
    });
    labels.chain(expressions).collect::<Vec<_>>().join(",")
}

impl Controller for DisruptionController {
    /// Upstream has one.
    fn workers(&self) -> usize {
        1
    }

    fn watch(self: Arc<Self>, keys: &Keys) {
        watch_all(&self.budgets, keys);
        let (queue, budgets, marked, clock) = (keys.clone(), self.budgets.clone(), self.marked.clone(), self.context.clock);
        self.pods.subscribe(move |change| {
            let pod = change.object();
            for budget in budgets.in_namespace(pod.metadata.namespace.as_deref().unwrap_or_default()) {
                if selects(&budget, pod) || change.old().is_some_and(|old| selects(&budget, old)) {
                    queue.add(ObjectKey::of(budget.as_ref()));
                }
            }
            if !matches!(change, Change::Deleted(_)) && stale_in(pod, clock.now()).is_some() {
                marked.add(ObjectKey::of(pod.as_ref()));
            }
        });
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(self.sync(key))
    }

    fn run(self: Arc<Self>, _: Keys, stop: CancellationToken) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            while let Some(Some(key)) = stop.run_until_cancelled(self.marked.get()).await {
                match self.unmark(&key).await {
                    Ok(after) => {
                        self.marked.forget(&key);
                        if let Some(after) = after {
                            self.marked.add_after(key.clone(), after);
                        }
                    }
                    Err(error) => {
                        tracing::debug!(%key, error = format!("{error:#}"), "could not take a stale mark back, trying again");
                        self.marked.add_rate_limited(key.clone());
                    }
                }
                self.marked.done(&key);
            }
        })
    }
}
