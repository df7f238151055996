//! Where pods come from: the API ([`api`]) and manifests on this node ([`file`]), whose images in the API [`mirror`] keeps.

pub mod api;
pub mod file;
pub mod mirror;
