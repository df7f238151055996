//! What the node and its pods use, in the shape of `/stats/summary` (upstream: `staging/src/k8s.io/kubelet/pkg/apis/stats/v1alpha1`). The same figures
//! rank pods for eviction, so there is one account of them.
//!
//! Times are RFC 3339, amounts bytes, CPU time nanoseconds. What could not be found out is left out.

use super::pressure::Psi;
use serde::Serialize;

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)] // The names are upstream's, here and below.
pub struct Summary {
    pub node: NodeStats,
    pub pods: Vec<PodStats>,
}

/// The node.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct NodeStats {
    pub node_name: String,
    pub system_containers: Vec<ContainerStats>,
    pub start_time: String,
    pub cpu: Option<Cpu>,
    pub memory: Option<Memory>,
    pub io: Option<Io>,
    pub network: Option<Network>,
    pub fs: Option<Fs>,
    pub runtime: Option<RuntimeStats>,
    pub rlimit: Option<Rlimit>,
    pub swap: Option<Swap>,
}

/// The runtime's file systems.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct RuntimeStats {
    pub image_fs: Option<Fs>,
    pub container_fs: Option<Fs>,
}

/// Processes: how many there can be and are.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Rlimit {
    pub time: String,
    pub maxpid: i64,
    pub curproc: i64,
}

/// CPU time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Cpu {
    pub time: String,
    pub usage_nano_cores: Option<u64>,
    pub usage_core_nano_seconds: Option<u64>,
    pub psi: Option<Psi>,
}

/// Memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Memory {
    pub time: String,
    pub available_bytes: Option<u64>,
    pub usage_bytes: Option<u64>,
    pub working_set_bytes: Option<u64>,
    pub rss_bytes: Option<u64>,
    pub page_faults: Option<u64>,
    pub major_page_faults: Option<u64>,
    pub psi: Option<Psi>,
}

/// The disk: how long was waited for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Io {
    pub time: String,
    pub psi: Option<Psi>,
}

/// Swap.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Swap {
    pub time: String,
    pub swap_available_bytes: Option<u64>,
    pub swap_usage_bytes: Option<u64>,
}

/// A file system, and how much of it something takes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Fs {
    pub time: String,
    pub available_bytes: Option<u64>,
    pub capacity_bytes: Option<u64>,
    pub used_bytes: Option<u64>,
    pub inodes_free: Option<u64>,
    pub inodes: Option<u64>,
    pub inodes_used: Option<u64>,
}

/// What went over the network: the main interface, and all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Network {
    pub time: String,
    #[serde(flatten)]
    pub main: Interface,
    pub interfaces: Vec<Interface>,
}

/// One interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Interface {
    pub name: String,
    pub rx_bytes: u64,
    pub rx_errors: u64,
    pub tx_bytes: u64,
    pub tx_errors: u64,
    #[serde(skip)]
    pub rx_packets: u64,
    #[serde(skip)]
    pub tx_packets: u64,
    #[serde(skip)]
    pub rx_dropped: u64,
    #[serde(skip)]
    pub tx_dropped: u64,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct PodStats {
    pub pod_ref: PodReference,
    pub start_time: String,
    pub containers: Vec<ContainerStats>,
    pub cpu: Option<Cpu>,
    pub memory: Option<Memory>,
    pub io: Option<Io>,
    pub swap: Option<Swap>,
    pub network: Option<Network>,
    #[serde(rename = "volume", skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeStats>,
    #[serde(rename = "ephemeral-storage")]
    pub ephemeral_storage: Option<Fs>,
    #[serde(rename = "process_stats")]
    pub process_stats: Option<Processes>,
}

/// Which pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct PodReference {
    pub name: String,
    pub namespace: String,
    pub uid: String,
}

/// How many processes and threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Processes {
    pub process_count: u64,
}

/// A container.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct ContainerStats {
    pub name: String,
    pub start_time: String,
    pub cpu: Option<Cpu>,
    pub memory: Option<Memory>,
    pub io: Option<Io>,
    pub swap: Option<Swap>,
    pub rootfs: Option<Fs>,
    pub logs: Option<Fs>,
    /// The runtime's id, for metrics that carry it.
    #[serde(skip)]
    pub id: String,
    /// The image, likewise.
    #[serde(skip)]
    pub image: String,
}

/// A volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct VolumeStats {
    pub name: String,
    #[serde(flatten)]
    pub fs: Fs,
    pub pvc_ref: Option<PvcReference>,
    /// Whether what is in it counts as the pod's ephemeral storage.
    #[serde(skip)]
    pub ephemeral: bool,
}

/// The claim of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct PvcReference {
    pub name: String,
    pub namespace: String,
}

impl Summary {
    /// As it is sent: without what is not known.
    pub fn shown(&self) -> serde_json::Value {
        // Plain data, so this cannot fail.
        let mut value = serde_json::to_value(self).unwrap_or_default();
        drop_nulls(&mut value);
        value
    }

    /// A pod's part.
    pub fn pod(&self, uid: &str) -> Option<&PodStats> {
        self.pods.iter().find(|pod| pod.pod_ref.uid == uid)
    }
}

impl Fs {
    /// The bytes and inodes that are taken.
    pub fn taken(fs: Option<&Fs>) -> (u64, u64) {
        fs.map_or((0, 0), |fs| (fs.used_bytes.unwrap_or(0), fs.inodes_used.unwrap_or(0)))
    }
}

fn drop_nulls(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}
