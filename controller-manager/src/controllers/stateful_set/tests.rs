//! What a set does next, case by case.

use super::plan::{Act, Look, Plan, plan};
use crate::revisions;
use crate::trim::held;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use std::sync::Arc;

fn set(more: Value) -> StatefulSet {
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "new"}]}});
    let mut spec = json!({
        "replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template, "podManagementPolicy": "OrderedReady",
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "web", "uid": "set", "generation": 2}, "spec": spec})).unwrap()
}

/// `0` is a pod that serves, of the new revision; `0o` of the old one; `0-` does not serve, `0x` is being deleted, `0f` has failed.
fn pod(text: &str) -> Arc<Pod> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (ordinal, marks) = text.split_at(digits);
    let name = format!("web-{ordinal}");
    let revision = if marks.contains('o') { "old" } else { "new" };
    let (ready, phase) = (!marks.contains('-'), if marks.contains('f') { "Failed" } else { "Running" });
    let mut pod = json!({
        "metadata": {"namespace": "ns", "name": name, "uid": text, "labels": {
            "app": "web", "statefulset.kubernetes.io/pod-name": name, "controller-revision-hash": revision}},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
    });
    if marks.contains('x') {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    Arc::new(held(pod))
}

fn recorded(name: &str, set: &StatefulSet) -> ControllerRevision {
    let mut template = set.spec.as_ref().unwrap().template.clone();
    template.spec.as_mut().unwrap().containers[0].image = Some(name.to_owned());
    let mut revision = revisions::new(set, &template, revisions::HASH_LABEL, 1, None);
    revision.metadata.name = Some(name.to_owned());
    revision
}

fn planned(set: &StatefulSet, pods: &str) -> Plan {
    let pods: Vec<_> = pods.split_whitespace().map(pod).collect();
    let (current, update) = (recorded("old", set), recorded("new", set));
    let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
    plan(Look { set, pods: &pods, claims: &|_| None, current: &current, update: &update, collisions: 0, now })
}

/// `+2` for a pod that is created, of the new revision, `+2o` of the old; `-2` for one that is deleted, `~2` for one that is mended.
fn shown(plan: &Plan) -> String {
    let one = |step: &super::plan::Step| {
        let act = match step.act {
            Act::Create => "+",
            Act::Delete => "-",
            Act::Update => "~",
            Act::Claims => "c",
        };
        let image = step.pod.spec.as_ref().and_then(|spec| spec.containers.first()).and_then(|container| container.image.as_deref());
        let old = if image == Some("old") { "o" } else { "" };
        format!("{act}{}{old}", super::identity::ordinal(&step.pod).unwrap())
    };
    plan.steps.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn check(more: Value, cases: &[(&str, &str)]) {
    let set = set(more);
    for (pods, expected) in cases {
        assert_eq!(shown(&planned(&set, pods)), *expected, "{pods:?} of {}", json!(set.spec.as_ref().map(|s| &s.update_strategy)));
    }
}

#[test]
fn in_order() {
    check(
        json!({}),
        &[
            ("", "+0"),
            ("0-", ""),
            ("0", "+1"),
            ("0x 1 2", ""),
            ("0 1 2", ""),
            ("0 2", "+1"),
            ("0f 1 2", "-0"),
            ("0fx 1 2", ""),
            ("0 1 2 3 4", "-4"),
            ("0 1 2 3 4x", ""),
            ("0 1 2 3- 4", "-4"),
            ("0 1 2 3- 4-", ""),
            ("0 1 2 3 4-", "-4"),
            ("0 1- 2 3 4", ""),
        ],
    );
}

#[test]
fn in_parallel() {
    check(json!({"podManagementPolicy": "Parallel"}), &[("", "+0 +1 +2"), ("1-", "+0 +2"), ("0 1 2 3 4- 5x", "-4 -3"), ("0f 1x", "-0 +2")]);
}

#[test]
fn from_another_first_ordinal() {
    check(json!({"ordinals": {"start": 2}}), &[("2 3", "+4"), ("2 3 4 0 1", "-1"), ("0 1 2", "+3")]);
}

#[test]
fn rolling_from_the_top() {
    check(
        json!({}),
        &[("0o 1o 2o", "-2"), ("0o 1o 2-", ""), ("0o 1o 2", "-1"), ("0o 1o", "+2"), ("0o 1o 2ox", ""), ("0 1o- 2", ""), ("0 1 2", "")],
    );
    let to = |partition: i32| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}});
    check(to(2), &[("0o 1o 2o", "-2"), ("0o 1o 2", ""), ("1o 2", "+0o"), ("0o 1o", "+2")]);
    check(to(3), &[("0o 1o 2o", ""), ("0o 1o", "+2o")]);
    check(json!({"updateStrategy": {"type": "OnDelete"}}), &[("0o 1o 2o", ""), ("0o 2o", "+1")]);
}

