//! The objects besides nodes and pods that plugins look at.

use crate::devices::Pools;
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim, ReplicationController, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use std::sync::Arc;

/// Objects by name or place. Whoever knows none of a kind leaves its method as it is: there are none then.
pub trait Listers: Send + Sync {
    /// The namespace of that name.
    fn namespace(&self, name: &str) -> Option<Arc<Namespace>> {
        let _ = name;
        None
    }

    /// All namespaces.
    fn namespaces(&self) -> Vec<Arc<Namespace>> {
        Vec::new()
    }

    /// The Services of a namespace.
    fn services(&self, namespace: &str) -> Vec<Arc<Service>> {
        let _ = namespace;
        Vec::new()
    }

    /// A ReplicationController.
    fn replication_controller(&self, namespace: &str, name: &str) -> Option<Arc<ReplicationController>> {
        let _ = (namespace, name);
        None
    }

    /// A ReplicaSet.
    fn replica_set(&self, namespace: &str, name: &str) -> Option<Arc<ReplicaSet>> {
        let _ = (namespace, name);
        None
    }

    /// A StatefulSet.
    fn stateful_set(&self, namespace: &str, name: &str) -> Option<Arc<StatefulSet>> {
        let _ = (namespace, name);
        None
    }

    /// All disruption budgets.
    fn budgets(&self) -> Vec<Arc<PodDisruptionBudget>> {
        Vec::new()
    }

    /// The class whose devices an extended resource is.
    fn class_of_resource(&self, name: &str) -> Option<Arc<DeviceClass>> {
        let _ = name;
        None
    }

    /// The claim that was made for the extended resources of the pod with this UID.
    fn extended_claim(&self, pod: &str) -> Option<Arc<ResourceClaim>> {
        let _ = pod;
        None
    }

    /// A claim, with what the scheduler has assumed of it.
    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        let _ = (namespace, name);
        None
    }

    /// A volume, with what the scheduler has assumed of it.
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        let _ = name;
        None
    }

    /// The volumes of a class, with what the scheduler has assumed of them. The class's name may be empty.
    fn volumes_of_class(&self, class: &str) -> Vec<Arc<PersistentVolume>> {
        let _ = class;
        Vec::new()
    }

    /// A storage class.
    fn storage_class(&self, name: &str) -> Option<Arc<StorageClass>> {
        let _ = name;
        None
    }

    /// What a node says of its CSI drivers.
    fn csi_node(&self, name: &str) -> Option<Arc<CSINode>> {
        let _ = name;
        None
    }

    /// A CSI driver.
    fn csi_driver(&self, name: &str) -> Option<Arc<CSIDriver>> {
        let _ = name;
        None
    }

    /// What storage there is for which class where.
    fn storage_capacities(&self) -> Vec<Arc<CSIStorageCapacity>> {
        Vec::new()
    }

    /// A claim of devices, with what the scheduler has written of it.
    fn resource_claim(&self, namespace: &str, name: &str) -> Option<Arc<ResourceClaim>> {
        let _ = (namespace, name);
        None
    }

    /// Whether a claim of devices, by UID, is about to get some.
    fn resource_claim_is_pending(&self, uid: &str) -> bool {
        let _ = uid;
        false
    }

    /// The claims that have devices, or are about to.
    fn allocated_claims(&self) -> Vec<Arc<ResourceClaim>> {
        Vec::new()
    }

    /// A class of devices.
    fn device_class(&self, name: &str) -> Option<Arc<DeviceClass>> {
        let _ = name;
        None
    }

    /// The devices that there are.
    fn device_pools(&self) -> Arc<Pools> {
        Arc::default()
    }

    /// The attachments of volumes to a node.
    fn attachments(&self, node: &str) -> Vec<Arc<VolumeAttachment>> {
        let _ = node;
        Vec::new()
    }
}

/// No objects at all.
pub struct Nothing;

impl Listers for Nothing {}
