//! Eviction: ending pods before the machine runs out of memory, disk or processes (upstream: `pkg/kubelet/eviction`).
//!
//! | file | what it is |
//! |---|---|
//! | [`signal`] | what can run short, one row each |
//! | [`threshold`] | what has to stay free, as the configuration says it |
//! | [`sample`] | one look at the machine |
//! | [`state`] | from looks to conditions and shortages: pure |

pub mod sample;
pub mod signal;
pub mod state;
pub mod threshold;
