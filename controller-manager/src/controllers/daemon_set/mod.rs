//! DaemonSets: one pod on every node that it is meant for (upstream: `pkg/controller/daemon`).
//!
//! [`placement`] knows which nodes those are, [`plan`] decides, [`history`] keeps the revisions; this file is the shell around them.

mod history;
mod placement;
mod plan;
#[cfg(test)]
mod tests;

use crate::children;
use crate::claim::{ORPHANS, candidates, claim, orphan};
use crate::controller::{Context, Controller, Keys, controller_of, watch_all, watch_owned};
use crate::ops::{Op, Request};
use client::events::reference;
use client::{Cache, Change, Expectations, ObjectKey};
use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use plan::{Look, Plan};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long the first replacement of a failed pod waits (upstream's).
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// How long later ones wait at most.
const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);

/// How pods on one node have failed.
#[derive(Clone, Copy)]
struct Failures {
    wait: Duration,
    since: Instant,
}

/// See the module's description.
pub struct DaemonSetController {
    context: Context,
    sets: Arc<Cache<DaemonSet>>,
    nodes: Arc<Cache<Node>>,
    pods: Arc<Cache<Pod>>,
    revisions: Arc<Cache<ControllerRevision>>,
    expectations: Expectations<ObjectKey>,
    /// Per set, generation of the set, and node. What nobody has asked about for twice the longest wait is dropped.
    failures: Mutex<HashMap<(ObjectKey, i64, String), Failures>>,
}

fn selects(set: &DaemonSet, labels: Option<&std::collections::BTreeMap<String, String>>) -> bool {
    set.spec.as_ref().is_some_and(|spec| api::validation::labels::matches(&spec.selector, labels))
}

impl DaemonSetController {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        let caches = &context.caches;
        let (pods, revisions): (Arc<Cache<Pod>>, Arc<Cache<ControllerRevision>>) = (caches.of(), caches.of());
        pods.add_index(ORPHANS, orphan);
        revisions.add_index(ORPHANS, orphan);
        let (sets, nodes) = (caches.of(), caches.of());
        Self { context, sets, nodes, pods, revisions, expectations: Expectations::default(), failures: Mutex::default() }
    }

    async fn sync(&self, key: &ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(set) = self.sets.get(key) else {
            self.expectations.forget(key);
            self.failures.lock().retain(|(of, ..), _| of != key);
            return Ok(None);
        };
        let (set, executor) = (set.as_ref(), &self.context.executor);
        let selector = set.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default();
        if api::validation::labels::is_empty(&selector) {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            return Ok(executor.apply(vec![Op::warning(set, "SelectingAll", message)]).await?);
        }
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let wait = self.expectations.wait(key);
        let revisions = claim(set, &candidates(&self.revisions, set), None, |revision: &ControllerRevision| {
            selects(set, revision.metadata.labels.as_ref())
        });
        let revisions = revisions.settle(executor, set).await?;
        let pods = claim(set, &candidates(&self.pods, set), None, |pod: &Pod| selects(set, pod.metadata.labels.as_ref()));
        let pods = pods.settle(executor, set).await?;
        let history = history::settle(executor, set, &revisions).await?;
        executor.apply(history::relabel(&history, &pods)).await?;
        let generation = set.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
        let held_back = |node: &str| self.held_back(key, generation, node);
        let nodes = self.nodes.list();
        let look = Look { set, nodes: &nodes, pods: &pods, hashes: &history.hashes, held_back: &held_back, now: self.context.clock.now() };
        let mut failure = None;
        let mut again = None;
        if wait.is_none() {
            let Plan { changes, failed_on, ops } = plan::plan(&look);
            for node in failed_on {
                self.note_failure(key, generation, node);
            }
            again = executor.apply(ops).await?;
            if changes != Default::default() {
                failure = children::apply(executor, &self.expectations, key, &reference(set, None), changes).await.failure;
            }
        }
        let (status, soon) = plan::status(&look, wait.is_none());
        if !plan::is_told(set, &status) {
            let told = DaemonSet { status: Some(status), ..set.clone() };
            executor.apply(vec![Op::send(Request::replace_status(&told).tolerating(&[404]))]).await?;
        }
        if let Some(failure) = failure {
            return Err(failure.into());
        }
        executor.apply(history::clean_up(set, &history, &pods)).await?;
        Ok(again.into_iter().chain(soon).chain(wait).min())
    }

    fn held_back(&self, key: &ObjectKey, generation: i64, node: &str) -> Option<Duration> {
        let failures = self.failures.lock().get(&(key.clone(), generation, node.to_owned())).copied()?;
        failures.wait.checked_sub(failures.since.elapsed()).filter(|left| !left.is_zero())
    }

    fn note_failure(&self, key: &ObjectKey, generation: i64, node: String) {
        let mut all = self.failures.lock();
        all.retain(|_, failures| failures.since.elapsed() < 2 * LONGEST_WAIT);
        let wait = all.get(&(key.clone(), generation, node.clone())).map_or(FIRST_WAIT, |before| (before.wait * 2).min(LONGEST_WAIT));
        all.insert((key.clone(), generation, node), Failures { wait, since: Instant::now() });
    }
}

/// Whether a change of a node can matter to a set.
fn concerns(set: &DaemonSet, change: &Change<Node>) -> bool {
    let spec = placement::pod_spec(set);
    let new = placement::wanted(&spec, change.object());
    match change {
        Change::Updated { old, .. } => placement::wanted(&spec, old) != new,
        Change::Added(_) | Change::Deleted(_) => new.stay,
    }
}

impl Controller for DaemonSetController {
    fn watch(self: Arc<Self>, keys: &Keys) {
        watch_all(&self.sets, keys);
        watch_owned::<DaemonSet, ControllerRevision>(&self.revisions, keys);
        let controller = Arc::downgrade(&self);
        self.pods.subscribe(move |change| {
            let key = crate::controller::controller_key::<DaemonSet, Pod>(change.object().as_ref());
            if let (Some(controller), Some(key)) = (controller.upgrade(), key) {
                children::observe(&controller.expectations, &key, change);
            }
        });
        watch_owned::<DaemonSet, Pod>(&self.pods, keys);
        let (queue, sets) = (keys.clone(), self.sets.clone());
        self.pods.subscribe(move |change| {
            let pod = change.object();
            if controller_of(pod.as_ref()).is_some() || matches!(change, Change::Deleted(_)) {
                return;
            }
            let candidates = sets.in_namespace(pod.metadata.namespace.as_deref().unwrap_or_default());
            for set in candidates.into_iter().filter(|set| selects(set, pod.metadata.labels.as_ref())) {
                queue.add(ObjectKey::of(set.as_ref()));
            }
        });
        let (queue, sets) = (keys.clone(), self.sets.clone());
        self.nodes.subscribe(move |change| {
            // Nodes report all the time; what daemons look at is their labels and taints.
            if let Change::Updated { old, new } = change
                && old.metadata.labels == new.metadata.labels
                && old.spec == new.spec
            {
                return;
            }
            for set in sets.list().into_iter().filter(|set| concerns(set, change)) {
                queue.add(ObjectKey::of(set.as_ref()));
            }
        });
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(self.sync(key))
    }
}
