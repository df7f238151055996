//! Deployments: a ReplicaSet per version of the template, and the way from one to the next (upstream: `pkg/controller/deployment`).
//!
//! [`plan`] decides, on the numbers in [`replica_sets`], with the conditions of [`status`]; this file is the shell around it. Unlike upstream's, it does
//! not act before its cache has the ReplicaSets as it wrote them last: or a Deployment that changes again in that moment would get a ReplicaSet more
//! without counting the one before, and so more replicas than its surge allows.

mod plan;
mod replica_sets;
mod rollback;
mod status;

use crate::children;
use crate::claim::claim;
use crate::controller::{Context, Controller, Keys, controller_key, controller_of, watch_all, watch_owned};
use crate::ops::{Op, Request, is_unclear};
use crate::pods;
use crate::written::{Written, WrittenChildren};
use client::{Cache, Change, ObjectKey};
use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use parking_lot::Mutex;
use plan::Plan;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// See the module's description.
pub struct DeploymentController {
    context: Context,
    deployments: Arc<Cache<Deployment>>,
    replica_sets: Arc<Cache<ReplicaSet>>,
    pods: Arc<Cache<Pod>>,
    /// The Deployments themselves, as they were written last.
    own: Written,
    written: WrittenChildren,
    /// ReplicaSets, by Deployment, of which nobody knows whether the last write to them was carried out: names, one for each write that got no clear answer.
    unclear: Mutex<HashMap<ObjectKey, BTreeSet<String>>>,
}

impl DeploymentController {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        let caches = &context.caches;
        Self {
            deployments: caches.of(),
            replica_sets: caches.of(),
            pods: caches.of(),
            own: Written::default(),
            written: WrittenChildren::default(),
            unclear: Mutex::default(),
            context,
        }
    }

    async fn sync(&self, key: &ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(deployment) = self.deployments.get(key) else {
            self.own.forget(key);
            self.written.forget(key);
            self.unclear.lock().remove(key);
            return Ok(None);
        };
        if !self.own.has_seen(deployment.as_ref()) {
            return Ok(None);
        }
        let executor = &self.context.executor;
        let selector = deployment.spec.as_ref().map(|spec| &spec.selector);
        if selector.is_some_and(api::validation::labels::is_empty) {
            executor
                .apply(vec![Op::warning(
                    deployment.as_ref(),
                    "SelectingAll",
                    "This deployment is selecting all pods. A non-empty selector is required.",
                )])
                .await?;
            return Ok(None);
        }
        let candidates = self.replica_sets.in_namespace(&key.namespace);
        self.clear_up(key).await?;
        if let Some(wait) = self.written.wait(key, &candidates) {
            return Ok(Some(wait));
        }
        let claimed = claim(deployment.as_ref(), &candidates, None, |set: &ReplicaSet| {
            selector.is_some_and(|selector| api::validation::labels::matches(selector, set.metadata.labels.as_ref()))
        });
        let owned = claimed.settle(executor, deployment.as_ref()).await?;
        let pods_left = |set: &ReplicaSet| {
            let pods = self.pods.owned_by(set.metadata.uid.as_deref().unwrap_or_default());
            pods.iter().any(|pod| !pods::is_finished(pod))
        };
        let Plan { ops, created, mut status_of } = plan::plan(&deployment, &owned, &pods_left, self.context.clock.now());
        if let Some(new) = created
            && let Err(error) = self.write(key, Request::create(new.as_ref())).await
        {
            return self.creation_failed(key, &deployment, &new, error, status_of.take()).await;
        }
        let mut again: Option<Duration> = None;
        for op in ops {
            match op {
                Op::Send(request) if writes_replica_set(&request) => self.write(key, *request).await?,
                Op::Send(request) if request.body["kind"] == "Deployment" => self.own.note(key, &executor.send(*request).await?),
                other => again = executor.apply(vec![other]).await?.into_iter().chain(again).min(),
            }
        }
        Ok(again)
    }

    /// Creates or changes a ReplicaSet, and remembers what the cache has to show before the next step.
    async fn write(&self, key: &ObjectKey, request: Request) -> Result<(), kube::Error> {
        let name = request.name.clone();
        match self.context.executor.send(request).await {
            Ok(answer) => {
                self.written.note(key, &answer);
                Ok(())
            }
            Err(error) => {
                if is_unclear(&error) {
                    self.unclear.lock().entry(key.clone()).or_default().insert(name);
                }
                Err(error)
            }
        }
    }

    /// Asks the apiserver what became of writes that got no clear answer.
    async fn clear_up(&self, key: &ObjectKey) -> Result<(), kube::Error> {
        let unclear = self.unclear.lock().get(key).cloned().unwrap_or_default();
        let api: Api<ReplicaSet> = Api::namespaced(self.context.executor.client().clone(), &key.namespace);
        for name in unclear {
            if let Some(found) = api.get_opt(&name).await? {
                self.written.note_object(key, &found);
            }
            if let Some(names) = self.unclear.lock().get_mut(key) {
                names.remove(&name);
            }
        }
        self.unclear.lock().retain(|_, names| !names.is_empty());
        Ok(())
    }

    /// A ReplicaSet of that name exists: ours, and only the cache is late; or another's, and the hash needs another seed. Any other failure is told.
    async fn creation_failed(
        &self,
        key: &ObjectKey,
        deployment: &Deployment,
        new: &ReplicaSet,
        error: kube::Error,
        failed: Option<Box<Deployment>>,
    ) -> anyhow::Result<Option<Duration>> {
        let name = new.metadata.name.as_deref().unwrap_or_default();
        match &error {
            kube::Error::Api(status) if status.reason == "AlreadyExists" => {
                let api: Api<ReplicaSet> =
                    Api::namespaced(self.context.executor.client().clone(), new.metadata.namespace.as_deref().unwrap_or_default());
                let existing = api.get(name).await?;
                let ours = controller_of(&existing).is_some_and(|owner| Some(&owner.uid) == deployment.metadata.uid.as_ref());
                if ours && replica_sets::same_template(&existing, deployment) {
                    self.written.note_object(key, &existing);
                    return Ok(self.written.wait(key, &self.replica_sets.in_namespace(&key.namespace)));
                }
                let mut updated = deployment.clone();
                let status = updated.status.get_or_insert_default();
                status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
                self.context.executor.apply(vec![Op::send(Request::replace_status(&updated))]).await?;
                Ok(None)
            }
            _ if crate::ops::namespace_is_terminating(&error) => Ok(None),
            _ => {
                let message = format!("Failed to create new replica set \"{name}\": {}", children::text(&error));
                let mut ops = vec![Op::warning(deployment, "ReplicaSetCreateError", message.clone())];
                if let Some(failed) = failed {
                    ops.push(Op::send(Request::replace_status(&status::creation_failed(*failed, &message, self.context.clock.now()))));
                }
                self.context.executor.apply(ops).await?;
                Err(error.into())
            }
        }
    }
}

