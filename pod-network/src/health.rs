//! What is shown to others: whether both parts have done what they had to, and how much that was.

use client::serving::Observable;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// The state of the parts.
#[derive(Default)]
pub struct Shown {
    problems: Mutex<BTreeMap<&'static str, String>>,
    /// Transactions that the kernel took.
    pub transactions: AtomicU64,
    failures: AtomicU64,
}

impl Shown {
    /// A part has something to do first.
    pub fn waits(&self, part: &'static str) {
        self.problems.lock().insert(part, "nothing is known yet".to_owned());
    }

    /// How it went.
    pub fn told(&self, part: &'static str, error: Option<&anyhow::Error>) {
        match error {
            None => drop(self.problems.lock().remove(part)),
            Some(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                self.problems.lock().insert(part, format!("{error:#}"));
            }
        }
    }
}

impl Observable for Shown {
    fn name(&self) -> &'static str {
        "pod-network"
    }

    fn problems(&self) -> Vec<String> {
        self.problems.lock().iter().map(|(part, problem)| format!("{part}: {problem}")).collect()
    }

    fn metrics(&self) -> String {
        let counters = [("transactions", &self.transactions), ("failures", &self.failures)];
        let lines = counters.iter().map(|(name, count)| {
            let name = format!("pod_network_{name}_total");
            format!("# TYPE {name} counter\n{name} {}\n", count.load(Ordering::Relaxed))
        });
        lines.collect()
    }
}
