//! A Job's life in steps: what is decided from which pods, and how they are counted.

use super::account::{Account, Done, account, declare, settle};
use super::backoff::Backoff;
use super::plan::{Decision, INDEX, Look, TRACKING, is_finished};
use crate::trim::held;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;

const NOW: &str = "2026-01-01T01:00:00Z";

fn job(spec: Value) -> Job {
    let mut whole = json!({"parallelism": 2, "completions": 3, "backoffLimit": 6, "completionMode": "NonIndexed", "suspend": false,
        "podReplacementPolicy": "TerminatingOrFailed", "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "j", "uid": "j"}, "spec": whole})).unwrap()
}

fn pod(name: &str, phase: &str, more: Value) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {"namespace": "ns", "name": name, "uid": name, "finalizers": [TRACKING], "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {}},
        "spec": {"containers": [], "nodeName": "n"}, "status": {"phase": phase},
    });
    for (field, value) in more.as_object().unwrap() {
        pod["metadata"][field] = value.clone();
    }
    Arc::new(held(pod))
}

fn numbered(name: &str, index: i32, phase: &str) -> Arc<Pod> {
    pod(name, phase, json!({"annotations": {INDEX: index.to_string()}}))
}

fn look<'a>(job: &'a Job, pods: &'a [Arc<Pod>]) -> Look<'a> {
    Look { job, pods, removing: HashSet::new(), backoff: Backoff::default(), fresh: true, now: NOW.parse::<Timestamp>().unwrap() }
}

fn decide(job: &Job, pods: &[Arc<Pod>]) -> Decision {
    look(job, pods).decide()
}

/// Everything as if all requests went well. Returns the Job after, and the events' reasons.
fn follow(job: &Job, pods: &[Arc<Pod>]) -> (Job, Account) {
    let look = look(job, pods);
    let decision = look.decide();
    let active = pods.iter().filter(|pod| crate::pods::is_active(pod)).count() + decision.create.len();
    let deleted = decision.withdraw.len() + decision.end.len();
    let count = |number: usize| i32::try_from(number).unwrap();
    let done = Done { active: count(active - deleted), ready: 0, terminating: 0, all_ended: true };
    let mut account = account(&look, &decision, done);
    let let_go: Vec<String> = account.let_go.iter().map(|pod| pod.metadata.uid.clone().unwrap()).collect();
    account.tracked.retain(|uid| !let_go.contains(uid));
    let mut status = account.status.clone();
    settle(&mut status, &account.tracked);
    declare(job, &mut status, account.finished.as_ref(), look.now, &mut account.events);
    (Job { status: Some(status), ..job.clone() }, account)
}

fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
    pods.iter().map(|pod| pod.metadata.name.as_deref().unwrap()).collect()
}

fn conditions(job: &Job) -> Vec<String> {
    let status = job.status.as_ref().unwrap();
    status.conditions.iter().flatten().map(|c| format!("{}={} {}", c.type_, c.status, c.reason.as_deref().unwrap())).collect()
}

#[test]
fn how_many_pods() {
    let running = || pod("r", "Running", json!({}));
    let done = || pod("d", "Succeeded", json!({}));
    let going = || pod("g", "Running", json!({"deletionTimestamp": "2026-01-01T00:30:00Z"}));
    for (spec, pods, expected) in [
        (json!({}), vec![], (2, 0)),
        (json!({}), vec![running()], (1, 0)),
        (json!({}), vec![done(), running()], (1, 0)),
        (json!({"completions": 1}), vec![done()], (0, 0)),
        (json!({"parallelism": 5}), vec![], (3, 0)),
        (json!({"parallelism": 0}), vec![running()], (0, 1)),
        (json!({"completions": null}), vec![done(), running()], (0, 0)),
        (json!({"suspend": true}), vec![running()], (0, 1)),
        (json!({}), vec![going(), running()], (1, 0)),
        (json!({"podReplacementPolicy": "Failed"}), vec![going(), running()], (0, 0)),
    ] {
        let decision = decide(&job(spec.clone()), &pods);
        assert_eq!((decision.create.len(), decision.withdraw.len()), expected, "{spec} {:?}", names(&pods));
    }
    let (job, pods) = (job(json!({})), []);
    let late = Look { fresh: false, ..look(&job, &pods) };
    assert!(late.decide().create.is_empty(), "what was created before has not been seen yet");
}

#[test]
fn pods_are_counted_once_and_the_job_completes() {
    let pods = [pod("a", "Succeeded", json!({})), pod("b", "Running", json!({}))];
    let (after, account) = follow(&job(json!({"completions": 2})), &pods);
    let uncounted = account.status.uncounted_terminated_pods.clone().unwrap();
    assert_eq!((account.flush, names(&account.let_go), uncounted.succeeded.unwrap()), (true, vec!["a"], vec!["a".to_owned()]));
    assert_eq!((account.status.succeeded, after.status.as_ref().unwrap().succeeded), (None, Some(1)));
    // The cache still shows the finalizer, which is known to be gone.
    let stale = Look { removing: HashSet::from(["a".to_owned()]), ..look(&after, &pods) };
    assert_eq!((stale.decide().succeeded, stale.decide().create.len()), (1, 0));
    let pods = [pod("a", "Succeeded", json!({"finalizers": []})), pod("b", "Succeeded", json!({}))];
    let (after, account) = follow(&after, &pods);
    assert_eq!(after.status.as_ref().unwrap().succeeded, Some(2));
    assert_eq!(conditions(&after), ["SuccessCriteriaMet=True CompletionsReached", "Complete=True CompletionsReached"]);
    assert!(is_finished(&after) && after.status.as_ref().unwrap().completion_time.is_some());
    assert_eq!(account.events.len(), 1);
}

