//! Whether nodes are alive, and the taints that say in which state they are (upstream: `pkg/controller/nodelifecycle`).
//!
//! A node lives as long as its Lease is renewed or its status changes, judged by the time at which this process saw that, so clocks of nodes do not matter.
//! A silent node's conditions become Unknown and its pods not ready. Taints with the effect NoSchedule follow the conditions; those with NoExecute follow Ready, as fast
//! as [`zones`] lets them.

pub mod zones;

use self::zones::{Rates, Verdict, Zones};
use super::pod_garbage_collector::{BY_NODE, node_of};
use crate::controller::{Context, Controller, Keys, watch_all};
use crate::nodes::{condition, is_ready};
use crate::ops::{Op, PatchKind, Request};
use crate::pods;
use client::{Cache, Change, ObjectKey};
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use parking_lot::Mutex;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// When a node counts as failed, and what follows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NodeHealth {
    /// How long a node may be silent (`--node-monitor-grace-period`).
    pub grace: Duration,
    /// How long a node may be silent that has never said anything (`--node-startup-grace-period`).
    pub startup_grace: Duration,
    /// How fast failed nodes are emptied.
    pub rates: Rates,
}

impl Default for NodeHealth {
    fn default() -> Self {
        Self { grace: Duration::from_secs(50), startup_grace: Duration::from_secs(60), rates: Rates::default() }
    }
}

/// Where nodes keep their Leases.
const LEASES: &str = "kube-node-lease";

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Which condition in which state gives which taint with NoSchedule.
const TAINTS: &[(&str, &str, &str)] = &[
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// A sign of life: whatever changes when a node is alive.
#[derive(Clone, Debug, PartialEq)]
struct Sign {
    renewed: Option<MicroTime>,
    heartbeat: Option<Time>,
    ready: Option<String>,
}

struct Health {
    sign: Sign,
    seen: Instant,
    was_ready: bool,
}

/// Keys are nodes.
pub struct NodeLifecycleController {
    context: Context,
    nodes: Arc<Cache<Node>>,
    leases: Arc<Cache<Lease>>,
    pods: Arc<Cache<Pod>>,
    health: Mutex<HashMap<String, Health>>,
    zones: Mutex<Zones>,
}

/// The conditions of a node that has fallen silent.
fn silent(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let mut conditions = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let before = conditions.clone();
    for condition_type in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        match conditions.iter_mut().find(|condition| condition.type_ == condition_type) {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                condition.last_transition_time = Some(Time(now));
            }
            None => conditions.push(NodeCondition {
                type_: condition_type.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(Time(now)),
            }),
        }
    }
    (conditions != before).then_some(conditions)
}

/// The taints that a node should have, if they differ from those it has. Taints of others stay.
fn taints(node: &Node, evict: bool, now: Timestamp) -> Option<Vec<Taint>> {
    let has = |(condition_type, status, _): &&(&str, &str, &str)| {
        condition(node, condition_type).is_some_and(|condition| condition.status == *status)
    };
    let mut wanted: Vec<(&str, &str)> = TAINTS.iter().filter(has).map(|(_, _, key)| (*key, "NoSchedule")).collect();
    if node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    match condition(node, "Ready").map(|ready| ready.status.as_str()) {
        Some("False") if evict => wanted.push((NOT_READY, "NoExecute")),
        Some("Unknown") if evict => wanted.push((UNREACHABLE, "NoExecute")),
        _ => {}
    }
    let present = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let ours = |taint: &Taint| match taint.effect.as_str() {
        "NoSchedule" => taint.key == UNSCHEDULABLE || TAINTS.iter().any(|(_, _, key)| *key == taint.key),
        "NoExecute" => taint.key == NOT_READY || taint.key == UNREACHABLE,
        _ => false,
    };
    let mut result: Vec<Taint> =
        present.iter().filter(|taint| !ours(taint) || wanted.contains(&(taint.key.as_str(), taint.effect.as_str()))).cloned().collect();
    for (key, effect) in wanted {
        if !result.iter().any(|taint| taint.key == key && taint.effect == effect) {
            result.push(Taint { key: key.to_owned(), effect: effect.to_owned(), time_added: Some(Time(now)), ..Taint::default() });
        }
    }
    (result != present).then_some(result)
}

