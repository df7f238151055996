//! What the machine is: CPUs, memory, disk, ids, addresses. Read once at the start, from `/proc`, `/sys` and the kernel.

use k8s_openapi::{api::core::v1::NodeSystemInfo, apimachinery::pkg::api::resource::Quantity};
use std::{collections::BTreeMap, fs, io, net::IpAddr, path::Path};

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Logical CPUs.
    pub cpus: i64,
    /// Memory in bytes.
    pub memory: i64,
    /// Size of the file system that the kubelet's root is on, in bytes.
    pub disk: i64,
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
        os_image: os_name(&read("/etc/os-release")),
        ..Default::default()
    };
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Machine {
        cpus: i64::try_from(cpus).unwrap_or(1),
        memory: memory_total(&read("/proc/meminfo")),
        disk: i64::try_from(disk).unwrap_or(i64::MAX),
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

fn memory_total(meminfo: &str) -> i64 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: i64 = total.and_then(|t| t.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0);
    kib * 1024
}

/// Whether the kernel enforces AppArmor profiles.
pub fn has_apparmor() -> bool {
    read("/sys/module/apparmor/parameters/enabled") == "Y"
}

/// What the node has, as its status says it.
pub fn capacity(machine: &Machine, max_pods: i64) -> BTreeMap<String, Quantity> {
    [
        ("cpu", machine.cpus.to_string()),
        ("memory", format!("{}Ki", machine.memory / 1024)),
        ("ephemeral-storage", format!("{}Ki", machine.disk / 1024)),
        ("hugepages-1Gi", "0".into()),
        ("hugepages-2Mi", "0".into()),
        ("pods", max_pods.to_string()),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), Quantity(v)))
    .collect()
}

/// What of it is for pods: all but what must stay free before pods are evicted (upstream's `evictionHard` defaults: 100 MiB of memory, a tenth of
/// the disk) and what is reserved.
pub fn allocatable(machine: &Machine, max_pods: i64, eviction: &crate::config::EvictionHard) -> BTreeMap<String, Quantity> {
    let mut out = capacity(machine, max_pods);
    let memory = machine.memory - eviction.memory_available.of(machine.memory);
    let disk = machine.disk - eviction.nodefs_available.of(machine.disk);
    out.insert("memory".into(), Quantity(format!("{}Ki", memory.max(0) / 1024)));
    out.insert("ephemeral-storage".into(), Quantity(disk.max(0).to_string()));
    out
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
    use crate::config::EvictionHard;

    #[test]
    fn amounts_are_told_in_the_apis_words() {
        assert_eq!(memory_total("MemTotal:       24 kB\nMemFree: 1 kB"), 24 * 1024);
        assert_eq!(os_name("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"), "Debian GNU/Linux 12 (bookworm)");
        let machine = Machine { cpus: 2, memory: 1 << 30, disk: 1000 * 1024, info: NodeSystemInfo::default() };
        let all = capacity(&machine, 110);
        assert_eq!((all["cpu"].0.as_str(), all["memory"].0.as_str(), all["pods"].0.as_str()), ("2", "1048576Ki", "110"));
        let left = allocatable(&machine, 110, &EvictionHard::default());
        assert_eq!((left["memory"].0.as_str(), left["ephemeral-storage"].0.as_str()), ("946176Ki", "921600"));
    }
}
