//! Sets of NUMA nodes as bits.

use std::fmt;

/// A set of NUMA nodes. No machine that Linux runs on numbers one higher than 63 in practice; a higher number is in no set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mask(u64);

impl Mask {
    /// What both have.
    pub fn and(self, other: Mask) -> Mask {
        Mask(self.0 & other.0)
    }

    /// Whether the node is in it.
    pub fn has(self, node: u32) -> bool {
        1u64.checked_shl(node).is_some_and(|bit| self.0 & bit != 0)
    }

    /// How many nodes are in it.
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Its nodes in order.
    pub fn nodes(self) -> impl Iterator<Item = u32> {
        (0..64).filter(move |node| self.has(*node))
    }

    /// Whether the other one has all that this one has.
    pub fn is_subset(self, other: Mask) -> bool {
        self.and(other) == self
    }

    /// Whether it has fewer nodes, or as many and lower ones.
    pub fn is_narrower(self, other: Mask) -> bool {
        (self.count(), self.0) < (other.count(), other.0)
    }

    /// All sets of one and more of these nodes: the small ones first, and among those of a size the one of the lower nodes.
    pub fn all_of(nodes: &[u32]) -> Vec<Mask> {
        (1..=nodes.len()).flat_map(|size| combinations(nodes, size)).map(|chosen| chosen.into_iter().collect()).collect()
    }
}

/// Every choice of so many of these, in order.
pub fn combinations(of: &[u32], size: usize) -> Vec<Vec<u32>> {
    if size == 0 {
        return vec![Vec::new()];
    }
    let with_first = |at: usize| combinations(&of[at + 1..], size - 1).into_iter().map(move |rest| [vec![of[at]], rest].concat());
    (0..of.len()).flat_map(with_first).collect()
}

impl FromIterator<u32> for Mask {
    fn from_iter<T: IntoIterator<Item = u32>>(nodes: T) -> Self {
        Mask(nodes.into_iter().filter_map(|node| 1u64.checked_shl(node)).fold(0, |all, bit| all | bit))
    }
}

/// As the kernel's `cpuset.mems` has it.
impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<String> = self.nodes().map(|node| node.to_string()).collect();
        f.write_str(&nodes.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(nodes: &[u32]) -> Mask {
        nodes.iter().copied().collect()
    }

    #[test]
    fn sets_are_compared_by_size_and_then_by_their_nodes() {
        for (one, other, narrower) in
            [(vec![3], vec![0, 1], true), (vec![0, 1], vec![3], false), (vec![0], vec![1], true), (vec![1, 2], vec![1, 2], false)]
        {
            assert_eq!(mask(&one).is_narrower(mask(&other)), narrower, "{one:?} {other:?}");
        }
        assert!(mask(&[1]).is_subset(mask(&[0, 1])) && !mask(&[0, 1]).is_subset(mask(&[1])));
        assert_eq!((mask(&[0, 2, 64]).to_string().as_str(), mask(&[0, 2]).count()), ("0,2", 2));
    }

    #[test]
    fn all_sets_come_the_small_ones_first() {
        let all: Vec<String> = Mask::all_of(&[0, 1, 3]).iter().map(Mask::to_string).collect();
        assert_eq!(all, ["0", "1", "3", "0,1", "0,3", "1,3", "0,1,3"]);
    }
}