fn writes_replica_set(request: &Request) -> bool {
    request.method != "DELETE" && request.body["kind"] == "ReplicaSet"
}

impl Controller for DeploymentController {
    fn watch(self: Arc<Self>, keys: &Keys) {
        watch_all(&self.deployments, keys);
        let controller = Arc::downgrade(&self);
        self.replica_sets.subscribe(move |change| {
            let Change::Deleted(set) = change else { return };
            if let (Some(controller), Some(key)) = (controller.upgrade(), controller_key::<Deployment, ReplicaSet>(set.as_ref())) {
                controller.written.deleted(&key, set.as_ref());
            }
        });
        watch_owned::<Deployment, ReplicaSet>(&self.replica_sets, keys);
        let (queue, deployments) = (keys.clone(), self.deployments.clone());
        self.replica_sets.subscribe(move |change| {
            let set = change.object();
            if controller_of(set.as_ref()).is_some() || matches!(change, Change::Deleted(_)) {
                return;
            }
            for deployment in deployments.in_namespace(set.metadata.namespace.as_deref().unwrap_or_default()) {
                let selector = deployment.spec.as_ref().map(|spec| &spec.selector);
                if selector.is_some_and(|selector| api::validation::labels::matches(selector, set.metadata.labels.as_ref())) {
                    queue.add(ObjectKey::of(deployment.as_ref()));
                }
            }
        });
        // Recreate waits until the last old pod is gone.
        let (queue, sets, deployments) = (keys.clone(), self.replica_sets.clone(), self.deployments.clone());
        self.pods.subscribe(move |change| {
            let gone = matches!(change, Change::Deleted(_)) || pods::is_finished(change.object());
            let Some(set) =
                gone.then(|| controller_key::<ReplicaSet, Pod>(change.object().as_ref())).flatten().and_then(|key| sets.get(&key))
            else {
                return;
            };
            let Some(deployment) = controller_key::<Deployment, ReplicaSet>(set.as_ref()).and_then(|key| deployments.get(&key)) else {
                return;
            };
            if replica_sets::strategy(&deployment) == replica_sets::Strategy::Recreate {
                queue.add(ObjectKey::of(deployment.as_ref()));
            }
        });
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(self.sync(key))
    }
}
