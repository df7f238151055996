//! The schedulers that this process is: each a name and a set of plugins.

use crate::config::ProfileConfiguration;
use crate::plugins::PluginSet;
use crate::pod_info::PodInfo;

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

    /// The one that a pod asks for; none if the pod is another scheduler's.
    pub fn of(&self, pod: &PodInfo) -> Option<&Profile> {
        let name = pod.spec().scheduler_name.as_deref().unwrap_or(crate::config::DEFAULT_NAME);
        self.0.iter().find(|profile| profile.name == name)
    }
}
