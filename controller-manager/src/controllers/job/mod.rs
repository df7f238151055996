//! Jobs: pods that are to succeed so many times (upstream: `pkg/controller/job`).
//!
//! [`plan`] decides about pods, [`account`] counts them; this file is the shell around them. A Job's status is its ledger, so it is never acted on in an
//! older edition than the one last written, and a pod whose finalizer was removed is remembered until the cache knows.

mod account;
mod backoff;
mod indexes;
pub mod plan;
mod policy;
mod template;
#[cfg(test)]
mod tests;

use crate::children::{self, Changes};
use crate::claim::{ORPHANS, candidates, claim, orphan};
use crate::controller::{Context, Controller, Keys, controller_key, controller_of, watch_all, watch_owned};
use crate::ops::{Op, PatchKind, Request};
use crate::pods;
use crate::written::Written;
use account::Done;
use backoff::Backoff;
use client::events::reference;
use client::{Cache, Change, Expectations, ObjectKey};
use futures::future::{BoxFuture, join_all};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
pub use plan::INDEX;
use plan::{Decision, Look, TRACKING, is_tracked};
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
pub use template::{FAILURES, IGNORED_FAILURES};

/// Who manages a Job by default; those of others are left alone.
const SELF: &str = "kubernetes.io/job-controller";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";

/// See the module's description.
pub struct JobController {
    context: Context,
    jobs: Arc<Cache<Job>>,
    pods: Arc<Cache<Pod>>,
    expectations: Expectations<ObjectKey>,
    /// The UIDs of pods whose finalizer has been removed and which the cache still shows with it, by Job.
    removing: Mutex<HashMap<ObjectKey, HashSet<String>>>,
    backoffs: Mutex<HashMap<ObjectKey, Backoff>>,
    written: Written,
}

