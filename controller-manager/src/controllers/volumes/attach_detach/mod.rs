//! Has volumes attached to the nodes whose pods use them, and detached again (upstream: `pkg/controller/volume/attachdetach`).
//!
//! It does neither itself: it makes and removes VolumeAttachments, which drivers' attachers follow, and says in the nodes' statuses what is attached, which kubelets
//! wait for. Drivers that attach nothing say so in their CSIDriver. Left out: volumes of plugins in the tree, of which none is left that attaches.

pub mod plan;

use super::super::pod_garbage_collector::{BY_NODE, node_of};
use super::{BY_CLAIM, claim_of, claims_of, is_bound_to, volume_name};
use crate::controller::{Context, Controller, Keys};
use crate::nodes;
use crate::pods;
use client::{Cache, Change, ObjectKey};
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use parking_lot::Mutex;
use plan::{Volume, Wanted, World, plan};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// The index of attachments by their nodes, and by the persistent volumes they name.
const ATTACHED_TO: &str = "node";
const ATTACHED: &str = "volume";
/// The annotation of nodes whose kubelets wait for this controller.
const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";

/// What is remembered of a node between two looks.
#[derive(Default)]
struct Memory {
    leaving: BTreeMap<Volume, Timestamp>,
    told: BTreeSet<String>,
}

/// Keys are nodes, also such as are gone while something is attached to them.
pub struct AttachDetach {
    context: Context,
    nodes: Arc<Cache<Node>>,
    pods: Arc<Cache<Pod>>,
    claims: Arc<Cache<PersistentVolumeClaim>>,
    volumes: Arc<Cache<PersistentVolume>>,
    attachments: Arc<Cache<VolumeAttachment>>,
    drivers: Arc<Cache<CSIDriver>>,
    memory: Mutex<HashMap<String, Memory>>,
}

/// Whether a pod may have containers that run: what is over needs its volumes no more.
fn may_run(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let runs = |status: &k8s_openapi::api::core::v1::ContainerStatus| {
        status.state.as_ref().is_some_and(|state| state.terminated.is_none() && state.waiting.is_none())
    };
    !pods::is_finished(pod) && (!pods::is_terminating(pod) || statuses.into_iter().any(runs))
}

impl AttachDetach {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        let caches = &context.caches;
        let pods: Arc<Cache<Pod>> = caches.of();
        pods.add_index(BY_NODE, node_of);
        pods.add_index(BY_CLAIM, claims_of);
        let attachments: Arc<Cache<VolumeAttachment>> = caches.of();
        attachments.add_index(ATTACHED_TO, |attachment| vec![attachment.spec.node_name.clone()]);
        attachments.add_index(ATTACHED, |attachment| attachment.spec.source.persistent_volume_name.clone().into_iter().collect());
        Self {
            nodes: caches.of(),
            pods,
            claims: caches.of(),
            volumes: caches.of(),
            attachments,
            drivers: caches.of(),
            memory: Mutex::default(),
            context,
        }
    }

    /// The persistent volumes of a pod that have to be attached.
    fn volumes_of(&self, pod: &Pod) -> Vec<(Volume, Arc<PersistentVolume>)> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let names = volumes.filter_map(|volume| claim_of(pod, volume));
        let bound = names.filter_map(|name| {
            let claim = self.claims.get(&ObjectKey::new(namespace, name))?;
            self.volumes.get(&ObjectKey::new("", volume_name(&claim))).filter(|volume| is_bound_to(volume, &claim))
        });
        let own = bound.filter_map(|persistent| Some((Volume::of(&persistent)?, persistent)));
        own.filter(|(volume, _)| self.is_attached_by(&volume.driver)).collect()
    }

    fn is_attached_by(&self, driver: &str) -> bool {
        api::csi::is_attachable(self.drivers.get(&ObjectKey::new("", driver)).as_deref())
    }

    fn wanted(&self, node: &str) -> BTreeMap<Volume, Wanted> {
        let mut out: BTreeMap<Volume, Wanted> = BTreeMap::new();
        for pod in self.pods.by_index(BY_NODE, node).into_iter().filter(|pod| may_run(pod)) {
            for (volume, persistent) in self.volumes_of(&pod) {
                let fresh = || {
                    let name = persistent.metadata.name.as_deref().unwrap_or_default();
                    let elsewhere = self.attachments.by_index(ATTACHED, name).iter().any(|a| a.spec.node_name != node);
                    let users = if elsewhere { self.users(&persistent) } else { Vec::new() };
                    let others = users.into_iter().filter(|pod| pods::node_name(pod).is_some_and(|name| name != node));
                    Wanted { elsewhere: others.collect(), is_elsewhere: elsewhere, persistent: persistent.clone(), pods: Vec::new() }
                };
                out.entry(volume).or_insert_with(fresh).pods.push(pod.clone());
            }
        }
        out
    }

    /// The pods that use a volume, wherever they are.
    fn users(&self, volume: &PersistentVolume) -> Vec<Arc<Pod>> {
        plan::claim_of(volume).map(|claim| self.pods.by_index(BY_CLAIM, &claim.to_string())).unwrap_or_default()
    }

    async fn sync(&self, key: &ObjectKey) -> anyhow::Result<Option<Duration>> {
        let name = key.name.as_str();
        let node = self.nodes.get(key);
        let is_managed =
            |node: &Node| node.metadata.annotations.as_ref().is_some_and(|a| a.get(MANAGED).is_some_and(|value| value == "true"));
        if node.as_deref().is_some_and(|node| !is_managed(node)) {
            return Ok(None);
        }
        let wanted = if node.is_some() { self.wanted(name) } else { BTreeMap::new() };
        let named = |attachment: &VolumeAttachment| {
            self.volumes.get(&ObjectKey::new("", attachment.spec.source.persistent_volume_name.as_deref()?))
        };
        let attachments = self.attachments.by_index(ATTACHED_TO, name).into_iter();
        let attachments: Vec<_> = attachments.map(|attachment| (attachment.clone(), named(&attachment))).collect();
        let before = self.memory.lock().remove(name).unwrap_or_default();
        let made = plan(&World {
            name,
            node: node.as_deref(),
            wanted: &wanted,
            attachments: &attachments,
            leaving: &before.leaving,
            told: &before.told,
            now: self.context.clock.now(),
            patient: self.context.settings.detaches_only_what_is_free,
        });
        if !made.leaving.is_empty() || !made.told.is_empty() {
            self.memory.lock().insert(name.to_owned(), Memory { leaving: made.leaving, told: made.told });
        }
        Ok(self.context.executor.apply(made.ops).await?)
    }

    /// Puts the nodes into the queue whose pods use a claim.
    fn tell(&self, claim: &ObjectKey, keys: &Keys) {
        for pod in self.pods.by_index(BY_CLAIM, &claim.to_string()) {
            pods::node_name(&pod).into_iter().for_each(|node| keys.add(ObjectKey::new("", node)));
        }
    }
}

