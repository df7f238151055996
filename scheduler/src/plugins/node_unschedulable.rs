//! Cordoned nodes take no new pods, unless a pod tolerates the taint that stands for it.

use super::taint_toleration::tolerates;
use crate::framework::{ClusterEvent, CycleState, Plugin, Point, Rejection, Verdict};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use k8s_openapi::api::core::v1::Taint;

/// The taint that stands for `spec.unschedulable`.
const TAINT: &str = "node.kubernetes.io/unschedulable";

/// See the module's description.
pub struct NodeUnschedulable;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Filter]
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Verdict {
        if !node.is_unschedulable() {
            return Ok(());
        }
        let taint = Taint { key: TAINT.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
        if pod.spec().tolerations.iter().flatten().any(|toleration| tolerates(toleration, &taint)) {
            return Ok(());
        }
        Err(Rejection::unresolvable("node(s) were unschedulable"))
    }

    fn cures(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        let ClusterEvent::Node { new, .. } = event else { return false };
        self.filter(&CycleState::default(), pod, &NodeInfo::new(new.clone(), [])).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{node_info, pod};
    use serde_json::json;

    #[test]
    fn cordoned_nodes() {
        let cordoned = node_info("n", json!({"spec": {"unschedulable": true}}), &[]);
        let plain = pod("a", json!({}));
        let tolerant = pod("b", json!({"tolerations": [{"operator": "Exists"}]}));
        let filter = |pod: &PodInfo, node: &NodeInfo| NodeUnschedulable.filter(&CycleState::default(), pod, node);
        assert_eq!(filter(&plain, &cordoned), Err(Rejection::unresolvable("node(s) were unschedulable")));
        assert_eq!(filter(&tolerant, &cordoned), Ok(()));
        assert_eq!(filter(&plain, &node_info("n", json!({}), &[])), Ok(()));
    }
}
