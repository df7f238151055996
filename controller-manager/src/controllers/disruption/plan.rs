//! How many of a budget's pods may be disrupted (upstream: `trySync` and what it calls).

use crate::amounts::scaled;
use crate::controller::controller_of;
use crate::ops::Op;
use crate::pods;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How long after an eviction the pod's deletion is expected to show (upstream: `DeletionTimeout`).
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_secs(120);
/// How long a pod may be marked as to be disrupted without being deleted (upstream: `stalePodDisruptionTimeout`).
const STALE_AFTER: SignedDuration = SignedDuration::from_secs(120);
const ALLOWED: &str = "DisruptionAllowed";

/// The scale of what controls a pod: its UID, so that each is counted once, and its replicas.
pub type ScaleOf<'a> = &'a dyn Fn(&OwnerReference) -> Result<Option<(String, i32)>, String>;

/// What a budget promises.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// How many pods there should be.
    pub pods: i32,
    /// How many of them healthy.
    pub healthy: i32,
    /// Pods that nobody controls and that therefore do not count.
    pub unmanaged: Vec<String>,
}

/// Whether a budget is about a pod.
pub fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| api::validation::labels::matches(selector, pod.metadata.labels.as_ref()))
}

/// Whether what a budget promises depends on how many pods there should be.
pub fn is_relative(budget: &PodDisruptionBudget) -> bool {
    budget.spec.as_ref().is_some_and(|spec| spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_))))
}

/// What a budget promises for these pods. An error says whose scale cannot be had.
pub fn expected(budget: &PodDisruptionBudget, pods: &[Arc<Pod>], scale_of: ScaleOf<'_>) -> Result<Expected, String> {
    let spec = budget.spec.clone().unwrap_or_default();
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => {
            let (pods, unmanaged) = scale(pods, scale_of)?;
            Ok(Expected { pods, healthy: (pods - scaled(Some(most), pods, true)).max(0), unmanaged })
        }
        (None, Some(IntOrString::Int(least))) => {
            Ok(Expected { pods: i32::try_from(pods.len()).unwrap_or(i32::MAX), healthy: *least, unmanaged: Vec::new() })
        }
        (None, Some(least)) => {
            let (pods, unmanaged) = scale(pods, scale_of)?;
            Ok(Expected { pods, healthy: scaled(Some(least), pods, true), unmanaged })
        }
        (None, None) => Ok(Expected::default()),
    }
}

fn scale(pods: &[Arc<Pod>], scale_of: ScaleOf<'_>) -> Result<(i32, Vec<String>), String> {
    let (mut scales, mut unmanaged) = (BTreeMap::new(), Vec::new());
    for pod in pods {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let Some(owner) = controller_of(pod.as_ref()) else {
            unmanaged.push(name);
            continue;
        };
        let (uid, replicas) = scale_of(owner)?.ok_or_else(|| format!("found no controllers for pod \"{name}\""))?;
        scales.insert(uid, replicas);
    }
    Ok((scales.values().sum(), unmanaged))
}

/// A budget's status, what to tell about pods, and when to look again.
pub fn status(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    expected: &Expected,
    now: Timestamp,
) -> (PodDisruptionBudgetStatus, Vec<Op>) {
    let old = budget.status.clone().unwrap_or_default();
    let (mut disrupted, mut ops) = (BTreeMap::new(), Vec::new());
    for pod in pods.iter().filter(|pod| !pods::is_terminating(pod)) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let Some(at) = old.disrupted_pods.as_ref().and_then(|pods| pods.get(&name)) else { continue };
        let left = at.0 + DELETION_TIMEOUT - now;
        match SignedDuration::try_from(left).ok().filter(|left| !left.is_negative()) {
            Some(left) => {
                ops.push(Op::After(left.unsigned_abs() + std::time::Duration::from_millis(1)));
                disrupted.insert(name, at.clone());
            }
            None => {
                let meta = &budget.metadata;
                let (namespace, of) = (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
                let message = format!("Pod was expected by PDB {namespace}/{of} to be deleted but it wasn't");
                ops.push(Op::warning(pod.as_ref(), "NotDeleted", message));
            }
        }
    }
    let is_disrupted = |pod: &Pod| pod.metadata.name.as_ref().is_some_and(|name| disrupted.contains_key(name));
    let healthy = pods.iter().filter(|pod| !pods::is_terminating(pod) && !is_disrupted(pod) && pods::is_ready(pod)).count();
    let healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
    // A budget that has no pods yet allows nothing, so that the first ones are not evicted before they are counted.
    let allowed = if expected.pods <= 0 { 0 } else { (healthy - expected.healthy).max(0) };
    let (value, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let status = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(expected.healthy),
        expected_pods: Some(expected.pods),
        disruptions_allowed: Some(allowed),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        observed_generation: budget.metadata.generation,
        conditions: Some(with_allowed(old.conditions, budget.metadata.generation, value, reason, "", now)),
    };
    (status, ops)
}

