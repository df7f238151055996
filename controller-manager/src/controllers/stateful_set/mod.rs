//! StatefulSets: pods with a name, a place in an order and storage that are theirs for good (upstream: `pkg/controller/statefulset`).
//!
//! [`plan`] decides, on who the pods are ([`identity`]) and what they keep ([`claims`]); [`history`] knows the revisions; this file is the shell.
//! A set's status is the ledger of where a rollout comes from, so it is never acted on in an older edition than the one last written; and nothing is done
//! to pods before the cache has seen what was done to them last.

mod claims;
mod history;
mod identity;
mod plan;
mod status;
#[cfg(test)]
mod tests;

use crate::children;
use crate::claim::{ORPHANS, candidates, claim, orphan};
use crate::controller::{Context, Controller, Keys, controller_key, controller_of, watch_all, watch_owned};
use crate::ops::{DeleteOptions, Op, PatchKind, Request};
use crate::written::Written;
use client::events::{EventType, reference};
use client::{Cache, Change, Expectations, ObjectKey};
use futures::future::{BoxFuture, join_all};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use plan::{Act, Look, Step};
use std::sync::Arc;
use std::time::Duration;

/// See the module's description.
pub struct StatefulSetController {
    context: Context,
    sets: Arc<Cache<StatefulSet>>,
    pods: Arc<Cache<Pod>>,
    claims: Arc<Cache<PersistentVolumeClaim>>,
    revisions: Arc<Cache<ControllerRevision>>,
    expectations: Expectations<ObjectKey>,
    written: Written,
}

/// Whether a set takes a pod for one of its own: by its labels and by its name.
fn selects(set: &StatefulSet, pod: &Pod) -> bool {
    let by_name = identity::parent(pod).is_some_and(|(parent, _)| Some(parent) == set.metadata.name.as_deref());
    by_name && set.spec.as_ref().is_some_and(|spec| api::validation::labels::matches(&spec.selector, pod.metadata.labels.as_ref()))
}

