//! The scheduler's metrics, under upstream's names (`pkg/scheduler/metrics`).
//!
//! Left out: how long pods wait to be permitted, which no plugin makes them; claims made for extended resources; batches, instead of which [`crate::memory`] knows equal pods; and the binder of
//! volumes' own counts.

use crate::queue::Pending;
use crate::state::Size;
use client::metrics::{Counters, Described, Histograms, head, sample};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// See the module's description.
pub struct Metrics {
    /// Time from the start of a try to its end, binding not included. Profile, result.
    pub attempts: Histograms,
    /// Time that filtering and scoring took.
    pub algorithm: Histograms,
    /// Time that all plugins of a point took. Point, status, profile.
    pub points: Histograms,
    /// Time that a plugin took, in some of the cycles. Plugin, point, status.
    pub plugins: Histograms,
    /// Time that a plugin took to say whether an event helps a pod, of some of the events. Plugin, event, what it said.
    pub hints: Histograms,
    /// Time that it took to take in a change of the cluster. Event.
    pub events: Histograms,
    /// Time that requests about pods took. Kind of request, result.
    pub calls: Histograms,
    /// Pods that found their node after they had waited for too long.
    pub after_flush: AtomicU64,
    /// Victims per preemption.
    pub victims: Histograms,
    /// Time from a pod's coming into the queue to its binding, gates not included. Tries.
    pub sli: Histograms,
    /// Tries that a pod needed.
    pub tries: Histograms,
    /// How often pods that fitted nowhere looked for room to make.
    pub preemptions: AtomicU64,
    /// How long it took to make it. Result.
    pub making_room: Histograms,
    /// Pods that came into a queue. Queue, event.
    pub incoming: Counters,
}

/// What is counted when asked for.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// Pods that wait.
    pub pending: Pending,
    /// What the scheduler knows.
    pub size: Size,
    /// Unschedulable pods by the plugin that refused them, and profile.
    pub refused: BTreeMap<(&'static str, String), usize>,
    /// Events that are kept for pods in flight, by name.
    pub events: BTreeMap<&'static str, usize>,
    /// Calls of plugins.
    pub evaluations: Vec<Evaluations>,
}

/// How often a plugin was called at a point.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The metric's labels.
pub struct Evaluations {
    pub plugin: &'static str,
    pub point: &'static str,
    pub profile: String,
    pub count: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            attempts: Histograms::new(
                Described {
                    name: "scheduler_scheduling_attempt_duration_seconds",
                    help: "Scheduling attempt latency in seconds (scheduling algorithm + binding)",
                    stability: "STABLE",
                    labels: &["profile", "result"],
                },
                0.001,
                2.0,
                15,
            ),
            algorithm: Histograms::new(
                Described {
                    name: "scheduler_scheduling_algorithm_duration_seconds",
                    help: "Scheduling algorithm latency in seconds",
                    stability: "ALPHA",
                    labels: &[],
                },
                0.001,
                2.0,
                15,
            ),
            points: Histograms::new(
                Described {
                    name: "scheduler_framework_extension_point_duration_seconds",
                    help: "Latency for running all plugins of a specific extension point.",
                    stability: "STABLE",
                    labels: &["extension_point", "status", "profile"],
                },
                0.0001,
                2.0,
                12,
            ),
            plugins: Histograms::new(
                Described {
                    name: "scheduler_plugin_execution_duration_seconds",
                    help: "Duration for running a plugin at a specific extension point.",
                    stability: "ALPHA",
                    labels: &["plugin", "extension_point", "status"],
                },
                0.00001,
                1.5,
                20,
            ),
            hints: Histograms::new(
                Described {
                    name: "scheduler_queueing_hint_execution_duration_seconds",
                    help: "Duration for running a queueing hint function of a plugin.",
                    stability: "ALPHA",
                    labels: &["plugin", "event", "hint"],
                },
                0.00001,
                1.5,
                20,
            ),
            events: Histograms::new(
                Described {
                    name: "scheduler_event_handling_duration_seconds",
                    help: "Event handling latency in seconds.",
                    stability: "ALPHA",
                    labels: &["event"],
                },
                0.0001,
                2.0,
                12,
            ),
            calls: Histograms::new(
                Described {
                    name: "scheduler_async_api_call_execution_duration_seconds",
                    help: "Duration in seconds for executing API call in the async dispatcher.",
                    stability: "ALPHA",
                    labels: &["call_type", "result"],
                },
                0.001,
                2.0,
                15,
            ),
            after_flush: AtomicU64::new(0),
            victims: Histograms::new(
                Described {
                    name: "scheduler_preemption_victims",
                    help: "Number of selected preemption victims",
                    stability: "STABLE",
                    labels: &[],
                },
                1.0,
                2.0,
                7,
            ),
            sli: Histograms::new(
                Described {
                    name: "scheduler_pod_scheduling_sli_duration_seconds",
                    help: "E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue and might involve multiple scheduling attempts.",
                    stability: "BETA",
                    labels: &["attempts"],
                },
                0.01,
                2.0,
                20,
            ),
            tries: Histograms::new(
                Described {
                    name: "scheduler_pod_scheduling_attempts",
                    help: "Number of attempts to successfully schedule a pod.",
                    stability: "STABLE",
                    labels: &[],
                },
                1.0,
                2.0,
                5,
            ),
            preemptions: AtomicU64::new(0),
            making_room: Histograms::new(
                Described {
                    name: "scheduler_preemption_goroutines_duration_seconds",
                    help: "Duration in seconds for running goroutines for the preemption.",
                    stability: "ALPHA",
                    labels: &["result"],
                },
                0.01,
                2.0,
                20,
            ),
            incoming: Counters::new(Described {
                name: "scheduler_queue_incoming_pods_total",
                help: "Number of pods added to scheduling queues by event and queue type.",
                stability: "STABLE",
                labels: &["queue", "event"],
            }),
        }
    }
}

