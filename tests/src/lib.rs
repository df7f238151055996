//! What end-to-end tests are written with: a cluster started by `deploy/up`, a `kubectl` to drive it (ours and upstream's), and waiting on
//! conditions; a driver of volumes; and a control plane inside the test's own process.

mod cluster;
pub mod csi_driver;
mod in_process;
mod kubectl;

pub use cluster::Cluster;
pub use in_process::{Builder, ControlPlane};
pub use kubectl::{Kubectl, Output, eventually, for_each_kubectl};
