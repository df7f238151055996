//! Services of type LoadBalancer get an address, on a machine without a cloud (upstream: `service-lb-controller` of the cloud controller managers).
//!
//! Addresses come from one of two places, and the node proxies of all nodes answer on them as on every other address of a Service, so nothing else has to be set up:
//!
//! - `--load-balancer-cidr`: each Service has an address of its own, so two Services can have the same port, and none can take a port from the node itself. Whoever is to use
//!   them needs a route to that network by way of a node; `deploy/up` sets one for its own machine.
//! - `--load-balancer-on-nodes`: the addresses of the Ready nodes, for machines that reach nodes and have no route to anything behind them. A port is one Service's.
//!
//! What is taken is what Services' statuses say. Services with a `loadBalancerClass` are somebody else's. Without a flag the controller does not run.

use crate::controller::{Context, Controller, Keys, watch_all};
use crate::ops::{Op, Request};
use client::{Cache, Change, ObjectKey};
use futures::future::BoxFuture;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Node, Service};
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// The label of nodes that take no part.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// Where addresses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// Of this network, one for each Service.
    Network(IpNet),
    /// The nodes', for all Services.
    Nodes,
}

/// Keys are Services.
pub struct ServiceLoadBalancers {
    context: Context,
    pool: Pool,
    services: Arc<Cache<Service>>,
    nodes: Arc<Cache<Node>>,
}

/// Whether the Service is to have an address from here.
fn is_ours(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    service.metadata.deletion_timestamp.is_none()
        && spec.is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none())
}

fn addresses(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.into_iter().flat_map(|status| status.ingress.iter().flatten());
    ingress.filter_map(|ingress| ingress.ip.as_ref()?.parse().ok()).collect()
}

fn with_addresses(service: &Service, addresses: &[IpAddr]) -> Op {
    let ingress =
        addresses.iter().map(|ip| LoadBalancerIngress { ip: Some(ip.to_string()), ip_mode: Some("VIP".into()), ..Default::default() });
    let ingress = Some(ingress.collect::<Vec<_>>()).filter(|ingress| !ingress.is_empty());
    let mut updated = service.clone();
    updated.status.get_or_insert_default().load_balancer = Some(LoadBalancerStatus { ingress });
    Op::send(Request::replace_status(&updated).tolerating(&[404]))
}

/// The address for a Service: the one that it asks for, or the first free one.
fn choose(service: &Service, pool: &IpNet, taken: &HashSet<IpAddr>) -> Result<IpAddr, String> {
    let asked = service.spec.as_ref().and_then(|spec| spec.load_balancer_ip.as_deref()).unwrap_or_default();
    if asked.is_empty() {
        let free = pool.hosts().find(|address| !taken.contains(address));
        return free.ok_or_else(|| format!("all addresses of {pool} are taken"));
    }
    match asked.parse::<IpAddr>() {
        Ok(address) if !pool.contains(&address) => Err(format!("loadBalancerIP {asked} is not in {pool}")),
        Ok(address) if taken.contains(&address) => Err(format!("loadBalancerIP {asked} is taken")),
        Ok(address) => Ok(address),
        Err(_) => Err(format!("loadBalancerIP {asked} is no address")),
    }
}

/// The addresses that a Service is to have out of a network, when others have those in `taken`: the one that it has, if it suits.
fn of_network(service: &Service, pool: &IpNet, taken: &HashSet<IpAddr>) -> Result<Vec<IpAddr>, String> {
    let asked = service.spec.as_ref().and_then(|spec| spec.load_balancer_ip.as_deref()).unwrap_or_default();
    let suits =
        |address: &IpAddr| pool.contains(address) && !taken.contains(address) && (asked.is_empty() || asked.parse() == Ok(*address));
    match addresses(service).as_slice() {
        [one] if suits(one) => Ok(vec![*one]),
        _ => choose(service, pool, taken).map(|address| vec![address]),
    }
}

/// A port as it is taken: its protocol and number.
type Port = (String, i32);

fn ports(service: &Service) -> impl Iterator<Item = Port> {
    let all = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    all.map(|port| (port.protocol.clone().unwrap_or_else(|| "TCP".into()), port.port))
}

/// Whether a load balancer may lead to the node.
fn takes_part(node: &Node) -> bool {
    let status = node.status.as_ref();
    let ready = status.into_iter().flat_map(|status| status.conditions.iter().flatten()).any(|c| c.type_ == "Ready" && c.status == "True");
    ready && node.metadata.labels.as_ref().is_none_or(|labels| !labels.contains_key(EXCLUDED))
}

fn node_addresses(node: &Node) -> impl Iterator<Item = IpAddr> {
    let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    all.filter(|address| address.type_ == "InternalIP").filter_map(|address| address.address.parse().ok())
}

