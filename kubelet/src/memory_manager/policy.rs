//! Which NUMA nodes a container's memory is taken from: functions over what is whose (upstream: `pkg/kubelet/cm/memorymanager/policy_static.go`).
//!
//! A node gives memory either alone or together with always the same other nodes, so that whoever has memory of one node alone is not starved by who may
//! take all of theirs from it.

use super::state::{Assigned, Block, NodeState, Nodes, Table};
use crate::{
    container::resources,
    node::machine::binary,
    topology_manager::{self, hint::Hint, machine::Numa, mask::Mask},
};
use k8s_openapi::api::core::v1::{Container, PodSpec};
use std::collections::BTreeMap;

/// Bytes by kind: `memory`, `hugepages-2Mi`.
pub type Amounts = BTreeMap<String, u64>;

/// What is kept of each node.
pub type Reserved = BTreeMap<u32, Amounts>;

/// Whether a resource is a kind of memory.
pub fn is_memory(name: &str) -> bool {
    name == "memory" || name.starts_with("hugepages-")
}

/// What of each kind a container asks for.
pub fn requested(container: &Container) -> Amounts {
    let requests =
        container.resources.iter().flat_map(|r| r.requests.iter().chain(&r.limits).flatten()).filter(|(name, _)| is_memory(name));
    let bytes = requests.filter_map(|(name, _)| Some((name.clone(), u64::try_from(resources::request(container, name) / 1000).ok()?)));
    bytes.collect()
}

/// What of each kind a pod asks for at a time. What only init containers ask for does not count.
pub fn pod_requested(spec: &PodSpec) -> Amounts {
    let kinds = spec.containers.iter().flat_map(|container| requested(container).into_keys());
    let peak = |kind: &String| topology_manager::peak(spec, |container| requested(container).get(kind).copied().unwrap_or(0));
    kinds.map(|kind| (kind.clone(), peak(&kind))).collect()
}

/// The nodes of a machine of which nothing was given to anybody.
pub fn empty(numa: &Numa, reserved: &Reserved) -> Nodes {
    let node = |(number, node): (&u32, &topology_manager::machine::NumaNode)| {
        let table = |kind: &str, total: u64, less: u64| {
            let system_reserved = reserved.get(number).and_then(|of| of.get(kind)).copied().unwrap_or(0);
            let allocatable = total.saturating_sub(system_reserved).saturating_sub(less);
            (kind.to_owned(), Table { total, system_reserved, allocatable, reserved: 0, free: allocatable })
        };
        let huge = node.huge_pages.iter().map(|(size, pages)| (*size, u64::try_from(size * pages).unwrap_or(0)));
        let huge: Vec<(i64, u64)> = huge.collect();
        let mut memory_map: BTreeMap<String, Table> =
            huge.iter().map(|(size, total)| table(&format!("hugepages-{}", binary(*size)), *total, 0)).collect();
        memory_map.extend([table("memory", node.memory, huge.iter().map(|(_, total)| total).sum())]);
        (*number, NodeState { number_of_assignments: 0, memory_map, cells: vec![*number] })
    };
    numa.0.iter().map(node).collect()
}

/// What of a kind the nodes have together, by `of`.
fn sum(nodes: &Nodes, mask: Mask, kind: &str, of: fn(&Table) -> u64) -> u64 {
    mask.nodes().filter_map(|node| nodes.get(&node)?.memory_map.get(kind)).map(of).sum()
}

/// Whether these nodes can give together, by what they have given so far.
fn can_be_together(nodes: &Nodes, mask: Mask) -> bool {
    let cells = |node: &NodeState| node.cells.iter().copied().collect::<Mask>();
    mask.nodes().filter_map(|node| nodes.get(&node)).all(|node| {
        if mask.count() == 1 {
            return cells(node).count() <= 1;
        }
        node.number_of_assignments == 0 || cells(node) == mask
    })
}

/// Where what is asked for can be taken from, where `reusable` tells what of the pod's own memory of some nodes is free again.
pub fn hints(nodes: &Nodes, asked: &Amounts, reusable: impl Fn(Mask, &str) -> u64) -> Vec<Hint> {
    let numbers: Vec<u32> = nodes.keys().copied().collect();
    let could = |mask: Mask| asked.iter().all(|(kind, size)| sum(nodes, mask, kind, |t| t.allocatable) >= *size);
    let has = |mask: Mask| asked.iter().all(|(kind, size)| sum(nodes, mask, kind, |t| t.free) + reusable(mask, kind) >= *size);
    topology_manager::hint::hints(&numbers, could, |mask| could(mask) && can_be_together(nodes, mask) && has(mask))
}

