//! The claims of a StatefulSet's pods: their names, which are missing, and who owns them, which decides whether they outlive their pod and their set
//! (upstream: `stateful_set_utils.go`, `persistentVolumeClaimRetentionPolicy`).

use super::identity::{in_range, ordinal, spec};
use crate::claim::controller_reference;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Looks up a claim in the set's namespace by its name.
pub type Find<'a> = &'a dyn Fn(&str) -> Option<Arc<PersistentVolumeClaim>>;

/// What has to be done about the claims of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Work {
    /// Claims to create.
    pub create: Vec<PersistentVolumeClaim>,
    /// Claims whose owners have to change.
    pub replace: Vec<PersistentVolumeClaim>,
    /// A claim that is being deleted: the pod has to wait for a new one.
    pub going: Option<String>,
}

/// The claims of the pod with that ordinal, by the names of their templates, as they are created.
fn of(set: &StatefulSet, ordinal: i64) -> Vec<(String, PersistentVolumeClaim)> {
    let spec = spec(set);
    let set_name = set.metadata.name.as_deref().unwrap_or_default();
    let named = |mut claim: PersistentVolumeClaim| {
        let template = claim.metadata.name.take().unwrap_or_default();
        claim.metadata.name = Some(format!("{template}-{set_name}-{ordinal}"));
        claim.metadata.namespace = set.metadata.namespace.clone();
        claim.metadata.labels.get_or_insert_default().extend(spec.selector.match_labels.clone().unwrap_or_default());
        claim.status = None;
        (template, claim)
    };
    spec.volume_claim_templates.iter().flatten().cloned().map(named).collect()
}

/// Whether a claim of that name could be one of the set's.
pub fn is_named_like(set: &StatefulSet, claim: &str) -> bool {
    let templates = set.spec.iter().flat_map(|spec| spec.volume_claim_templates.iter().flatten());
    let set_name = set.metadata.name.as_deref().unwrap_or_default();
    templates.filter_map(|template| template.metadata.name.as_deref()).any(|template| claim.starts_with(&format!("{template}-{set_name}-")))
}

/// Whether the pod has a volume for each of its claims.
pub fn are_mounted(set: &StatefulSet, pod: &Pod) -> bool {
    let Some(ordinal) = ordinal(pod) else { return false };
    let volumes: BTreeMap<&str, &Volume> = volumes(pod).map(|volume| (volume.name.as_str(), volume)).collect();
    of(set, ordinal).iter().all(|(template, claim)| {
        let mounted = volumes.get(template.as_str()).and_then(|volume| volume.persistent_volume_claim.as_ref());
        mounted.is_some_and(|mounted| Some(&mounted.claim_name) == claim.metadata.name.as_ref())
    })
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten())
}

/// Gives the pod a volume for each of its claims, in place of others of that name.
pub fn mount(set: &StatefulSet, pod: &mut Pod) {
    let claims = of(set, ordinal(pod).unwrap_or(0));
    if claims.is_empty() {
        return;
    }
    let others: Vec<Volume> = volumes(pod).filter(|volume| claims.iter().all(|(template, _)| *template != volume.name)).cloned().collect();
    let volume = |(template, claim): (String, PersistentVolumeClaim)| Volume {
        name: template,
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.metadata.name.unwrap_or_default(),
            read_only: None,
        }),
        ..Volume::default()
    };
    pod.spec.get_or_insert_default().volumes = Some(claims.into_iter().map(volume).chain(others).collect());
}

fn deletes(set: &StatefulSet) -> (bool, bool) {
    let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
    let is_delete = |policy: Option<&String>| policy.is_some_and(|policy| policy == "Delete");
    (is_delete(policy.and_then(|policy| policy.when_scaled.as_ref())), is_delete(policy.and_then(|policy| policy.when_deleted.as_ref())))
}

fn refers_to<O: Resource<DynamicType = ()>>(reference: &OwnerReference, owner: &O) -> bool {
    reference.api_version == O::api_version(&()) && reference.kind == O::kind(&()) && Some(&reference.name) == owner.meta().name.as_ref()
}

/// Whether somebody else controls the claim, one of our names with another UID included: then it is left to them.
fn is_anothers(claim: &PersistentVolumeClaim, set: &StatefulSet, pod: &Pod) -> bool {
    claim.metadata.owner_references.iter().flatten().any(|reference| {
        if refers_to(reference, set) {
            Some(&reference.uid) != set.metadata.uid.as_ref()
        } else if refers_to(reference, pod) {
            Some(&reference.uid) != pod.metadata.uid.as_ref()
        } else {
            reference.controller == Some(true)
        }
    })
}

/// The owners that a claim should have: the set if the claim is to go with it, the pod if it is to go because the pod is one too many.
fn owners(claim: &PersistentVolumeClaim, set: &StatefulSet, pod: &Pod) -> Vec<OwnerReference> {
    let all = claim.metadata.owner_references.iter().flatten();
    let mut owners: Vec<_> = all.filter(|reference| !refers_to(reference, set) && !refers_to(reference, pod)).cloned().collect();
    if is_anothers(claim, set, pod) {
        return owners;
    }
    let (when_scaled, when_deleted) = deletes(set);
    let is_surplus = ordinal(pod).is_some_and(|ordinal| !in_range(set, ordinal));
    if when_scaled && is_surplus {
        owners.push(controller_reference(pod));
    } else if when_deleted {
        owners.push(controller_reference(set));
    }
    owners
}

