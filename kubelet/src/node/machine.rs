//! What the machine is: CPUs, memory, disk, ids, addresses. Read once at the start, from `/proc`, `/sys` and the kernel.

use super::eviction::threshold::{Amount, Threshold};
use crate::{config::KubeletConfiguration, container::resources::Amounts, pinning::cpu_set};
use api::quantity;
use k8s_openapi::{
    api::core::v1::{NodeSwapStatus, NodeSystemInfo},
    apimachinery::pkg::api::resource::Quantity,
};
use std::{collections::BTreeMap, fs, io, net::IpAddr, path::Path};

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Logical CPUs.
    pub cpus: i64,
    /// Memory in bytes.
    pub memory: i64,
    /// Swap in bytes.
    pub swap: i64,
    /// Size of the file system that the kubelet's root is on, in bytes.
    pub disk: i64,
    /// Sizes of huge pages in bytes, and how many of each there are.
    pub hugepages: BTreeMap<i64, i64>,
    /// Ids, kernel and system names.
    pub info: NodeSystemInfo,
}

fn read(path: &str) -> String {
    // A file that is not there leaves its field empty, as upstream does.
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// Reads it all. `root` is where the kubelet keeps its files.
pub fn inspect(root: &Path) -> io::Result<Machine> {
    let kernel = nix::sys::utsname::uname().map_err(io::Error::from)?;
    let text = |s: &std::ffi::OsStr| s.to_string_lossy().into_owned();
    let disk = nix::sys::statvfs::statvfs(root).map_err(io::Error::from)?;
    let disk = disk.fragment_size().saturating_mul(disk.blocks());
    let id = |list: &[&str]| list.iter().map(|p| read(p)).find(|s| !s.is_empty()).unwrap_or_default();
    let machine_id = id(&["/etc/machine-id", "/var/lib/dbus/machine-id"]);
    let meminfo = read("/proc/meminfo");
    let swap = kibibytes(&meminfo, "SwapTotal:");
    let info = NodeSystemInfo {
        architecture: go_arch(std::env::consts::ARCH).into(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        kernel_version: text(kernel.release()),
        kubelet_version: crate::VERSION.into(),
        // Upstream's kubelet leaves the proxy's version empty since v1.33; the field is still required.
        kube_proxy_version: String::new(),
        system_uuid: Some(id(&["/sys/class/dmi/id/product_uuid"])).filter(|s| !s.is_empty()).unwrap_or_else(|| machine_id.clone()),
        machine_id,
        operating_system: "linux".into(),
        swap: Some(swap).filter(|bytes| *bytes > 0).map(|bytes| NodeSwapStatus { capacity: Some(bytes) }),
        os_image: os_name(&read("/etc/os-release")),
        ..Default::default()
    };
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Machine {
        cpus: i64::try_from(cpus).unwrap_or(1),
        memory: kibibytes(&meminfo, "MemTotal:"),
        swap,
        disk: i64::try_from(disk).unwrap_or(i64::MAX),
        hugepages: hugepages(Path::new("/sys/kernel/mm/hugepages")),
        info,
    })
}

/// The machine's architecture in Go's words, which the API uses.
fn go_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

fn os_name(release: &str) -> String {
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".into(), |n| n.trim_matches('"').to_owned())
}

/// One of the amounts of `/proc/meminfo`, in bytes.
fn kibibytes(meminfo: &str, name: &str) -> i64 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix(name));
    let kib: i64 = total.and_then(|t| t.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0);
    kib * 1024
}

/// Whether the kernel enforces AppArmor profiles.
pub fn has_apparmor() -> bool {
    read("/sys/module/apparmor/parameters/enabled") == "Y"
}

/// What the configuration takes and gives of what the machine has.
#[derive(Clone, Debug, Default)]
pub struct Shares {
    /// How many pods fit.
    pub pods: i64,
    /// What is kept for the system and for Kubernetes, by resource (`systemReserved`, `kubeReserved`).
    pub reserved: BTreeMap<String, quantity::Quantity>,
    /// What has to stay free of memory and of the disk before pods are evicted.
    pub free: BTreeMap<&'static str, Amount>,
}

