//! Prefers nodes whose CPU and memory fill up evenly: the score falls with the standard deviation of the used fractions.

use crate::framework::{Context, CycleState, MAX_SCORE, Plugin, Point};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::resources::{CPU, MEMORY, is_best_effort};
use std::sync::Arc;

/// See the module's description.
pub struct NodeResourcesBalancedAllocation;

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreScore, Point::Score]
    }

    fn pre_score(&self, _: &mut CycleState, pod: &PodInfo, _: &[Arc<NodeInfo>], _: &Context<'_>) -> bool {
        // Pods that ask for nothing change no balance; scored, they would all go to one node.
        !is_best_effort(&pod.requests)
    }

    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let fraction = |resource: &str| {
            let capacity = node.allocatable.get(resource);
            #[allow(clippy::cast_precision_loss)] // A fraction; the lost digits do not reach the score.
            let used = (node.requested.get(resource) + pod.requests.get(resource)) as f64 / capacity as f64;
            (capacity > 0).then_some(used.min(1.0))
        };
        let deviation = match (fraction(CPU), fraction(MEMORY)) {
            (Some(cpu), Some(memory)) => (cpu - memory).abs() / 2.0,
            _ => 0.0,
        };
        #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // Between 0 and 100.
        let score = ((1.0 - deviation) * MAX_SCORE as f64) as i64;
        score
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{node_info, pod};
    use serde_json::json;

    #[test]
    fn even_use_is_best() {
        let asking =
            |cpu: &str, memory: &str| pod("a", json!({"containers": [{"resources": {"requests": {"cpu": cpu, "memory": memory}}}]}));
        let node = node_info("n", json!({}), &[]);
        for (cpu, memory, expected) in [("2", "4Gi", 100), ("4", "0", 50), ("1", "0", 87)] {
            let score = NodeResourcesBalancedAllocation.score(&CycleState::default(), &asking(cpu, memory), &node);
            assert_eq!(score, expected, "{cpu} {memory}");
        }
    }
}
