//! The node proxy: makes Services work on one node, by nftables.
//!
//! A Service and its EndpointSlices become the [`rules`] of that Service ([`plan`], pure); what changed between the rules applied and the rules
//! wanted becomes one `nft` transaction ([`ruleset`], pure), which the kernel takes whole or not at all ([`nft`]). Packets find their Service by
//! one lookup in a map, and its endpoint by another, however many there are. The plan of a change and what is told to nft are as large as the change;
//! what nft and the kernel do with it grows with the number of Services (`examples/footprint` measures both).
//!
//! Behaviour is that of upstream's `pkg/proxy/nftables`, and so are the names of tables, chains and maps. Where upstream has a chain for every
//! endpoint, a Service without session affinity has one rule here, whose map holds all endpoints.
//!
//! Deliberately absent: the iptables and IPVS modes, local traffic detection other than by `--cluster-cidr`, and NodePorts on loopback addresses
//! (as upstream's nftables mode).

pub mod config;
pub mod conntrack;
pub mod endpoint;
pub mod family;
pub mod health;
pub mod metrics;
pub mod nft;
pub mod plan;
pub mod rules;
pub mod ruleset;
pub mod run;
pub mod service;
pub mod skeleton;

#[cfg(test)]
mod fixtures;

pub use run::{Options, cleanup, run};