/// Whether a new pod would get a claim that is to go with the pod before it.
pub fn is_stale(set: &StatefulSet, pod: &Pod, find: Find<'_>) -> bool {
    let (when_scaled, _) = deletes(set);
    when_scaled
        && of(set, ordinal(pod).unwrap_or(0)).iter().filter_map(|(_, claim)| find(claim.metadata.name.as_deref()?)).any(|claim| {
            let mut owners = claim.metadata.owner_references.iter().flatten();
            owners.any(|reference| refers_to(reference, pod) && Some(&reference.uid) != pod.metadata.uid.as_ref())
        })
}

/// The claims of the pod that are missing or have the wrong owners.
pub fn work(set: &StatefulSet, pod: &Pod, find: Find<'_>) -> Work {
    let mut work = Work::default();
    for (_, mut wanted) in of(set, ordinal(pod).unwrap_or(0)) {
        let name = wanted.metadata.name.clone().unwrap_or_default();
        let Some(there) = find(&name) else {
            let owners = owners(&wanted, set, pod);
            wanted.metadata.owner_references = (!owners.is_empty()).then_some(owners);
            work.create.push(wanted);
            continue;
        };
        if there.metadata.deletion_timestamp.is_some() {
            work.going = Some(name);
        }
        work.replace.extend(with_owners(&there, set, pod));
    }
    work
}

fn with_owners(claim: &PersistentVolumeClaim, set: &StatefulSet, pod: &Pod) -> Option<PersistentVolumeClaim> {
    let owners = owners(claim, set, pod);
    if claim.metadata.owner_references.as_deref().unwrap_or_default() == owners {
        return None;
    }
    let mut replaced = claim.clone();
    replaced.metadata.owner_references = (!owners.is_empty()).then_some(owners);
    Some(replaced)
}

/// The claims of a pod that are there and have the wrong owners. What somebody else controls is left alone.
pub fn misowned(set: &StatefulSet, pod: &Pod, find: Find<'_>) -> Vec<PersistentVolumeClaim> {
    let there = of(set, ordinal(pod).unwrap_or(0)).into_iter().filter_map(|(_, claim)| find(claim.metadata.name.as_deref()?));
    there.filter_map(|claim| with_owners(&claim, set, pod)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(scaled: &str, deleted: &str) -> StatefulSet {
        let claim = json!({"metadata": {"name": "data", "labels": {"own": "label"}}, "spec": {"resources": {}}});
        let policy = json!({"whenScaled": scaled, "whenDeleted": deleted});
        let spec = json!({"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {}, "volumeClaimTemplates": [claim], "persistentVolumeClaimRetentionPolicy": policy});
        serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "web", "uid": "set"}, "spec": spec})).unwrap()
    }

    fn pod(ordinal: i64) -> Pod {
        serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": format!("web-{ordinal}"), "uid": format!("pod-{ordinal}")}}))
            .unwrap()
    }

    fn found(name: &str, owners: Value) -> Arc<PersistentVolumeClaim> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "ownerReferences": owners}})).unwrap())
    }

    fn owner(kind: &str, name: &str, uid: &str) -> Value {
        let version = if kind == "Pod" { "v1" } else { "apps/v1" };
        json!({"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": true, "blockOwnerDeletion": true})
    }

    #[test]
    fn who_owns_a_claim() {
        let of_set = || owner("StatefulSet", "web", "set");
        let of_pod = |ordinal: i64| owner("Pod", &format!("web-{ordinal}"), &format!("pod-{ordinal}"));
        let other = || owner("Other", "x", "x");
        // (whenScaled, whenDeleted, ordinal of the pod, owners before, owners after)
        let cases = [
            ("Retain", "Retain", 0, json!([of_set()]), json!([])),
            ("Retain", "Delete", 0, json!([]), json!([of_set()])),
            ("Delete", "Retain", 0, json!([of_pod(0)]), json!([])),
            ("Delete", "Retain", 2, json!([]), json!([of_pod(2)])),
            ("Delete", "Delete", 1, json!([]), json!([of_set()])),
            ("Delete", "Delete", 2, json!([of_set()]), json!([of_pod(2)])),
            ("Delete", "Delete", 0, json!([other()]), json!([other()])),
            ("Retain", "Delete", 0, json!([owner("StatefulSet", "web", "an-older-one")]), json!([])),
        ];
        for (scaled, deleted, ordinal, before, after) in cases {
            let claim = found("c", before.clone());
            let expected: Vec<OwnerReference> = serde_json::from_value(after).unwrap();
            assert_eq!(owners(&claim, &set(scaled, deleted), &pod(ordinal)), expected, "{scaled} {deleted} {ordinal} {before}");
        }
    }

    #[test]
    fn what_is_missing_is_made_and_what_is_stale_is_waited_for() {
        let set_deleting = set("Delete", "Delete");
        let nothing = |_: &str| None;
        let made = work(&set_deleting, &pod(1), &nothing);
        let claim = &made.create[0];
        let labels: Vec<_> = claim.metadata.labels.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!((claim.metadata.name.as_deref(), labels), (Some("data-web-1"), vec!["app=web".to_owned(), "own=label".to_owned()]));
        assert_eq!(claim.metadata.owner_references.as_ref().map(|owners| owners[0].uid.as_str()), Some("set"));
        assert!(is_named_like(&set_deleting, "data-web-1") && !is_named_like(&set_deleting, "data-db-1"));

        let mut new = pod(1);
        new.metadata.uid = None;
        let of_old = |name: &str| Some(found(name, json!([owner("Pod", "web-1", "pod-1")])));
        assert!(is_stale(&set_deleting, &new, &of_old));
        assert!(!is_stale(&set("Retain", "Retain"), &new, &of_old));
        assert!(!is_stale(&set_deleting, &new, &nothing));
    }
}
