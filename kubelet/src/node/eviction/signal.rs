//! What can run short, as a table: the name in the configuration, the node condition that says so, the resource in messages, and what is measured for it
//! (upstream: `pkg/kubelet/eviction/api/types.go` and the maps of `helpers.go`).
//!
//! Left out: `containerfs.*`, which upstream accepts and then sets to the thresholds of the file system that containers are on, which is one of the two here.

use super::sample::{Filesystem, Sample};

/// A node condition under which pods are evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // The names are the API's.
pub enum Pressure {
    MemoryPressure,
    DiskPressure,
    PIDPressure,
}

impl Pressure {
    /// The condition's type.
    pub fn as_str(self) -> &'static str {
        match self {
            Pressure::MemoryPressure => "MemoryPressure",
            Pressure::DiskPressure => "DiskPressure",
            Pressure::PIDPressure => "PIDPressure",
        }
    }
}

/// How much of something there is, and how much is left. Bytes, inodes or processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// What is left.
    pub available: i64,
    /// What there is.
    pub capacity: i64,
}

/// What pods are ranked by, and what can be reclaimed before one has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Memory.
    Memory,
    /// Processes.
    Processes,
    /// The file system of volumes and logs.
    NodeFs,
    /// The file system of images and what containers write.
    ImageFs,
}

/// One row.
pub struct Signal {
    /// `memory.available`.
    pub name: &'static str,
    /// The condition it brings about.
    pub pressure: Pressure,
    /// What messages call it.
    pub resource: &'static str,
    /// What it is about.
    pub place: Place,
    /// Whether its amounts are of the binary kind.
    pub bytes: bool,
    /// Whether a configuration may name it.
    pub configurable: bool,
    /// What is left by a measurement; `None` where that could not be found out.
    pub observe: fn(&Sample) -> Option<Observation>,
}

fn space(fs: Option<&Filesystem>) -> Option<Observation> {
    fs.map(|fs| fs.bytes)
}

fn inodes(fs: Option<&Filesystem>) -> Option<Observation> {
    // Some file systems have no fixed number of inodes and say 0.
    fs.map(|fs| fs.inodes).filter(|inodes| inodes.capacity > 0)
}

macro_rules! rows {
    ($($name:literal $pressure:ident $resource:literal $place:ident $bytes:literal $configurable:literal $observe:expr;)*) => {
        /// The table, in the order in which shortages are seen to: memory before all else.
        pub static SIGNALS: &[Signal] = &[$(Signal {
            name: $name,
            pressure: Pressure::$pressure,
            resource: $resource,
            place: Place::$place,
            bytes: $bytes,
            configurable: $configurable,
            observe: $observe,
        },)*];
    };
}

rows! {
    "memory.available" MemoryPressure "memory" Memory true true |s| s.memory;
    "allocatableMemory.available" MemoryPressure "memory" Memory true false |s| s.pods_memory;
    "nodefs.available" DiskPressure "ephemeral-storage" NodeFs true true |s| space(s.node_fs.as_ref());
    "nodefs.inodesFree" DiskPressure "inodes" NodeFs false true |s| inodes(s.node_fs.as_ref());
    "imagefs.available" DiskPressure "ephemeral-storage" ImageFs true true |s| space(s.image_fs.as_ref());
    "imagefs.inodesFree" DiskPressure "inodes" ImageFs false true |s| inodes(s.image_fs.as_ref());
    "pid.available" PIDPressure "pids" Processes false true |s| s.processes;
}

/// The signal of a name.
pub fn by_name(name: &str) -> Option<&'static Signal> {
    SIGNALS.iter().find(|signal| signal.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_is_there_once() {
        for (at, signal) in SIGNALS.iter().enumerate() {
            assert!(SIGNALS[..at].iter().all(|other| other.name != signal.name), "{}", signal.name);
        }
        assert_eq!(by_name("pid.available").map(|s| s.pressure), Some(Pressure::PIDPressure));
    }
}
