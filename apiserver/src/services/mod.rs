//! Addresses and node ports of services: taken from their ranges when a service is made or changed, given back when it goes
//! (upstream: `pkg/registry/core/service/{ipallocator,portallocator}`).
//!
//! An address that is taken is an IPAddress object, made before its service is written: who makes it has the address, whichever server that is. What is left
//! behind by a server that ends in between is found by `repair`. Node ports that are taken are read from the services in the cache; what is being written is
//! remembered until the write is over, so that two services made at once do not get one port.
//!
//! Services have one address, of IPv4.

mod addresses;
pub mod repair;

use crate::registry::{Registry, Write};
use addresses::Owner;
use api::field::{ErrorList, Path};
use api::resources::networking::AddressRange;
use api::{Object, StatusError, status::Result};
use k8s_openapi::api::core::v1::{Service, ServicePort};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Where addresses and ports come from.
pub struct Services {
    /// While there is no ServiceCIDR yet.
    range: AddressRange,
    ports: RangeInclusive<u16>,
    pending: Arc<Mutex<HashSet<u16>>>,
}

/// What one write takes and gives back.
pub struct Allocation {
    pending: Arc<Mutex<HashSet<u16>>>,
    /// Taken, and given back when the write is over and the cache knows.
    ports: Vec<u16>,
    owner: Owner,
    /// Made for this write.
    taken: Vec<IpAddr>,
    /// Not needed any more once it is written.
    left: Vec<IpAddr>,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        let mut pending = self.pending.lock();
        self.ports.iter().for_each(|port| {
            pending.remove(port);
        });
    }
}

/// The addresses that a service has.
fn addresses(service: &Service) -> HashSet<IpAddr> {
    let spec = service.spec.as_ref();
    let listed = spec.and_then(|s| s.cluster_ips.clone()).unwrap_or_default();
    let first = spec.and_then(|s| s.cluster_ip.clone());
    listed.into_iter().chain(first).filter_map(|a| a.parse().ok()).collect()
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

/// What a service's address has to become.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    /// It stays, or there is to be none.
    Nothing,
    /// Any.
    Any,
    /// This one.
    This(IpAddr),
}

/// What the service asks for; `old` is what it has.
fn wish(service: &Service, old: &HashSet<IpAddr>) -> Wish {
    let spec = service.spec.as_ref();
    let asked = spec.and_then(|s| s.cluster_ips.iter().flatten().next().or(s.cluster_ip.as_ref()));
    match asked.map_or("", String::as_str) {
        "None" => Wish::Nothing,
        "" => Wish::Any,
        // Validation has said what is wrong with anything that is no address.
        text => text.parse().ok().filter(|address| !old.contains(address)).map_or(Wish::Nothing, Wish::This),
    }
}

/// The node ports that services have, those of `old` apart, and those that are `pending`.
fn taken_ports(registry: &Registry, pending: HashSet<u16>, old: &[u16]) -> HashSet<u16> {
    let mut taken = pending;
    let cache = registry.stored_endpoint("", "services").and_then(|e| e.cache.clone());
    for entry in cache.iter().flat_map(|c| c.all()) {
        let Ok(service) = serde_json::from_slice::<Service>(entry.text()) else { continue };
        taken.extend(node_ports(&service));
    }
    old.iter().for_each(|port| {
        taken.remove(port);
    });
    taken
}

impl Services {
    /// `range` is `--service-cluster-ip-range`, of which the first, an IPv4 one, counts.
    pub fn new(range: &str, ports: RangeInclusive<u16>) -> anyhow::Result<Self> {
        let first = range.split(',').next().map_or("", str::trim);
        let parsed = AddressRange::parse(first).filter(AddressRange::is_ipv4);
        let parsed = parsed.ok_or_else(|| anyhow::anyhow!("--service-cluster-ip-range {range:?}: want an IPv4 network"))?;
        Ok(Services { range: parsed, ports, pending: Arc::default() })
    }