impl Shares {
    /// By the configuration.
    pub fn of(config: &KubeletConfiguration, thresholds: &[Threshold], cpus: i64) -> Result<Self, String> {
        let per_core = Some(config.pods_per_core).filter(|n| *n > 0).map(|n| n.saturating_mul(cpus));
        let mut reserved: BTreeMap<String, quantity::Quantity> = BTreeMap::new();
        // CPUs that are named (`reservedSystemCPUs`) go before amounts of them.
        let named = cpu_set::parse(&config.reserved_system_cpus).map_err(|error| format!("unable to parse reserved-cpus list: {error}"))?;
        if let Some(count) = i64::try_from(named.len()).ok().filter(|count| *count > 0) {
            reserved.insert("cpu".into(), quantity::Quantity::from_milli(count * 1000));
        }
        for (name, text) in config.system_reserved.iter().chain(&config.kube_reserved) {
            if !matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage" | "pid") {
                return Err(format!("cannot reserve {name:?} resource"));
            }
            if name == "cpu" && !named.is_empty() {
                continue;
            }
            let amount: quantity::Quantity = text.parse().map_err(|error: quantity::ParseError| error.to_string())?;
            if amount.sign() < 0 {
                return Err(format!("resource quantity for {name:?} cannot be negative: {text}"));
            }
            *reserved.entry(name.clone()).or_insert(quantity::Quantity::ZERO) += amount;
        }
        let hard = |signal: &str| thresholds.iter().find(|t| t.is_hard() && t.signal.name == signal).map(|t| t.value);
        let free = [("memory", hard("memory.available")), ("ephemeral-storage", hard("nodefs.available"))];
        Ok(Shares {
            pods: per_core.map_or(config.max_pods, |n| n.min(config.max_pods)),
            reserved,
            free: free.into_iter().filter_map(|(name, amount)| Some((name, amount?))).collect(),
        })
    }

    /// What of memory pods are not given, in bytes by kind: what is reserved, and what must stay free before pods are evicted.
    pub fn kept_memory(&self, whole: i64) -> BTreeMap<String, u64> {
        let kept = whole - self.for_pods("memory", whole) + self.free.get("memory").map_or(0, |amount| amount.of(whole));
        BTreeMap::from([("memory".to_owned(), u64::try_from(kept).unwrap_or(0))])
    }

    /// Of a resource, what pods together may use at most before the kernel stops them: all but what is reserved.
    pub fn for_pods(&self, name: &str, whole: i64) -> i64 {
        let reserved = self.reserved.get(name).copied().unwrap_or(quantity::Quantity::ZERO);
        let reserved = if name == "cpu" { reserved.milli_value() } else { reserved.value() };
        whole.saturating_sub(reserved).max(0)
    }
}

/// What the node has, as its status says it.
pub fn capacity(machine: &Machine, pods: i64) -> Amounts {
    let mut out: Amounts = [
        ("cpu", machine.cpus.to_string()),
        ("memory", binary(machine.memory)),
        ("ephemeral-storage", binary(machine.disk)),
        ("pods", pods.to_string()),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), Quantity(v)))
    .collect();
    for (size, pages) in &machine.hugepages {
        out.insert(format!("hugepages-{}", binary(*size)), Quantity(binary(size * pages)));
    }
    out
}

/// What of it is for pods: all but what is reserved and what must stay free before pods are evicted. Memory that is given to huge pages is no other memory.
pub fn allocatable(machine: &Machine, shares: &Shares) -> Amounts {
    let mut out = capacity(machine, shares.pods);
    out.insert("cpu".into(), quantity::Quantity::from_milli(shares.for_pods("cpu", machine.cpus * 1000)).into());
    let huge: i64 = machine.hugepages.iter().map(|(size, pages)| size * pages).sum();
    for (name, whole, less) in [("memory", machine.memory, huge), ("ephemeral-storage", machine.disk, 0)] {
        let free = shares.free.get(name).map_or(0, |amount| amount.of(whole));
        let left = shares.for_pods(name, whole).saturating_sub(free).saturating_sub(less).max(0);
        out.insert(name.into(), Quantity(binary(left)));
    }
    out
}

/// An amount as the API writes amounts of memory.
pub fn binary(amount: i64) -> String {
    quantity::Quantity::new(amount, quantity::Format::BinarySi).to_string()
}

