//! Where a container could be given what it asks for: what managers of single resources tell, and how it becomes one answer (upstream:
//! `pkg/kubelet/cm/topologymanager`, `policy.go` and `policy_*.go`).
//!
//! Every manager tells for each of its resources all the sets of NUMA nodes that have enough of it. One set of each is taken, in all ways; what such
//! a choice has in common is a candidate, and the best candidate is where the container goes.

use super::{machine::Numa, mask::Mask};
use std::collections::BTreeMap;

/// One place where there is enough of a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hint {
    /// The nodes; none is any.
    pub affinity: Option<Mask>,
    /// There is no place of fewer nodes that this could be taken from on an empty machine.
    pub preferred: bool,
}

/// By resource. `None`: it does not matter where it is taken from; an empty list: it can be taken from nowhere.
pub type Hints = BTreeMap<String, Option<Vec<Hint>>>;

/// Whom a node takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Whoever comes.
    BestEffort,
    /// Who can be given all from nodes that are preferred.
    Restricted,
    /// Who can be given all from one node.
    SingleNode,
}

/// The sets of nodes for which `enough` holds, as hints. Preferred are those of so few nodes as could hold it on an empty machine, which `could` tells.
pub fn hints(nodes: &[u32], could: impl Fn(Mask) -> bool, enough: impl Fn(Mask) -> bool) -> Vec<Hint> {
    let masks = Mask::all_of(nodes);
    let fewest = masks.iter().find(|mask| could(**mask)).map_or(nodes.len(), |mask| mask.count());
    let fit = masks.into_iter().filter(|mask| enough(*mask));
    fit.map(|mask| Hint { affinity: Some(mask), preferred: mask.count() == fewest }).collect()
}

/// Each resource's hints, whoever told them. Who told nothing does not mind.
fn by_resource(told: &[Hints]) -> Vec<Vec<Hint>> {
    let anywhere = || vec![Hint { affinity: None, preferred: true }];
    let nowhere = || vec![Hint { affinity: None, preferred: false }];
    let mut out = Vec::new();
    for hints in told {
        if hints.is_empty() {
            out.push(anywhere());
        }
        out.extend(hints.values().map(|list| match list.as_deref() {
            None => anywhere(),
            Some([]) => nowhere(),
            Some(list) => list.to_vec(),
        }));
    }
    out
}

/// Where a container goes, and whether the node takes it there.
pub fn merge(policy: Policy, numa: &Numa, closest: bool, told: &[Hints]) -> (Hint, bool) {
    let mut lists = by_resource(told);
    if policy == Policy::SingleNode {
        let single = |hint: &Hint| hint.preferred && hint.affinity.is_none_or(|mask| mask.count() == 1);
        lists.iter_mut().for_each(|list| list.retain(single));
    }
    let everywhere: Mask = numa.nodes().collect();
    // How many nodes the resource needs that needs most: a candidate that is not preferred is best with as many.
    let fewest = |list: &Vec<Hint>| list.iter().filter_map(|hint| hint.affinity).map(Mask::count).min().unwrap_or(0);
    let order = Order { numa, closest: closest && policy != Policy::SingleNode, wanted: lists.iter().map(fewest).max().unwrap_or(0) };
    let mut best = None;
    candidates(&lists, Candidate { mask: everywhere, all: None, preferred: true }, &mut |candidate| {
        best = Some(match best {
            _ if candidate.mask.count() == 0 => return,
            None => candidate,
            Some(best) if order.is_better(candidate, best) => candidate,
            Some(best) => best,
        });
    });
    let mut hint = best.map_or(Hint { affinity: Some(everywhere), preferred: false }, |best| Hint {
        affinity: Some(best.mask),
        preferred: best.preferred,
    });
    if policy == Policy::SingleNode && hint.affinity == Some(everywhere) {
        hint.affinity = None;
    }
    (hint, policy == Policy::BestEffort || hint.preferred)
}

/// What one choice of hints has in common.
#[derive(Clone, Copy)]
struct Candidate {
    mask: Mask,
    /// The set that all of them are, as long as they are the same.
    all: Option<Mask>,
    preferred: bool,
}

/// Tells `found` of every way to take one hint of each list.
fn candidates(lists: &[Vec<Hint>], so_far: Candidate, found: &mut impl FnMut(Candidate)) {
    let [list, rest @ ..] = lists else { return found(so_far) };
    for hint in list {
        let mut next = so_far;
        next.preferred &= hint.preferred;
        if let Some(mask) = hint.affinity {
            next.preferred &= so_far.all.is_none_or(|all| all == mask);
            next.all = so_far.all.or(Some(mask));
            next.mask = so_far.mask.and(mask);
        }
        candidates(rest, next, found);
    }
}

/// Which candidate is better.
struct Order<'a> {
    numa: &'a Numa,
    /// Nodes that are near to each other go before lower ones.
    closest: bool,
    wanted: usize,
}