/// The addresses that a Service is to have on the nodes, when others have the ports in `taken`, and the nodes' own programs those of `nodes`.
fn on_nodes<'a>(service: &Service, nodes: impl IntoIterator<Item = &'a Node>, taken: &HashSet<Port>) -> Result<Vec<IpAddr>, String> {
    let mut found = Vec::new();
    for node in nodes.into_iter().filter(|node| takes_part(node)) {
        let kubelet = node.status.as_ref().and_then(|status| Some(status.daemon_endpoints.as_ref()?.kubelet_endpoint.as_ref()?.port));
        if ports(service).any(|(protocol, port)| protocol == "TCP" && Some(port) == kubelet) {
            return Err(format!("port {} is the node's own", kubelet.unwrap_or_default()));
        }
        found.extend(node_addresses(node));
    }
    if let Some((protocol, port)) = ports(service).find(|port| taken.contains(port)) {
        return Err(format!("port {port}/{protocol} is taken"));
    }
    found.sort_unstable();
    if found.is_empty() { Err("no node is ready".to_owned()) } else { Ok(found) }
}

/// What to do about a Service that is to have the addresses in `wanted`, or cannot have any.
fn plan(service: &Service, wanted: Result<Vec<IpAddr>, String>, own: impl Fn(&IpAddr) -> bool) -> Vec<Op> {
    let present: Vec<IpAddr> = addresses(service);
    if !is_ours(service) {
        let changed_type = service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() != Some("LoadBalancer"));
        if !present.iter().any(own) || !changed_type || service.metadata.deletion_timestamp.is_some() {
            return Vec::new();
        }
        return vec![
            Op::normal(service, "DeletingLoadBalancer", "Deleting load balancer"),
            with_addresses(service, &[]),
            Op::normal(service, "DeletedLoadBalancer", "Deleted load balancer"),
        ];
    }
    match wanted {
        Ok(addresses) if addresses == present => Vec::new(),
        Ok(addresses) => vec![
            Op::normal(service, "EnsuringLoadBalancer", "Ensuring load balancer"),
            with_addresses(service, &addresses),
            Op::normal(service, "EnsuredLoadBalancer", "Ensured load balancer"),
        ],
        Err(why) => {
            let message = format!("Error syncing load balancer: failed to ensure load balancer: {why}");
            vec![Op::warning(service, "SyncLoadBalancerFailed", message)]
        }
    }
}

impl ServiceLoadBalancers {
    /// With the shared caches; `None` without addresses.
    pub fn new(context: Context) -> Option<Self> {
        let pool = context.settings.load_balancers?;
        Some(Self { pool, services: context.caches.of(), nodes: context.caches.of(), context })
    }

    /// All load balancers are looked at when a node begins or ceases to take part, or has another address.
    fn watch_nodes(&self, keys: &Keys) {
        let (keys, services) = (keys.clone(), Arc::downgrade(&self.services));
        let facts = |node: &Node| takes_part(node).then(|| node_addresses(node).collect::<Vec<_>>());
        self.nodes.subscribe(move |change| {
            let changed = match change {
                Change::Added(node) | Change::Deleted(node) => takes_part(node),
                Change::Updated { old, new } => facts(old) != facts(new),
            };
            let all = services.upgrade().filter(|_| changed).map(|services| services.list()).unwrap_or_default();
            all.iter().filter(|service| is_ours(service)).for_each(|service| keys.add(ObjectKey::of(service.as_ref())));
        });
    }
}

impl Controller for ServiceLoadBalancers {
    /// One, so that no two Services are given the same address.
    fn workers(&self) -> usize {
        1
    }

    fn watch(self: Arc<Self>, keys: &Keys) {
        watch_all(&self.services, keys);
        let (freeing, services) = (keys.clone(), Arc::downgrade(&self.services));
        self.services.subscribe(move |change| {
            // Somebody may be waiting for an address.
            let freed = match change {
                Change::Deleted(service) => !addresses(service).is_empty(),
                Change::Updated { old, new } => addresses(old).len() > addresses(new).len(),
                Change::Added(_) => false,
            };
            let waiting = services.upgrade().filter(|_| freed).map(|services| services.list()).unwrap_or_default();
            let waiting = waiting.iter().filter(|service| is_ours(service) && addresses(service).is_empty());
            waiting.for_each(|service| freeing.add(ObjectKey::of(service.as_ref())));
        });
        if self.pool == Pool::Nodes {
            self.watch_nodes(keys);
        }
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(async move {
            let Some(service) = self.services.get(key) else { return Ok(None) };
            let all = self.services.list();
            let others = all.iter().filter(|other| ObjectKey::of(other.as_ref()) != *key);
            let ops = match self.pool {
                Pool::Network(network) => {
                    let taken = others.flat_map(|other| addresses(other)).collect();
                    plan(&service, of_network(&service, &network, &taken), |address| network.contains(address))
                }
                Pool::Nodes => {
                    let taken =
                        others.filter(|other| is_ours(other) && !addresses(other).is_empty()).flat_map(|other| ports(other)).collect();
                    let nodes = self.nodes.list();
                    plan(&service, on_nodes(&service, nodes.iter().map(AsRef::as_ref), &taken), |_| true)
                }
            };
            Ok(self.context.executor.apply(ops).await?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(spec: Value, present: &[&str]) -> Service {
        let ingress: Vec<Value> = present.iter().map(|ip| json!({"ip": ip})).collect();
        let status = json!({"loadBalancer": {"ingress": ingress}});
        serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "s"}, "spec": spec, "status": status})).unwrap()
    }

