//! ReplicaSets and ReplicationControllers: so many pods of a template (upstream: `pkg/controller/replicaset`, which serves both as well).

use crate::children::{self, BURST, Changes};
use crate::claim::{ORPHANS, candidates, claim, controller_reference, orphan};
use crate::controller::{Context, Controller, Keys, controller_of, watch_all, watch_owned};
use crate::ops::{Request, Whole};
use crate::pods::{self, Availability};
use crate::written::Written;
use client::cache::Cacheable;
use client::events::reference;
use client::{Cache, Change, Expectations, ObjectKey};
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    Pod, PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Resource;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

type Labels = BTreeMap<String, String>;

/// What the two kinds have in common.
pub trait Replicated: Cacheable + Whole + Resource<Scope = k8s_openapi::NamespaceResourceScope> {
    /// How many.
    fn replicas(&self) -> i32;
    /// Whether a pod with these labels is one of its own.
    fn selects(&self, labels: &Labels) -> bool;
    /// Of what.
    fn template(&self) -> Option<&PodTemplateSpec>;
    /// How long a pod has to be ready to count as available.
    fn min_ready_seconds(&self) -> i32;
    /// The status.
    fn status(&self) -> Status;
    /// The object with another status.
    fn with_status(&self, status: Status) -> Self;
}

/// Their status in one shape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// Pods that count.
    pub replicas: i32,
    /// Of these, pods with all labels of the template.
    pub fully_labeled: i32,
    /// Of these, ready ones.
    pub ready: i32,
    /// Of these, available ones.
    pub available: i32,
    /// Pods that are being deleted; ReplicationControllers do not tell.
    pub terminating: Option<i32>,
    /// The generation that this is about.
    pub observed_generation: i64,
    /// `ReplicaFailure`, if there is one; others are kept.
    pub conditions: Vec<ReplicaSetCondition>,
}

impl Replicated for ReplicaSet {
    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }
    fn selects(&self, labels: &Labels) -> bool {
        self.spec.as_ref().is_some_and(|spec| api::validation::labels::matches(&spec.selector, Some(labels)))
    }
    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }
    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }
    fn status(&self) -> Status {
        let status = self.status.clone().unwrap_or_default();
        Status {
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            terminating: status.terminating_replicas,
            observed_generation: status.observed_generation.unwrap_or(0),
            conditions: status.conditions.unwrap_or_default(),
        }
    }
    fn with_status(&self, status: Status) -> Self {
        let status = ReplicaSetStatus {
            replicas: status.replicas,
            fully_labeled_replicas: Some(status.fully_labeled),
            ready_replicas: Some(status.ready),
            available_replicas: Some(status.available),
            terminating_replicas: status.terminating,
            observed_generation: Some(status.observed_generation),
            conditions: (!status.conditions.is_empty()).then_some(status.conditions),
        };
        Self { status: Some(status), ..self.clone() }
    }
}

impl Replicated for ReplicationController {
    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }
    fn selects(&self, labels: &Labels) -> bool {
        let selector = self.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.is_some_and(|selector| !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value)))
    }
    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }
    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }
    fn status(&self) -> Status {
        let status = self.status.clone().unwrap_or_default();
        let condition = |c: ReplicationControllerCondition| ReplicaSetCondition {
            type_: c.type_,
            status: c.status,
            reason: c.reason,
            message: c.message,
            last_transition_time: c.last_transition_time,
        };
        Status {
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            terminating: None,
            observed_generation: status.observed_generation.unwrap_or(0),
            conditions: status.conditions.into_iter().flatten().map(condition).collect(),
        }
    }
    fn with_status(&self, status: Status) -> Self {
        let condition = |c: ReplicaSetCondition| ReplicationControllerCondition {
            type_: c.type_,
            status: c.status,
            reason: c.reason,
            message: c.message,
            last_transition_time: c.last_transition_time,
        };
        let status = ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: Some(status.fully_labeled),
            ready_replicas: Some(status.ready),
            available_replicas: Some(status.available),
            observed_generation: Some(status.observed_generation),
            conditions: (!status.conditions.is_empty()).then(|| status.conditions.into_iter().map(condition).collect()),
        };
        Self { status: Some(status), ..self.clone() }
    }
}

