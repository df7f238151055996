//! Eviction: ending pods before the machine runs out of memory, disk or processes (upstream: `pkg/kubelet/eviction`).
//!
//! | file | what it is |
//! |---|---|
//! | [`signal`] | what can run short, one row each |
//! | [`threshold`] | what has to stay free, as the configuration says it |
//! | [`sample`] | one look at the machine |
//! | [`state`] | from looks to conditions and shortages: pure |
//! | [`rank`] | who goes first, and what is said: pure |
//! | [`limits`] | pods that took more disk than they may: pure |
//! | [`keeper`] | the task that does it |
//!
//! Left out: images and what containers write on two file systems, the kernel's own notification of a threshold of memory, and the annotations that
//! upstream puts on the event of an eviction.

pub mod keeper;
pub mod limits;
pub mod rank;
pub mod sample;
pub mod signal;
pub mod state;
pub mod threshold;
