//! Making a cluster, breaking it, getting it back, and leaving nothing behind.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skiff_testing::{Cluster, Kubectl, eventually};
use std::collections::BTreeSet;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};

fn lines(program: &str, arguments: &[&str]) -> BTreeSet<String> {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// What of a cluster could stay behind on the machine, named by what is unique to it.
fn traces(cluster: &Cluster, bridge: &str) -> Vec<String> {
    let run = cluster.run_dir().display().to_string();
    let mut found: Vec<String> = Vec::new();
    found.extend(lines("cat", &["/proc/self/mountinfo"]).into_iter().filter(|l| l.contains(&run)));
    found.extend(lines("ip", &["-o", "link"]).into_iter().filter(|l| l.contains(bridge)));
    found.extend(lines("find", &["/sys/fs/cgroup", "-type", "d", "-name", &format!("{bridge}*")]));
    found.extend(lines("ps", &["-eo", "args"]).into_iter().filter(|l| l.contains(&run) && !l.contains("ps -eo")));
    if cluster.run_dir().exists() {
        found.push(run);
    }
    found
}

fn bridge_of(cluster: &Cluster) -> String {
    let config = std::fs::read_to_string(cluster.run_dir().join("cni/10-skiff.conflist")).expect("deploy/up wrote it");
    let (_, rest) = config.split_once("\"bridge\": \"").expect("it names the bridge");
    rest.split('"').next().expect("a split has a first part").to_owned()
}

/// Proves DEP-01 and DEP-03: a cluster from nothing, killed whole and brought back with its state and its running containers, and gone without a trace.
#[test]
fn a_cluster_comes_back_after_kill_and_leaves_nothing_behind() {
    let cluster = Cluster::private(1);
    let printed = cluster.up(&["--local-images"]);
    assert!(printed.contains("Ready") && printed.contains("kubectl get nodes"), "{printed}");
    let again = cluster.up(&["--local-images"]);
    assert!(again.contains("runs already"), "{again}");
    let (running, status) = cluster.deploy("status", &[]);
    assert!(
        running && ["apiserver", "scheduler", "controller-manager", "kubelet", "containerd"].iter().all(|p| status.contains(p)),
        "{status}"
    );

    let k = Kubectl::new(&cluster, cluster.binary("kubectl"), "back", "ours");
    k.ok(&["run", "p", "--image=busybox:1.28", "--", "sleep", "100000"]);
    k.ok(&["create", "configmap", "kept", "--from-literal=k=v"]);
    k.until_ready("p");
    let uid = k.field("pod", "p", "{.metadata.uid}");
    let container = k.field("pod", "p", "{.status.containerStatuses[0].containerID}");

    let victims = cluster.processes();
    assert!(victims.len() >= 5, "{victims:?}");
    for (name, pid) in &victims {
        kill(Pid::from_raw(*pid), Signal::SIGKILL).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    eventually("all are dead", 10, || cluster.processes().is_empty());
    assert!(!cluster.deploy("status", &[]).0, "status sees that it is down");

    cluster.up(&["--local-images"]);
    assert_eq!(k.field("configmap", "kept", "{.data.k}"), "v");
    assert_eq!(k.field("pod", "p", "{.metadata.uid}"), uid);
    k.until_ready("p");
    let after = k.field("pod", "p", "{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}");
    assert_eq!(after, format!("{container} 0"), "the container ran on");
    k.ok(&["run", "q", "--image=busybox:1.28", "--", "sleep", "100000"]);
    k.until_ready("q");

    let bridge = bridge_of(&cluster);
    assert!(!traces(&cluster, &bridge).is_empty(), "the search finds a cluster that is there");
    // What a containerd leaves that is killed while it ends a shim: one that no other knows.
    let socket = cluster.run_dir().join("containerd/containerd.sock");
    let mut left = Command::new("bash");
    left.arg0("containerd-shim-runc-v2").args(["-c", "read", "-address"]).arg(socket).stdin(Stdio::piped());
    let mut left = left.spawn().expect("bash starts");
    let (ok, text) = cluster.deploy("down", &[]);
    assert!(ok, "{text}");
    assert_eq!(left.wait().expect("it is ours").signal(), Some(9));
    assert_eq!(traces(&cluster, &bridge), Vec::<String>::new());
}

/// Proves the part of DEP-01 that needs neither root nor containerd.
#[test]
fn hollow_nodes_need_no_containers() {
    let cluster = Cluster::private(2);
    cluster.up(&["--hollow", "3"]);
    let k = Kubectl::new(&cluster, cluster.binary("kubectl"), "hollow", "ours");
    assert_eq!(k.ok(&["get", "nodes", "-o", "name"]).lines().count(), 3);
    k.ok(&["create", "deployment", "d", "--image=any", "--replicas=6"]);
    k.until("deployment", "d", "{.status.availableReplicas}", "6");
    let nodes: BTreeSet<String> =
        k.ok(&["get", "pods", "-o", "jsonpath={range .items[*]}{.spec.nodeName}{\"\\n\"}{end}"]).lines().map(str::to_owned).collect();
    assert_eq!(nodes.len(), 3, "spread by score: {nodes:?}");
    assert!(!cluster.run_dir().join("containerd").exists());
}
