//! Memory and huge pages of guaranteed pods from NUMA nodes of their own (`memoryManagerPolicy: Static`) (upstream: `pkg/kubelet/cm/memorymanager`).
//!
//! Containers that are given some have the nodes as their `cpuset.mems`. Who has what is written down, so that the next kubelet gives it to nobody else.
//! Left out: memory of pods as a whole, which upstream has behind a feature gate that is off.

pub mod policy;
pub mod state;

use crate::{
    config::{KubeletConfiguration, MemoryReservation},
    container::{
        identity,
        resources::{self, Qos},
    },
    node::admission::Refusal,
    topology_manager::{
        Provider, Subject,
        hint::{Hint, Hints},
        machine::Numa,
        mask::Mask,
        unexpected,
    },
};
use anyhow::{Context, bail, ensure};
use api::quantity::Quantity;
use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;
use policy::{Amounts, Reserved, is_memory};
use state::{Assigned, Block};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

const POLICY: &str = "Static";
const NONE: &str = "None";

/// The memory of one node.
pub struct MemoryManager {
    root: PathBuf,
    assigned: Mutex<Assigned>,
}

impl MemoryManager {
    /// By the configuration, with what the last kubelet wrote down below `root`; `None` where the policy is `None`. `kept`: what of each kind pods are not
    /// given, for the system, Kubernetes and the eviction threshold together.
    pub fn of(config: &KubeletConfiguration, kept: &Amounts, numa: &Numa, root: &Path) -> anyhow::Result<Option<Arc<Self>>> {
        match config.memory_manager_policy.as_str() {
            "" | NONE => {
                Assigned::restore(root, NONE)?;
                Assigned::default().save(root, NONE).context("writing the memory manager's state")?;
                return Ok(None);
            }
            POLICY => {}
            unknown => bail!("unknown policy: {unknown:?}"),
        }
        let reserved = reserved(&config.reserved_memory, kept, numa)?;
        ensure!(
            reserved.values().filter_map(|of| of.get("memory")).sum::<u64>() > 0,
            "[memorymanager] you should specify the system reserved memory"
        );
        let empty = policy::empty(numa, &reserved);
        let assigned = match Assigned::restore(root, POLICY)? {
            Some(assigned) if !assigned.nodes.is_empty() => {
                policy::fits(&assigned, empty).map_err(anyhow::Error::msg)?;
                assigned
            }
            Some(assigned) if !assigned.entries.is_empty() => {
                bail!("[memorymanager] machine state can not be empty when it has memory assignments")
            }
            _ => Assigned { nodes: empty, ..Default::default() },
        };
        assigned.save(root, POLICY).context("writing the memory manager's state")?;
        Ok(Some(Arc::new(MemoryManager { root: root.to_owned(), assigned: Mutex::new(assigned) })))
    }

    /// What a container has of its own.
    pub fn blocks(&self, uid: &str, container: &str) -> Vec<Block> {
        self.assigned.lock().blocks(uid, container).cloned().unwrap_or_default()
    }

    /// The nodes whose memory a container may use; none are all.
    pub fn nodes(&self, uid: &str, container: &str) -> Mask {
        self.blocks(uid, container).iter().flat_map(|block| block.numa_affinity.iter().copied()).collect()
    }

    /// What each node has for containers, given away or not.
    pub fn allocatable(&self) -> Vec<Block> {
        let assigned = self.assigned.lock();
        let blocks = assigned.nodes.iter().flat_map(|(number, node)| {
            let some = node.memory_map.iter().filter(|(_, table)| table.allocatable > 0);
            some.map(|(kind, table)| Block { numa_affinity: vec![*number], kind: kind.clone(), size: table.allocatable })
        });
        blocks.collect()
    }

