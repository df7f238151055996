//! Which CPUs share a core, a cache, a socket and memory, as the kernel tells in `/sys/devices/system`.

use super::cpu_set::{self, CpuSet};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

/// Something that CPUs share. The larger come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names say it.
pub enum Level {
    Numa,
    Socket,
    Cache,
    Core,
}

/// Where a CPU is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The memory that is nearest.
    pub numa: u32,
    /// The package.
    pub socket: u32,
    /// The last cache before memory, named by the first CPU that shares it.
    pub cache: u32,
    /// The core, named by its first CPU: the kernel's numbers are those within a socket.
    pub core: u32,
}

/// The CPUs of the machine that are online.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology(pub BTreeMap<u32, Place>);

impl Topology {
    /// Reads it below `/sys/devices/system`. Where a machine does not tell, its CPUs share nothing smaller than socket 0 and memory 0.
    pub fn read(system: &Path) -> io::Result<Self> {
        let set = |path: &Path| fs::read_to_string(path).ok().and_then(|text| cpu_set::parse(&text).ok());
        let online = fs::read_to_string(system.join("cpu/online"))?;
        let online = cpu_set::parse(&online).map_err(io::Error::other)?;
        let mut nodes: BTreeMap<u32, CpuSet> = BTreeMap::new();
        for entry in fs::read_dir(system.join("node")).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("node")?.parse().ok());
            if let Some((number, cpus)) = number.zip(set(&entry.path().join("cpulist"))) {
                nodes.insert(number, cpus);
            }
        }
        let place = |cpu: u32| {
            let dir = system.join(format!("cpu/cpu{cpu}"));
            let first = |path: &str| set(&dir.join(path)).and_then(|set| set.first().copied());
            let socket = fs::read_to_string(dir.join("topology/physical_package_id")).ok().and_then(|text| text.trim().parse().ok());
            Place {
                numa: nodes.iter().find(|(_, cpus)| cpus.contains(&cpu)).map_or(0, |(number, _)| *number),
                socket: socket.unwrap_or(0),
                cache: first("cache/index3/shared_cpu_list").unwrap_or(0),
                core: first("topology/thread_siblings_list").unwrap_or(cpu),
            }
        };
        Ok(Topology(online.into_iter().map(|cpu| (cpu, place(cpu))).collect()))
    }

    /// All CPUs.
    pub fn cpus(&self) -> CpuSet {
        self.0.keys().copied().collect()
    }

    /// What of a level a CPU belongs to.
    pub fn unit(&self, cpu: u32, level: Level) -> u32 {
        let place = self.0.get(&cpu).copied().unwrap_or_default();
        match level {
            Level::Numa => place.numa,
            Level::Socket => place.socket,
            Level::Cache => place.cache,
            Level::Core => place.core,
        }
    }

    /// CPUs by what of a level they belong to.
    pub fn units(&self, cpus: &CpuSet, level: Level) -> BTreeMap<u32, CpuSet> {
        let mut out: BTreeMap<u32, CpuSet> = BTreeMap::new();
        for cpu in cpus {
            out.entry(self.unit(*cpu, level)).or_default().insert(*cpu);
        }
        out
    }

    /// How many there are of a level.
    pub fn count(&self, level: Level) -> usize {
        self.0.keys().map(|cpu| self.unit(*cpu, level)).collect::<BTreeSet<_>>().len()
    }

    /// How many CPUs a core has.
    pub fn threads(&self) -> usize {
        self.0.len().div_ceil(self.count(Level::Core).max(1)).max(1)
    }
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
        write("cpu/online", "0-3\n");
        write("node/node0/cpulist", "0,2\n");
        write("node/node1/cpulist", "1,3\n");
        for (cpu, socket, siblings) in [(0, 0, "0,2"), (1, 1, "1,3"), (2, 0, "0,2"), (3, 1, "1,3")] {
            write(&format!("cpu/cpu{cpu}/topology/physical_package_id"), &format!("{socket}\n"));
            write(&format!("cpu/cpu{cpu}/topology/thread_siblings_list"), siblings);
            write(&format!("cpu/cpu{cpu}/cache/index3/shared_cpu_list"), siblings);
        }
        let topology = Topology::read(system.path()).expect("it is told");
        assert_eq!(topology.0[&3], Place { numa: 1, socket: 1, cache: 1, core: 1 });
        assert_eq!((topology.count(Level::Core), topology.threads(), topology.cpus().len()), (2, 2, 4));
        assert_eq!(topology.units(&topology.cpus(), Level::Numa)[&0], CpuSet::from([0, 2]));
    }
}
