//! A Deployment's status: counts, and the conditions Available, Progressing and ReplicaFailure (upstream: `progress.go`, `sync.go`).

use super::replica_sets::{actual, available, desired, fenceposts, replicas, sum};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::sync::Arc;
use std::time::Duration;

const PROGRESSING: &str = "Progressing";
const NEW_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

/// A deadline that stands for none.
const NO_DEADLINE: i32 = i32::MAX;

/// The condition of a type.
pub fn condition<'a>(status: &'a DeploymentStatus, condition_type: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == condition_type)
}

fn remove(status: &mut DeploymentStatus, condition_type: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != condition_type);
    }
}

/// Sets a condition. Nothing happens if it has that status for that reason already; the time of transition changes with the status only.
pub fn set(status: &mut DeploymentStatus, condition_type: &str, value: &str, reason: &str, message: String, now: Timestamp) {
    let old = condition(status, condition_type).cloned();
    if old.as_ref().is_some_and(|old| old.status == value && old.reason.as_deref() == Some(reason)) {
        return;
    }
    let since = old.filter(|old| old.status == value).and_then(|old| old.last_transition_time).unwrap_or(Time(now));
    remove(status, condition_type);
    status.conditions.get_or_insert_default().push(DeploymentCondition {
        type_: condition_type.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(since),
    });
}

/// Notes in the status what happened to the new ReplicaSet: `FoundNewReplicaSet`, `NewReplicaSetCreated`.
pub fn note_new(status: &mut DeploymentStatus, reason: &str, message: String, now: Timestamp) {
    set(status, PROGRESSING, "True", reason, message, now);
}

/// The Deployment with the news that its ReplicaSet could not be created.
pub fn creation_failed(mut deployment: Deployment, message: &str, now: Timestamp) -> Deployment {
    if deadline(&deployment).is_some() {
        set(deployment.status.get_or_insert_default(), PROGRESSING, "False", "ReplicaSetCreateError", message.to_owned(), now);
    }
    deployment
}

/// Within how many seconds progress is expected.
pub fn deadline(deployment: &Deployment) -> Option<i32> {
    deployment.spec.as_ref().and_then(|spec| spec.progress_deadline_seconds).filter(|seconds| *seconds != NO_DEADLINE)
}

fn is_paused(deployment: &Deployment) -> bool {
    deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false)
}

/// Whether everything is of the new version and available.
pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let desired = desired(deployment);
    let is = |count: Option<i32>| count.unwrap_or(0) == desired;
    is(status.updated_replicas)
        && is(status.replicas)
        && is(status.available_replicas)
        && status.observed_generation.unwrap_or(0) >= deployment.metadata.generation.unwrap_or(0)
}

/// The condition Progressing of a paused Deployment, and of one that is no longer.
pub fn pause(deployment: &Deployment, status: &mut DeploymentStatus, now: Timestamp) {
    if deadline(deployment).is_none() {
        return;
    }
    let reason = condition(status, PROGRESSING).and_then(|condition| condition.reason.clone());
    match (is_paused(deployment), reason.as_deref()) {
        // One that has timed out stays so: pausing is no progress.
        (_, Some(TIMED_OUT)) => {}
        (true, reason) if reason != Some("DeploymentPaused") => {
            set(status, PROGRESSING, "Unknown", "DeploymentPaused", "Deployment is paused".to_owned(), now);
        }
        (false, Some("DeploymentPaused")) => {
            set(status, PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed".to_owned(), now)
        }
        _ => {}
    }
}

/// The counts and the condition Available.
pub fn count(
    deployment: &Deployment,
    base: &DeploymentStatus,
    new: Option<&Arc<ReplicaSet>>,
    all: &[Arc<ReplicaSet>],
    now: Timestamp,
) -> DeploymentStatus {
    let of = |counted: fn(&ReplicaSet) -> i32| sum(all.iter().map(AsRef::as_ref), counted);
    let ready = of(|set| set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0));
    let terminating: Option<i32> = all.iter().map(|set| set.status.as_ref().map_or(Some(0), |status| status.terminating_replicas)).sum();
    let is_available = of(available);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: Some(of(actual)),
        updated_replicas: Some(new.map_or(0, |set| actual(set))),
        ready_replicas: Some(ready),
        available_replicas: Some(is_available),
        unavailable_replicas: Some((of(replicas) - is_available).max(0)),
        terminating_replicas: terminating,
        collision_count: base.collision_count,
        conditions: base.conditions.clone(),
    };
    let (_, unavailable) = fenceposts(deployment);
    if is_available >= desired(deployment) - unavailable {
        set(&mut status, "Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.".to_owned(), now);
    } else {
        set(
            &mut status,
            "Available",
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.".to_owned(),
            now,
        );
    }
    status
}

