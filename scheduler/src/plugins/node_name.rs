//! A pod that names its node runs there or nowhere.

use crate::framework::{ClusterEvent, Context, CycleState, Plugin, Point, Rejection, Verdict};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

/// See the module's description. Such a pod is bound already, so only `kubectl why` and preemption ever see a refusal.
pub struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Filter]
    }

    fn looks_at_node_only(&self) -> bool {
        true
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo, _: &Context<'_>) -> Verdict {
        match pod.node_name() {
            Some(name) if name != node.name() => Err(Rejection::unresolvable("node(s) didn't match the requested node name")),
            _ => Ok(()),
        }
    }

    fn cures(&self, _: &PodInfo, event: &ClusterEvent) -> bool {
        matches!(event, ClusterEvent::Node(changed) if changed.old.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{self, node_info, pod};
    use serde_json::json;

    #[test]
    fn a_named_node() {
        let filter = |spec, node| fixtures::filter(&NodeName, &pod("a", spec), &node_info(node, json!({}), &[]));
        assert!(filter(json!({}), "n1").is_ok());
        assert!(filter(json!({"nodeName": "n1"}), "n1").is_ok());
        assert!(filter(json!({"nodeName": "n1"}), "n2").is_err());
    }
}