/// Whose pod it is: its controller's if that is a Job, else that of the Job it was made for.
fn job_key(pod: &Pod) -> Option<ObjectKey> {
    if controller_of(pod).is_some() {
        return controller_key::<Job, Pod>(pod);
    }
    let name = pod.metadata.labels.as_ref()?.get(JOB_NAME).filter(|_| is_tracked(pod))?;
    Some(ObjectKey::new(pod.metadata.namespace.as_deref().unwrap_or_default(), name))
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

fn is_managed_elsewhere(job: &Job) -> bool {
    plan::spec(job).managed_by.as_deref().is_some_and(|manager| manager != SELF)
}

impl JobController {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        let pods: Arc<Cache<Pod>> = context.caches.of();
        pods.add_index(ORPHANS, orphan);
        Self {
            jobs: context.caches.of(),
            pods,
            context,
            expectations: Expectations::default(),
            removing: Mutex::default(),
            backoffs: Mutex::default(),
            written: Written::default(),
        }
    }

    fn pod_changed(&self, change: &Change<Pod>) {
        let pod = change.object();
        let Some(key) = job_key(pod) else { return };
        children::observe(&self.expectations, &key, change);
        if (matches!(change, Change::Deleted(_)) || !is_tracked(pod))
            && let Some(removing) = self.removing.lock().get_mut(&key)
        {
            removing.remove(&uid(pod));
        }
    }

    async fn sync(&self, key: &ObjectKey) -> anyhow::Result<Option<Duration>> {
        let job = self.jobs.get(key);
        let over = job.as_ref().is_none_or(|job| plan::is_finished(job));
        if job.is_none() {
            self.expectations.forget(key);
            self.written.forget(key);
            self.removing.lock().remove(key);
        }
        if over {
            self.backoffs.lock().remove(key);
        }
        if job.as_ref().is_some_and(|job| is_managed_elsewhere(job)) {
            return Ok(None);
        }
        self.let_go_of_orphans(key, job.as_deref().filter(|_| !over)).await?;
        let Some(job) = job.filter(|job| !over && self.written.has_seen(job.as_ref())) else { return Ok(None) };
        if !matches!(plan::spec(&job).completion_mode.as_deref(), None | Some("NonIndexed" | "Indexed")) {
            let message = "Skipped Job sync because completion mode is unknown";
            self.context.executor.apply(vec![Op::warning(job.as_ref(), "UnknownCompletionMode", message)]).await?;
            return Ok(None);
        }
        let wait = self.expectations.wait(key);
        let selector = plan::spec(&job).selector.clone().unwrap_or_default();
        let claimed = claim(job.as_ref(), &candidates(&self.pods, job.as_ref()), Some(TRACKING), |pod: &Pod| {
            api::validation::labels::matches(&selector, pod.metadata.labels.as_ref())
        });
        let pods = claimed.settle(&self.context.executor, job.as_ref()).await?;
        let look = Look {
            job: &job,
            pods: &pods,
            removing: self.removing.lock().get(key).cloned().unwrap_or_default(),
            backoff: self.backoffs.lock().get(key).copied().unwrap_or_default(),
            fresh: wait.is_none(),
            now: self.context.clock.now(),
        };
        let mut decision = look.decide();
        let (done, failure) = self.carry_out(key, &look, &mut decision).await;
        self.keep_account(key, &look, &decision, done).await?;
        self.backoffs.lock().insert(key.clone(), decision.backoff);
        match failure {
            Some(error) => Err(error.into()),
            None => {
                let after = decision.after.map(|after| Duration::try_from(after).unwrap_or_default() + Duration::from_millis(1));
                Ok(after.into_iter().chain(wait).min())
            }
        }
    }

    /// Creates, takes back and ends pods. Says how many there are then.
    async fn carry_out(&self, key: &ObjectKey, look: &Look<'_>, decision: &mut Decision) -> (Done, Option<kube::Error>) {
        let executor = &self.context.executor;
        let mut failure = None;
        // What is taken back is not to be counted, so its finalizer goes first.
        let withdraw = std::mem::take(&mut decision.withdraw);
        let answers = join_all(withdraw.iter().map(|pod| self.let_go(key, pod))).await;
        let mut delete = Vec::with_capacity(withdraw.len());
        for (pod, answer) in withdraw.into_iter().zip(answers) {
            match answer {
                Ok(()) => delete.push(pod),
                Err(error) => failure = Some(error),
            }
        }
        let to_end = decision.end.len();
        delete.append(&mut decision.end);
        let changes = Changes { create: std::mem::take(&mut decision.create), delete };
        let mut outcome = children::Outcome::default();
        if changes != Changes::default() {
            outcome = children::apply(executor, &self.expectations, key, &reference(look.job, None), changes).await;
        }
        let count = |counted: usize| i32::try_from(counted).unwrap_or(i32::MAX);
        let active = look.pods.iter().filter(|pod| pods::is_active(pod));
        let ready = active.clone().filter(|pod| pods::is_ready(pod)).count();
        let ready_deleted = outcome.deleted.iter().filter(|pod| pods::is_ready(pod)).count();
        let terminating = look.pods.iter().filter(|pod| pods::is_terminating(pod) && !pods::is_finished(pod)).count();
        let done = Done {
            active: count(active.count() + outcome.created - outcome.deleted.len()),
            ready: count(ready - ready_deleted),
            terminating: count(terminating + outcome.deleted.len()),
            all_ended: outcome.deleted.len() == to_end && look.fresh,
        };
        (done, failure.or(outcome.failure))
    }

    async fn keep_account(&self, key: &ObjectKey, look: &Look<'_>, decision: &Decision, done: Done) -> anyhow::Result<()> {
        let executor = &self.context.executor;
        let mut account = account::account(look, decision, done);
        let mut job = look.job.clone();
        if account.flush {
            job = self.write(key, &job, account.status).await?;
            account.status = job.status.clone().unwrap_or_default();
            account.changed = false;
        }
        let answers = join_all(account.let_go.iter().map(|pod| self.let_go(key, pod))).await;
        for (pod, answer) in account.let_go.iter().zip(&answers) {
            if answer.is_ok() {
                account.tracked.remove(&uid(pod));
            }
        }
        account.changed |= account::settle(&mut account.status, &account.tracked);
        let finished = account.finished.as_ref().filter(|_| !account.more && answers.iter().all(Result::is_ok));
        account.changed |= account::declare(&job, &mut account.status, finished, look.now, &mut account.events);
        if account.changed {
            self.write(key, &job, account.status).await?;
        }
        executor.apply(account.events).await?;
        for answer in answers {
            answer?;
        }
        Ok(())
    }

    /// Writes the status. Returns the Job as the apiserver has it then.
    async fn write(&self, key: &ObjectKey, job: &Job, status: JobStatus) -> anyhow::Result<Job> {
        let updated = Job { status: Some(status), ..job.clone() };
        let answer = self.context.executor.send(Request::replace_status(&updated)).await?;
        self.written.note(key, &answer);
        Ok(serde_json::from_value(answer)?)
    }

    /// Removes the tracking finalizer.
    async fn let_go(&self, key: &ObjectKey, pod: &Pod) -> Result<(), kube::Error> {
        if !is_tracked(pod) {
            return Ok(());
        }
        self.removing.lock().entry(key.clone()).or_default().insert(uid(pod));
        let patch = json!({"metadata": {"uid": pod.metadata.uid, "$deleteFromPrimitiveList/finalizers": [TRACKING]}});
        let request = Request::patch::<Pod>(&ObjectKey::of(pod), "", PatchKind::Strategic, patch).tolerating(&[404]);
        let answer = self.context.executor.send(request).await;
        if answer.is_err()
            && let Some(removing) = self.removing.lock().get_mut(key)
        {
            removing.remove(&uid(pod));
        }
        answer.map(|_| ())
    }

    /// Pods that wait to be counted, though nobody will: their Job is gone or over, or another has its name.
    async fn let_go_of_orphans(&self, key: &ObjectKey, job: Option<&Job>) -> Result<(), kube::Error> {
        let of_job = |pod: &&Arc<Pod>| is_tracked(pod) && job_key(pod).as_ref() == Some(key);
        let selected = |pod: &Pod| {
            let selector = job.and_then(|job| plan::spec(job).selector.as_ref());
            selector.is_some_and(|selector| api::validation::labels::matches(selector, pod.metadata.labels.as_ref()))
        };
        let is_orphan = |pod: &Arc<Pod>| match (controller_of(pod.as_ref()), job) {
            (_, None) => true,
            (Some(owner), Some(job)) => job.metadata.uid.as_ref() != Some(&owner.uid),
            // A Job adopts what it selects.
            (None, Some(_)) => !selected(pod),
        };
        let all = self.pods.by_index(TRACKED, &key.to_string());
        let orphans: Vec<Arc<Pod>> = all.iter().filter(of_job).filter(|pod| is_orphan(pod)).cloned().collect();
        for answer in join_all(orphans.iter().map(|pod| self.let_go(key, pod))).await {
            answer?;
        }
        Ok(())
    }
}

