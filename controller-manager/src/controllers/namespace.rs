//! Deleting a namespace: everything in it, of whatever kind, and then the namespace itself (upstream: `pkg/controller/namespace`). Pods go first, and the rest when
//! the last is gone, so that what protects them (a NetworkPolicy, say) does not end before they do.
//!
//! What there is to delete is asked of the apiserver each time, for new kinds may have come. Conditions in the namespace's status say how far it is and what
//! is in the way. While pods are on their way out, the watch on pods tells when the last is gone; other kinds are looked at again soon.

use crate::children::text;
use crate::controller::{Context, Controller, Keys, watch_all};
use crate::discovery::{self, Served};
use crate::ops::{Op, Request};
use client::{Cache, Change, ObjectKey};
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::{DynamicObject, ObjectList, PartialObjectMeta};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The finalizer in `spec.finalizers` that is ours.
const FINALIZER: &str = "kubernetes";
/// The kind that goes first, as [`Served::qualified`] names it.
const PODS: &str = "pods.";
/// Kinds looked at at a time.
const PARALLEL: usize = 8;
/// How soon to look again while something other than a pod remains.
const AGAIN: Duration = Duration::from_millis(500);
/// How soon to look again while pods remain, should the watch have missed one (upstream: half the estimate of 15 s).
const AGAIN_FOR_PODS: Duration = Duration::from_secs(8);

/// See the module's description.
pub struct NamespaceController {
    context: Context,
    namespaces: Arc<Cache<Namespace>>,
    pods: Arc<Cache<Pod>>,
}

type Metadata = PartialObjectMeta<DynamicObject>;

/// What a round of deleting has found.
#[derive(Clone, Debug, Default, PartialEq)]
struct Found {
    /// Objects left, by `plural.group`.
    remaining: BTreeMap<String, usize>,
    /// Objects that have this finalizer.
    finalizers: BTreeMap<String, usize>,
    /// What went wrong.
    errors: Vec<String>,
    /// What went wrong when asking for the kinds.
    discovery_error: Option<String>,
}

