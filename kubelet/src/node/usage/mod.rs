//! What the node and its pods use: [`summary`] is the account of it, [`collect`] makes it out of the runtime's figures, cgroups ([`cgroup`]), directories
//! ([`disk`]) and interfaces ([`network`]).

pub mod cgroup;
pub mod collect;
pub mod disk;
pub mod network;
pub mod pressure;
pub mod summary;