/// Sizes of huge pages in bytes, and how many of each are set aside. `root` is where the kernel tells of them.
pub fn hugepages(root: &Path) -> BTreeMap<i64, i64> {
    let sizes = fs::read_dir(root).into_iter().flatten().flatten();
    let one = |entry: fs::DirEntry| {
        let size: i64 = entry.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let pages = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?.trim().parse().ok()?;
        Some((size * 1024, pages))
    };
    sizes.filter_map(one).collect()
}

/// The address that packets to elsewhere leave from: what the default route's interface has. Nothing is sent.
pub fn main_address() -> io::Result<IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // A documentation address (RFC 5737): connecting a UDP socket only looks the route up.
    match socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr()) {
        Ok(address) => Ok(address.ip()),
        // Without a default route the machine has itself at least.
        Err(_) => Ok(IpAddr::from([127, 0, 0, 1])),
    }
}

/// The machine's name, lower case, as node names are.
pub fn host_name() -> io::Result<String> {
    let name = nix::sys::utsname::uname().map_err(io::Error::from)?;
    Ok(name.nodename().to_string_lossy().trim().to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::eviction::threshold;
    use serde_json::json;

    #[test]
    fn amounts_are_told_in_the_apis_words() {
        assert_eq!(kibibytes("MemTotal:       24 kB\nMemFree: 1 kB", "MemTotal:"), 24 * 1024);
        assert_eq!(os_name("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"), "Debian GNU/Linux 12 (bookworm)");
        let machine = Machine { cpus: 2, memory: (1 << 30) + 1024, disk: 1000 * 1024, ..Default::default() };
        let all = capacity(&machine, 110);
        assert_eq!((all["cpu"].0.as_str(), all["memory"].0.as_str(), all["pods"].0.as_str()), ("2", "1048577Ki", "110"));
    }

    fn left(machine: &Machine, config: serde_json::Value) -> Amounts {
        let config: KubeletConfiguration = serde_json::from_value(config).expect("it can be read");
        let thresholds = threshold::parse(&config).expect("good ones");
        allocatable(machine, &Shares::of(&config, &thresholds, machine.cpus).expect("good amounts"))
    }

    #[test]
    fn pods_get_what_is_neither_reserved_nor_kept_free() {
        let hugepages = BTreeMap::from([(2 << 20, 4), (1 << 30, 0)]);
        let machine = Machine { cpus: 2, memory: 1 << 30, disk: 1000 * 1024, hugepages, ..Default::default() };
        let of = |amounts: &Amounts, names: [&str; 5]| names.map(|n| amounts[n].0.clone());
        let names = ["cpu", "memory", "ephemeral-storage", "pods", "hugepages-2Mi"];
        // 1 GiB less 100 MiB to stay free and 8 MiB of huge pages; a tenth of the disk.
        assert_eq!(of(&left(&machine, json!({})), names), ["2", "916Mi", "900Ki", "110", "8Mi"]);
        let config = json!({"systemReserved": {"cpu": "250m", "memory": "100Mi"}, "kubeReserved": {"cpu": "250m", "ephemeral-storage": "100Ki"},
            "evictionHard": {}, "podsPerCore": 10});
        assert_eq!(of(&left(&machine, config), names), ["1500m", "916Mi", "900Ki", "20", "8Mi"]);
        let named = json!({"systemReserved": {"cpu": "250m"}, "kubeReserved": {"cpu": "250m"}, "reservedSystemCPUs": "1"});
        assert_eq!(left(&machine, named)["cpu"].0, "1");
        let wrong: KubeletConfiguration = serde_json::from_value(json!({"kubeReserved": {"gold": "1"}})).expect("it can be read");
        assert_eq!(Shares::of(&wrong, &[], 1).err().as_deref(), Some("cannot reserve \"gold\" resource"));
    }

    #[test]
    fn huge_pages_are_counted_by_size() {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir(root.path().join("hugepages-2048kB")).expect("made");
        fs::write(root.path().join("hugepages-2048kB/nr_hugepages"), "3\n").expect("written");
        assert_eq!(hugepages(root.path()), BTreeMap::from([(2 << 20, 3)]));
    }
}