impl NamespaceController {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        Self { namespaces: context.caches.of(), pods: context.caches.of(), context }
    }

    async fn sync(&self, key: &ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(namespace) = self.namespaces.get(key) else { return Ok(None) };
        let ours = namespace
            .spec
            .as_ref()
            .and_then(|spec| spec.finalizers.as_ref())
            .is_some_and(|finalizers| finalizers.iter().any(|f| f == FINALIZER));
        if namespace.metadata.deletion_timestamp.is_none() || !ours {
            return Ok(None);
        }
        let found = self.delete_content(&key.name).await;
        let conditions = conditions(&namespace, &found, self.context.clock.now());
        if namespace.status.as_ref().and_then(|status| status.conditions.as_ref()) != Some(&conditions) {
            let mut updated = (*namespace).clone();
            let status = updated.status.get_or_insert_default();
            status.conditions = Some(conditions);
            status.phase = Some("Terminating".to_owned());
            self.context.executor.apply(vec![Op::send(Request::replace_status(&updated).tolerating(&[404, 409]))]).await?;
        }
        if let Some(error) = found.discovery_error.iter().chain(&found.errors).next() {
            anyhow::bail!("{error}");
        }
        if !found.remaining.is_empty() {
            let only_pods = found.remaining.keys().all(|kind| kind == PODS);
            return Ok(Some(if only_pods { AGAIN_FOR_PODS } else { AGAIN }));
        }
        let mut finalized = (*namespace).clone();
        // Without a version, for the status has just been written; the apiserver only takes the finalizers from this.
        finalized.metadata.resource_version = None;
        finalized.spec.get_or_insert_default().finalizers.get_or_insert_default().retain(|finalizer| finalizer != FINALIZER);
        self.context.executor.apply(vec![Op::send(Request::replace_part(&finalized, "finalize").tolerating(&[404]))]).await?;
        Ok(None)
    }

    async fn delete_content(&self, namespace: &str) -> Found {
        let kinds = match discovery::served(self.context.executor.client()).await {
            Ok(kinds) => kinds,
            Err(error) => return Found { discovery_error: Some(format!("{error:#}")), ..Found::default() },
        };
        let deletable =
            kinds.into_iter().filter(|kind| kind.namespaced && kind.can("list") && (kind.can("deletecollection") || kind.can("delete")));
        let (pods, others) = deletable.partition(|kind| kind.qualified() == PODS);
        let found = self.delete_kinds(pods, namespace).await;
        if found != Found::default() {
            return found;
        }
        self.delete_kinds(others, namespace).await
    }

    async fn delete_kinds(&self, kinds: Vec<Served>, namespace: &str) -> Found {
        let results: Vec<(String, kube::Result<Vec<Metadata>>)> = stream::iter(kinds)
            .map(|kind| async move { (kind.qualified(), self.delete_kind(&kind, namespace).await) })
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        let mut found = Found::default();
        for (kind, result) in results {
            match result {
                Ok(left) if left.is_empty() => {}
                Ok(left) => {
                    for finalizer in left.iter().flat_map(|object| object.metadata.finalizers.iter().flatten()) {
                        *found.finalizers.entry(finalizer.clone()).or_default() += 1;
                    }
                    found.remaining.insert(kind, left.len());
                }
                Err(error) => found.errors.push(text(&error)),
            }
        }
        found.errors.sort();
        found
    }

    /// Deletes all objects of a kind, and tells which are still there.
    async fn delete_kind(&self, kind: &Served, namespace: &str) -> kube::Result<Vec<Metadata>> {
        let before = self.list(kind, namespace).await?;
        if before.is_empty() {
            return Ok(before);
        }
        let options = crate::ops::DeleteOptions { propagation: Some(crate::ops::Propagation::Background), ..Default::default() };
        if kind.can("deletecollection") {
            self.context.executor.send(Request::delete_at(kind.path(namespace, ""), String::new(), &options)).await?;
        } else {
            for object in before.iter().filter(|object| object.metadata.deletion_timestamp.is_none()) {
                let name = object.metadata.name.clone().unwrap_or_default();
                self.context.executor.send(Request::delete_at(kind.path(namespace, &name), name, &options)).await?;
            }
        }
        self.list(kind, namespace).await
    }

    async fn list(&self, kind: &Served, namespace: &str) -> kube::Result<Vec<Metadata>> {
        let api: kube::Api<DynamicObject> = kube::Api::namespaced_with(self.context.executor.client().clone(), namespace, &kind.resource);
        match api.list_metadata(&kube::api::ListParams::default()).await {
            // The kind has gone since.
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 405 => Ok(Vec::new()),
            Ok(ObjectList { items, .. }) => Ok(items),
            Err(error) => Err(error),
        }
    }
}

/// A condition's type, reason and message when all is well, and reason and message of the problem if it is not.
type ConditionRow = (&'static str, &'static str, &'static str, Option<(&'static str, String)>);

