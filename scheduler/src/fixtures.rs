//! Pods and nodes for tests, short.

use crate::devices::Pools;
use crate::framework::{Context, CycleState, Plugin, Verdict};
use crate::listers::{Listers, Nothing};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use kube::Resource;
use serde_json::{Value, json};
use std::sync::Arc;

/// A pod of namespace `ns` with this spec; its name is its UID. Containers need no names.
pub fn pod(name: &str, spec: Value) -> Arc<PodInfo> {
    labelled_pod(name, json!({}), spec)
}

/// The same with labels.
pub fn labelled_pod(name: &str, labels: Value, mut spec: Value) -> Arc<PodInfo> {
    let containers = spec["containers"].as_array_mut().into_iter().flatten();
    for container in containers {
        if container.get("name").is_none() {
            container["name"] = json!("c");
        }
    }
    if spec.get("containers").is_none() {
        spec["containers"] = json!([]);
    }
    let object = json!({"metadata": {"namespace": "ns", "name": name, "uid": name, "labels": labels}, "spec": spec});
    let pod: Pod = serde_json::from_value(object).unwrap();
    Arc::new(PodInfo::new(Arc::new(pod)))
}

/// A node of 4 CPUs, 8 Gi and 110 pods, with `more` merged over it.
pub fn node(name: &str, more: Value) -> Arc<Node> {
    let mut object = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
    });
    merge(&mut object, more);
    Arc::new(serde_json::from_value(object).unwrap())
}

/// A node with pods on it.
pub fn node_info(name: &str, more: Value, pods: &[Arc<PodInfo>]) -> NodeInfo {
    NodeInfo::new(node(name, more), pods.iter().cloned())
}

/// Whatever else there is in the cluster. Namespaces are not told apart.
#[derive(Default)]
pub struct Objects {
    pub budgets: Vec<Arc<PodDisruptionBudget>>,
    pub claims: Vec<Arc<PersistentVolumeClaim>>,
    pub volumes: Vec<Arc<PersistentVolume>>,
    pub classes: Vec<Arc<StorageClass>>,
    pub drivers: Vec<Arc<CSIDriver>>,
    pub csi_nodes: Vec<Arc<CSINode>>,
    pub capacities: Vec<Arc<CSIStorageCapacity>>,
    pub attachments: Vec<Arc<VolumeAttachment>>,
    pub device_claims: Vec<Arc<ResourceClaim>>,
    pub device_classes: Vec<Arc<DeviceClass>>,
    pub device_pools: Arc<Pools>,
}

fn named<K: Resource>(objects: &[Arc<K>], name: &str) -> Option<Arc<K>> {
    objects.iter().find(|object| object.meta().name.as_deref() == Some(name)).cloned()
}

impl Listers for Objects {
    fn budgets(&self) -> Vec<Arc<PodDisruptionBudget>> {
        self.budgets.clone()
    }

    fn claim(&self, _: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        named(&self.claims, name)
    }

    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        named(&self.volumes, name)
    }

    fn volumes_of_class(&self, class: &str) -> Vec<Arc<PersistentVolume>> {
        self.volumes.iter().filter(|volume| crate::volumes::class_of_volume(volume) == class).cloned().collect()
    }

    fn storage_class(&self, name: &str) -> Option<Arc<StorageClass>> {
        named(&self.classes, name)
    }

    fn csi_node(&self, name: &str) -> Option<Arc<CSINode>> {
        named(&self.csi_nodes, name)
    }

    fn csi_driver(&self, name: &str) -> Option<Arc<CSIDriver>> {
        named(&self.drivers, name)
    }

    fn storage_capacities(&self) -> Vec<Arc<CSIStorageCapacity>> {
        self.capacities.clone()
    }

    fn resource_claim(&self, _: &str, name: &str) -> Option<Arc<ResourceClaim>> {
        named(&self.device_claims, name)
    }

    fn extended_claim(&self, pod: &str) -> Option<Arc<ResourceClaim>> {
        let of_pod = |claim: &&Arc<ResourceClaim>| claim.metadata.owner_references.iter().flatten().any(|owner| owner.uid == pod);
        self.device_claims.iter().find(of_pod).cloned()
    }

    fn allocated_claims(&self) -> Vec<Arc<ResourceClaim>> {
        self.device_claims.clone()
    }

    fn device_class(&self, name: &str) -> Option<Arc<DeviceClass>> {
        named(&self.device_classes, name)
    }

    fn class_of_resource(&self, name: &str) -> Option<Arc<DeviceClass>> {
        self.device_classes.iter().find(|class| class.spec.extended_resource_name.as_deref() == Some(name)).cloned()
    }

    fn device_pools(&self) -> Arc<Pools> {
        self.device_pools.clone()
    }

    fn attachments(&self, _: &str) -> Vec<Arc<VolumeAttachment>> {
        self.attachments.clone()
    }
}

/// What a plugin's filter says of a node that is alone in its cluster.
pub fn filter(plugin: &dyn Plugin, pod: &PodInfo, node: &NodeInfo) -> Verdict {
    let snapshot = Snapshot::new([node.clone()]);
    let context = Context { snapshot: &snapshot, listers: &Nothing };
    plugin.filter(&CycleState::default(), pod, node, &context)
}

/// Puts one object over another.
pub fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}
