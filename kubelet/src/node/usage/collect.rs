//! Reads what the node and its pods use: containers from the runtime, pods and the node from their cgroups, directories by walking them.
//!
//! Nothing is read unless somebody asks, so an idle node pays nothing. Left out: figures that plugins of containers give.

use super::{
    cgroup::{self, Group},
    disk::{self, Filesystem},
    network,
    summary::*,
};
use crate::{
    container::identity::{self, CONTAINER_NAME, POD_UID},
    csi::{protocol::VolumeUsage, usage::Usages},
    node::{Node, Places, eviction::sample},
    runtime::{Result, Runtime},
    volume::setup,
};
use jiff::Timestamp;
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Pod, Volume};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

/// How long after a reading of CPU time another is worth a rate.
const RATE_MIN_NANOS: i128 = 1_000_000_000;
/// For how many cgroups the last reading is kept: far more than a node has.
const MAX_RATES: usize = 4096;

/// What is remembered between readings.
#[derive(Default)]
pub struct Meter {
    images: OnceLock<PathBuf>,
    rates: Mutex<HashMap<String, Reading>>,
}

#[derive(Clone, Copy)]
struct Reading {
    at: Timestamp,
    nanoseconds: u64,
    rate: Option<u64>,
}

impl Meter {
    /// Where the runtime keeps its images. Asked for until it is known.
    pub async fn image_root(&self, runtime: &dyn Runtime) -> Option<PathBuf> {
        if let Some(known) = self.images.get() {
            return Some(known.clone());
        }
        let found = runtime.image_fs_info().await.ok()?;
        let place = found.image_filesystems.first()?.fs_id.as_ref()?.mountpoint.clone();
        Some(self.images.get_or_init(|| place.into()).clone())
    }

    /// CPU time as it is shown, with the rate since the last reading that is long enough ago.
    fn cpu(&self, key: &str, nanoseconds: u64, at: Timestamp) -> Cpu {
        let mut rates = self.rates.lock();
        if rates.len() >= MAX_RATES {
            rates.clear();
        }
        let before = rates.get(key).copied();
        let rate = match before {
            Some(before) => {
                let passed = at.as_nanosecond() - before.at.as_nanosecond();
                match passed < RATE_MIN_NANOS {
                    true => before.rate,
                    false => {
                        let used = i128::from(nanoseconds.saturating_sub(before.nanoseconds));
                        u64::try_from(used * 1_000_000_000 / passed).ok()
                    }
                }
            }
            None => None,
        };
        if before.is_none_or(|before| at.as_nanosecond() - before.at.as_nanosecond() >= RATE_MIN_NANOS) {
            rates.insert(key.to_owned(), Reading { at, nanoseconds, rate });
        }
        Cpu { time: at.to_string(), usage_nano_cores: rate, usage_core_nano_seconds: Some(nanoseconds), psi: None }
    }
}

/// How much is to be found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// CPU and memory.
    Basic,
    /// File systems, volumes, networks and processes as well.
    All,
}

/// Reads it all. `pods` are those that may run.
pub async fn collect(node: &Node, pods: &[Arc<Pod>], detail: Detail) -> Result<Summary> {
    let runtime = node.runtime.as_ref();
    let (stats, containers) = tokio::try_join!(runtime.container_stats(), runtime.list_containers(&[]))?;
    let images = node.vitals.meter.image_root(runtime).await;
    let told = match node.csi.as_ref().filter(|_| detail == Detail::All) {
        Some(csi) => csi.usages().await,
        None => Usages::new(),
    };
    let reader = Reader { node, now: node.clock.now(), images, detail, told };
    let running: HashMap<&str, &cri::Container> =
        containers.iter().filter(|c| c.state == cri::ContainerState::ContainerRunning as i32).map(|c| (c.id.as_str(), c)).collect();
    let mut by_pod: BTreeMap<&str, Vec<(&cri::ContainerStats, &cri::Container)>> = BTreeMap::new();
    for stat in &stats {
        let Some(container) = stat.attributes.as_ref().and_then(|a| running.get(a.id.as_str())) else { continue };
        let uid = container.labels.get(POD_UID).map_or("", String::as_str);
        by_pod.entry(uid).or_default().push((stat, container));
    }
    // Walking directories takes its time; the threads that answer requests have better things to do.
    let read = || Summary {
        node: reader.node_stats(),
        pods: pods.iter().filter_map(|pod| Some(reader.pod(pod, by_pod.get(identity::uid(pod))?))).collect(),
    };
    Ok(if tokio::runtime::Handle::current().runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread {
        tokio::task::block_in_place(read)
    } else {
        read()
    })
}

