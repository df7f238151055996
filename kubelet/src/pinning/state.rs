//! Who has which CPUs, and the file that says so, as upstream's kubelet writes it (`pkg/kubelet/cm/cpumanager/state`).

use super::cpu_set::{self, CpuSet};
use crate::checkpoint::{self, printed_map};
use anyhow::ensure;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, io, path::Path};

/// The file below the kubelet's root directory.
pub const FILE: &str = "cpu_manager_state";

/// Go's names of the type that is written. Upstream calls it one or the other, depending on the version, and takes both.
const TYPES: [&str; 2] = ["CPUManagerCheckpoint", "CPUManagerCheckpointV2"];

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    policy_name: String,
    /// What is shared.
    #[serde(alias = "defaultCPUSet")]
    default_cpu_set: String,
    /// By pod and container.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(default)]
    checksum: u64,
}

impl State {
    fn sum(&self, of: &str) -> u64 {
        let entries = printed_map(&self.entries, |pod| printed_map(pod, String::clone));
        checkpoint::checksum(&format!(
            "(*state.{of}){{PolicyName:(string){} DefaultCPUSet:(string){} Entries:(map[string]map[string]string){entries} Checksum:(checksum.Checksum)0}}",
            self.policy_name, self.default_cpu_set
        ))
    }

    /// Files from before there were sums have none.
    fn is_whole(&self) -> bool {
        self.checksum == 0 || TYPES.iter().any(|of| self.sum(of) == self.checksum)
    }
}

/// Who has which CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// What is shared.
    pub shared: CpuSet,
    /// What is somebody's own, by pod and container.
    pub by_pod: BTreeMap<String, BTreeMap<String, CpuSet>>,
}

impl Given {
    /// The CPUs that somebody has for itself.
    pub fn exclusive(&self) -> CpuSet {
        self.by_pod.values().flat_map(BTreeMap::values).flatten().copied().collect()
    }

    /// What a container has for itself.
    pub fn own(&self, uid: &str, container: &str) -> Option<&CpuSet> {
        self.by_pod.get(uid)?.get(container)
    }

    fn of(state: &State) -> Result<Self, String> {
        let mut given = Given { shared: cpu_set::parse(&state.default_cpu_set)?, ..Default::default() };
        for (uid, containers) in &state.entries {
            for (name, set) in containers {
                given.by_pod.entry(uid.clone()).or_default().insert(name.clone(), cpu_set::parse(set)?);
            }
        }
        Ok(given)
    }

    /// Writes it below `root`.
    pub fn save(&self, root: &Path, policy: &str) -> io::Result<()> {
        let containers = |pod: &BTreeMap<String, CpuSet>| pod.iter().map(|(name, set)| (name.clone(), cpu_set::shown(set))).collect();
        let mut state = State {
            policy_name: policy.into(),
            default_cpu_set: cpu_set::shown(&self.shared),
            entries: self.by_pod.iter().map(|(uid, pod)| (uid.clone(), containers(pod))).collect(),
            checksum: 0,
        };
        state.checksum = state.sum(TYPES[0]);
        checkpoint::write(&root.join(FILE), &state)
    }

    /// What is written below `root`, if it is of this policy. A state in which there is no CPU is none.
    pub fn restore(root: &Path, policy: &str) -> anyhow::Result<Option<Self>> {
        let given = checkpoint::restore(&root.join(FILE), "CPU", |bytes| {
            let state: State = serde_json::from_slice(bytes)?;
            ensure!(state.is_whole(), "checkpoint is corrupted");
            let written = &state.policy_name;
            ensure!(written == policy, "configured policy {policy:?} differs from state checkpoint policy {written:?}");
            Given::of(&state).map_err(anyhow::Error::msg)
        })?;
        Ok(given.filter(|given| *given != Given::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_upstreams_are_taken_and_ours_are_like_them() {
        let root = tempfile::tempdir().expect("a directory");
        let read = |text: &str| {
            std::fs::write(root.path().join(FILE), text).expect("written");
            Given::restore(root.path(), "none")
        };
        // Both files are known from upstream's kubelets.
        assert_eq!(read(r#"{"policyName":"none","defaultCpuSet":"","checksum":1353318690}"#).expect("a good file"), None);
        let shared = Given { shared: CpuSet::from([4, 5, 6]), ..Default::default() };
        let restored = read(r#"{"policyName":"none","defaultCPUSet":"4-6","entries":{},"checksum":354655845}"#);
        assert_eq!(restored.expect("a good file"), Some(shared.clone()));
        let error = read(r#"{"policyName":"none","defaultCPUSet":"4-7","entries":{},"checksum":354655845}"#).expect_err("changed");
        assert_eq!(error.root_cause().to_string(), "checkpoint is corrupted");
        shared.save(root.path(), "none").expect("written");
        let written = std::fs::read_to_string(root.path().join(FILE)).expect("there");
        assert_eq!(written, r#"{"policyName":"none","defaultCpuSet":"4-6","checksum":354655845}"#);
    }

    #[test]
    fn both_names_of_the_type_are_known() {
        let entries = BTreeMap::from([("pod".to_owned(), BTreeMap::from([("c".to_owned(), "1-2".to_owned())]))]);
        let mut state = State { policy_name: "static".into(), default_cpu_set: "0,3".into(), entries, checksum: 0 };
        for of in TYPES {
            state.checksum = state.sum(of);
            assert!(state.is_whole(), "{of}");
        }
        state.checksum = 1;
        assert!(!state.is_whole());
    }
}
