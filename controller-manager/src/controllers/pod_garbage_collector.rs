//! Pods that nobody else will remove: finished ones beyond a number, those on nodes that are gone, those that are being deleted on nodes that are out of service,
//! and those deleted before they had a node (upstream: `pkg/controller/podgc`).
//!
//! Upstream looks every 20 seconds; here a pod is looked at when it or its node changes.

use crate::controller::{Context, Controller, Keys};
use crate::ops::{DeleteOptions, Op, PatchKind, Request};
use crate::{nodes, pods};
use client::{Cache, Change, ObjectKey};
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// How long a node has to be gone before its pods are (upstream: two looks, 20 s apart, and 40 s of quarantine).
const QUARANTINE: Duration = Duration::from_secs(40);
/// The index of pods by node.
pub const BY_NODE: &str = "node";

/// Keys are pods, and the key without a name, which stands for all that are finished.
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

    fn node(&self, pod: &Pod) -> Option<Arc<Node>> {
        self.nodes.get(&ObjectKey::new("", pods::node_name(pod)?))
    }

    async fn sync(&self, key: &ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(pod) = self.pods.get(key) else { return Ok(None) };
        let Some(cause) = cause(&pod, self.node(&pod).as_deref()) else { return Ok(None) };
        if cause == Cause::NodeGone {
            // The cache may be behind: only the apiserver can say that a node is gone.
            let api: kube::Api<Node> = kube::Api::all(self.context.executor.client().clone());
            if api.get_opt(pods::node_name(&pod).unwrap_or_default()).await?.is_some() {
                return Ok(None);
            }
        }
        Ok(self.context.executor.apply(remove(&pod, cause, self.context.clock.now())).await?)
    }

    /// Whether there may be more finished pods than are kept.
    fn is_full(&self) -> bool {
        let kept = self.context.settings.finished_pods_kept;
        kept > 0 && self.pods.len() > kept
    }

    /// Removes finished pods beyond the number that is kept.
    async fn sweep(&self) -> anyhow::Result<()> {
        let mut finished = self.pods.list();
        finished.retain(|pod| pods::is_finished(pod) && !pods::is_terminating(pod));
        let surplus = surplus(finished, self.context.settings.finished_pods_kept);
        let removed = surplus.iter().flat_map(|pod| remove(pod, Cause::OneTooMany, self.context.clock.now())).collect();
        self.context.executor.apply(removed).await?;
        Ok(())
    }
}

/// The finished pods that are too many: evicted ones first, then the oldest.
fn surplus(mut finished: Vec<Arc<Pod>>, kept: usize) -> Vec<Arc<Pod>> {
    finished.sort_by_key(|pod| order(pod));
    finished.truncate(finished.len().saturating_sub(kept));
    finished
}