#[test]
fn rolling_several_at_a_time() {
    let most =
        |count: Value| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": count}}});
    check(most(json!(2)), &[("0o 1o 2o", "-2 -1")]);
    check(most(json!("50%")), &[("0o 1o 2o", "-2")]);
    let mut parallel = most(json!(2));
    parallel["podManagementPolicy"] = json!("Parallel");
    check(parallel, &[("0o 1o 2-", "-1"), ("0o 1- 2-", ""), ("0o 1o- 2-", "-1"), ("0o- 1o- 2o-", "-2 -1 -0"), ("0o- 1o- 2o", "-1 -0")]);
}

#[test]
fn a_pod_that_lost_its_label_gets_it_back_and_nothing_happens_to_a_set_that_goes() {
    let set_whole = set(json!({"replicas": 1}));
    let mut stripped = pod("0").as_ref().clone();
    stripped.metadata.labels.as_mut().unwrap().remove("statefulset.kubernetes.io/pod-name");
    let (current, update) = (recorded("new", &set_whole), recorded("new", &set_whole));
    let pods = [Arc::new(stripped)];
    let mut look = Look {
        set: &set_whole,
        pods: &pods,
        claims: &|_| None,
        current: &current,
        update: &update,
        collisions: 0,
        now: Timestamp::UNIX_EPOCH,
    };
    look.now = "2026-01-01T00:01:00Z".parse().unwrap();
    let steps = plan(look).steps;
    assert_eq!((steps.len(), steps[0].act), (1, Act::Update));
    let patch = super::identity::repairing(&steps[0].pod);
    assert_eq!(patch["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"], "web-0");
    assert_eq!(patch["metadata"]["uid"], "0", "of no other pod");

    let mut going = set_whole.clone();
    going.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
    assert!(plan(Look { set: &going, ..look }).steps.is_empty());
}

#[test]
fn the_status_counts_and_ends_a_rollout() {
    let of = set(json!({}));
    let status = planned(&of, "0o 1- 2").status;
    let counts = (status.replicas, status.ready_replicas, status.available_replicas, status.current_replicas, status.updated_replicas);
    // The old pod is deleted in the same step.
    assert_eq!(counts, (3, Some(2), Some(2), Some(1), Some(2)));
    let middle = super::status::told(&of, planned(&of, "0o 1 2").status);
    assert_eq!((middle.current_revision.as_deref(), middle.current_replicas), (Some("old"), None));
    let end = super::status::told(&of, planned(&of, "0 1 2").status);
    assert_eq!((end.current_revision.as_deref(), end.current_replicas, end.updated_replicas), (Some("new"), Some(3), Some(3)));
}

#[test]
fn a_pod_has_to_be_ready_for_long_enough() {
    let waiting = set(json!({"minReadySeconds": 100}));
    let plan = planned(&waiting, "0");
    assert_eq!((shown(&plan).as_str(), plan.soon), ("", Some(std::time::Duration::from_secs(40))));
    assert_eq!((plan.status.ready_replicas, plan.status.available_replicas), (Some(1), Some(0)));
}
