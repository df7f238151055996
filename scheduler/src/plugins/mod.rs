//! The plugins, one per file, and the one table of them. The order is that in which they are called; the first refusal decides what a node is refused for.

mod balanced_allocation;
mod default_binder;
mod image_locality;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_unschedulable;
mod resources_fit;
mod scheduling_gates;
mod taint_toleration;
mod topology_spread;

use crate::framework::{Plugin, Point};

pub use node_affinity::matches_required;
pub use resources_fit::{Shortage, shortages};
pub use taint_toleration::untolerated;

/// One row of the table.
pub struct Row {
    /// Makes the plugin.
    pub make: fn() -> Box<dyn Plugin>,
    /// What its scores are multiplied with; 0 for plugins that do not score.
    pub weight: i64,
}

/// The table, with upstream's default weights. Pods are taken in the order of PrioritySort, which is the queue itself.
pub const TABLE: &[Row] = &[
    Row { make: || Box::new(scheduling_gates::SchedulingGates), weight: 0 },
    Row { make: || Box::new(node_unschedulable::NodeUnschedulable), weight: 0 },
    Row { make: || Box::new(node_name::NodeName), weight: 0 },
    Row { make: || Box::new(taint_toleration::TaintToleration), weight: 3 },
    Row { make: || Box::new(node_affinity::NodeAffinity), weight: 2 },
    Row { make: || Box::new(node_ports::NodePorts), weight: 0 },
    Row { make: || Box::new(resources_fit::NodeResourcesFit), weight: 1 },
    Row { make: || Box::new(topology_spread::PodTopologySpread), weight: 2 },
    Row { make: || Box::new(balanced_allocation::NodeResourcesBalancedAllocation), weight: 1 },
    Row { make: || Box::new(image_locality::ImageLocality), weight: 1 },
    Row { make: || Box::new(default_binder::DefaultBinder), weight: 0 },
];

/// The plugins of one scheduler, ready to be called.
pub struct PluginSet {
    plugins: Vec<(Box<dyn Plugin>, i64)>,
}

impl Default for PluginSet {
    fn default() -> Self {
        Self::without(&[])
    }
}

impl PluginSet {
    /// All plugins but those named.
    pub fn without(disabled: &[String]) -> Self {
        let made = TABLE.iter().map(|row| ((row.make)(), row.weight));
        Self { plugins: made.filter(|(plugin, _)| !disabled.iter().any(|name| name == plugin.name())).collect() }
    }

    /// Those called at a point.
    pub fn at(&self, point: Point) -> impl Iterator<Item = &dyn Plugin> {
        self.plugins.iter().map(|(plugin, _)| plugin.as_ref()).filter(move |plugin| plugin.points().contains(&point))
    }

    /// Those that score, with their weights.
    pub fn scoring(&self) -> impl Iterator<Item = (&dyn Plugin, i64)> {
        self.plugins.iter().filter(|(plugin, _)| plugin.points().contains(&Point::Score)).map(|(plugin, weight)| (plugin.as_ref(), *weight))
    }

    /// One by its name.
    pub fn named(&self, name: &str) -> Option<&dyn Plugin> {
        self.plugins.iter().map(|(plugin, _)| plugin.as_ref()).find(|plugin| plugin.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_is_consistent() {
        let mut names = BTreeSet::new();
        for row in TABLE {
            let plugin = (row.make)();
            assert!(names.insert(plugin.name()), "{} is there twice", plugin.name());
            assert_eq!(row.weight > 0, plugin.points().contains(&Point::Score), "{}: a weight is for those that score", plugin.name());
        }
    }
}
