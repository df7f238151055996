//! The next steps of a DaemonSet: a pod for every node that lacks one, none where there should be none, and when all are in place the way to the next
//! version (upstream: `daemon_controller.go`, `update.go`).

use super::placement::{is_updated, new_pod, pod_spec, target, wanted};
use crate::amounts::scaled;
use crate::children::Changes;
use crate::ops::Op;
use crate::pods::{self, Availability};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How many pods are created and how many deleted in one go (upstream: `BurstReplicas`).
const BURST: usize = 250;

/// What is looked at.
#[derive(Clone, Copy)]
pub struct Look<'a> {
    /// The set.
    pub set: &'a DaemonSet,
    /// All nodes.
    pub nodes: &'a [Arc<Node>],
    /// Its pods.
    pub pods: &'a [Arc<Pod>],
    /// What pods of the present version have for a hash; new ones get the first.
    pub hashes: &'a [String],
    /// How long a node on which pods fail has to wait.
    pub held_back: &'a (dyn Fn(&str) -> Option<Duration> + Sync),
    /// The time.
    pub now: Timestamp,
}

/// What to do.
#[derive(Debug, Default)]
pub struct Plan {
    /// Pods to create and to delete.
    pub changes: Changes,
    /// Nodes on which a pod failed: the next failure waits longer.
    pub failed_on: Vec<String>,
    /// What to tell, and when to look again.
    pub ops: Vec<Op>,
}

type ByNode<'a> = BTreeMap<&'a str, Vec<&'a Arc<Pod>>>;
/// The new pod of a node, and its old one.
type Versions<'a> = (Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>);

/// The pods by the nodes that they are meant for, the oldest of a node first. Those that have ended and are being deleted are others' business.
fn by_node<'a>(look: &Look<'a>) -> ByNode<'a> {
    let mut all = ByNode::new();
    for pod in look.pods.iter().filter(|pod| !(pods::is_finished(pod) && pods::is_terminating(pod))) {
        all.entry(target(pod).unwrap_or_default()).or_default().push(pod);
    }
    for pods in all.values_mut() {
        pods.sort_by_key(|pod| {
            let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (pods::node_name(pod).is_none(), created, pod.metadata.name.clone())
        });
    }
    all
}

fn name(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}

fn is_available(look: &Look<'_>, pod: &Pod) -> bool {
    let min_ready = look.set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    pods::availability(pod, min_ready, look.now) == Availability::Available
}

/// How many pods may be unavailable and how many there may be besides during an update.
fn allowances(look: &Look<'_>) -> (usize, usize) {
    let spec = pod_spec(look.set);
    let desired = i32::try_from(look.nodes.iter().filter(|node| wanted(&spec, node).run).count()).unwrap_or(i32::MAX);
    let strategy = look.set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let unavailable = scaled(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), desired, true);
    let surge = scaled(rolling.and_then(|rolling| rolling.max_surge.as_ref()), desired, true);
    // With neither, nothing could ever move.
    let unavailable = if desired > 0 && unavailable == 0 && surge == 0 { 1 } else { unavailable };
    (usize::try_from(unavailable).unwrap_or(0), usize::try_from(surge).unwrap_or(0))
}

