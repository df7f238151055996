//! What a kubelet counts of its own work, under upstream's names (`pkg/kubelet/metrics`).
//!
//! Left out: what is counted per probe and per volume, and `kubelet_pod_start_sli_duration_seconds`, which would need to know what each pull took.

use crate::pod::actions::Role;
use client::metrics::{Buckets, Counters, Described, Histograms, head, sample};
use std::time::Duration;

/// See the module.
pub struct Metrics {
    operations: Histograms,
    operation_errors: Counters,
    /// From seeing a pod for the first time to seeing it run.
    pod_start: Histograms,
    pods: Counters,
    pod_errors: Counters,
    containers: Counters,
    container_errors: Counters,
    evictions: Counters,
}

const fn described(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Described {
    Described { name, help, stability: "ALPHA", labels }
}

/// As many as were timed.
const OPERATIONS_TOTAL: Described =
    described("kubelet_runtime_operations_total", "Cumulative number of runtime operations by operation type.", &["operation_type"]);

impl Default for Metrics {
    fn default() -> Self {
        Self {
            operations: Histograms::new(
                described(
                    "kubelet_runtime_operations_duration_seconds",
                    "Duration in seconds of runtime operations. Broken down by operation type.",
                    &["operation_type"],
                ),
                0.005,
                2.5,
                14,
            ),
            operation_errors: Counters::new(described(
                "kubelet_runtime_operations_errors_total",
                "Cumulative number of runtime operation errors by operation type.",
                &["operation_type"],
            )),
            pod_start: Histograms::with(
                described(
                    "kubelet_pod_start_duration_seconds",
                    "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run",
                    &[],
                ),
                Buckets::Listed(&[
                    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0,
                    900.0, 1200.0, 1800.0, 2700.0, 3600.0,
                ]),
            ),
            pods: Counters::new(described("kubelet_started_pods_total", "Cumulative number of pods started", &[])),
            pod_errors: Counters::new(described(
                "kubelet_started_pods_errors_total",
                "Cumulative number of errors when starting pods",
                &[],
            )),
            containers: Counters::new(described(
                "kubelet_started_containers_total",
                "Cumulative number of containers started",
                &["container_type"],
            )),
            container_errors: Counters::new(described(
                "kubelet_started_containers_errors_total",
                "Cumulative number of errors when starting containers",
                &["container_type", "code"],
            )),
            evictions: Counters::new(described(
                "kubelet_evictions",
                "Cumulative number of pod evictions by eviction signal",
                &["eviction_signal"],
            )),
        }
    }
}

/// What upstream's metrics call a list of containers.
fn container_type(role: Role) -> &'static str {
    match role {
        Role::Init => "init_container",
        Role::App => "container",
        Role::Ephemeral => "ephemeral_container",
    }
}

impl Metrics {
    /// A call of the runtime's has been answered.
    pub fn operation(&self, name: &'static str, took: Duration, failed: bool) {
        self.operations.observe(&[name], took.as_secs_f64());
        if failed {
            self.operation_errors.add(&[name]);
        }
    }

    /// A pod runs, so long after it was first seen.
    pub fn pod_runs(&self, after: Duration) {
        self.pod_start.observe(&[], after.as_secs_f64());
    }

    /// A sandbox was made, or could not be.
    pub fn sandbox(&self, failed: bool) {
        self.pods.add(&[]);
        if failed {
            self.pod_errors.add(&[]);
        }
    }

    /// A container was started, or could not be for this reason.
    pub fn container(&self, role: Role, failed: Option<&'static str>) {
        self.containers.add(&[container_type(role)]);
        if let Some(reason) = failed {
            self.container_errors.add(&[container_type(role), reason]);
        }
    }

    /// A pod was evicted for the sake of this signal.
    pub fn evicted(&self, signal: &'static str) {
        self.evictions.add(&[signal]);
    }

    /// The lines of all of them.
    pub fn write(&self, text: &mut String) {
        for histograms in [&self.operations, &self.pod_start] {
            histograms.write(text);
        }
        head(text, &OPERATIONS_TOTAL, "counter");
        for (labels, count) in self.operations.counts() {
            let labels: Vec<(&str, &str)> = OPERATIONS_TOTAL.labels.iter().copied().zip(labels.iter().map(String::as_str)).collect();
            sample(text, OPERATIONS_TOTAL.name, &labels, count);
        }
        let counters = [&self.operation_errors, &self.pods, &self.pod_errors, &self.containers, &self.container_errors, &self.evictions];
        for counters in counters {
            counters.write(text);
        }
    }
}