struct Reader<'a> {
    node: &'a Node,
    now: Timestamp,
    images: Option<PathBuf>,
    detail: Detail,
    /// What drivers say of their volumes.
    told: Usages,
}

fn positive(amount: i64) -> Option<u64> {
    u64::try_from(amount).ok()
}

impl Reader<'_> {
    fn time(&self) -> String {
        self.now.to_string()
    }

    fn all(&self) -> bool {
        self.detail == Detail::All
    }

    fn filesystem(&self, path: &Path) -> Option<Filesystem> {
        disk::filesystem(path).ok()
    }

    /// A file system, with how much of it something takes; all that is taken where nobody says.
    fn fs(&self, on: Option<Filesystem>, used: Option<(u64, u64)>) -> Fs {
        let on = on.unwrap_or_default();
        Fs {
            time: self.time(),
            available_bytes: positive(on.bytes.available),
            capacity_bytes: positive(on.bytes.capacity),
            used_bytes: used.map(|u| u.0).or(positive(on.used)),
            inodes_free: positive(on.inodes.available),
            inodes: positive(on.inodes.capacity),
            inodes_used: used.map(|u| u.1).or(positive(on.inodes.capacity - on.inodes.available)),
        }
    }

    fn memory(&self, memory: &cgroup::Memory, whole: Option<u64>) -> Memory {
        Memory {
            time: self.time(),
            available_bytes: whole.or(memory.limit).map(|most| most.saturating_sub(memory.working_set)),
            usage_bytes: Some(memory.usage),
            working_set_bytes: Some(memory.working_set),
            rss_bytes: memory.rss,
            page_faults: memory.page_faults,
            major_page_faults: memory.major_page_faults,
            psi: None,
        }
    }

    fn group(&self, key: &str, group: &Group) -> (Option<Cpu>, Option<Memory>) {
        let cpu = group.cpu().map(|nanos| self.node.vitals.meter.cpu(key, nanos, self.now));
        (self.with_pressure(cpu, group), group.memory().map(|m| Memory { psi: group.pressure("memory"), ..self.memory(&m, None) }))
    }

    fn with_pressure(&self, cpu: Option<Cpu>, group: &Group) -> Option<Cpu> {
        cpu.map(|cpu| Cpu { psi: group.pressure("cpu"), ..cpu })
    }

    /// How long was waited for the disk, where the kernel tells.
    fn io(&self, group: &Group) -> Option<Io> {
        group.pressure("io").map(|psi| Io { time: self.time(), psi: Some(psi) })
    }

    fn node_stats(&self) -> NodeStats {
        let facts = &self.node.facts;
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let start_time = boot_time(&read("/proc/stat")).unwrap_or(self.now).to_string();
        let Some(cgroups) = &self.node.cgroups else {
            return NodeStats { node_name: facts.name.clone(), start_time, ..Default::default() };
        };
        let machine = cgroups.machine();
        let cpu = machine.cpu().unwrap_or_else(|| cpu_time(&read("/proc/stat")));
        let memory = sample::machine_memory(&machine);
        let (pods_cpu, pods_memory) = self.group("pods", &cgroups.all_pods());
        let pods = ContainerStats {
            name: "pods".into(),
            start_time: start_time.clone(),
            cpu: pods_cpu,
            memory: pods_memory,
            io: self.io(&cgroups.all_pods()),
            ..Default::default()
        };
        let mut stats = NodeStats {
            node_name: facts.name.clone(),
            system_containers: vec![pods],
            cpu: self.with_pressure(Some(self.node.vitals.meter.cpu("", cpu, self.now)), &machine),
            memory: Some(Memory { psi: machine.pressure("memory"), ..self.memory(&memory, positive(facts.memory)) }),
            io: self.io(&machine),
            swap: swap(&read("/proc/meminfo"), &self.time()),
            start_time,
            ..Default::default()
        };
        if let Some(own) = own_group(&read("/proc/self/cgroup")) {
            let group = cgroups.at(Path::new(own.trim_start_matches('/')));
            let (cpu, memory) = self.group("kubelet", &group);
            stats.system_containers.push(ContainerStats {
                name: "kubelet".into(),
                start_time: stats.start_time.clone(),
                cpu,
                memory,
                ..Default::default()
            });
        }
        if !self.all() {
            return stats;
        }
        stats.network = network::network(&read("/proc/net/dev"), &self.time());
        if let Some(places) = &self.node.places {
            stats.fs = Some(self.fs(self.filesystem(&places.root), None));
        }
        let image_fs = self.images.as_deref().map(|path| self.fs(self.filesystem(path), None));
        stats.runtime = Some(RuntimeStats { container_fs: image_fs.clone(), image_fs });
        stats.rlimit = sample::processes().map(|(curproc, maxpid)| Rlimit { time: self.time(), maxpid, curproc });
        stats
    }

    fn pod(&self, pod: &Pod, containers: &[(&cri::ContainerStats, &cri::Container)]) -> PodStats {
        let (uid, name, namespace) = (identity::uid(pod), identity::name(pod), identity::namespace(pod));
        let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map_or(self.now, |t| t.0);
        let reference = PodReference { name: name.into(), namespace: namespace.into(), uid: uid.into() };
        let group = self.node.cgroups.as_ref().map(|c| c.of_pod(pod));
        let (cpu, memory) = group.as_ref().map_or((None, None), |group| self.group(uid, group));
        let places = self.node.places.as_ref();
        let logs = places.map(|p| p.logs.join(identity::log_directory(namespace, name, uid)));
        let containers: Vec<_> =
            containers.iter().map(|(stats, container)| self.container(stats, container, group.as_ref(), logs.as_deref())).collect();
        let (io, swap) = (group.as_ref().and_then(|group| self.io(group)), total_swap(&containers));
        let start_time = started.to_string();
        let mut out = PodStats { pod_ref: reference, start_time, containers, cpu, memory, io, swap, ..Default::default() };
        if !self.all() {
            return out;
        }
        out.process_stats = group.as_ref().and_then(Group::processes).map(|process_count| Processes { process_count });
        let own_network = pod.spec.as_ref().and_then(|s| s.host_network) != Some(true);
        let process = group.as_ref().filter(|_| own_network).and_then(Group::some_process);
        out.network = process.and_then(|pid| network::network(&fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?, &self.time()));
        if let Some(places) = places {
            out.volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter_map(|v| self.volume(places, pod, v)).collect();
            let taken = |fs: Option<&Fs>| Fs::taken(fs);
            let own = disk::tree(&setup::pod_dir(&places.root, uid).join("etc-hosts"));
            let parts = out.containers.iter().flat_map(|c| [taken(c.rootfs.as_ref()), taken(c.logs.as_ref())]);
            let volumes = out.volumes.iter().filter(|v| v.ephemeral).map(|v| taken(Some(&v.fs)));
            let (bytes, inodes) = parts.chain(volumes).fold((own.bytes, own.inodes), |sum, part| (sum.0 + part.0, sum.1 + part.1));
            out.ephemeral_storage = Some(self.fs(self.filesystem(&places.root), Some((bytes, inodes))));
        }
        out
    }

    fn container(
        &self,
        stats: &cri::ContainerStats,
        container: &cri::Container,
        pod: Option<&Group>,
        logs: Option<&Path>,
    ) -> ContainerStats {
        let group = pod.and_then(|pod| pod.of_container(&container.id));
        let pressure = |of: &str| group.as_ref().and_then(|group| group.pressure(of));
        let name = container.labels.get(CONTAINER_NAME).cloned().unwrap_or_default();
        let time = |nanos: i64| Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(self.now).to_string();
        let value = |v: &Option<cri::UInt64Value>| v.as_ref().map(|v| v.value);
        let known = |v: &Option<cri::UInt64Value>| value(v).filter(|v| *v > 0);
        let at = |nanos: i64| Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(self.now);
        let cpu = stats.cpu.as_ref().map(|cpu| {
            let total = value(&cpu.usage_core_nano_seconds).unwrap_or(0);
            let metered = self.node.vitals.meter.cpu(&container.id, total, at(cpu.timestamp));
            Cpu { usage_nano_cores: value(&cpu.usage_nano_cores).or(metered.usage_nano_cores), psi: pressure("cpu"), ..metered }
        });
        let memory = stats.memory.as_ref().map(|memory| Memory {
            time: time(memory.timestamp),
            available_bytes: known(&memory.available_bytes),
            usage_bytes: known(&memory.usage_bytes),
            working_set_bytes: value(&memory.working_set_bytes),
            rss_bytes: known(&memory.rss_bytes),
            page_faults: value(&memory.page_faults),
            major_page_faults: value(&memory.major_page_faults),
            psi: pressure("memory"),
        });
        let swap = stats.swap.as_ref().map(|swap| Swap {
            time: time(swap.timestamp),
            swap_available_bytes: value(&swap.swap_available_bytes),
            swap_usage_bytes: value(&swap.swap_usage_bytes),
        });
        let mut out = ContainerStats {
            start_time: time(container.created_at),
            cpu,
            memory,
            io: group.as_ref().and_then(|group| self.io(group)),
            swap,
            id: container.id.clone(),
            image: container
                .image
                .as_ref()
                .map(|i| if i.user_specified_image.is_empty() { i.image.clone() } else { i.user_specified_image.clone() })
                .unwrap_or_default(),
            ..Default::default()
        };
        if self.all() {
            let layer = stats.writable_layer.as_ref();
            let used = layer.map(|l| (value(&l.used_bytes).unwrap_or(0), value(&l.inodes_used).unwrap_or(0)));
            out.rootfs = used.map(|used| self.fs(self.images.as_deref().and_then(|p| self.filesystem(p)), Some(used)));
            out.logs = logs.map(|logs| {
                let tree = disk::tree(&logs.join(&name));
                self.fs(self.filesystem(logs), Some((tree.bytes, tree.inodes)))
            });
        }
        out.name = name;
        out
    }

    /// One volume of a pod; `None` for those that nobody measures, as a path of the node's.
    fn volume(&self, places: &Places, pod: &Pod, volume: &Volume) -> Option<VolumeStats> {
        let claim = volume.persistent_volume_claim.as_ref().map(|c| c.claim_name.clone());
        let generic = volume.ephemeral.as_ref().map(|_| format!("{}-{}", identity::name(pod), volume.name));
        let claimed = claim.or(generic).map(|name| PvcReference { name, namespace: identity::namespace(pod).into() });
        if let Some(told) = self.told.get(&(identity::uid(pod).to_owned(), volume.name.clone())) {
            return Some(VolumeStats { name: volume.name.clone(), fs: told_fs(told, self.time()), pvc_ref: claimed, ephemeral: false });
        }
        let volumes = setup::pod_dir(&places.root, identity::uid(pod)).join("volumes");
        let kinds = fs::read_dir(volumes).ok()?;
        let path = kinds.flatten().map(|kind| kind.path().join(&volume.name)).find(|path| path.is_dir())?;
        let in_memory = volume.empty_dir.as_ref().is_some_and(|e| e.medium.as_deref() == Some("Memory"));
        let ephemeral = (volume.empty_dir.is_some() && !in_memory) || volume.config_map.is_some();
        // What has a file system of its own is measured by it.
        let own = disk::are_apart(&path, path.parent().unwrap_or(&path));
        let used = (!own).then(|| disk::tree(&path)).map(|tree| (tree.bytes, tree.inodes));
        let fs = self.fs(self.filesystem(&path), used);
        Some(VolumeStats { name: volume.name.clone(), fs, pvc_ref: claimed, ephemeral })
    }
}

