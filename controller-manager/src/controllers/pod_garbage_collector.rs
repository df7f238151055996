//! Pods that nobody else will remove: finished ones beyond a number, those on nodes that are gone, and those deleted before they had a node
//! (upstream: `pkg/controller/podgc`).
//!
//! Upstream looks every 20 seconds; here a pod is looked at when it or its node changes.

use crate::controller::{Context, Controller, Keys};
use crate::ops::{DeleteOptions, Op, PatchKind, Request};
use crate::pods;
use client::{Cache, Change, ObjectKey};
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// Finished pods kept at most (`--terminated-pod-gc-threshold`).
const FINISHED_KEPT: usize = 12_500;
/// How long a node has to be gone before its pods are (upstream: two looks, 20 s apart, and 40 s of quarantine).
const QUARANTINE: Duration = Duration::from_secs(40);
/// The index of pods by node.
pub const BY_NODE: &str = "node";

/// Keys are pods.
pub struct PodGarbageCollector {
    context: Context,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
}

/// The index of pods by node, as every controller that wants it adds it.
pub fn node_of(pod: &Pod) -> Vec<String> {
    pods::node_name(pod).map(str::to_owned).into_iter().collect()
}

impl PodGarbageCollector {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        let pods: Arc<Cache<Pod>> = context.caches.of();
        pods.add_index(BY_NODE, node_of);
        Self { pods, nodes: context.caches.of(), context }
    }

    async fn sync(&self, key: &ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(pod) = self.pods.get(key) else { return Ok(None) };
        let node = pods::node_name(&pod).map(|name| ObjectKey::new("", name));
        let orphaned = node.as_ref().is_some_and(|node| self.nodes.get(node).is_none());
        let ops = plan(&pod, orphaned, self.context.clock.now());
        if orphaned && !ops.is_empty() {
            // The cache may be behind: only the apiserver can say that a node is gone.
            let api: kube::Api<Node> = kube::Api::all(self.context.executor.client().clone());
            if let Some(node) = node
                && api.get_opt(&node.name).await?.is_some()
            {
                return Ok(None);
            }
        }
        Ok(self.context.executor.apply(ops).await?)
    }

    fn finished_too_many(&self) -> Vec<ObjectKey> {
        let mut finished: Vec<Arc<Pod>> =
            self.pods.list().into_iter().filter(|pod| pods::is_finished(pod) && !pods::is_terminating(pod)).collect();
        let surplus = finished.len().saturating_sub(FINISHED_KEPT);
        finished.sort_by_key(|pod| pod.metadata.creation_timestamp.clone().map(|time| time.0));
        finished.into_iter().take(surplus).map(|pod| ObjectKey::of(pod.as_ref())).collect()
    }
}

fn plan(pod: &Pod, orphaned: bool, now: Timestamp) -> Vec<Op> {
    let key = ObjectKey::of(pod);
    let unscheduled = pods::is_terminating(pod) && pods::node_name(pod).is_none();
    if !orphaned && !unscheduled {
        return Vec::new();
    }
    let mut ops = Vec::new();
    if !pods::is_finished(pod) {
        let mut status = json!({"phase": "Failed"});
        if orphaned {
            let condition = PodCondition {
                type_: "DisruptionTarget".to_owned(),
                status: "True".to_owned(),
                reason: Some("DeletionByPodGC".to_owned()),
                message: Some("PodGC: node no longer exists".to_owned()),
                last_transition_time: Some(Time(now)),
                observed_generation: pod.metadata.generation,
                ..PodCondition::default()
            };
            status["conditions"] = json!([condition]);
        }
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
        ops.push(Op::send(Request::patch::<Pod>(&key, "status", PatchKind::Strategic, patch).tolerating(&[404])));
    }
    let options = DeleteOptions { uid: pod.metadata.uid.clone(), grace_seconds: Some(0), ..DeleteOptions::default() };
    ops.push(Op::send(Request::delete::<Pod>(&key, &options)));
    ops
}

impl Controller for PodGarbageCollector {
    fn watch(self: Arc<Self>, keys: &Keys) {
        let (queue, nodes) = (keys.clone(), self.nodes.clone());
        let collector = Arc::downgrade(&self);
        self.pods.subscribe(move |change| {
            let pod = change.object();
            if matches!(change, Change::Deleted(_)) {
                return;
            }
            match pods::node_name(pod) {
                None if pods::is_terminating(pod) => queue.add(ObjectKey::of(pod.as_ref())),
                Some(node) if nodes.has_synced() && nodes.get(&ObjectKey::new("", node)).is_none() => {
                    queue.add_after(ObjectKey::of(pod.as_ref()), QUARANTINE)
                }
                _ => {}
            }
            let just_finished = pods::is_finished(pod) && change.old().is_none_or(|old| !pods::is_finished(old));
            if let Some(collector) = just_finished.then(|| collector.upgrade()).flatten()
                && collector.pods.len() > FINISHED_KEPT
            {
                for key in collector.finished_too_many() {
                    queue.add(key);
                }
            }
        });
        let (queue, pods) = (keys.clone(), self.pods.clone());
        self.nodes.subscribe(move |change| {
            if let Change::Deleted(node) = change {
                for pod in pods.by_index(BY_NODE, node.metadata.name.as_deref().unwrap_or_default()) {
                    queue.add_after(ObjectKey::of(pod.as_ref()), QUARANTINE);
                }
            }
        });
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(async move {
            if self.pods.get(key).is_some_and(|pod| pods::is_finished(&pod)) && self.finished_too_many().contains(key) {
                let options = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
                self.context.executor.apply(vec![Op::send(Request::delete::<Pod>(key, &options))]).await?;
                return Ok(None);
            }
            self.sync(key).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn who_is_removed() {
        let pod = |node: Option<&str>, phase: &str, going: bool| -> Pod {
            let deleted = going.then_some("2026-01-01T00:00:00Z");
            serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "p", "deletionTimestamp": deleted}, "spec": {"containers": [], "nodeName": node}, "status": {"phase": phase}})).unwrap()
        };
        let methods = |pod: &Pod, orphaned| {
            let ops = plan(pod, orphaned, Timestamp::from_second(0).unwrap());
            ops.into_iter()
                .filter_map(|op| if let Op::Send(request) = op { Some((request.method, request.body)) } else { None })
                .collect::<Vec<(&str, Value)>>()
        };
        let names = |ops: Vec<(&'static str, Value)>| ops.iter().map(|(method, _)| *method).collect::<Vec<_>>();
        assert_eq!(names(methods(&pod(Some("n"), "Running", true), false)), [] as [&str; 0]);
        assert_eq!(names(methods(&pod(Some("n"), "Running", false), true)), ["PATCH", "DELETE"]);
        assert_eq!(names(methods(&pod(Some("n"), "Failed", false), true)), ["DELETE"]);
        assert_eq!(names(methods(&pod(None, "Pending", true), false)), ["PATCH", "DELETE"]);
        assert_eq!(names(methods(&pod(None, "Pending", false), false)), [] as [&str; 0]);
        let condition = &methods(&pod(Some("n"), "Running", false), true)[0].1["status"]["conditions"][0];
        assert_eq!(condition["reason"], "DeletionByPodGC");
    }
}
