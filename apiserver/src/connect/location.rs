//! On which node a pod is, and how its kubelet is reached.

use super::{Target, transport::Transport};
use crate::objects::{Collection, Objects, decoded};
use api::status::{Result, StatusError};
use k8s_openapi::api::core::v1::{Container, Node, Pod};

/// The kubelet's port where the node does not tell.
const KUBELET_PORT: u16 = 10250;
/// Which of a node's addresses is taken: kubeadm's order of `--kubelet-preferred-address-types`.
const ADDRESS_TYPES: [&str; 5] = ["InternalIP", "ExternalIP", "Hostname", "InternalDNS", "ExternalDNS"];

/// The node that the pod was assigned to.
pub fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}

fn names(containers: &[Container]) -> String {
    containers.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(" ")
}

/// The container that is meant: the one named, or the only one.
pub fn container(pod: &Pod, wanted: &str) -> Result<String> {
    let spec = pod.spec.clone().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let initial = spec.init_containers.unwrap_or_default();
    if wanted.is_empty() {
        return match spec.containers.as_slice() {
            [one] => Ok(one.name.clone()),
            [] => Err(StatusError::bad_request(format!("a container name must be specified for pod {name}"))),
            many => {
                let mut why = format!("a container name must be specified for pod {name}, choose one of: [{}]", names(many));
                if !initial.is_empty() {
                    why += &format!(" or one of the init containers: [{}]", names(&initial));
                }
                Err(StatusError::bad_request(why))
            }
        };
    }
    let ephemeral = spec.ephemeral_containers.unwrap_or_default();
    let mut known = spec.containers.iter().chain(&initial).map(|c| &c.name).chain(ephemeral.iter().map(|c| &c.name));
    if known.any(|n| n == wanted) {
        return Ok(wanted.to_owned());
    }
    Err(StatusError::bad_request(format!("container {wanted} is not valid for pod {name}")))
}

/// The address and port of a node's kubelet.
pub fn kubelet_address(node: &Node) -> Option<(String, u16)> {
    let status = node.status.as_ref()?;
    let addresses = status.addresses.as_deref().unwrap_or_default();
    let address = ADDRESS_TYPES.iter().find_map(|wanted| addresses.iter().find(|a| a.type_ == *wanted))?;
    let endpoint = status.daemon_endpoints.as_ref().and_then(|d| d.kubelet_endpoint.as_ref());
    let port = endpoint.and_then(|e| u16::try_from(e.port).ok()).filter(|p| *p != 0).unwrap_or(KUBELET_PORT);
    Some((address.address.clone(), port))
}

/// A path of the kubelet on that node.
pub fn kubelet(objects: &dyn Objects, node: &str, path: &str) -> Result<Target> {
    let found = decoded::<Node>(objects, Collection::core("nodes"), "", node);
    let found = found.ok_or_else(|| StatusError::not_found("", "nodes", node))?;
    let (host, port) = kubelet_address(&found)
        .ok_or_else(|| StatusError::internal(format!("no preferred addresses found; known addresses: [] of node {node}")))?;
    Ok(Target { transport: Transport::Kubelet, host, port, path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_container_is_found_or_asked_for() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}], "ephemeralContainers": [{"name": "e"}]}}))
        .unwrap();
        for name in ["a", "i", "e"] {
            assert_eq!(container(&pod, name).unwrap(), name);
        }
        assert_eq!(
            container(&pod, "").unwrap_err().to_string(),
            "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]"
        );
        assert_eq!(container(&pod, "x").unwrap_err().to_string(), "container x is not valid for pod p");
        let one: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}})).unwrap();
        assert_eq!(container(&one, "").unwrap(), "a");
    }

    #[test]
    fn the_internal_address_comes_first() {
        let node: Node = serde_json::from_value(json!({"status": {
            "addresses": [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "192.0.2.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10251}}}}))
        .unwrap();
        assert_eq!(kubelet_address(&node), Some(("192.0.2.1".into(), 10251)));
        assert_eq!(kubelet_address(&Node::default()), None);
    }
}