#[test]
fn failures_reach_the_limit() {
    let pods = [pod("a", "Failed", json!({})), pod("b", "Running", json!({}))];
    let limited = job(json!({"backoffLimit": 0}));
    assert_eq!(names(&decide(&limited, &pods).end), ["b"]);
    let (after, _) = follow(&limited, &pods);
    assert_eq!(conditions(&after), ["FailureTarget=True BackoffLimitExceeded", "Failed=True BackoffLimitExceeded"]);
    assert_eq!(after.status.as_ref().unwrap().failed, Some(2), "the pod that was ended counts as failed");
    let pods = [pod("a", "Failed", json!({"creationTimestamp": "2026-01-01T00:59:58Z"}))];
    let decision = decide(&job(json!({})), &pods);
    assert!(decision.create.is_empty());
    assert_eq!(decision.after.map(|after| after.as_secs()), Some(8), "the next one waits");
}

#[test]
fn the_deadline_and_suspending() {
    let mut late = job(json!({"activeDeadlineSeconds": 60}));
    late.status = serde_json::from_value(json!({"startTime": "2026-01-01T00:59:30Z"})).unwrap();
    assert_eq!(decide(&late, &[]).after.map(|after| after.as_secs()), Some(30));
    late.status = serde_json::from_value(json!({"startTime": "2026-01-01T00:59:00Z"})).unwrap();
    assert_eq!(conditions(&follow(&late, &[]).0), ["FailureTarget=True DeadlineExceeded", "Failed=True DeadlineExceeded"]);
    let (suspended, account) = follow(&job(json!({"suspend": true})), &[]);
    assert_eq!((conditions(&suspended), account.events.len()), (vec!["Suspended=True JobSuspended".to_owned()], 1));
    assert_eq!(suspended.status.as_ref().unwrap().start_time, None);
    let mut resumed = suspended;
    resumed.spec.as_mut().unwrap().suspend = Some(false);
    let (resumed, _) = follow(&resumed, &[]);
    assert_eq!(conditions(&resumed), ["Suspended=False JobResumed"]);
    assert!(resumed.status.as_ref().unwrap().start_time.is_some());
    let mut again = resumed;
    again.spec.as_mut().unwrap().suspend = Some(true);
    assert_eq!(follow(&again, &[]).0.status.unwrap().start_time, None, "the deadline does not run while it is suspended");
}

#[test]
fn every_index_gets_its_pod() {
    let indexed = job(json!({"completionMode": "Indexed", "completions": 4, "parallelism": 3}));
    let pods = [numbered("a", 0, "Succeeded"), numbered("b", 2, "Running"), numbered("b2", 2, "Pending"), numbered("z", 9, "Running")];
    let mut withdrawn = names(&decide(&indexed, &pods).withdraw).into_iter().map(str::to_owned).collect::<Vec<_>>();
    withdrawn.sort();
    assert_eq!(withdrawn, ["b2", "z"]);
    let decision = decide(&indexed, &pods[..2]);
    let made: Vec<&str> = decision.create.iter().map(|pod| pod.metadata.annotations.as_ref().unwrap()[INDEX].as_str()).collect();
    assert_eq!(made, ["1", "3"]);
    let made = &decision.create[0];
    assert_eq!(made.metadata.generate_name.as_deref(), Some("j-1-"));
    assert_eq!(made.metadata.labels.as_ref().unwrap()[INDEX], "1");
    let spec = made.spec.as_ref().unwrap();
    assert_eq!(
        (spec.hostname.as_deref(), spec.containers[0].env.as_ref().unwrap()[0].name.as_str()),
        (Some("j-1"), "JOB_COMPLETION_INDEX")
    );
    let (after, _) = follow(&indexed, &pods[..2]);
    let status = after.status.unwrap();
    assert_eq!((status.completed_indexes.as_deref(), status.succeeded, status.failed_indexes), (Some("0"), Some(1), None));
}

#[test]
fn an_index_fails_alone() {
    let spec =
        json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimit": i32::MAX, "backoffLimitPerIndex": 1});
    let limited = job(spec);
    let first = [numbered("a", 0, "Failed")];
    let decision = decide(&limited, &first);
    let failures = |pod: &Pod| pod.metadata.annotations.as_ref().unwrap()[super::template::FAILURES].clone();
    assert_eq!(decision.create.iter().map(failures).collect::<Vec<_>>(), ["1", "0"]);
    assert!(follow(&limited, &first).1.let_go.is_empty(), "kept until its successor knows of it");
    let annotations = json!({INDEX: "0", super::template::FAILURES: "1"});
    let second = [numbered("a", 0, "Failed"), pod("a2", "Failed", json!({"annotations": annotations})), numbered("b", 1, "Running")];
    let (after, _) = follow(&limited, &second);
    assert_eq!(after.status.as_ref().unwrap().failed_indexes.as_deref(), Some("0"));
    assert!(!is_finished(&after));
    let third = [numbered("b", 1, "Succeeded")];
    assert_eq!(conditions(&follow(&after, &third).0), ["FailureTarget=True FailedIndexes", "Failed=True FailedIndexes"]);
}

#[test]
fn success_by_policy_ends_the_rest() {
    let spec =
        json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3, "successPolicy": {"rules": [{"succeededIndexes": "0"}]}});
    let pods = [numbered("a", 0, "Succeeded"), numbered("b", 1, "Running")];
    let (after, _) = follow(&job(spec), &pods);
    assert_eq!(conditions(&after), ["SuccessCriteriaMet=True SuccessPolicy", "Complete=True SuccessPolicy"]);
    assert_eq!(after.status.unwrap().failed, None);
}