/// The index of the pods that wait to be counted, by their Job's key.
const TRACKED: &str = "job-tracked";

fn tracked_by(pod: &Pod) -> Vec<String> {
    job_key(pod).filter(|_| is_tracked(pod)).map(|key| key.to_string()).into_iter().collect()
}

impl Controller for JobController {
    fn watch(self: Arc<Self>, keys: &Keys) {
        self.pods.add_index(TRACKED, tracked_by);
        watch_all(&self.jobs, keys);
        let (controller, queue) = (Arc::downgrade(&self), keys.clone());
        self.pods.subscribe(move |change| {
            if let Some(controller) = controller.upgrade() {
                controller.pod_changed(change);
            }
            // One that lost its controller may still wait to be counted.
            if controller_of(change.object().as_ref()).is_none()
                && let Some(key) = job_key(change.object())
            {
                queue.add(key);
            }
        });
        watch_owned::<Job, Pod>(&self.pods, keys);
        let (queue, jobs) = (keys.clone(), self.jobs.clone());
        self.pods.subscribe(move |change| {
            let pod = change.object();
            if controller_of(pod.as_ref()).is_some() || matches!(change, Change::Deleted(_)) {
                return;
            }
            for job in jobs.in_namespace(pod.metadata.namespace.as_deref().unwrap_or_default()) {
                let selector = plan::spec(&job).selector.as_ref();
                if selector.is_some_and(|selector| api::validation::labels::matches(selector, pod.metadata.labels.as_ref())) {
                    queue.add(ObjectKey::of(job.as_ref()));
                }
            }
        });
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(self.sync(key))
    }
}