fn best(hints: impl IntoIterator<Item = Hint>) -> Option<(Mask, bool)> {
    let known = hints.into_iter().filter_map(|hint| Some((hint.affinity?, hint.preferred)));
    known.reduce(|best, hint| {
        let better = if hint.1 == best.1 { hint.0.is_narrower(best.0) } else { hint.1 };
        if better { hint } else { best }
    })
}

/// The nodes that the container's memory is taken from, where all managers together agreed on `place`.
pub fn choose(nodes: &Nodes, asked: &Amounts, place: Hint, reusable: impl Fn(Mask, &str) -> u64) -> Result<Mask, &'static str> {
    let all = hints(nodes, asked, reusable);
    let (mut mask, preferred) = match place.affinity {
        Some(mask) => (mask, place.preferred),
        None => {
            let none = "[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available";
            let (mask, preferred) = best(all.iter().copied()).ok_or(none)?;
            if !preferred && place.preferred {
                return Err("[memorymanager] failed to find the default preferred hint");
            }
            (mask, preferred)
        }
    };
    // What several managers agreed on may be less than this one needs.
    if asked.iter().any(|(kind, size)| sum(nodes, mask, kind, |t| t.free) < *size) {
        let wider = all.iter().copied().filter(|hint| hint.affinity.is_some_and(|wider| mask.is_subset(wider)));
        let (wider, still) = best(wider).ok_or("[memorymanager] failed to find NUMA nodes to extend the current topology hint")?;
        if !still && preferred {
            return Err("[memorymanager] failed to find the extended preferred hint");
        }
        mask = wider;
    }
    let used = |node: &NodeState| node.number_of_assignments > 0 && node.cells.iter().copied().collect::<Mask>() != mask;
    if mask.count() > 1 && mask.nodes().filter_map(|node| nodes.get(&node)).any(used) {
        return Err("[memorymanager] preferred hint violates NUMA node allocation");
    }
    Ok(mask)
}

/// What init containers had of the same nodes and of a kind, and nobody has taken over: the largest of them, less what containers that stay have.
pub fn reusable(assigned: &Assigned, uid: &str, spec: &PodSpec, container: &str, mask: Mask, kind: &str) -> u64 {
    let mut free = 0;
    for (other, ended) in topology_manager::before(spec, container) {
        let of_these = |block: &&Block| block.kind == kind && block.mask() == mask;
        if assigned.blocks(uid, &other.name).is_none_or(|blocks| !blocks.iter().any(|block| of_these(&block))) {
            continue;
        }
        // The blocks of init containers say what is left of them, so what they had is asked of the container itself.
        let size = requested(other).get(kind).copied().unwrap_or(0);
        free = if ended { free.max(size) } else { free.saturating_sub(size) };
    }
    free
}

/// Takes what a container asks for from these nodes.
pub fn take(assigned: &mut Assigned, uid: &str, spec: &PodSpec, container: &Container, mask: Mask) {
    let (asked, affinity) = (requested(container), mask.nodes().collect::<Vec<u32>>());
    for (kind, size) in &asked {
        let less = reusable(assigned, uid, spec, &container.name, mask, kind);
        put(&mut assigned.nodes, &affinity, kind, size.saturating_sub(less));
    }
    let blocks: Vec<Block> = asked.into_iter().map(|(kind, size)| Block { numa_affinity: affinity.clone(), kind, size }).collect();
    let pod = assigned.entries.entry(uid.to_owned()).or_default();
    for block in &blocks {
        let mut taken_over = block.size;
        for init in topology_manager::before(spec, &container.name).filter(|(_, ended)| *ended).map(|(init, _)| init) {
            for had in pod.get_mut(&init.name).into_iter().flatten().filter(|had| had.kind == block.kind && had.mask() == mask) {
                let moved = had.size.min(taken_over);
                had.size -= moved;
                taken_over -= moved;
            }
        }
    }
    pod.insert(container.name.clone(), blocks);
}

