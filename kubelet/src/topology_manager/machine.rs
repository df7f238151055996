//! The NUMA nodes of the machine: memory, huge pages, and how far they are from each other, as the kernel tells in `/sys/devices/system/node`.

use super::mask::Mask;
use crate::node::machine;
use std::{collections::BTreeMap, fs, path::Path};

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NumaNode {
    /// Bytes.
    pub memory: u64,
    /// By size in bytes, how many pages are set aside.
    pub huge_pages: BTreeMap<i64, i64>,
    /// How far it is to each node, in their order.
    pub distances: Vec<u64>,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numa(pub BTreeMap<u32, NumaNode>);

impl Numa {
    /// Reads it below `/sys/devices/system`. A kernel that knows of no nodes has one, with all of the machine's memory.
    pub fn read(system: &Path, whole: &machine::Machine) -> Self {
        let mut nodes = BTreeMap::new();
        for entry in fs::read_dir(system.join("node")).into_iter().flatten().flatten() {
            let number = entry.file_name().to_str().and_then(|name| name.strip_prefix("node")?.parse().ok());
            let Some(number) = number else { continue };
            let text = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
            let distances = text("distance").split_whitespace().filter_map(|distance| distance.parse().ok()).collect();
            nodes.insert(
                number,
                NumaNode {
                    memory: memory(&text("meminfo")).unwrap_or(0),
                    huge_pages: machine::hugepages(&entry.path().join("hugepages")),
                    distances,
                },
            );
        }
        if nodes.is_empty() {
            let memory = u64::try_from(whole.memory).unwrap_or(0);
            nodes.insert(0, NumaNode { memory, huge_pages: whole.hugepages.clone(), distances: vec![10] });
        }
        Numa(nodes)
    }

    /// The nodes' numbers.
    pub fn nodes(&self) -> impl Iterator<Item = u32> {
        self.0.keys().copied()
    }

    /// How far nodes are from each other on average, in hundredths.
    pub fn distance(&self, mask: Mask) -> u64 {
        let nodes: Vec<u32> = mask.nodes().collect();
        let column = |to: &u32| self.nodes().position(|node| node == *to);
        let one = |from: &u32, to: &u32| Some(*self.0.get(from)?.distances.get(column(to)?)?);
        let sum: u64 = nodes.iter().flat_map(|from| nodes.iter().filter_map(move |to| one(from, to))).sum();
        let pairs = nodes.len() * nodes.len();
        (sum * 100).checked_div(pairs as u64).unwrap_or(0)
    }

    /// Nodes with these distances and nothing else.
    #[cfg(test)]
    pub fn made_up(nodes: impl IntoIterator<Item = (u32, Vec<u64>)>) -> Self {
        Numa(nodes.into_iter().map(|(node, distances)| (node, NumaNode { distances, ..Default::default() })).collect())
    }
}

/// `Node 0 MemTotal: 24 kB` and others.
fn memory(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.split_once("MemTotal:"))?.1;
    Some(total.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells_is_read() {
        let system = tempfile::tempdir().expect("a directory");
        let write = |path: &str, text: &str| {
            let path = system.path().join(path);
            fs::create_dir_all(path.parent().expect("it has one")).expect("made");
            fs::write(path, text).expect("written");
        };
        let whole = machine::Machine { memory: 4096, ..Default::default() };
        assert_eq!(Numa::read(system.path(), &whole).0[&0].memory, 4096, "a kernel without nodes");
        write("node/node0/meminfo", "Node 0 MemTotal:       24 kB\nNode 0 MemFree: 1 kB\n");
        write("node/node0/distance", "10 21\n");
        write("node/node0/hugepages/hugepages-2048kB/nr_hugepages", "3\n");
        write("node/node1/meminfo", "Node 1 MemTotal:       8 kB\n");
        write("node/node1/distance", "21 10\n");
        write("node/possible", "0-1\n");
        let numa = Numa::read(system.path(), &whole);
        let want = NumaNode { memory: 24 * 1024, huge_pages: BTreeMap::from([(2 << 20, 3)]), distances: vec![10, 21] };
        assert_eq!((numa.0.len(), &numa.0[&0]), (2, &want));
        assert_eq!(numa.distance([0, 1].into_iter().collect()), 1550);
    }
}
