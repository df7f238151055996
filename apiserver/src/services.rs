//! Addresses and node ports of services: taken from their ranges when a service is made or changed
//! (upstream: `pkg/registry/core/service/{ipallocator,portallocator}`).
//!
//! What is taken is read from the services in the cache; what is being written is remembered until the write is over, so that two services made
//! at once do not get one address. There is no allocation in the store besides the services themselves.

use crate::registry::{Endpoint, Registry};
use api::field::{ErrorList, Path};
use api::{Object, StatusError, status::Result};
use k8s_openapi::api::core::v1::{Service, ServicePort};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Where addresses and ports come from.
pub struct Services {
    range: Ipv4Range,
    ports: RangeInclusive<u16>,
    pending: Arc<Mutex<Pending>>,
}

/// An IPv4 network.
#[derive(Clone, Copy, Debug)]
struct Ipv4Range {
    first: u32,
    size: u32,
}

impl Ipv4Range {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split(',').next()?.trim().split_once('/')?;
        let (address, bits): (Ipv4Addr, u32) = (address.parse().ok()?, bits.parse().ok()?);
        let mask = u32::MAX.checked_shl(32 - bits).filter(|_| (1..=30).contains(&bits))?;
        Some(Ipv4Range { first: u32::from(address) & mask, size: !mask })
    }

    fn contains(&self, address: Ipv4Addr) -> bool {
        let offset = u32::from(address).wrapping_sub(self.first);
        offset > 0 && offset < self.size
    }
}

/// What writes that are under way have taken.
#[derive(Default)]
struct Pending {
    addresses: HashSet<Ipv4Addr>,
    ports: HashSet<u16>,
}

/// What one write has taken; given back when the write is over and the cache knows.
pub struct Allocation {
    pending: Arc<Mutex<Pending>>,
    addresses: Vec<Ipv4Addr>,
    ports: Vec<u16>,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        let mut pending = self.pending.lock();
        self.addresses.iter().for_each(|a| {
            pending.addresses.remove(a);
        });
        self.ports.iter().for_each(|p| {
            pending.ports.remove(p);
        });
    }
}

/// Everything that is taken now.
struct Taken {
    addresses: HashSet<Ipv4Addr>,
    ports: HashSet<u16>,
}

fn addresses(service: &Service) -> impl Iterator<Item = Ipv4Addr> {
    let spec = service.spec.as_ref();
    let listed = spec.and_then(|s| s.cluster_ips.clone()).unwrap_or_default();
    let first = spec.and_then(|s| s.cluster_ip.clone());
    listed.into_iter().chain(first).filter_map(|a| a.parse().ok())
}

fn node_ports(service: &Service) -> Vec<u16> {
    let spec = service.spec.as_ref();
    let ports = spec.and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let health = spec.and_then(|s| s.health_check_node_port);
    ports.iter().filter_map(|p| p.node_port).chain(health).filter_map(|p| u16::try_from(p).ok()).filter(|p| *p > 0).collect()
}

fn type_of(service: &Service) -> &str {
    service.spec.as_ref().and_then(|s| s.type_.as_deref()).unwrap_or("ClusterIP")
}

impl Services {
    /// `range` is `--service-cluster-ip-range`, of which the first, an IPv4 one, counts.
    pub fn new(range: &str, ports: RangeInclusive<u16>) -> anyhow::Result<Self> {
        let range = Ipv4Range::parse(range).ok_or_else(|| anyhow::anyhow!("--service-cluster-ip-range {range:?}: want an IPv4 network"))?;
        Ok(Services { range, ports, pending: Arc::default() })
    }

    fn taken(&self, registry: &Registry) -> Taken {
        let mut taken = Taken { addresses: HashSet::new(), ports: HashSet::new() };
        let cache = registry.stored_endpoint("", "services").and_then(|e| e.cache.clone());
        for entry in cache.iter().flat_map(|c| c.all()) {
            let Ok(service) = serde_json::from_slice::<Service>(entry.text()) else { continue };
            taken.addresses.extend(addresses(&service));
            taken.ports.extend(node_ports(&service));
        }
        let pending = self.pending.lock();
        taken.addresses.extend(&pending.addresses);
        taken.ports.extend(&pending.ports);
        taken
    }

    /// Gives a new service what it needs. Other kinds pass.
    pub(crate) fn on_create(&self, registry: &Registry, endpoint: &Endpoint, object: &mut dyn Object) -> Result<Option<Allocation>> {
        let Some(service) = object.downcast_mut::<Service>() else { return Ok(None) };
        self.allocate(registry, endpoint, service, None).map(Some)
    }

    /// Gives a changed service what it needs besides what it has.
    pub(crate) fn on_update(
        &self,
        registry: &Registry,
        endpoint: &Endpoint,
        object: &mut dyn Object,
        old: &dyn Object,
    ) -> Result<Option<Allocation>> {
        let (Some(service), Some(old)) = (object.downcast_mut::<Service>(), old.downcast_ref::<Service>()) else { return Ok(None) };
        self.allocate(registry, endpoint, service, Some(old)).map(Some)
    }

