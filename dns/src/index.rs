//! What the cluster's names stand for, kept so that a query costs the same however many Services there are: a hash of Services with their
//! endpoints, and a hash from addresses back to them.
//!
//! The index changes by one Service, one Service's slices or one namespace at a time, and does no IO. Pods are not in it: the name of a pod is
//! its address, as CoreDNS answers with `pods insecure`.

use client::ObjectKey;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// A port by the names that SRV queries use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Its name; empty when it has none.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Its number.
    pub number: u16,
}

impl Port {
    fn new(name: Option<&String>, protocol: Option<&String>, number: i32) -> Option<Self> {
        let protocol = protocol.map_or_else(|| "tcp".to_owned(), |protocol| protocol.to_lowercase());
        Some(Self { name: name.cloned().unwrap_or_default(), protocol, number: u16::try_from(number).ok()? })
    }
}

/// What a Service's own name leads to.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Its cluster addresses.
    Addresses(Vec<IpAddr>),
    /// Its endpoints.
    Endpoints,
    /// Another name, or an address in a name's place.
    Elsewhere(String),
}

/// A Service, as far as names go.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    /// Where its name leads.
    pub target: Target,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// An address behind a Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// Its ports, which a whole slice shares.
    pub ports: Arc<[Port]>,
}

/// Endpoints by the label that stands for them below their Service's name.
pub type Endpoints = BTreeMap<String, Vec<Endpoint>>;

#[derive(Default)]
struct Entry {
    service: Option<Named>,
    endpoints: Endpoints,
}

/// Who has an address: Services as their own, and endpoints with their labels.
#[derive(Default)]
struct Holders {
    services: BTreeSet<ObjectKey>,
    endpoints: BTreeSet<(ObjectKey, String)>,
}

/// All names of the cluster.
#[derive(Default)]
pub struct Index {
    namespaces: HashSet<String>,
    entries: HashMap<ObjectKey, Entry>,
    holders: HashMap<IpAddr, Holders>,
    changes: u32,
}

impl Index {
    /// Whether there is such a namespace.
    pub fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name)
    }

    /// A Service.
    pub fn service(&self, key: &ObjectKey) -> Option<&Named> {
        self.entries.get(key)?.service.as_ref()
    }

    /// The endpoints of a Service that are ready.
    pub fn endpoints(&self, key: &ObjectKey) -> Option<&Endpoints> {
        self.entries.get(key).map(|entry| &entry.endpoints)
    }

    /// Whose address this is: a Service's own, and else endpoints with their labels.
    pub fn names_of(&self, address: &IpAddr) -> Vec<(&ObjectKey, Option<&str>)> {
        let Some(holders) = self.holders.get(address) else { return Vec::new() };
        if !holders.services.is_empty() {
            return holders.services.iter().map(|key| (key, None)).collect();
        }
        holders.endpoints.iter().map(|(key, label)| (key, Some(label.as_str()))).collect()
    }

    /// How often the index has changed, which serves as the zone's serial number.
    pub fn serial(&self) -> u32 {
        self.changes
    }

    /// Takes in that a namespace is there or gone.
    pub fn set_namespace(&mut self, name: &str, present: bool) {
        self.changes = self.changes.wrapping_add(1);
        match present {
            true => self.namespaces.insert(name.to_owned()),
            false => self.namespaces.remove(name),
        };
    }

    /// Takes in a Service, or that it is gone.
    pub fn set_service(&mut self, key: &ObjectKey, service: Option<&Service>) {
        let new = service.map(named);
        let entry = self.entries.entry(key.clone()).or_default();
        let old = std::mem::replace(&mut entry.service, new);
        if entry.service == old {
            self.forget_if_empty(key);
            return;
        }
        let now = entry.service.as_ref().map(addresses).unwrap_or_default().to_vec();
        for address in old.as_ref().map(addresses).unwrap_or_default() {
            self.release(address, |holders| holders.services.remove(key));
        }
        for address in now {
            self.holders.entry(address).or_default().services.insert(key.clone());
        }
        self.forget_if_empty(key);
        self.changes = self.changes.wrapping_add(1);
    }

    /// Takes in all slices of a Service.
    pub fn set_endpoints(&mut self, key: &ObjectKey, slices: &[Arc<EndpointSlice>]) {
        let new = endpoints(slices);
        let entry = self.entries.entry(key.clone()).or_default();
        if entry.endpoints == new {
            self.forget_if_empty(key);
            return;
        }
        let holders = |of: &Endpoints| -> BTreeSet<(IpAddr, String)> {
            of.iter().flat_map(|(label, all)| all.iter().map(|endpoint| (endpoint.address, label.clone()))).collect()
        };
        let (old, now) = (holders(&entry.endpoints), holders(&new));
        entry.endpoints = new;
        for (address, label) in old.difference(&now) {
            self.release(address, |holders| holders.endpoints.remove(&(key.clone(), label.clone())));
        }
        for (address, label) in now.difference(&old) {
            self.holders.entry(*address).or_default().endpoints.insert((key.clone(), label.clone()));
        }
        self.forget_if_empty(key);
        self.changes = self.changes.wrapping_add(1);
    }

    fn release(&mut self, address: &IpAddr, remove: impl FnOnce(&mut Holders) -> bool) {
        let Some(holders) = self.holders.get_mut(address) else { return };
        remove(holders);
        if holders.services.is_empty() && holders.endpoints.is_empty() {
            self.holders.remove(address);
        }
    }

    fn forget_if_empty(&mut self, key: &ObjectKey) {
        if self.entries.get(key).is_some_and(|entry| entry.service.is_none() && entry.endpoints.is_empty()) {
            self.entries.remove(key);
        }
    }
}

