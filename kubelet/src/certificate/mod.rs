//! The node's certificates: how it gets one for the first time, and a new one before the old one ends (upstream: `pkg/kubelet/certificate` and
//! `client-go/util/certificate`).
//!
//! | file | what it is |
//! |---|---|
//! | [`store`] | pairs of certificate and key on the disk, and which is current |
//! | [`request`] | asking the cluster for a certificate, and waiting for it |
//! | [`bootstrap`] | joining: from a token to a certificate and a kubeconfig |
//! | [`rotation`] | when a new one is due, and getting it |
//!
//! Left out: static pods that run while the node waits to join, and the plain wait of `rotateCertificates` without a bootstrap kubeconfig.

pub mod bootstrap;
#[cfg(test)]
mod joining;
pub mod request;
pub mod rotation;
pub mod store;