/// The condition Progressing during a rollout, ReplicaFailure, and when to look again whether the deadline has passed.
pub fn progress(
    deployment: &Deployment,
    base: &DeploymentStatus,
    mut status: DeploymentStatus,
    new: Option<&Arc<ReplicaSet>>,
    all: &[Arc<ReplicaSet>],
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let limit = deadline(deployment);
    let current = condition(base, PROGRESSING).cloned();
    let done_before =
        status.replicas == status.updated_replicas && current.as_ref().is_some_and(|c| c.reason.as_deref() == Some(NEW_AVAILABLE));
    let named = |what: &str| match new {
        Some(set) => format!("ReplicaSet \"{}\" {what}", set.metadata.name.as_deref().unwrap_or_default()),
        None => format!("Deployment \"{}\" {what}", deployment.metadata.name.as_deref().unwrap_or_default()),
    };
    match limit {
        None => remove(&mut status, PROGRESSING),
        Some(_) if done_before => {}
        Some(limit) => {
            if is_complete(deployment, &status) {
                set(&mut status, PROGRESSING, "True", NEW_AVAILABLE, named("has successfully progressed."), now);
            } else if has_progressed(base, &status) {
                // Progress for the same reason still counts: the time of the update is what the deadline runs from.
                let since = current.as_ref().filter(|c| c.status == "True").and_then(|c| c.last_transition_time.clone());
                remove(&mut status, PROGRESSING);
                set(&mut status, PROGRESSING, "True", "ReplicaSetUpdated", named("is progressing."), now);
                if let (Some(since), Some(set)) = (since, status.conditions.iter_mut().flatten().find(|c| c.type_ == PROGRESSING)) {
                    set.last_transition_time = Some(since);
                }
            } else if current.as_ref().is_some_and(|current| has_timed_out(current, limit, now)) {
                set(&mut status, PROGRESSING, "False", TIMED_OUT, named("has timed out progressing."), now);
            }
        }
    }
    remove(&mut status, "ReplicaFailure");
    let failure =
        |set: &ReplicaSet| set.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_ == "ReplicaFailure").cloned();
    if let Some(failure) = new.and_then(|set| failure(set)).or_else(|| all.iter().find_map(|set| failure(set))) {
        let at = failure.last_transition_time.unwrap_or(Time(now));
        status.conditions.get_or_insert_default().push(DeploymentCondition {
            type_: failure.type_,
            status: failure.status,
            reason: failure.reason,
            message: failure.message,
            last_update_time: Some(at.clone()),
            last_transition_time: Some(at),
        });
    }
    let again = check_again(deployment, &status, now);
    (status, again)
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let grown = |of: fn(&DeploymentStatus) -> Option<i32>| of(new).unwrap_or(0) > of(old).unwrap_or(0);
    let outdated = |status: &DeploymentStatus| status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0);
    grown(|s| s.updated_replicas) || outdated(new) < outdated(old) || grown(|s| s.ready_replicas) || grown(|s| s.available_replicas)
}

