//! `flowcontrol.apiserver.k8s.io`: fairness among requests.

pub mod flow_schema;
pub mod priority_level_configuration;
