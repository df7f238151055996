//! One look at what the machine has left: four or five small reads of the kernel, without asking the runtime or walking a tree. That is what makes it cheap
//! enough to be repeated.

use super::signal::Observation;
pub use crate::node::usage::disk::Filesystem;
use crate::node::usage::{
    cgroup::{self, Group, Memory},
    disk,
};
use std::{fs, path::PathBuf};

/// What was seen. What could not be found out is absent, and no threshold of it is met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// The machine's memory.
    pub memory: Option<Observation>,
    /// Of the memory that pods may have together.
    pub pods_memory: Option<Observation>,
    /// The file system of the kubelet's root.
    pub node_fs: Option<Filesystem>,
    /// The runtime's file system.
    pub image_fs: Option<Filesystem>,
    /// Processes and threads.
    pub processes: Option<Observation>,
}

/// Where to look.
#[derive(Clone, Debug)]
pub struct Where {
    /// The kubelet's root.
    pub root: PathBuf,
    /// Where the runtime keeps images.
    pub images: Option<PathBuf>,
    /// The machine's own cgroup.
    pub machine: Group,
    /// The cgroup of all pods.
    pub pods: Group,
    /// The machine's memory in bytes.
    pub memory: i64,
    /// What pods may have of it together.
    pub pods_memory: i64,
}

/// The machine's memory as it is used.
pub fn machine_memory(machine: &Group) -> Memory {
    machine.memory().unwrap_or_else(|| cgroup::machine_memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default()))
}

/// Processes and threads: how many there are, and how many there can be.
pub fn processes() -> Option<(i64, i64)> {
    let read = |path| fs::read_to_string(path).ok();
    let most = ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"];
    let most = most.into_iter().filter_map(|path| read(path)?.trim().parse::<i64>().ok()).min()?;
    Some((running(&read("/proc/loadavg")?)?, most))
}

/// The number of processes and threads in `/proc/loadavg`: `0.1 0.2 0.3 1/234 5678`.
fn running(loadavg: &str) -> Option<i64> {
    loadavg.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

/// Looks.
pub fn take(at: &Where) -> Sample {
    let left = |capacity: i64, used: u64| Observation {
        available: capacity.saturating_sub(i64::try_from(used).unwrap_or(i64::MAX)).max(0),
        capacity,
    };
    Sample {
        memory: Some(left(at.memory, machine_memory(&at.machine).working_set)),
        pods_memory: at.pods.memory().map(|memory| left(at.pods_memory, memory.working_set)),
        node_fs: disk::filesystem(&at.root).ok(),
        image_fs: at.images.as_deref().and_then(|path| disk::filesystem(path).ok()),
        processes: processes().map(|(running, most)| Observation { available: most - running, capacity: most }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_look_finds_what_the_machine_has() {
        let group =
            |path: &str| Group::new(Path::new("/sys/fs/cgroup"), Path::new(path), Path::new("/sys/fs/cgroup/cgroup.controllers").exists());
        let at = Where {
            root: "/".into(),
            images: None,
            machine: group(""),
            pods: group("no/such/cgroup"),
            memory: 1 << 40,
            pods_memory: 1 << 40,
        };
        let sample = take(&at);
        assert!(sample.memory.is_some_and(|m| m.available > 0 && m.available < m.capacity));
        assert!(sample.processes.is_some_and(|p| p.available > 0 && p.available < p.capacity));
        assert!(sample.node_fs.is_some() && sample.pods_memory.is_none() && sample.image_fs.is_none());
        assert_eq!(running("0.41 0.50 0.21 2/345 6789\n"), Some(345));
    }
}
