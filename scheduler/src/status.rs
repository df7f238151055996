//! What the scheduler writes into pods' statuses, as patches. Pure.

use crate::cycle::Outcome;
use crate::pod_info::PodInfo;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

/// How long an event's note may be (upstream: `NoteLengthLimit`).
const NOTE: usize = 1024;
const CUT: &str = " ...";

/// A message, cut off where an event's note ends.
pub fn shortened(message: &str) -> String {
    if message.len() <= NOTE {
        return message.to_owned();
    }
    let end = (0..=NOTE - CUT.len()).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
    format!("{}{CUT}", &message[..end])
}

/// Says why the pod is not scheduled, and where room is made for it; none if the status says so already.
pub fn unscheduled(pod: &PodInfo, reason: &str, message: &str, outcome: &Outcome, now: Timestamp) -> Option<Value> {
    let old = pod.status().conditions.iter().flatten().find(|condition| condition.type_ == "PodScheduled");
    let same = old.is_some_and(|old| {
        old.status == "False"
            && old.reason.as_deref() == Some(reason)
            && old.message.as_deref() == Some(message)
            && old.observed_generation == pod.pod.metadata.generation
    });
    let nominated = pod.status().nominated_node_name.as_deref().unwrap_or_default();
    let nomination = match outcome {
        Outcome::Nominated(candidate) if candidate.node != nominated => Some(json!(candidate.node)),
        Outcome::Hopeless if !nominated.is_empty() => Some(Value::Null),
        _ => None,
    };
    if same && nomination.is_none() {
        return None;
    }
    let unchanged = old.filter(|old| old.status == "False").and_then(|old| old.last_transition_time.clone());
    let condition = json!({
        "type": "PodScheduled", "status": "False", "reason": reason, "message": message, "lastProbeTime": null,
        "lastTransitionTime": unchanged.unwrap_or(Time(now)), "observedGeneration": pod.pod.metadata.generation,
    });
    let mut status = json!({ "conditions": [condition] });
    if let Some(node) = nomination {
        status["nominatedNodeName"] = node;
    }
    Some(json!({"metadata": {"uid": pod.uid()}, "status": status}))
}

/// Says where the pod will go; none if the status says so already.
pub fn nominated(pod: &PodInfo, node: &str) -> Option<Value> {
    let said = pod.status().nominated_node_name.as_deref() == Some(node);
    (!said).then(|| json!({"metadata": {"uid": pod.uid()}, "status": {"nominatedNodeName": node}}))
}

/// Takes back that room was promised to the pod.
pub fn without_nomination(pod: &PodInfo) -> Value {
    json!({"metadata": {"uid": pod.uid()}, "status": {"nominatedNodeName": null}})
}

/// Says that the pod is deleted to make room for another.
pub fn preempted(victim: &PodInfo, preemptor: &PodInfo, now: Timestamp) -> Value {
    let scheduler = preemptor.spec().scheduler_name.as_deref().unwrap_or_default();
    let condition = PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some("PreemptionByScheduler".to_owned()),
        message: Some(format!("{scheduler}: preempting to accommodate a higher priority pod")),
        last_transition_time: Some(Time(now)),
        observed_generation: victim.pod.metadata.generation,
        ..PodCondition::default()
    };
    json!({"metadata": {"uid": victim.uid()}, "status": {"conditions": [condition]}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::pod;
    use crate::preemption::Candidate;
    use std::sync::Arc;

    #[test]
    fn the_status_is_written_only_when_it_says_something_new() {
        let now = Timestamp::from_second(0).unwrap();
        let later = Timestamp::from_second(9).unwrap();
        let to = |node: &str| Outcome::Nominated(Candidate { node: node.to_owned(), victims: Vec::new(), violations: 0 });
        let told = |pod: &PodInfo, patch: &Value| {
            let mut told = (*pod.pod).clone();
            told.status = Some(serde_json::from_value(patch["status"].clone()).unwrap());
            PodInfo::new(Arc::new(told))
        };
        let fresh = pod("a", json!({}));
        let patch = unscheduled(&fresh, "Unschedulable", "m", &Outcome::Unchanged, now).unwrap();
        assert_eq!(patch["status"]["conditions"][0]["message"], "m");
        assert_eq!(patch["status"].get("nominatedNodeName"), None);

        assert_eq!(nominated(&fresh, "n1").unwrap()["status"]["nominatedNodeName"], "n1");
        assert_eq!(nominated(&told(&fresh, &json!({"status": {"nominatedNodeName": "n1"}})), "n1"), None);

        let first = told(&fresh, &patch);
        assert_eq!(unscheduled(&first, "Unschedulable", "m", &Outcome::Hopeless, later), None);
        let other = unscheduled(&first, "Unschedulable", "other", &to("n1"), later).unwrap();
        assert_eq!(other["status"]["nominatedNodeName"], "n1");
        assert_eq!(other["status"]["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:00Z", "still not scheduled since then");

        let second = told(&first, &other);
        assert_eq!(unscheduled(&second, "Unschedulable", "other", &to("n1"), later), None);
        let cleared = unscheduled(&second, "Unschedulable", "other", &Outcome::Hopeless, later).unwrap();
        assert_eq!(cleared["status"]["nominatedNodeName"], Value::Null);
    }

    #[test]
    fn long_messages_are_cut_between_letters() {
        assert_eq!(shortened("short"), "short");
        let cut = shortened(&"ä".repeat(600));
        assert!(cut.len() <= NOTE && cut.ends_with("ä ..."));
    }
}
