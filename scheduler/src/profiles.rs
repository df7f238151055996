//! The schedulers that this process is: each a name and a set of plugins.

use crate::config::ProfileConfiguration;
use crate::framework::Point;
use crate::metrics::Evaluations;
use crate::plugins::{Called, PluginSet};
use crate::pod_info::PodInfo;
use std::sync::atomic::Ordering;

/// One of them.
pub struct Profile {
    /// The `schedulerName` of its pods.
    pub name: String,
    /// Its plugins.
    pub plugins: PluginSet,
    /// The share of nodes to look at in percent; 0 chooses by their number.
    pub percentage_of_nodes_to_score: usize,
}

/// All of them.
pub struct Profiles(Vec<Profile>);

impl Default for Profiles {
    fn default() -> Self {
        Self::new(&[ProfileConfiguration::named(crate::config::DEFAULT_NAME)])
    }
}

impl Profiles {
    /// Makes the plugins of every profile.
    pub fn new(configured: &[ProfileConfiguration]) -> Self {
        let make = |profile: &ProfileConfiguration| Profile {
            name: profile.name.clone(),
            plugins: PluginSet::new(&profile.args, &profile.lists),
            percentage_of_nodes_to_score: profile.percentage_of_nodes_to_score,
        };
        Self(configured.iter().map(make).collect())
    }

    /// How often each plugin was called, at the points where that is counted.
    pub fn evaluations(&self) -> Vec<Evaluations> {
        let points = [(Point::PreFilter, "PreFilter"), (Point::Filter, "Filter"), (Point::PreScore, "PreScore"), (Point::Score, "Score")];
        let of_point = |profile: &Profile, (point, name): (Point, &'static str)| -> Vec<Evaluations> {
            let calls = profile.plugins.called_at(point).iter().map(|called| (called, called.evaluations.load(Ordering::Relaxed)));
            let counted = |(called, count): (&Called, u64)| Evaluations {
                plugin: called.plugin.name(),
                point: name,
                profile: profile.name.clone(),
                count,
            };
            calls.filter(|(_, count)| *count > 0).map(counted).collect()
        };
        self.0.iter().flat_map(|profile| points.into_iter().flat_map(|point| of_point(profile, point))).collect()
    }

    /// The one that a pod asks for; none if the pod is another scheduler's.
    pub fn of(&self, pod: &PodInfo) -> Option<&Profile> {
        let name = pod.spec().scheduler_name.as_deref().unwrap_or(crate::config::DEFAULT_NAME);
        self.0.iter().find(|profile| profile.name == name)
    }
}
