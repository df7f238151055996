//! Pods on this node: what is to be done ([`actions`]), what is ([`observed`]), what the API is told ([`status`]), and the task per pod
//! that brings the one to the other ([`worker`]), one per UID, kept by [`workers`].

pub mod actions;
pub mod backoff;
pub mod hooks;
pub mod kill;
pub mod last_words;
pub mod log_rotation;
pub mod observed;
pub mod phase;
pub mod resize;
pub mod restart;
#[cfg(test)]
mod simulation;
pub mod start;
pub mod status;
pub mod worker;
pub mod workers;
