//! Nothing of a deleted pod stays on its node.

use skiff_testing::{Cluster, Kubectl, eventually};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Rounds of pods at once: 100 in all.
const ROUNDS: usize = 10;
const AT_ONCE: usize = 10;

fn pods(round: usize) -> String {
    let one = |n: usize| {
        // One in ten has a port of the node, which leaves packet rules while it is there.
        let port = if n == 0 { ", ports: [{containerPort: 80, hostPort: 28080}]" } else { "" };
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p{round}-{n}, labels: {{round: r{round}}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
             containers: [{{name: c, image: \"busybox:1.28\", command: [sleep, \"1000\"], volumeMounts: [{{name: m, mountPath: /m}}, {{name: d, mountPath: /d, subPath: x}}]{port}}}]\n  \
             volumes: [{{name: m, emptyDir: {{medium: Memory}}}}, {{name: d, emptyDir: {{}}}}]\n"
        )
    };
    (0..AT_ONCE).map(one).collect::<Vec<_>>().join("---\n")
}

/// Where the network plugins keep what they gave.
const NETWORK_RESULTS: &str = "/var/lib/cni/results";

/// What on this machine carries one of the names: processes, mounts, links, packet rules, cgroups, addresses, the runtime's records, and files of the
/// kubelet, the runtime and the network plugins.
fn found(cluster: &Cluster, names: &BTreeSet<String>) -> Vec<String> {
    let named = |text: &str| names.iter().any(|name| text.contains(name.as_str()));
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let own = cluster.run_dir().display().to_string();
    let below = |dirs: &[&str]| {
        let dirs: Vec<String> = dirs.iter().map(|dir| format!("{own}/{dir}")).collect();
        let arguments: Vec<&str> = dirs.iter().map(String::as_str).chain(["-maxdepth", "6"]).collect();
        run("find", &arguments)
    };
    let listings = [
        ("process", run("ps", &["-eo", "args"])),
        ("mount", std::fs::read_to_string("/proc/self/mountinfo").expect("the kernel has it")),
        ("link", run("ip", &["-o", "link"])),
        ("packet rule", run("iptables-save", &[])),
        ("cgroup", run("find", &["/sys/fs/cgroup", "-type", "d"])),
        ("address", run("grep", &["-r", "", &format!("{own}/cni/addresses")])),
        ("container", cluster.ctr(&["containers", "ls"])),
        ("task", cluster.ctr(&["tasks", "ls"])),
        ("snapshot", cluster.ctr(&["snapshots", "ls"])),
        ("file of the kubelet", below(&["kubelet"])),
        ("log", below(&["pod-logs"])),
        ("file of the runtime", below(&["containerd/state", "containerd/root/io.containerd.grpc.v1.cri"])),
        ("file of the network", run("find", &[NETWORK_RESULTS, "/run/netns"])),
    ];
    let lines = listings.iter().flat_map(|(kind, text)| text.lines().map(move |line| (kind, line)));
    lines.filter(|(_, line)| named(line)).map(|(kind, line)| format!("{kind}: {line}")).collect()
}

/// What [`found`] looks through.
const KINDS: usize = 13;

/// The names of a sandbox's link and network namespace, from what the network plugin keeps while it is there.
fn network(sandbox: &str) -> Vec<String> {
    let results = Path::new(NETWORK_RESULTS);
    let files = std::fs::read_dir(results).into_iter().flatten().flatten().map(|e| e.path());
    let text: String = files.filter(|p| p.to_string_lossy().contains(sandbox)).filter_map(|p| std::fs::read_to_string(p).ok()).collect();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    words.filter(|w| w.starts_with("veth") || w.starts_with("cni-") && w.len() > 20).map(str::to_owned).collect()
}

/// Proves TRM-05.
#[test]
fn a_hundred_pods_leave_nothing_behind() {
    let cluster = Cluster::shared();
    let k = Kubectl::new(cluster, cluster.binary("kubectl"), "leftovers", "ours");
    let mut names: BTreeSet<String> = BTreeSet::new();
    for round in 0..ROUNDS {
        k.apply(&pods(round));
        let label = format!("round=r{round}");
        let get = |path: &str| k.ok(&["get", "pods", "-l", &label, "-o", &format!("jsonpath={path}")]);
        eventually("all of them run", 90, || get("{.items[*].status.phase}").split(' ').filter(|p| *p == "Running").count() == AT_ONCE);
        let uids = get("{.items[*].metadata.uid}");
        let before = names.len();
        for uid in uids.split(' ') {
            names.insert(uid.to_owned());
            for sandbox in cluster.containers(uid, "sandbox") {
                names.extend(network(&sandbox));
                names.insert(sandbox);
            }
            names.extend(cluster.containers(uid, "container"));
        }
        assert!(names.len() >= before + 5 * AT_ONCE, "each has a UID, a sandbox, a container, a link and a network namespace: {names:?}");
        if round == 0 {
            let kinds: BTreeSet<String> = found(cluster, &names).iter().map(|f| f[..f.find(':').unwrap_or(0)].to_owned()).collect();
            assert_eq!(kinds.len(), KINDS, "the search finds pods that are there: {kinds:?}");
        }
        k.ok(&["delete", "pods", "-l", &label, "--wait=false"]);
        eventually("all of them are gone", 90, || get("{.items[*].metadata.name}").is_empty());
    }
    let mut left = Vec::new();
    let clean = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while std::time::Instant::now() < clean {
        left = found(cluster, &names);
        if left.is_empty() {
            return;
        }
        std::thread::yield_now();
    }
    panic!("{} things are left: {:#?}", left.len(), &left[..left.len().min(20)]);
}
