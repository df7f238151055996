//! Probes: light tasks that ask containers how they are. [`results`] is what they found, [`manager`] keeps one task per container and
//! probe, [`check`] does one probe's asking, [`counts`] counts it.

pub mod check;
pub mod counts;
pub mod grpc;
pub mod manager;
pub mod results;