    /// Gives a container the memory that is to be its own.
    fn allocate(&self, pod: &Pod, container: &Container, place: Hint) -> Result<(), Refusal> {
        let (uid, Some(spec)) = (identity::uid(pod), &pod.spec) else { return Ok(()) };
        let mut assigned = self.assigned.lock();
        if !has_its_own(pod) || assigned.blocks(uid, &container.name).is_some() {
            return Ok(());
        }
        let free = |mask: Mask, kind: &str| policy::reusable(&assigned, uid, spec, &container.name, mask, kind);
        let mask = policy::choose(&assigned.nodes, &policy::requested(container), place, free).map_err(unexpected)?;
        let mut next = assigned.clone();
        policy::take(&mut next, uid, spec, container, mask);
        next.save(&self.root, POLICY).map_err(|error| unexpected(&error.to_string()))?;
        *assigned = next;
        Ok(())
    }
}

impl Provider for MemoryManager {
    fn hints(&self, pod: &Pod, subject: Subject<'_>) -> Hints {
        let (uid, Some(spec)) = (identity::uid(pod), &pod.spec) else { return Hints::new() };
        if !has_its_own(pod) {
            return Hints::new();
        }
        let assigned = self.assigned.lock();
        let (asked, had, before) = match subject {
            Subject::Container(container) => (policy::requested(container), assigned.blocks(uid, &container.name), container.name.as_str()),
            // Nobody of a pod that is given all at once has anything yet.
            Subject::Pod => (policy::pod_requested(spec), assigned.entries.get(uid).and_then(|pod| pod.values().next()), ""),
        };
        if let Some(blocks) = had {
            let same = blocks.len() == asked.len() && blocks.iter().all(|block| asked.get(&block.kind) == Some(&block.size));
            let place = |block: &Block| Some(vec![Hint { affinity: Some(block.mask()), preferred: true }]);
            return if same { blocks.iter().map(|block| (block.kind.clone(), place(block))).collect() } else { Hints::new() };
        }
        let free = |mask: Mask, kind: &str| {
            if before.is_empty() { 0 } else { policy::reusable(&assigned, uid, spec, before, mask, kind) }
        };
        let places = policy::hints(&assigned.nodes, &asked, free);
        asked.into_keys().map(|kind| (kind, Some(places.clone()))).collect()
    }

    fn allocate<'a>(&'a self, pod: &'a Pod, container: &'a Container, place: Hint) -> BoxFuture<'a, Result<(), Refusal>> {
        std::future::ready(MemoryManager::allocate(self, pod, container, place)).boxed()
    }

    fn release(&self, uid: &str) {
        let mut assigned = self.assigned.lock();
        if policy::release(&mut assigned, uid)
            && let Err(error) = assigned.save(&self.root, POLICY)
        {
            tracing::error!(%error, "who has which memory could not be written down");
        }
    }
}

/// Whether the pod's containers are given memory. One that is limited as a whole has none.
fn has_its_own(pod: &Pod) -> bool {
    resources::qos(pod) == Qos::Guaranteed && !resources::is_limited_as_a_whole(pod)
}