    fn allocate(&self, registry: &Registry, endpoint: &Endpoint, service: &mut Service, old: Option<&Service>) -> Result<Allocation> {
        let mut allocation = Allocation { pending: self.pending.clone(), addresses: Vec::new(), ports: Vec::new() };
        if type_of(service) == "ExternalName" {
            return Ok(allocation);
        }
        if let Some(spec) = service.spec.as_mut() {
            // There is one range, of one family.
            spec.ip_family_policy.get_or_insert_with(|| "SingleStack".into());
            spec.ip_families.get_or_insert_with(|| vec!["IPv4".into()]);
        }
        let mut taken = self.taken(registry);
        if let Some(old) = old {
            addresses(old).for_each(|a| {
                taken.addresses.remove(&a);
            });
            node_ports(old).iter().for_each(|p| {
                taken.ports.remove(p);
            });
        }
        let mut errors = ErrorList::new();
        self.addresses(service, old, &taken, &mut allocation, &mut errors);
        self.node_ports(service, old, &taken, &mut allocation, &mut errors);
        if !errors.is_empty() {
            let row = &*endpoint.row;
            return Err(StatusError::invalid(&row.group, &row.kind, service.metadata.name.as_deref().unwrap_or(""), errors));
        }
        let mut pending = self.pending.lock();
        pending.addresses.extend(&allocation.addresses);
        pending.ports.extend(&allocation.ports);
        drop(pending);
        Ok(allocation)
    }

    fn addresses(&self, service: &mut Service, old: Option<&Service>, taken: &Taken, allocation: &mut Allocation, errors: &mut ErrorList) {
        let kept: HashSet<Ipv4Addr> = old.into_iter().flat_map(addresses).collect();
        let Some(spec) = service.spec.as_mut() else { return };
        let asked = spec.cluster_ips.as_ref().and_then(|l| l.first().cloned()).or_else(|| spec.cluster_ip.clone()).unwrap_or_default();
        let path = Path::new("spec").child("clusterIPs");
        let address = match asked.as_str() {
            "None" => {
                spec.cluster_ip = Some("None".into());
                spec.cluster_ips = Some(vec!["None".into()]);
                return;
            }
            "" => match self.free_address(taken) {
                Some(address) => address,
                None => {
                    errors.internal(&path, "failed to allocate a serviceIP: range is full");
                    return;
                }
            },
            text => match text.parse::<IpAddr>() {
                Ok(IpAddr::V4(address)) if kept.contains(&address) => return,
                Ok(IpAddr::V4(address)) if !self.range.contains(address) => {
                    let why = format!("failed to allocate IP {address}: the provided network does not match the current range");
                    errors.invalid(&path, serde_json::json!([text]), &why);
                    return;
                }
                Ok(IpAddr::V4(address)) if taken.addresses.contains(&address) => {
                    errors.invalid(
                        &path,
                        serde_json::json!([text]),
                        &format!("failed to allocate IP {address}: provided IP is already allocated"),
                    );
                    return;
                }
                Ok(IpAddr::V4(address)) => address,
                // Validation has said what is wrong with anything else.
                _ => return,
            },
        };
        allocation.addresses.push(address);
        spec.cluster_ip = Some(address.to_string());
        spec.cluster_ips = Some(vec![address.to_string()]);
    }

    /// A free address, from the upper part of the range first: the lower part is for those who choose their own (KEP-3070).
    fn free_address(&self, taken: &Taken) -> Option<Ipv4Addr> {
        let Ipv4Range { first, size, .. } = self.range;
        let reserved = (size / 16).clamp(16.min(size / 2), 256);
        let (low, high) = (first + reserved + 1, first + size - 1);
        let span = high.saturating_sub(low) + 1;
        let start = rand::random_range(0..span);
        let upper = (0..span).map(|i| low + (start + i) % span);
        let lower = first + 1..low;
        upper.chain(lower).map(Ipv4Addr::from).find(|a| !taken.addresses.contains(a))
    }