/// Decides.
pub fn plan(look: &Look<'_>) -> Plan {
    let by_node = by_node(look);
    let surge = allowances(look).1 > 0;
    let mut plan = Plan::default();
    let mut nodes_to_fill: Vec<&str> = Vec::new();
    let mut delete: Vec<&Arc<Pod>> = Vec::new();
    let spec = pod_spec(look.set);
    for node in look.nodes {
        let wanted = wanted(&spec, node);
        match by_node.get(name(node)) {
            None if wanted.run => nodes_to_fill.push(name(node)),
            Some(pods) if wanted.stay => {
                let running = weed(look, name(node), pods, &mut delete, &mut plan);
                if !surge {
                    delete.extend(running.iter().skip(1));
                } else if running.len() > 1 {
                    delete.extend(superseded(look, &running));
                } else if running.is_empty() && wanted.run {
                    nodes_to_fill.push(name(node));
                }
            }
            Some(pods) => delete.extend(pods.iter().filter(|pod| !pods::is_terminating(pod))),
            None => {}
        }
    }
    let nodes: BTreeSet<&str> = look.nodes.iter().map(|node| name(node)).collect();
    let homeless = by_node.iter().filter(|(node, _)| !nodes.contains(*node)).flat_map(|(_, pods)| pods);
    delete.extend(homeless.filter(|pod| pods::node_name(pod).is_none() && !pods::is_terminating(pod)));
    if nodes_to_fill.is_empty() && delete.is_empty() && is_rolling(look.set) {
        (nodes_to_fill, delete) = roll(look, &by_node);
    }
    let hash = look.hashes.first().map(String::as_str).unwrap_or_default();
    plan.changes.create = nodes_to_fill.into_iter().take(BURST).map(|node| new_pod(look.set, hash, node)).collect();
    plan.changes.delete = delete.into_iter().take(BURST).cloned().collect();
    plan
}

fn is_rolling(set: &DaemonSet) -> bool {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete")
}

/// Marks the pods of a node that have ended for deletion. Returns those that run.
fn weed<'a>(look: &Look<'_>, node: &str, pods: &[&'a Arc<Pod>], delete: &mut Vec<&'a Arc<Pod>>, plan: &mut Plan) -> Vec<&'a Arc<Pod>> {
    let mut running = Vec::new();
    for pod in pods.iter().filter(|pod| !pods::is_terminating(pod)) {
        let full_name = client::ObjectKey::of(pod.as_ref());
        match pods::phase(pod) {
            // A kubelet that refuses the pod would refuse the next one as well, and at once.
            "Failed" => match (look.held_back)(node) {
                Some(left) => plan.ops.push(Op::After(left)),
                None => {
                    plan.failed_on.push(node.to_owned());
                    let message = format!("Found failed daemon pod {full_name} on node {node}, will try to kill it");
                    plan.ops.push(Op::warning(look.set, "FailedDaemonPod", message));
                    delete.push(pod);
                }
            },
            "Succeeded" => {
                let message = format!("Found succeeded daemon pod {full_name} on node {node}, will try to delete it");
                plan.ops.push(Op::normal(look.set, "SucceededDaemonPod", message));
                delete.push(pod);
            }
            _ => running.push(*pod),
        }
    }
    running
}