impl StatefulSetController {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        let caches = &context.caches;
        let (pods, revisions): (Arc<Cache<Pod>>, Arc<Cache<ControllerRevision>>) = (caches.of(), caches.of());
        pods.add_index(ORPHANS, orphan);
        revisions.add_index(ORPHANS, orphan);
        let (sets, claims) = (caches.of(), caches.of());
        Self { context, sets, pods, claims, revisions, expectations: Expectations::default(), written: Written::default() }
    }

    async fn sync(&self, key: &ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(set) = self.sets.get(key) else {
            self.expectations.forget(key);
            self.written.forget(key);
            return Ok(None);
        };
        if !self.written.has_seen(set.as_ref()) || identity::spec(&set).selector == Default::default() {
            return Ok(None);
        }
        let (set, executor) = (set.as_ref(), &self.context.executor);
        let wait = self.expectations.wait(key);
        let revisions = self.own_revisions(set).await?;
        let claimed = claim(set, &candidates(&self.pods, set), None, |pod: &Pod| selects(set, pod));
        let pods = claimed.settle(executor, set).await?;
        let history = history::settle(executor, set, &revisions).await?;

        let find = |name: &str| self.claims.get(&ObjectKey::new(&key.namespace, name));
        let look = Look {
            set,
            pods: &pods,
            claims: &find,
            current: &history.current,
            update: &history.update,
            collisions: history.collisions,
            now: self.context.clock.now(),
        };
        let mut planned = plan::plan(look);
        if wait.is_some() {
            planned.steps.clear();
        }
        let done = self.take(key, set, planned.steps).await;
        let status = status::told(set, planned.status);
        if !status::is_told(set, &status) {
            let mut told = set.clone();
            told.status = Some(status);
            let answer = executor.send(Request::replace_status(&told).tolerating(&[404])).await?;
            self.written.note(key, &answer);
        }
        done?;
        executor.apply(history::clean_up(set, &revisions, &history, &pods)).await?;
        Ok(planned.soon.into_iter().chain(wait).min())
    }

    /// The revisions that belong to a set. Those that nobody controls any more are adopted; none is let go.
    async fn own_revisions(&self, set: &StatefulSet) -> anyhow::Result<Vec<Arc<ControllerRevision>>> {
        let selector = identity::spec(set).selector;
        let mut claimed = claim(set, &candidates(&self.revisions, set), None, |revision: &ControllerRevision| {
            api::validation::labels::matches(&selector, revision.metadata.labels.as_ref())
        });
        claimed.release.clear();
        Ok(claimed.settle(&self.context.executor, set).await?)
    }

    /// Takes the steps: one after the other, or in parallel, more with every round that goes well. The first failure ends it.
    async fn take(&self, key: &ObjectKey, set: &StatefulSet, steps: Vec<Step>) -> anyhow::Result<()> {
        let created = steps.iter().filter(|step| step.act == Act::Create).count();
        let deleted = steps.iter().filter(|step| step.act == Act::Delete).filter_map(|step| step.pod.metadata.uid.clone());
        if steps.is_empty() {
            return Ok(());
        }
        self.expectations.expect(key, created, deleted);
        let mut left = steps.into_iter();
        let mut batch = 1;
        let mut failure = None;
        while failure.is_none() && left.len() > 0 {
            let round: Vec<Step> = left.by_ref().take(batch).collect();
            let answers = join_all(round.iter().map(|step| self.step(set, step))).await;
            for (step, answer) in round.iter().zip(answers) {
                match answer {
                    Ok(true) => {}
                    Ok(false) => self.nothing_will_be_seen(key, step),
                    Err(error) => {
                        self.nothing_will_be_seen(key, step);
                        failure.get_or_insert(error);
                    }
                }
            }
            batch = if plan::is_parallel(set) { batch * 2 } else { 1 };
        }
        for step in left {
            self.nothing_will_be_seen(key, &step);
        }
        failure.map_or(Ok(()), Err)
    }

    fn nothing_will_be_seen(&self, key: &ObjectKey, step: &Step) {
        match step.act {
            Act::Create => self.expectations.creation_observed(key),
            Act::Delete => self.expectations.deletion_observed(key, step.pod.metadata.uid.as_deref().unwrap_or_default()),
            Act::Update | Act::Claims => {}
        }
    }

    /// Takes one step. Whether anything changed that the watch will tell of.
    async fn step(&self, set: &StatefulSet, step: &Step) -> anyhow::Result<bool> {
        let executor = &self.context.executor;
        let pod = step.pod.as_ref();
        if let Err(error) = self.see_to_claims(set, step).await {
            let is_news = !error.downcast_ref().is_some_and(crate::ops::namespace_is_terminating);
            if is_news && matches!(step.act, Act::Create | Act::Update) {
                self.tell(set, step.act, pod, Some(&format!("{error:#}")));
            }
            return Err(error);
        }
        let request = match step.act {
            Act::Create => Request::create(pod),
            Act::Update => Request::patch::<Pod>(&ObjectKey::of(pod), "", PatchKind::Strategic, identity::repairing(pod)),
            Act::Delete => {
                let options = DeleteOptions { uid: pod.metadata.uid.clone(), ..DeleteOptions::default() };
                Request::delete::<Pod>(&ObjectKey::of(pod), &options).tolerating(&[404, 409])
            }
            Act::Claims => return Ok(false),
        };
        match executor.send(request).await {
            Ok(answer) => {
                if !answer.is_null() {
                    self.tell(set, step.act, pod, None);
                }
                Ok(!answer.is_null())
            }
            // The pod before it is still there, or the cache is late: its end, or its arrival, will tell.
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Err(kube::Error::Api(status).into()),
            Err(error) => {
                if !crate::ops::namespace_is_terminating(&error) {
                    self.tell(set, step.act, pod, Some(&children::text(&error)));
                }
                Err(error.into())
            }
        }
    }

    fn tell(&self, set: &StatefulSet, act: Act, pod: &Pod, error: Option<&str>) {
        let (pod, name) = (pod.metadata.name.as_deref().unwrap_or_default(), set.metadata.name.as_deref().unwrap_or_default());
        let (event_type, reason, outcome) = match error {
            None => (EventType::Normal, format!("Successful{act:?}"), "successful".to_owned()),
            Some(error) => (EventType::Warning, format!("Failed{act:?}"), format!("failed error: {error}")),
        };
        let message = format!("{act:?} Pod {pod} in StatefulSet {name} {outcome}");
        self.context.executor.recorder().record(reference(set, None), event_type, &reason, message, "");
    }

    async fn see_to_claims(&self, set: &StatefulSet, step: &Step) -> anyhow::Result<()> {
        let executor = &self.context.executor;
        let (pod, name) = (step.pod.metadata.name.as_deref().unwrap_or_default(), set.metadata.name.as_deref().unwrap_or_default());
        for claim in &step.claims.create {
            let claim_name = claim.metadata.name.as_deref().unwrap_or_default();
            match executor.send(Request::create(claim)).await {
                Ok(_) => {
                    let message = format!("Create Claim {claim_name} Pod {pod} in StatefulSet {name} success");
                    executor.apply(vec![Op::normal(set, "SuccessfulCreate", message)]).await?;
                }
                // The cache has not seen it yet.
                Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {}
                Err(error) if crate::ops::namespace_is_terminating(&error) => return Err(error.into()),
                Err(error) => {
                    let text = children::text(&error);
                    let message = format!("Create Claim {claim_name} for Pod {pod} in StatefulSet {name} failed error: {text}");
                    executor.apply(vec![Op::warning(set, "FailedCreate", message)]).await?;
                    anyhow::bail!("failed to create PVC {claim_name}: {text}");
                }
            }
        }
        if let Some(going) = &step.claims.going {
            anyhow::bail!("pvc {going} is being deleted");
        }
        for claim in &step.claims.replace {
            executor.send(Request::replace(claim).tolerating(&[404])).await?;
        }
        Ok(())
    }
}

