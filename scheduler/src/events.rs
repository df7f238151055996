//! Changes in the cluster that may make a pod fit that did not, as the queue tells them to the plugins that refused it.

use crate::pod_info::PodInfo;
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use std::sync::Arc;

/// An object that has come or changed.
#[derive(Clone, Debug)]
pub struct Changed<K> {
    /// As it was; none if it is new.
    pub old: Option<Arc<K>>,
    /// As it is.
    pub new: Arc<K>,
}

/// See the module's description.
#[derive(Clone, Debug)]
pub enum ClusterEvent {
    /// A node has come, or changed in what plugins look at.
    Node(Changed<Node>),
    /// A node is gone.
    NodeGone(Arc<Node>),
    /// A pod was bound to a node.
    PodBound(Arc<PodInfo>),
    /// A pod that is on a node has changed in what plugins look at.
    PodChanged {
        /// As it was.
        old: Arc<PodInfo>,
        /// As it is.
        new: Arc<PodInfo>,
    },
    /// A pod that was on a node is gone or has ended.
    PodGone(Arc<PodInfo>),
    /// The pod that waits has itself changed.
    Itself {
        /// As it was.
        old: Arc<PodInfo>,
        /// As it is.
        new: Arc<PodInfo>,
    },
    /// A namespace has come or has other labels.
    Namespace(Changed<Namespace>),
    /// A claim has come or changed.
    Claim(Changed<PersistentVolumeClaim>),
    /// A claim is gone.
    ClaimGone(Arc<PersistentVolumeClaim>),
    /// A volume has come or changed.
    Volume(Changed<PersistentVolume>),
    /// A storage class has come or changed.
    Class(Changed<StorageClass>),
    /// What a node says of its CSI drivers.
    CsiNode(Changed<CSINode>),
    /// A CSI driver has come or changed.
    CsiDriver(Changed<CSIDriver>),
    /// What storage there is for a class has become known or changed.
    Capacity(Changed<CSIStorageCapacity>),
    /// A volume is no longer attached to a node.
    Detached(Arc<VolumeAttachment>),
    /// A claim of devices has come or changed.
    DeviceClaim(Changed<ResourceClaim>),
    /// Devices have come or changed.
    DeviceSlice(Changed<ResourceSlice>),
    /// A class of devices has come or changed.
    DeviceClass(Changed<DeviceClass>),
}

impl ClusterEvent {
    /// The name under which upstream's metrics count it.
    pub fn label(&self) -> &'static str {
        fn of<K>(changed: &Changed<K>, added: &'static str, updated: &'static str) -> &'static str {
            if changed.old.is_none() { added } else { updated }
        }
        match self {
            Self::Node(changed) => of(changed, "NodeAdd", "NodeUpdate"),
            Self::NodeGone(_) => "NodeDelete",
            Self::PodBound(_) => "AssignedPodAdd",
            Self::PodChanged { .. } => "AssignedPodUpdate",
            Self::PodGone(_) => "AssignedPodDelete",
            Self::Itself { .. } => "UnschedulablePodUpdate",
            Self::Namespace(changed) => of(changed, "NamespaceAdd", "NamespaceUpdate"),
            Self::Claim(changed) => of(changed, "PersistentVolumeClaimAdd", "PersistentVolumeClaimUpdate"),
            Self::ClaimGone(_) => "PersistentVolumeClaimDelete",
            Self::Volume(changed) => of(changed, "PersistentVolumeAdd", "PersistentVolumeUpdate"),
            Self::Class(changed) => of(changed, "StorageClassAdd", "StorageClassUpdate"),
            Self::CsiNode(changed) => of(changed, "CSINodeAdd", "CSINodeUpdate"),
            Self::CsiDriver(changed) => of(changed, "CSIDriverAdd", "CSIDriverUpdate"),
            Self::Capacity(changed) => of(changed, "CSIStorageCapacityAdd", "CSIStorageCapacityUpdate"),
            Self::Detached(_) => "VolumeAttachmentDelete",
            Self::DeviceClaim(changed) => of(changed, "ResourceClaimAdd", "ResourceClaimUpdate"),
            Self::DeviceSlice(changed) => of(changed, "ResourceSliceAdd", "ResourceSliceUpdate"),
            Self::DeviceClass(changed) => of(changed, "DeviceClassAdd", "DeviceClassUpdate"),
        }
    }
}