/// What is kept of each node, which has to be what is kept of the machine.
fn reserved(given: &[MemoryReservation], kept: &Amounts, numa: &Numa) -> anyhow::Result<Reserved> {
    let mut out = Reserved::new();
    let mut total: Amounts = kept.keys().filter(|kind| is_memory(kind)).map(|kind| (kind.clone(), 0)).collect();
    for reservation in given {
        let node = reservation.numa_node;
        ensure!(
            numa.0.contains_key(&node),
            "the reserved memory configuration references a NUMA node {node} that does not exist on this machine"
        );
        for (kind, text) in &reservation.limits {
            let amount: Quantity = text.parse().with_context(|| format!("reservedMemory: {kind}"))?;
            let bytes = u64::try_from(amount.value())?;
            *total.entry(kind.clone()).or_default() += bytes;
            *out.entry(node).or_default().entry(kind.clone()).or_default() += bytes;
        }
    }
    for (kind, bytes) in total {
        let shown = |bytes: u64| Quantity::new(i64::try_from(bytes).unwrap_or(i64::MAX), api::quantity::Format::DecimalSi).to_string();
        let wanted = kept.get(&kind).copied().unwrap_or(0);
        ensure!(
            bytes == wanted,
            "the total amount {:?} of type {kind:?} is not equal to the value {:?} determined by Node Allocatable feature",
            shown(bytes),
            shown(wanted)
        );
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology_manager::machine::NumaNode;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    fn manager(root: &Path, reserved: Value) -> anyhow::Result<Option<Arc<MemoryManager>>> {
        let node = NumaNode { memory: 100, huge_pages: BTreeMap::from([(2 << 20, 0)]), ..Default::default() };
        let numa = Numa([(0, node.clone()), (1, node)].into());
        let config = serde_json::from_value(json!({"memoryManagerPolicy": "Static", "reservedMemory": reserved})).expect("a configuration");
        MemoryManager::of(&config, &Amounts::from([("memory".to_owned(), 30)]), &numa, root)
    }

    fn halves() -> Value {
        json!([{"numaNode": 0, "limits": {"memory": "10"}}, {"numaNode": 1, "limits": {"memory": "20"}}])
    }

    fn pod(uid: &str, memory: &str, cpu: &str) -> Pod {
        let container =
            json!({"name": "c", "resources": {"limits": {"memory": memory, "cpu": cpu}, "requests": {"memory": memory, "cpu": "1"}}});
        serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": {"containers": [container]}})).expect("a pod")
    }

    fn allocate(manager: &MemoryManager, pod: &Pod, affinity: Option<u32>) -> Result<(), Refusal> {
        let container = &pod.spec.as_ref().expect("a spec").containers[0];
        let affinity = affinity.map(|node| [node].into_iter().collect());
        manager.allocate(pod, container, Hint { affinity, preferred: affinity.is_some() })
    }

    #[test]
    fn guaranteed_pods_have_memory_of_their_own() {
        let root = tempfile::tempdir().expect("a directory");
        let first = manager(root.path(), halves()).expect("a good configuration").expect("the policy is static");
        let sizes: Vec<_> = first.allocatable().into_iter().map(|block| (block.numa_affinity, block.size)).collect();
        assert_eq!(sizes, [(vec![0], 90), (vec![1], 80)]);
        allocate(&first, &pod("a", "50", "1"), Some(1)).expect("room");
        allocate(&first, &pod("b", "50", "2"), None).expect("it shares");
        assert_eq!((first.nodes("a", "c").to_string(), first.nodes("b", "c").to_string()), ("1".into(), String::new()));
        let refusal = allocate(&first, &pod("c", "91", "1"), None).expect_err("no node has as much");
        assert_eq!(refusal.reason, "UnexpectedAdmissionError");
        let hints = first.hints(&pod("c", "50", "1"), Subject::Pod).remove("memory").flatten().expect("hints");
        assert_eq!(hints.iter().map(|hint| hint.affinity.expect("nodes").to_string()).collect::<Vec<_>>(), ["0"]);

        let next = manager(root.path(), halves()).expect("a good state").expect("the policy is static");
        assert_eq!(next.nodes("a", "c").to_string(), "1");
        next.release("a");
        assert!(next.blocks("a", "c").is_empty());
        assert!(
            MemoryManager::of(&KubeletConfiguration::default(), &Amounts::new(), &Numa::default(), root.path()).is_err(),
            "drain first"
        );
    }

    #[test]
    fn what_is_kept_is_said_of_every_node() {
        for (given, want) in [
            (
                json!([]),
                "the total amount \"0\" of type \"memory\" is not equal to the value \"30\" determined by Node Allocatable feature",
            ),
            (
                json!([{"numaNode": 7, "limits": {"memory": "30"}}]),
                "the reserved memory configuration references a NUMA node 7 that does not exist on this machine",
            ),
            (
                json!([{"numaNode": 0, "limits": {"memory": "30", "hugepages-2Mi": "2Mi"}}]),
                "the total amount \"2097152\" of type \"hugepages-2Mi\" is not equal to the value \"0\" determined by Node Allocatable feature",
            ),
        ] {
            let root = tempfile::tempdir().expect("a directory");
            assert_eq!(manager(root.path(), given).err().map(|error| error.to_string()).as_deref(), Some(want));
        }
    }
}
