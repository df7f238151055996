//! Persistent volumes and their claims: who binds, protects, makes and removes them (upstream: `pkg/controller/volume`).
//!
//! A claim and a volume point at each other (`spec.volumeName`, `spec.claimRef`); annotations under `pv.kubernetes.io/` say which side of that was the
//! controller's doing and may be undone by it. The names are the API between the binder, the scheduler and external provisioners.

pub mod attach_detach;
pub mod attributes_class_protection;
pub mod binder;
pub mod claim_protection;
pub mod ephemeral;
pub mod expander;
pub mod local;
pub mod matching;
pub mod volume_protection;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kube::Resource;

/// The claim's binding has been completed once.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The binding was made by the controller, not by the user.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Who made the volume.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Who is to make a volume for the claim.
pub const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The same under its older name, which provisioners still read.
pub const PROVISIONER_BETA: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// The node that the scheduler has chosen for the claim's first consumer.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The class under its older name.
const CLASS_BETA: &str = "volume.beta.kubernetes.io/storage-class";

/// An annotation's value.
pub fn annotation<'a, K: Resource>(object: &'a K, name: &str) -> Option<&'a str> {
    object.meta().annotations.as_ref()?.get(name).map(String::as_str)
}

/// Sets an annotation.
pub fn annotate<K: Resource>(object: &mut K, name: &str, value: &str) {
    object.meta_mut().annotations.get_or_insert_default().insert(name.to_owned(), value.to_owned());
}

/// The class that a claim asks for; empty for none.
pub fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    let field = || claim.spec.as_ref()?.storage_class_name.as_deref();
    annotation(claim, CLASS_BETA).or_else(field).unwrap_or_default()
}

/// The class of a volume; empty for none.
pub fn class_of_volume(volume: &PersistentVolume) -> &str {
    let field = || volume.spec.as_ref()?.storage_class_name.as_deref();
    annotation(volume, CLASS_BETA).or_else(field).unwrap_or_default()
}

/// The volume that a claim names; empty for none.
pub fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default()
}

/// The claim that a volume names.
pub fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// Whether the volume names this claim, as the user (without UID) or the controller wrote it.
pub fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_ref(volume).is_some_and(|bound| {
        bound.name == claim.metadata.name
            && bound.namespace == claim.metadata.namespace
            && bound.uid.as_ref().is_none_or(|uid| uid.is_empty() || Some(uid) == claim.metadata.uid.as_ref())
    })
}

/// `status.phase`.
pub fn phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// What happens to the volume once its claim is gone.
pub fn reclaim_policy(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()).unwrap_or("Retain")
}

/// The name of the claim that a pod's volume stands for, if it does.
pub fn claim_of(pod: &Pod, volume: &Volume) -> Option<String> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), volume.name)),
        (None, None) => None,
    }
}

/// The index of pods by `namespace/name` of the claims that they use.
pub const BY_CLAIM: &str = "claim";

/// The names of that index.
pub fn claims_of(pod: &Pod) -> Vec<String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| claim_of(pod, volume)).map(|name| format!("{namespace}/{name}")).collect()
}