impl Controller for StatefulSetController {
    fn watch(self: Arc<Self>, keys: &Keys) {
        watch_all(&self.sets, keys);
        watch_owned::<StatefulSet, ControllerRevision>(&self.revisions, keys);
        let controller = Arc::downgrade(&self);
        self.pods.subscribe(move |change| {
            let key = controller_key::<StatefulSet, Pod>(change.object().as_ref());
            if let (Some(controller), Some(key)) = (controller.upgrade(), key) {
                children::observe(&controller.expectations, &key, change);
            }
        });
        watch_owned::<StatefulSet, Pod>(&self.pods, keys);
        let (queue, sets) = (keys.clone(), self.sets.clone());
        self.pods.subscribe(move |change| {
            let pod = change.object();
            if controller_of(pod.as_ref()).is_some() || matches!(change, Change::Deleted(_)) {
                return;
            }
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let named = identity::parent(pod).and_then(|(parent, _)| sets.get(&ObjectKey::new(namespace, parent)));
            if let Some(set) = named.filter(|set| selects(set, pod)) {
                queue.add(ObjectKey::of(set.as_ref()));
            }
        });
        // A pod may be waiting for the end of the claim of the pod before it.
        let (queue, sets) = (keys.clone(), self.sets.clone());
        self.claims.subscribe(move |change| {
            let Change::Deleted(claim) = change else { return };
            let (namespace, name) =
                (claim.metadata.namespace.as_deref().unwrap_or_default(), claim.metadata.name.as_deref().unwrap_or_default());
            for set in sets.in_namespace(namespace).into_iter().filter(|set| claims::is_named_like(set, name)) {
                queue.add(ObjectKey::of(set.as_ref()));
            }
        });
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(self.sync(key))
    }
}
