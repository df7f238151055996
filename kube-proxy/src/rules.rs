//! What one Service has in a table: chains, elements of the maps that all Services share, and sets that remember clients.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// The maps and sets that all Services share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Map {
    /// Addresses of Services, whose other ports are refused.
    ClusterIps,
    /// Where packets to an address and port go.
    ServiceIps,
    /// Where packets to a port of the node go.
    ServiceNodePorts,
    /// What happens to packets for which there is no endpoint.
    NoEndpointServices,
    /// The same for ports of the node.
    NoEndpointNodePorts,
    /// Addresses that serve only some clients.
    FirewallIps,
    /// Endpoints that reach themselves through a Service.
    Hairpin,
}

impl Map {
    /// All, with their names and the types of their keys; ADDRESS stands for the family's. Sets have no values.
    pub const ALL: [(Map, &'static str, &'static str); 7] = [
        (Map::ClusterIps, "cluster-ips", "ADDRESS"),
        (Map::ServiceIps, "service-ips", "ADDRESS . inet_proto . inet_service : verdict"),
        (Map::ServiceNodePorts, "service-nodeports", "inet_proto . inet_service : verdict"),
        (Map::NoEndpointServices, "no-endpoint-services", "ADDRESS . inet_proto . inet_service : verdict"),
        (Map::NoEndpointNodePorts, "no-endpoint-nodeports", "inet_proto . inet_service : verdict"),
        (Map::FirewallIps, "firewall-ips", "ADDRESS . inet_proto . inet_service : verdict"),
        (Map::Hairpin, "hairpin", "ADDRESS . ADDRESS . inet_proto . inet_service"),
    ];

    /// Its name in the kernel.
    pub fn name(self) -> &'static str {
        Map::ALL[self as usize].1
    }
}

/// Where UDP clients send to, whose flows the kernel remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Front {
    /// An address and port.
    Address(IpAddr, u16),
    /// A port of the node.
    NodePort(u16),
}

/// The rules of one Service in one table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// Chains with their rules, in nft's words.
    pub chains: BTreeMap<String, Vec<String>>,
    /// Elements of shared maps, with their values; those of sets have none.
    pub elements: BTreeMap<(Map, String), String>,
    /// Sets of clients, with the seconds after which a client is forgotten.
    pub clients: BTreeMap<String, u32>,
    /// Endpoints behind each UDP front.
    pub udp: BTreeMap<Front, BTreeSet<SocketAddr>>,
}

impl Rules {
    /// Adds an element; the first one under a key stays.
    pub fn element(&mut self, map: Map, key: String, value: impl Into<String>) {
        self.elements.entry((map, key)).or_insert_with(|| value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_maps() {
        for (index, (map, name, _)) in Map::ALL.into_iter().enumerate() {
            assert_eq!((map as usize, map.name()), (index, name));
        }
    }
}
