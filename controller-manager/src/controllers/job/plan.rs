//! What a Job's pods and its state call for: pods to create, to take back or to end, and whether the Job is over (upstream: `syncJob`, `manageJob`).

use super::backoff::{Backoff, finished_at};
use super::indexes::Indexes;
use super::policy;
use super::template::{self, FAILURES, IGNORED_FAILURES};
use crate::pods;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// The finalizer of pods that have not been counted yet.
pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// Which completion index a pod is for.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How many pods are created or deleted in one go at most (upstream: `MaxPodCreateDeletePerSync`).
const BURST: usize = 500;

/// What is known when a Job is looked at.
pub struct Look<'a> {
    /// The Job.
    pub job: &'a Job,
    /// Its pods.
    pub pods: &'a [Arc<Pod>],
    /// The UIDs of pods whose finalizer has been removed, though the cache may not know.
    pub removing: HashSet<String>,
    /// The backoff so far.
    pub backoff: Backoff,
    /// Whether everything created and deleted before has been seen.
    pub fresh: bool,
    /// The time.
    pub now: Timestamp,
}

/// What to do with the pods, and what it is based on.
#[derive(Debug, Default)]
pub struct Decision {
    /// Pods to create.
    pub create: Vec<Pod>,
    /// Active pods to delete without counting them.
    pub withdraw: Vec<Arc<Pod>>,
    /// Active pods to delete because the Job is over.
    pub end: Vec<Arc<Pod>>,
    /// Why the Job is over, if it is: `FailureTarget`, `Failed` or `SuccessCriteriaMet`.
    pub finished: Option<JobCondition>,
    /// Whether the number of pods was looked at at all.
    pub managed: bool,
    /// When to look again.
    pub after: Option<SignedDuration>,
    /// The backoff with what has ended since.
    pub backoff: Backoff,
    /// Pods that have succeeded, or their indexes, with those of the status.
    pub succeeded: i32,
    /// The indexes that the status has for succeeded, of an indexed Job.
    pub succeeded_before: Indexes,
    /// With those of the pods.
    pub succeeded_indexes: Indexes,
    /// The indexes that have failed for good, if the Job limits failures by index.
    pub failed_indexes: Option<Indexes>,
    /// The failed pods that are kept until the pod in their place knows how often its index has failed.
    pub kept: BTreeMap<i32, Arc<Pod>>,
}

/// The spec.
pub fn spec(job: &Job) -> &JobSpec {
    // The apiserver stores no Job without.
    static EMPTY: std::sync::LazyLock<JobSpec> = std::sync::LazyLock::new(JobSpec::default);
    job.spec.as_ref().unwrap_or(&EMPTY)
}

/// A condition that holds.
pub fn condition<'a>(status: &'a JobStatus, condition_type: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == condition_type && condition.status == "True")
}

/// Whether the Job has come to an end.
pub fn is_finished(job: &Job) -> bool {
    job.status.as_ref().is_some_and(|status| condition(status, "Complete").or(condition(status, "Failed")).is_some())
}

/// Whether its pods have numbers.
pub fn is_indexed(job: &Job) -> bool {
    spec(job).completion_mode.as_deref() == Some("Indexed")
}

/// Whether it is suspended.
pub fn is_suspended(job: &Job) -> bool {
    spec(job).suspend == Some(true)
}

/// Whether a pod is only replaced once it has failed altogether.
fn waits_for_failure(job: &Job) -> bool {
    spec(job).pod_replacement_policy.as_deref() == Some("Failed")
}

/// Whether a pod counts as failed: one that is being deleted does too, unless the Job waits until it has ended.
pub fn has_failed(job: &Job, pod: &Pod) -> bool {
    pods::phase(pod) == "Failed" || (!waits_for_failure(job) && pods::is_terminating(pod) && pods::phase(pod) != "Succeeded")
}

/// Whether a pod has not been counted yet.
pub fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == TRACKING)
}

/// The completion index of a pod.
pub fn index(pod: &Pod) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok().filter(|index| *index >= 0)
}

/// The index of a pod, if it is one of the Job's.
pub fn valid_index(job: &Job, pod: &Pod) -> Option<i32> {
    index(pod).filter(|index| *index < spec(job).completions.unwrap_or(0))
}

