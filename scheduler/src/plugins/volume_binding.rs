//! A pod runs where its volumes can be: bound ones at the nodes of their affinity, unbound ones of classes that wait for their first consumer
//! where there is a volume to bind or one can be made. Before the pod is bound, its volumes are: reserved volumes are written, provisioners
//! are told the node, and the pod waits until controllers have done the rest.
//!
//! Left out: scoring by capacity (upstream's `StorageCapacityScoring`, an alpha feature), volumes of plugins that moved out of the tree.

use crate::config::args::VolumeBindingArgs;
use crate::framework::{Changed, ClusterEvent, Context, CycleState, Effect, Handle, Plugin, Point, PreFilter, Rejection, Verdict};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::volumes::{self, Conflict, PodVolumes, VolumeStore};
use anyhow::{Context as _, anyhow};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use parking_lot::Mutex;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// See the module's description.
pub struct VolumeBinding {
    timeout: Duration,
}

impl VolumeBinding {
    /// With the arguments of a profile.
    pub fn new(args: &VolumeBindingArgs) -> Self {
        Self { timeout: Duration::from_secs(u64::try_from(args.bind_timeout_seconds).unwrap_or(0)) }
    }
}

/// The pod's claims, and what has been found out for each node.
#[derive(Clone)]
struct Claims {
    bound: Arc<Vec<Arc<PersistentVolumeClaim>>>,
    waiting: Arc<Vec<Arc<PersistentVolumeClaim>>>,
    by_node: Arc<Mutex<HashMap<String, PodVolumes>>>,
}

/// What was reserved for the chosen node.
#[derive(Clone)]
struct Reserved(Arc<PodVolumes>);

/// The claims of a pod, all there and fit to be used; those not bound yet apart.
fn claims(pod: &PodInfo, context: &Context<'_>) -> Result<Claims, String> {
    let (mut bound, mut waiting, mut immediate) = (Vec::new(), Vec::new(), false);
    for reference in &pod.claims {
        let name = &reference.name;
        let Some(claim) = context.listers.claim(pod.namespace(), name) else {
            return Err(if reference.ephemeral {
                format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}")
            } else {
                format!("persistentvolumeclaim {name:?} not found")
            });
        };
        let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
        if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
            return Err(format!("persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"));
        }
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
        }
        if reference.ephemeral && !is_owned_by(&claim, pod) {
            let (namespace, pod) = (pod.namespace(), pod.pod.metadata.name.as_deref().unwrap_or_default());
            return Err(format!("PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)"));
        }
        if volumes::is_bound(&claim) {
            bound.push(claim);
        } else if volume.is_empty() && waits_for_consumer(&claim, context) {
            waiting.push(claim);
        } else {
            immediate = true;
        }
    }
    if immediate {
        return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
    }
    Ok(Claims { bound: Arc::new(bound), waiting: Arc::new(waiting), by_node: Arc::default() })
}

fn is_owned_by(claim: &PersistentVolumeClaim, pod: &PodInfo) -> bool {
    claim.metadata.owner_references.iter().flatten().any(|owner| owner.controller == Some(true) && owner.uid == pod.uid())
}

fn waits_for_consumer(claim: &PersistentVolumeClaim, context: &Context<'_>) -> bool {
    let class = context.listers.storage_class(volumes::class_of_claim(claim));
    class.is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
}

