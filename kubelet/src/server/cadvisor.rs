//! `/metrics/cadvisor`: the figures under the names that cAdvisor gives them, which is what dashboards and alerts ask for.
//!
//! One row of the table is a family of containers, pods and the node. Left out: families of hardware counters, of block devices and of the kernel's tables.

use super::{
    Shared,
    exposition::{Exposition, Kind, Sample},
    stats,
};
use crate::{
    container::identity,
    node::{
        Node,
        usage::{
            collect::Detail,
            pressure::Psi,
            summary::{Cpu, Fs, Interface, Io, Memory, Network, Summary},
        },
    },
};
use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use k8s_openapi::api::core::v1::Pod;
use std::{collections::HashMap, sync::Arc};

/// One thing that uses something: the machine, all pods, a pod, a container.
struct Row<'a> {
    container: &'a str,
    id: String,
    image: &'a str,
    name: &'a str,
    namespace: &'a str,
    pod: &'a str,
    start: &'a str,
    cpu: Option<&'a Cpu>,
    memory: Option<&'a Memory>,
    io: Option<&'a Io>,
    network: Option<&'a Network>,
    fs: Option<&'a Fs>,
    processes: Option<u64>,
}

impl Row<'_> {
    fn labels(&self) -> Vec<(&'static str, &str)> {
        vec![
            ("container", self.container),
            ("id", &self.id),
            ("image", self.image),
            ("name", self.name),
            ("namespace", self.namespace),
            ("pod", self.pod),
        ]
    }
}

/// Serves them.
pub async fn serve(State(shared): State<Shared>) -> Response {
    match stats::usage(&shared, Detail::All).await {
        Ok(summary) => {
            let node = shared.workers.node();
            let parent = |pod: &Arc<Pod>| {
                let cgroups = node.cgroups.as_ref()?;
                Some((identity::uid(pod).to_owned(), cgroups.pod_parent(pod)))
            };
            let parents = shared.workers.active().iter().filter_map(parent).collect();
            exposition(&summary, node, &parents).into_response()
        }
        Err(answer) => *answer,
    }
}

/// `parents`: the cgroups of pods by UID.
fn rows<'a>(summary: &'a Summary, parents: &HashMap<String, String>) -> Vec<Row<'a>> {
    let node = &summary.node;
    let none = Row {
        container: "",
        id: "/".into(),
        image: "",
        name: "",
        namespace: "",
        pod: "",
        start: &node.start_time,
        cpu: node.cpu.as_ref(),
        memory: node.memory.as_ref(),
        io: node.io.as_ref(),
        network: node.network.as_ref(),
        fs: node.fs.as_ref(),
        processes: None,
    };
    let mut rows = vec![none];
    for pod in &summary.pods {
        let reference = &pod.pod_ref;
        let id = parents.get(&reference.uid).cloned().unwrap_or_default();
        for container in &pod.containers {
            rows.push(Row {
                container: &container.name,
                id: format!("{id}/{}", container.id),
                image: &container.image,
                name: &container.id,
                namespace: &reference.namespace,
                pod: &reference.name,
                start: &container.start_time,
                cpu: container.cpu.as_ref(),
                memory: container.memory.as_ref(),
                io: container.io.as_ref(),
                network: None,
                fs: container.rootfs.as_ref(),
                processes: None,
            });
        }
        rows.push(Row {
            container: "",
            id,
            image: "",
            name: "",
            namespace: &reference.namespace,
            pod: &reference.name,
            start: &pod.start_time,
            cpu: pod.cpu.as_ref(),
            memory: pod.memory.as_ref(),
            io: pod.io.as_ref(),
            network: pod.network.as_ref(),
            fs: None,
            processes: pod.process_stats.map(|p| p.process_count),
        });
    }
    rows
}