/// The status of a budget that cannot be worked out: nothing may be disrupted, and why. It is still what was seen before, so no other generation counts as seen.
pub fn failed(budget: &PodDisruptionBudget, why: &str, now: Timestamp) -> PodDisruptionBudgetStatus {
    let old = budget.status.clone().unwrap_or_default();
    let conditions = with_allowed(old.conditions.clone(), old.observed_generation, "False", "SyncFailed", why, now);
    PodDisruptionBudgetStatus { disruptions_allowed: Some(0), conditions: Some(conditions), ..old }
}

fn with_allowed(
    conditions: Option<Vec<Condition>>,
    generation: Option<i64>,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> Vec<Condition> {
    let mut conditions = conditions.unwrap_or_default();
    let old = conditions.iter().position(|condition| condition.type_ == ALLOWED);
    let since = old.map(|at| &conditions[at]).filter(|old| old.status == status).map_or(Time(now), |old| old.last_transition_time.clone());
    let new = Condition {
        type_: ALLOWED.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: since,
        observed_generation: generation,
    };
    match old {
        Some(at) => conditions[at] = new,
        None => conditions.push(new),
    }
    conditions
}

/// If a pod is marked as to be disrupted and is not being deleted: how long until that mark is stale.
pub fn stale_in(pod: &Pod, now: Timestamp) -> Option<SignedDuration> {
    let mark = pods::condition(pod, "DisruptionTarget").filter(|mark| mark.status == "True")?;
    // The kubelet's own marks last for as long as it takes.
    if pods::is_terminating(pod) || pods::is_finished(pod) || mark.reason.as_deref() == Some("TerminationByKubelet") {
        return None;
    }
    let since = mark.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    Some((STALE_AFTER - now.duration_since(since)).max(SignedDuration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trim::held;
    use serde_json::{Value, json};

    fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
        serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "b", "generation": 2}, "spec": spec, "status": status}))
            .unwrap()
    }

    /// `a` is ready, `a-` is not, `ax` is being deleted; those in capitals have no controller.
    fn pods(text: &str) -> Vec<Arc<Pod>> {
        let one = |text: &str| {
            let (name, marks) = text.split_at(1);
            let ready = if marks.contains('-') { "False" } else { "True" };
            let mut pod = json!({
                "metadata": {"namespace": "ns", "name": name, "labels": {"app": "web"}},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}});
            if marks.contains('x') {
                pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            if name != name.to_uppercase() {
                pod["metadata"]["ownerReferences"] =
                    json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "rs", "controller": true}]);
            }
            Arc::new(held(pod))
        };
        text.split_whitespace().map(one).collect()
    }

    fn now() -> Timestamp {
        "2026-01-01T00:10:00Z".parse().unwrap()
    }

    #[test]
    fn what_may_be_disrupted() {
        // (spec, pods, scale, expected, desired healthy, healthy, allowed)
        let cases = [
            (json!({"minAvailable": 2}), "a b c", 3, (3, 2, 3, 1)),
            (json!({"minAvailable": 2}), "a b- c", 3, (3, 2, 2, 0)),
            (json!({"minAvailable": 2}), "a b cx", 3, (3, 2, 2, 0)),
            (json!({"minAvailable": 0}), "", 0, (0, 0, 0, 0)),
            (json!({"minAvailable": "50%"}), "a b c", 3, (3, 2, 3, 1)),
            (json!({"maxUnavailable": 1}), "a b", 3, (3, 2, 2, 0)),
            (json!({"maxUnavailable": "30%"}), "a b c d", 4, (4, 2, 4, 2)),
            (json!({"maxUnavailable": 9}), "a b", 2, (2, 0, 2, 2)),
            (json!({"maxUnavailable": 1}), "A B", 0, (0, 0, 2, 0)),
            (json!({}), "a", 1, (0, 0, 1, 0)),
        ];
        for (spec, text, replicas, wanted) in cases {
            let (budget, pods) = (budget(spec.clone(), json!(null)), pods(text));
            let expected = expected(&budget, &pods, &|_| Ok(Some(("rs".to_owned(), replicas)))).unwrap();
            let (status, _) = status(&budget, &pods, &expected, now());
            let shown = [status.expected_pods, status.desired_healthy, status.current_healthy, status.disruptions_allowed];
            let wanted = [wanted.0, wanted.1, wanted.2, wanted.3].map(Some);
            assert_eq!(shown, wanted, "{spec} of {text:?}");
            let condition = &status.conditions.unwrap()[0];
            let told = if wanted[3] > Some(0) { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
            assert_eq!((condition.status.as_str(), condition.reason.as_str(), condition.observed_generation), (told.0, told.1, Some(2)));
        }
    }

    #[test]
    fn whose_scale_is_not_known() {
        let budget = budget(json!({"maxUnavailable": 1}), json!(null));
        for (spec, asks) in
            [(json!({"maxUnavailable": 1}), true), (json!({"minAvailable": "50%"}), true), (json!({"minAvailable": 1}), false)]
        {
            assert_eq!(is_relative(&self::budget(spec.clone(), json!(null))), asks, "{spec}");
        }
        assert_eq!(expected(&budget, &pods("a"), &|_| Ok(None)).unwrap_err(), "found no controllers for pod \"a\"");
        assert_eq!(expected(&budget, &pods("A B"), &|_| Ok(None)).unwrap().unmanaged, ["A", "B"]);
        let seen =
            self::budget(json!({"maxUnavailable": 1}), json!({"observedGeneration": 1, "disruptionsAllowed": 3, "currentHealthy": 4}));
        for (budget, generation) in [(&budget, None), (&seen, Some(1))] {
            let status = failed(budget, "no", now());
            assert_eq!((status.disruptions_allowed, status.observed_generation), (Some(0), generation));
            let told = &status.conditions.unwrap()[0];
            assert_eq!((told.status.as_str(), told.reason.as_str(), told.message.as_str()), ("False", "SyncFailed", "no"));
            assert_eq!(told.observed_generation, generation, "this one has not been seen");
        }
    }

    #[test]
    fn an_eviction_that_does_not_show_yet_counts_for_two_minutes() {
        let evicted = json!({"currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2, "disruptionsAllowed": 0, "disruptedPods": {"a": "2026-01-01T00:09:00Z", "b": "2026-01-01T00:01:00Z", "gone": "2026-01-01T00:09:00Z"}});
        let budget = budget(json!({"minAvailable": 1}), evicted);
        let pods = pods("a b");
        let expected = expected(&budget, &pods, &|_| Ok(None)).unwrap();
        let (status, ops) = status(&budget, &pods, &expected, now());
        assert_eq!(status.disrupted_pods.unwrap().into_keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!((status.current_healthy, status.disruptions_allowed), (Some(1), Some(0)));
        assert!(format!("{ops:?}").contains("Pod was expected by PDB ns/b to be deleted but it wasn't"), "{ops:?}");
        assert!(ops.contains(&Op::After(std::time::Duration::from_millis(60_001))));
    }

    #[test]
    fn marks_grow_stale() {
        let cases = [
            (json!({}), Some(60)),
            (json!({"reason": "TerminationByKubelet"}), None),
            (json!({"status": "False"}), None),
            (json!({"lastTransitionTime": "2026-01-01T00:00:00Z"}), Some(0)),
        ];
        for (more, expected) in cases {
            let mut mark = json!({"type": "DisruptionTarget", "status": "True", "lastTransitionTime": "2026-01-01T00:09:00Z"});
            mark.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let pod: Pod = serde_json::from_value(json!({"metadata": {}, "status": {"conditions": [mark]}})).unwrap();
            assert_eq!(stale_in(&pod, now()).map(|left| left.as_secs()), expected, "{more}");
        }
    }
}
