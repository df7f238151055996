//! `/metrics`: the kubelet itself, under upstream's names: how it is now, and what it has counted ([`crate::metrics`]). Left out: what upstream's own libraries count.

use super::{
    Shared,
    exposition::{Exposition, Kind},
};
use axum::extract::State;
use k8s_cri::v1::{ContainerState, PodSandboxState};
use std::{collections::BTreeMap, fs};

/// Serves them.
pub async fn serve(State(shared): State<Shared>) -> Exposition {
    let mut out = Exposition::default();
    let workers = &shared.workers;
    let node = workers.node();
    let version = [("git_version", crate::VERSION), ("major", "1"), ("minor", "36"), ("platform", "linux")];
    out.family("kubernetes_build_info", Kind::Gauge, "[ALPHA] The version this is of", [(version.to_vec(), 1.0, None)]);
    out.family(
        "kubelet_node_name",
        Kind::Gauge,
        "[ALPHA] The node's name. The count is always 1.",
        [(vec![("node", node.facts.name.as_str())], 1.0, None)],
    );
    let is_static = |pod: &k8s_openapi::api::core::v1::Pod| crate::container::identity::is_static(pod);
    let pods = workers.pods();
    let statics = pods.iter().filter(|pod| is_static(pod)).count();
    out.family(
        "kubelet_desired_pods",
        Kind::Gauge,
        "[ALPHA] The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.",
        [(vec![("static", "")], (pods.len() - statics) as f64, None), (vec![("static", "true")], statics as f64, None)],
    );
    // Without the runtime's word there is no figure, which is what a missing family says.
    if let Ok(sandboxes) = node.runtime.list_sandboxes(&[]).await {
        let ready = sandboxes.iter().filter(|s| s.state == PodSandboxState::SandboxReady as i32).count();
        out.single("kubelet_running_pods", Kind::Gauge, "[ALPHA] Number of pods that have a running pod sandbox", ready as f64);
    }
    if let Ok(containers) = node.runtime.list_containers(&[]).await {
        let mut states: BTreeMap<&str, f64> = BTreeMap::new();
        for container in &containers {
            let state = match ContainerState::try_from(container.state) {
                Ok(ContainerState::ContainerRunning) => "running",
                Ok(ContainerState::ContainerExited) => "exited",
                Ok(ContainerState::ContainerCreated) => "created",
                _ => "unknown",
            };
            *states.entry(state).or_default() += 1.0;
        }
        let samples = states.iter().map(|(state, count)| (vec![("container_state", *state)], *count, None));
        out.family("kubelet_running_containers", Kind::Gauge, "[ALPHA] Number of containers currently running", samples);
    }
    out.append(|text| node.vitals.metrics.write(text));
    process(&mut out, &fs::read_to_string("/proc/self/stat").unwrap_or_default());
    out
}

/// Serves `/metrics/probes`: how often each probe was asked, and what came of it.
pub async fn probes(State(shared): State<Shared>) -> Exposition {
    let told = shared.workers.node().vitals.probes.told();
    let mut out = Exposition::default();
    let samples = told.iter().map(|(whose, result, count)| {
        let labels = vec![
            ("container", whose.container.as_str()),
            ("namespace", &whose.namespace),
            ("pod", &whose.pod),
            ("pod_uid", &whose.uid),
            ("probe_type", whose.kind),
            ("result", result),
        ];
        (labels, *count as f64, None)
    });
    let help = "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.";
    out.family("prober_probe_total", Kind::Counter, help, samples);
    out
}

/// What the process uses, out of its `stat` file.
fn process(out: &mut Exposition, stat: &str) {
    // The name, in parentheses, may hold anything; the figures come after it.
    let figures: Vec<f64> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    let figure = |at: usize| figures.get(at).copied().unwrap_or(0.0);
    // Hundredths of a second for user space, whatever the kernel's own clock; pages of 4 KiB.
    out.single(
        "process_cpu_seconds_total",
        Kind::Counter,
        "Total user and system CPU time spent in seconds.",
        (figure(10) + figure(11)) / 100.0,
    );
    out.single("process_resident_memory_bytes", Kind::Gauge, "Resident memory size in bytes.", figure(20) * 4096.0);
    out.single("process_virtual_memory_bytes", Kind::Gauge, "Virtual memory size in bytes.", figure(19));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_past_its_name() {
        let mut out = Exposition::default();
        process(&mut out, "7 (a b) c) S 1 7 7 0 -1 4 5 0 0 0 150 50 0 0 20 0 4 0 99 8192 3 18446744073709551615");
        let text = out.text();
        assert!(text.contains("process_cpu_seconds_total 2\n") && text.contains("process_resident_memory_bytes 12288\n"), "{text}");
    }
}
