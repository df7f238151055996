//! Workloads by the hundred on simulated nodes: how long until many Deployments have settled, and until all of them run another image.

use crate::scale::processes;
use skiff_testing::{Cluster, Kubectl, eventually};
use std::time::Instant;

const NODES: &str = "100";
const REPLICAS: usize = 10;
const ROLLED: usize = 100;
const SETTLED: usize = 1000;
const PATIENCE: u64 = 600;

/// Prints the rows; makes and removes a cluster of its own.
pub fn measure() {
    let cluster = Cluster::private(7);
    cluster.up(&["--hollow", NODES]);
    let k = Kubectl::new(&cluster, cluster.binary("kubectl"), "workloads", "ours");
    settle(&k, ROLLED, "1");
    println!("| rolling update of {ROLLED} Deployments of {REPLICAS} pods | {:.2} s |", settle(&k, ROLLED, "2"));
    k.ok(&["delete", "deployments", "--all"]);
    eventually("the pods are gone", PATIENCE, || k.ok(&["get", "pods", "-o", "name"]).is_empty());
    println!("| {SETTLED} Deployments of {REPLICAS} pods on {NODES} simulated nodes settle | {:.2} s |", settle(&k, SETTLED, "1"));
    processes(&cluster, &format!("with {SETTLED} Deployments of {REPLICAS}"));
}

/// Applies so many Deployments and waits until all their pods are of this version and available, and no others are left: seconds since the first was sent.
fn settle(k: &Kubectl<'_>, count: usize, version: &str) -> f64 {
    let manifest: String = (0..count).map(|number| deployment(number, version)).collect();
    let shown = "jsonpath={range .items[*]}{.metadata.generation} {.status.observedGeneration} {.status.replicas} {.status.updatedReplicas} \
                 {.status.availableReplicas}{\"\\n\"}{end}";
    let begun = Instant::now();
    k.apply(&manifest);
    eventually("the Deployments settle", PATIENCE, || {
        let states = k.ok(&["get", "deployments", "-o", shown]);
        states.lines().count() == count && states.lines().all(settled)
    });
    begun.elapsed().as_secs_f64()
}

fn settled(state: &str) -> bool {
    let numbers: Vec<usize> = state.split(' ').filter_map(|number| number.parse().ok()).collect();
    matches!(numbers[..], [generation, observed, replicas, updated, available]
        if generation == observed && replicas == REPLICAS && updated == REPLICAS && available == REPLICAS)
}

fn deployment(number: usize, version: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: d{number}}}\nspec: {{replicas: {REPLICAS}, selector: {{matchLabels: {{app: d{number}}}}}, \
         template: {{metadata: {{labels: {{app: d{number}}}}}, spec: {{containers: [{{name: c, image: 'nginx:{version}'}}]}}}}}}\n---\n"
    )
}
