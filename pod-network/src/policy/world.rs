//! The objects that policies speak of, reduced to what matters for packets.

use k8s_openapi::api::core::v1::{ContainerPort, Pod};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A pod that packets can come from or go to under an address of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    /// Its namespace.
    pub namespace: String,
    /// Its labels.
    pub labels: Labels,
    /// Its node.
    pub node: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its named ports: name, protocol and number.
    pub ports: BTreeSet<(String, &'static str, u16)>,
}

/// What of a pod matters; nothing if it has no address of its own, or none any more.
pub fn peer(pod: &Pod) -> Option<Peer> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
    let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if spec.host_network == Some(true) || over {
        return None;
    }
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).chain(status.pod_ip.as_deref());
    let mut addresses: Vec<IpAddr> = listed.filter_map(|ip| ip.parse().ok()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        return None;
    }
    let sidecars = spec.init_containers.iter().flatten().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    Some(Peer {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        node: spec.node_name.clone().unwrap_or_default(),
        addresses,
        ports: ports.filter_map(named).collect(),
    })
}

fn named(port: &ContainerPort) -> Option<(String, &'static str, u16)> {
    let protocol = kube_proxy::service::protocol(port.protocol.as_deref())?;
    Some((port.name.clone()?, protocol, u16::try_from(port.container_port).ok()?))
}
