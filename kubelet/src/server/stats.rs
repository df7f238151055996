//! What monitoring reads of pods and the node: `/stats/summary` and `/metrics/resource` (upstream: `pkg/kubelet/server/stats`,
//! `pkg/kubelet/metrics/collectors/resource_metrics.go`). The figures are [`crate::node::usage`]'s.

use super::{
    Shared,
    exposition::{Exposition, Kind},
};
use crate::node::usage::{
    collect::{self, Detail},
    summary::{ContainerStats, Cpu, Memory, PodStats, Summary, Swap},
};
use axum::{
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use std::collections::HashMap;

/// The figures, or the answer to give without them.
pub async fn usage(shared: &Shared, detail: Detail) -> Result<Summary, Box<Response>> {
    let workers = &shared.workers;
    let collected = collect::collect(workers.node(), &workers.active(), detail).await;
    collected.map_err(|error| Box::new((StatusCode::INTERNAL_SERVER_ERROR, format!("Internal Error: {error}")).into_response()))
}

/// `/stats/summary`, and `?only_cpu_and_memory=true`.
pub async fn summary(State(shared): State<Shared>, Query(query): Query<HashMap<String, String>>) -> Response {
    let only = query.get("only_cpu_and_memory").is_some_and(|value| matches!(value.as_str(), "true" | "1"));
    match usage(&shared, if only { Detail::Basic } else { Detail::All }).await {
        Ok(summary) => axum::Json(summary.shown()).into_response(),
        Err(answer) => *answer,
    }
}

/// `/metrics/resource`: what the metrics server reads.
pub async fn resource_metrics(State(shared): State<Shared>) -> Response {
    match usage(&shared, Detail::Basic).await {
        Ok(summary) => resource(&summary).into_response(),
        Err(_) => {
            let mut out = Exposition::default();
            out.single("resource_scrape_error", Kind::Gauge, SCRAPE_ERROR, 1.0);
            out.into_response()
        }
    }
}

/// A time in milliseconds, as samples carry it.
pub fn millis(time: &str) -> Option<i64> {
    time.parse::<Timestamp>().ok().map(Timestamp::as_millisecond)
}

fn seconds(cpu: Option<&Cpu>) -> Option<(f64, Option<i64>)> {
    let cpu = cpu?;
    cpu.usage_core_nano_seconds.map(|nanos| (nanos as f64 / 1e9, millis(&cpu.time)))
}

fn working_set(memory: Option<&Memory>) -> Option<(f64, Option<i64>)> {
    let memory = memory?;
    memory.working_set_bytes.map(|bytes| (bytes as f64, millis(&memory.time)))
}

fn swapped(swap: Option<&Swap>) -> Figure {
    let swap = swap?;
    swap.swap_usage_bytes.map(|bytes| (bytes as f64, millis(&swap.time)))
}

type Figure = Option<(f64, Option<i64>)>;

fn resource(summary: &Summary) -> Exposition {
    let mut out = Exposition::default();
    let mut containers = |name: &str, kind: Kind, help: &str, figure: &dyn Fn(&ContainerStats) -> Figure| {
        let all = summary.pods.iter().flat_map(|pod| pod.containers.iter().map(move |container| (pod, container)));
        let samples = all.filter_map(|(pod, container)| {
            let (value, at) = figure(container)?;
            let pod = &pod.pod_ref;
            Some((vec![("container", container.name.as_str()), ("namespace", &pod.namespace), ("pod", &pod.name)], value, at))
        });
        out.family(name, kind, help, samples);
    };
    containers(
        "container_cpu_usage_seconds_total",
        Kind::Counter,
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
        &|c| seconds(c.cpu.as_ref()),
    );
    containers("container_memory_working_set_bytes", Kind::Gauge, "[STABLE] Current working set of the container in bytes", &|c| {
        working_set(c.memory.as_ref())
    });
    containers("container_start_time_seconds", Kind::Gauge, "[STABLE] Start time of the container since unix epoch in seconds", &|c| {
        let start = millis(&c.start_time)?;
        Some((start as f64 / 1000.0, None))
    });
    containers(
        "container_swap_usage_bytes",
        Kind::Gauge,
        "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
        &|c| swapped(c.swap.as_ref()),
    );
    let mut pods = |name: &str, kind: Kind, help: &str, figure: &dyn Fn(&PodStats) -> Figure| {
        let samples = summary.pods.iter().filter_map(|pod| {
            let (value, at) = figure(pod)?;
            Some((vec![("namespace", pod.pod_ref.namespace.as_str()), ("pod", &pod.pod_ref.name)], value, at))
        });
        out.family(name, kind, help, samples);
    };
    pods("pod_cpu_usage_seconds_total", Kind::Counter, "[STABLE] Cumulative cpu time consumed by the pod in core-seconds", &|p| {
        seconds(p.cpu.as_ref())
    });
    pods("pod_memory_working_set_bytes", Kind::Gauge, "[STABLE] Current working set of the pod in bytes", &|p| {
        working_set(p.memory.as_ref())
    });
    pods(
        "pod_swap_usage_bytes",
        Kind::Gauge,
        "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems",
        &|p| swapped(p.swap.as_ref()),
    );
    let mut node = |name: &str, kind: Kind, help: &str, figure: Figure| {
        out.family(name, kind, help, figure.map(|(value, at)| (Vec::new(), value, at)));
    };
    let stats = &summary.node;
    node(
        "node_cpu_usage_seconds_total",
        Kind::Counter,
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
        seconds(stats.cpu.as_ref()),
    );
    node(
        "node_memory_working_set_bytes",
        Kind::Gauge,
        "[STABLE] Current working set of the node in bytes",
        working_set(stats.memory.as_ref()),
    );
    node(
        "node_swap_usage_bytes",
        Kind::Gauge,
        "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems",
        swapped(stats.swap.as_ref()),
    );
    out.single("resource_scrape_error", Kind::Gauge, SCRAPE_ERROR, 0.0);
    out
}

const SCRAPE_ERROR: &str = "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::usage::summary::PodReference;

    #[test]
    fn resource_metrics_have_upstreams_names_and_labels() {
        let time = "1970-01-01T00:00:05Z".to_owned();
        let cpu = Some(Cpu { time: time.clone(), usage_core_nano_seconds: Some(1_500_000_000), ..Default::default() });
        let memory = Some(Memory { time: time.clone(), working_set_bytes: Some(9), ..Default::default() });
        let container = ContainerStats { name: "c".into(), start_time: time, cpu: cpu.clone(), memory: None, ..Default::default() };
        let swap = Swap { time: container.start_time.clone(), swap_usage_bytes: Some(4), ..Default::default() };
        let container = ContainerStats { swap: Some(swap), ..container };
        let reference = PodReference { name: "p".into(), namespace: "ns".into(), uid: "u".into() };
        let pod = PodStats { pod_ref: reference, containers: vec![container], memory, ..Default::default() };
        let mut summary = Summary { pods: vec![pod], ..Default::default() };
        summary.node.cpu = cpu;
        let text = resource(&summary).text();
        for line in [
            "container_cpu_usage_seconds_total{container=\"c\",namespace=\"ns\",pod=\"p\"} 1.5 5000\n",
            "container_start_time_seconds{container=\"c\",namespace=\"ns\",pod=\"p\"} 5\n",
            "container_swap_usage_bytes{container=\"c\",namespace=\"ns\",pod=\"p\"} 4 5000\n",
            "pod_memory_working_set_bytes{namespace=\"ns\",pod=\"p\"} 9 5000\n",
            "node_cpu_usage_seconds_total 1.5 5000\n",
            "resource_scrape_error 0\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(!text.contains("container_memory_working_set_bytes"), "what is not known is not told");
    }
}
