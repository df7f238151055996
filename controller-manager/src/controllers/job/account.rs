//! Counting a Job's pods exactly once (upstream: `trackJobStatusAndRemoveFinalizers`).
//!
//! A pod that has ended keeps a finalizer until it is counted. First its UID goes into `uncountedTerminatedPods`, then its finalizer is removed, and only
//! then, with the UID leaving that list, is the number raised: whatever is interrupted in between can be taken up again and is neither lost nor counted
//! twice. Of an indexed Job the set of indexes that have succeeded does what the list does.

use super::plan::{Decision, Look, condition, has_failed, index, is_indexed, is_suspended, is_tracked, new_condition, spec, valid_index};
use super::policy;
use crate::ops::Op;
use crate::pods;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::HashSet;
use std::sync::Arc;

/// How many UIDs the list takes before it is worked off (upstream: `MaxUncountedPods`).
const MOST_UNCOUNTED: usize = 500;

/// The pods that there are after what was decided has been done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// Active pods.
    pub active: i32,
    /// Of these, ready ones.
    pub ready: i32,
    /// Pods that are being deleted.
    pub terminating: i32,
    /// Whether all active pods were deleted that were to be, and the cache had seen everything.
    pub all_ended: bool,
}

/// What is to be written before finalizers are removed, and which.
#[derive(Debug, Default)]
pub struct Account {
    /// The status.
    pub status: JobStatus,
    /// Whether it has to be written before.
    pub flush: bool,
    /// Whether it is to be written at all.
    pub changed: bool,
    /// Pods to let go.
    pub let_go: Vec<Arc<Pod>>,
    /// Pods that still have their finalizer.
    pub tracked: HashSet<String>,
    /// The last condition, once everything is counted.
    pub finished: Option<JobCondition>,
    /// Whether the list was full before all were in.
    pub more: bool,
    /// What to tell.
    pub events: Vec<Op>,
}

/// Sets a condition. Whether it was another. One that never held need not be denied.
fn ensure(status: &mut JobStatus, wanted: JobCondition) -> bool {
    let conditions = status.conditions.get_or_insert_default();
    match conditions.iter_mut().find(|condition| condition.type_ == wanted.type_) {
        Some(present) if present.status == wanted.status && present.reason == wanted.reason && present.message == wanted.message => false,
        Some(present) => {
            *present = wanted;
            true
        }
        None if wanted.status == "False" => false,
        None => {
            conditions.push(wanted);
            true
        }
    }
}

/// The account, from what was decided and done.
pub fn account(look: &Look<'_>, decision: &Decision, done: Done) -> Account {
    let job = look.job;
    let mut status = job.status.clone().unwrap_or_default();
    status.uncounted_terminated_pods.get_or_insert_default();
    let mut account = Account::default();
    if status.start_time.is_none() && !is_suspended(job) {
        status.start_time = Some(Time(look.now));
        account.changed = true;
    }
    let mut finished = decision.finished.clone();
    if finished.is_some() {
        finished = finished.filter(|_| done.all_ended);
    } else {
        let complete = match spec(job).completions {
            None => decision.succeeded > 0 && done.active == 0,
            Some(completions) => decision.succeeded >= completions && done.active == 0,
        };
        if complete {
            let message = "Reached expected number of succeeded pods";
            finished = Some(new_condition("SuccessCriteriaMet", "CompletionsReached", message, look.now));
        } else if decision.managed {
            account.changed |= suspend_or_resume(job, &mut status, look.now, &mut account.events);
        }
    }
    account.changed |=
        done.active != status.active.unwrap_or(0) || Some(done.ready) != status.ready || Some(done.terminating) != status.terminating;
    status.active = Some(done.active);
    status.ready = Some(done.ready);
    status.terminating = Some(done.terminating);
    account.status = status;
    track(look, decision, finished, &mut account);
    account
}

fn suspend_or_resume(job: &Job, status: &mut JobStatus, now: Timestamp, events: &mut Vec<Op>) -> bool {
    if is_suspended(job) {
        let changed = ensure(status, new_condition("Suspended", "JobSuspended", "Job suspended", now));
        if changed {
            // It has not started, so that its template may be changed before it does.
            status.start_time = None;
            events.push(Op::normal(job, "Suspended", "Job suspended"));
        }
        return changed;
    }
    let resumed = JobCondition { status: "False".to_owned(), ..new_condition("Suspended", "JobResumed", "Job resumed", now) };
    let changed = ensure(status, resumed);
    if changed {
        // The time of the deadline runs anew.
        status.start_time = Some(Time(now));
        events.push(Op::normal(job, "Resumed", "Job resumed"));
    }
    changed
}