    fn node_ports(&self, service: &mut Service, old: Option<&Service>, taken: &Taken, allocation: &mut Allocation, errors: &mut ErrorList) {
        let kind = type_of(service).to_owned();
        let kept: Vec<u16> = old.map(node_ports).unwrap_or_default();
        let Some(spec) = service.spec.as_mut() else { return };
        let wanted = kind == "NodePort" || (kind == "LoadBalancer" && spec.allocate_load_balancer_node_ports != Some(false));
        let mut used: Vec<(u16, Option<String>)> = Vec::new();
        let path = Path::new("spec").child("ports");
        let mut missing: Vec<usize> = Vec::new();
        let ports = spec.ports.as_deref_mut().unwrap_or_default();
        for (index, port) in ports.iter_mut().enumerate() {
            let at = path.index(index).child("nodePort");
            match port.node_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0) {
                Some(asked) if matches!(kind.as_str(), "NodePort" | "LoadBalancer") => {
                    let shared = used.iter().any(|(p, protocol)| *p == asked && *protocol != port.protocol);
                    if !self.ports.contains(&asked) && !kept.contains(&asked) {
                        let (first, last) = (self.ports.start(), self.ports.end());
                        let why = format!("provided port is not in the valid range. The range of valid ports is {first}-{last}");
                        errors.invalid(&at, i64::from(asked), &why);
                    } else if taken.ports.contains(&asked) && !shared {
                        errors.invalid(&at, i64::from(asked), "provided port is already allocated");
                    } else {
                        used.push((asked, port.protocol.clone()));
                        allocation.ports.push(asked);
                    }
                }
                Some(_) => {}
                None if wanted => missing.push(index),
                None => {}
            }
        }
        for index in missing {
            // A port of the same number and another protocol shares its node port.
            let twin = ports.iter().enumerate().find(|(i, p)| *i != index && twins(p, &ports[index]) && p.node_port.unwrap_or(0) > 0);
            let found = match twin.and_then(|(_, p)| p.node_port) {
                Some(shared) => u16::try_from(shared).ok(),
                None => self.free_port(taken, &used),
            };
            match found {
                Some(port) => {
                    used.push((port, ports[index].protocol.clone()));
                    allocation.ports.push(port);
                    ports[index].node_port = Some(i32::from(port));
                }
                None => errors.internal(&path.index(index).child("nodePort"), "failed to allocate a nodePort: range is full"),
            }
        }
        let local = spec.external_traffic_policy.as_deref() == Some("Local") && kind == "LoadBalancer";
        if local && spec.health_check_node_port.unwrap_or(0) == 0 {
            match self.free_port(taken, &used) {
                Some(port) => {
                    allocation.ports.push(port);
                    spec.health_check_node_port = Some(i32::from(port));
                }
                None => errors.internal(&Path::new("spec").child("healthCheckNodePort"), "failed to allocate a nodePort: range is full"),
            }
        }
    }

    fn free_port(&self, taken: &Taken, used: &[(u16, Option<String>)]) -> Option<u16> {
        let (first, last) = (*self.ports.start(), *self.ports.end());
        let span = u32::from(last - first) + 1;
        let start = rand::random_range(0..span);
        let candidates = (0..span).filter_map(|i| u16::try_from(u32::from(first) + (start + i) % span).ok());
        candidates.into_iter().find(|p| !taken.ports.contains(p) && !used.iter().any(|(u, _)| u == p))
    }
}

fn twins(a: &ServicePort, b: &ServicePort) -> bool {
    a.port == b.port && a.protocol != b.protocol
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn allocate(spec: serde_json::Value, taken: Taken) -> (Service, Vec<String>) {
        let services = Services::new("10.96.0.0/24", 30000..=30002).unwrap();
        let mut service: Service = serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": spec})).unwrap();
        let mut allocation = Allocation { pending: Arc::default(), addresses: Vec::new(), ports: Vec::new() };
        let mut errors = ErrorList::new();
        services.addresses(&mut service, None, &taken, &mut allocation, &mut errors);
        services.node_ports(&mut service, None, &taken, &mut allocation, &mut errors);
        (service, errors.0.iter().map(|e| format!("{}: {}", e.path, e.message)).collect())
    }

    fn nothing() -> Taken {
        Taken { addresses: HashSet::new(), ports: HashSet::new() }
    }

    #[test]
    fn addresses_come_from_the_range() {
        let (service, errors) = allocate(json!({}), nothing());
        let address: Ipv4Addr = service.spec.unwrap().cluster_ip.unwrap().parse().unwrap();
        assert!(errors.is_empty() && address.octets()[..3] == [10, 96, 0] && address.octets()[3] > 16);
        let taken = Taken { addresses: [Ipv4Addr::new(10, 96, 0, 9)].into(), ports: HashSet::new() };
        let (_, errors) = allocate(json!({"clusterIP": "10.96.0.9"}), taken);
        assert_eq!(
            errors,
            ["spec.clusterIPs: Invalid value: [\"10.96.0.9\"]: failed to allocate IP 10.96.0.9: provided IP is already allocated"]
        );
        let (_, errors) = allocate(json!({"clusterIP": "10.97.0.9"}), nothing());
        assert!(errors[0].ends_with("the provided network does not match the current range"), "{errors:?}");
        assert_eq!(allocate(json!({"clusterIP": "None"}), nothing()).0.spec.unwrap().cluster_ips.unwrap(), ["None"]);
    }

    #[test]
    fn node_ports_come_from_the_range_and_twins_share() {
        let ports = json!([{"port": 53, "protocol": "TCP", "name": "a"}, {"port": 53, "protocol": "UDP", "name": "b"}]);
        let (service, errors) = allocate(json!({"type": "NodePort", "ports": ports}), nothing());
        let ports = service.spec.unwrap().ports.unwrap();
        assert!(errors.is_empty() && ports[0].node_port == ports[1].node_port && ports[0].node_port.unwrap() >= 30000);
        let taken = Taken { addresses: HashSet::new(), ports: [30000, 30001, 30002].into() };
        let (_, errors) = allocate(json!({"type": "NodePort", "ports": [{"port": 1}, {"port": 2, "nodePort": 30001}]}), taken);
        assert_eq!(errors.len(), 2, "{errors:?}");
    }
}
