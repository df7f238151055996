//! `networking.k8s.io`.

mod address_range;
pub mod ingress;
pub mod ingress_class;
mod ingress_validation;
pub mod ip_address;
pub mod network_policy;
pub mod service_cidr;

pub use address_range::{AddressRange, is_open, ranges};
