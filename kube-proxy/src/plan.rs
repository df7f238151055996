//! From a Service and its EndpointSlices to its rules (upstream: `pkg/proxy/nftables/proxier.go`, `syncProxyRules`).
//!
//! A packet's way: the map `service-ips` or `service-nodeports` names the chain of its port. `service-…` (policy Cluster) and `local-…` (policy
//! Local) choose an endpoint; `external-…` goes before them for what came from outside and must be masqueraded, unless its policy keeps it on
//! this node. `firewall-…` refuses sources, and `no-endpoint-…` decides what becomes of packets that nobody would answer.

use crate::endpoint::{self, Endpoint, Place};
use crate::family::Family;
use crate::rules::{Front, Map, Rules};
use crate::service::{self, ServicePort};
use crate::skeleton::{MARK_CHAIN, REJECT_CHAIN};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What the plan needs to know of this node and of how the proxy was configured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Context {
    /// The node.
    pub place: Place,
    /// Its own addresses, as its Node says.
    pub node_ips: Vec<IpAddr>,
    /// Where pods' addresses come from; empty if not known, and then everything counts as from outside.
    pub cluster_cidrs: Vec<String>,
    /// Masquerade everything that goes to a Service.
    pub masquerade_all: bool,
}

/// The rules of a Service in one family.
pub fn plan(service: &Service, slices: &[Arc<EndpointSlice>], family: Family, context: &Context) -> Rules {
    let mut rules = Rules::default();
    for port in service::ports(service, family) {
        let endpoints = endpoint::endpoints(slices, &port, family, &context.place);
        Port { port: &port, endpoints: &endpoints, family, context }.plan(&mut rules);
    }
    rules
}

/// One port on the way to its rules.
struct Port<'a> {
    port: &'a ServicePort,
    endpoints: &'a [Endpoint],
    family: Family,
    context: &'a Context,
}

