//! The proxy's metrics, under upstream's names.

use parking_lot::Mutex;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the first bucket and how many there are; each is twice the one before.
const FIRST_BUCKET: f64 = 0.001;
const BUCKETS: usize = 15;

/// What is counted.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Changes of Services seen.
    pub service_changes: AtomicU64,
    /// Changes of EndpointSlices seen.
    pub endpoint_changes: AtomicU64,
    /// Transactions that the kernel refused.
    pub failures: AtomicU64,
    syncs: Mutex<Syncs>,
}

#[derive(Debug, Default)]
struct Syncs {
    buckets: [u64; BUCKETS],
    count: u64,
    seconds: f64,
    last: f64,
}

impl Metrics {
    /// A transaction that took this long and was over at this Unix time.
    pub fn synced(&self, took: Duration, at: f64) {
        let mut syncs = self.syncs.lock();
        let seconds = took.as_secs_f64();
        let mut bound = FIRST_BUCKET;
        for bucket in &mut syncs.buckets {
            *bucket += u64::from(seconds <= bound);
            bound *= 2.0;
        }
        syncs.count += 1;
        syncs.seconds += seconds;
        syncs.last = at;
    }

    /// In Prometheus's text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |line: String| writeln!(text, "{line}").expect("a String takes everything");
        let counters = [
            ("service_changes_total", "Cumulative proxy rules Service changes", &self.service_changes),
            ("endpoint_changes_total", "Cumulative proxy rules Endpoint changes", &self.endpoint_changes),
            ("nftables_sync_failures_total", "Cumulative proxy nftables sync failures", &self.failures),
        ];
        for (name, help, value) in counters {
            let name = format!("kubeproxy_sync_proxy_rules_{name}");
            line(format!("# HELP {name} {help}\n# TYPE {name} counter\n{name} {}", value.load(Ordering::Relaxed)));
        }
        let syncs = self.syncs.lock();
        let name = "kubeproxy_sync_proxy_rules_duration_seconds";
        line(format!("# HELP {name} SyncProxyRules latency in seconds\n# TYPE {name} histogram"));
        let mut bound = FIRST_BUCKET;
        for bucket in syncs.buckets {
            line(format!("{name}_bucket{{le=\"{bound}\"}} {bucket}"));
            bound *= 2.0;
        }
        line(format!("{name}_bucket{{le=\"+Inf\"}} {0}\n{name}_sum {1}\n{name}_count {0}", syncs.count, syncs.seconds));
        let name = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";
        line(format!("# HELP {name} The last time proxy rules were successfully synced\n# TYPE {name} gauge\n{name} {}", syncs.last));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative() {
        let metrics = Metrics::default();
        metrics.synced(Duration::from_micros(1500), 5.0);
        metrics.synced(Duration::from_micros(500), 7.0);
        let text = metrics.text();
        for line in ["bucket{le=\"0.001\"} 1", "bucket{le=\"0.002\"} 2", "bucket{le=\"+Inf\"} 2", "duration_seconds_sum 0.002"] {
            assert!(
                text.contains(&format!("{line}\n")) || text.contains(&format!("kubeproxy_sync_proxy_rules_duration_seconds_{line}\n")),
                "{line} in {text}"
            );
        }
        assert!(text.contains("kubeproxy_sync_proxy_rules_last_timestamp_seconds 7\n"));
    }
}