    /// Gives a service what it needs besides what it, as `old`, has. Other kinds pass.
    pub(crate) async fn allocate(
        &self,
        registry: &Registry,
        write: &Write<'_>,
        object: &mut dyn Object,
        old: Option<&dyn Object>,
    ) -> Result<Option<Allocation>> {
        let Some(service) = object.downcast_mut::<Service>() else { return Ok(None) };
        let old = old.and_then(|old| old.downcast_ref::<Service>());
        let had = old.map(addresses).unwrap_or_default();
        let owner = Owner::of(&service.metadata);
        let mut allocation = Allocation { pending: self.pending.clone(), ports: Vec::new(), owner, taken: Vec::new(), left: Vec::new() };
        if type_of(service) != "ExternalName" {
            let mut errors = ErrorList::new();
            self.ports(registry, service, old, &mut allocation, &mut errors)?;
            if errors.is_empty() {
                self.address(registry, write, service, &had, &mut allocation, &mut errors).await?;
            }
            if !errors.is_empty() {
                let row = &*write.endpoint.row;
                return Err(StatusError::invalid(&row.group, &row.kind, service.metadata.name.as_deref().unwrap_or(""), errors));
            }
        }
        let has = addresses(service);
        allocation.left = had.into_iter().filter(|address| !has.contains(address)).collect();
        Ok(Some(allocation))
    }

    /// After the write: gives back what it left or, if it failed, what it had taken.
    pub(crate) async fn settle(&self, registry: &Registry, write: &Write<'_>, allocation: Option<Allocation>, written: bool) {
        let Some(allocation) = allocation.filter(|_| !write.dry_run) else { return };
        for address in if written { &allocation.left } else { &allocation.taken } {
            addresses::release(registry, *address, &allocation.owner).await;
        }
    }

    /// Gives back what a deleted service had. Other kinds pass.
    pub(crate) async fn release(&self, registry: &Registry, write: &Write<'_>, object: &dyn Object) {
        let Some(service) = object.downcast_ref::<Service>().filter(|_| !write.dry_run) else { return };
        let owner = Owner::of(&service.metadata);
        for address in addresses(service) {
            addresses::release(registry, address, &owner).await;
        }
    }

    /// Takes the address that a service asks for.
    async fn address(
        &self,
        registry: &Registry,
        write: &Write<'_>,
        service: &mut Service,
        had: &HashSet<IpAddr>,
        allocation: &mut Allocation,
        errors: &mut ErrorList,
    ) -> Result<()> {
        let wish = wish(service, had);
        let Some(spec) = service.spec.as_mut() else { return Ok(()) };
        spec.ip_family_policy.get_or_insert_with(|| "SingleStack".into());
        spec.ip_families.get_or_insert_with(|| vec!["IPv4".into()]);
        let path = Path::new("spec").child("clusterIPs");
        let ranges = || addresses::open_ranges(registry, self.range);
        let address = match wish {
            Wish::Nothing => {
                if spec.cluster_ips.as_ref().is_some_and(|l| l.first().is_some_and(|a| a == "None"))
                    || spec.cluster_ip.as_deref() == Some("None")
                {
                    spec.cluster_ip = Some("None".into());
                    spec.cluster_ips = Some(vec!["None".into()]);
                }
                return Ok(());
            }
            Wish::This(address) => {
                let ranges = ranges();
                let why = if let Some(range) = ranges.iter().find(|range| range.is_reserved(address)) {
                    format!("the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}")
                } else if !ranges.iter().any(|range| range.contains(address)) {
                    "the provided network does not match the current range".to_owned()
                } else if !addresses::claim(registry, address, &allocation.owner, write.dry_run).await? {
                    "provided IP is already allocated".to_owned()
                } else {
                    String::new()
                };
                if !why.is_empty() {
                    let why = format!("failed to allocate IP {address}: {why}");
                    errors.invalid(&path, serde_json::json!([address.to_string()]), &why);
                    return Ok(());
                }
                address
            }
            Wish::Any => match addresses::claim_any(registry, ranges(), &allocation.owner, write.dry_run).await? {
                Some(address) => address,
                None => return Err(StatusError::internal("failed to allocate a serviceIP: range is full")),
            },
        };
        allocation.taken.push(address);
        spec.cluster_ip = Some(address.to_string());
        spec.cluster_ips = Some(vec![address.to_string()]);
        Ok(())
    }

    /// Takes the node ports that a service asks for.
    fn ports(
        &self,
        registry: &Registry,
        service: &mut Service,
        old: Option<&Service>,
        allocation: &mut Allocation,
        errors: &mut ErrorList,
    ) -> Result<()> {
        if !matches!(type_of(service), "NodePort" | "LoadBalancer") {
            return Ok(());
        }
        let kept = old.map(node_ports).unwrap_or_default();
        // Held from looking to taking: the next one sees what this one took.
        let mut pending = self.pending.lock();
        let taken = taken_ports(registry, pending.clone(), &kept);
        let allocated = self.node_ports(service, &kept, &taken, &mut allocation.ports, errors);
        pending.extend(&allocation.ports);
        allocated
    }

