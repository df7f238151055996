//! Pods leave nodes that have a taint with the effect NoExecute, at once or after as long as they tolerate it (upstream: `pkg/controller/tainteviction`).
//!
//! The time runs from when the taint was added or the pod came, whichever is later, so it does not start anew when this process does.

use super::pod_garbage_collector::{BY_NODE, node_of};
use crate::controller::{Context, Controller, Keys};
use crate::ops::{DeleteOptions, Op, PatchKind, Request};
use crate::pods;
use api::scheduling::tolerates;
use client::{Cache, Change, ObjectKey};
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// Keys are pods.
pub struct TaintEvictionController {
    context: Context,
    nodes: Arc<Cache<Node>>,
    pods: Arc<Cache<Pod>>,
}

fn evicting(node: &Node) -> Vec<&Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().filter(|taint| taint.effect == "NoExecute").collect()
}

/// When the pod has to go; `None` if it may stay for ever.
fn leaves_at(pod: &Pod, taints: &[&Taint], now: Timestamp) -> Option<Timestamp> {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let came = pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let mut earliest: Option<Timestamp> = None;
    for taint in taints {
        let mut tolerating = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).peekable();
        if tolerating.peek().is_none() {
            return Some(now);
        }
        let since = taint.time_added.as_ref().map_or(now, |time| time.0).max(came);
        if let Some(seconds) = tolerating.filter_map(|toleration| toleration.toleration_seconds).min() {
            let at = since + SignedDuration::from_secs(seconds.clamp(0, i64::from(i32::MAX)));
            earliest = Some(earliest.map_or(at, |earlier| earlier.min(at)));
        }
    }
    earliest
}

fn plan(pod: &Pod, taints: &[&Taint], now: Timestamp) -> Vec<Op> {
    if taints.is_empty() || !pods::is_active(pod) {
        return Vec::new();
    }
    let Some(at) = leaves_at(pod, taints, now) else { return Vec::new() };
    if at > now {
        let left = Duration::try_from(at.duration_since(now)).unwrap_or_default();
        return vec![Op::After(left + Duration::from_millis(1))];
    }
    let event = ("TaintManagerEviction", format!("Marking for deletion Pod {}", ObjectKey::of(pod)));
    evict(pod, event, ("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint"), now)
}

/// Deletes a pod, with an event and a condition that say why, each a reason and a text.
pub(super) fn evict(pod: &Pod, event: (&'static str, String), why: (&str, &str), now: Timestamp) -> Vec<Op> {
    let key = ObjectKey::of(pod);
    let condition = PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some(why.0.to_owned()),
        message: Some(why.1.to_owned()),
        last_transition_time: Some(Time(now)),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    };
    let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
    let options = DeleteOptions { uid: pod.metadata.uid.clone(), ..DeleteOptions::default() };
    vec![
        Op::normal(pod, event.0, event.1),
        Op::send(Request::patch::<Pod>(&key, "status", PatchKind::Strategic, patch).tolerating(&[404])),
        Op::send(Request::delete::<Pod>(&key, &options)),
    ]
}

impl TaintEvictionController {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        let pods: Arc<Cache<Pod>> = context.caches.of();
        pods.add_index(BY_NODE, node_of);
        Self { nodes: context.caches.of(), pods, context }
    }
}

impl Controller for TaintEvictionController {
    fn watch(self: Arc<Self>, keys: &Keys) {
        let (queue, pods) = (keys.clone(), self.pods.clone());
        self.nodes.subscribe(move |change| {
            let before = change.old().map(|old| evicting(old));
            if matches!(change, Change::Deleted(_)) || before.unwrap_or_default() == evicting(change.object()) {
                return;
            }
            for pod in pods.by_index(BY_NODE, change.object().metadata.name.as_deref().unwrap_or_default()) {
                queue.add(ObjectKey::of(pod.as_ref()));
            }
        });
        let (queue, nodes) = (keys.clone(), self.nodes.clone());
        self.pods.subscribe(move |change| {
            let pod = change.object();
            let node = pods::node_name(pod).and_then(|node| nodes.get(&ObjectKey::new("", node)));
            if node.is_some_and(|node| !evicting(&node).is_empty()) {
                queue.add(ObjectKey::of(pod.as_ref()));
            }
        });
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(async move {
            let Some(pod) = self.pods.get(key) else { return Ok(None) };
            let node = pods::node_name(&pod).and_then(|node| self.nodes.get(&ObjectKey::new("", node)));
            let Some(node) = node else { return Ok(None) };
            Ok(self.context.executor.apply(plan(&pod, &evicting(&node), self.context.clock.now())).await?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn who_leaves_when() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let taint = |key: &str, second: i64| Taint {
            key: key.into(),
            effect: "NoExecute".into(),
            time_added: Some(Time(at(second))),
            ..Taint::default()
        };
        let taints = [taint("a", 100), taint("b", 200)];
        let tolerating = |key: &str, seconds: Option<i64>| json!({"key": key, "operator": "Exists", "tolerationSeconds": seconds});
        let cases: Vec<(Vec<Value>, i64, Option<i64>)> = vec![
            (vec![], 0, Some(1000)),
            (vec![tolerating("a", None)], 0, Some(1000)),
            (vec![tolerating("a", None), tolerating("b", None)], 0, None),
            (vec![tolerating("a", Some(300)), tolerating("b", Some(300))], 0, Some(400)),
            (vec![tolerating("a", Some(300)), tolerating("b", Some(10))], 0, Some(210)),
            (vec![tolerating("a", Some(300)), tolerating("b", None)], 900, Some(1200)),
        ];
        for (tolerations, came, expected) in cases {
            let pod: Pod = serde_json::from_value(
                json!({"metadata": {"name": "p", "creationTimestamp": at(came)}, "spec": {"containers": [], "tolerations": tolerations}}),
            )
            .unwrap();
            let leaves = leaves_at(&pod, &taints.iter().collect::<Vec<_>>(), at(1000));
            assert_eq!(leaves.map(Timestamp::as_second), expected, "{tolerations:?}");
        }
    }
}
