//! The objects that the scheduler watches, and what it makes of their changes: its picture of the cluster, and events for pods that wait.

use crate::devices::Pools;
use crate::devices::store::{Decisions, DeviceStore};
use crate::framework::{Changed, ClusterEvent};
use crate::listers::Listers;
use crate::pod_info::PodInfo;
use crate::scheduler::Scheduler;
use crate::trim::{self, Trimmed};
use crate::volumes::{AssumeCache, VolumeStore, class_of_volume};
use api::device_claims;
use client::cache::Cacheable;
use client::{Cache, Change, ObjectKey, SharedCaches};
use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{
    Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, PodExtendedResourceClaimStatus, ReplicationController, Service,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::watcher;
use kube::{Api, Resource};
use parking_lot::Mutex;
use serde_json::json;
use std::borrow::Cow;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

/// The index of volumes by class.
const BY_CLASS: &str = "class";
/// The index of device classes by the extended resource that their devices are.
const BY_RESOURCE: &str = "resource";
/// The index of claims for extended resources by their pods.
const BY_POD: &str = "pod";
/// In front of a class's name: the extended resource that its devices always are.
const CLASS_PREFIX: &str = "deviceclass.resource.kubernetes.io/";
/// The index of attachments by node.
const BY_NODE: &str = "node";

/// One cache per kind.
pub struct Informers {
    /// All caches of the process.
    pub shared: Arc<SharedCaches>,
    /// Pods that have not ended.
    pub pods: Arc<Cache<Pod>>,
    pub(crate) nodes: Arc<Cache<Node>>,
    namespaces: Arc<Cache<Namespace>>,
    services: Arc<Cache<Service>>,
    replication_controllers: Arc<Cache<ReplicationController>>,
    replica_sets: Arc<Cache<ReplicaSet>>,
    stateful_sets: Arc<Cache<StatefulSet>>,
    budgets: Arc<Cache<PodDisruptionBudget>>,
    claims: AssumeCache<PersistentVolumeClaim>,
    volumes: AssumeCache<PersistentVolume>,
    classes: Arc<Cache<StorageClass>>,
    csi_nodes: Arc<Cache<CSINode>>,
    csi_drivers: Arc<Cache<CSIDriver>>,
    capacities: Arc<Cache<CSIStorageCapacity>>,
    attachments: Arc<Cache<VolumeAttachment>>,
    device_claims: Arc<Cache<ResourceClaim>>,
    device_classes: Arc<Cache<DeviceClass>>,
    device_slices: Arc<Cache<ResourceSlice>>,
    decisions: Decisions,
    /// The pools that the slices make, until the slices change.
    pools: Mutex<Option<Arc<Pools>>>,
    /// Counts changes of claims of devices, for bindings that wait for them.
    device_claims_changed: watch::Sender<u64>,
    /// Counts changes of claims, volumes and pods with claims, for bindings that wait for them.
    bound: watch::Sender<u64>,
}

impl Informers {
    /// Starts all watches.
    pub fn start(shared: Arc<SharedCaches>, trimmed: Trimmed) -> Self {
        trim::kinds(&shared, trimmed);
        let unfinished = watcher::Config::default().any_semantic().fields("status.phase!=Succeeded,status.phase!=Failed");
        let (volumes, attachments) = (shared.of::<PersistentVolume>(), shared.of::<VolumeAttachment>());
        volumes.add_index(BY_CLASS, |volume| vec![class_of_volume(volume).to_owned()]);
        attachments.add_index(BY_NODE, |attachment| vec![attachment.spec.node_name.clone()]);
        let (device_claims, device_classes) = (shared.of::<ResourceClaim>(), shared.of::<DeviceClass>());
        device_classes.add_index(BY_RESOURCE, |class| class.spec.extended_resource_name.iter().cloned().collect());
        device_claims.add_index(BY_POD, |claim| {
            let owners = claim.metadata.owner_references.iter().flatten().filter(|owner| owner.controller == Some(true));
            owners.filter(|_| device_claims::is_for_extended_resources(claim)).map(|owner| owner.uid.clone()).collect()
        });
        Self {
            pods: shared.selected(unfinished),
            nodes: shared.of(),
            namespaces: shared.of(),
            services: shared.of(),
            replication_controllers: shared.of(),
            replica_sets: shared.of(),
            stateful_sets: shared.of(),
            budgets: shared.of(),
            claims: AssumeCache::new(shared.of()),
            volumes: AssumeCache::new(volumes),
            classes: shared.of(),
            csi_nodes: shared.of(),
            csi_drivers: shared.of(),
            capacities: shared.of(),
            attachments,
            device_claims,
            device_classes,
            device_slices: shared.of(),
            decisions: Decisions::default(),
            pools: Mutex::default(),
            device_claims_changed: watch::Sender::new(0),
            bound: watch::Sender::new(0),
            shared,
        }
    }

    /// Without watches: for tests, which tell the caches themselves.
    #[cfg(test)]
    pub fn unwatched(shared: Arc<SharedCaches>) -> Self {
        Self {
            pods: Arc::default(),
            nodes: Arc::default(),
            namespaces: Arc::default(),
            services: Arc::default(),
            replication_controllers: Arc::default(),
            replica_sets: Arc::default(),
            stateful_sets: Arc::default(),
            budgets: Arc::default(),
            claims: AssumeCache::new(Arc::default()),
            volumes: AssumeCache::new(Arc::default()),
            classes: Arc::default(),
            csi_nodes: Arc::default(),
            csi_drivers: Arc::default(),
            capacities: Arc::default(),
            attachments: Arc::default(),
            device_claims: Arc::default(),
            device_classes: Arc::default(),
            device_slices: Arc::default(),
            decisions: Decisions::default(),
            pools: Mutex::default(),
            device_claims_changed: watch::Sender::new(0),
            bound: watch::Sender::new(0),
            shared,
        }
    }

    /// Tells the scheduler of every change from now on, and of everything that is there.
    pub fn subscribe(scheduler: &Arc<Scheduler>) {
        let informers = &scheduler.informers;
        on(&informers.nodes, scheduler, Scheduler::node_changed);
        let kind = |pod: &Pod| if is_placed(pod) { "AssignedPod".into() } else { "UnschedulablePod".into() };
        on_named(&informers.pods, scheduler, kind, Scheduler::pod_changed);
        on(&informers.namespaces, scheduler, |scheduler, change| {
            // Other changes of a namespace mean nothing to a pod.
            if change.old().is_none_or(|old| old.metadata.labels != change.object().metadata.labels) {
                tell(scheduler, change, ClusterEvent::Namespace);
            }
        });
        on(informers.claims.seen(), scheduler, |scheduler, change| {
            scheduler.informers.bound.send_modify(|count| *count += 1);
            match change {
                Change::Deleted(claim) => scheduler.queue.event(&ClusterEvent::ClaimGone(claim.clone())),
                _ => tell(scheduler, change, ClusterEvent::Claim),
            }
        });
        on(informers.volumes.seen(), scheduler, |scheduler, change| {
            scheduler.informers.bound.send_modify(|count| *count += 1);
            tell(scheduler, change, ClusterEvent::Volume);
        });
        on(&informers.classes, scheduler, |scheduler, change| tell(scheduler, change, ClusterEvent::Class));
        on(&informers.csi_nodes, scheduler, |scheduler, change| tell(scheduler, change, ClusterEvent::CsiNode));
        on(&informers.csi_drivers, scheduler, |scheduler, change| tell(scheduler, change, ClusterEvent::CsiDriver));
        on(&informers.capacities, scheduler, |scheduler, change| tell(scheduler, change, ClusterEvent::Capacity));
        on(&informers.device_claims, scheduler, |scheduler, change| {
            let gone = matches!(change, Change::Deleted(_));
            scheduler.informers.decisions.seen(change.object(), gone);
            scheduler.informers.device_claims_changed.send_modify(|count| *count += 1);
            match change {
                // Its devices are free for others.
                Change::Deleted(old) => {
                    let freed = ResourceClaim { status: None, ..old.as_ref().clone() };
                    scheduler.queue.event(&ClusterEvent::DeviceClaim(Changed { old: Some(old.clone()), new: Arc::new(freed) }));
                }
                _ => tell(scheduler, change, ClusterEvent::DeviceClaim),
            }
        });
        on(&informers.device_slices, scheduler, |scheduler, change| {
            *scheduler.informers.pools.lock() = None;
            tell(scheduler, change, ClusterEvent::DeviceSlice);
        });
        on(&informers.device_classes, scheduler, |scheduler, change| tell(scheduler, change, ClusterEvent::DeviceClass));
        on(&informers.attachments, scheduler, |scheduler, change| {
            if let Change::Deleted(attachment) = change {
                scheduler.queue.event(&ClusterEvent::Detached(attachment.clone()));
            }
        });
    }
}

fn on<K: Cacheable>(cache: &Arc<Cache<K>>, scheduler: &Arc<Scheduler>, handle: impl Fn(&Scheduler, &Change<K>) + Send + Sync + 'static)
where
    K::DynamicType: Default,
{
    on_named(cache, scheduler, |_| K::kind(&K::DynamicType::default()).into_owned().into(), handle);
}

/// The same, with what the metrics call such an object.
fn on_named<K: Cacheable>(
    cache: &Arc<Cache<K>>,
    scheduler: &Arc<Scheduler>,
    kind: impl Fn(&K) -> Cow<'static, str> + Send + Sync + 'static,
    handle: impl Fn(&Scheduler, &Change<K>) + Send + Sync + 'static,
) {
    let scheduler = Arc::downgrade(scheduler);
    cache.subscribe(move |change| {
        if let Some(scheduler) = scheduler.upgrade() {
            let begun = Instant::now();
            handle(&scheduler, change);
            let action = match change {
                Change::Added(_) => "Add",
                Change::Updated { .. } => "Update",
                Change::Deleted(_) => "Delete",
            };
            scheduler.metrics.events.observe(&[&format!("{}{action}", kind(change.object()))], begun.elapsed().as_secs_f64());
        }
    });
}

fn is_placed(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty())
}

/// An object that has come or changed is an event; one that is gone helps nobody.
fn tell<K: Resource>(scheduler: &Scheduler, change: &Change<K>, event: fn(Changed<K>) -> ClusterEvent) {
    if !matches!(change, Change::Deleted(_)) {
        scheduler.queue.event(&event(Changed { old: change.old().cloned(), new: change.object().clone() }));
    }
}

impl Scheduler {
    fn node_changed(&self, change: &Change<Node>) {
        let name = change.object().metadata.name.as_deref().unwrap_or_default();
        match change {
            Change::Deleted(node) => {
                self.state.lock().remove_node(name);
                self.queue.event(&ClusterEvent::NodeGone(node.clone()));
            }
            Change::Added(new) => {
                self.state.lock().set_node(new.clone());
                tell(self, change, ClusterEvent::Node);
            }
            Change::Updated { old, new } => {
                self.state.lock().set_node(new.clone());
                if matters(old, new) {
                    tell(self, change, ClusterEvent::Node);
                }
            }
        }
    }

    /// A pod has come, changed or gone.
    pub(crate) fn pod_changed(&self, change: &Change<Pod>) {
        let pod = Arc::new(PodInfo::new(change.object().clone()));
        if !pod.claims.is_empty() {
            self.informers.bound.send_modify(|count| *count += 1);
        }
        if matches!(change, Change::Deleted(_)) || pod.is_finished() {
            self.pod_gone(pod);
        } else if pod.node_name().is_some() {
            self.pod_placed(pod);
        } else if self.profiles.of(&pod).is_none() || pod.is_terminating() {
            self.queue.remove(pod.uid());
            self.state.lock().denominate(pod.uid());
        } else {
            let before = change.old().and_then(|old| nominated(old));
            let moved = before.is_some() && before != nominated(change.object());
            self.pod_waits(pod, moved);
        }
    }

    fn pod_gone(&self, pod: Arc<PodInfo>) {
        self.queue.remove(pod.uid());
        let mut state = self.state.lock();
        let was_placed = state.remove_pod(pod.uid()).is_some();
        let was_promised = state.denominate(pod.uid());
        drop(state);
        // Room that was only promised is free as well.
        if was_placed || was_promised {
            self.queue.event(&ClusterEvent::PodGone(pod));
        }
    }

    fn pod_placed(&self, pod: Arc<PodInfo>) {
        self.queue.remove(pod.uid());
        let mut state = self.state.lock();
        state.denominate(pod.uid());
        let before = state.set_pod(pod.clone());
        drop(state);
        match before {
            None => self.queue.event(&ClusterEvent::PodBound(pod)),
            Some(old) if old.requests != pod.requests || !old.counts_like(&pod) => {
                self.queue.event(&ClusterEvent::PodChanged { old, new: pod });
            }
            Some(_) => {}
        }
    }

    /// `moved`: in the API the pod has no longer the room that it was promised. A promise that is not there yet is no such thing.
    fn pod_waits(&self, pod: Arc<PodInfo>, moved: bool) {
        let mut state = self.state.lock();
        if state.is_assumed(pod.uid()) {
            return;
        }
        match nominated(&pod.pod) {
            Some(node) => state.nominate(pod.clone(), node),
            None if moved => drop(state.denominate(pod.uid())),
            None => {}
        }
        drop(state);
        self.queue.update(pod.clone());
        if moved {
            // For others it is as if a pod had gone there.
            self.queue.event(&ClusterEvent::PodGone(pod));
        }
    }
}

/// Where a pod is to go, as its status says.
pub fn nominated(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.nominated_node_name.as_deref().filter(|node| !node.is_empty())
}

/// Whether a node's change can matter to a pod that did not fit; heartbeats do not.
fn matters(old: &Node, new: &Node) -> bool {
    let of = |node: &Node| {
        let spec = node.spec.clone().unwrap_or_default();
        // Annotations are only there for extenders.
        let (labels, annotations) = (node.metadata.labels.clone(), node.metadata.annotations.clone());
        (labels, annotations, node.status.as_ref().and_then(|status| status.allocatable.clone()), spec.taints, spec.unschedulable)
    };
    of(old) != of(new)
}

impl Listers for Informers {
    fn namespace(&self, name: &str) -> Option<Arc<Namespace>> {
        self.namespaces.get(&ObjectKey::new("", name))
    }

    fn namespaces(&self) -> Vec<Arc<Namespace>> {
        self.namespaces.list()
    }

    fn services(&self, namespace: &str) -> Vec<Arc<Service>> {
        self.services.in_namespace(namespace)
    }

    fn replication_controller(&self, namespace: &str, name: &str) -> Option<Arc<ReplicationController>> {
        self.replication_controllers.get(&ObjectKey::new(namespace, name))
    }

    fn replica_set(&self, namespace: &str, name: &str) -> Option<Arc<ReplicaSet>> {
        self.replica_sets.get(&ObjectKey::new(namespace, name))
    }

    fn stateful_set(&self, namespace: &str, name: &str) -> Option<Arc<StatefulSet>> {
        self.stateful_sets.get(&ObjectKey::new(namespace, name))
    }

    fn budgets(&self) -> Vec<Arc<PodDisruptionBudget>> {
        self.budgets.list()
    }

    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        self.claims.get(&ObjectKey::new(namespace, name))
    }

    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.volumes.get(&ObjectKey::new("", name))
    }

    fn volumes_of_class(&self, class: &str) -> Vec<Arc<PersistentVolume>> {
        self.volumes.by_index(BY_CLASS, class)
    }

    fn storage_class(&self, name: &str) -> Option<Arc<StorageClass>> {
        self.classes.get(&ObjectKey::new("", name))
    }

    fn csi_node(&self, name: &str) -> Option<Arc<CSINode>> {
        self.csi_nodes.get(&ObjectKey::new("", name))
    }

    fn csi_driver(&self, name: &str) -> Option<Arc<CSIDriver>> {
        self.csi_drivers.get(&ObjectKey::new("", name))
    }

    fn storage_capacities(&self) -> Vec<Arc<CSIStorageCapacity>> {
        self.capacities.list()
    }

    fn resource_claim(&self, namespace: &str, name: &str) -> Option<Arc<ResourceClaim>> {
        self.device_claims.get(&ObjectKey::new(namespace, name)).map(|seen| self.decisions.over(seen))
    }

    fn resource_claim_is_pending(&self, uid: &str) -> bool {
        self.decisions.is_pending(uid)
    }

    fn allocated_claims(&self) -> Vec<Arc<ResourceClaim>> {
        let mut claims: Vec<_> = self.device_claims.list().into_iter().map(|seen| self.decisions.over(seen)).collect();
        claims.retain(|claim| device_claims::is_allocated(claim));
        claims.extend(self.decisions.all());
        claims.sort_by(|a, b| a.metadata.uid.cmp(&b.metadata.uid));
        claims.dedup_by(|a, b| a.metadata.uid == b.metadata.uid);
        claims
    }

    fn device_class(&self, name: &str) -> Option<Arc<DeviceClass>> {
        self.device_classes.get(&ObjectKey::new("", name))
    }

    fn class_of_resource(&self, name: &str) -> Option<Arc<DeviceClass>> {
        if let Some(class) = name.strip_prefix(CLASS_PREFIX) {
            return self.device_class(class);
        }
        // The newest of several, of equally new ones the first by name.
        let made = |class: &DeviceClass| class.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let classes = self.device_classes.by_index(BY_RESOURCE, name).into_iter();
        classes.max_by(|a, b| made(a).cmp(&made(b)).then_with(|| b.metadata.name.cmp(&a.metadata.name)))
    }

    fn extended_claim(&self, pod: &str) -> Option<Arc<ResourceClaim>> {
        self.device_claims.by_index(BY_POD, pod).into_iter().next()
    }

    fn device_pools(&self) -> Arc<Pools> {
        self.pools.lock().get_or_insert_with(|| Arc::new(Pools::gather(self.device_slices.list()))).clone()
    }

    fn attachments(&self, node: &str) -> Vec<Arc<VolumeAttachment>> {
        self.attachments.by_index(BY_NODE, node)
    }
}

