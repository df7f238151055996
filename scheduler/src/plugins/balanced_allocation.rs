//! Prefers nodes whose resources fill up evenly: the score falls with the standard deviation of the used fractions.

use super::allocation::Allocation;
use crate::config::args::NodeResourcesBalancedAllocationArgs;
use crate::framework::{Context, CycleState, MAX_SCORE, Plugin, Point};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use std::sync::Arc;

/// See the module's description.
pub struct NodeResourcesBalancedAllocation {
    resources: Vec<String>,
}

impl NodeResourcesBalancedAllocation {
    /// With the arguments of a profile.
    pub fn new(args: NodeResourcesBalancedAllocationArgs) -> Self {
        Self { resources: args.resources.into_iter().map(|resource| resource.name).collect() }
    }
}

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreScore, Point::Score]
    }

    fn pre_score(&self, _: &mut CycleState, pod: &PodInfo, _: &[Arc<NodeInfo>], _: &Context<'_>) -> bool {
        // Pods that ask for nothing change no balance; scored, they would all go to one node.
        self.resources.iter().any(|resource| pod.requests.get(resource) > 0)
    }

    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let allocations = self.resources.iter().map(|resource| Allocation::requested(pod, node, resource));
        #[allow(clippy::cast_precision_loss)] // A fraction; the lost digits do not reach the score.
        let fraction = |a: Allocation| (a.used as f64 / a.capacity as f64).min(1.0);
        let (mut number, mut sum, mut squares) = (0.0, 0.0, 0.0);
        for fraction in allocations.filter(|allocation| allocation.capacity > 0).map(fraction) {
            number += 1.0;
            sum += fraction;
            squares += fraction * fraction;
        }
        let deviation = if number < 2.0 { 0.0 } else { (squares / number - (sum / number) * (sum / number)).max(0.0).sqrt() };
        #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // Between 0 and 100; a little more, so that 87.5 stays 87.
        let score = ((1.0 - deviation) * MAX_SCORE as f64 + 1e-9) as i64;
        score
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{node_info, pod};
    use serde_json::{Value, json};

    #[test]
    fn even_use_is_best() {
        let asking =
            |cpu: &str, memory: &str| pod("a", json!({"containers": [{"resources": {"requests": {"cpu": cpu, "memory": memory}}}]}));
        let node = node_info("n", json!({}), &[]);
        let score = |args: Value, pod: &PodInfo| {
            let plugin = NodeResourcesBalancedAllocation::new(serde_json::from_value(args).unwrap());
            plugin.score(&CycleState::default(), pod, &node)
        };
        for (cpu, memory, expected) in [("2", "4Gi", 100), ("4", "0", 50), ("1", "0", 87), ("4", "8Gi", 100)] {
            assert_eq!(score(json!({}), &asking(cpu, memory)), expected, "{cpu} {memory}");
        }
        let only_cpu = json!({"resources": [{"name": "cpu", "weight": 1}]});
        assert_eq!(score(only_cpu, &asking("4", "0")), 100, "one resource is in balance with itself");
    }
}