/// Which finished pods go first.
fn order(pod: &Pod) -> (bool, Option<Timestamp>) {
    let evicted = pods::phase(pod) == "Failed" && pod.status.as_ref().is_some_and(|status| status.reason.as_deref() == Some("Evicted"));
    (!evicted, pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

/// Why nobody else will remove a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// Its node is gone.
    NodeGone,
    /// It is being deleted, and its node is off for good.
    OutOfService,
    /// It is being deleted, and no kubelet has ever had it.
    NeverBound,
    /// It has ended, as have enough others.
    OneTooMany,
}

fn cause(pod: &Pod, node: Option<&Node>) -> Option<Cause> {
    let going = pods::is_terminating(pod);
    match (pods::node_name(pod), node) {
        (None, _) => going.then_some(Cause::NeverBound),
        (Some(_), None) => Some(Cause::NodeGone),
        (Some(_), Some(node)) => (going && !nodes::is_ready(node) && nodes::is_out_of_service(node)).then_some(Cause::OutOfService),
    }
}

fn remove(pod: &Pod, cause: Cause, now: Timestamp) -> Vec<Op> {
    let key = ObjectKey::of(pod);
    let mut ops = Vec::new();
    if !pods::is_finished(pod) {
        let mut status = json!({"phase": "Failed"});
        if cause == Cause::NodeGone {
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
        let (queue, collector) = (keys.clone(), Arc::downgrade(&self));
        self.pods.subscribe(move |change| {
            let pod = change.object();
            let Some(collector) = collector.upgrade().filter(|_| !matches!(change, Change::Deleted(_))) else { return };
            match cause(pod, collector.node(pod).as_deref()) {
                Some(Cause::NodeGone) if collector.nodes.has_synced() => queue.add_after(ObjectKey::of(pod.as_ref()), QUARANTINE),
                Some(Cause::NodeGone) | None => {}
                Some(_) => queue.add(ObjectKey::of(pod.as_ref())),
            }
            let just_finished = pods::is_finished(pod) && change.old().is_none_or(|old| !pods::is_finished(old));
            if just_finished && collector.is_full() {
                queue.add(ObjectKey::new("", ""));
            }
        });
        let (queue, pods) = (keys.clone(), self.pods.clone());
        self.nodes.subscribe(move |change| {
            let node = change.object();
            let on_it = || pods.by_index(BY_NODE, node.metadata.name.as_deref().unwrap_or_default());
            if matches!(change, Change::Deleted(_)) {
                for pod in on_it() {
                    queue.add_after(ObjectKey::of(pod.as_ref()), QUARANTINE);
                }
            } else if nodes::is_out_of_service(node) {
                for pod in on_it().iter().filter(|pod| cause(pod, Some(node)).is_some()) {
                    queue.add(ObjectKey::of(pod.as_ref()));
                }
            }
        });
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(async move {
            if !key.name.is_empty() {
                return self.sync(key).await;
            }
            self.sweep().await?;
            Ok(None)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trim::held;
    use serde_json::Value;

    #[test]
    fn who_is_removed() {
        let pod = |node: Option<&str>, phase: &str, going: bool| -> Pod {
            let deleted = going.then_some("2026-01-01T00:00:00Z");
            let metadata = json!({"namespace": "ns", "name": "p", "deletionTimestamp": deleted});
            held(json!({"metadata": metadata, "spec": {"containers": [], "nodeName": node}, "status": {"phase": phase}}))
        };
        let node = |ready: &str, taint: &str| -> Node {
            let (spec, conditions) =
                (json!({"taints": [{"key": taint, "effect": "NoExecute"}]}), json!([{"type": "Ready", "status": ready}]));
            serde_json::from_value(json!({"spec": spec, "status": {"conditions": conditions}})).unwrap()
        };
        let methods = |pod: &Pod, cause| {
            let ops = remove(pod, cause, Timestamp::UNIX_EPOCH).into_iter();
            ops.filter_map(|op| if let Op::Send(request) = op { Some((request.method, request.body)) } else { None }).collect::<Vec<_>>()
        };
        let (well, silent) = (node("True", nodes::OUT_OF_SERVICE), node("Unknown", "other"));
        let off = node("Unknown", nodes::OUT_OF_SERVICE);
        for (node_name, phase, going, node, expected) in [
            (Some("n"), "Running", true, Some(&well), None),
            (Some("n"), "Running", true, Some(&silent), None),
            (Some("n"), "Running", true, Some(&off), Some((Cause::OutOfService, vec!["PATCH", "DELETE"]))),
            (Some("n"), "Running", false, Some(&off), None),
            (Some("n"), "Running", false, None, Some((Cause::NodeGone, vec!["PATCH", "DELETE"]))),
            (Some("n"), "Failed", false, None, Some((Cause::NodeGone, vec!["DELETE"]))),
            (None, "Pending", true, None, Some((Cause::NeverBound, vec!["PATCH", "DELETE"]))),
            (None, "Pending", false, None, None),
        ] {
            let pod = pod(node_name, phase, going);
            let cause = cause(&pod, node);
            let found = cause.map(|cause| (cause, methods(&pod, cause).iter().map(|(method, _)| *method).collect::<Vec<_>>()));
            assert_eq!(found, expected, "{node_name:?} {phase} {going}");
        }
        let told = |cause| methods(&pod(Some("n"), "Running", true), cause)[0].1["status"].clone();
        assert_eq!(told(Cause::NodeGone)["conditions"][0]["reason"], "DeletionByPodGC");
        assert_eq!(told(Cause::OutOfService), json!({"phase": "Failed"}));
    }

    #[test]
    fn evicted_pods_go_first_then_the_oldest() {
        let pod = |name: &str, reason: Value, created: &str| -> Pod {
            let status = json!({"phase": "Failed", "reason": reason});
            held(json!({"metadata": {"name": name, "creationTimestamp": created}, "status": status}))
        };
        let pods = [
            pod("young", json!(null), "2026-01-03T00:00:00Z"),
            pod("evicted", json!("Evicted"), "2026-01-02T00:00:00Z"),
            pod("old", json!(null), "2026-01-01T00:00:00Z"),
        ];
        for (kept, expected) in [(0, vec!["evicted", "old", "young"]), (1, vec!["evicted", "old"]), (2, vec!["evicted"]), (3, vec![])] {
            let gone = surplus(pods.iter().cloned().map(Arc::new).collect(), kept);
            assert_eq!(gone.iter().map(|pod| pod.metadata.name.as_deref().unwrap()).collect::<Vec<_>>(), expected, "{kept}");
        }
    }
}
