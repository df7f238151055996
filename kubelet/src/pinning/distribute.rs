//! CPUs of several NUMA nodes at once, as many of each (upstream: `cpu_assignment.go`, its distributed algorithm).

use super::{
    assign::{Way, take},
    cpu_set::CpuSet,
    topology::{Level, Topology},
};
use crate::topology_manager::mask::combinations;
use std::collections::BTreeMap;

/// How many CPUs each node has left.
type Left = BTreeMap<u32, usize>;

/// From which nodes how many CPUs are taken.
struct Plan {
    /// So many of each of these.
    each: usize,
    nodes: Vec<u32>,
    /// What is left over, from these in turn.
    rest_from: Vec<u32>,
}

/// Takes `count` of the available CPUs from as few nodes as can be, as many of each as of the others, in groups of `group`; how many each node has left
/// then is to differ as little as can be. Where that cannot be they are taken as if it were not wanted.
pub fn distribute(topology: &Topology, available: &CpuSet, count: usize, group: usize, way: Way) -> Result<CpuSet, String> {
    let chosen = if count.is_multiple_of(group) && count <= available.len() { plan(topology, available, count, group) } else { None };
    let Some(Plan { each, nodes, rest_from }) = chosen else { return take(topology, available, count, way) };
    let mut left = topology.units(available, Level::Numa);
    let mut taken = CpuSet::new();
    let mut grab = |node: u32, count: usize| -> Result<(), String> {
        let cpus = left.entry(node).or_default();
        let some = take(topology, cpus, count, way)?;
        *cpus = &*cpus - &some;
        taken.extend(some);
        Ok(())
    };
    for node in &nodes {
        grab(*node, each)?;
    }
    let rest = hand_out(count - each * nodes.len(), group, &rest_from, &mut sizes(topology, available, &nodes, each));
    for node in rest {
        grab(node, group)?;
    }
    Ok(taken)
}

/// What every node has left once `each` are taken of some.
fn sizes(topology: &Topology, available: &CpuSet, nodes: &[u32], each: usize) -> Left {
    let all = topology.units(available, Level::Numa).into_iter();
    all.map(|(node, cpus)| (node, cpus.len() - if nodes.contains(&node) { each } else { 0 })).collect()
}

/// From which nodes in turn the rest is taken, a group at a time; what they have is less by it afterwards.
fn hand_out(mut rest: usize, group: usize, from: &[u32], left: &mut Left) -> Vec<u32> {
    let mut out = Vec::new();
    while rest > 0 {
        let before = rest;
        for node in from {
            if let Some(has) = left.get_mut(node).filter(|has| rest > 0 && **has >= group) {
                *has -= group;
                rest -= group;
                out.push(*node);
            }
        }
        if rest == before {
            return out;
        }
    }
    out
}

fn plan(topology: &Topology, available: &CpuSet, count: usize, group: usize) -> Option<Plan> {
    let units = topology.units(available, Level::Numa);
    let mut nodes: Vec<u32> = units.keys().copied().collect();
    nodes.sort_by_key(|node| (units[node].len(), *node));
    // So many nodes it takes at least if they are empty, and so many at most if each gives one group.
    let groups_of_a_node = topology.cpus().len().div_ceil(group).div_ceil(topology.count(Level::Numa).max(1));
    let groups = count.div_ceil(group);
    (groups.div_ceil(groups_of_a_node.max(1)).max(1)..=groups.min(nodes.len())).find_map(|size| {
        let mut best: Option<(u64, Plan)> = None;
        for chosen in combinations(&nodes, size) {
            if let Some((balance, rest_from)) = balanced(topology, available, &chosen, count, group)
                && best.as_ref().is_none_or(|(least, _)| balance < *least)
            {
                best = Some((balance, Plan { each: each(count, size, group), nodes: chosen, rest_from }));
            }
        }
        best.map(|(_, plan)| plan)
    })
}

fn each(count: usize, nodes: usize, group: usize) -> usize {
    count / nodes / group * group
}