impl Port<'_> {
    fn plan(&self, rules: &mut Rules) {
        let port = self.port;
        let usable = endpoint::usable(self.endpoints, port, &self.context.place);
        let (cluster_chain, local_chain) = (format!("service-{}", port.id()), format!("local-{}", port.id()));
        let has_cluster = !usable.cluster.is_empty() && port.uses_cluster_endpoints();
        let has_local = !usable.local.is_empty() && port.uses_local_endpoints();
        if has_cluster {
            let mut chain: Vec<String> = self.masquerade_internal().into_iter().collect();
            chain.extend(self.choose(&usable.cluster, rules));
            rules.chains.insert(cluster_chain.clone(), chain);
        }
        if has_local {
            let chain = self.choose(&usable.local, rules);
            rules.chains.insert(local_chain.clone(), chain);
        }
        for endpoint in usable.cluster.iter().chain(&usable.local).filter(|endpoint| endpoint.local || endpoint.anywhere) {
            let (ip, number) = (endpoint.address.ip(), endpoint.address.port());
            rules.element(Map::Hairpin, format!("{ip} . {ip} . {} . {number}", port.protocol), "");
        }

        let (internal, internal_up) = if port.internal_local { (&local_chain, has_local) } else { (&cluster_chain, has_cluster) };
        let refusal = if usable.any { "drop".to_owned() } else { format!("goto {REJECT_CHAIN}") };
        rules.element(Map::ClusterIps, port.cluster_ip.to_string(), "");
        let (map, verdict) = match internal_up {
            true => (Map::ServiceIps, format!("goto {internal}")),
            false => (Map::NoEndpointServices, refusal.clone()),
        };
        rules.element(map, self.key(&port.cluster_ip), verdict);
        self.udp(rules, Front::Address(port.cluster_ip, port.port), if port.internal_local { &usable.local } else { &usable.cluster });

        if port.externally_accessible() {
            let external = format!("external-{}", port.id());
            if usable.any {
                let chain = self.external(has_cluster.then_some(&*cluster_chain), has_local.then_some(&*local_chain));
                rules.chains.insert(external.clone(), chain);
            }
            let up = if port.external_local { has_local } else { has_cluster };
            self.fronts(rules, usable.any.then(|| format!("goto {external}")), (!up).then_some(refusal), &usable.cluster);
        }
    }

    /// Entries for every way in from outside. With policy Local and no endpoint here there are both: the chain serves what comes from this
    /// node and from pods, and the refusal looks only at packets whose destination the chain has not changed.
    fn fronts(&self, rules: &mut Rules, verdict: Option<String>, refusal: Option<String>, endpoints: &[&Endpoint]) {
        let port = self.port;
        let firewall = (!port.load_balancer_ips.is_empty() && !port.source_ranges.is_empty()).then(|| format!("firewall-{}", port.id()));
        if let Some(chain) = &firewall {
            rules.chains.insert(chain.clone(), vec![self.firewall()]);
        }
        for address in port.external_ips.iter().chain(&port.load_balancer_ips) {
            verdict.iter().for_each(|verdict| rules.element(Map::ServiceIps, self.key(address), verdict.clone()));
            refusal.iter().for_each(|refusal| rules.element(Map::NoEndpointServices, self.key(address), refusal.clone()));
            self.udp(rules, Front::Address(*address, port.port), endpoints);
        }
        for (chain, address) in firewall.iter().flat_map(|chain| port.load_balancer_ips.iter().map(move |address| (chain, address))) {
            rules.element(Map::FirewallIps, self.key(address), format!("goto {chain}"));
        }
        if port.node_port != 0 {
            let key = format!("{} . {}", port.protocol, port.node_port);
            verdict.into_iter().for_each(|verdict| rules.element(Map::ServiceNodePorts, key.clone(), verdict));
            refusal.into_iter().for_each(|refusal| rules.element(Map::NoEndpointNodePorts, key.clone(), refusal));
            self.udp(rules, Front::NodePort(port.node_port), endpoints);
        }
    }

    fn key(&self, address: &IpAddr) -> String {
        format!("{address} . {} . {}", self.port.protocol, self.port.port)
    }

    fn udp(&self, rules: &mut Rules, front: Front, endpoints: &[&Endpoint]) {
        if self.port.protocol == "udp" {
            rules.udp.entry(front).or_default().extend(endpoints.iter().map(|endpoint| endpoint.address));
        }
    }

    /// `saddr [!=] { CIDR, … }`, if pods' addresses are known.
    fn pods_match(&self, operator: &str) -> Option<String> {
        let cidrs: Vec<&str> = self.context.cluster_cidrs.iter().filter(|cidr| self.family.owns_cidr(cidr)).map(String::as_str).collect();
        (!cidrs.is_empty()).then(|| format!("{} saddr {operator}{{ {} }}", self.family.keyword(), cidrs.join(", ")))
    }

    /// What comes to the Service's own address from elsewhere than a pod cannot expect its answer to find the way back by itself.
    fn masquerade_internal(&self) -> Option<String> {
        let (ip, port) = (self.family.keyword(), self.port);
        let to_service = format!("{ip} daddr {} {} dport {}", port.cluster_ip, port.protocol, port.port);
        match self.context.masquerade_all {
            true => Some(format!("{to_service} jump {MARK_CHAIN}")),
            false => self.pods_match("!= ").map(|elsewhere| format!("{to_service} {elsewhere} jump {MARK_CHAIN}")),
        }
    }

    fn external(&self, cluster: Option<&str>, local: Option<&str>) -> Vec<String> {
        let mut chain = Vec::new();
        if !self.port.external_local {
            chain.push(format!("jump {MARK_CHAIN}"));
            chain.extend(cluster.map(|cluster| format!("goto {cluster}")));
            return chain;
        }
        // What pods and the node itself send does not come from outside, whichever address it was sent to.
        if let Some(cluster) = cluster {
            chain.extend(self.pods_match("").map(|pods| format!("{pods} goto {cluster}")));
            chain.push(format!("fib saddr type local jump {MARK_CHAIN}"));
            chain.push(format!("fib saddr type local goto {cluster}"));
        }
        chain.extend(local.map(|local| format!("goto {local}")));
        chain
    }

    fn firewall(&self) -> String {
        let mut sources = self.port.source_ranges.clone();
        // Packets of this node to the balancer's address can come back with that address as their source.
        if self.context.node_ips.iter().any(|address| sources.iter().any(|range| contains(range, address))) {
            sources.extend(self.port.load_balancer_ips.iter().map(IpAddr::to_string));
        }
        format!("{} saddr != {{ {} }} drop", self.family.keyword(), sources.join(", "))
    }

    /// Rules that choose an endpoint at random, and with affinity the one that the client had before.
    fn choose(&self, endpoints: &[&Endpoint], rules: &mut Rules) -> Vec<String> {
        let (ip, port, count) = (self.family.keyword(), self.port, endpoints.len());
        let Some(seconds) = port.affinity else {
            let target =
                |(index, endpoint): (usize, &&Endpoint)| format!("{index} : {} . {}", endpoint.address.ip(), endpoint.address.port());
            let targets: Vec<String> = endpoints.iter().enumerate().map(target).collect();
            return vec![format!(
                "meta l4proto {} dnat {ip} addr . port to numgen random mod {count} map {{ {} }}",
                port.protocol,
                targets.join(", ")
            )];
        };
        let mut chain = Vec::new();
        let mut choices = Vec::new();
        for (index, endpoint) in endpoints.iter().enumerate() {
            // Colons have no place in names.
            let address = endpoint.address.ip().to_string().replace(':', ".");
            let id = format!("{}__{address}/{}", port.id(), endpoint.address.port());
            // The time is part of the name: a set keeps the one that it was made with.
            let (own, clients) = (format!("endpoint-{id}"), format!("affinity-{id}/{seconds}"));
            let dnat = format!("meta l4proto {} dnat to {}", port.protocol, destination(&endpoint.address));
            rules.chains.insert(own.clone(), vec![format!("update @{clients} {{ {ip} saddr }}"), dnat]);
            chain.push(format!("{ip} saddr @{clients} goto {own}"));
            choices.push(format!("{index} : goto {own}"));
            rules.clients.insert(clients, seconds);
        }
        chain.push(format!("numgen random mod {count} vmap {{ {} }}", choices.join(", ")));
        chain
    }
}

fn destination(address: &SocketAddr) -> String {
    address.to_string()
}

/// Whether a CIDR contains an address.
fn contains(cidr: &str, address: &IpAddr) -> bool {
    let bits = |address: &IpAddr| match address {
        IpAddr::V4(v4) => (u128::from(u32::from(*v4)) << 96, 32),
        IpAddr::V6(v6) => (u128::from(*v6), 128),
    };
    let Some((network, length)) = cidr.split_once('/') else { return false };
    let (Ok(network), Ok(length)) = (network.parse::<IpAddr>(), length.parse::<u32>()) else { return false };
    let ((network, width), (address, other)) = (bits(&network), bits(address));
    let mask = u128::MAX.checked_shl(128 - length.min(width)).unwrap_or(0);
    width == other && network & mask == address & mask
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