impl Informers {
    fn claims_api(&self, namespace: &str) -> Api<ResourceClaim> {
        Api::namespaced(self.shared.client().clone(), namespace)
    }
}

impl DeviceStore for Informers {
    fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    fn fetch<'a>(&'a self, namespace: &'a str, name: &'a str) -> BoxFuture<'a, kube::Result<Option<ResourceClaim>>> {
        Box::pin(async move { self.claims_api(namespace).get_opt(name).await })
    }

    fn create<'a>(&'a self, claim: &'a ResourceClaim) -> BoxFuture<'a, kube::Result<ResourceClaim>> {
        let api = self.claims_api(claim.metadata.namespace.as_deref().unwrap_or_default());
        Box::pin(async move { api.create(&PostParams::default(), claim).await })
    }

    fn discard(&self, claim: ResourceClaim) {
        let (key, uid) = (ObjectKey::of(&claim), claim.metadata.uid.unwrap_or_default());
        let api = self.claims_api(&key.namespace);
        self.decisions.forget(&uid);
        tokio::spawn(async move {
            let unfinished = json!({"metadata": {"uid": uid, "finalizers": null}});
            let deleted = async {
                api.patch(&key.name, &PatchParams::default(), &Patch::Merge(unfinished)).await?;
                let same = Preconditions { uid: Some(uid), ..Preconditions::default() };
                api.delete(&key.name, &DeleteParams { preconditions: Some(same), ..DeleteParams::default() }).await.map(drop)
            };
            // Where it stays, the next try of its pod finds it.
            if let Err(error) = deleted.await {
                tracing::debug!(claim = %key, %error, "could not delete a claim for extended resources");
            }
        });
    }

    fn tell_pod<'a>(&'a self, pod: &'a PodInfo, status: &'a PodExtendedResourceClaimStatus) -> BoxFuture<'a, kube::Result<()>> {
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": {"extendedResourceClaimStatus": status}}));
        let api: Api<Pod> = Api::namespaced(self.shared.client().clone(), pod.namespace());
        let name = pod.pod.metadata.name.as_deref().unwrap_or_default();
        Box::pin(async move { api.patch_status(name, &PatchParams::default(), &patch).await.map(drop) })
    }

    fn update<'a>(&'a self, claim: &'a ResourceClaim) -> BoxFuture<'a, kube::Result<ResourceClaim>> {
        Box::pin(async move {
            let key = ObjectKey::of(claim);
            self.claims_api(&key.namespace).replace(&key.name, &PostParams::default(), claim).await
        })
    }

    fn update_status<'a>(&'a self, claim: &'a ResourceClaim) -> BoxFuture<'a, kube::Result<ResourceClaim>> {
        Box::pin(async move {
            let key = ObjectKey::of(claim);
            self.claims_api(&key.namespace).replace_status(&key.name, &PostParams::default(), claim).await
        })
    }

    fn seen(&self, namespace: &str, name: &str) -> Option<Arc<ResourceClaim>> {
        self.device_claims.get(&ObjectKey::new(namespace, name))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.device_claims_changed.subscribe()
    }
}

