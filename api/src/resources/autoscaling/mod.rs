//! `autoscaling`, in two versions.

pub mod horizontal_pod_autoscaler;
pub mod horizontal_pod_autoscaler_v1;
mod targets;
mod v1_conversion;
mod validation;
