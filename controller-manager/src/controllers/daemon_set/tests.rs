//! What a set does next, case by case.

use super::plan::{Look, Plan, plan, status};
use crate::trim::held;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

fn set(strategy: Value) -> DaemonSet {
    let template = json!({"metadata": {"labels": {"app": "d"}}, "spec": {"containers": []}});
    let spec = json!({"selector": {"matchLabels": {"app": "d"}}, "template": template, "updateStrategy": strategy});
    serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "d", "uid": "ds", "generation": 4}, "spec": spec})).unwrap()
}

fn rolling(unavailable: Value, surge: Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}})
}

/// `a` is a node, `a!` one that pods may stay on but not come to, `a#` one that they may not even stay on.
fn node(text: &str) -> Arc<Node> {
    let taints = match text.get(1..) {
        Some("!") => json!([{"key": "k", "effect": "NoSchedule"}]),
        Some("#") => json!([{"key": "k", "effect": "NoExecute"}]),
        _ => json!([]),
    };
    Arc::new(serde_json::from_value(json!({"metadata": {"name": &text[..1]}, "spec": {"taints": taints}})).unwrap())
}

/// `a1` is a pod on node a that serves, of the new version; `a1o` of the old one, `a1-` does not serve, `a1x` is being deleted, `a1f` has failed,
/// `a1s` has succeeded, `a1u` is not bound yet. Those with higher digits are younger.
fn pod(text: &str) -> Arc<Pod> {
    let (node, age, marks) = (&text[..1], &text[1..2], &text[2..]);
    let phase = if marks.contains('f') {
        "Failed"
    } else if marks.contains('s') {
        "Succeeded"
    } else {
        "Running"
    };
    let ready = if marks.contains('-') { "False" } else { "True" };
    let term = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]});
    let mut pod = json!({
        "metadata": {
            "namespace": "ns", "name": text, "uid": text, "creationTimestamp": format!("2026-01-01T00:00:0{age}Z"),
            "labels": {"controller-revision-hash": if marks.contains('o') { "old" } else { "new" }}},
        "spec": {"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:10Z"}]},
    });
    if marks.contains('x') {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:20Z");
    }
    if !marks.contains('u') {
        pod["spec"]["nodeName"] = json!(node);
    }
    Arc::new(held(pod))
}

fn with<T>(set: &DaemonSet, nodes: &str, pods: &str, held_back: Option<Duration>, then: impl FnOnce(&Look<'_>) -> T) -> T {
    let nodes: Vec<_> = nodes.split_whitespace().map(node).collect();
    let pods: Vec<_> = pods.split_whitespace().map(pod).collect();
    let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
    then(&Look { set, nodes: &nodes, pods: &pods, hashes: &["new".to_owned()], held_back: &|_| held_back, now })
}

/// `+a` for a pod that is created for node a, `-a1` for one that is deleted.
fn shown(plan: &Plan) -> String {
    let created = plan.changes.create.iter().map(|pod| format!("+{}", super::placement::target(pod).unwrap()));
    let deleted = plan.changes.delete.iter().map(|pod| format!("-{}", pod.metadata.name.as_deref().unwrap()));
    created.chain(deleted).collect::<Vec<_>>().join(" ")
}

fn check(strategy: Value, cases: &[(&str, &str, &str)]) {
    let set = set(strategy.clone());
    for (nodes, pods, expected) in cases {
        assert_eq!(with(&set, nodes, pods, None, |look| shown(&plan(look))), *expected, "{pods:?} on {nodes:?}, {strategy}");
    }
}

#[test]
fn one_on_every_node_that_wants_one() {
    check(
        json!({"type": "OnDelete"}),
        &[
            ("a b c", "a1", "+b +c"),
            ("a b! c#", "", "+a"),
            ("a! b#", "a1 b1", "-b1"),
            ("a! b#", "a1x b1x", ""),
            ("a", "a1x", ""),
            ("a", "a1 a2 a3", "-a2 -a3"),
            ("a", "a1u a2", "-a1u"),
            ("a", "a1s", "-a1s"),
            ("a", "a1fx", "+a"),
            ("a", "a1 b1u c1", "-b1u"),
            ("a b", "a1o b1o", ""),
        ],
    );
}

#[test]
fn a_failed_pod_is_replaced_but_not_in_a_hurry() {
    let set = set(json!({"type": "OnDelete"}));
    let at_once = with(&set, "a", "a1f", None, plan);
    assert_eq!((shown(&at_once).as_str(), at_once.failed_on.as_slice()), ("-a1f", ["a".to_owned()].as_slice()));
    assert!(format!("{:?}", at_once.ops).contains("Found failed daemon pod ns/a1f on node a, will try to kill it"));
    let held_back = with(&set, "a", "a1f", Some(Duration::from_secs(4)), plan);
    assert_eq!((shown(&held_back).as_str(), held_back.ops), ("", vec![crate::ops::Op::After(Duration::from_secs(4))]));
}

#[test]
fn replacing_as_many_as_may_be_unavailable() {
    check(
        rolling(json!(1), json!(0)),
        &[
            ("a b c", "a1o b1o c1o", "-a1o"),
            ("a b c", "a1ox b1o c1o", ""),
            ("a b c", "a2- b1o c1o", ""),
            ("a b c", "a2 b1o c1o", "-b1o"),
            ("a b c", "a1o b1o- c1o", "-b1o-"),
            ("a b c", "a1o- b1o- c1o-", "-a1o- -b1o- -c1o-"),
            ("a b c", "a2 b2 c2", ""),
            ("a b c", "b1o c1o", "+a"),
        ],
    );
    check(rolling(json!("50%"), json!(0)), &[("a b c", "a1o b1o c1o", "-a1o -b1o")]);
    check(rolling(json!(0), json!(0)), &[("a b c", "a1o b1o c1o", "-a1o")]);
}

#[test]
fn surging_before_the_old_ones_go() {
    check(
        rolling(json!(0), json!(1)),
        &[
            ("a b", "a1o b1o", "+a"),
            ("a b", "a1o a2- b1o", ""),
            ("a b", "a1o a2 b1o", "-a1o"),
            ("a b", "a1o- a2- b1o", "-a1o-"),
            ("a b", "a2 b1o", "+b"),
            ("a b", "a2 b2", ""),
            ("a b", "a1o b1o-", "+b +a"),
            ("a b", "a1x b2", "+a"),
            ("a b", "a2 a3 b2", "-a3"),
        ],
    );
}

#[test]
fn the_status_counts_nodes() {
    let of = set(rolling(json!(1), json!(0)));
    let (counted, soon) = with(&of, "a b c d! e", "a1 b1o- c1o d1", None, |look| status(look, true));
    let shown = serde_json::to_value(&counted).unwrap();
    let expected = json!({
        "currentNumberScheduled": 3, "desiredNumberScheduled": 4, "numberAvailable": 2, "numberMisscheduled": 1, "numberReady": 2,
        "numberUnavailable": 2, "observedGeneration": 4, "updatedNumberScheduled": 1,
    });
    assert_eq!((shown, soon), (expected, None));
    let mut slow = of.clone();
    slow.spec.as_mut().unwrap().min_ready_seconds = Some(60);
    let (counted, soon) = with(&slow, "a", "a1", None, |look| status(look, false));
    assert_eq!((counted.number_ready, counted.number_available, soon), (1, None, Some(Duration::from_secs(10))));
    assert_eq!(counted.observed_generation, None);
}
