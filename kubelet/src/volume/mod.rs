//! Volumes: one trait, one table of types, and the code that sets a pod's volumes up before its containers start, keeps their content
//! current while they run, and takes them down after.
//!
//! A volume lives in `ROOT/pods/UID/volumes/kubernetes.io~TYPE/NAME`, as upstream lays it out. What holds secrets is a tmpfs, and what
//! the kubelet writes is read-only to containers. Volumes of drivers are [`crate::csi`]'s. Left out: iSCSI, NFS and the other network types, and claims of such volumes.

pub mod atomic_writer;
pub mod claim;
pub mod csi;
pub mod downward;
pub mod host_path;
pub mod image;
pub mod keys;
pub mod memory;
pub mod ownership;
pub mod projected;
pub mod setup;
pub mod sub_path;

use crate::{
    csi::{Csi, volume::CsiVolume},
    lookup::Lookup,
    node::NodeFacts,
    recorder::Recorder,
};
use api::go_error::go_io_error;
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, Volume};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

/// A file of a volume: its content and its mode bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// The content.
    pub data: Vec<u8>,
    /// Mode bits, as `0o644`.
    pub mode: u32,
    /// Whose it is, where it is not root's: a token belongs to whoever runs in the pod.
    pub owner: Option<u32>,
}

/// The files of a volume by their path below it.
pub type Payload = BTreeMap<String, File>;

/// Why a volume cannot be set up; the text is what `FailedMount` says.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct VolumeError(pub String);

impl From<std::io::Error> for VolumeError {
    fn from(error: std::io::Error) -> Self {
        VolumeError(go_io_error(&error))
    }
}

impl From<crate::container::environment::EnvError> for VolumeError {
    fn from(error: crate::container::environment::EnvError) -> Self {
        VolumeError(error.0)
    }
}

/// What a volume answers or why it cannot.
pub type Result<T> = std::result::Result<T, VolumeError>;

/// The step that most fails at, as events name it.
pub const SET_UP: &str = "MountVolume.SetUp";

/// Why nothing stands behind a volume, as `FailedMount` says it.
#[derive(Debug)]
pub struct BackingError {
    /// What failed.
    pub step: &'static str,
    /// The volume, where it is known by another name than the pod's.
    pub volume: Option<String>,
    /// Why.
    pub error: VolumeError,
}

impl From<VolumeError> for BackingError {
    fn from(error: VolumeError) -> Self {
        BackingError { step: SET_UP, volume: None, error }
    }
}

/// What stands behind a volume, or why nothing does.
pub type Backed = std::result::Result<Backing, BackingError>;

/// What a volume is made from besides its definition.
pub struct VolumeContext<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Objects and tokens.
    pub lookup: &'a Lookup,
    /// The node.
    pub node: &'a NodeFacts,
    /// The volumes of drivers; absent without an API server.
    pub csi: Option<&'a Arc<Csi>>,
    /// Events.
    pub events: &'a Recorder,
    /// The pod's addresses, where they are known already.
    pub pod_ips: &'a [String],
}

/// What a volume is on the node.
pub enum Backing {
    /// A path that exists already and stays: `hostPath`.
    Path {
        /// The path.
        path: PathBuf,
        /// No container may write there.
        read_only: bool,
        /// Whether what is in it is handed to the pod's `fsGroup`.
        owned: bool,
    },
    /// A path that exists already and is a device.
    Device {
        /// The path.
        path: PathBuf,
        /// No container may write there.
        read_only: bool,
    },
    /// An image, which the runtime has.
    Image,
    /// A volume of a driver.
    Csi(Box<CsiVolume>),
    /// An empty directory of the pod, on disk or in memory (with a size in bytes, 0 for the kernel's default).
    Empty {
        /// In memory.
        memory: bool,
        /// The limit of a memory volume.
        size: u64,
    },
    /// Files that the kubelet writes and keeps current; in memory where they are secret.
    Files {
        /// The files.
        files: Payload,
        /// In memory.
        memory: bool,
    },
}

/// One type of volume.
#[async_trait]
pub trait VolumeType: Sync {
    /// The type's name in paths: `empty-dir`.
    fn name(&self) -> &'static str;
    /// Whether the definition is of this type.
    fn takes(&self, volume: &Volume) -> bool;
    /// What stands behind the volume.
    async fn backing(&self, volume: &Volume, context: &VolumeContext<'_>) -> Backed;
}

/// All types.
pub const TYPES: &[&dyn VolumeType] = &[
    &memory::EmptyDir,
    &host_path::HostPath,
    &keys::ConfigMapVolume,
    &keys::SecretVolume,
    &downward::DownwardApi,
    &projected::Projected,
    &claim::Claim,
    &csi::Inline,
    &image::ImageVolume,
];