    #[test]
    fn every_load_balancer_has_an_address_of_its_own() {
        let pool: IpNet = "10.9.0.0/29".parse().unwrap();
        let balancer = || json!({"type": "LoadBalancer"});
        let asking = |ip: &str| json!({"type": "LoadBalancer", "loadBalancerIP": ip});
        // What it has, what others have; what it has then, or the event that tells why not.
        let cases: Vec<(Service, &[&str], &str)> = vec![
            (service(balancer(), &[]), &[], "10.9.0.1"),
            (service(balancer(), &[]), &["10.9.0.1"], "10.9.0.2"),
            (service(balancer(), &["10.9.0.5"]), &["10.9.0.1"], ""),
            (service(balancer(), &["10.9.0.5"]), &["10.9.0.5"], "10.9.0.1"),
            (service(balancer(), &["192.0.2.1"]), &[], "10.9.0.1"),
            (service(balancer(), &[]), &["10.9.0.1", "10.9.0.2", "10.9.0.3", "10.9.0.4", "10.9.0.5", "10.9.0.6"], "SyncLoadBalancerFailed"),
            (service(asking("10.9.0.3"), &[]), &[], "10.9.0.3"),
            (service(asking("10.9.0.3"), &["10.9.0.1"]), &[], "10.9.0.3"),
            (service(asking("10.9.0.3"), &[]), &["10.9.0.3"], "SyncLoadBalancerFailed"),
            (service(asking("10.8.0.3"), &[]), &[], "SyncLoadBalancerFailed"),
            (service(json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/x"}), &[]), &[], ""),
            (service(json!({"type": "ClusterIP"}), &["10.9.0.1"]), &[], "none"),
            (service(json!({"type": "ClusterIP"}), &[]), &[], ""),
        ];
        for (service, others, expected) in cases {
            let taken = others.iter().map(|ip| ip.parse().unwrap()).collect();
            let ops = plan(&service, of_network(&service, &pool, &taken), |address| pool.contains(address));
            let got = ops.iter().find_map(|op| match op {
                Op::Send(request) => Some(request.body["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().unwrap_or("none").to_owned()),
                Op::Event { warning: true, reason, .. } => Some((*reason).to_owned()),
                _ => None,
            });
            assert_eq!(got.unwrap_or_default(), expected, "{:?} {others:?}", service.spec);
        }
    }

    #[test]
    fn on_nodes_a_port_is_one_services() {
        let node = |address: &str, ready: &str, labels: Value| -> Node {
            let status = json!({"addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": "n"}],
                "conditions": [{"type": "Ready", "status": ready}], "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}});
            serde_json::from_value(json!({"metadata": {"name": address, "labels": labels}, "status": status})).unwrap()
        };
        let nodes = [
            node("10.0.0.2", "True", json!({})),
            node("10.0.0.1", "True", json!({})),
            node("10.0.0.3", "Unknown", json!({})),
            node("10.0.0.4", "True", json!({EXCLUDED: ""})),
        ];
        let balancer = |port: i32| service(json!({"type": "LoadBalancer", "ports": [{"port": port}]}), &[]);
        let taken = HashSet::from([("TCP".to_owned(), 443), ("UDP".to_owned(), 80)]);
        let ready: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        assert_eq!(on_nodes(&balancer(80), &nodes, &taken), Ok(ready));
        assert_eq!(on_nodes(&balancer(443), &nodes, &taken), Err("port 443/TCP is taken".to_owned()));
        assert_eq!(on_nodes(&balancer(10250), &nodes, &taken), Err("port 10250 is the node's own".to_owned()));
        assert_eq!(on_nodes(&balancer(80), &nodes[2..], &taken), Err("no node is ready".to_owned()));
    }
}
