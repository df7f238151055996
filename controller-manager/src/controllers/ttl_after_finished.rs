//! Finished Jobs go after as long as they want to be kept (upstream: `pkg/controller/ttlafterfinished`).

use super::job::plan;
use crate::controller::{Context, Controller, Keys, watch_all};
use crate::ops::{DeleteOptions, Op, Propagation, Request};
use client::{Cache, ObjectKey};
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use kube::Api;
use std::sync::Arc;
use std::time::Duration;

/// Keys are Jobs.
pub struct TtlAfterFinishedController {
    context: Context,
    jobs: Arc<Cache<Job>>,
}

/// When the Job is to go, if ever.
fn expires_at(job: &Job) -> Option<Timestamp> {
    let seconds = plan::spec(job).ttl_seconds_after_finished?;
    let status = job.status.as_ref().filter(|_| job.metadata.deletion_timestamp.is_none())?;
    let end = plan::condition(status, "Complete").or_else(|| plan::condition(status, "Failed"))?;
    end.last_transition_time.as_ref()?.0.checked_add(SignedDuration::from_secs(i64::from(seconds))).ok()
}

fn plan(job: &Job, now: Timestamp) -> Option<Op> {
    let left = expires_at(job)?.duration_since(now);
    if left.is_positive() {
        return Some(Op::After(Duration::try_from(left).unwrap_or_default() + Duration::from_millis(1)));
    }
    let options = DeleteOptions {
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
        propagation: Some(Propagation::Foreground),
        ..DeleteOptions::default()
    };
    Some(Op::send(Request::delete::<Job>(&ObjectKey::of(job), &options)))
}

impl TtlAfterFinishedController {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        Self { jobs: context.caches.of(), context }
    }

    async fn sync(&self, key: &ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(job) = self.jobs.get(key) else { return Ok(None) };
        let mut op = plan(&job, self.context.clock.now());
        if let Some(Op::Send(_)) = op {
            // The time may have been prolonged, which the cache need not know yet.
            let api: Api<Job> = Api::namespaced(self.context.executor.client().clone(), &key.namespace);
            op = api.get_opt(&key.name).await?.and_then(|fresh| plan(&fresh, self.context.clock.now()));
        }
        Ok(self.context.executor.apply(op.into_iter().collect()).await?)
    }
}

impl Controller for TtlAfterFinishedController {
    fn watch(self: Arc<Self>, keys: &Keys) {
        watch_all(&self.jobs, keys);
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(self.sync(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_finished_expires() {
        let job = |condition: &str, ttl: Option<i32>| -> Job {
            let conditions = json!([{"type": condition, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
            let spec = json!({"ttlSecondsAfterFinished": ttl, "template": {}});
            serde_json::from_value(json!({"metadata": {"name": "j"}, "spec": spec, "status": {"conditions": conditions}})).unwrap()
        };
        let now: Timestamp = "2026-01-01T00:00:10Z".parse().unwrap();
        let deletes = |job: &Job| plan(job, now).map(|op| matches!(op, Op::Send(_)));
        assert_eq!(deletes(&job("Complete", Some(10))), Some(true));
        assert_eq!(deletes(&job("Failed", Some(0))), Some(true));
        assert_eq!(deletes(&job("Failed", Some(11))), Some(false));
        assert_eq!(deletes(&job("Complete", None)), None);
        assert_eq!(deletes(&job("Suspended", Some(0))), None);
    }
}