    fn node_ports(
        &self,
        service: &mut Service,
        kept: &[u16],
        taken: &HashSet<u16>,
        allocated: &mut Vec<u16>,
        errors: &mut ErrorList,
    ) -> Result<()> {
        let full = || StatusError::internal("failed to allocate a nodePort: range is full");
        let kind = type_of(service).to_owned();
        let Some(spec) = service.spec.as_mut() else { return Ok(()) };
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
                    } else if taken.contains(&asked) && !shared {
                        errors.invalid(&at, i64::from(asked), "provided port is already allocated");
                    } else {
                        used.push((asked, port.protocol.clone()));
                        allocated.push(asked);
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
            let port = found.ok_or_else(full)?;
            used.push((port, ports[index].protocol.clone()));
            allocated.push(port);
            ports[index].node_port = Some(i32::from(port));
        }
        let local = spec.external_traffic_policy.as_deref() == Some("Local") && kind == "LoadBalancer";
        if local && spec.health_check_node_port.unwrap_or(0) == 0 {
            let port = self.free_port(taken, &used).ok_or_else(full)?;
            allocated.push(port);
            spec.health_check_node_port = Some(i32::from(port));
        }
        Ok(())
    }

    fn free_port(&self, taken: &HashSet<u16>, used: &[(u16, Option<String>)]) -> Option<u16> {
        let (first, last) = (*self.ports.start(), *self.ports.end());
        let span = u32::from(last - first) + 1;
        let start = rand::random_range(0..span);
        let candidates = (0..span).filter_map(|i| u16::try_from(u32::from(first) + (start + i) % span).ok());
        candidates.into_iter().find(|p| !taken.contains(p) && !used.iter().any(|(u, _)| u == p))
    }
}

fn twins(a: &ServicePort, b: &ServicePort) -> bool {
    a.port == b.port && a.protocol != b.protocol
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(spec: serde_json::Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": spec})).unwrap()
    }

    #[test]
    fn an_address_is_taken_when_it_is_not_had_already() {
        let had: HashSet<IpAddr> = ["10.96.0.9".parse().unwrap()].into();
        for (spec, wanted) in [
            (json!({}), Wish::Any),
            (json!({"clusterIP": ""}), Wish::Any),
            (json!({"clusterIP": "None"}), Wish::Nothing),
            (json!({"clusterIP": "10.96.0.9"}), Wish::Nothing),
            (json!({"clusterIP": "10.96.0.8"}), Wish::This("10.96.0.8".parse().unwrap())),
            (json!({"clusterIPs": ["10.96.0.7"]}), Wish::This("10.96.0.7".parse().unwrap())),
        ] {
            assert_eq!(wish(&service(spec.clone()), &had), wanted, "{spec}");
        }
    }

    fn ports(spec: serde_json::Value, taken: &[u16]) -> (Service, Vec<String>) {
        let services = Services::new("10.96.0.0/24", 30000..=30002).unwrap();
        let mut service = service(spec);
        let mut errors = ErrorList::new();
        let answer = services.node_ports(&mut service, &[], &taken.iter().copied().collect(), &mut Vec::new(), &mut errors);
        let refused = errors.0.iter().map(|e| format!("{}: {}", e.path, e.message));
        (service, refused.chain(answer.err().map(|error| error.to_string())).collect())
    }

    #[test]
    fn node_ports_come_from_the_range_and_twins_share() {
        let both = json!([{"port": 53, "protocol": "TCP", "name": "a"}, {"port": 53, "protocol": "UDP", "name": "b"}]);
        let (service, errors) = ports(json!({"type": "NodePort", "ports": both}), &[]);
        let given = service.spec.unwrap().ports.unwrap();
        assert!(errors.is_empty() && given[0].node_port == given[1].node_port && given[0].node_port.unwrap() >= 30000);
        let (_, errors) =
            ports(json!({"type": "NodePort", "ports": [{"port": 1}, {"port": 2, "nodePort": 30001}]}), &[30000, 30001, 30002]);
        let taken = "spec.ports[1].nodePort: Invalid value: 30001: provided port is already allocated";
        assert_eq!(errors, [taken, "Internal error occurred: failed to allocate a nodePort: range is full"]);
    }
}
