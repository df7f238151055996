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
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, PodCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// The reason of all its events.
const EVICTION: &str = "TaintManagerEviction";

/// Keys are pods.
pub struct TaintEvictionController {
    context: Context,
    nodes: Arc<Cache<Node>>,
    pods: Arc<Cache<Pod>>,
    /// The pods that will have to go, each until it does or need not any more.
    waiting: Mutex<HashSet<ObjectKey>>,
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
        // The first toleration that fits is the one that counts.
        let Some(tolerating) = tolerations.iter().find(|toleration| tolerates(toleration, taint)) else { return Some(now) };
        let since = taint.time_added.as_ref().map_or(now, |time| time.0).max(came);
        if let Some(seconds) = tolerating.toleration_seconds {
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
    let event = (EVICTION, format!("Marking for deletion Pod {}", ObjectKey::of(pod)));
    evict(pod, event, ("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint"), now)
}

/// Remembers whether a pod waits, and adds that one that did may stay.
fn follow(waiting: &mut HashSet<ObjectKey>, key: &ObjectKey, ops: Vec<Op>) -> Vec<Op> {
    if matches!(ops.as_slice(), [Op::After(_)]) {
        waiting.insert(key.clone());
        return ops;
    }
    if !waiting.remove(key) || !ops.is_empty() {
        return ops;
    }
    let about = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(key.namespace.clone()),
        name: Some(key.name.clone()),
        ..ObjectReference::default()
    };
    let message = format!("Cancelling deletion of Pod {key}");
    vec![Op::Event { about: Box::new(about), warning: false, reason: EVICTION, message }]
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
        Self { nodes: context.caches.of(), pods, context, waiting: Mutex::default() }
    }

    fn decide(&self, key: &ObjectKey) -> Vec<Op> {
        let pod = self.pods.get(key);
        let node = pod.as_deref().and_then(pods::node_name).and_then(|node| self.nodes.get(&ObjectKey::new("", node)));
        let ops = pod.zip(node).map_or_else(Vec::new, |(pod, node)| plan(&pod, &evicting(&node), self.context.clock.now()));
        follow(&mut self.waiting.lock(), key, ops)
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
        Box::pin(async move { Ok(self.context.executor.apply(self.decide(key)).await?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trim::held;
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
            (vec![json!({"operator": "Exists"}), tolerating("a", Some(300))], 0, None),
        ];
        for (tolerations, came, expected) in cases {
            let metadata = json!({"name": "p", "creationTimestamp": at(came)});
            let pod = held(json!({"metadata": metadata, "spec": {"containers": [], "tolerations": tolerations}}));
            let leaves = leaves_at(&pod, &taints.iter().collect::<Vec<_>>(), at(1000));
            assert_eq!(leaves.map(Timestamp::as_second), expected, "{tolerations:?}");
        }
    }

    #[test]
    fn one_that_waited_may_stay() {
        let (mut waiting, key) = (HashSet::new(), ObjectKey::new("ns", "p"));
        let after = || vec![Op::After(Duration::from_secs(1))];
        let text = |ops: Vec<Op>| match &ops[..] {
            [Op::Event { message, .. }] => message.clone(),
            other => format!("{}", other.len()),
        };
        let mut next = |ops| text(follow(&mut waiting, &key, ops));
        assert_eq!([next(vec![]), next(after()), next(vec![]), next(vec![])], ["0", "1", "Cancelling deletion of Pod ns/p", "0"]);
        assert_eq!(
            [next(after()), next(evict(&Pod::default(), (EVICTION, String::new()), ("", ""), Timestamp::UNIX_EPOCH)), next(vec![])],
            ["1", "3", "0"]
        );
    }
}
