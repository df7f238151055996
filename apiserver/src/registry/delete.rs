//! Delete: at once, after a grace period, or when the last finalizer is gone
//! (upstream: `registry/rest/delete.go`, `registry/generic/registry/store.go` Delete).

use super::create::now;
use super::read::Listing;
use super::update::Current;
use super::{Endpoint, MODIFIED, Registry, Write, keys, metadata, store_error};
use crate::admission::Operation;
use crate::encoding;
use crate::handlers::parameters::{DeleteParameters, ListParameters, Propagation};
use crate::notes::Notes;
use crate::store::{Expect, StoreError};
use api::resources::apiextensions::custom_resource_definition;
use api::{Object, StatusError, status::Result};
use bytes::Bytes;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, StatusDetails, Time};
use k8s_openapi::jiff::SignedDuration;
use serde_json::Value;

/// Finalizers by which the garbage collector is told what to do with dependents.
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// How often a delete is tried again that lost a race.
const ATTEMPTS: usize = 64;
/// How many objects of a collection are deleted at a time: enough to fill the store's batches.
const COLLECTION_WIDTH: usize = 32;

/// Kinds whose dependents stay by default (upstream: `DefaultGarbageCollectionPolicy`).
const ORPHANING: &[(&str, &str)] = &[("", "replicationcontrollers"), ("batch", "jobs")];
/// Kinds that have no dependents, so that nobody waits for the garbage collector.
const UNCOLLECTED: &[(&str, &str)] = &[("", "events"), ("events.k8s.io", "events")];
/// Kinds whose deletion answers with the object even if it is gone (upstream: `ReturnDeletedObject`).
const RETURNED: &[(&str, &str)] = &[
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("", "pods"),
    ("", "podtemplates"),
    ("", "resourcequotas"),
    ("", "serviceaccounts"),
    ("", "services"),
    ("resource.k8s.io", "deviceclasses"),
    ("resource.k8s.io", "resourceclaims"),
    ("resource.k8s.io", "resourceclaimtemplates"),
    ("resource.k8s.io", "resourceslices"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "volumeattachments"),
    ("storage.k8s.io", "volumeattributesclasses"),
];

fn listed(table: &[(&str, &str)], endpoint: &Endpoint) -> bool {
    table.iter().any(|(group, plural)| *group == endpoint.row.group && *plural == endpoint.row.plural)
}

/// What a deletion came to.
pub enum Deleted {
    /// The object is gone; what it last was.
    Gone(Bytes),
    /// The object is there until its grace period or its finalizers are over.
    Pending(Bytes),
}

/// What is to happen to an object.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Take it out of the store.
    Remove,
    /// Write it back as changed; it stays.
    Mark,
    /// Write it back as changed, then take it out: those who watch it see why it went.
    MarkAndRemove,
    /// It is already on its way and nothing changes.
    Leave,
}

/// The finalizers the object should have for what becomes of its dependents.
fn collection_finalizers(endpoint: &Endpoint, finalizers: &[String], options: &DeleteParameters) -> Vec<String> {
    let has = |name: &str| finalizers.iter().any(|f| f == name);
    let (orphan, foreground) = if listed(UNCOLLECTED, endpoint) {
        (false, false)
    } else {
        match (options.orphan_dependents, options.propagation) {
            (Some(orphan), _) => (orphan, false),
            (None, Some(policy)) => (policy == Propagation::Orphan, policy == Propagation::Foreground),
            (None, None) if has(ORPHAN) => (true, false),
            (None, None) if has(FOREGROUND) => (false, true),
            (None, None) => (listed(ORPHANING, endpoint), false),
        }
    };
    let mut out: Vec<String> = finalizers.iter().filter(|f| *f != ORPHAN && *f != FOREGROUND).cloned().collect();
    if orphan {
        out.push(ORPHAN.into());
    }
    if foreground {
        out.push(FOREGROUND.into());
    }
    out
}

