//! What a Deployment's ReplicaSets say: which is the new one, how many replicas they have, which revision; and what a new one looks like
//! (upstream: `pkg/controller/deployment/util`).

use super::rollback::ROLLBACK_TO;
use crate::amounts::scaled;
use crate::claim::controller_reference;
use crate::revisions;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The label that tells the pods of one version from those of another.
pub const HASH_LABEL: &str = "pod-template-hash";
/// The version of the template.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// The versions that it had before, when it was rolled back to.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The Deployment's replicas when the ReplicaSet was last scaled.
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// The same with what a rollout may add.
pub const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of the Deployment that its ReplicaSets do not get.
pub const NOT_COPIED: &[&str] =
    &["kubectl.kubernetes.io/last-applied-configuration", REVISION, REVISION_HISTORY, DESIRED, MAX, ROLLBACK_TO];
/// The history is cut to this many characters, the oldest first.
const HISTORY_LENGTH: usize = 2000;

/// How to get from one version to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Step by step.
    RollingUpdate,
    /// All old pods go before the first new one comes.
    Recreate,
}

/// The Deployment's strategy.
pub fn strategy(deployment: &Deployment) -> Strategy {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref()).and_then(|strategy| strategy.type_.as_deref());
    if strategy == Some("Recreate") { Strategy::Recreate } else { Strategy::RollingUpdate }
}

/// The Deployment's replicas.
pub fn desired(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// How many replicas more than desired, and how many unavailable, a rollout may have.
pub fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    if strategy(deployment) != Strategy::RollingUpdate {
        return (0, 0);
    }
    let rolling = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref()).and_then(|strategy| strategy.rolling_update.as_ref());
    let desired = desired(deployment);
    let surge = scaled(rolling.and_then(|rolling| rolling.max_surge.as_ref()), desired, true);
    let unavailable = scaled(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), desired, false);
    // With neither, nothing could ever move.
    let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
    (surge, if desired == 0 { 0 } else { unavailable.min(desired) })
}

/// A ReplicaSet's replicas.
pub fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// How many of them are available. Not more than it is to have: a status from before it was scaled down counts pods that are going.
pub fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0).min(replicas(set))
}

/// Whether its status is about the size that it has now.
pub fn is_observed(set: &ReplicaSet) -> bool {
    set.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0) >= set.metadata.generation.unwrap_or(0)
}

/// How many pods it has.
pub fn actual(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

/// The sum over several.
pub fn sum<'a>(sets: impl IntoIterator<Item = &'a ReplicaSet>, of: fn(&ReplicaSet) -> i32) -> i32 {
    sets.into_iter().map(of).sum()
}

/// An annotation that is a number.
pub fn number(set: &ReplicaSet, annotation: &str) -> Option<i64> {
    set.metadata.annotations.as_ref()?.get(annotation)?.parse().ok()
}

/// The highest revision of several.
pub fn max_revision(sets: &[Arc<ReplicaSet>]) -> i64 {
    sets.iter().filter_map(|set| number(set, REVISION)).max().unwrap_or(0)
}

/// A template without the label that its hash makes.
pub fn without_hash(template: Option<&PodTemplateSpec>) -> Option<PodTemplateSpec> {
    let mut template = template?.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    Some(template)
}

/// Whether a ReplicaSet is of the Deployment's present version.
pub fn same_template(set: &ReplicaSet, deployment: &Deployment) -> bool {
    let of_set = without_hash(set.spec.as_ref().and_then(|spec| spec.template.as_ref()));
    of_set == without_hash(deployment.spec.as_ref().map(|spec| &spec.template))
}

/// Splits into the one of the present version, the oldest if there are several, and all others.
pub fn split(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> (Option<Arc<ReplicaSet>>, Vec<Arc<ReplicaSet>>) {
    let mut ordered = sets.to_vec();
    ordered.sort_by_key(|set| (set.metadata.creation_timestamp.clone().map(|time| time.0), set.metadata.name.clone()));
    let position = ordered.iter().position(|set| same_template(set, deployment));
    let new = position.map(|position| ordered.remove(position));
    (new, ordered)
}

/// The hash of a template.
pub fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let text = serde_json::to_vec(template).expect("API types have string keys and no failing serializers");
    revisions::hash(&text, collisions)
}

/// A ReplicaSet for the Deployment's present version.
pub fn new_replica_set(deployment: &Deployment, revision: i64, replicas: i32) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let hash = template_hash(&spec.template, deployment.status.as_ref().and_then(|status| status.collision_count));
    let with_hash = |labels: Option<BTreeMap<String, String>>| {
        let mut labels = labels.unwrap_or_default();
        labels.insert(HASH_LABEL.to_owned(), hash.clone());
        Some(labels)
    };
    let mut template = spec.template;
    let template_labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone());
    template.metadata.get_or_insert_default().labels = with_hash(template_labels.clone());
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.metadata.name.as_deref().unwrap_or_default())),
            namespace: deployment.metadata.namespace.clone(),
            labels: with_hash(template_labels),
            owner_references: Some(vec![controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector: LabelSelector { match_labels: with_hash(spec.selector.match_labels), ..spec.selector },
            template: Some(template),
        }),
        status: None,
    };
    annotate(deployment, &mut set, revision);
    annotate_replicas(deployment, &mut set);
    set
}

