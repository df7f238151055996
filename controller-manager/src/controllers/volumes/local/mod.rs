//! The built-in provisioner: a claim of one of its classes gets a directory on the node that the scheduler has chosen for the claim's first pod.
//!
//! It is an external provisioner to the binder, like any other, so that it works beside upstream's binder too; only that it needs no pod of its own. The volume is a
//! `hostPath` that the kubelet makes when the first pod mounts it, pinned to its node. When a volume with the policy Delete is released, a pod on that node
//! removes the directory: nobody but a kubelet touches a node. A node that is gone, or simulated, keeps nothing that would have to be removed.
//!
//! Its classes' parameters: `path`, below which directories are made, and `removerImage`, any image with `rm`. Left out: quotas (a directory can outgrow its
//! claim, as with every provisioner of plain directories), raw devices, and classes that bind at once, since without a pod there is no node to choose.

mod plan;

use super::*;
use crate::controller::{Context, Controller, Keys};
use client::{Cache, Change, ObjectKey};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::StorageClass;
pub use plan::REMOVES;
use plan::{NAMESPACE, for_claim, for_volume};
use std::sync::Arc;
use std::time::Duration;

/// Its name in StorageClasses.
pub const NAME: &str = "skiff.dev/local";

/// Keys are claims, and volumes (without a namespace).
pub struct LocalVolumes {
    context: Context,
    claims: Arc<Cache<PersistentVolumeClaim>>,
    volumes: Arc<Cache<PersistentVolume>>,
    classes: Arc<Cache<StorageClass>>,
    nodes: Arc<Cache<Node>>,
    pods: Arc<Cache<Pod>>,
}

impl LocalVolumes {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        let caches = &context.caches;
        Self { claims: caches.of(), volumes: caches.of(), classes: caches.of(), nodes: caches.of(), pods: caches.of(), context }
    }

    fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
        self.classes.get(&ObjectKey::new("", name)).filter(|class| class.provisioner == NAME)
    }

    async fn sync(&self, key: &ObjectKey) -> anyhow::Result<Option<Duration>> {
        let ops = if key.namespace.is_empty() {
            let Some(volume) = self.volumes.get(key).filter(|volume| annotation(volume.as_ref(), PROVISIONED_BY) == Some(NAME)) else {
                return Ok(None);
            };
            let node = plan::node_of(&volume).and_then(|name| self.nodes.get(&ObjectKey::new("", name)));
            let remover = self.pods.get(&ObjectKey::new(NAMESPACE, plan::remover_name(&volume)));
            for_volume(&volume, node.as_deref(), remover.as_deref(), self.class(class_of_volume(&volume)).as_deref())
        } else {
            let Some(claim) = self.claims.get(key).filter(|claim| annotation(claim.as_ref(), PROVISIONER) == Some(NAME)) else {
                return Ok(None);
            };
            let Some(class) = self.class(class_of_claim(&claim)) else { return Ok(None) };
            let node = annotation(claim.as_ref(), SELECTED_NODE).and_then(|name| self.nodes.get(&ObjectKey::new("", name)));
            for_claim(&claim, &class, node.as_deref())
        };
        Ok(self.context.executor.apply(ops).await?)
    }
}

impl Controller for LocalVolumes {
    fn watch(self: Arc<Self>, keys: &Keys) {
        let queue = keys.clone();
        self.claims.subscribe(move |change| {
            let claim = change.object();
            if annotation(claim.as_ref(), PROVISIONER) == Some(NAME) && volume_name(claim).is_empty() {
                queue.add(ObjectKey::of(claim.as_ref()));
            }
        });
        let queue = keys.clone();
        self.volumes.subscribe(move |change| {
            if annotation(change.object().as_ref(), PROVISIONED_BY) == Some(NAME) {
                queue.add(ObjectKey::of(change.object().as_ref()));
            }
        });
        let queue = keys.clone();
        self.pods.subscribe(move |change| {
            if let Some(volume) = plan::volume_of_remover(change.object()) {
                queue.add(ObjectKey::new("", volume));
            }
        });
        let (queue, volumes) = (keys.clone(), self.volumes.clone());
        self.nodes.subscribe(move |change| {
            let Change::Deleted(node) = change else { return };
            let gone = node.metadata.name.as_deref();
            let on_it = volumes.list().into_iter().filter(|volume| annotation(volume.as_ref(), PROVISIONED_BY) == Some(NAME));
            on_it.filter(|volume| plan::node_of(volume) == gone).for_each(|volume| queue.add(ObjectKey::of(volume.as_ref())));
        });
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(self.sync(key))
    }
}
