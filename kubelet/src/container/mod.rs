//! What a container and its sandbox are made with: everything in a pod's spec that becomes a field of CRI's configurations.
//!
//! All of it is pure but for what [`environment`] and [`config`] are handed by the caller (values of config maps, host paths of volumes).

pub mod config;
pub mod env_file;
pub mod environment;
pub mod expansion;
pub mod identity;
pub mod network;
pub mod resources;
pub mod sandbox;
pub mod security;
pub mod swap;
pub mod sysctl;