/// How long a pod may take to end, in seconds: at once if nobody runs it.
fn pod_grace(pod: &Pod, asked: Option<i64>) -> i64 {
    let spec = pod.spec.as_ref();
    let wanted = asked.or(spec.and_then(|s| s.termination_grace_period_seconds)).unwrap_or(0);
    let unscheduled = spec.and_then(|s| s.node_name.as_deref()).unwrap_or("").is_empty();
    let over = matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
    match (unscheduled || over, wanted) {
        (true, _) => 0,
        (false, negative) if negative < 0 => 1,
        (false, wanted) => wanted,
    }
}

fn raise_generation(meta: &mut ObjectMeta) {
    if let Some(generation) = meta.generation.filter(|g| *g > 0) {
        meta.generation = Some(generation + 1);
    }
}

fn later(from: &Time, seconds: i64) -> Time {
    Time(from.0.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(from.0))
}

/// A definition goes once nothing holds it any more; the first deletion makes it wait for its objects.
fn decide_definition(definition: &mut CustomResourceDefinition, now: &Time) -> Step {
    if definition.metadata.deletion_timestamp.is_none() {
        custom_resource_definition::mark_deleted(definition, now);
        return Step::Mark;
    }
    if definition.metadata.finalizers.as_ref().is_none_or(Vec::is_empty) { Step::Remove } else { Step::Leave }
}

/// Decides what happens to the object, and changes its metadata accordingly.
fn decide(endpoint: &Endpoint, object: &mut dyn Object, options: &DeleteParameters, now: &Time) -> Step {
    let grace = match object.downcast_ref::<Pod>() {
        None => None,
        Some(pod) => match plan_grace(pod, options.grace_period_seconds) {
            Grace::Pending => return Step::Leave,
            Grace::None => None,
            Grace::Start(seconds) => Some((seconds, later(now, seconds), true)),
            Grace::Shorten(seconds, until) => Some((seconds, until, false)),
        },
    };
    if let Some(namespace) = object.downcast_mut::<Namespace>() {
        return decide_namespace(endpoint, namespace, options, now);
    }
    if let Some(definition) = object.downcast_mut::<CustomResourceDefinition>() {
        return decide_definition(definition, now);
    }
    let meta = object.metadata_mut();
    let before = meta.finalizers.clone().unwrap_or_default();
    let after = collection_finalizers(endpoint, &before, options);
    let held = !after.is_empty();
    if after != before {
        meta.finalizers = held.then_some(after);
    }
    match grace {
        Some((seconds, until, first)) => {
            if first {
                raise_generation(meta);
            }
            meta.deletion_timestamp = Some(until);
            meta.deletion_grace_period_seconds = Some(seconds);
            if held || seconds > 0 { Step::Mark } else { Step::MarkAndRemove }
        }
        None if held => {
            if meta.deletion_timestamp.is_none() {
                raise_generation(meta);
            }
            if meta.deletion_timestamp.as_ref().is_none_or(|t| t.0 > now.0) {
                meta.deletion_timestamp = Some(now.clone());
            }
            meta.deletion_grace_period_seconds = Some(0);
            Step::Mark
        }
        None => Step::Remove,
    }
}

/// A namespace waits for the namespace controller, which empties it and then takes its own finalizer from the spec.
fn decide_namespace(endpoint: &Endpoint, namespace: &mut Namespace, options: &DeleteParameters, now: &Time) -> Step {
    let emptied = namespace.spec.as_ref().is_none_or(|s| s.finalizers.as_ref().is_none_or(Vec::is_empty));
    let meta = &mut namespace.metadata;
    let before = meta.finalizers.clone().unwrap_or_default();
    let after = collection_finalizers(endpoint, &before, options);
    if meta.deletion_timestamp.is_some() {
        return if emptied && after.is_empty() { Step::Remove } else { Step::Leave };
    }
    meta.finalizers = (!after.is_empty()).then_some(after);
    meta.deletion_timestamp = Some(now.clone());
    namespace.status.get_or_insert_default().phase = Some("Terminating".into());
    if emptied && namespace.metadata.finalizers.is_none() { Step::Remove } else { Step::Mark }
}