fn addresses(service: &Named) -> &[IpAddr] {
    match &service.target {
        Target::Addresses(addresses) => addresses,
        Target::Endpoints | Target::Elsewhere(_) => &[],
    }
}

fn named(service: &Service) -> Named {
    let spec = service.spec.clone().unwrap_or_default();
    let ports = spec.ports.iter().flatten();
    let ports = ports.filter_map(|port| Port::new(port.name.as_ref(), port.protocol.as_ref(), port.port)).collect();
    if spec.type_.as_deref() == Some("ExternalName") {
        return Named { target: Target::Elsewhere(spec.external_name.unwrap_or_default()), ports };
    }
    let given = spec.cluster_ips.filter(|all| !all.is_empty()).unwrap_or_else(|| spec.cluster_ip.into_iter().collect());
    let addresses: Vec<IpAddr> = given.iter().filter_map(|address| address.parse().ok()).collect();
    Named { target: if addresses.is_empty() { Target::Endpoints } else { Target::Addresses(addresses) }, ports }
}

/// The ready endpoints of all slices; an address that several slices name with the same ports counts once.
fn endpoints(slices: &[Arc<EndpointSlice>]) -> Endpoints {
    let mut found = Endpoints::new();
    // Slices of host names have no addresses to give.
    for slice in slices.iter().filter(|slice| slice.address_type != "FQDN") {
        let ports = slice.ports.iter().flatten();
        let ports: Arc<[Port]> =
            ports.filter_map(|port| Port::new(port.name.as_ref(), port.protocol.as_ref(), port.port.unwrap_or_default())).collect();
        let ready = slice.endpoints.iter().flatten().filter(|endpoint| {
            let conditions = endpoint.conditions.as_ref();
            conditions.and_then(|conditions| conditions.ready).unwrap_or(true)
        });
        for endpoint in ready {
            for address in endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok()) {
                let label = endpoint.hostname.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| address_label(&address));
                let all = found.entry(label.to_lowercase()).or_default();
                let endpoint = Endpoint { address, ports: ports.clone() };
                if !all.contains(&endpoint) {
                    all.push(endpoint);
                }
            }
        }
    }
    found
}