/// Writes what was reserved, and gives back what the API has made of it.
async fn write(reserved: &PodVolumes, store: &dyn VolumeStore) -> anyhow::Result<PodVolumes> {
    let mut written = reserved.clone();
    for binding in &mut written.bindings {
        binding.volume = store.update_volume(&binding.volume).await?;
    }
    for claim in &mut written.provisions {
        *claim = store.update_claim(claim).await?;
    }
    Ok(written)
}

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::Reserve, Point::PreBind]
    }

    fn pre_filter(&self, cycle: &mut CycleState, pod: &PodInfo, context: &Context<'_>) -> Result<PreFilter, Rejection> {
        if pod.claims.is_empty() {
            return Ok(PreFilter::Skip);
        }
        cycle.put_lasting(claims(pod, context).map_err(Rejection::unresolvable)?);
        Ok(PreFilter::AllNodes)
    }

    fn filter(&self, cycle: &CycleState, _: &PodInfo, node: &NodeInfo, context: &Context<'_>) -> Verdict {
        let (Some(claims), Some(object)) = (cycle.get::<Claims>(), &node.node) else { return Ok(()) };
        match volumes::choose(&claims.bound, &claims.waiting, object, context.listers) {
            Ok(chosen) => {
                if !claims.waiting.is_empty() {
                    claims.by_node.lock().insert(node.name().to_owned(), chosen);
                }
                Ok(())
            }
            Err(conflicts) => {
                let reasons = conflicts.into_iter().map(Conflict::reason).map(Cow::Borrowed).collect();
                Err(Rejection { reasons, ..Rejection::unresolvable("") })
            }
        }
    }

    fn reserve(&self, cycle: &mut CycleState, pod: &PodInfo, node: &NodeInfo, handle: &dyn Handle) -> Verdict {
        let Some(claims) = cycle.get::<Claims>() else { return Ok(()) };
        let Some(chosen) = claims.by_node.lock().remove(node.name()) else { return Ok(()) };
        if volumes::bound_in_api(pod, handle.listers()) {
            return Ok(());
        }
        for binding in chosen.bindings.iter().filter(|binding| binding.changed) {
            handle.volumes().assume_volume(binding.volume.clone());
        }
        for claim in &chosen.provisions {
            handle.volumes().assume_claim(claim.clone());
        }
        cycle.put_lasting(Reserved(Arc::new(chosen)));
        Ok(())
    }

    fn unreserve(&self, cycle: &CycleState, _: &PodInfo, handle: &dyn Handle) {
        let Some(Reserved(reserved)) = cycle.get() else { return };
        let store = handle.volumes();
        for binding in &reserved.bindings {
            store.restore_volume(binding.volume.metadata.name.as_deref().unwrap_or_default());
        }
        for claim in &reserved.provisions {
            let (namespace, name) = (claim.metadata.namespace.as_deref(), claim.metadata.name.as_deref());
            store.restore_claim(namespace.unwrap_or_default(), name.unwrap_or_default());
        }
    }

    fn pre_bind<'a>(&'a self, cycle: &'a CycleState, pod: &'a PodInfo, node: &'a NodeInfo, handle: &'a dyn Handle) -> Option<Effect<'a>> {
        let Reserved(reserved) = cycle.get()?;
        let store = handle.volumes();
        Some(Box::pin(async move {
            let written = write(reserved, store).await?;
            let done = || match volumes::still_binding(&written, pod, node.name(), store) {
                Ok(true) => None,
                Ok(false) => Some(Ok(())),
                Err(error) => Some(Err(error)),
            };
            let waited = tokio::time::timeout(self.timeout, store.wait_for(&done)).await;
            waited.unwrap_or_else(|_| Err(anyhow!("context deadline exceeded"))).context("binding volumes")
        }))
    }

    fn cures(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        let uses = |claim: &PersistentVolumeClaim| {
            claim.metadata.namespace.as_deref() == Some(pod.namespace())
                && pod.claims.iter().any(|used| Some(used.name.as_str()) == claim.metadata.name.as_deref())
        };
        match event {
            ClusterEvent::Claim(Changed { new, .. }) => uses(new),
            ClusterEvent::ClaimGone(gone) => uses(gone),
            ClusterEvent::Volume(_) => true,
            ClusterEvent::Class(Changed { old, new }) => old.as_ref().is_none_or(|old| old.allowed_topologies != new.allowed_topologies),
            ClusterEvent::Node(Changed { old, new }) => old.as_ref().is_none_or(|old| old.metadata.labels != new.metadata.labels),
            ClusterEvent::CsiNode(Changed { old, new }) => old.as_ref().is_none_or(|old| migrated(old) != migrated(new)),
            ClusterEvent::CsiDriver(Changed { old, new }) => {
                old.as_ref().is_some_and(|old| old.spec.storage_capacity == Some(true) && new.spec.storage_capacity != Some(true))
            }
            ClusterEvent::Capacity(Changed { old, new }) => old.as_ref().is_none_or(|old| {
                let limit = |pool: &k8s_openapi::api::storage::v1::CSIStorageCapacity| {
                    pool.maximum_volume_size.as_ref().or(pool.capacity.as_ref()).and_then(|size| api::quantity::Quantity::of(size).ok())
                };
                limit(new) > limit(old)
            }),
            _ => false,
        }
    }
}