enum Grace {
    None,
    Start(i64),
    Shorten(i64, Time),
    Pending,
}

fn plan_grace(pod: &Pod, asked: Option<i64>) -> Grace {
    let asked = asked.map(|seconds| if seconds < 0 { 1 } else { seconds });
    let meta = &pod.metadata;
    match (&meta.deletion_timestamp, meta.deletion_grace_period_seconds) {
        (None, _) => Grace::Start(pod_grace(pod, asked)),
        (Some(_), None) => Grace::None,
        (Some(until), Some(present)) => match asked {
            // A grace period that runs can only be shortened.
            Some(seconds) if seconds < present => Grace::Shorten(seconds, later(until, seconds - present)),
            _ => Grace::Pending,
        },
    }
}

/// Whether an update leaves an object that was only waiting to be let go.
pub(super) fn ends_with_update(object: &dyn Object) -> bool {
    let meta = object.metadata();
    let waiting = meta.deletion_timestamp.is_some() && meta.deletion_grace_period_seconds.unwrap_or(0) == 0;
    let held = meta.finalizers.as_ref().is_some_and(|f| !f.is_empty());
    let emptied =
        object.downcast_ref::<Namespace>().is_none_or(|n| n.spec.as_ref().is_none_or(|s| s.finalizers.as_ref().is_none_or(Vec::is_empty)));
    waiting && !held && emptied
}

/// Who deletes a job without saying what becomes of its pods may not expect that they stay.
fn warn_of_orphans(endpoint: &Endpoint, options: &DeleteParameters, notes: &Notes) {
    let unsaid = options.propagation.is_none() && options.orphan_dependents.is_none();
    if unsaid && endpoint.row.plural == "jobs" && endpoint.row.group == "batch" {
        notes.warn(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set \
             propagationPolicy=Orphan to suppress this warning",
        );
    }
}

/// Upstream names the kind, not the resource, when a precondition of a deletion fails.
fn check_preconditions(endpoint: &Endpoint, name: &str, object: &ObjectMeta, version: &str, options: &DeleteParameters) -> Result<()> {
    let refuse = |why: String| Err(StatusError::conflict(&endpoint.row.group, &endpoint.row.kind, name, &why));
    let uid = object.uid.as_deref().unwrap_or("");
    if let Some(wanted) = options.preconditions.uid.as_deref().filter(|w| *w != uid) {
        return refuse(format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). \
             The object might have been deleted and then recreated"
        ));
    }
    if let Some(wanted) = options.preconditions.resource_version.as_deref().filter(|w| *w != version) {
        return refuse(format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). \
             The object might have been modified"
        ));
    }
    Ok(())
}

impl Registry {
    /// Deletes the object `write` names.
    pub async fn delete(&self, write: &Write<'_>, options: &DeleteParameters) -> Result<Deleted> {
        for attempt in 0..ATTEMPTS {
            let Some(current) = self.current(write, attempt > 0).await? else {
                return Err(write.endpoint.not_found(write.name));
            };
            if let Some(deleted) = self.delete_once(write, options, current).await? {
                return Ok(deleted);
            }
        }
        Err(write.endpoint.conflict(write.name, MODIFIED))
    }