/// A volume by its driver's word.
fn told_fs(told: &[VolumeUsage], time: String) -> Fs {
    const BYTES: i32 = 1;
    const INODES: i32 = 2;
    let of = |unit: i32| told.iter().find(|usage| usage.unit == unit);
    let bytes = |part: fn(&VolumeUsage) -> i64| of(BYTES).map(part).and_then(positive);
    let inodes = |part: fn(&VolumeUsage) -> i64| of(INODES).map(part).and_then(positive);
    Fs {
        time,
        available_bytes: bytes(|u| u.available),
        capacity_bytes: bytes(|u| u.total),
        used_bytes: bytes(|u| u.used),
        inodes_free: inodes(|u| u.available),
        inodes: inodes(|u| u.total),
        inodes_used: inodes(|u| u.used),
    }
}

/// What all containers of a pod use of the swap, where the runtime tells.
fn total_swap(containers: &[ContainerStats]) -> Option<Swap> {
    let told = containers.iter().filter_map(|container| container.swap.as_ref());
    told.cloned().reduce(|sum, one| {
        let add = |a: Option<u64>, b: Option<u64>| Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0)));
        Swap {
            time: sum.time.max(one.time),
            swap_available_bytes: add(sum.swap_available_bytes, one.swap_available_bytes),
            swap_usage_bytes: add(sum.swap_usage_bytes, one.swap_usage_bytes),
        }
    })
}