impl Controller for AttachDetach {
    fn watch(self: Arc<Self>, keys: &Keys) {
        let queue = keys.clone();
        self.pods.subscribe(move |change| {
            let pod = change.object();
            if let Some(node) = pods::node_name(pod).filter(|_| !claims_of(pod).is_empty()) {
                queue.add(ObjectKey::new("", node));
            }
        });
        let queue = keys.clone();
        let judged = |node: &Node| {
            let status = node.status.as_ref();
            let volumes = status.map(|s| (s.volumes_attached.clone(), s.volumes_in_use.clone()));
            let ready = nodes::condition(node, "Ready").map(|ready| ready.status.clone());
            (volumes, ready, node.spec.as_ref().and_then(|spec| spec.taints.clone()), node.metadata.annotations.clone())
        };
        self.nodes.subscribe(move |change| {
            if !matches!(change, Change::Updated { old, new } if judged(old) == judged(new)) {
                queue.add(ObjectKey::of(change.object().as_ref()));
            }
        });
        let (queue, this) = (keys.clone(), Arc::downgrade(&self));
        self.attachments.subscribe(move |change| {
            let spec = &change.object().spec;
            queue.add(ObjectKey::new("", spec.node_name.as_str()));
            // Another node may wait for it to go.
            let gone = matches!(change, Change::Deleted(_)).then(|| spec.source.persistent_volume_name.clone()).flatten();
            let Some((name, this)) = gone.zip(this.upgrade()) else { return };
            let claim = this.volumes.get(&ObjectKey::new("", name)).and_then(|volume| plan::claim_of(&volume));
            claim.iter().for_each(|claim| this.tell(claim, &queue));
        });
        let (queue, this) = (keys.clone(), Arc::downgrade(&self));
        self.claims
            .subscribe(move |change| this.upgrade().iter().for_each(|this| this.tell(&ObjectKey::of(change.object().as_ref()), &queue)));
        let (queue, this) = (keys.clone(), Arc::downgrade(&self));
        self.volumes.subscribe(move |change| {
            let claim = plan::claim_of(change.object());
            claim.zip(this.upgrade()).iter().for_each(|(claim, this)| this.tell(claim, &queue));
        });
        let (queue, nodes) = (keys.clone(), self.nodes.clone());
        self.drivers.subscribe(move |_| nodes.list().iter().for_each(|node| queue.add(ObjectKey::of(node.as_ref()))));
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
    fn a_pod_needs_its_volumes_until_nothing_of_it_runs() {
        let (at, running, ended) = ("2026-01-01T00:00:00Z", json!({"running": {}}), json!({"terminated": {"exitCode": 0}}));
        for (phase, deleted, state, want) in [
            ("Pending", false, json!({"waiting": {}}), true),
            ("Running", false, running.clone(), true),
            ("Running", true, running, true),
            ("Running", true, ended.clone(), false),
            ("Succeeded", false, ended, false),
        ] {
            let status = json!({"phase": phase, "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]});
            let pod: Pod =
                serde_json::from_value(json!({"metadata": {"name": "p", "deletionTimestamp": deleted.then_some(at)}, "status": status}))
                    .expect("a pod");
            assert_eq!(may_run(&pod), want, "{phase} {deleted}");
        }
    }
}