/// A condition that holds from now on.
pub fn new_condition(condition_type: &str, reason: &str, message: &str, now: Timestamp) -> JobCondition {
    JobCondition {
        type_: condition_type.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

fn number(pod: &Pod, annotation: &str) -> i32 {
    pod.metadata.annotations.as_ref().and_then(|a| a.get(annotation)).and_then(|number| number.parse().ok()).unwrap_or(0)
}

impl Look<'_> {
    fn uncounted(&self, of: fn(&k8s_openapi::api::batch::v1::UncountedTerminatedPods) -> Option<&Vec<String>>) -> &[String] {
        let uncounted = self.job.status.as_ref().and_then(|status| status.uncounted_terminated_pods.as_ref());
        uncounted.and_then(of).map_or(&[], Vec::as_slice)
    }

    /// Whether a pod has still to be counted: tracked, and of an index of the Job.
    pub fn to_count(&self, pod: &Pod) -> bool {
        is_tracked(pod)
            && !self.removing.contains(pod.metadata.uid.as_deref().unwrap_or_default())
            && (!is_indexed(self.job) || valid_index(self.job, pod).is_some())
    }

    fn newly(&self, ended: impl Fn(&Pod) -> bool, uncounted: &[String]) -> Vec<&Pod> {
        let new = |pod: &&Pod| self.to_count(pod) && !uncounted.iter().any(|uid| pod.metadata.uid.as_ref() == Some(uid)) && ended(pod);
        self.pods.iter().map(AsRef::as_ref).filter(new).collect()
    }

    fn active(&self) -> Vec<Arc<Pod>> {
        self.pods.iter().filter(|pod| pods::is_active(pod)).cloned().collect()
    }

    fn terminating(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.iter().filter(|pod| pods::is_terminating(pod) && !pods::is_finished(pod))
    }

    fn since_start(&self) -> Option<SignedDuration> {
        let start = self.job.status.as_ref().and_then(|status| status.start_time.as_ref())?;
        Some(self.now.duration_since(start.0))
    }

    /// Whether restarts inside the pods count as failures, and are too many.
    fn restarted_too_often(&self) -> bool {
        let limit = spec(self.job).backoff_limit.unwrap_or(6);
        if spec(self.job).template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) != Some("OnFailure") {
            return false;
        }
        let running = self.pods.iter().filter(|pod| matches!(pods::phase(pod), "Running" | "Pending"));
        let statuses = running
            .flat_map(|pod| &pod.status)
            .flat_map(|status| status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten()));
        let restarts: i32 = statuses.map(|container| container.restart_count).sum();
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    /// Decides.
    pub fn decide(&self) -> Decision {
        let (job, spec) = (self.job, spec(self.job));
        let status = job.status.clone().unwrap_or_default();
        let uncounted = (self.uncounted(|u| u.succeeded.as_ref()), self.uncounted(|u| u.failed.as_ref()));
        let succeeded = self.newly(|pod| pods::phase(pod) == "Succeeded", uncounted.0);
        let failed = self.newly(|pod| has_failed(job, pod), uncounted.1);
        let counted = failed.iter().filter(|pod| policy::on_failure(spec.pod_failure_policy.as_ref(), pod).counts).count();
        let count = |known: Option<i32>, new: usize| known.unwrap_or(0) + i32::try_from(new).unwrap_or(i32::MAX);
        let failures = count(status.failed, counted + uncounted.1.len());
        let mut decision = Decision {
            succeeded: count(status.succeeded, succeeded.len() + uncounted.0.len()),
            backoff: self.backoff.after(&succeeded, &failed, self.now),
            ..Decision::default()
        };
        decision.finished =
            condition(&status, "SuccessCriteriaMet").cloned().or_else(|| self.failure(&status, failures, &mut decision.after));
        if is_indexed(job) {
            self.decide_by_index(&status, &mut decision);
        }
        if decision.finished.is_some() {
            decision.end = self.active();
        } else if self.fresh && job.metadata.deletion_timestamp.is_none() {
            decision.managed = true;
            self.manage(&mut decision);
        }
        decision
    }

    /// Why the Job as a whole has failed, if it has.
    fn failure(&self, status: &JobStatus, failures: i32, after: &mut Option<SignedDuration>) -> Option<JobCondition> {
        let (job, spec) = (self.job, spec(self.job));
        if let Some(target) = condition(status, "FailureTarget") {
            let told = |text: &Option<String>| text.clone().unwrap_or_default();
            return Some(new_condition("Failed", &told(&target.reason), &told(&target.message), self.now));
        }
        let target = |reason: &str, message: &str| Some(new_condition("FailureTarget", reason, message, self.now));
        let verdict = |pod: &Arc<Pod>| policy::on_failure(spec.pod_failure_policy.as_ref(), pod).fails_job;
        if let Some(why) = self.pods.iter().filter(|pod| has_failed(job, pod)).find_map(verdict) {
            return target("PodFailurePolicy", &why);
        }
        if failures > spec.backoff_limit.unwrap_or(6) || self.restarted_too_often() {
            return target("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        if let (Some(limit), false) = (spec.active_deadline_seconds, is_suspended(job)) {
            let left = SignedDuration::from_secs(limit) - self.since_start().unwrap_or(SignedDuration::ZERO);
            if self.since_start().is_some() && !left.is_positive() {
                return target("DeadlineExceeded", "Job was active longer than specified deadline");
            }
            *after = Some(left);
        }
        None
    }

    fn decide_by_index(&self, status: &JobStatus, decision: &mut Decision) {
        let (job, spec) = (self.job, spec(self.job));
        let completions = spec.completions.unwrap_or(0);
        decision.succeeded_before = Indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), completions);
        let ended = self.pods.iter().filter(|pod| pods::phase(pod) == "Succeeded" && is_tracked(pod));
        decision.succeeded_indexes = decision.succeeded_before.with(ended.filter_map(|pod| valid_index(job, pod)));
        decision.succeeded = decision.succeeded_indexes.total();
        if let Some(limit) = spec.backoff_limit_per_index {
            let failed = self.pods.iter().filter(|pod| is_tracked(pod) && has_failed(job, pod) && self.fails_index(pod, limit));
            let before = Indexes::parse(status.failed_indexes.as_deref().unwrap_or_default(), completions);
            let failed = before.with(failed.filter_map(|pod| valid_index(job, pod)));
            if decision.finished.is_none() {
                let target = |reason: &str, message: &str| Some(new_condition("FailureTarget", reason, message, self.now));
                if spec.max_failed_indexes.is_some_and(|limit| failed.total() > limit) {
                    let message = "Job has exceeded the specified maximal number of failed indexes";
                    decision.finished = target("MaxFailedIndexesExceeded", message);
                } else if failed.total() > 0 && failed.total() + decision.succeeded_indexes.total() >= completions {
                    decision.finished = target("FailedIndexes", "Job has failed indexes");
                }
            }
            decision.kept = self.kept(&decision.succeeded_indexes, &failed);
            decision.failed_indexes = Some(failed);
        }
        if decision.finished.is_none()
            && let Some(why) = policy::on_success(spec.success_policy.as_ref(), completions, &decision.succeeded_indexes)
        {
            decision.finished = Some(new_condition("SuccessCriteriaMet", "SuccessPolicy", &why, self.now));
        }
    }

    fn fails_index(&self, pod: &Pod, limit: i32) -> bool {
        let verdict = policy::on_failure(spec(self.job).pod_failure_policy.as_ref(), pod);
        verdict.fails_index || (verdict.counts && number(pod, FAILURES) >= limit)
    }

    /// Of every index that will get another pod, the failed one that knows the number of failures.
    fn kept(&self, succeeded: &Indexes, failed: &Indexes) -> BTreeMap<i32, Arc<Pod>> {
        let active: BTreeSet<i32> = self.active().iter().filter_map(|pod| index(pod)).collect();
        let mut kept: BTreeMap<i32, Arc<Pod>> = BTreeMap::new();
        let of = |pod: &Pod| (number(pod, FAILURES) + number(pod, IGNORED_FAILURES), finished_at(pod, self.now));
        for pod in self.pods.iter().filter(|pod| self.to_count(pod) && has_failed(self.job, pod)) {
            let Some(index) = index(pod).filter(|index| !active.contains(index) && !succeeded.has(*index) && !failed.has(*index)) else {
                continue;
            };
            if kept.get(&index).is_none_or(|other| of(other) <= of(pod)) {
                kept.insert(index, pod.clone());
            }
        }
        kept
    }

    /// Brings the number of active pods to what it should be: only takes back, or only creates.
    fn manage(&self, decision: &mut Decision) {
        let (job, spec) = (self.job, spec(self.job));
        let mut active = self.active();
        if is_suspended(job) {
            decision.withdraw = active;
            return;
        }
        let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        let terminating = if waits_for_failure(job) { count(self.terminating().count()) } else { 0 };
        let parallelism = spec.parallelism.unwrap_or(1);
        let wanted = match spec.completions {
            // Without a number of completions the pods decide: after the first success none is added.
            None if decision.succeeded > 0 => count(active.len()),
            None => parallelism,
            Some(completions) => (completions - decision.succeeded).min(parallelism).max(0),
        };
        let surplus = usize::try_from(count(active.len()) - wanted).unwrap_or(0);
        decision.withdraw = self.to_withdraw(&mut active, surplus);
        decision.withdraw.truncate(BURST);
        if !decision.withdraw.is_empty() {
            return;
        }
        let missing = usize::try_from(wanted - terminating - count(active.len())).unwrap_or(0).min(BURST);
        if missing == 0 {
            return;
        }
        let by_index = spec.backoff_limit_per_index.is_some();
        if !by_index && let Some(left) = decision.backoff.left(self.now) {
            decision.look_again(left);
            return;
        }
        if !is_indexed(job) {
            decision.create = (0..missing).map(|_| template::pod(job, None)).collect();
            return;
        }
        let mut taken: BTreeSet<i32> = active.iter().filter_map(|pod| index(pod)).collect();
        if waits_for_failure(job) {
            taken.extend(self.terminating().filter_map(|pod| index(pod)));
        }
        let done =
            decision.failed_indexes.as_ref().map_or_else(|| decision.succeeded_indexes.clone(), |f| f.union(&decision.succeeded_indexes));
        for index in done.first_missing(&taken, missing, spec.completions.unwrap_or(0)) {
            let replaced = decision.kept.get(&index).cloned();
            let failures = |pod: &Pod| {
                let counts = policy::on_failure(spec.pod_failure_policy.as_ref(), pod).counts;
                (number(pod, FAILURES) + i32::from(counts), number(pod, IGNORED_FAILURES) + i32::from(!counts))
            };
            let failures = by_index.then(|| replaced.as_deref().map_or((0, 0), failures));
            let left = replaced.zip(failures).and_then(|(pod, (counted, ignored))| {
                Backoff::of(u32::try_from(counted + ignored).unwrap_or(1), finished_at(&pod, self.now)).left(self.now)
            });
            match left {
                Some(left) => decision.look_again(left),
                None => decision.create.push(template::pod(job, Some((index, failures)))),
            }
        }
    }

    /// Of an indexed Job first those whose index is no longer one or is there twice, then whoever goes first.
    fn to_withdraw(&self, active: &mut [Arc<Pod>], surplus: usize) -> Vec<Arc<Pod>> {
        let related = active.to_vec();
        pods::sort_for_deletion(active, &related, self.now);
        let mut left: Vec<Arc<Pod>> = active.to_vec();
        let mut withdrawn = Vec::new();
        if is_indexed(self.job) {
            let mut best: HashMap<i32, usize> = HashMap::new();
            for (position, pod) in active.iter().enumerate() {
                best.extend(valid_index(self.job, pod).map(|index| (index, position)));
            }
            let keep: HashSet<usize> = best.into_values().collect();
            let (kept, surplus): (Vec<_>, Vec<_>) = active.iter().cloned().enumerate().partition(|(position, _)| keep.contains(position));
            left = kept.into_iter().map(|(_, pod)| pod).collect();
            withdrawn = surplus.into_iter().map(|(_, pod)| pod).collect();
        }
        let more = surplus.saturating_sub(withdrawn.len());
        withdrawn.extend(left.into_iter().take(more));
        withdrawn
    }
}

impl Decision {
    fn look_again(&mut self, left: SignedDuration) {
        self.after = Some(self.after.map_or(left, |earlier| earlier.min(left)));
    }
}