fn has_timed_out(current: &DeploymentCondition, limit: i32, now: Timestamp) -> bool {
    match current.reason.as_deref() {
        Some(NEW_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => current.last_update_time.as_ref().is_some_and(|updated| updated.0 + SignedDuration::from_secs(i64::from(limit)) < now),
    }
}

fn check_again(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let (limit, current) = (deadline(deployment)?, condition(status, PROGRESSING)?);
    if is_complete(deployment, status) || current.reason.as_deref() == Some(TIMED_OUT) || is_paused(deployment) {
        return None;
    }
    let left = current.last_update_time.as_ref()?.0 + SignedDuration::from_secs(i64::from(limit)) - now;
    // Times in the API have whole seconds, hence one more.
    let left = SignedDuration::try_from(left).ok()?.max(SignedDuration::ZERO) + SignedDuration::from_secs(1);
    Duration::try_from(left).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn deployment(more: Value) -> Deployment {
        let mut spec = json!({"replicas": 1, "progressDeadlineSeconds": 5, "selector": {"matchLabels": {"a": "b"}}, "template": {}, "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": {"name": "web", "generation": 1}, "spec": spec})).unwrap()
    }

    fn set_of(status: Value) -> Arc<ReplicaSet> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": "web-x"}, "spec": {"replicas": 1, "selector": {}}, "status": status}))
                .unwrap(),
        )
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// The status after one look after the other, each at its time with its ReplicaSet's status.
    fn follow(deployment: &Deployment, looks: &[(i64, Value)]) -> (DeploymentStatus, Option<Duration>) {
        let (mut status, mut again) = (DeploymentStatus::default(), None);
        note_new(&mut status, "NewReplicaSetCreated", "Created new replica set \"web-x\"".to_owned(), at(0));
        for (second, of_set) in looks {
            let set = set_of(of_set.clone());
            let counted = count(deployment, &status, Some(&set), std::slice::from_ref(&set), at(*second));
            (status, again) = progress(deployment, &status, counted, Some(&set), std::slice::from_ref(&set), at(*second));
        }
        (status, again)
    }

    fn told(status: &DeploymentStatus) -> Vec<(&str, &str, &str, &str)> {
        let text = |field: &'static str| field;
        let _ = text;
        status
            .conditions
            .iter()
            .flatten()
            .map(|c| (c.type_.as_str(), c.status.as_str(), c.reason.as_deref().unwrap(), c.message.as_deref().unwrap()))
            .collect()
    }

    #[test]
    fn a_deployment_that_gets_stuck() {
        let (status, again) = follow(&deployment(json!({})), &[(1, json!({"replicas": 1})), (3, json!({"replicas": 1}))]);
        assert_eq!(again, Some(Duration::from_secs(4)));
        assert_eq!(told(&status)[0].2, "MinimumReplicasUnavailable");
        let (status, again) = follow(&deployment(json!({})), &[(1, json!({"replicas": 1})), (7, json!({"replicas": 1}))]);
        assert_eq!(again, None);
        assert_eq!(
            told(&status),
            [
                ("Available", "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability."),
                ("Progressing", "False", "ProgressDeadlineExceeded", "ReplicaSet \"web-x\" has timed out progressing."),
            ]
        );
        assert_eq!(
            (status.replicas, status.unavailable_replicas, status.updated_replicas, status.terminating_replicas),
            (Some(1), Some(1), Some(1), None)
        );
    }

    #[test]
    fn a_deployment_that_gets_there() {
        let running = json!({"replicas": 1, "readyReplicas": 1, "availableReplicas": 1, "terminatingReplicas": 0});
        let (status, again) = follow(&deployment(json!({})), &[(1, json!({"replicas": 1})), (3, running)]);
        assert_eq!(again, None);
        assert_eq!(
            told(&status),
            [
                ("Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability."),
                ("Progressing", "True", "NewReplicaSetAvailable", "ReplicaSet \"web-x\" has successfully progressed."),
            ]
        );
        assert_eq!(condition(&status, "Progressing").unwrap().last_transition_time, Some(Time(at(0))), "it has been True all along");
    }

    #[test]
    fn a_failure_of_the_replica_set_is_told() {
        let failed =
            json!({"replicas": 0, "conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "no"}]});
        let (status, _) = follow(&deployment(json!({})), &[(1, failed)]);
        assert!(told(&status).contains(&("ReplicaFailure", "True", "FailedCreate", "no")));
        let (status, _) = follow(&deployment(json!({})), &[(1, json!({"replicas": 0}))]);
        assert_eq!(condition(&status, "ReplicaFailure"), None);
    }

    #[test]
    fn pausing_and_resuming() {
        let mut status = DeploymentStatus::default();
        pause(&deployment(json!({"paused": true})), &mut status, at(1));
        assert_eq!(told(&status), [("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused")]);
        pause(&deployment(json!({})), &mut status, at(2));
        assert_eq!(told(&status), [("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed")]);
    }
}
