//! What a node's pods and one more use of a resource, and what there is of it: what the plugins that score by resources start from.

use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::resources::{CPU, EPHEMERAL_STORAGE, MEMORY};

/// See the module's description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// With the pod.
    pub used: i64,
    /// 0: the resource does not count.
    pub capacity: i64,
}

const UNCOUNTED: Allocation = Allocation { used: 0, capacity: 0 };

impl Allocation {
    /// With containers that ask for no CPU or memory counted as asking for some.
    pub fn scored(pod: &PodInfo, node: &NodeInfo, resource: &str) -> Self {
        match resource {
            CPU => Self { used: node.scored.milli_cpu + pod.scored.milli_cpu, capacity: node.allocatable.milli_cpu },
            MEMORY => Self { used: node.scored.memory + pod.scored.memory, capacity: node.allocatable.memory },
            other => Self::requested(pod, node, other),
        }
    }

    /// With what was asked for, no more. A resource that only some nodes have does not count for pods that do not want it.
    pub fn requested(pod: &PodInfo, node: &NodeInfo, resource: &str) -> Self {
        let wanted = pod.requests.get(resource);
        if wanted == 0 && ![CPU, MEMORY, EPHEMERAL_STORAGE].contains(&resource) {
            return UNCOUNTED;
        }
        Self { used: node.requested.get(resource) + wanted, capacity: node.allocatable.get(resource) }
    }
}