/// Of several pods on one node during an update with surge: all but the oldest of each version, and the old one once it is not needed any more.
fn superseded<'a>(look: &Look<'_>, running: &[&'a Arc<Pod>]) -> Vec<&'a Arc<Pod>> {
    let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = running.iter().copied().partition(|pod| is_updated(look.set, pod, look.hashes));
    let mut gone: Vec<&Arc<Pod>> = new.iter().skip(1).chain(old.iter().skip(1)).copied().collect();
    if let (Some(new), Some(old)) = (new.first(), old.first())
        && (!pods::is_ready(old) || is_available(look, new))
    {
        gone.push(old);
    }
    gone
}

/// The pods of a node that are not being deleted: `None` if there are several of one version.
fn versions<'a>(look: &Look<'_>, pods: &[&'a Arc<Pod>]) -> Option<Versions<'a>> {
    let (mut new, mut old) = (None, None);
    for pod in pods.iter().filter(|pod| !pods::is_terminating(pod)) {
        let slot = if is_updated(look.set, pod, look.hashes) { &mut new } else { &mut old };
        if slot.replace(*pod).is_some() {
            return None;
        }
    }
    Some((new, old))
}

/// The update: nodes that get a second pod, and old pods that go.
fn roll<'a>(look: &Look<'_>, by_node: &ByNode<'a>) -> (Vec<&'a str>, Vec<&'a Arc<Pod>>) {
    let (unavailable, surge) = allowances(look);
    if surge == 0 { (Vec::new(), replaced(look, by_node, unavailable)) } else { surged(look, by_node, surge) }
}

fn replaced<'a>(look: &Look<'_>, by_node: &ByNode<'a>, allowed: usize) -> Vec<&'a Arc<Pod>> {
    let (mut gone, mut candidates, mut unavailable) = (Vec::new(), Vec::new(), 0);
    for pods in by_node.values() {
        match versions(look, pods) {
            Some((Some(new), None)) => unavailable += usize::from(!is_available(look, new)),
            // It serves nobody, so it may go at once. Its node counts all the same: upstream's does not, and takes the last that serves away with it.
            Some((None, Some(old))) if !is_available(look, old) => {
                gone.push(old);
                unavailable += 1;
            }
            Some((None, Some(old))) => candidates.push(old),
            // Whoever fills and weeds out nodes is at it.
            _ => unavailable += 1,
        }
    }
    gone.extend(candidates.into_iter().take(allowed.saturating_sub(unavailable)));
    gone
}

fn surged<'a>(look: &Look<'_>, by_node: &ByNode<'a>, allowed: usize) -> (Vec<&'a str>, Vec<&'a Arc<Pod>>) {
    let (mut filled, mut candidates, mut gone, mut surging) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for (node, pods) in by_node {
        match versions(look, pods) {
            Some((_, None)) => {}
            Some((None, Some(old))) if !is_available(look, old) => filled.push(*node),
            Some((None, Some(_))) => candidates.push(*node),
            Some((Some(new), Some(old))) if is_available(look, new) => gone.push(old),
            _ => surging += 1,
        }
    }
    filled.extend(candidates.into_iter().take(allowed.saturating_sub(surging)));
    (filled, gone)
}

/// The status, and when a pod that is ready will be available. The generation counts as observed once its pods have been seen to.
pub fn status(look: &Look<'_>, observed: bool) -> (DaemonSetStatus, Option<Duration>) {
    let by_node = by_node(look);
    let spec = pod_spec(look.set);
    let old = look.set.status.clone().unwrap_or_default();
    let (mut available, mut updated, mut soon) = (0, 0, None);
    let mut status = DaemonSetStatus {
        observed_generation: if observed { look.set.metadata.generation } else { old.observed_generation },
        collision_count: old.collision_count,
        conditions: old.conditions,
        ..DaemonSetStatus::default()
    };
    for node in look.nodes {
        let there = by_node.get(name(node)).and_then(|pods| pods.first());
        if !wanted(&spec, node).run {
            status.number_misscheduled += i32::from(there.is_some());
            continue;
        }
        status.desired_number_scheduled += 1;
        let Some(pod) = there else { continue };
        status.current_number_scheduled += 1;
        updated += i32::from(is_updated(look.set, pod, look.hashes));
        let min_ready = look.set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        match pods::availability(pod, min_ready, look.now) {
            Availability::NotReady => continue,
            Availability::Available => available += 1,
            Availability::In(left) => {
                let left = Duration::try_from(left).unwrap_or_default();
                soon = Some(soon.map_or(left, |earlier: Duration| earlier.min(left)));
            }
        }
        status.number_ready += 1;
    }
    let some = |count: i32| (count != 0).then_some(count);
    status.updated_number_scheduled = some(updated);
    status.number_available = some(available);
    status.number_unavailable = some(status.desired_number_scheduled - available);
    (status, soon)
}

/// Whether the set's status says this already.
pub fn is_told(set: &DaemonSet, status: &DaemonSetStatus) -> bool {
    let plain = |status: &DaemonSetStatus| {
        let some = |count: Option<i32>| count.filter(|count| *count != 0);
        DaemonSetStatus {
            updated_number_scheduled: some(status.updated_number_scheduled),
            number_available: some(status.number_available),
            number_unavailable: some(status.number_unavailable),
            ..status.clone()
        }
    };
    set.status.as_ref().is_some_and(|old| plain(old) == plain(status))
}