    async fn delete_once(&self, write: &Write<'_>, options: &DeleteParameters, current: Current) -> Result<Option<Deleted>> {
        let endpoint = write.endpoint;
        check_preconditions(endpoint, write.name, current.typed.metadata(), metadata::text(&current.value, "resourceVersion"), options)?;
        warn_of_orphans(endpoint, options, write.notes);
        self.mutate(write, Operation::Delete, None, Some(&*current.typed), [&Value::Null, &current.managed]).await?;
        self.validate(write, Operation::Delete, write.name, None, Some(&*current.typed), [&Value::Null, &current.managed]).await?;
        let mut typed = current.typed.boxed_clone();
        let step = decide(endpoint, &mut *typed, options, &now());
        let mut value = typed.to_value();
        metadata::put_managed_fields(&mut value, current.managed.clone());
        match step {
            Step::Leave => {
                metadata::of(&mut value).insert("resourceVersion".into(), metadata::text(&current.value, "resourceVersion").into());
                Ok(Some(Deleted::Pending(super::print(&value))))
            }
            Step::Mark => Ok(self.swap(write, value, &current, false).await?.map(Deleted::Pending)),
            Step::Remove => self.remove(write, value, &current).await,
            Step::MarkAndRemove if write.dry_run => Ok(Some(Deleted::Gone(super::print(&value)))),
            Step::MarkAndRemove => {
                let Some(_) = self.swap(write, value.clone(), &current, false).await? else { return Ok(None) };
                // Whoever changes it now does so to an object that is already going: it goes all the same.
                self.remove_any(write, value).await.map(Some)
            }
        }
    }

    async fn remove(&self, write: &Write<'_>, value: serde_json::Value, current: &Current) -> Result<Option<Deleted>> {
        let gone = self.swap(write, value, current, true).await?;
        if gone.is_some() {
            self.services.release(self, write, &*current.typed).await;
        }
        Ok(gone.map(Deleted::Gone))
    }

    async fn remove_any(&self, write: &Write<'_>, value: serde_json::Value) -> Result<Deleted> {
        let endpoint = write.endpoint;
        let namespace = if endpoint.row.namespaced() { write.namespace } else { "" };
        let key = format!("{}{}", endpoint.cache()?.prefix(), keys::relative(namespace, write.name));
        match self.store.delete(key, Expect::Any).await {
            Ok(revision) => {
                self.settle(revision).await?;
                let stored = endpoint.stored(value).await?;
                Ok(Deleted::Gone(endpoint.served(encoding::with_resource_version(&stored, revision)).await?))
            }
            // Who saw it marked was quicker: it is gone, as was asked.
            Err(StoreError::Conflict(_)) => Ok(Deleted::Gone(super::print(&value))),
            Err(error) => Err(store_error(error)),
        }
    }

    /// Deletes everything a list finds, and answers with that list. Objects that somebody else deleted meanwhile are no error.
    pub async fn delete_collection(&self, write: &Write<'_>, parameters: &ListParameters, options: &DeleteParameters) -> Result<Listing> {
        let listing = self.list(write.endpoint, write.namespace, "", parameters).await?;
        let one = |entry: std::sync::Arc<crate::cache::Entry>| async move {
            let write = Write { namespace: entry.namespace(), name: entry.name(), ..*write };
            match self.delete(&write, options).await {
                Err(error) if error.code() != 404 => Err(error),
                _ => Ok(()),
            }
        };
        let mut all = futures::stream::iter(listing.entries.clone()).map(one).buffer_unordered(COLLECTION_WIDTH);
        while let Some(done) = all.next().await {
            done?;
        }
        drop(all);
        Ok(listing)
    }
}

