//! What controllers ask of pods: whether one counts, is ready, is available, and which to delete first (upstream: `controller_utils.go`).

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

/// The annotation with which users say which pods to keep.
pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// `status.phase`, `Pending` if there is none.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// The node it is bound to.
pub fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// Whether it has ended.
pub fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether it is being deleted.
pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether it counts as a replica.
pub fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_terminating(pod)
}

/// A condition by its type.
pub fn condition<'a>(pod: &'a Pod, condition_type: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == condition_type)
}

/// Since when it has been ready, if it is.
fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    Some(ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}

/// Whether it is ready.
pub fn is_ready(pod: &Pod) -> bool {
    ready_since(pod).is_some()
}

/// Whether it has been ready for long enough, or in how long it will have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// It has.
    Available,
    /// It will have.
    In(SignedDuration),
    /// It is not even ready.
    NotReady,
}

/// Whether it is ready and has been for `min_ready_seconds`.
pub fn availability(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Availability {
    let Some(since) = ready_since(pod) else { return Availability::NotReady };
    let left = SignedDuration::from_secs(i64::from(min_ready_seconds)) - now.duration_since(since);
    if min_ready_seconds == 0 || !left.is_positive() { Availability::Available } else { Availability::In(left) }
}

/// Sorts pods so that those to delete first come first: not yet on a node, not running, not ready, cheap to delete, crowded together, ready for a
/// short time, restarted often, young. `related` are the pods whose crowding counts: all that the owner's siblings have.
pub fn sort_for_deletion(pods: &mut [Arc<Pod>], related: &[Arc<Pod>], now: Timestamp) {
    let mut on_node: HashMap<&str, i64> = HashMap::new();
    for pod in related.iter().filter(|pod| is_active(pod)) {
        if let Some(node) = node_name(pod) {
            *on_node.entry(node).or_default() += 1;
        }
    }
    pods.sort_by_cached_key(|pod| {
        let progress = match phase(pod) {
            "Pending" => 0,
            "Unknown" => 1,
            _ => 2,
        };
        let cost =
            pod.metadata.annotations.as_ref().and_then(|a| a.get(DELETION_COST)).and_then(|cost| cost.parse::<i32>().ok()).unwrap_or(0);
        let crowd = node_name(pod).and_then(|node| on_node.get(node)).copied().unwrap_or(0);
        // Times count by their order of magnitude, so that pods started one after the other are picked at random, not all from one node.
        let magnitude =
            |since: Timestamp| u64::try_from(now.duration_since(since).as_secs()).unwrap_or(0).checked_ilog2().map_or(0, |log| log + 1);
        let restarts: i32 = pod
            .status
            .iter()
            .flat_map(|status| status.container_statuses.iter().flatten())
            .map(|container| container.restart_count)
            .max()
            .unwrap_or(0);
        let age = pod.metadata.creation_timestamp.as_ref().map_or(0, |time| magnitude(time.0));
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        (
            node_name(pod).is_some(),
            progress,
            is_ready(pod),
            cost,
            Reverse(crowd),
            ready_since(pod).map_or(0, magnitude),
            Reverse(restarts),
            age,
            uid,
        )
    });
}

/// A pod as a template describes it, owned by `owner`.
pub fn from_template(template: Option<&PodTemplateSpec>, namespace: &str, generate_name: String, owner: OwnerReference) -> Pod {
    let template = template.cloned().unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            generate_name: Some(generate_name),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trim::held;
    use serde_json::{Value, json};

    fn pod(name: &str, more: Value) -> Arc<Pod> {
        let mut pod = json!({"metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"containers": [], "nodeName": "n1"}, "status": {"phase": "Running"}});
        for (field, value) in more.as_object().unwrap() {
            for (name, value) in value.as_object().unwrap() {
                pod[field][name] = value.clone();
            }
        }
        Arc::new(held(pod))
    }

    fn ready(at: &str) -> Value {
        json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at}]}})
    }

    #[test]
    fn availability_takes_time() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let pod_ready = pod("a", ready("2026-01-01T00:00:50Z"));
        for (min_ready, expected) in
            [(0, Availability::Available), (10, Availability::Available), (11, Availability::In(SignedDuration::from_secs(1)))]
        {
            assert_eq!(availability(&pod_ready, min_ready, now), expected, "{min_ready}");
        }
        assert_eq!(availability(&pod("a", json!({})), 0, now), Availability::NotReady);
    }

    #[test]
    fn who_goes_first() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let mut long_ready = ready("2026-01-01T00:00:00Z");
        long_ready["spec"] = json!({"nodeName": "n2"});
        let mut crowded = ready("2026-01-01T00:00:00Z");
        crowded["spec"] = json!({"nodeName": "n1"});
        let mut dear = ready("2026-01-01T00:00:00Z");
        dear["metadata"] = json!({"annotations": {"controller.kubernetes.io/pod-deletion-cost": "10"}});
        let mut pods = vec![
            pod("dear", dear),
            pod("long-ready", long_ready.clone()),
            pod("crowded", crowded),
            pod("not-ready", json!({})),
            pod("pending", json!({"status": {"phase": "Pending"}})),
            pod("unassigned", json!({"spec": {"nodeName": ""}, "status": {"phase": "Pending"}})),
        ];
        let related = pods.clone();
        sort_for_deletion(&mut pods, &related, now);
        let names: Vec<_> = pods.iter().map(|pod| pod.metadata.name.as_deref().unwrap()).collect();
        assert_eq!(names, ["unassigned", "pending", "not-ready", "crowded", "long-ready", "dear"]);
    }
}