/// Takes so much of a kind from nodes, one after the other.
fn put(nodes: &mut Nodes, affinity: &[u32], kind: &str, mut size: u64) {
    for number in affinity {
        let Some(node) = nodes.get_mut(number) else { continue };
        node.number_of_assignments += 1;
        node.cells = affinity.to_vec();
        if let Some(table) = node.memory_map.get_mut(kind) {
            let part = size.min(table.free);
            table.free -= part;
            table.reserved += part;
            size -= part;
        }
    }
}

/// Gives back what a pod had.
pub fn release(assigned: &mut Assigned, uid: &str) -> bool {
    let Some(pod) = assigned.entries.remove(uid) else { return false };
    for block in pod.into_values().flatten() {
        let mut size = block.size;
        for number in &block.numa_affinity {
            let Some(node) = assigned.nodes.get_mut(number) else { continue };
            node.number_of_assignments -= 1;
            if node.number_of_assignments == 0 {
                node.cells = vec![*number];
            }
            if let Some(table) = node.memory_map.get_mut(&block.kind) {
                let part = size.min(table.reserved);
                table.reserved -= part;
                table.free += part;
                size -= part;
            }
        }
    }
    true
}

/// Whether what was written down can be of this machine.
pub fn fits(assigned: &Assigned, mut empty: Nodes) -> Result<(), String> {
    let different = || "[memorymanager] the expected machine state is different from the real one".to_owned();
    for (uid, pod) in &assigned.entries {
        for (container, blocks) in pod {
            let of = format!("[memorymanager] (pod: {uid}, container: {container}) the memory assignment uses");
            for block in blocks {
                for number in &block.numa_affinity {
                    let node = empty.get(number).ok_or_else(|| format!("{of} the NUMA that does not exist"))?;
                    if !node.memory_map.contains_key(&block.kind) {
                        return Err(format!("{of} memory resource that does not exist"));
                    }
                }
                put(&mut empty, &block.numa_affinity, &block.kind, block.size);
            }
        }
    }
    let same = |number: &u32| {
        let (one, other) = (assigned.nodes.get(number)?, empty.get(number)?);
        let group: Mask = one.cells.iter().copied().collect();
        let together = |nodes: &Nodes, kind: &str| (sum(nodes, group, kind, |t| t.free), sum(nodes, group, kind, |t| t.reserved));
        let table = |(kind, one): (&String, &Table)| {
            let sizes = |t: &Table| (t.total, t.system_reserved, t.allocatable);
            other.memory_map.get(kind).is_some_and(|other| sizes(one) == sizes(other))
                && together(&assigned.nodes, kind) == together(&empty, kind)
        };
        let like = one.number_of_assignments == other.number_of_assignments
            && group == other.cells.iter().copied().collect()
            && one.memory_map.len() == other.memory_map.len();
        Some(like && one.memory_map.iter().all(table))
    };
    let all = assigned.nodes.len() == empty.len() && assigned.nodes.keys().all(|number| same(number) == Some(true));
    if all { Ok(()) } else { Err(different()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Nodes of 10 bytes each, of which one is reserved.
    fn machine(nodes: u32) -> Assigned {
        let node = |_| topology_manager::machine::NumaNode { memory: 10, ..Default::default() };
        let numa = Numa((0..nodes).map(|number| (number, node(number))).collect());
        let reserved = (0..nodes).map(|number| (number, Amounts::from([("memory".to_owned(), 1)]))).collect();
        Assigned { nodes: empty(&numa, &reserved), ..Default::default() }
    }

    fn spec(init: &[(&str, u64)], containers: &[(&str, u64)]) -> PodSpec {
        let list = |all: &[(&str, u64)]| -> Vec<serde_json::Value> {
            let one = |(name, size): &(&str, u64)| json!({"name": name, "resources": {"requests": {"memory": size.to_string()}}});
            all.iter().map(one).collect()
        };
        serde_json::from_value(json!({"initContainers": list(init), "containers": list(containers)})).expect("a spec")
    }

    /// Gives a pod's containers what they ask for, each where it is best, and tells where.
    fn give(assigned: &mut Assigned, uid: &str, spec: &PodSpec) -> Result<Vec<String>, &'static str> {
        let mut out = Vec::new();
        for container in topology_manager::containers(spec) {
            let free = |mask: Mask, kind: &str| reusable(assigned, uid, spec, &container.name, mask, kind);
            let mask = choose(&assigned.nodes, &requested(container), Hint::default(), free)?;
            take(assigned, uid, spec, container, mask);
            out.push(mask.to_string());
        }
        Ok(out)
    }

    #[test]
    fn as_few_nodes_as_can_be_give_memory() {
        let mut assigned = machine(3);
        let before = assigned.clone();
        assert_eq!(give(&mut assigned, "a", &spec(&[], &[("c", 5)])), Ok(vec!["0".into()]));
        assert_eq!(give(&mut assigned, "b", &spec(&[], &[("c", 5)])), Ok(vec!["1".into()]));
        assert_eq!(give(&mut assigned, "c", &spec(&[], &[("c", 4)])), Ok(vec!["0".into()]));
        // Two nodes are free in part only, and give alone.
        let none = "[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available";
        assert_eq!(give(&mut assigned, "d", &spec(&[], &[("c", 12)])), Err(none));
        assert!(release(&mut assigned, "b"));
        assert_eq!(give(&mut assigned, "d", &spec(&[], &[("c", 12)])), Ok(vec!["1,2".into()]));
        assert_eq!(assigned.nodes[&1].cells, [1, 2]);
        assert_eq!((assigned.nodes[&1].memory_map["memory"].free, assigned.nodes[&2].memory_map["memory"].free), (0, 6));
        assert_eq!(give(&mut assigned, "e", &spec(&[], &[("c", 5)])), Ok(vec!["1,2".into()]), "node 2 gives together with node 1 alone");
        for uid in ["a", "c", "d", "e"] {
            assert!(release(&mut assigned, uid));
        }
        assert_eq!(assigned, before);
    }

    #[test]
    fn what_init_containers_had_goes_on() {
        let mut assigned = machine(1);
        assert_eq!(give(&mut assigned, "a", &spec(&[("i", 6)], &[("c", 4), ("d", 3)])), Ok(vec!["0".into(), "0".into(), "0".into()]));
        let sizes: Vec<u64> = ["i", "c", "d"].iter().map(|name| assigned.blocks("a", name).expect("given")[0].size).collect();
        assert_eq!(sizes, [0, 4, 3]);
        assert_eq!(assigned.nodes[&0].memory_map["memory"].free, 2);
        release(&mut assigned, "a");
        assert_eq!(assigned, machine(1));
    }

    #[test]
    fn what_was_agreed_on_is_widened_where_it_is_too_little() {
        let asked = Amounts::from([("memory".to_owned(), 12)]);
        let nodes = machine(2).nodes;
        let hint = |nodes: &[u32], preferred| Hint { affinity: Some(nodes.iter().copied().collect()), preferred };
        let chosen = |place| choose(&nodes, &asked, place, |_, _| 0).map(|mask| mask.to_string());
        assert_eq!(chosen(hint(&[1], false)), Ok("0,1".into()));
        assert_eq!(chosen(hint(&[0, 1], true)), Ok("0,1".into()));
        let small = Amounts::from([("memory".to_owned(), 1)]);
        let hints = hints(&nodes, &small, |_, _| 0);
        assert_eq!(hints.iter().filter(|hint| hint.preferred).count(), 2);
    }

    #[test]
    fn what_is_written_down_is_of_the_machine_or_refused() {
        let mut assigned = machine(2);
        give(&mut assigned, "a", &spec(&[], &[("c", 12)])).expect("room");
        assert_eq!(fits(&assigned, machine(2).nodes), Ok(()));
        let different = "[memorymanager] the expected machine state is different from the real one";
        assert_eq!(fits(&assigned, machine(3).nodes), Err(different.to_owned()));
        let gone = "[memorymanager] (pod: a, container: c) the memory assignment uses the NUMA that does not exist";
        assert_eq!(fits(&assigned, machine(1).nodes), Err(gone.to_owned()));
        assigned.nodes.get_mut(&0).expect("there").memory_map.get_mut("memory").expect("there").system_reserved = 2;
        assert_eq!(fits(&assigned, machine(2).nodes), Err(different.to_owned()));
    }

    #[test]
    fn a_pod_asks_for_what_it_needs_at_a_time() {
        let spec = spec(&[("i", 6)], &[("c", 4), ("d", 1)]);
        assert_eq!(pod_requested(&spec), Amounts::from([("memory".to_owned(), 6)]));
    }
}
