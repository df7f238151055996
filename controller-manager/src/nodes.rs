//! What controllers ask of nodes.

use k8s_openapi::api::core::v1::{Node, NodeCondition};

/// The taint with which users say that a machine is off for good, so that nobody waits for its kubelet.
pub const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// A condition by its type.
pub fn condition<'a>(node: &'a Node, condition_type: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == condition_type)
}

/// Whether its kubelet says that it takes pods.
pub fn is_ready(node: &Node) -> bool {
    condition(node, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Whether it has the taint [`OUT_OF_SERVICE`].
pub fn is_out_of_service(node: &Node) -> bool {
    node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(|taint| taint.key == OUT_OF_SERVICE)
}
