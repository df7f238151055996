//! `resource.k8s.io`: devices for pods.

pub mod device_class;
pub mod resource_claim;
pub mod resource_claim_template;
pub mod resource_slice;
mod validation;