impl Order<'_> {
    fn is_better(&self, candidate: Candidate, best: Candidate) -> bool {
        if candidate.preferred != best.preferred {
            return candidate.preferred;
        }
        let (new, old) = (candidate.mask.count(), best.mask.count());
        if candidate.preferred || old > self.wanted {
            return self.fits_better(candidate.mask, best.mask);
        }
        // Neither is preferred, and what there is has few enough nodes: as many as are wanted is best, then as close below as can be.
        match new {
            new if new > self.wanted => false,
            new if new != old => new > old,
            _ => self.fits_better(candidate.mask, best.mask),
        }
    }

    fn fits_better(&self, new: Mask, old: Mask) -> bool {
        if self.closest && new.count() == old.count() {
            let (near, far) = (self.numa.distance(new), self.numa.distance(old));
            if near != far {
                return near < far;
            }
        }
        new.is_narrower(old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(nodes: &[u32]) -> Mask {
        nodes.iter().copied().collect()
    }

    fn hint(nodes: &[u32], preferred: bool) -> Hint {
        Hint { affinity: Some(mask(nodes)), preferred }
    }

    fn told(lists: &[Option<Vec<Hint>>]) -> Vec<Hints> {
        lists.iter().map(|list| Hints::from([("r".to_owned(), list.clone())])).collect()
    }

    /// Nodes 0 and 3 are close to each other, and so are 1 and 2.
    fn machine(nodes: u32) -> Numa {
        let distance = |from: u32, to: u32| match (from, to) {
            _ if from == to => 10,
            (0, 3) | (3, 0) | (1, 2) | (2, 1) => 11,
            _ => 20,
        };
        Numa::made_up((0..nodes).map(|from| (from, (0..nodes).map(|to| distance(from, to)).collect())))
    }

    #[test]
    fn every_policy_takes_whom_it_should() {
        use Policy::{BestEffort, Restricted, SingleNode};
        let (zero, one, both) = (hint(&[0], true), hint(&[1], true), hint(&[0, 1], false));
        let anywhere = |preferred| Hint { affinity: None, preferred };
        for (name, lists, policy, want, admitted) in [
            ("nobody minds", vec![None], BestEffort, hint(&[0, 1], true), true),
            ("nobody minds", vec![None], SingleNode, anywhere(true), true),
            ("nowhere", vec![Some(vec![])], BestEffort, hint(&[0, 1], false), true),
            ("nowhere", vec![Some(vec![])], Restricted, hint(&[0, 1], false), false),
            ("nowhere", vec![Some(vec![])], SingleNode, anywhere(false), false),
            ("the lower of two", vec![Some(vec![zero, one, both])], Restricted, hint(&[0], true), true),
            ("what both have", vec![Some(vec![zero, one]), Some(vec![one])], Restricted, hint(&[1], true), true),
            ("nothing in common", vec![Some(vec![zero]), Some(vec![one])], Restricted, hint(&[0, 1], false), false),
            ("one of them needs both", vec![Some(vec![hint(&[0, 1], true)]), Some(vec![zero])], BestEffort, hint(&[0], false), true),
            ("one of them needs both", vec![Some(vec![hint(&[0, 1], true)]), Some(vec![zero])], Restricted, hint(&[0], false), false),
            ("both need both", vec![Some(vec![hint(&[0, 1], true)]), None], Restricted, hint(&[0, 1], true), true),
            ("two nodes are not one", vec![Some(vec![hint(&[0, 1], true)]), None], SingleNode, anywhere(false), false),
            ("one of two", vec![Some(vec![both, one]), None], SingleNode, hint(&[1], true), true),
        ] {
            assert_eq!(merge(policy, &machine(2), false, &told(&lists)), (want, admitted), "{name}: {policy:?}");
        }
        assert_eq!(merge(Restricted, &machine(2), false, &[Hints::new()]).0, hint(&[0, 1], true), "no manager has anything to say");
    }

    #[test]
    fn what_is_not_preferred_is_as_wide_as_the_widest_needs() {
        let lists = [Some(vec![hint(&[0, 1], true), hint(&[0, 1, 2], false)]), Some(vec![hint(&[0], false), hint(&[0, 1, 3], false)])];
        assert_eq!(merge(Policy::BestEffort, &machine(4), false, &told(&lists)).0, hint(&[0, 1], false));
    }

    #[test]
    fn nodes_that_are_close_go_first_if_that_is_wanted() {
        let pairs = [Some(vec![hint(&[0, 1], true), hint(&[1, 3], true), hint(&[1, 2], true), hint(&[0, 3], true)])];
        for (closest, want) in [(false, [0, 1]), (true, [1, 2])] {
            assert_eq!(merge(Policy::Restricted, &machine(4), closest, &told(&pairs)).0, hint(&want, true), "{closest}");
        }
    }

    #[test]
    fn hints_are_the_sets_that_have_enough() {
        // Node 1 has 4 of which 1 is left, the others have 2.
        let (all, left) = ([2, 4, 2], [2, 1, 2]);
        let sum = |of: [usize; 3]| move |mask: Mask| mask.nodes().map(|node| of[node as usize]).sum::<usize>() >= 3;
        let got = hints(&[0, 1, 2], sum(all), sum(left));
        assert_eq!(got, [hint(&[0, 1], false), hint(&[0, 2], false), hint(&[1, 2], false), hint(&[0, 1, 2], false)]);
    }
}