const PENDING: &str = "Number of pending pods, by the queue type. 'active' means number of pods in activeQ; 'backoff' means number of pods in backoffQ; 'unschedulable' means number of pods in unschedulablePods that the scheduler attempted to schedule and failed; 'gated' is the number of unschedulable pods that the scheduler never attempted to schedule because they are gated.";

impl Metrics {
    /// A request about a pod has been answered: `pod_binding` or `pod_status_patch`.
    pub fn call<T, E>(&self, kind: &str, result: &Result<T, E>, took: Duration) {
        self.calls.observe(&[kind, if result.is_ok() { "success" } else { "error" }], took.as_secs_f64());
    }

    /// A try has ended: `scheduled`, `unschedulable` or `error`.
    pub fn attempt(&self, profile: &str, result: &str, took: Duration) {
        self.attempts.observe(&[profile, result], took.as_secs_f64());
    }

    /// In Prometheus's text format.
    pub fn text(&self, gauges: &Gauges) -> String {
        let mut text = String::new();
        let of_pods = [&self.attempts, &self.algorithm, &self.victims, &self.sli, &self.tries, &self.making_room, &self.calls];
        for histograms in of_pods.into_iter().chain([&self.points, &self.plugins, &self.hints, &self.events]) {
            histograms.write(&mut text);
        }
        self.incoming.write(&mut text);
        let describe = |text: &mut String, name, help, stability, kind| head(text, &Described { name, help, stability, labels: &[] }, kind);
        let name = "scheduler_schedule_attempts_total";
        let help = "Number of attempts to schedule pods, by the result. 'unschedulable' means a pod could not be scheduled, while 'error' means an internal scheduler problem.";
        describe(&mut text, name, help, "STABLE", "counter");
        for (labels, count) in self.attempts.counts() {
            let labels: Vec<(&str, &str)> = ["profile", "result"].into_iter().zip(labels.iter().map(String::as_str)).collect();
            sample(&mut text, name, &labels, count);
        }
        let name = "scheduler_preemption_goroutines_execution_total";
        describe(&mut text, name, "Number of preemption goroutines executed.", "ALPHA", "counter");
        for (labels, count) in self.making_room.counts() {
            let labels: Vec<(&str, &str)> = labels.iter().map(|result| ("result", result.as_str())).collect();
            sample(&mut text, name, &labels, count);
        }
        let name = "scheduler_async_api_call_execution_total";
        describe(&mut text, name, "Total number of API calls executed by the async dispatcher.", "ALPHA", "counter");
        for (labels, count) in self.calls.counts() {
            let labels: Vec<(&str, &str)> = ["call_type", "result"].into_iter().zip(labels.iter().map(String::as_str)).collect();
            sample(&mut text, name, &labels, count);
        }
        let name = "scheduler_pod_scheduled_after_flush_total";
        let help = "Number of pods that were successfully scheduled after being flushed from unschedulablePods due to timeout. This metric helps detect potential queueing hint misconfigurations or event handling issues.";
        describe(&mut text, name, help, "ALPHA", "counter");
        sample(&mut text, name, &[], self.after_flush.load(Ordering::Relaxed));
        let name = "scheduler_preemption_attempts_total";
        describe(&mut text, name, "Total preemption attempts in the cluster till now", "STABLE", "counter");
        sample(&mut text, name, &[], self.preemptions.load(Ordering::Relaxed));
        let name = "scheduler_pending_pods";
        describe(&mut text, name, PENDING, "STABLE", "gauge");
        let Pending { active, backoff, unschedulable, gated, in_flight } = gauges.pending;
        for (queue, count) in [("active", active), ("backoff", backoff), ("gated", gated), ("unschedulable", unschedulable)] {
            sample(&mut text, name, &[("queue", queue)], count);
        }
        let name = "scheduler_goroutines";
        describe(&mut text, name, "Number of running goroutines split by the work they do such as binding.", "ALPHA", "gauge");
        sample(&mut text, name, &[("operation", "binding")], in_flight);
        let name = "scheduler_cache_size";
        describe(&mut text, name, "Number of nodes, pods, and assumed (bound) pods in the scheduler cache.", "ALPHA", "gauge");
        let Size { nodes, pods, assumed } = gauges.size;
        for (kind, count) in [("assumed_pods", assumed), ("nodes", nodes), ("pods", pods)] {
            sample(&mut text, name, &[("type", kind)], count);
        }
        let name = "scheduler_unschedulable_pods";
        let help = "The number of unschedulable pods broken down by plugin name. A pod will increment the gauge for all plugins that caused it to not schedule and so this metric have meaning only when broken down by plugin.";
        describe(&mut text, name, help, "ALPHA", "gauge");
        for ((plugin, profile), count) in &gauges.refused {
            sample(&mut text, name, &[("plugin", plugin), ("profile", profile)], count);
        }
        let name = "scheduler_inflight_events";
        describe(&mut text, name, "Number of events currently tracked in the scheduling queue.", "ALPHA", "gauge");
        for (event, count) in gauges.events.iter().map(|(event, count)| (*event, *count)).chain([("PodPopped", in_flight)]) {
            sample(&mut text, name, &[("event", event)], count);
        }
        let name = "scheduler_plugin_evaluation_total";
        let help = "Number of attempts to schedule pods by each plugin and the extension point (available only in PreFilter, Filter, PreScore, and Score).";
        describe(&mut text, name, help, "ALPHA", "counter");
        for Evaluations { plugin, point, profile, count } in &gauges.evaluations {
            sample(&mut text, name, &[("plugin", plugin), ("extension_point", point), ("profile", profile)], count);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_what_was_counted() {
        let metrics = Metrics::default();
        metrics.attempt("default-scheduler", "scheduled", Duration::from_micros(500));
        metrics.attempt("default-scheduler", "scheduled", Duration::from_millis(3));
        metrics.attempt("default-scheduler", "unschedulable", Duration::from_secs(100));
        metrics.incoming.add(&["active", "UnschedulablePodAdd"]);
        let refused = BTreeMap::from([(("NodeAffinity", "default-scheduler".to_owned()), 4)]);
        let pending = Pending { gated: 2, ..Pending::default() };
        let text = metrics.text(&Gauges { pending, size: Size { nodes: 7, pods: 9, assumed: 1 }, refused, ..Gauges::default() });
        for line in [
            "# TYPE scheduler_scheduling_attempt_duration_seconds histogram",
            "scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"scheduled\"} 2",
            "scheduler_scheduling_attempt_duration_seconds_bucket{profile=\"default-scheduler\",result=\"scheduled\",le=\"0.001\"} 1",
            "scheduler_scheduling_attempt_duration_seconds_bucket{profile=\"default-scheduler\",result=\"scheduled\",le=\"0.004\"} 2",
            "scheduler_scheduling_attempt_duration_seconds_bucket{profile=\"default-scheduler\",result=\"unschedulable\",le=\"16.384\"} 0",
            "scheduler_scheduling_attempt_duration_seconds_bucket{profile=\"default-scheduler\",result=\"unschedulable\",le=\"+Inf\"} 1",
            "scheduler_scheduling_attempt_duration_seconds_sum{profile=\"default-scheduler\",result=\"unschedulable\"} 100",
            "scheduler_queue_incoming_pods_total{queue=\"active\",event=\"UnschedulablePodAdd\"} 1",
            "scheduler_pending_pods{queue=\"gated\"} 2",
            "scheduler_cache_size{type=\"nodes\"} 7",
            "scheduler_unschedulable_pods{plugin=\"NodeAffinity\",profile=\"default-scheduler\"} 4",
            "scheduler_preemption_attempts_total 0",
        ] {
            assert!(text.lines().any(|written| written == line), "{line} is not in\n{text}");
        }
    }
}
