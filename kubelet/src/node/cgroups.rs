//! The cgroups of pods: one per pod, below one per quality of service, as upstream lays them out, on cgroup v1, hybrid and v2 (upstream:
//! `pkg/kubelet/cm`).
//!
//! With the `cgroupfs` driver they are directories that we make and remove here. With the `systemd` driver they are slices, which systemd makes
//! when the runtime starts the first scope in one; their limits are then the runtime's business alone.

use super::usage::cgroup::Group;
use crate::container::{
    identity,
    resources::{self, Qos},
};
use k8s_openapi::api::core::v1::Pod;
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

/// How cgroups are named and made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// Directories.
    Cgroupfs,
    /// Slices.
    Systemd,
}

/// The cgroups of this node's pods.
#[derive(Clone, Debug)]
pub struct Cgroups {
    driver: Driver,
    /// Where the hierarchies are mounted.
    mount: PathBuf,
    /// `--cgroup-root`, without slashes at its ends.
    root: String,
    unified: bool,
    /// How many processes a pod may have.
    processes: Option<i64>,
}

/// What a cgroup may use at most; what is not set stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Its part of the CPUs, in thousandths of one.
    pub cpu: Option<i64>,
    /// Bytes.
    pub memory: Option<i64>,
    /// Processes and threads.
    pub processes: Option<i64>,
}

/// One thing that a cgroup is set to: the controller, the file, the value.
type Setting = (&'static str, &'static str, String);

/// Its part of the CPUs.
fn share(unified: bool, shares: u64) -> Setting {
    if unified { ("cpu", "cpu.weight", weight(shares).to_string()) } else { ("cpu", "cpu.shares", shares.to_string()) }
}

impl Limits {
    fn settings(&self, unified: bool) -> Vec<Setting> {
        let memory = if unified { "memory.max" } else { "memory.limit_in_bytes" };
        let all = [
            self.cpu.map(|cpu| share(unified, resources::shares(cpu))),
            self.memory.map(|bytes| ("memory", memory, bytes.to_string())),
            self.processes.map(|most| ("pids", "pids.max", most.to_string())),
        ];
        all.into_iter().flatten().collect()
    }
}

/// What a pod's cgroup is set to. `quota` is in microseconds a period, `memory` in bytes; 0 is no limit.
fn pod_settings(unified: bool, shares: u64, quota: i64, memory: i64, processes: Option<i64>) -> Vec<Setting> {
    let period = resources::CPU_PERIOD;
    let or = |amount: i64, none: &str| if amount > 0 { amount.to_string() } else { none.to_owned() };
    let mut settings = vec![share(unified, shares)];
    if unified {
        settings.push(("cpu", "cpu.max", format!("{} {period}", or(quota, "max"))));
        settings.push(("memory", "memory.max", or(memory, "max")));
    } else {
        settings.push(("cpu", "cpu.cfs_period_us", period.to_string()));
        settings.push(("cpu", "cpu.cfs_quota_us", or(quota, "-1")));
        settings.push(("memory", "memory.limit_in_bytes", or(memory, "-1")));
    }
    settings.extend(processes.map(|most| ("pids", "pids.max", most.to_string())));
    settings
}

/// Controllers that the pod's cgroup needs on v2.
const CONTROLLERS: &str = "+cpu +memory +pids +cpuset";

impl Cgroups {
    /// Looks at what the machine has. `root` is the cgroup that all pods are below.
    pub fn detect(driver: Driver, root: &str) -> Self {
        let mount = PathBuf::from("/sys/fs/cgroup");
        let unified = mount.join("cgroup.controllers").exists();
        Cgroups { driver, mount, root: root.trim_matches('/').to_owned(), unified, processes: None }
    }

    /// The same, with so many processes for a pod at most.
    pub fn with_process_limit(self, processes: Option<i64>) -> Self {
        Cgroups { processes, ..self }
    }

    /// Limits all pods together. systemd's slices are left to systemd.
    pub fn limit_pods(&self, limits: &Limits) -> io::Result<()> {
        if self.driver == Driver::Systemd {
            return Ok(());
        }
        let pods = Path::new(&self.root).join("kubepods");
        if self.unified {
            self.make_unified(&pods)?;
        } else {
            for (controller, wanted) in [("memory", limits.memory.is_some()), ("pids", limits.processes.is_some())] {
                if wanted {
                    fs::create_dir_all(self.mount.join(controller).join(&pods))?;
                }
            }
        }
        self.limit(&pods, limits)
    }

