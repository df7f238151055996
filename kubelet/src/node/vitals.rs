//! How the node is: what its parts tell each other while it runs, and what is counted for metrics.

use super::{eviction::signal::Pressure, usage::collect::Meter};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use tokio::sync::{Notify, watch};

/// See the module.
#[derive(Default)]
pub struct Vitals {
    /// What is remembered of readings of use.
    pub meter: Meter,
    /// The conditions under which pods are evicted.
    pub pressures: watch::Sender<Vec<Pressure>>,
    /// The machine is about to shut down.
    pub shutting_down: watch::Sender<bool>,
    /// Something ended, and may have left something behind.
    pub housekeeping: Notify,
    /// What happened how often.
    pub counters: Counters,
}

/// What happened how often.
#[derive(Default)]
pub struct Counters {
    evictions: Mutex<BTreeMap<&'static str, u64>>,
}

impl Counters {
    /// A pod was evicted for the sake of this signal.
    pub fn evicted(&self, signal: &'static str) {
        *self.evictions.lock().entry(signal).or_default() += 1;
    }

    /// Evictions by signal.
    pub fn evictions(&self) -> BTreeMap<&'static str, u64> {
        self.evictions.lock().clone()
    }
}