impl VolumeStore for Informers {
    fn assume_volume(&self, volume: PersistentVolume) {
        self.volumes.assume(volume);
    }

    fn assume_claim(&self, claim: PersistentVolumeClaim) {
        self.claims.assume(claim);
    }

    fn restore_volume(&self, name: &str) {
        self.volumes.restore(&ObjectKey::new("", name));
    }

    fn restore_claim(&self, namespace: &str, name: &str) {
        self.claims.restore(&ObjectKey::new(namespace, name));
    }

    fn seen_volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.volumes.seen().get(&ObjectKey::new("", name))
    }

    fn seen_claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        self.claims.seen().get(&ObjectKey::new(namespace, name))
    }

    fn seen_node(&self, name: &str) -> Option<Arc<Node>> {
        self.nodes.get(&ObjectKey::new("", name))
    }

    fn has_pod(&self, namespace: &str, name: &str) -> bool {
        self.pods.get(&ObjectKey::new(namespace, name)).is_some()
    }

    fn update_volume<'a>(&'a self, volume: &'a PersistentVolume) -> BoxFuture<'a, anyhow::Result<PersistentVolume>> {
        Box::pin(async move {
            let api: Api<PersistentVolume> = Api::all(self.shared.client().clone());
            Ok(api.replace(volume.metadata.name.as_deref().unwrap_or_default(), &PostParams::default(), volume).await?)
        })
    }

    fn update_claim<'a>(&'a self, claim: &'a PersistentVolumeClaim) -> BoxFuture<'a, anyhow::Result<PersistentVolumeClaim>> {
        Box::pin(async move {
            let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
            let api: Api<PersistentVolumeClaim> = Api::namespaced(self.shared.client().clone(), namespace);
            Ok(api.replace(claim.metadata.name.as_deref().unwrap_or_default(), &PostParams::default(), claim).await?)
        })
    }

    fn wait_for<'a>(&'a self, done: &'a (dyn Fn() -> Option<anyhow::Result<()>> + Send + Sync)) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let mut changes = self.bound.subscribe();
            loop {
                changes.borrow_and_update();
                if let Some(answer) = done() {
                    return answer;
                }
                // The sender lives as long as self.
                let _ = changes.changed().await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::node;
    use serde_json::json;

    #[test]
    fn heartbeats_do_not_matter() {
        let plain = node("n", json!({}));
        let beat = node("n", json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}));
        assert!(!matters(&plain, &beat));
        for change in [
            json!({"metadata": {"labels": {"a": "b"}}}),
            json!({"metadata": {"annotations": {"a": "b"}}}),
            json!({"spec": {"unschedulable": true}}),
            json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}),
            json!({"status": {"allocatable": {"cpu": "8"}}}),
        ] {
            assert!(matters(&plain, &node("n", change.clone())), "{change}");
        }
    }
}
