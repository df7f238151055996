//! Volumes and claims: which belong together, and what the scheduler assumes of them while the API does not say so yet (upstream:
//! `plugins/volumebinding`, `controller/volume/persistentvolume`).

mod assumed;
mod binding;
mod matching;

pub use assumed::AssumeCache;
pub use binding::{Binding, Conflict, PodVolumes, bound_in_api, choose, still_binding};
pub use matching::{capacity, class_of_claim, class_of_volume, find, fits_node};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use std::sync::Arc;

/// The node that was chosen for a claim whose class waits for its first consumer; provisioners wait for it.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The binding of a claim and a volume is complete.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The volume was bound by a controller rather than by a user; then it may be unbound again.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// A class whose volumes are all made by hand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// The volumes and claims of the API, and what is assumed of them. [`crate::listers::Listers`] answers with what is assumed.
pub trait VolumeStore: Send + Sync {
    /// From now on this is how the volume is taken to be, until the API says something newer.
    fn assume_volume(&self, volume: PersistentVolume);
    /// The same for a claim.
    fn assume_claim(&self, claim: PersistentVolumeClaim);
    /// The volume is as the API says.
    fn restore_volume(&self, name: &str);
    /// The claim is as the API says.
    fn restore_claim(&self, namespace: &str, name: &str);
    /// The volume as the API says.
    fn seen_volume(&self, name: &str) -> Option<Arc<PersistentVolume>>;
    /// The claim as the API says.
    fn seen_claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>>;
    /// The node as the API says.
    fn seen_node(&self, name: &str) -> Option<Arc<Node>>;
    /// Whether the pod is still there.
    fn has_pod(&self, namespace: &str, name: &str) -> bool;
    /// Writes a volume.
    fn update_volume<'a>(&'a self, volume: &'a PersistentVolume) -> BoxFuture<'a, anyhow::Result<PersistentVolume>>;
    /// Writes a claim.
    fn update_claim<'a>(&'a self, claim: &'a PersistentVolumeClaim) -> BoxFuture<'a, anyhow::Result<PersistentVolumeClaim>>;
    /// Asks `done` now and after every change of volumes, claims and pods, until it has an answer.
    fn wait_for<'a>(&'a self, done: &'a (dyn Fn() -> Option<anyhow::Result<()>> + Send + Sync)) -> BoxFuture<'a, anyhow::Result<()>>;
}

/// Whether a claim's binding is complete.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
    !volume.is_empty() && claim.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(BIND_COMPLETED))
}