/// The pods to create or delete. `owned` are the owner's active pods, `related` those of its siblings too, which are only asked for if some have to go.
pub fn plan<R: Replicated>(owner: &R, owned: &[Arc<Pod>], related: impl FnOnce() -> Vec<Arc<Pod>>, now: Timestamp) -> Changes {
    let wanted = usize::try_from(owner.replicas()).unwrap_or(0);
    if wanted >= owned.len() {
        let meta = owner.meta();
        let (namespace, name) = (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
        let pod = || pods::from_template(owner.template(), namespace, format!("{name}-"), controller_reference(owner));
        return Changes { create: (0..(wanted - owned.len()).min(BURST)).map(|_| pod()).collect(), delete: Vec::new() };
    }
    let mut candidates = owned.to_vec();
    pods::sort_for_deletion(&mut candidates, &related(), now);
    candidates.truncate((owned.len() - wanted).min(BURST));
    Changes { create: Vec::new(), delete: candidates }
}

/// The status that follows from the pods that are there, and when to look again because a pod will have become available. Pods with the UIDs `going`
/// have been deleted, though the cache may not know: whoever rolls out by these counts must not take them for ones that serve.
pub fn status<R: Replicated>(
    owner: &R,
    owned: &[Arc<Pod>],
    going: &HashSet<String>,
    failure: Option<(&'static str, String)>,
    now: Timestamp,
) -> (Status, Option<Duration>) {
    let count = |counted: &dyn Fn(&Pod) -> bool| i32::try_from(owned.iter().filter(|pod| counted(pod)).count()).unwrap_or(i32::MAX);
    let template =
        owner.template().and_then(|template| template.metadata.as_ref()).and_then(|meta| meta.labels.clone()).unwrap_or_default();
    let labelled =
        |pod: &Pod| template.iter().all(|(key, value)| pod.metadata.labels.as_ref().and_then(|labels| labels.get(key)) == Some(value));
    let availability = |pod: &Pod| pods::availability(pod, owner.min_ready_seconds(), now);
    let old = owner.status();
    let mut conditions = old.conditions;
    match failure {
        Some((reason, message))
            if !conditions.iter().any(|c| c.type_ == "ReplicaFailure" && c.status == "True" && c.reason.as_deref() == Some(reason)) =>
        {
            conditions.retain(|condition| condition.type_ != "ReplicaFailure");
            conditions.push(ReplicaSetCondition {
                type_: "ReplicaFailure".to_owned(),
                status: "True".to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_transition_time: Some(Time(now)),
            });
        }
        Some(_) => {}
        None => conditions.retain(|condition| condition.type_ != "ReplicaFailure"),
    }
    let is_going = |pod: &Pod| pods::is_terminating(pod) || pod.metadata.uid.as_ref().is_some_and(|uid| going.contains(uid));
    let active = |pod: &Pod| pods::is_active(pod) && !is_going(pod);
    let status = Status {
        replicas: count(&active),
        fully_labeled: count(&|pod| active(pod) && labelled(pod)),
        ready: count(&|pod| active(pod) && pods::is_ready(pod)),
        available: count(&|pod| active(pod) && availability(pod) == Availability::Available),
        terminating: Some(count(&|pod| is_going(pod) && !pods::is_finished(pod))),
        observed_generation: owner.meta().generation.unwrap_or(0),
        conditions,
    };
    let soon = owned.iter().filter_map(|pod| if let Availability::In(left) = availability(pod) { Some(left) } else { None }).min();
    (status, soon.and_then(|left| Duration::try_from(left).ok()))
}

/// The controller, of either kind.
pub struct ReplicasController<R> {
    context: Context,
    owners: Arc<Cache<R>>,
    pods: Arc<Cache<Pod>>,
    expectations: Expectations<ObjectKey>,
    written: Written,
    /// The UIDs of owners whose namespace is being deleted: what goes is not made up for, which would be refused once for every pod.
    doomed: Mutex<HashMap<ObjectKey, String>>,
}

impl<R: Replicated> ReplicasController<R> {
    /// Of this kind.
    pub fn new(context: Context) -> Self {
        let (owners, pods): (_, Arc<Cache<Pod>>) = (context.caches.of(), context.caches.of());
        pods.add_index(ORPHANS, orphan);
        Self { context, owners, pods, expectations: Expectations::default(), written: Written::default(), doomed: Mutex::default() }
    }

    fn pod_changed(&self, change: &Change<Pod>) {
        if let Some(key) = crate::controller::controller_key::<R, Pod>(change.object().as_ref()) {
            children::observe(&self.expectations, &key, change);
        }
    }

    async fn sync(&self, key: &ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(owner) = self.owners.get(key) else {
            self.expectations.forget(key);
            self.written.forget(key);
            self.doomed.lock().remove(key);
            return Ok(None);
        };
        let wait = self.expectations.wait(key);
        let no_labels = Labels::new();
        let matches = |pod: &Pod| owner.selects(pod.metadata.labels.as_ref().unwrap_or(&no_labels));
        // A pod that has ended is no replica any more: nobody adopts it, and its owner keeps it.
        let mut candidates = candidates(&self.pods, owner.as_ref());
        candidates.retain(|pod| pods::is_terminating(pod) || !pods::is_finished(pod));
        let claimed = claim(owner.as_ref(), &candidates, None, matches);
        // What is adopted counts at once: or a ReplicaSet for pods that are there already would first create all of them anew.
        let owned = claimed.settle(&self.context.executor, owner.as_ref()).await?;
        let now = self.context.clock.now();
        let active: Vec<Arc<Pod>> = owned.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
        let mut failed = None;
        let mut failure = None;
        let mut has_created = false;
        if wait.is_none() && owner.meta().deletion_timestamp.is_none() {
            let mut changes = plan(owner.as_ref(), &active, || self.related(owner.as_ref(), &active), now);
            if self.doomed.lock().get(key) == owner.meta().uid.as_ref() {
                changes.create.clear();
            }
            if changes != Changes::default() {
                let reason = if changes.create.is_empty() { "FailedDelete" } else { "FailedCreate" };
                let about = reference(owner.as_ref(), None);
                let outcome = children::apply(&self.context.executor, &self.expectations, key, &about, changes).await;
                if let (true, Some(uid)) = (outcome.is_doomed, &owner.meta().uid) {
                    self.doomed.lock().insert(key.clone(), uid.clone());
                }
                has_created = outcome.created > 0 && outcome.failure.is_none();
                failed = outcome.failure;
                failure = failed.as_ref().map(|error| (reason, children::text(error)));
            }
        }
        let (mut status, soon) = status(owner.as_ref(), &owned, &self.expectations.deleting(key), failure, now);
        let old = owner.status();
        if R::kind(&()) == "ReplicationController" {
            status.terminating = None;
        }
        // Pods just created bring the key again when they show, as the last write of the status does: what is known before is out of date.
        if status != old && !has_created && self.written.has_seen(owner.as_ref()) {
            let updated = owner.with_status(status);
            let answer = self.context.executor.send(Request::replace_status(&updated).tolerating(&[404])).await?;
            self.written.note(key, &answer);
        }
        failed.map_or_else(|| Ok(soon.into_iter().chain(self.expectations.wait(key)).min()), |error| Err(error.into()))
    }

    /// The pods of all owners that have the same controller: one Deployment's ReplicaSets.
    fn related(&self, owner: &R, active: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let Some(parent) = controller_of(owner) else { return active.to_vec() };
        let siblings = self.owners.owned_by(&parent.uid);
        siblings.iter().flat_map(|sibling| self.pods.owned_by(sibling.meta().uid.as_deref().unwrap_or_default())).collect()
    }
}

impl<R: Replicated> Controller for ReplicasController<R> {
    fn watch(self: Arc<Self>, keys: &Keys) {
        watch_all(&self.owners, keys);
        let controller = Arc::downgrade(&self);
        self.pods.subscribe(move |change| {
            if let Some(controller) = controller.upgrade() {
                controller.pod_changed(change);
            }
        });
        watch_owned::<R, Pod>(&self.pods, keys);
        // An orphan may be somebody's: whoever selects it looks.
        let (keys, owners) = (keys.clone(), self.owners.clone());
        self.pods.subscribe(move |change| {
            let pod = change.object();
            if controller_of(pod.as_ref()).is_some() || matches!(change, Change::Deleted(_)) {
                return;
            }
            let labels = pod.metadata.labels.clone().unwrap_or_default();
            for owner in owners.in_namespace(pod.metadata.namespace.as_deref().unwrap_or_default()) {
                if owner.selects(&labels) {
                    keys.add(ObjectKey::of(owner.as_ref()));
                }
            }
        });
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(self.sync(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trim::held;
    use serde_json::{Value, json};

    fn replica_set(replicas: i32) -> ReplicaSet {
        let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c"}]}});
        let object = json!({
            "metadata": {"namespace": "ns", "name": "rs", "uid": "rs", "generation": 3},
            "spec": {"replicas": replicas, "minReadySeconds": 10, "selector": {"matchLabels": {"app": "web"}}, "template": template},
        });
        serde_json::from_value(object).unwrap()
    }

    fn pod(name: &str, status: Value) -> Arc<Pod> {
        let object = json!({"metadata": {"namespace": "ns", "name": name, "uid": name, "labels": {"app": "web"}}, "spec": {"containers": [], "nodeName": "n"}, "status": status});
        Arc::new(held(object))
    }

    fn now() -> Timestamp {
        "2026-01-01T00:01:00Z".parse().unwrap()
    }

    #[test]
    fn as_many_as_are_missing_or_too_many() {
        let running = [pod("a", json!({"phase": "Running"})), pod("b", json!({"phase": "Pending"}))];
        for (replicas, created, deleted) in [(0, 0, vec!["b", "a"]), (1, 0, vec!["b"]), (2, 0, vec![]), (5, 3, vec![]), (9999, 500, vec![])]
        {
            let changes = plan(&replica_set(replicas), &running, || running.to_vec(), now());
            let names: Vec<_> = changes.delete.iter().map(|pod| pod.metadata.name.as_deref().unwrap()).collect();
            assert_eq!((changes.create.len(), names), (created, deleted), "{replicas} replicas");
        }
        let created = plan(&replica_set(1), &[], Vec::new, now()).create.remove(0);
        assert_eq!(created.metadata.generate_name.as_deref(), Some("rs-"));
        assert_eq!(created.metadata.labels.unwrap().get("app").map(String::as_str), Some("web"));
        assert_eq!(created.metadata.owner_references.unwrap()[0].uid, "rs");
    }

    #[test]
    fn the_status_counts() {
        let ready = |at: &str| json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at}]});
        let pods = [
            pod("a", ready("2026-01-01T00:00:00Z")),
            pod("b", ready("2026-01-01T00:00:55Z")),
            pod("c", json!({"phase": "Pending"})),
            pod("d", json!({"phase": "Failed"})),
        ];
        let (counted, soon) = status(&replica_set(3), &pods, &HashSet::new(), None, now());
        assert_eq!((counted.replicas, counted.ready, counted.available, counted.fully_labeled), (3, 2, 1, 3));
        assert_eq!((counted.observed_generation, counted.terminating), (3, Some(0)));
        assert_eq!(soon, Some(Duration::from_secs(5)));
        let (counted, _) = status(&replica_set(3), &pods, &HashSet::from(["a".to_owned()]), None, now());
        assert_eq!((counted.replicas, counted.ready, counted.available, counted.terminating), (2, 1, 0, Some(1)), "a has been deleted");
    }

    #[test]
    fn a_failure_is_a_condition_until_it_is_over() {
        let failed = status(&replica_set(3), &[], &HashSet::new(), Some(("FailedCreate", "no".to_owned())), now()).0;
        assert_eq!(failed.conditions[0].reason.as_deref(), Some("FailedCreate"));
        let owner = replica_set(3).with_status(failed);
        let later = now() + jiff::SignedDuration::from_secs(9);
        assert_eq!(
            status(&owner, &[], &HashSet::new(), Some(("FailedCreate", "still".to_owned())), later).0.conditions,
            owner.status().conditions
        );
        assert!(status(&owner, &[], &HashSet::new(), None, later).0.conditions.is_empty());
    }
}