/// A family of one figure for each row: its name, kind, help, and where the figure is, with its time.
type Family = (&'static str, Kind, &'static str, fn(&Row<'_>) -> Option<(f64, Option<i64>)>);

fn of_memory(row: &Row<'_>, pick: fn(&Memory) -> Option<u64>) -> Option<(f64, Option<i64>)> {
    let memory = row.memory?;
    Some((pick(memory)? as f64, stats::millis(&memory.time)))
}

fn of_fs(row: &Row<'_>, pick: fn(&Fs) -> Option<u64>) -> Option<(f64, Option<i64>)> {
    let fs = row.fs?;
    Some((pick(fs)? as f64, stats::millis(&fs.time)))
}

fn of_pressure<'a>(psi: Option<&'a Psi>, time: &str, pick: fn(&'a Psi) -> u64) -> Option<(f64, Option<i64>)> {
    Some((pick(psi?) as f64 / 1e6, stats::millis(time)))
}

fn waiting(psi: &Psi) -> u64 {
    psi.some.total
}

fn stalled(psi: &Psi) -> u64 {
    psi.full.total
}

const FAMILIES: &[Family] = &[
    (
        "container_memory_usage_bytes",
        Kind::Gauge,
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        |r| of_memory(r, |m| m.usage_bytes),
    ),
    ("container_memory_working_set_bytes", Kind::Gauge, "Current working set in bytes.", |r| of_memory(r, |m| m.working_set_bytes)),
    ("container_memory_rss", Kind::Gauge, "Size of RSS in bytes.", |r| of_memory(r, |m| m.rss_bytes)),
    ("container_fs_usage_bytes", Kind::Gauge, "Number of bytes that are consumed by the container on this filesystem.", |r| {
        of_fs(r, |f| f.used_bytes)
    }),
    ("container_fs_limit_bytes", Kind::Gauge, "Number of bytes that can be consumed by the container on this filesystem.", |r| {
        of_fs(r, |f| f.capacity_bytes)
    }),
    ("container_fs_inodes_free", Kind::Gauge, "Number of available Inodes", |r| of_fs(r, |f| f.inodes_free)),
    ("container_fs_inodes_total", Kind::Gauge, "Number of Inodes", |r| of_fs(r, |f| f.inodes)),
    (
        "container_pressure_cpu_waiting_seconds_total",
        Kind::Counter,
        "Total time duration tasks in the container have waited due to CPU congestion.",
        |r| r.cpu.and_then(|cpu| of_pressure(cpu.psi.as_ref(), &cpu.time, waiting)),
    ),
    (
        "container_pressure_cpu_stalled_seconds_total",
        Kind::Counter,
        "Total time duration no tasks in the container could make progress due to CPU congestion.",
        |r| r.cpu.and_then(|cpu| of_pressure(cpu.psi.as_ref(), &cpu.time, stalled)),
    ),
    (
        "container_pressure_memory_waiting_seconds_total",
        Kind::Counter,
        "Total time duration tasks in the container have waited due to memory congestion.",
        |r| r.memory.and_then(|memory| of_pressure(memory.psi.as_ref(), &memory.time, waiting)),
    ),
    (
        "container_pressure_memory_stalled_seconds_total",
        Kind::Counter,
        "Total time duration no tasks in the container could make progress due to memory congestion.",
        |r| r.memory.and_then(|memory| of_pressure(memory.psi.as_ref(), &memory.time, stalled)),
    ),
    (
        "container_pressure_io_waiting_seconds_total",
        Kind::Counter,
        "Total time duration tasks in the container have waited due to IO congestion.",
        |r| r.io.and_then(|io| of_pressure(io.psi.as_ref(), &io.time, waiting)),
    ),
    (
        "container_pressure_io_stalled_seconds_total",
        Kind::Counter,
        "Total time duration no tasks in the container could make progress due to IO congestion.",
        |r| r.io.and_then(|io| of_pressure(io.psi.as_ref(), &io.time, stalled)),
    ),
    ("container_threads", Kind::Gauge, "Number of threads running inside the container", |r| r.processes.map(|n| (n as f64, None))),
    ("container_start_time_seconds", Kind::Gauge, "Start time of the container since unix epoch in seconds.", |r| {
        stats::millis(r.start).map(|millis| (millis as f64 / 1000.0, None))
    }),
    ("container_last_seen", Kind::Gauge, "Last time a container was seen by the exporter", |r| {
        let at = stats::millis(&r.memory?.time)?;
        Some(((at / 1000) as f64, Some(at)))
    }),
];

/// A family of one figure for each interface.
type Traffic = (&'static str, &'static str, fn(&Interface) -> u64);

const TRAFFIC: &[Traffic] = &[
    ("container_network_receive_bytes_total", "Cumulative count of bytes received", |i| i.rx_bytes),
    ("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", |i| i.rx_errors),
    ("container_network_receive_packets_total", "Cumulative count of packets received", |i| i.rx_packets),
    ("container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving", |i| i.rx_dropped),
    ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |i| i.tx_bytes),
    ("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", |i| i.tx_errors),
    ("container_network_transmit_packets_total", "Cumulative count of packets transmitted", |i| i.tx_packets),
    ("container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting", |i| i.tx_dropped),
];

fn exposition(summary: &Summary, node: &Node, parents: &HashMap<String, String>) -> Exposition {
    let rows = rows(summary, parents);
    let mut out = Exposition::default();
    let info = &node.facts;
    let cpus = info.capacity.get("cpu").and_then(crate::container::resources::milli).unwrap_or(0);
    out.single("machine_cpu_cores", Kind::Gauge, "Number of logical CPU cores.", cpus as f64 / 1000.0);
    out.single("machine_memory_bytes", Kind::Gauge, "Amount of memory installed on the machine.", info.memory as f64);
    out.family(
        "container_cpu_usage_seconds_total",
        Kind::Counter,
        "Cumulative cpu time consumed in seconds.",
        rows.iter().filter_map(|row| {
            let cpu = row.cpu?;
            let mut labels = row.labels();
            labels.insert(1, ("cpu", "total"));
            Some((labels, cpu.usage_core_nano_seconds? as f64 / 1e9, stats::millis(&cpu.time)))
        }),
    );
    for (name, kind, help, figure) in FAMILIES {
        out.family(name, *kind, help, rows.iter().filter_map(|row| figure(row).map(|(value, at)| (row.labels(), value, at))));
    }
    for (name, help, figure) in TRAFFIC {
        let samples = rows.iter().flat_map(|row| {
            let interfaces = row.network.iter().flat_map(|network| network.interfaces.iter().map(|i| (i, stats::millis(&network.time))));
            interfaces.map(|(interface, at)| -> Sample<'_> {
                let mut labels = row.labels();
                labels.insert(3, ("interface", &interface.name));
                (labels, figure(interface) as f64, at)
            })
        });
        out.family(name, Kind::Counter, help, samples);
    }
    out.single("container_scrape_error", Kind::Gauge, "1 if there was an error while getting container metrics, 0 otherwise", 0.0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::usage::{
        pressure::Stall,
        summary::{ContainerStats, PodReference, PodStats},
    };

    #[test]
    fn containers_pods_and_the_node_have_rows() {
        let time = "1970-01-01T00:00:05Z".to_owned();
        let interface = Interface { name: "eth0".into(), rx_bytes: 7, ..Default::default() };
        let container = ContainerStats {
            name: "c".into(),
            id: "abc".into(),
            image: "i:1".into(),
            memory: Some(Memory { time: time.clone(), working_set_bytes: Some(3), ..Default::default() }),
            ..Default::default()
        };
        let pod = PodStats {
            pod_ref: PodReference { name: "p".into(), namespace: "ns".into(), uid: "u".into() },
            containers: vec![container],
            network: Some(Network { time, main: interface.clone(), interfaces: vec![interface] }),
            ..Default::default()
        };
        let summary = Summary { pods: vec![pod], ..Default::default() };
        let rows = rows(&summary, &HashMap::from([("u".to_owned(), "/podu".to_owned())]));
        assert_eq!(rows.iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), ["/", "/podu/abc", "/podu"]);
        let working_set = FAMILIES.iter().find(|f| f.0 == "container_memory_working_set_bytes").expect("a family");
        assert_eq!(rows.iter().map(|r| (working_set.3)(r)).collect::<Vec<_>>(), [None, Some((3.0, Some(5000))), None]);
        assert_eq!(rows[1].labels()[2], ("image", "i:1"));
        let stalls = Psi { some: Stall { total: 1_500_000, ..Default::default() }, ..Default::default() };
        let io = Io { time: "1970-01-01T00:00:05Z".into(), psi: Some(stalls) };
        let row = Row { io: Some(&io), ..rows.into_iter().next().expect("the machine's") };
        let figures = FAMILIES.iter().filter(|f| f.0.starts_with("container_pressure_")).map(|f| (f.3)(&row));
        assert_eq!(figures.collect::<Vec<_>>(), [None, None, None, None, Some((1.5, Some(5000))), Some((0.0, Some(5000)))]);
    }
}