/// Brings the annotations of the new ReplicaSet up to date: the Deployment's own, and its revision. Whether anything changed.
pub fn annotate(deployment: &Deployment, set: &mut ReplicaSet, revision: i64) -> bool {
    let before = set.metadata.annotations.clone();
    let annotations = set.metadata.annotations.get_or_insert_default();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let old = annotations.get(REVISION).cloned();
    if old.as_deref().and_then(|old| old.parse().ok()).unwrap_or(0_i64) < revision {
        annotations.insert(REVISION.to_owned(), revision.to_string());
        if let Some(old) = old.filter(|old| !old.is_empty()) {
            let mut history: Vec<String> =
                annotations.get(REVISION_HISTORY).map(|history| history.split(',').map(str::to_owned).collect()).unwrap_or_default();
            history.push(old);
            while history.len() > 1 && history.join(",").len() > HISTORY_LENGTH {
                history.remove(0);
            }
            annotations.insert(REVISION_HISTORY.to_owned(), history.join(","));
        }
    }
    before.unwrap_or_default() != *annotations
}

/// Notes for which size of the Deployment a ReplicaSet was scaled. Whether anything changed.
pub fn annotate_replicas(deployment: &Deployment, set: &mut ReplicaSet) -> bool {
    let (surge, _) = fenceposts(deployment);
    let desired = desired(deployment);
    let annotations = set.metadata.annotations.get_or_insert_default();
    let mut changed = false;
    for (key, value) in [(DESIRED, desired), (MAX, desired + surge)] {
        changed |= annotations.insert(key.to_owned(), value.to_string()) != Some(value.to_string());
    }
    changed
}

/// How many replicas the new ReplicaSet may have now.
pub fn new_replicas(deployment: &Deployment, all: &[Arc<ReplicaSet>], current: i32) -> i32 {
    let desired = desired(deployment);
    if strategy(deployment) == Strategy::Recreate {
        return desired;
    }
    let (surge, _) = fenceposts(deployment);
    let room = desired + surge - sum(all.iter().map(AsRef::as_ref), replicas);
    if room <= 0 { current } else { current + room.min(desired - current) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn deployment(replicas: i32, rolling: Value) -> Deployment {
        let spec = json!({
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        });
        serde_json::from_value(
            json!({"metadata": {"namespace": "ns", "name": "web", "uid": "d", "annotations": {"note": "n", REVISION: "7"}}, "spec": spec}),
        )
        .unwrap()
    }

    #[test]
    fn fenceposts_round_away_from_each_other() {
        for (replicas, rolling, expected) in [
            (10, json!({"maxSurge": "25%", "maxUnavailable": "25%"}), (3, 2)),
            (1, json!({"maxSurge": "25%", "maxUnavailable": "25%"}), (1, 0)),
            (3, json!({"maxSurge": 0, "maxUnavailable": 0}), (0, 1)),
            (3, json!({"maxSurge": 0, "maxUnavailable": "10%"}), (0, 1)),
            (2, json!({"maxSurge": 1, "maxUnavailable": 5}), (1, 2)),
            (0, json!({"maxSurge": 1, "maxUnavailable": 1}), (1, 0)),
        ] {
            assert_eq!(fenceposts(&deployment(replicas, rolling.clone())), expected, "{replicas} {rolling}");
        }
    }

    #[test]
    fn a_new_one_and_its_template() {
        let deployment = deployment(3, json!({"maxSurge": 1}));
        let set = new_replica_set(&deployment, 2, 3);
        let hash = template_hash(&deployment.spec.as_ref().unwrap().template, None);
        assert!(hash.bytes().all(|letter| b"bcdfghjklmnpqrstvwxz2456789".contains(&letter)), "{hash}");
        assert_eq!(set.metadata.name, Some(format!("web-{hash}")));
        let annotations = set.metadata.annotations.clone().unwrap();
        let expected = [("note", "n"), (REVISION, "2"), (DESIRED, "3"), (MAX, "4")];
        assert_eq!(annotations, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        assert_eq!(set.spec.as_ref().unwrap().selector.match_labels.as_ref().unwrap()[HASH_LABEL], hash);
        assert!(same_template(&set, &deployment), "the hash label does not count");
        assert_ne!(template_hash(&deployment.spec.as_ref().unwrap().template, Some(1)), hash);
    }

    #[test]
    fn going_back_keeps_the_history() {
        let deployment = deployment(3, json!({}));
        let mut set = new_replica_set(&deployment, 1, 3);
        assert!(!annotate(&deployment, &mut set, 1));
        assert!(annotate(&deployment, &mut set, 3));
        assert!(annotate(&deployment, &mut set, 5));
        let annotations = set.metadata.annotations.unwrap();
        assert_eq!((annotations[REVISION].as_str(), annotations[REVISION_HISTORY].as_str()), ("5", "1,3"));
    }
}
