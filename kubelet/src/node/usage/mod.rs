//! What the node and its pods use.

pub mod cgroup;
pub mod disk;
