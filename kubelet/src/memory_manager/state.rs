//! Which memory of which NUMA node is whose, and the file that says so, as upstream's kubelet writes it (`pkg/kubelet/cm/memorymanager/state`).

use crate::{
    checkpoint::{self, printed_list, printed_map},
    topology_manager::mask::Mask,
};
use anyhow::ensure;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, io, path::Path};

/// The file below the kubelet's root directory.
pub const FILE: &str = "memory_manager_state";

/// Go's names of the type that is written. Upstream calls it one or the other, depending on the version, and takes both.
const TYPES: [&str; 2] = ["MemoryManagerCheckpoint", "MemoryManagerCheckpointV1"];

/// One kind of memory of one node, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // The names are the file's.
pub struct Table {
    pub total: u64,
    pub system_reserved: u64,
    pub allocatable: u64,
    /// What containers were given.
    pub reserved: u64,
    pub free: u64,
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeState {
    /// How many blocks are of it.
    pub number_of_assignments: i64,
    /// By kind: `memory`, `hugepages-2Mi`.
    pub memory_map: BTreeMap<String, Table>,
    /// The nodes that it gives memory together with, itself among them: a node gives either alone or together with always the same others.
    pub cells: Vec<u32>,
}

/// By node.
pub type Nodes = BTreeMap<u32, NodeState>;

/// What a container was given of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Block {
    /// The nodes it is of.
    pub numa_affinity: Vec<u32>,
    /// `memory`, `hugepages-2Mi`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Bytes. Of an init container, less what later ones took over of it.
    pub size: u64,
}

impl Block {
    /// The nodes it is of.
    pub fn mask(&self) -> Mask {
        self.numa_affinity.iter().copied().collect()
    }
}

/// What is whose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assigned {
    /// The nodes.
    pub nodes: Nodes,
    /// By pod and container.
    pub entries: BTreeMap<String, BTreeMap<String, Vec<Block>>>,
}

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    policy_name: String,
    machine_state: Nodes,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: BTreeMap<String, BTreeMap<String, Vec<Block>>>,
    #[serde(default)]
    checksum: u64,
}

impl State {
    fn sum(&self, of: &str) -> u64 {
        let numbers = |list: &Vec<u32>| printed_list(list, u32::to_string);
        let table = |t: &Table| {
            let Table { total, system_reserved, allocatable, reserved, free } = t;
            format!(
                "<*>{{TotalMemSize:(uint64){total} SystemReserved:(uint64){system_reserved} Allocatable:(uint64){allocatable} Reserved:(uint64){reserved} Free:(uint64){free}}}"
            )
        };
        let nodes = printed_map(&self.machine_state, |node| {
            format!(
                "<*>{{NumberOfAssignments:(int){} MemoryMap:(map[v1.ResourceName]*state.MemoryTable){} Cells:([]int){}}}",
                node.number_of_assignments,
                printed_map(&node.memory_map, table),
                numbers(&node.cells)
            )
        });
        let block = |b: &Block| {
            format!("{{NUMAAffinity:([]int){} Type:(v1.ResourceName){} Size:(uint64){}}}", numbers(&b.numa_affinity), b.kind, b.size)
        };
        let entries = printed_map(&self.entries, |pod| printed_map(pod, |blocks| printed_list(blocks, block)));
        checkpoint::checksum(&format!(
            "(*state.{of}){{PolicyName:(string){} MachineState:(state.NUMANodeMap){nodes} Entries:(state.ContainerMemoryAssignments){entries} Checksum:(checksum.Checksum)0}}",
            self.policy_name
        ))
    }
}

impl Assigned {
    /// What a container has.
    pub fn blocks(&self, uid: &str, container: &str) -> Option<&Vec<Block>> {
        self.entries.get(uid)?.get(container)
    }

    /// Writes it below `root`.
    pub fn save(&self, root: &Path, policy: &str) -> io::Result<()> {
        let mut state = State { policy_name: policy.into(), machine_state: self.nodes.clone(), entries: self.entries.clone(), checksum: 0 };
        state.checksum = state.sum(TYPES[0]);
        checkpoint::write(&root.join(FILE), &state)
    }

    /// What is written below `root`, if it is of this policy.
    pub fn restore(root: &Path, policy: &str) -> anyhow::Result<Option<Self>> {
        checkpoint::restore(&root.join(FILE), "memory", |bytes| {
            let state: State = serde_json::from_slice(bytes)?;
            let whole = state.checksum == 0 || TYPES.iter().any(|of| state.sum(of) == state.checksum);
            ensure!(whole, "checkpoint is corrupted");
            let written = &state.policy_name;
            ensure!(written == policy, "[memorymanager] configured policy {policy:?} differs from state checkpoint policy {written:?}");
            Ok(Assigned { nodes: state.machine_state, entries: state.entries })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_upstreams_are_taken_and_ours_are_like_them() {
        let root = tempfile::tempdir().expect("a directory");
        // The file is one of upstream's test cases.
        let text = r#"{"policyName":"static","machineState":{"0":{"numberOfAssignments":0,"memoryMap":{"memory":{"total":2048,"systemReserved":512,"allocatable":1536,"reserved":512,"free":1024}},"cells":[]}},"entries":{"pod":{"container1":[{"numaAffinity":[0],"type":"memory","size":512}]}},"checksum":4215593881}"#;
        let read = |text: &str| {
            std::fs::write(root.path().join(FILE), text).expect("written");
            Assigned::restore(root.path(), "static")
        };
        let assigned = read(text).expect("a good file").expect("there");
        assert_eq!(assigned.nodes[&0].memory_map["memory"].free, 1024);
        assert_eq!(assigned.blocks("pod", "container1").expect("it has some")[0].size, 512);
        assigned.save(root.path(), "static").expect("written");
        assert_eq!(std::fs::read_to_string(root.path().join(FILE)).expect("there"), text);
        let error = read(&text.replace("\"size\":512", "\"size\":513")).expect_err("changed");
        assert_eq!(error.root_cause().to_string(), "checkpoint is corrupted");
        let error = Assigned::restore(root.path(), "None").expect_err("corrupted, too");
        assert!(error.to_string().starts_with("could not restore state from checkpoint, please drain this node"), "{error}");
    }
}
