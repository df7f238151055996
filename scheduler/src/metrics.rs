//! The scheduler's metrics, under upstream's names.

use crate::queue::Pending;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters; the queue's gauges are read when asked for.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Pods for which a node was found.
    pub scheduled: AtomicU64,
    /// Tries that found none.
    pub unschedulable: AtomicU64,
    /// Tries that failed otherwise.
    pub errors: AtomicU64,
    /// Pods deleted to make room.
    pub preemption_victims: AtomicU64,
}

impl Metrics {
    /// In Prometheus's text format.
    pub fn text(&self, pending: Pending) -> String {
        let mut text = String::from(
            "# HELP scheduler_schedule_attempts_total Number of attempts to schedule pods, by the result.\n# TYPE scheduler_schedule_attempts_total counter\n",
        );
        for (result, counter) in [("scheduled", &self.scheduled), ("unschedulable", &self.unschedulable), ("error", &self.errors)] {
            let count = counter.load(Ordering::Relaxed);
            writeln!(text, "scheduler_schedule_attempts_total{{profile=\"default-scheduler\",result=\"{result}\"}} {count}")
                .expect("a String takes everything");
        }
        text += "# HELP scheduler_pending_pods Number of pending pods, by the queue type.\n# TYPE scheduler_pending_pods gauge\n";
        for (queue, count) in
            [("active", pending.active), ("backoff", pending.backoff), ("gated", pending.gated), ("unschedulable", pending.unschedulable)]
        {
            writeln!(text, "scheduler_pending_pods{{queue=\"{queue}\"}} {count}").expect("a String takes everything");
        }
        let victims = self.preemption_victims.load(Ordering::Relaxed);
        text += "# HELP scheduler_preemption_victims_total Number of pods deleted to make room.\n# TYPE scheduler_preemption_victims_total counter\n";
        writeln!(text, "scheduler_preemption_victims_total {victims}").expect("a String takes everything");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_every_result_and_queue() {
        let metrics = Metrics::default();
        metrics.scheduled.store(3, Ordering::Relaxed);
        let text = metrics.text(Pending { gated: 2, ..Pending::default() });
        assert!(text.contains("scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"scheduled\"} 3\n"));
        assert!(text.contains("scheduler_pending_pods{queue=\"gated\"} 2\n"));
    }
}
