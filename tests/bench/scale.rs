//! The control plane at scale, on simulated nodes: how long a Deployment's pods take to appear, to run and to go, and what each process holds in
//! memory before and after. 110 pods fit on a node, as upstream's kubelet allows.

use crate::process::{memory, resident, usage};
use skiff_testing::{Cluster, Kubectl, eventually};
use std::time::{Duration, Instant};

const PODS_PER_NODE: usize = 100;
const STEP: usize = 1000;
const PATIENCE: u64 = 600;
const IDLE: Duration = Duration::from_secs(20);

/// Prints the rows for `pods` pods on as many simulated nodes, or as many as they need; makes and removes a cluster of its own.
pub fn measure(pods: usize, nodes: Option<usize>) {
    let cluster = Cluster::private(8);
    let nodes = nodes.unwrap_or_else(|| pods.div_ceil(PODS_PER_NODE));
    let begun = Instant::now();
    cluster.up(&["--hollow", &nodes.to_string()]);
    println!("| deploy/up with {nodes} simulated nodes to all Ready | {:.2} s |", begun.elapsed().as_secs_f64());
    let k = Kubectl::new(&cluster, cluster.binary("kubectl"), "scale", "ours");
    processes(&cluster, "fresh");
    let kubelet =
        || cluster.processes().into_iter().find(|(name, _)| name == "kubelet").map_or(0.0, |(_, pid)| resident(pid.cast_unsigned()));
    let empty = kubelet();

    k.ok(&["create", "deployment", "web", "--image", "nginx", "--replicas", "0"]);
    let reached = |field: &str, count: usize, begun: Instant| {
        let path = format!("{{.status.{field}}}");
        let wanted = if count == 0 { String::new() } else { count.to_string() };
        eventually(field, PATIENCE, || k.field("deployment", "web", &path) == wanted);
        begun.elapsed().as_secs_f64()
    };
    let begun = Instant::now();
    k.ok(&["scale", "deployment", "web", "--replicas", &STEP.min(pods).to_string()]);
    let objects = reached("replicas", STEP.min(pods), begun);
    let ready = reached("readyReplicas", STEP.min(pods), begun);
    println!("| Deployment 0 to {} pods | objects {objects:.2} s, all Ready {ready:.2} s |", STEP.min(pods));
    if pods > STEP {
        let begun = Instant::now();
        k.ok(&["scale", "deployment", "web", "--replicas", &pods.to_string()]);
        let ready = reached("readyReplicas", pods, begun);
        println!("| Deployment {STEP} to {pods} pods, all Ready | {ready:.2} s |");
    }
    processes(&cluster, &format!("with {pods} pods"));
    println!(
        "| memory of the kubelet of {nodes} simulated nodes | {:.1} KB a node without pods, {:.1} KB a pod |",
        empty * 1024.0 / nodes as f64,
        (kubelet() - empty) * 1024.0 / pods as f64
    );

    let begun = Instant::now();
    k.ok(&["delete", "namespace", &k.namespace]);
    println!("| delete a namespace with {pods} running pods | {:.2} s |", begun.elapsed().as_secs_f64());
    // The harness deletes its namespace again at the end.
    k.ok(&["create", "namespace", &k.namespace]);
}

/// Memory of each process, and what it uses of CPU and disk while nothing is asked of it.
pub fn processes(cluster: &Cluster, when: &str) {
    let before: Vec<_> =
        cluster.processes().into_iter().map(|(name, pid)| (name, pid.cast_unsigned(), usage(Some(pid.cast_unsigned())))).collect();
    std::thread::sleep(IDLE);
    for (name, pid, before) in before {
        let after = usage(Some(pid));
        println!(
            "| {name}, {when} | {}; idle {:.2} % of a core, {:.2} KB/s written |",
            memory(pid),
            (after.cpu - before.cpu) / IDLE.as_secs_f64() * 100.0,
            (after.written - before.written) as f64 / 1024.0 / IDLE.as_secs_f64(),
        );
    }
}