/// The five conditions, in upstream's words.
fn conditions(namespace: &Namespace, found: &Found, now: Timestamp) -> Vec<NamespaceCondition> {
    let counted = |counts: &BTreeMap<String, usize>, verb: &str| {
        counts.iter().map(|(what, count)| format!("{what} {verb} {count} resource instances")).collect::<Vec<_>>().join(", ")
    };
    let problem = |yes: bool, reason: &'static str, message: String| yes.then_some((reason, message));
    let discovery = found.discovery_error.clone();
    let rows: [ConditionRow; 5] = [
        (
            "NamespaceDeletionDiscoveryFailure",
            "ResourcesDiscovered",
            "All resources successfully discovered",
            discovery.map(|error| ("DiscoveryFailed", format!("Discovery failed for some groups, 1 failing: {error}"))),
        ),
        ("NamespaceDeletionGroupVersionParsingFailure", "ParsedGroupVersions", "All legacy kube types successfully parsed", None),
        (
            "NamespaceDeletionContentFailure",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
            problem(
                !found.errors.is_empty(),
                "ContentDeletionFailed",
                format!("Failed to delete all resource types, {} remaining: {}", found.errors.len(), found.errors.join(", ")),
            ),
        ),
        (
            "NamespaceContentRemaining",
            "ContentRemoved",
            "All content successfully removed",
            problem(
                !found.remaining.is_empty(),
                "SomeResourcesRemain",
                format!("Some resources are remaining: {}", counted(&found.remaining, "has")),
            ),
        ),
        (
            "NamespaceFinalizersRemaining",
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
            problem(
                !found.finalizers.is_empty(),
                "SomeFinalizersRemain",
                format!("Some content in the namespace has finalizers remaining: {}", counted(&found.finalizers, "in")),
            ),
        ),
    ];
    let old = namespace.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let foreign = old.iter().filter(|condition| !rows.iter().any(|row| row.0 == condition.type_)).cloned();
    let ours = rows.iter().map(|(condition_type, good_reason, good_message, problem)| {
        let (status, reason, message) = match problem {
            Some((reason, message)) => ("True", *reason, message.as_str()),
            None => ("False", *good_reason, *good_message),
        };
        let before = old.iter().find(|condition| condition.type_ == *condition_type && condition.status == status);
        NamespaceCondition {
            type_: (*condition_type).to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_transition_time: before.and_then(|before| before.last_transition_time.clone()).or(Some(Time(now))),
        }
    });
    foreign.chain(ours).collect()
}

impl Controller for NamespaceController {
    fn workers(&self) -> usize {
        10
    }

    fn watch(self: Arc<Self>, keys: &Keys) {
        watch_all(&self.namespaces, keys);
        let (keys, namespaces, pods) = (keys.clone(), self.namespaces.clone(), self.pods.clone());
        self.pods.subscribe(move |change| {
            let Change::Deleted(pod) = change else { return };
            let key = ObjectKey::new("", pod.metadata.namespace.as_deref().unwrap_or_default());
            let going = namespaces.get(&key).is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some());
            if going && !pods.has_in_namespace(&key.name) {
                keys.add(key);
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
    use serde_json::json;

    #[test]
    fn what_the_conditions_say() {
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "ns"}})).unwrap();
        let found = Found {
            remaining: [("configmaps.".to_owned(), 2), ("deployments.apps".to_owned(), 1)].into(),
            finalizers: [("example.com/f".to_owned(), 2)].into(),
            ..Found::default()
        };
        let told = conditions(&namespace, &found, Timestamp::from_second(1).unwrap());
        let shown: Vec<_> = told
            .iter()
            .map(|c| (c.type_.as_str(), c.status.as_str(), c.reason.as_deref().unwrap(), c.message.as_deref().unwrap()))
            .collect();
        assert_eq!(
            shown,
            [
                ("NamespaceDeletionDiscoveryFailure", "False", "ResourcesDiscovered", "All resources successfully discovered"),
                (
                    "NamespaceDeletionGroupVersionParsingFailure",
                    "False",
                    "ParsedGroupVersions",
                    "All legacy kube types successfully parsed"
                ),
                (
                    "NamespaceDeletionContentFailure",
                    "False",
                    "ContentDeleted",
                    "All content successfully deleted, may be waiting on finalization"
                ),
                (
                    "NamespaceContentRemaining",
                    "True",
                    "SomeResourcesRemain",
                    "Some resources are remaining: configmaps. has 2 resource instances, deployments.apps has 1 resource instances"
                ),
                (
                    "NamespaceFinalizersRemaining",
                    "True",
                    "SomeFinalizersRemain",
                    "Some content in the namespace has finalizers remaining: example.com/f in 2 resource instances"
                ),
            ]
        );
        let mut later = namespace;
        later.status.get_or_insert_default().conditions = Some(told.clone());
        let again = conditions(&later, &Found::default(), Timestamp::from_second(9).unwrap());
        assert_eq!(again[0], told[0], "what has not changed keeps its time");
        assert_eq!(
            (again[3].status.as_str(), again[3].last_transition_time.clone()),
            ("False", Some(Time(Timestamp::from_second(9).unwrap())))
        );
    }
}
