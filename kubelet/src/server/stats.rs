//! What monitoring reads: `/stats/summary`, `/metrics/resource` and `/metrics` (upstream: `pkg/kubelet/server/stats`, `pkg/kubelet/metrics`).
//!
//! Numbers of containers are the runtime's; the node's come from `/proc`. Left out: file systems, networks and upstream's many internal histograms.

use super::Shared;
use crate::container::identity::{CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID};
use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use k8s_cri::v1::ContainerStats;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fmt::Write};

/// One container's use.
struct Usage {
    labels: BTreeMap<&'static str, String>,
    at: i64,
    cpu_nanoseconds: u64,
    cpu_nanocores: Option<u64>,
    memory: u64,
}

fn usage(stats: &ContainerStats) -> Option<Usage> {
    let labels = &stats.attributes.as_ref()?.labels;
    let label = |key: &str| labels.get(key).cloned().unwrap_or_default();
    let cpu = stats.cpu.as_ref();
    Some(Usage {
        labels: BTreeMap::from([
            ("container", label(CONTAINER_NAME)),
            ("namespace", label(POD_NAMESPACE)),
            ("pod", label(POD_NAME)),
            ("uid", label(POD_UID)),
        ]),
        at: cpu.map_or(0, |c| c.timestamp),
        cpu_nanoseconds: cpu.and_then(|c| c.usage_core_nano_seconds.as_ref()).map_or(0, |v| v.value),
        cpu_nanocores: cpu.and_then(|c| c.usage_nano_cores.as_ref()).map(|v| v.value),
        memory: stats.memory.as_ref().and_then(|m| m.working_set_bytes.as_ref()).map_or(0, |v| v.value),
    })
}

async fn usages(shared: &Shared) -> Result<Vec<Usage>, Response> {
    let stats = shared.workers.node().runtime.container_stats().await;
    let stats = stats.map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response())?;
    // Containers that have ended have no numbers.
    Ok(stats.iter().filter_map(usage).filter(|u| u.at > 0).collect())
}

fn rfc3339(nanoseconds: i64) -> String {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

/// CPU time of the whole machine in nanoseconds, and its used memory in bytes.
fn machine_use() -> (u64, u64) {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    // The kernel counts in hundredths of a second for user space, whatever its own clock.
    let ticks: u64 = read("/proc/stat").lines().next().map_or(0, |line| {
        let fields: Vec<u64> = line.split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
        fields.iter().enumerate().filter(|(i, _)| *i != 3 && *i != 4 && *i < 8).map(|(_, v)| v).sum()
    });
    let meminfo = read("/proc/meminfo");
    let kib = |key: &str| {
        let line = meminfo.lines().find_map(|l| l.strip_prefix(key));
        line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
    };
    (ticks * 10_000_000, (kib("MemTotal:").saturating_sub(kib("MemAvailable:"))) * 1024)
}

/// `/stats/summary`.
pub async fn summary(State(shared): State<Shared>) -> Response {
    let usages = match usages(&shared).await {
        Ok(usages) => usages,
        Err(refusal) => return refusal,
    };
    let now = Timestamp::now().to_string();
    let mut pods: BTreeMap<String, Value> = BTreeMap::new();
    for usage in &usages {
        let label = |key: &str| usage.labels.get(key).cloned().unwrap_or_default();
        let time = rfc3339(usage.at);
        let pod = pods.entry(label("uid")).or_insert_with(|| {
            json!({"podRef": {"name": label("pod"), "namespace": label("namespace"), "uid": label("uid")}, "startTime": time, "containers": []})
        });
        let container = json!({
            "name": label("container"),
            "startTime": time,
            "cpu": {"time": time, "usageCoreNanoSeconds": usage.cpu_nanoseconds, "usageNanoCores": usage.cpu_nanocores},
            "memory": {"time": time, "workingSetBytes": usage.memory},
        });
        if let Some(containers) = pod["containers"].as_array_mut() {
            containers.push(container);
        }
    }
    let (cpu, memory) = machine_use();
    let node = json!({
        "nodeName": shared.workers.node().facts.name,
        "startTime": now,
        "cpu": {"time": now, "usageCoreNanoSeconds": cpu},
        "memory": {"time": now, "workingSetBytes": memory},
    });
    axum::Json(json!({"node": node, "pods": pods.into_values().collect::<Vec<_>>()})).into_response()
}

/// `/metrics/resource`: what the metrics server reads.
pub async fn resource_metrics(State(shared): State<Shared>) -> Response {
    let usages = match usages(&shared).await {
        Ok(usages) => usages,
        Err(refusal) => return refusal,
    };
    resource_text(&usages, machine_use()).into_response()
}

fn resource_text(usages: &[Usage], node: (u64, u64)) -> String {
    let mut out = String::new();
    let seconds = |nanoseconds: u64| nanoseconds as f64 / 1e9;
    let mut family = |name: &str, kind: &str, help: &str, rows: Vec<(String, String)>| {
        // Writing into a String cannot fail.
        let _ = writeln!(out, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}");
        for (labels, value) in rows {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    };
    let labels = |usage: &Usage| {
        let label = |key: &str| usage.labels.get(key).cloned().unwrap_or_default();
        format!("{{container={:?},namespace={:?},pod={:?}}}", label("container"), label("namespace"), label("pod"))
    };
    let rows = |value: &dyn Fn(&Usage) -> String| {
        usages.iter().map(|u| (labels(u), format!("{} {}", value(u), u.at / 1_000_000))).collect::<Vec<_>>()
    };
    family(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
        rows(&|u| seconds(u.cpu_nanoseconds).to_string()),
    );
    family("container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes", rows(&|u| u.memory.to_string()));
    family(
        "node_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the node in core-seconds",
        vec![(String::new(), seconds(node.0).to_string())],
    );
    family("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes", vec![(String::new(), node.1.to_string())]);
    out
}

/// `/metrics`: the kubelet itself.
pub async fn metrics(State(shared): State<Shared>) -> String {
    let pods = shared.workers.pods();
    let running = pods.iter().filter(|p| p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running")).count();
    format!(
        "# HELP kubelet_running_pods [ALPHA] Number of pods that have a running pod sandbox\n# TYPE kubelet_running_pods gauge\n\
         kubelet_running_pods {running}\n\
         # HELP kubelet_desired_pods [ALPHA] The number of pods the kubelet is being instructed to run\n# TYPE kubelet_desired_pods gauge\n\
         kubelet_desired_pods {}\n\
         # HELP kubelet_node_name [ALPHA] The node's name. The count is always 1.\n# TYPE kubelet_node_name gauge\n\
         kubelet_node_name{{node={:?}}} 1\n",
        pods.len(),
        shared.workers.node().facts.name,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_metrics_have_upstreams_names_and_labels() {
        let labels = BTreeMap::from([("container", "c".to_owned()), ("namespace", "ns".to_owned()), ("pod", "p".to_owned())]);
        let text =
            resource_text(&[Usage { labels, at: 5_000_000_000, cpu_nanoseconds: 1_500_000_000, cpu_nanocores: None, memory: 7 }], (0, 9));
        assert!(text.contains("container_cpu_usage_seconds_total{container=\"c\",namespace=\"ns\",pod=\"p\"} 1.5 5000\n"), "{text}");
        assert!(text.contains("node_memory_working_set_bytes 9\n"), "{text}");
    }
}