/// How much what the nodes have left differs if CPUs are taken of the chosen ones, and from which of them the rest is best taken.
fn balanced(topology: &Topology, available: &CpuSet, chosen: &[u32], count: usize, group: usize) -> Option<(u64, Vec<u32>)> {
    let units = topology.units(available, Level::Numa);
    let each = each(count, chosen.len(), group);
    let groups: usize = chosen.iter().map(|node| units[node].len() / group).sum();
    if groups * group < count || chosen.iter().any(|node| units[node].len() < each) {
        return None;
    }
    let left = sizes(topology, available, chosen, each);
    let rest = count - each * chosen.len();
    if rest == 0 {
        return Some((deviation(&left), Vec::new()));
    }
    let able: Vec<u32> = chosen.iter().copied().filter(|node| left[node] >= group).collect();
    let mut best: Option<(u64, Vec<u32>)> = None;
    for subset in (1..=able.len()).rev().flat_map(|size| combinations(&able, size)) {
        let mut after = left.clone();
        if hand_out(rest, group, &subset, &mut after).len() * group < rest {
            continue;
        }
        let balance = deviation(&after);
        if best.as_ref().is_none_or(|(least, _)| balance < *least) {
            best = Some((balance, subset));
        }
    }
    best
}

/// The standard deviation, in thousandths.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Numbers of CPUs are small, and no deviation is negative.
fn deviation(left: &Left) -> u64 {
    let number = left.len() as f64;
    let mean = left.values().sum::<usize>() as f64 / number;
    let squares: f64 = left.values().map(|n| (*n as f64 - mean).powi(2)).sum();
    ((squares / number).sqrt() * 1000.0).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pinning::{cpu_set, topology::Place};

    /// `nodes` nodes of four cores of two threads: CPU n and n + 4 * nodes are one core.
    fn machine(nodes: u32) -> Topology {
        let place = |cpu: u32| {
            let core = cpu % (4 * nodes);
            Place { numa: core / 4, socket: core / 4, cache: core / 4, core }
        };
        Topology((0..8 * nodes).map(|cpu| (cpu, place(cpu))).collect())
    }

    #[test]
    fn nodes_give_as_many_as_each_other() {
        for (nodes, available, count, group, want) in [
            (2, "0-15", 4, 1, "0-1,8-9"),
            (2, "0-15", 10, 1, "0-2,4-5,8-9,12-13,4"),
            (2, "0-15", 12, 1, "0-2,4-6,8-10,12-14"),
            (2, "0-15", 12, 2, "0-2,4-6,8-10,12-14"),
            // Node 0 has five left, so eight are four of each.
            (2, "3-15", 8, 1, "3-6,8,11-12,14"),
            (4, "0-31", 24, 1, "0-11,16-27"),
        ] {
            let taken =
                distribute(&machine(nodes), &cpu_set::parse(available).expect("a set"), count, group, Way::default()).expect("enough");
            let per_node: Vec<usize> = machine(nodes).units(&taken, Level::Numa).values().map(CpuSet::len).collect();
            assert_eq!(taken.len(), count);
            assert!(per_node.iter().max() <= per_node.iter().min().map(|least| least + group).as_ref(), "{per_node:?}: {want}");
        }
    }

    #[test]
    fn what_does_not_come_in_groups_is_packed() {
        let taken = distribute(&machine(2), &machine(2).cpus(), 3, 2, Way::default()).expect("enough");
        assert_eq!(cpu_set::shown(&taken), "0-1,8");
        assert!(distribute(&machine(2), &CpuSet::from([0, 1]), 4, 2, Way::default()).is_err());
    }

    #[test]
    fn the_rest_goes_where_what_is_left_differs_least() {
        // Ten groups of one: five of each; an odd one comes from where more is left.
        let available = cpu_set::parse("0-3,4-15").expect("a set");
        let taken = distribute(&machine(2), &(&available - &CpuSet::from([0])), 9, 1, Way::default()).expect("enough");
        let left = machine(2).units(&(&(&available - &CpuSet::from([0])) - &taken), Level::Numa);
        assert_eq!(left.values().map(CpuSet::len).collect::<Vec<_>>(), [3, 3]);
    }
}