    /// Limits a cgroup that is there, by its path below the hierarchies' roots.
    pub fn limit(&self, path: &Path, limits: &Limits) -> io::Result<()> {
        let group = self.at(path);
        for (controller, file, value) in limits.settings(self.unified) {
            let directory = group.directory(controller);
            if !directory.is_dir() {
                return Err(io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", directory.display())));
            }
            set(&directory, file, &value)?;
        }
        Ok(())
    }

    /// The pod's cgroup as the runtime is told.
    pub fn pod_parent(&self, pod: &Pod) -> String {
        let uid = identity::uid(pod);
        match self.driver {
            Driver::Cgroupfs => format!("/{}", self.path(pod).display()),
            Driver::Systemd => {
                let uid = uid.replace('-', "_");
                match resources::qos(pod) {
                    Qos::Guaranteed => format!("kubepods-pod{uid}.slice"),
                    Qos::Burstable => format!("kubepods-burstable-pod{uid}.slice"),
                    Qos::BestEffort => format!("kubepods-besteffort-pod{uid}.slice"),
                }
            }
        }
    }

    /// The pod's cgroup below a hierarchy's root.
    fn path(&self, pod: &Pod) -> PathBuf {
        let mut path = PathBuf::from(&self.root);
        path.push("kubepods");
        match resources::qos(pod) {
            Qos::Guaranteed => {}
            Qos::Burstable => path.push("burstable"),
            Qos::BestEffort => path.push("besteffort"),
        }
        path.push(format!("pod{}", identity::uid(pod)));
        path
    }

    /// A cgroup to read figures of, by its path below the hierarchies' roots.
    pub fn at(&self, path: &Path) -> Group {
        Group::new(&self.mount, path, self.unified)
    }

    /// The machine's own.
    pub fn machine(&self) -> Group {
        self.at(Path::new(""))
    }

    /// The one of all pods.
    pub fn all_pods(&self) -> Group {
        match self.driver {
            Driver::Cgroupfs => self.at(&Path::new(&self.root).join("kubepods")),
            Driver::Systemd => self.at(Path::new("kubepods.slice")),
        }
    }

    /// A pod's.
    pub fn of_pod(&self, pod: &Pod) -> Group {
        match self.driver {
            Driver::Cgroupfs => self.at(&self.path(pod)),
            Driver::Systemd => self.at(&slice_path(&self.pod_parent(pod))),
        }
    }

    /// The UIDs of the pods that have a cgroup in some hierarchy.
    pub fn pods_with_cgroups(&self) -> io::Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        if self.driver == Driver::Systemd {
            // A slice goes with the last scope in it.
            return Ok(found);
        }
        for hierarchy in self.hierarchies()? {
            for class in ["", "burstable", "besteffort"] {
                let dir = hierarchy.join(&self.root).join("kubepods").join(class);
                let entries = fs::read_dir(dir).into_iter().flatten().flatten();
                found.extend(entries.filter_map(|e| e.file_name().to_str()?.strip_prefix("pod").map(str::to_owned)));
            }
        }
        Ok(found)
    }

