//! The pods' network on one node: who may speak with whom, and where there are several nodes how they find each other.
//!
//! - [`policy`]: NetworkPolicy. Policies, pods and namespaces become the plan of this node's table (pure); what changed between the table applied and
//!   the one wanted becomes one `nft` transaction (pure), which the kernel takes whole or not at all.
//! - [`node`]: if asked for, the CNI configuration of the node's part of the addresses, routes to the other nodes' parts, and masquerading of
//!   what leaves the cluster (the role of kindnet).
//!
//! Deliberately absent: networks that carry packets inside packets (VXLAN), `AdminNetworkPolicy`, policies for pods on the host's network, logging of
//! refused packets, and breaking of connections that were allowed when they were made.

pub mod cni;
pub mod health;
pub mod node;
pub mod policy;
pub mod routes;
pub mod run;

pub use run::{Options, cleanup, run};