/// The label of an endpoint without a host name: its address, with dashes.
pub fn address_label(address: &IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

/// The address that such a label stands for.
pub fn label_address(label: &str) -> Option<IpAddr> {
    let four = label.replace('-', ".").parse().ok().map(IpAddr::V4);
    four.or_else(|| label.replace('-', ":").parse().ok().map(IpAddr::V6))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{headless, service, slice};
    use serde_json::json;

    #[test]
    fn addresses_and_labels_are_each_others_inverse() {
        for (address, label) in [("10.1.2.3", "10-1-2-3"), ("2001:db8::7", "2001-db8--7"), ("::1", "--1")] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!((address_label(&address).as_str(), label_address(label)), (label, Some(address)));
        }
        for label in ["10-1-2", "10-1-2-3-4", "busybox", "", "10-1-2-300"] {
            assert_eq!(label_address(label), None, "{label}");
        }
    }

    #[test]
    fn addresses_lead_back_and_are_forgotten() {
        let mut index = Index::default();
        let (web, db) = (ObjectKey::new("ns", "web"), ObjectKey::new("ns", "db"));
        let endpoint = json!([{"addresses": ["10.0.0.1"], "hostname": "db-0"}, {"addresses": ["10.0.0.2"]}]);
        index.set_service(&web, Some(&service("ns", "web", "10.96.0.5", json!([{"port": 80}]))));
        index.set_service(&db, Some(&headless("ns", "db", json!([]))));
        index.set_endpoints(&db, &[slice("ns", "db", endpoint.clone(), json!([]))]);
        index.set_endpoints(&web, &[slice("ns", "web", endpoint, json!([{"port": 8080}]))]);
        let names = |index: &Index, address: &str| -> Vec<String> {
            let of = index.names_of(&address.parse().unwrap());
            of.iter().map(|(key, label)| format!("{}.{key}", label.unwrap_or_default())).collect()
        };
        assert_eq!(names(&index, "10.96.0.5"), [".ns/web"]);
        assert_eq!(names(&index, "10.0.0.1"), ["db-0.ns/db", "db-0.ns/web"]);
        assert_eq!(names(&index, "10.0.0.2"), ["10-0-0-2.ns/db", "10-0-0-2.ns/web"]);
        index.set_service(&web, Some(&service("ns", "web", "10.96.0.6", json!([{"port": 80}]))));
        assert!(names(&index, "10.96.0.5").is_empty());
        index.set_endpoints(&web, &[]);
        assert_eq!(names(&index, "10.0.0.2"), ["10-0-0-2.ns/db"]);
        for key in [&web, &db] {
            index.set_service(key, None);
            index.set_endpoints(key, &[]);
        }
        assert!(index.holders.is_empty() && index.entries.is_empty());
    }

    #[test]
    fn what_changes_nothing_leaves_the_serial_alone() {
        let mut index = Index::default();
        let key = ObjectKey::new("ns", "web");
        let found = service("ns", "web", "10.96.0.5", json!([{"port": 80}]));
        index.set_service(&key, Some(&found));
        let serial = index.serial();
        index.set_service(&key, Some(&found));
        index.set_endpoints(&key, &[]);
        assert_eq!(index.serial(), serial);
    }

    #[test]
    fn only_ready_endpoints_count_and_each_once() {
        let all = json!([
            {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
            {"addresses": ["10.0.0.3"]},
        ]);
        let slices = [slice("ns", "web", all.clone(), json!([{"port": 80}])), slice("ns", "web", all, json!([{"port": 80}]))];
        let labels: Vec<(String, usize)> = endpoints(&slices).into_iter().map(|(label, all)| (label, all.len())).collect();
        assert_eq!(labels, [("10-0-0-1".to_owned(), 1), ("10-0-0-3".to_owned(), 1)]);
    }
}