    /// The hierarchies: one on v2, one per controller on v1.
    fn hierarchies(&self) -> io::Result<Vec<PathBuf>> {
        if self.unified {
            return Ok(vec![self.mount.clone()]);
        }
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.mount)? {
            let entry = entry?;
            // `cpu` and `cpuacct` may be links to the hierarchy they share. On a hybrid machine `unified` is one more, in which
            // the runtime makes directories too.
            if entry.file_type()?.is_dir() {
                found.push(entry.path());
            }
        }
        Ok(found)
    }

    /// Makes the pod's cgroup and sets its limits.
    pub fn ensure_pod(&self, pod: &Pod, throttled: bool) -> io::Result<()> {
        if self.driver == Driver::Systemd {
            return Ok(());
        }
        let path = self.path(pod);
        let spec = pod.spec.clone().unwrap_or_default();
        let limited = |name: &str| if resources::all_limited(&spec, name) { resources::pod_total(&spec, name, true) } else { 0 };
        let settings = pod_settings(
            self.unified,
            resources::shares(resources::pod_total(&spec, "cpu", false)),
            if throttled { resources::quota(limited("cpu")) } else { 0 },
            limited("memory") / 1000,
            self.processes,
        );
        self.write(&path, &settings)
    }

    /// Makes a cgroup in the hierarchies that have something to set, and sets it. The runtime makes the others' with the container's own.
    fn write(&self, path: &Path, settings: &[Setting]) -> io::Result<()> {
        if self.unified {
            let dir = self.make_unified(path)?;
            return settings.iter().try_for_each(|(_, file, value)| set(&dir, file, value));
        }
        for hierarchy in self.hierarchies()? {
            let controllers = hierarchy.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let mut own = settings.iter().filter(|(controller, ..)| controllers.split(',').any(|c| c == *controller)).peekable();
            if own.peek().is_none() {
                continue;
            }
            let dir = hierarchy.join(path);
            fs::create_dir_all(&dir)?;
            own.try_for_each(|(_, file, value)| set(&dir, file, value))?;
        }
        Ok(())
    }

    /// Gives each class its part of the CPUs: pods that ask for some what they ask for together (`burstable`, in thousandths), those that ask for none
    /// what is left over, and all of them together what the node has for pods (`allocatable`).
    pub fn share(&self, allocatable: i64, burstable: i64) -> io::Result<()> {
        if self.driver == Driver::Systemd {
            return Ok(());
        }
        let pods = Path::new(&self.root).join("kubepods");
        let classes = [(pods.clone(), allocatable), (pods.join("burstable"), burstable), (pods.join("besteffort"), 0)];
        classes.iter().try_for_each(|(path, milli)| self.write(path, &[share(self.unified, resources::shares(*milli))]))
    }

    /// Makes the directories from the root down, handing the controllers to each.
    fn make_unified(&self, path: &Path) -> io::Result<PathBuf> {
        let mut dir = self.mount.clone();
        for part in path.components() {
            // A controller the kernel lacks, or that is enabled already, is no reason to run no pods.
            if let Err(error) = fs::write(dir.join("cgroup.subtree_control"), CONTROLLERS) {
                tracing::debug!(dir = %dir.display(), %error, "controllers not enabled");
            }
            dir.push(part);
            if !dir.exists() {
                fs::create_dir(&dir)?;
            }
        }
        Ok(dir)
    }

    /// Removes the pod's cgroup from all hierarchies. Its processes have ended by now.
    pub fn remove_pod(&self, pod: &Pod) -> io::Result<()> {
        if self.driver == Driver::Systemd {
            return Ok(());
        }
        self.remove_by_uid(identity::uid(pod))
    }

    /// The same for a pod that nobody knows more of than its UID, which does not tell its class.
    pub fn remove_by_uid(&self, uid: &str) -> io::Result<()> {
        let name = format!("pod{uid}");
        for hierarchy in self.hierarchies()? {
            for class in ["", "burstable", "besteffort"] {
                remove_tree(&hierarchy.join(&self.root).join("kubepods").join(class).join(&name))?;
            }
        }
        Ok(())
    }
}

/// Where a slice is: each dash in its name is a level (systemd.slice(5)).
fn slice_path(slice: &str) -> PathBuf {
    let name = slice.trim_end_matches(".slice");
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    ends.map(|end| format!("{}.slice", &name[..end])).collect()
}

/// Shares as the weight of cgroup v2 (upstream: `CpuSharesToCpuWeight`).
fn weight(shares: u64) -> u64 {
    1 + ((shares.max(2) - 2) * 9999) / 262_142
}

