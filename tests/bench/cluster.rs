//! A whole cluster: from nothing to Ready, a pod from POST to Ready, and what its processes hold in memory.

use crate::scale::processes;
use skiff_testing::{Cluster, Kubectl, eventually};
use std::time::Instant;

const ROUNDS: usize = 20;

/// Prints the rows; makes and removes a cluster of its own, with real containers if it runs as root.
pub fn measure() {
    let cluster = Cluster::private(9);
    let real = nix::unistd::geteuid().is_root();
    let begun = Instant::now();
    cluster.up(if real { &["--local-images"] } else { &["--hollow", "1"] });
    println!("| deploy/up to Ready, binaries and images made before | {:.2} s |", begun.elapsed().as_secs_f64());
    let k = Kubectl::new(&cluster, cluster.binary("kubectl"), "bench", "ours");

    // The image is on the node once the first pod has run.
    let manifest = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{terminationGracePeriodSeconds: 0, containers: [{{name: c, image: 'busybox:1.28', imagePullPolicy: IfNotPresent, command: [sleep, '100000']}}]}}\n---\n"
        )
    };
    k.apply(&manifest("first"));
    k.until_ready("first");
    let ready_times = |names: &[String]| -> Vec<f64> {
        let mut watch =
            k.command(&["get", "pods", "-w", "-o", "jsonpath={.metadata.name} {.status.conditions[?(@.type==\"Ready\")].status}{\"\\n\"}"]);
        let mut watch = watch.stdout(std::process::Stdio::piped()).spawn().expect("kubectl starts");
        let text: String = names.iter().map(|n| manifest(n)).collect();
        let begun = Instant::now();
        k.apply(&text);
        let mut seen = Vec::new();
        for line in std::io::BufRead::lines(std::io::BufReader::new(watch.stdout.take().expect("it is piped"))) {
            let line = line.expect("text");
            if line.strip_suffix(" True").is_some_and(|n| names.iter().any(|w| w == n)) && !seen.iter().any(|(n, _)| *n == line) {
                seen.push((line, begun.elapsed().as_secs_f64()));
            }
            if seen.len() == names.len() {
                break;
            }
        }
        watch.kill().and_then(|()| watch.wait()).expect("it is ours");
        seen.into_iter().map(|(_, t)| t).collect()
    };
    let mut one: Vec<f64> = (0..ROUNDS).flat_map(|i| ready_times(&[format!("one-{i}")])).collect();
    one.sort_by(f64::total_cmp);
    println!("| pod, image present, apply to Ready, one at a time | p50 {:.2} s, max {:.2} s |", one[one.len() / 2], one[one.len() - 1]);
    let many: Vec<String> = (0..ROUNDS).map(|i| format!("many-{i}")).collect();
    let all = ready_times(&many).into_iter().fold(0.0, f64::max);
    println!("| {ROUNDS} pods at once on one node, all Ready | {all:.2} s |");
    k.ok(&["delete", "pods", "--all"]);
    eventually("the pods are gone", 60, || k.ok(&["get", "pods", "-o", "name"]).is_empty());

    processes(&cluster, &format!("after {} pods came and went", 2 * ROUNDS + 1));
}
