//! Cordoned nodes take no new pods, unless a pod tolerates the taint that stands for it.

use super::taint_toleration::tolerates;
use crate::framework::{ClusterEvent, Context, CycleState, Plugin, Point, Rejection, Verdict};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use k8s_openapi::api::core::v1::{Node, Taint};

/// The taint that stands for `spec.unschedulable`.
const TAINT: &str = "node.kubernetes.io/unschedulable";

/// See the module's description.
pub struct NodeUnschedulable;

fn tolerates_cordon(pod: &PodInfo) -> bool {
    let taint = Taint { key: TAINT.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
    pod.spec().tolerations.iter().flatten().any(|toleration| tolerates(toleration, &taint))
}

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Filter]
    }

    fn looks_at_node_only(&self) -> bool {
        true
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo, _: &Context<'_>) -> Verdict {
        if !node.is_unschedulable() {
            return Ok(());
        }
        if tolerates_cordon(pod) {
            return Ok(());
        }
        Err(Rejection::unresolvable("node(s) were unschedulable"))
    }

    fn cures(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        let changed = match event {
            ClusterEvent::Node(changed) => changed,
            ClusterEvent::Itself { old, new } => return !tolerates_cordon(old) && tolerates_cordon(new),
            _ => return false,
        };
        let cordoned = |node: &Node| node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
        !cordoned(&changed.new) && changed.old.as_ref().is_none_or(|old| cordoned(old)) || tolerates_cordon(pod)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{self, node_info, pod};
    use serde_json::json;

    #[test]
    fn cordoned_nodes() {
        let cordoned = node_info("n", json!({"spec": {"unschedulable": true}}), &[]);
        let plain = pod("a", json!({}));
        let tolerant = pod("b", json!({"tolerations": [{"operator": "Exists"}]}));
        let filter = |pod: &PodInfo, node: &NodeInfo| fixtures::filter(&NodeUnschedulable, pod, node);
        assert_eq!(filter(&plain, &cordoned), Err(Rejection::unresolvable("node(s) were unschedulable")));
        assert_eq!(filter(&tolerant, &cordoned), Ok(()));
        assert_eq!(filter(&plain, &node_info("n", json!({}), &[])), Ok(()));
    }
}
