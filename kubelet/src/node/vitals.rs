//! How the node is: what its parts tell each other while it runs, and what is counted for metrics.

use super::{eviction::signal::Pressure, usage::collect::Meter};
use crate::{metrics::Metrics, probe::counts::Counts};
use std::sync::Arc;
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
    /// How often probes were asked, and what came of it.
    pub probes: Arc<Counts>,
    /// What is counted of its work.
    pub metrics: Arc<Metrics>,
}