/// The cgroup this process is in, if that is not the machine's own.
pub fn own_group(text: &str) -> Option<&str> {
    let line = text.lines().find(|l| l.starts_with("0::") || l.split(':').nth(1).is_some_and(|c| c.split(',').any(|c| c == "memory")))?;
    line.splitn(3, ':').nth(2).filter(|path| *path != "/")
}

/// When the machine was started.
fn boot_time(stat: &str) -> Option<Timestamp> {
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Timestamp::from_second(seconds).ok()
}

/// CPU time of the whole machine in nanoseconds: the kernel counts in hundredths of a second for user space, whatever its own clock.
fn cpu_time(stat: &str) -> u64 {
    let fields: Vec<u64> = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    // The fourth and fifth are idle time, and what comes after the eighth is in the first two already.
    let busy: u64 = fields.iter().enumerate().filter(|(i, _)| *i != 3 && *i != 4 && *i < 8).map(|(_, v)| v).sum();
    busy * 10_000_000
}

fn swap(meminfo: &str, time: &str) -> Option<Swap> {
    let kib = |key: &str| meminfo.lines().find_map(|l| l.strip_prefix(key)?.split_whitespace().next()?.parse::<u64>().ok());
    let (total, free) = (kib("SwapTotal:")?, kib("SwapFree:")?);
    Some(Swap { time: time.to_owned(), swap_available_bytes: Some(free * 1024), swap_usage_bytes: Some((total - free.min(total)) * 1024) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_need_two_readings_a_second_apart() {
        let meter = Meter::default();
        let at = |millis| Timestamp::from_millisecond(millis).expect("a time");
        assert_eq!(meter.cpu("a", 1_000, at(0)).usage_nano_cores, None);
        assert_eq!(meter.cpu("a", 9_000, at(500)).usage_nano_cores, None, "too soon");
        assert_eq!(meter.cpu("a", 500_001_000, at(2000)).usage_nano_cores, Some(250_000_000));
        assert_eq!(meter.cpu("a", 500_002_000, at(2100)).usage_nano_cores, Some(250_000_000), "the last rate stands");
        assert_eq!(meter.cpu("b", 1, at(2100)).usage_nano_cores, None);
    }

    #[test]
    fn the_kernels_files_are_read() {
        assert_eq!(cpu_time("cpu  100 1 20 5000 300 0 4 0 7 0\n"), 1_250_000_000);
        assert_eq!(boot_time("cpu 1\nbtime 60\n"), Timestamp::from_second(60).ok());
        assert_eq!(own_group("9:memory:/a/b\n0::/c\n"), Some("/a/b"));
        assert_eq!(own_group("0::/\n"), None);
        assert_eq!(swap("SwapTotal: 4 kB\nSwapFree: 3 kB\n", "t").and_then(|s| s.swap_usage_bytes), Some(1024));
    }
}
