//! The scheduler: decides on which node a pod runs, and binds it there.
//!
//! One cycle at a time takes the most urgent pod from the [`queue`], brings the [`snapshot`] up to date, lets the [`plugins`] filter and score
//! the nodes ([`cycle`], pure) and assumes the result in the [`state`], so that the next cycle sees it while the binding is still on its way.
//! A pod that fits nowhere waits for a change that could cure what rejected it; nothing is retried blindly.
//!
//! Behaviour, names and texts are upstream's `pkg/scheduler`. What is decided elsewhere comes in through [`extenders`].

pub mod affinity;
pub mod config;
pub mod counters;
pub mod cycle;
mod cycle_state;
pub mod devices;
mod events;
pub mod explain;
pub mod extenders;
pub mod framework;
mod informers;
pub mod listers;
pub mod memory;
pub mod metrics;
pub mod node_info;
pub mod plugins;
pub mod pod_info;
pub mod preemption;
pub mod profiles;
pub mod queue;
pub mod resources;
pub mod run;
pub mod scheduler;
pub mod selector;
pub mod snapshot;
pub mod state;
pub mod status;
pub mod stopwatch;
pub mod trim;
pub mod volumes;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod simulation;

pub use run::{Options, run};
