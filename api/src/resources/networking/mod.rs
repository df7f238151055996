//! `networking.k8s.io`.

pub mod ingress;
pub mod ingress_class;
mod ingress_validation;
pub mod ip_address;
pub mod network_policy;
pub mod service_cidr;
