//! The cgroups of pods: one per pod, below one per quality of service, as upstream lays them out, on cgroup v1, hybrid and v2 (upstream:
//! `pkg/kubelet/cm`).
//!
//! With the `cgroupfs` driver they are directories that we make and remove here. With the `systemd` driver they are slices, which systemd makes and
//! removes at our word, with their limits among its properties ([`slices`]): what it does not know of, it would set back. What both are set to is
//! said once ([`settings`]).

pub mod settings;
mod slices;

pub use settings::Limits;

use self::{
    settings::{File, Setting},
    slices::Slices,
};
use super::usage::cgroup::Group;
use crate::container::{
    identity,
    resources::{self, Qos},
};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
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
    slices: Arc<Slices>,
}

/// The classes of pods by their cgroups' names; the first has none of its own.
const CLASSES: [Option<&str>; 3] = [None, Some("burstable"), Some("besteffort")];

/// Controllers that the pod's cgroup needs on v2.
const CONTROLLERS: &str = "+cpu +memory +pids +cpuset";

impl Cgroups {
    /// Looks at what the machine has. `root` is the cgroup that all pods are below.
    pub fn detect(driver: Driver, root: &str) -> Self {
        let mount = PathBuf::from("/sys/fs/cgroup");
        let unified = mount.join("cgroup.controllers").exists();
        Cgroups { driver, mount, root: root.trim_matches('/').to_owned(), unified, processes: None, slices: Arc::default() }
    }

    /// The same, with so many processes for a pod at most.
    pub fn with_process_limit(self, processes: Option<i64>) -> Self {
        Cgroups { processes, ..self }
    }

    /// Limits all pods together.
    pub async fn limit_pods(&self, limits: &Limits) -> io::Result<()> {
        self.ensure(&self.pods(None), &limits.settings()).await
    }

    /// Limits a cgroup that is there, by its path below the hierarchies' roots; with systemd the last part of it is a unit's name.
    pub async fn limit(&self, path: &Path, limits: &Limits) -> io::Result<()> {
        let (group, settings) = (self.at(path), limits.settings());
        let mut files = settings.iter().flat_map(|setting| setting.files(self.unified));
        if let Some(absent) = files.clone().map(|(controller, ..)| group.directory(controller)).find(|directory| !directory.is_dir()) {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", absent.display())));
        }
        match (self.driver, path.file_name().and_then(|name| name.to_str())) {
            (Driver::Systemd, Some(unit)) => self.slices.set(unit, &self.properties(&settings)).await,
            _ => files.try_for_each(|(controller, file, value)| set(&group.directory(controller), file, &value)),
        }
    }

    /// The parts of the name of the cgroup of a class of pods, or of all.
    fn pods(&self, class: Option<&str>) -> Vec<String> {
        let root = self.root.split('/').filter(|part| !part.is_empty());
        root.chain(["kubepods"]).chain(class).map(str::to_owned).collect()
    }

    /// The same of a pod's.
    fn pod(&self, pod: &Pod) -> Vec<String> {
        let mut parts = self.pods(match resources::qos(pod) {
            Qos::Guaranteed => None,
            Qos::Burstable => Some("burstable"),
            Qos::BestEffort => Some("besteffort"),
        });
        parts.push(format!("pod{}", identity::uid(pod)));
        parts
    }

    /// Where a cgroup of that name is below a hierarchy's root.
    fn path(&self, parts: &[String]) -> PathBuf {
        match self.driver {
            Driver::Cgroupfs => parts.iter().collect(),
            Driver::Systemd => slices::path(&slices::name(parts)),
        }
    }

    /// The pod's cgroup as the runtime is told.
    pub fn pod_parent(&self, pod: &Pod) -> String {
        let parts = self.pod(pod);
        match self.driver {
            Driver::Cgroupfs => format!("/{}", parts.join("/")),
            Driver::Systemd => slices::name(&parts),
        }
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
        self.at(&self.path(&self.pods(None)))
    }

    /// A pod's.
    pub fn of_pod(&self, pod: &Pod) -> Group {
        self.at(&self.path(&self.pod(pod)))
    }