/// Writes one of a cgroup's files; one that this kernel does not have is left alone.
fn set(dir: &Path, file: &str, value: &str) -> io::Result<()> {
    match fs::write(dir.join(file), value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes a cgroup and those below it. Only directories can be removed from a cgroup file system.
fn remove_tree(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_follow_class_and_driver() {
        let pod = |requests: serde_json::Value| -> Pod {
            serde_json::from_value(
                json!({"metadata": {"uid": "a-b"}, "spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}}),
            )
            .expect("a pod")
        };
        let with = |driver, root: &str| Cgroups { driver, mount: "/none".into(), root: root.into(), unified: true, processes: None };
        for (driver, root, requests, want) in [
            (Driver::Cgroupfs, "", json!({}), "/kubepods/besteffort/poda-b"),
            (Driver::Cgroupfs, "x", json!({"cpu": "1"}), "/x/kubepods/burstable/poda-b"),
            (Driver::Systemd, "", json!({}), "kubepods-besteffort-poda_b.slice"),
        ] {
            assert_eq!(with(driver, root).pod_parent(&pod(requests)), want);
        }
    }

    #[test]
    fn what_is_written_is_what_the_version_knows() {
        let shown =
            |settings: Vec<Setting>| settings.iter().map(|(_, file, value)| format!("{file}={value}")).collect::<Vec<_>>().join(", ");
        for (unified, (quota, memory, processes), want) in [
            (true, (50_000, 1024, Some(9)), "cpu.weight=10, cpu.max=50000 100000, memory.max=1024, pids.max=9"),
            (true, (0, 0, None), "cpu.weight=10, cpu.max=max 100000, memory.max=max"),
            (
                false,
                (50_000, 1024, Some(9)),
                "cpu.shares=256, cpu.cfs_period_us=100000, cpu.cfs_quota_us=50000, memory.limit_in_bytes=1024, pids.max=9",
            ),
            (false, (0, 0, None), "cpu.shares=256, cpu.cfs_period_us=100000, cpu.cfs_quota_us=-1, memory.limit_in_bytes=-1"),
        ] {
            assert_eq!(shown(pod_settings(unified, 256, quota, memory, processes)), want);
        }
        let limits = Limits { cpu: Some(250), memory: Some(7), processes: None };
        assert_eq!(shown(limits.settings(true)), "cpu.weight=10, memory.max=7");
        assert_eq!(shown(limits.settings(false)), "cpu.shares=256, memory.limit_in_bytes=7");
    }

    #[test]
    fn a_slice_is_a_path_of_slices() {
        let want = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-poda_b.slice";
        assert_eq!(slice_path("kubepods-burstable-poda_b.slice"), Path::new(want));
        assert_eq!(slice_path("kubepods.slice"), Path::new("kubepods.slice"));
    }

    #[test]
    fn a_pods_cgroup_is_made_and_removed_everywhere() {
        let mount = tempfile::tempdir().expect("a directory");
        for name in ["cpu,cpuacct", "memory", "pids"] {
            fs::create_dir(mount.path().join(name)).expect("made");
        }
        let cgroups =
            Cgroups { driver: Driver::Cgroupfs, mount: mount.path().into(), root: String::new(), unified: false, processes: Some(64) };
        let pod: Pod = serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": []}})).expect("a pod");
        cgroups.ensure_pod(&pod, true).expect("made");
        let dir = mount.path().join("cpu,cpuacct/kubepods/besteffort/podu");
        assert_eq!(fs::read_to_string(dir.join("cpu.shares")).expect("set"), "2");
        assert_eq!(fs::read_to_string(mount.path().join("pids/kubepods/besteffort/podu/pids.max")).expect("set"), "64");
        let limits = Limits { memory: Some(4096), processes: Some(9), ..Default::default() };
        cgroups.limit_pods(&limits).expect("limited");
        let limit = |file: &str| fs::read_to_string(mount.path().join(file)).expect("set");
        assert_eq!((limit("memory/kubepods/memory.limit_in_bytes"), limit("pids/kubepods/pids.max")), ("4096".into(), "9".into()));
        assert!(cgroups.limit(Path::new("no/such"), &limits).is_err());
        cgroups.share(2000, 500).expect("shared");
        let shares = |path: &str| fs::read_to_string(mount.path().join("cpu,cpuacct/kubepods").join(path).join("cpu.shares")).expect("set");
        assert_eq!([shares(""), shares("burstable"), shares("besteffort")], ["2048", "512", "2"]);
        // A real cgroup's files vanish with it; here they are in the way.
        for hierarchy in ["cpu,cpuacct", "memory", "pids"] {
            for file in fs::read_dir(mount.path().join(hierarchy).join("kubepods/besteffort/podu")).expect("it is there").flatten() {
                fs::remove_file(file.path()).expect("removed");
            }
        }
        cgroups.remove_pod(&pod).expect("removed");
        assert!(!dir.exists());
    }
}
