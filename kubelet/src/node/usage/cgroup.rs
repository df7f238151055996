//! What a cgroup uses, read from its files, on cgroup v1 and v2 (upstream reads the same files through cAdvisor).
//!
//! A file that is not there leaves its figure out: which ones a kernel has depends on its version and its configuration.

use super::pressure::{self, Psi};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A cgroup: one directory on v2, one per controller on v1.
#[derive(Clone, Debug)]
pub struct Group {
    mount: PathBuf,
    path: PathBuf,
    unified: bool,
}

/// Memory in bytes, faults as numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All of it, with the page cache.
    pub usage: u64,
    /// Without the part of the page cache that has not been used lately.
    pub working_set: u64,
    /// What processes have for themselves.
    pub rss: Option<u64>,
    /// Since the start.
    pub page_faults: Option<u64>,
    /// Those that needed the disk.
    pub major_page_faults: Option<u64>,
    /// What it may use at most; `None` without a limit.
    pub limit: Option<u64>,
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The value of a key in a file of `key value` lines.
fn keyed(text: &str, keys: &[&str]) -> Option<u64> {
    keys.iter().find_map(|key| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ').and_then(number)))
}

impl Group {
    /// `path` below the mount of the hierarchies.
    pub fn new(mount: &Path, path: &Path, unified: bool) -> Self {
        Group { mount: mount.to_owned(), path: path.to_owned(), unified }
    }

    fn read(&self, controller: &str, file: &str) -> Option<String> {
        fs::read_to_string(self.directory(controller).join(file)).ok()
    }

    /// Its directory in a controller's hierarchy.
    pub fn directory(&self, controller: &str) -> PathBuf {
        if self.unified { self.mount.join(&self.path) } else { self.mount.join(controller).join(&self.path) }
    }

    /// Its memory.
    pub fn memory(&self) -> Option<Memory> {
        let file = if self.unified { "memory.current" } else { "memory.usage_in_bytes" };
        let usage = number(&self.read("memory", file)?)?;
        let stat = self.read("memory", "memory.stat").unwrap_or_default();
        let limit = self.read("memory", if self.unified { "memory.max" } else { "memory.limit_in_bytes" });
        Some(memory(usage, &stat, limit.as_deref()))
    }

    /// CPU time so far, in nanoseconds.
    pub fn cpu(&self) -> Option<u64> {
        if self.unified {
            return keyed(&self.read("cpu", "cpu.stat")?, &["usage_usec"]).map(|micros| micros * 1000);
        }
        number(&self.read("cpuacct", "cpuacct.usage")?)
    }

    /// How long processes waited for `cpu`, `memory` or `io`; on v2 alone.
    pub fn pressure(&self, of: &str) -> Option<Psi> {
        if !self.unified {
            return None;
        }
        pressure::parse(&self.read(of, &format!("{of}.pressure"))?)
    }

    /// The cgroup below it whose name has the runtime's id of a container in it.
    pub fn of_container(&self, id: &str) -> Option<Group> {
        let entries = fs::read_dir(self.directory("memory")).ok()?.flatten();
        let own = entries.map(|entry| entry.file_name()).find(|name| !id.is_empty() && name.to_string_lossy().contains(id))?;
        Some(Group { path: self.path.join(own), ..self.clone() })
    }

    /// How many processes and threads are in it and below it.
    pub fn processes(&self) -> Option<u64> {
        number(&self.read("pids", "pids.current")?)
    }

    /// Some process in one of the cgroups right below it.
    pub fn some_process(&self) -> Option<u32> {
        let children = fs::read_dir(self.directory("memory")).ok()?;
        children.flatten().filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir())).find_map(|child| {
            let processes = fs::read_to_string(child.path().join("cgroup.procs")).ok()?;
            processes.lines().next()?.parse().ok()
        })
    }
}

fn memory(usage: u64, stat: &str, limit: Option<&str>) -> Memory {
    let inactive = keyed(stat, &["total_inactive_file", "inactive_file"]).unwrap_or(0);
    Memory {
        usage,
        working_set: usage.saturating_sub(inactive),
        rss: keyed(stat, &["total_rss", "anon"]),
        page_faults: keyed(stat, &["total_pgfault", "pgfault"]),
        major_page_faults: keyed(stat, &["total_pgmajfault", "pgmajfault"]),
        // Version 1 says a number that no machine has where there is no limit.
        limit: limit.and_then(number).filter(|limit| *limit < 1 << 62),
    }
}

/// The machine's memory where its own cgroup does not say: from `/proc/meminfo`.
pub fn machine_memory(meminfo: &str) -> Memory {
    let bytes = |key: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.and_then(|l| l.split_whitespace().next()).and_then(number).unwrap_or(0) * 1024
    };
    let usage = bytes("MemTotal").saturating_sub(bytes("MemFree"));
    Memory { usage, working_set: usage.saturating_sub(bytes("Inactive(file)")), rss: Some(bytes("AnonPages")), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_read() {
        let v1 = memory(100, "cache 1\ntotal_rss 40\ntotal_inactive_file 30\ntotal_pgfault 5\n", Some("9223372036854771712\n"));
        assert_eq!((v1.working_set, v1.rss, v1.page_faults, v1.limit), (70, Some(40), Some(5), None));
        let v2 = memory(100, "anon 40\ninactive_file 130\npgmajfault 2\n", Some("2048\n"));
        assert_eq!((v2.working_set, v2.rss, v2.major_page_faults, v2.limit), (0, Some(40), Some(2), Some(2048)));
        let all = machine_memory("MemTotal:  10 kB\nMemFree:   4 kB\nInactive(file):  1 kB\n");
        assert_eq!((all.usage, all.working_set), (6 << 10, 5 << 10));
    }

    #[test]
    fn version_2_tells_of_pressure_also_of_containers() {
        let dir = tempfile::tempdir().expect("a directory");
        let pod = Group::new(dir.path(), Path::new("pod"), true);
        for child in ["pod", "pod/abc", "pod/cri-containerd-def.scope"] {
            fs::create_dir_all(dir.path().join(child)).expect("made");
        }
        let line = "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n";
        fs::write(dir.path().join("pod/cri-containerd-def.scope/io.pressure"), line).expect("written");
        let of = |id| pod.of_container(id).and_then(|group| group.pressure("io")).map(|psi| psi.some.total);
        assert_eq!((of("def"), of("abc"), of("x"), of("")), (Some(5), None, None, None));
        assert_eq!(Group::new(dir.path(), Path::new("pod/cri-containerd-def.scope"), false).pressure("io"), None);
    }

    #[test]
    fn a_cgroup_that_is_gone_uses_nothing_known() {
        let dir = tempfile::tempdir().expect("a directory");
        let group = Group::new(dir.path(), Path::new("kubepods"), false);
        assert_eq!((group.memory(), group.cpu(), group.processes()), (None, None, None));
        fs::create_dir_all(dir.path().join("cpuacct/kubepods")).expect("made");
        fs::write(dir.path().join("cpuacct/kubepods/cpuacct.usage"), "12\n").expect("written");
        assert_eq!(group.cpu(), Some(12));
    }
}