/// The volume plugins of Kubernetes' own whose volumes a CSI driver serves on a node.
fn migrated(node: &k8s_openapi::api::storage::v1::CSINode) -> Option<&String> {
    node.metadata.annotations.as_ref()?.get("storage.alpha.kubernetes.io/migrated-plugins")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Objects, node_info, pod};
    use crate::snapshot::Snapshot;
    use crate::volumes::BIND_COMPLETED;
    use serde_json::{Value, json};

    fn claim(name: &str, more: Value) -> Arc<PersistentVolumeClaim> {
        let mut base = json!({"metadata": {"namespace": "ns", "name": name, "uid": name}, "spec": {"storageClassName": "late"}});
        crate::fixtures::merge(&mut base, more);
        Arc::new(serde_json::from_value(base).unwrap())
    }

    #[test]
    fn pods_wait_for_their_claims() {
        let using = |name: &str| pod("p", json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": name}}]}));
        let ephemeral = |volume: &str| pod("p", json!({"volumes": [{"name": volume, "ephemeral": {}}]}));
        let class = |name: &str, mode: &str| json!({"metadata": {"name": name}, "provisioner": "p", "volumeBindingMode": mode});
        let owner =
            json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "p", "controller": true}]}});
        let listers = Objects {
            claims: vec![
                claim("late", json!({})),
                claim("now", json!({"spec": {"storageClassName": "now"}})),
                claim("prebound", json!({"spec": {"volumeName": "v"}})),
                claim("bound", json!({"metadata": {"annotations": {BIND_COMPLETED: "yes"}}, "spec": {"volumeName": "v"}})),
                claim("lost", json!({"spec": {"volumeName": "v"}, "status": {"phase": "Lost"}})),
                claim("going", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
                claim("p-own", owner),
                claim("p-other", json!({})),
            ],
            classes: [class("late", "WaitForFirstConsumer"), class("now", "Immediate")]
                .map(|class| Arc::new(serde_json::from_value(class).unwrap()))
                .to_vec(),
            ..Objects::default()
        };
        let snapshot = Snapshot::new([node_info("n1", json!({}), &[])]);
        let context = Context { snapshot: &snapshot, listers: &listers };
        for (pod, expected) in [
            (using("late"), None),
            (using("bound"), None),
            (ephemeral("own"), None),
            (using("none"), Some("persistentvolumeclaim \"none\" not found")),
            (using("now"), Some("pod has unbound immediate PersistentVolumeClaims")),
            (using("prebound"), Some("pod has unbound immediate PersistentVolumeClaims")),
            (using("lost"), Some("persistentvolumeclaim \"lost\" bound to non-existent persistentvolume \"v\"")),
            (using("going"), Some("persistentvolumeclaim \"going\" is being deleted")),
            (ephemeral("none"), Some("waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-none\"")),
            (ephemeral("other"), Some("PVC ns/p-other was not created for pod ns/p (pod is not owner)")),
        ] {
            let found = claims(&pod, &context).err();
            assert_eq!(found.as_deref(), expected);
        }
    }
}
