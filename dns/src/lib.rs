//! Cluster DNS: the names of Services, of their endpoints and of pods, and everything else by asking others.
//!
//! The watches fill an [`index`], of which the [`zone`] makes answers, both pure; a query costs the same however many Services there are. What the
//! zone does not own is [`forward`]ed, and its answer kept for a while ([`cache`]). The [`server`] only moves bytes.
//!
//! Behaviour is the Kubernetes DNS specification's, and beyond it that of CoreDNS as kubeadm configures it (a TTL of 30 s, `pods insecure`,
//! reverse lookups that fall through to others, a cache of 30 s for what is not the cluster's), and so are the names of metrics.
//!
//! Deliberately absent: a configuration language and plugins, zone transfers, DNSSEC signatures of the cluster's zone, names of nodes, verified names of pods
//! (they need a watch of all pods), DNS over TLS or HTTPS.

pub mod cache;
pub mod forward;
pub mod index;
pub mod message;
pub mod metrics;
pub mod publish;
pub mod resolv_conf;
pub mod resolver;
pub mod run;
pub mod server;
pub mod watch;
pub mod zone;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod server_tests;

pub use run::{Options, run};