impl NodeLifecycleController {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        let caches = &context.caches;
        let pods: Arc<Cache<Pod>> = caches.of();
        pods.add_index(BY_NODE, node_of);
        Self { nodes: caches.of(), leases: caches.of(), pods, health: Mutex::default(), zones: Mutex::default(), context }
    }

    /// How long the node has been silent, and whether it has just stopped being ready.
    fn observe(&self, node: &Node) -> (Duration, bool) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let lease = self.leases.get(&ObjectKey::new(LEASES, &name));
        let ready = condition(node, "Ready");
        let sign = Sign {
            renewed: lease.and_then(|lease| lease.spec.as_ref().and_then(|spec| spec.renew_time.clone())),
            heartbeat: ready.and_then(|ready| ready.last_heartbeat_time.clone()),
            // That it is Unknown is what we have said ourselves.
            ready: ready.map(|ready| ready.status.clone()).filter(|status| status != "Unknown"),
        };
        let mut health = self.health.lock();
        let now = Instant::now();
        let entry = health.entry(name).or_insert_with(|| Health { sign: sign.clone(), seen: now, was_ready: false });
        if entry.sign != sign {
            let only_said_by_us = sign.ready.is_none() && Sign { ready: None, ..entry.sign.clone() } == sign;
            entry.sign = sign;
            if !only_said_by_us {
                entry.seen = now;
            }
        }
        let stopped = entry.was_ready && !is_ready(node);
        entry.was_ready = is_ready(node);
        (now.duration_since(entry.seen), stopped)
    }

    async fn sync(&self, key: &ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(node) = self.nodes.get(key) else {
            self.health.lock().remove(&key.name);
            return Ok(None);
        };
        let now = self.context.clock.now();
        let settings = self.context.settings.node_health;
        let grace = if condition(&node, "Ready").is_some() { settings.grace } else { settings.startup_grace };
        let (silence, stopped) = self.observe(&node);
        let mut ops = Vec::new();
        if stopped {
            ops.push(Op::normal(node.as_ref(), "NodeNotReady", format!("Node {} status is now: NodeNotReady", key.name)));
            ops.extend(self.mark_pods(&key.name, now));
        }
        if silence >= grace
            && let Some(conditions) = silent(&node, now)
        {
            let mut updated = (*node).clone();
            updated.status.get_or_insert_default().conditions = Some(conditions);
            ops.push(Op::send(Request::replace_status(&updated)));
            // The change comes back through the watch, and with it the taints.
            return Ok(self.context.executor.apply(ops).await?);
        }
        let (evict, wait) = self.may_be_emptied(&node, &settings.rates);
        if let Some(taints) = taints(&node, evict, now) {
            let patch = json!({"metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": taints}});
            ops.push(Op::send(Request::patch::<Node>(key, "", PatchKind::Merge, patch)));
        }
        self.context.executor.apply(ops).await?;
        // A node that is known to be silent is looked at again when it says something.
        let known = condition(&node, "Ready").is_some_and(|ready| ready.status == "Unknown");
        let silent_at = (!known).then(|| grace.saturating_sub(silence).max(Duration::from_millis(100)));
        Ok(silent_at.into_iter().chain(wait).min())
    }

    /// Whether a node's pods may be evicted if it has failed, and when to look again if not yet. One whose pods already are stays so.
    fn may_be_emptied(&self, node: &Node, rates: &Rates) -> (bool, Option<Duration>) {
        if is_ready(node) {
            return (true, None);
        }
        let present = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        let begun = present.iter().any(|taint| taint.effect == "NoExecute" && (taint.key == NOT_READY || taint.key == UNREACHABLE));
        let all = self.nodes.list();
        let mut zones = self.zones.lock();
        // One that has been begun takes nobody's turn; whether all have failed counts for it too.
        let rates = if begun { Rates { normal: f64::INFINITY, reduced: f64::INFINITY, ..*rates } } else { *rates };
        match zones.ask(node, all.iter().map(AsRef::as_ref), is_ready, &rates, Instant::now()) {
            Verdict::Now => (true, None),
            Verdict::Later(wait) => (begun, wait.filter(|_| !begun)),
            Verdict::Never => (false, None),
        }
    }

    /// Its pods cannot be reached either: they are taken out of their Services.
    fn mark_pods(&self, node: &str, now: Timestamp) -> Vec<Op> {
        let ready = self.pods.by_index(BY_NODE, node).into_iter().filter(|pod| pods::is_ready(pod) && !pods::is_finished(pod));
        ready
            .flat_map(|pod| {
                let mut condition = pods::condition(&pod, "Ready").cloned().unwrap_or_default();
                condition.status = "False".to_owned();
                condition.last_transition_time = Some(Time(now));
                let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
                let request =
                    Request::patch::<Pod>(&ObjectKey::of(pod.as_ref()), "status", PatchKind::Strategic, patch).tolerating(&[404, 409]);
                [Op::send(request), Op::warning(pod.as_ref(), "NodeNotReady", "Node is not ready")]
            })
            .collect()
    }
}