    /// The UIDs of the pods that have a cgroup in some hierarchy.
    pub fn pods_with_cgroups(&self) -> io::Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        for hierarchy in self.hierarchies()? {
            for class in CLASSES {
                let parts = self.pods(class);
                let entries = fs::read_dir(hierarchy.join(self.path(&parts))).into_iter().flatten().flatten();
                found.extend(entries.filter_map(|e| self.uid(&parts, e.file_name().to_str()?)));
            }
        }
        Ok(found)
    }

    /// The UID of the pod whose cgroup in that of its class has this name.
    fn uid(&self, class: &[String], name: &str) -> Option<String> {
        match self.driver {
            Driver::Cgroupfs => name.strip_prefix("pod").map(str::to_owned),
            Driver::Systemd => {
                let class = slices::name(class);
                let own = name.strip_suffix(".slice")?.strip_prefix(class.strip_suffix(".slice")?)?.strip_prefix("-pod")?;
                Some(own.replace('_', "-"))
            }
        }
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
    pub async fn ensure_pod(&self, pod: &Pod, throttled: bool) -> io::Result<()> {
        let nothing = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&nothing);
        let limited = |name: &str| if resources::all_limited(spec, name) { resources::pod_total(spec, name, true) } else { 0 };
        let unless_none = |amount: i64| Some(amount).filter(|amount| *amount > 0);
        let mut settings = vec![
            Setting::Shares(resources::shares(resources::pod_total(spec, "cpu", false))),
            Setting::Quota(unless_none(resources::quota(limited("cpu"))).filter(|_| throttled)),
            Setting::Memory(unless_none(limited("memory") / 1000)),
        ];
        settings.extend(self.processes.map(Setting::Processes));
        self.ensure(&self.pod(pod), &settings).await
    }

    /// Makes a cgroup, or sets one that is there.
    async fn ensure(&self, parts: &[String], settings: &[Setting]) -> io::Result<()> {
        match self.driver {
            Driver::Cgroupfs => self.write(&self.path(parts), settings),
            Driver::Systemd => self.slices.ensure(&slices::name(parts), &self.properties(settings)).await,
        }
    }

    fn properties(&self, settings: &[Setting]) -> Vec<settings::Property> {
        settings.iter().map(|setting| setting.property(self.unified)).collect()
    }

    /// Makes a cgroup in the hierarchies that have something to set, and sets it. The runtime makes the others' with the container's own.
    fn write(&self, path: &Path, settings: &[Setting]) -> io::Result<()> {
        let files: Vec<File> = settings.iter().flat_map(|setting| setting.files(self.unified)).collect();
        if self.unified {
            let dir = self.make_unified(path)?;
            return files.iter().try_for_each(|(_, file, value)| set(&dir, file, value));
        }
        for hierarchy in self.hierarchies()? {
            let controllers = hierarchy.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let mut own = files.iter().filter(|(controller, ..)| controllers.split(',').any(|c| c == *controller)).peekable();
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
    pub async fn share(&self, allocatable: i64, burstable: i64) -> io::Result<()> {
        for (class, milli) in [(None, allocatable), (Some("burstable"), burstable), (Some("besteffort"), 0)] {
            self.ensure(&self.pods(class), &[Setting::Shares(resources::shares(milli))]).await?;
        }
        Ok(())
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
    pub async fn remove_pod(&self, pod: &Pod) -> io::Result<()> {
        self.remove(&self.pod(pod)).await
    }

    /// The same for a pod that nobody knows more of than its UID, which does not tell its class.
    pub async fn remove_by_uid(&self, uid: &str) -> io::Result<()> {
        for class in CLASSES {
            let mut parts = self.pods(class);
            parts.push(format!("pod{uid}"));
            self.remove(&parts).await?;
        }
        Ok(())
    }

    async fn remove(&self, parts: &[String]) -> io::Result<()> {
        if self.driver == Driver::Systemd {
            self.slices.stop(&slices::name(parts)).await?;
        }
        // systemd leaves what it does not know of: hierarchies of v1 in which the runtime alone makes cgroups.
        let path = self.path(parts);
        self.hierarchies()?.iter().try_for_each(|hierarchy| remove_tree(&hierarchy.join(&path)))
    }
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

    fn cgroups(driver: Driver, mount: &Path, root: &str, unified: bool) -> Cgroups {
        Cgroups { driver, mount: mount.into(), root: root.into(), unified, processes: Some(64), slices: Arc::default() }
    }

    fn pod(requests: serde_json::Value) -> Pod {
        let spec = json!({"containers": [{"name": "c", "resources": {"requests": requests}}]});
        serde_json::from_value(json!({"metadata": {"uid": "a-b"}, "spec": spec})).expect("a pod")
    }

    #[test]
    fn names_follow_class_and_driver() {
        for (driver, root, requests, parent, path) in [
            (Driver::Cgroupfs, "", json!({}), "/kubepods/besteffort/poda-b", "kubepods/besteffort/poda-b"),
            (Driver::Cgroupfs, "x", json!({"cpu": "1"}), "/x/kubepods/burstable/poda-b", "x/kubepods/burstable/poda-b"),
            (
                Driver::Systemd,
                "",
                json!({}),
                "kubepods-besteffort-poda_b.slice",
                "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-poda_b.slice",
            ),
            (
                Driver::Systemd,
                "x-1",
                json!({"cpu": "1"}),
                "x_1-kubepods-burstable-poda_b.slice",
                "x_1.slice/x_1-kubepods.slice/x_1-kubepods-burstable.slice/x_1-kubepods-burstable-poda_b.slice",
            ),
        ] {
            let (cgroups, pod) = (cgroups(driver, Path::new("/none"), root, true), pod(requests));
            assert_eq!((cgroups.pod_parent(&pod).as_str(), cgroups.path(&cgroups.pod(&pod)).as_path()), (parent, Path::new(path)));
        }
    }

    #[test]
    fn pods_are_found_by_their_cgroups() {
        for (driver, directories) in [
            (Driver::Cgroupfs, ["kubepods/podone", "kubepods/burstable/podt-w-o", "kubepods/besteffort/other"]),
            (
                Driver::Systemd,
                [
                    "kubepods.slice/kubepods-podone.slice",
                    "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podt_w_o.slice",
                    "kubepods.slice/kubepods-besteffort.slice/other.slice",
                ],
            ),
        ] {
            let mount = tempfile::tempdir().expect("a directory");
            directories.iter().for_each(|directory| fs::create_dir_all(mount.path().join(directory)).expect("made"));
            let found = cgroups(driver, mount.path(), "", true).pods_with_cgroups().expect("read");
            assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), ["one", "t-w-o"]);
        }
    }

    #[tokio::test]
    async fn a_pods_cgroup_is_made_and_removed_everywhere() {
        let mount = tempfile::tempdir().expect("a directory");
        for name in ["cpu,cpuacct", "memory", "pids"] {
            fs::create_dir(mount.path().join(name)).expect("made");
        }
        let cgroups = cgroups(Driver::Cgroupfs, mount.path(), "", false);
        let pod: Pod = serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": []}})).expect("a pod");
        cgroups.ensure_pod(&pod, true).await.expect("made");
        let dir = mount.path().join("cpu,cpuacct/kubepods/besteffort/podu");
        assert_eq!(fs::read_to_string(dir.join("cpu.shares")).expect("set"), "2");
        assert_eq!(fs::read_to_string(mount.path().join("pids/kubepods/besteffort/podu/pids.max")).expect("set"), "64");
        let limits = Limits { memory: Some(4096), processes: Some(9), ..Default::default() };
        cgroups.limit_pods(&limits).await.expect("limited");
        let limit = |file: &str| fs::read_to_string(mount.path().join(file)).expect("set");
        assert_eq!((limit("memory/kubepods/memory.limit_in_bytes"), limit("pids/kubepods/pids.max")), ("4096".into(), "9".into()));
        assert!(cgroups.limit(Path::new("no/such"), &limits).await.is_err());
        cgroups.share(2000, 500).await.expect("shared");
        let shares = |path: &str| fs::read_to_string(mount.path().join("cpu,cpuacct/kubepods").join(path).join("cpu.shares")).expect("set");
        assert_eq!([shares(""), shares("burstable"), shares("besteffort")], ["2048", "512", "2"]);
        // A real cgroup's files vanish with it; here they are in the way.
        for hierarchy in ["cpu,cpuacct", "memory", "pids"] {
            for file in fs::read_dir(mount.path().join(hierarchy).join("kubepods/besteffort/podu")).expect("it is there").flatten() {
                fs::remove_file(file.path()).expect("removed");
            }
        }
        cgroups.remove_pod(&pod).await.expect("removed");
        assert!(!dir.exists());
    }
}