fn track(look: &Look<'_>, decision: &Decision, finished: Option<JobCondition>, account: &mut Account) {
    let job = look.job;
    let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
    let mut pods = look.pods.to_vec();
    if is_indexed(job) {
        pods.sort_by_key(|pod| index(pod));
    }
    pods.retain(|pod| is_tracked(pod) && !look.removing.contains(&uid(pod)));
    account.tracked = pods.iter().map(|pod| uid(pod)).collect();
    account.flush |= settle(&mut account.status, &account.tracked);
    let mut new_indexes = Vec::new();
    let ended_by_success = finished.as_ref().is_some_and(|condition| condition.type_ == "SuccessCriteriaMet");
    for pod in pods {
        let failed = has_failed(job, &pod);
        let is_kept = index(&pod).and_then(|index| decision.kept.get(&index)).is_some_and(|kept| uid(kept) == uid(&pod));
        let let_go =
            job.metadata.deletion_timestamp.is_some() || finished.is_some() || pods::phase(&pod) == "Succeeded" || (failed && !is_kept);
        if !let_go {
            continue;
        }
        let uncounted = account.status.uncounted_terminated_pods.get_or_insert_default();
        let (succeeded_list, failed_list) = (uncounted.succeeded.get_or_insert_default(), uncounted.failed.get_or_insert_default());
        let valid = valid_index(job, &pod);
        if pods::phase(&pod) == "Succeeded" && !failed_list.contains(&uid(&pod)) {
            if is_indexed(job) {
                if let Some(index) = valid.filter(|index| !decision.succeeded_before.has(*index)) {
                    new_indexes.push(index);
                    account.flush = true;
                }
            } else if !succeeded_list.contains(&uid(&pod)) {
                succeeded_list.push(uid(&pod));
                account.flush = true;
            }
        } else if (failed || (finished.is_some() && !ended_by_success))
            && !failed_list.contains(&uid(&pod))
            && (!is_indexed(job) || valid.is_some())
            && policy::on_failure(spec(job).pod_failure_policy.as_ref(), &pod).counts
        {
            failed_list.push(uid(&pod));
            account.flush = true;
        }
        let full = new_indexes.len() + succeeded_list.len() + failed_list.len() >= MOST_UNCOUNTED;
        account.let_go.push(pod);
        if full {
            account.more = true;
            break;
        }
    }
    let status = &mut account.status;
    if is_indexed(job) {
        let indexes = decision.succeeded_before.with(new_indexes);
        let text = indexes.to_string();
        account.flush |= text != status.completed_indexes.as_deref().unwrap_or_default();
        status.succeeded = Some(indexes.total());
        status.completed_indexes = (!text.is_empty()).then_some(text);
        let failed = decision.failed_indexes.as_ref().map(ToString::to_string);
        account.flush |= failed != status.failed_indexes;
        status.failed_indexes = failed;
    }
    // The condition that announces the end is written before finalizers go, the one that declares it after.
    let told = |text: &Option<String>| text.clone().unwrap_or_default();
    account.finished = finished.map(|announced| {
        let end = match announced.type_.as_str() {
            "FailureTarget" => "Failed",
            "SuccessCriteriaMet" => "Complete",
            _ => return announced,
        };
        let declared = new_condition(end, &told(&announced.reason), &told(&announced.message), look.now);
        if condition(status, &announced.type_).is_none() {
            status.conditions.get_or_insert_default().push(announced);
            account.flush = true;
        }
        declared
    });
}

/// Raises the numbers by those in the list that are no longer tracked. Whether there were any.
pub fn settle(status: &mut JobStatus, tracked: &HashSet<String>) -> bool {
    let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
    let mut settled = false;
    for (list, count) in [(&mut uncounted.succeeded, &mut status.succeeded), (&mut uncounted.failed, &mut status.failed)] {
        let Some(uids) = list else { continue };
        let before = uids.len();
        uids.retain(|uid| tracked.contains(uid));
        if uids.len() < before {
            *count = Some(count.unwrap_or(0) + i32::try_from(before - uids.len()).unwrap_or(i32::MAX));
            settled = true;
        }
    }
    settled
}

/// Declares the end if everything is counted and every pod has ended. Whether it was declared.
pub fn declare(job: &Job, status: &mut JobStatus, finished: Option<&JobCondition>, now: Timestamp, events: &mut Vec<Op>) -> bool {
    let Some(finished) = finished else { return false };
    let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let left = uncounted.succeeded.map_or(0, |uids| uids.len()) + uncounted.failed.map_or(0, |uids| uids.len());
    if left > 0 || status.terminating.unwrap_or(0) > 0 {
        return false;
    }
    let finished = JobCondition { last_transition_time: Some(Time(now)), last_probe_time: Some(Time(now)), ..finished.clone() };
    if finished.type_ == "Complete" {
        status.completion_time = Some(Time(now));
        if spec(job).completions.is_some_and(|completions| status.succeeded.unwrap_or(0) > completions) {
            let message = "Too many succeeded pods running after completion count reached";
            events.push(Op::warning(job, "TooManySucceededPods", message));
        }
        events.push(Op::normal(job, "Completed", "Job completed"));
    } else {
        let reason = failure_reason(finished.reason.as_deref());
        events.push(Op::warning(job, reason, finished.message.clone().unwrap_or_default()));
    }
    ensure(status, finished)
}

/// The reasons are known; events take no others.
fn failure_reason(reason: Option<&str>) -> &'static str {
    const REASONS: [&str; 5] =
        ["PodFailurePolicy", "BackoffLimitExceeded", "DeadlineExceeded", "MaxFailedIndexesExceeded", "FailedIndexes"];
    REASONS.into_iter().find(|known| Some(*known) == reason).unwrap_or("Failed")
}
