//! A port of a node belongs to one pod at a time.

use crate::framework::{ClusterEvent, Context, CycleState, Plugin, Point, PreFilter, Rejection, Verdict};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

/// See the module's description.
pub struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn pre_filter(&self, _: &mut CycleState, pod: &PodInfo, _: &Context<'_>) -> Result<PreFilter, Rejection> {
        Ok(if pod.host_ports.is_empty() { PreFilter::Skip } else { PreFilter::AllNodes })
    }

    fn looks_at_node_only(&self) -> bool {
        true
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo, _: &Context<'_>) -> Verdict {
        let taken = node.host_ports().any(|taken| pod.host_ports.iter().any(|wanted| wanted.conflicts(taken)));
        if taken { Err(Rejection::unschedulable("node(s) didn't have free ports for the requested pod ports")) } else { Ok(()) }
    }

    fn cures(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::PodGone(gone) => gone.host_ports.iter().any(|freed| pod.host_ports.iter().any(|wanted| wanted.conflicts(freed))),
            ClusterEvent::Node(changed) => changed.old.is_none(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{self, node_info, pod};
    use serde_json::{Value, json};

    #[test]
    fn conflicts() {
        let with = |name: &str, port: Value| pod(name, json!({"containers": [{"ports": [port]}]}));
        let taken = with("taken", json!({"containerPort": 1, "hostPort": 80, "hostIP": "127.0.0.1"}));
        let node = node_info("n", json!({}), &[taken]);
        let cases: [(Value, bool); 6] = [
            (json!({"containerPort": 80}), true),
            (json!({"containerPort": 80, "hostPort": 81}), true),
            (json!({"containerPort": 80, "hostPort": 80}), false),
            (json!({"containerPort": 80, "hostPort": 80, "protocol": "UDP"}), true),
            (json!({"containerPort": 80, "hostPort": 80, "hostIP": "127.0.0.1"}), false),
            (json!({"containerPort": 80, "hostPort": 80, "hostIP": "127.0.0.2"}), true),
        ];
        for (port, expected) in cases {
            assert_eq!(fixtures::filter(&NodePorts, &with("a", port.clone()), &node).is_ok(), expected, "{port}");
        }
    }
}
