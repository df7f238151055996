//! A whole cluster: from nothing to Ready, pods from POST to Running and Ready beside what the runtime alone takes of that, and what the processes use with
//! nothing to do.

use crate::scale::processes;
use skiff_testing::{Cluster, Kubectl, eventually};
use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Instant;

/// Pods that are started one after the other.
const SINGLE: usize = 50;
/// Pods that are started together: as many as FIGURES has, and as many as fill a small node.
const TOGETHER: [usize; 2] = [20, 30];
/// Pods that run while nothing happens.
const IDLE: [usize; 2] = [30, 100];
/// The runtime's calls that stand between a pod and its start, in their order.
const CALLS: [&str; 4] = ["run_podsandbox", "image_status", "create_container", "start_container"];
/// How many pods are asked for in one request.
const PAGE: usize = 25;

/// When pods were seen, in seconds since they were asked for, from the quickest.
#[derive(Default)]
struct Seen {
    running: Vec<f64>,
    ready: Vec<f64>,
}

/// Prints the rows; makes and removes a cluster of its own, with real containers if it runs as root.
pub fn measure() {
    let cluster = Cluster::private(9);
    let real = nix::unistd::geteuid().is_root();
    let begun = Instant::now();
    cluster.up(if real { &["--local-images"] } else { &["--hollow", "1"] });
    println!("| deploy/up to Ready, binaries and images made before | {:.2} s |", begun.elapsed().as_secs_f64());
    let k = Kubectl::ours(&cluster, "bench");
    processes(&cluster, "with no pods of ours");

    // The image is on the node once the first pod has run.
    start(&k, &["first".to_owned()]);
    let before = metrics(&k);
    let mut single = Seen::default();
    for round in 0..SINGLE {
        let name = format!("one-{round}");
        let seen = start(&k, std::slice::from_ref(&name));
        single.running.extend(seen.running);
        single.ready.extend(seen.ready);
        k.ok(&["delete", "pod", &name]);
    }
    print("pod, image present, one at a time", single);
    shares(&before, &metrics(&k));
    for count in TOGETHER {
        let names: Vec<String> = (0..count).map(|i| format!("of-{count}-{i}")).collect();
        print(&format!("{count} pods at once on one node"), start(&k, &names));
        k.ok(&["delete", "pods", "--all"]);
        eventually("the pods are gone", 60, || k.ok(&["get", "pods", "-o", "name"]).is_empty());
    }
    processes(&cluster, &format!("after {} pods came and went", 1 + SINGLE + TOGETHER.iter().sum::<usize>()));
    let mut running = 0;
    for count in IDLE {
        for first in (running..count).step_by(PAGE) {
            start(&k, &(first..count.min(first + PAGE)).map(|i| format!("idle-{i}")).collect::<Vec<_>>());
        }
        running = count;
        processes(&cluster, &format!("with {count} pods"));
    }
}

fn manifest(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{terminationGracePeriodSeconds: 0, containers: [{{name: c, image: 'busybox:1.28', imagePullPolicy: IfNotPresent, command: [sleep, '100000']}}]}}\n---\n"
    )
}

/// Asks for the pods and watches until all are ready.
fn start(k: &Kubectl<'_>, names: &[String]) -> Seen {
    let shown = "jsonpath={.metadata.name} {.status.phase} {.status.conditions[?(@.type==\"Ready\")].status}{\"\\n\"}";
    let mut watch = k.command(&["get", "pods", "-w", "-o", shown]).stdout(Stdio::piped()).spawn().expect("kubectl starts");
    let text: String = names.iter().map(|name| manifest(name)).collect();
    let begun = Instant::now();
    k.apply(&text);
    let mut seen = Seen::default();
    let mut known = HashSet::new();
    for line in BufReader::new(watch.stdout.take().expect("it is piped")).lines() {
        let line = line.expect("text");
        let [name, phase, ready] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
        if !names.iter().any(|wanted| wanted == name) {
            continue;
        }
        for (reached, what, times) in [(phase == "Running", "Running", &mut seen.running), (ready == "True", "Ready", &mut seen.ready)] {
            if reached && known.insert((name.to_owned(), what)) {
                times.push(begun.elapsed().as_secs_f64());
            }
        }
        if seen.ready.len() == names.len() {
            break;
        }
    }
    watch.kill().and_then(|()| watch.wait()).expect("it is ours");
    seen
}

fn print(what: &str, seen: Seen) {
    for (word, mut times) in [("Running", seen.running), ("Ready", seen.ready)] {
        times.sort_by(f64::total_cmp);
        let at = |percent: usize| times[(times.len() - 1) * percent / 100];
        println!("| {what}, apply to {word} | p50 {:.2} s, p99 {:.2} s, all {:.2} s |", at(50), at(99), at(100));
    }
}

/// The kubelet's own metrics.
fn metrics(k: &Kubectl<'_>) -> String {
    let node = k.ok(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    k.ok(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/metrics")])
}

fn value(metrics: &str, name: &str) -> f64 {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0.0)
}

/// What of a pod's start was the runtime's, and what was the kubelet's: from its seeing the pod to its seeing it run, without the runtime's calls.
fn shares(before: &str, after: &str) {
    let grown = |name: &str| value(after, name) - value(before, name);
    let pods = grown("kubelet_pod_start_duration_seconds_count");
    let whole = grown("kubelet_pod_start_duration_seconds_sum") / pods;
    let of = |call: &str| grown(&format!("kubelet_runtime_operations_duration_seconds_sum{{operation_type=\"{call}\"}}")) / pods;
    let calls: Vec<String> = CALLS.iter().map(|call| format!("{call} {:.0}", of(call) * 1e3)).collect();
    let runtime: f64 = CALLS.iter().map(|call| of(call)).sum();
    println!(
        "| the kubelet's part of that, mean of {pods} | {:.0} ms of {:.0} ms; the runtime's calls in ms: {} |",
        (whole - runtime) * 1e3,
        whole * 1e3,
        calls.join(", ")
    );
}
