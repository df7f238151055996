//! The plugins, one per file, and the one table of them. The order is that in which they are called; the first refusal decides what a node is refused for.

mod allocation;
mod balanced_allocation;
#[cfg(test)]
mod cures;
mod default_binder;
mod default_preemption;
mod dynamic_resources;
mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_unschedulable;
mod node_volume_limits;
mod priority_sort;
mod resources_fit;
mod scheduling_gates;
mod taint_toleration;
mod topology_spread;
mod volume_binding;
mod volume_restrictions;
mod volume_zone;

use crate::config::args::PluginArgs;
use crate::framework::{Plugin, Point};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

pub use dynamic_resources::give_back;
pub use node_affinity::matches_required;
pub use resources_fit::{Shortage, shortages};
pub use taint_toleration::untolerated;

/// One row of the table.
pub struct Row {
    /// Makes the plugin with the arguments of a profile.
    pub make: fn(&PluginArgs) -> Arc<dyn Plugin>,
    /// What its scores are multiplied with; 0 for plugins that do not score.
    pub weight: i64,
}

/// The table, with upstream's default weights.
pub const TABLE: &[Row] = &[
    Row { make: |_| Arc::new(scheduling_gates::SchedulingGates), weight: 0 },
    Row { make: |_| Arc::new(priority_sort::PrioritySort), weight: 0 },
    Row { make: |_| Arc::new(node_unschedulable::NodeUnschedulable), weight: 0 },
    Row { make: |_| Arc::new(node_name::NodeName), weight: 0 },
    Row { make: |_| Arc::new(taint_toleration::TaintToleration), weight: 3 },
    Row { make: |args| Arc::new(node_affinity::NodeAffinity::new(args.node_affinity.clone())), weight: 2 },
    Row { make: |_| Arc::new(node_ports::NodePorts), weight: 0 },
    Row { make: |args| Arc::new(resources_fit::NodeResourcesFit::new(args.resources_fit.clone())), weight: 1 },
    Row { make: |_| Arc::new(volume_restrictions::VolumeRestrictions), weight: 0 },
    Row { make: |_| Arc::new(node_volume_limits::NodeVolumeLimits), weight: 0 },
    Row { make: |args| Arc::new(volume_binding::VolumeBinding::new(&args.volume_binding)), weight: 0 },
    Row { make: |_| Arc::new(volume_zone::VolumeZone), weight: 0 },
    Row { make: |args| Arc::new(topology_spread::PodTopologySpread::new(&args.topology_spread)), weight: 2 },
    Row { make: |args| Arc::new(inter_pod_affinity::InterPodAffinity::new(args.inter_pod_affinity.clone())), weight: 2 },
    Row { make: |args| Arc::new(dynamic_resources::DynamicResources::new(&args.dynamic_resources)), weight: 2 },
    Row { make: |args| Arc::new(default_preemption::DefaultPreemption::new(args.default_preemption.clone())), weight: 0 },
    Row { make: |args| Arc::new(balanced_allocation::NodeResourcesBalancedAllocation::new(args.balanced_allocation.clone())), weight: 1 },
    Row { make: |_| Arc::new(image_locality::ImageLocality), weight: 1 },
    Row { make: |_| Arc::new(default_binder::DefaultBinder), weight: 0 },
];

/// A plugin as a configuration names it at one point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enabled {
    /// The plugin's name.
    pub name: String,
    /// What its scores are multiplied with.
    pub weight: i64,
}

/// A plugin at one point.
pub struct Called {
    /// The plugin.
    pub plugin: Arc<dyn Plugin>,
    /// What its scores are multiplied with.
    pub weight: i64,
    /// How often it was called, at the points where that is counted.
    pub evaluations: AtomicU64,
}

/// The plugins of one profile, ready to be called.
pub struct PluginSet {
    plugins: Vec<Arc<dyn Plugin>>,
    /// By point.
    points: Vec<Vec<Called>>,
}

/// Which plugins are called at each point, in this order; by the points' order.
pub type Lists = [Vec<Enabled>; Point::ALL.len()];

/// Every plugin of the table wherever it can be called.
pub fn default_lists() -> Lists {
    let args = PluginArgs::default();
    let plugins: Vec<(Arc<dyn Plugin>, i64)> = TABLE.iter().map(|row| ((row.make)(&args), row.weight)).collect();
    Point::ALL.map(|point| {
        let called = plugins.iter().filter(|(plugin, _)| plugin.points().contains(&point));
        called.map(|(plugin, weight)| Enabled { name: plugin.name().to_owned(), weight: *weight }).collect()
    })
}

impl Default for PluginSet {
    fn default() -> Self {
        Self::new(&PluginArgs::default(), &default_lists())
    }
}

impl PluginSet {
    /// The plugins that the lists name, with the arguments of a profile. A name that is not in the table is passed over.
    pub fn new(args: &PluginArgs, lists: &Lists) -> Self {
        let plugins: Vec<Arc<dyn Plugin>> = TABLE.iter().map(|row| (row.make)(args)).collect();
        let find = |enabled: &Enabled| {
            let plugin = plugins.iter().find(|plugin| plugin.name() == enabled.name)?;
            Some(Called { plugin: plugin.clone(), weight: enabled.weight, evaluations: AtomicU64::new(0) })
        };
        Self { points: lists.iter().map(|list| list.iter().filter_map(find).collect()).collect(), plugins }
    }

    /// Those called at a point.
    pub fn at(&self, point: Point) -> impl Iterator<Item = &dyn Plugin> {
        self.called_at(point).iter().map(|called| called.plugin.as_ref())
    }

    /// The same with their weights, and how often they were called.
    pub fn called_at(&self, point: Point) -> &[Called] {
        &self.points[point as usize]
    }

    /// Whether a plugin is called at a point.
    pub fn has(&self, point: Point, name: &str) -> bool {
        self.at(point).any(|plugin| plugin.name() == name)
    }

    /// One by its name.
    pub fn named(&self, name: &str) -> Option<&dyn Plugin> {
        self.plugins.iter().map(AsRef::as_ref).find(|plugin| plugin.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_is_consistent() {
        assert!(Point::ALL.iter().enumerate().all(|(position, point)| *point as usize == position));
        let (args, mut names) = (PluginArgs::default(), BTreeSet::new());
        for row in TABLE {
            let plugin = (row.make)(&args);
            assert!(!plugin.points().is_empty(), "{} is never called", plugin.name());
            assert!(names.insert(plugin.name()), "{} is there twice", plugin.name());
            assert_eq!(row.weight > 0, plugin.points().contains(&Point::Score), "{}: a weight is for those that score", plugin.name());
        }
    }
}