impl Controller for NodeLifecycleController {
    fn watch(self: Arc<Self>, keys: &Keys) {
        watch_all(&self.nodes, keys);
        let executor = self.context.executor.clone();
        let (queue, nodes) = (keys.clone(), Arc::downgrade(&self.nodes));
        self.nodes.subscribe(move |change| {
            let node = change.object();
            let name = node.metadata.name.as_deref().unwrap_or_default();
            let about = || client::events::reference(node.as_ref(), None);
            match change {
                Change::Added(_) => executor.recorder().normal(
                    about(),
                    "RegisteredNode",
                    format!("Node {name} event: Registered Node {name} in Controller"),
                ),
                Change::Deleted(_) => {
                    executor.recorder().normal(about(), "RemovingNode", format!("Node {name} event: Removing Node {name} from Controller"))
                }
                Change::Updated { old, new } if is_ready(old) != is_ready(new) => {
                    // Whether anybody is evicted depends on whether any node is ready.
                    for other in nodes.upgrade().map(|nodes| nodes.list()).unwrap_or_default().iter().filter(|node| !is_ready(node)) {
                        queue.add(ObjectKey::of(other.as_ref()));
                    }
                }
                Change::Updated { .. } => {}
            }
        });
        let keys = keys.clone();
        self.leases.subscribe(move |change| {
            let lease = change.object();
            if lease.metadata.namespace.as_deref() == Some(LEASES) {
                keys.add(ObjectKey::new("", lease.metadata.name.as_deref().unwrap_or_default()));
            }
        });
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(self.sync(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn node(ready: Option<&str>, spec: Value) -> Node {
        let conditions: Vec<Value> = ready.into_iter().map(|status| json!({"type": "Ready", "status": status})).collect();
        serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": spec, "status": {"conditions": conditions}})).unwrap()
    }

    fn now() -> Timestamp {
        Timestamp::from_second(0).unwrap()
    }

    #[test]
    fn taints_follow_conditions() {
        let shown = |node: &Node, evict| {
            taints(node, evict, now()).map(|taints| {
                taints
                    .into_iter()
                    .map(|taint| format!("{}:{}", taint.key.trim_start_matches("node.kubernetes.io/"), taint.effect))
                    .collect::<Vec<_>>()
            })
        };
        let mine = json!({"key": "mine", "effect": "NoSchedule"});
        let old = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
        let cases: Vec<(Node, bool, Option<Vec<&str>>)> = vec![
            (node(Some("True"), json!({})), true, None),
            (node(Some("True"), json!({"taints": [mine, old]})), true, Some(vec!["mine:NoSchedule"])),
            (node(Some("False"), json!({})), true, Some(vec!["not-ready:NoSchedule", "not-ready:NoExecute"])),
            (node(Some("False"), json!({})), false, Some(vec!["not-ready:NoSchedule"])),
            (node(Some("Unknown"), json!({"taints": [old]})), true, Some(vec!["unreachable:NoSchedule", "unreachable:NoExecute"])),
            (node(Some("True"), json!({"unschedulable": true})), true, Some(vec!["unschedulable:NoSchedule"])),
        ];
        for (node, evict, expected) in cases {
            assert_eq!(shown(&node, evict), expected.map(|taints| taints.into_iter().map(str::to_owned).collect()), "{:?}", node.spec);
        }
    }

    #[test]
    fn silence_is_told_once() {
        let conditions = silent(&node(Some("True"), json!({})), now()).unwrap();
        let ready = &conditions[0];
        assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("Unknown", Some("NodeStatusUnknown")));
        assert_eq!(ready.message.as_deref(), Some("Kubelet stopped posting node status."));
        assert_eq!(conditions[1].reason.as_deref(), Some("NodeStatusNeverUpdated"));
        let mut told = node(None, json!({}));
        told.status.get_or_insert_default().conditions = Some(conditions);
        assert_eq!(silent(&told, now()), None);
    }
}
