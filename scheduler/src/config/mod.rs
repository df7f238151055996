//! `--config`: a KubeSchedulerConfiguration (`kubescheduler.config.k8s.io/v1`), as far as it means something here.
//!
//! Fields that are not known are refused rather than ignored: a scheduler that silently does less than its configuration says is worse than
//! one that does not start. Not supported: extenders, arguments of plugins, and profiles that differ in their plugins.

pub mod args;

use crate::queue::Backoff;
use anyhow::{Context, bail};
use serde::Deserialize;
use std::path::Path;
use std::time::Duration;

/// The scheduler's name, for pods that name none.
pub const DEFAULT_NAME: &str = "default-scheduler";

/// What of it is used.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The `schedulerName`s whose pods are ours.
    pub names: Vec<String>,
    /// Plugins switched off.
    pub disabled: Vec<String>,
    /// The share of nodes to look at in percent; 0 chooses by their number.
    pub percentage_of_nodes_to_score: usize,
    /// How long failed pods let others go first.
    pub backoff: Backoff,
    /// Whether one of several replicas has to be chosen, if the file says.
    pub leader_elect: Option<bool>,
    /// The kubeconfig, if the file names one.
    pub kubeconfig: Option<String>,
}

impl Default for Configuration {
    fn default() -> Self {
        Self {
            names: vec![DEFAULT_NAME.to_owned()],
            disabled: Vec::new(),
            percentage_of_nodes_to_score: 0,
            backoff: Backoff::default(),
            leader_elect: None,
            kubeconfig: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    profiles: Vec<Profile>,
    percentage_of_nodes_to_score: Option<usize>,
    pod_initial_backoff_seconds: Option<u64>,
    pod_max_backoff_seconds: Option<u64>,
    leader_election: Option<LeaderElection>,
    client_connection: Option<ClientConnection>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    scheduler_name: Option<String>,
    plugins: Option<Plugins>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Plugins {
    multi_point: Option<PluginSwitches>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginSwitches {
    #[serde(default)]
    disabled: Vec<PluginName>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginName {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LeaderElection {
    leader_elect: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientConnection {
    kubeconfig: Option<String>,
}

/// Reads a file.
pub fn load(path: &Path) -> anyhow::Result<Configuration> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    parse(&text).with_context(|| format!("in {}", path.display()))
}

fn parse(text: &str) -> anyhow::Result<Configuration> {
    let file: File = serde_yaml::from_str(text)?;
    if file.api_version != "kubescheduler.config.k8s.io/v1" || file.kind != "KubeSchedulerConfiguration" {
        bail!("no kind \"{}\" is registered for version \"{}\"", file.kind, file.api_version);
    }
    let defaults = Configuration::default();
    let disabled_of = |profile: &Profile| -> Vec<String> {
        let switches = profile.plugins.as_ref().and_then(|plugins| plugins.multi_point.as_ref());
        switches.into_iter().flat_map(|switches| switches.disabled.iter().map(|plugin| plugin.name.clone())).collect()
    };
    let disabled = file.profiles.first().map(disabled_of).unwrap_or_default();
    if file.profiles.iter().any(|profile| disabled_of(profile) != disabled) {
        bail!("profiles: all profiles have to use the same plugins");
    }
    let names: Vec<String> =
        file.profiles.iter().map(|profile| profile.scheduler_name.clone().unwrap_or_else(|| DEFAULT_NAME.to_owned())).collect();
    Ok(Configuration {
        names: if names.is_empty() { defaults.names } else { names },
        disabled,
        percentage_of_nodes_to_score: file.percentage_of_nodes_to_score.unwrap_or(0),
        backoff: Backoff {
            initial: file.pod_initial_backoff_seconds.map_or(defaults.backoff.initial, Duration::from_secs),
            max: file.pod_max_backoff_seconds.map_or(defaults.backoff.max, Duration::from_secs),
        },
        leader_elect: file.leader_election.and_then(|election| election.leader_elect),
        kubeconfig: file.client_connection.and_then(|connection| connection.kubeconfig),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";

    #[test]
    fn what_is_read() {
        let more = "profiles:\n- schedulerName: mine\n  plugins:\n    multiPoint:\n      disabled:\n      - name: ImageLocality\npodMaxBackoffSeconds: 3\n";
        let read = parse(&format!("{HEAD}{more}")).unwrap();
        assert_eq!((read.names, read.disabled), (vec!["mine".to_owned()], vec!["ImageLocality".to_owned()]));
        assert_eq!((read.backoff.initial, read.backoff.max), (Duration::from_secs(1), Duration::from_secs(3)));
        assert_eq!(parse(HEAD).unwrap().names, [DEFAULT_NAME]);
    }

    #[test]
    fn what_is_refused() {
        for text in
            ["apiVersion: v1\nkind: Pod\n".to_owned(), format!("{HEAD}extenders: []\n"), format!("{HEAD}podMaxBackoffSeconds: soon\n")]
        {
            assert!(parse(&text).is_err(), "{text}");
        }
    }
}