/// The answer to a deletion: that it succeeded, or (as the error) the object.
pub fn answer(endpoint: &Endpoint, deleted: Deleted) -> Result<serde_json::Value, Bytes> {
    let object = match deleted {
        Deleted::Gone(object) if !listed(RETURNED, endpoint) => object,
        Deleted::Gone(object) | Deleted::Pending(object) => return Err(object),
    };
    let row = &*endpoint.row;
    let parsed: serde_json::Value = serde_json::from_slice(&object).unwrap_or_default();
    let details = StatusDetails {
        name: Some(metadata::text(&parsed, "name").to_owned()),
        group: (!row.group.is_empty()).then(|| row.group.to_string()),
        kind: Some(row.plural.to_string()),
        uid: Some(metadata::text(&parsed, "uid").to_owned()),
        ..Default::default()
    };
    Ok(crate::respond::success(200, Some(details)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn endpoint(group: &str, plural: &str) -> Endpoint {
        let row = api::resources::all().iter().find(|r| r.group == group && r.plural == plural).unwrap();
        Endpoint::new(row.clone(), None, None)
    }

    fn step(endpoint: &Endpoint, object: serde_json::Value, options: DeleteParameters) -> (Step, ObjectMeta) {
        let mut typed = endpoint.typed(&object).unwrap();
        let step = decide(endpoint, &mut *typed, &options, &now());
        (step, typed.metadata().clone())
    }

    fn pod(node: &str) -> serde_json::Value {
        json!({"metadata": {"name": "a", "generation": 1}, "spec": {"nodeName": node, "terminationGracePeriodSeconds": 30, "containers": []}})
    }

    #[test]
    fn pods_get_their_grace_period_and_it_only_shortens() {
        let pods = endpoint("", "pods");
        let with = |seconds: i64| DeleteParameters { grace_period_seconds: Some(seconds), ..Default::default() };
        let (first, meta) = step(&pods, pod("n"), DeleteParameters::default());
        assert_eq!((first, meta.deletion_grace_period_seconds, meta.generation), (Step::Mark, Some(30), Some(2)));
        let mut going = pod("n");
        going["metadata"] = serde_json::to_value(&meta).unwrap();
        assert_eq!(step(&pods, going.clone(), DeleteParameters::default()).0, Step::Leave);
        assert_eq!(step(&pods, going.clone(), with(60)).0, Step::Leave);
        let (shorter, meta) = step(&pods, going.clone(), with(5));
        assert_eq!((shorter, meta.deletion_grace_period_seconds, meta.generation), (Step::Mark, Some(5), Some(2)));
        assert_eq!(step(&pods, going, with(0)).0, Step::MarkAndRemove);
        assert_eq!(step(&pods, pod(""), DeleteParameters::default()).0, Step::MarkAndRemove);
        assert_eq!(step(&pods, pod("n"), with(-7)).1.deletion_grace_period_seconds, Some(1));
    }

    #[test]
    fn finalizers_hold_an_object() {
        let maps = endpoint("", "configmaps");
        assert_eq!(step(&maps, json!({"metadata": {"name": "a"}}), DeleteParameters::default()).0, Step::Remove);
        let (held, meta) = step(&maps, json!({"metadata": {"name": "a", "finalizers": ["x/y"]}}), DeleteParameters::default());
        assert_eq!((held, meta.deletion_grace_period_seconds), (Step::Mark, Some(0)));
        assert!(meta.deletion_timestamp.is_some());
    }

    #[test]
    fn propagation_is_told_by_finalizers() {
        let sets = endpoint("apps", "replicasets");
        let jobs = endpoint("batch", "jobs");
        let policy = |p| DeleteParameters { propagation: Some(p), ..Default::default() };
        let of = |e: &Endpoint, present: &[&str], options: &DeleteParameters| {
            let present: Vec<String> = present.iter().map(|s| (*s).to_owned()).collect();
            collection_finalizers(e, &present, options).join(",")
        };
        assert_eq!(of(&sets, &[], &DeleteParameters::default()), "");
        assert_eq!(of(&sets, &["a/b"], &policy(Propagation::Foreground)), "a/b,foregroundDeletion");
        assert_eq!(of(&sets, &["orphan"], &DeleteParameters::default()), "orphan");
        assert_eq!(of(&sets, &["orphan"], &policy(Propagation::Background)), "");
        assert_eq!(of(&jobs, &[], &DeleteParameters::default()), "orphan");
        assert_eq!(of(&jobs, &[], &policy(Propagation::Background)), "");
    }

    #[test]
    fn namespaces_wait_for_their_controller() {
        let namespaces = endpoint("", "namespaces");
        let live = json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        let (marked, meta) = step(&namespaces, live, DeleteParameters::default());
        assert_eq!((marked, meta.deletion_grace_period_seconds), (Step::Mark, None));
        let emptied = json!({"metadata": meta, "spec": {}});
        assert_eq!(step(&namespaces, emptied, DeleteParameters::default()).0, Step::Remove);
    }
}
