//! CronJobs: a Job at every time of a schedule (upstream: `pkg/controller/cronjob`). [`plan`] decides; this file is the shell around it.

mod plan;
mod schedule;

use crate::children;
use crate::controller::{Context, Controller, Keys, controller_of, watch_all, watch_owned};
use crate::ops::{DeleteOptions, Op, Propagation, Request, namespace_is_terminating};
use crate::written::Written;
use client::{Cache, ObjectKey};
use futures::future::BoxFuture;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use kube::Api;
use std::sync::Arc;
use std::time::Duration;

/// See the module's description.
pub struct CronJobController {
    context: Context,
    cron_jobs: Arc<Cache<CronJob>>,
    jobs: Arc<Cache<Job>>,
    written: Written,
}

impl CronJobController {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        Self { cron_jobs: context.caches.of(), jobs: context.caches.of(), written: Written::default(), context }
    }

    async fn sync(&self, key: &ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(cron_job) = self.cron_jobs.get(key) else {
            self.written.forget(key);
            return Ok(None);
        };
        if !self.written.has_seen(cron_job.as_ref()) {
            return Ok(None);
        }
        let executor = &self.context.executor;
        let jobs = self.jobs.owned_by(cron_job.metadata.uid.as_deref().unwrap_or_default());
        let missing = self.missing(&cron_job, &jobs).await?;
        let mut plan = plan::plan(&cron_job, &jobs, &missing, self.context.clock.now());
        executor.apply(plan.events).await?;
        for entry in plan.replace {
            self.delete(&cron_job, &ObjectKey::new(&key.namespace, entry.name.unwrap_or_default()), entry.uid).await?;
        }
        let mut failure = None;
        if let Some((job, due)) = plan.create {
            match self.create(&cron_job, &job).await {
                Ok(Some(job)) => plan::started(&mut plan.status, &job, due),
                Ok(None) => return Ok(None),
                Err(error) => failure = Some(error),
            }
        }
        for job in plan::surplus(&cron_job, &jobs) {
            self.delete(&cron_job, &ObjectKey::of(job.as_ref()), job.metadata.uid.clone()).await?;
        }
        self.write(key, &cron_job, plan.status).await?;
        match failure {
            Some(error) => Err(error),
            None => Ok(plan.after.map(|after| Duration::try_from(after).unwrap_or_default())),
        }
    }

    async fn write(&self, key: &ObjectKey, cron_job: &CronJob, mut status: CronJobStatus) -> anyhow::Result<()> {
        status.active = status.active.filter(|active| !active.is_empty());
        if status != cron_job.status.clone().unwrap_or_default() {
            let updated = CronJob { status: Some(status), ..cron_job.clone() };
            let answer = self.context.executor.send(Request::replace_status(&updated).tolerating(&[404])).await?;
            self.written.note(key, &answer);
        }
        Ok(())
    }

    /// The UIDs of listed Jobs that are not there, says the apiserver.
    async fn missing(&self, cron_job: &CronJob, jobs: &[Arc<Job>]) -> anyhow::Result<Vec<String>> {
        let listed = cron_job.status.iter().flat_map(|status| status.active.iter().flatten());
        let api: Api<Job> =
            Api::namespaced(self.context.executor.client().clone(), cron_job.metadata.namespace.as_deref().unwrap_or_default());
        let mut missing = Vec::new();
        for entry in listed.filter(|entry| !jobs.iter().any(|job| job.metadata.uid == entry.uid)) {
            let (Some(name), Some(uid)) = (&entry.name, &entry.uid) else { continue };
            if api.get_opt(name).await?.is_none_or(|job| job.metadata.uid.as_ref() != Some(uid)) {
                missing.push(uid.clone());
            }
        }
        Ok(missing)
    }

    /// The Job as it is then; one that is there already and ours will do. `None`: the namespace is going.
    async fn create(&self, cron_job: &CronJob, job: &Job) -> anyhow::Result<Option<Job>> {
        let executor = &self.context.executor;
        let name = job.metadata.name.clone().unwrap_or_default();
        match executor.send(Request::create(job)).await {
            Ok(answer) => {
                executor.apply(vec![Op::normal(cron_job, "SuccessfulCreate", format!("Created job {name}"))]).await?;
                Ok(Some(serde_json::from_value(answer)?))
            }
            Err(error) if namespace_is_terminating(&error) => Ok(None),
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                let api: Api<Job> = Api::namespaced(executor.client().clone(), job.metadata.namespace.as_deref().unwrap_or_default());
                let existing = api.get(&name).await?;
                let ours = controller_of(&existing).is_some_and(|owner| Some(&owner.uid) == cron_job.metadata.uid.as_ref());
                anyhow::ensure!(ours, "job {name} exists and is not controlled by the CronJob");
                Ok(Some(existing))
            }
            Err(error) => {
                let message = format!("Error creating job: {}", children::text(&error));
                executor.apply(vec![Op::warning(cron_job, "FailedCreate", message)]).await?;
                Err(error.into())
            }
        }
    }

    async fn delete(&self, cron_job: &CronJob, key: &ObjectKey, uid: Option<String>) -> anyhow::Result<()> {
        let options = DeleteOptions { uid, propagation: Some(Propagation::Background), ..DeleteOptions::default() };
        let answer = self.context.executor.send(Request::delete::<Job>(key, &options).tolerating(&[404, 409])).await;
        let op = match &answer {
            Ok(answer) if answer.is_null() => return Ok(()),
            Ok(_) => Op::normal(cron_job, "SuccessfulDelete", format!("Deleted job {}", key.name)),
            Err(error) => Op::warning(cron_job, "FailedDelete", format!("Deleted job: {}", children::text(error))),
        };
        self.context.executor.apply(vec![op]).await?;
        answer?;
        Ok(())
    }
}

impl Controller for CronJobController {
    fn watch(self: Arc<Self>, keys: &Keys) {
        watch_all(&self.cron_jobs, keys);
        watch_owned::<CronJob, Job>(&self.jobs, keys);
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(self.sync(key))
    }
}
