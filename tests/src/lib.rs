//! What end-to-end tests are written with: a cluster started by `deploy/up`, a `kubectl` to drive it (ours and upstream's), and waiting on
//! conditions.
//!
//! Left out so far: a control plane inside the test process.

mod cluster;
mod kubectl;

pub use cluster::Cluster;
pub use kubectl::{Kubectl, Output, eventually, for_each_kubectl};
