//! Endpoints of a port, and which of them this node uses (upstream: `pkg/proxy/{endpoint,topology}.go`).

use crate::family::Family;
use crate::service::{self, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint as Listed, EndpointSlice};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// One address and port behind a Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Takes new connections.
    pub ready: bool,
    /// Answers, though it may be terminating.
    pub serving: bool,
    /// On its way out.
    pub terminating: bool,
    /// On this node.
    pub local: bool,
    /// No node is named, so that it may be on this one.
    pub anywhere: bool,
    zones: Vec<String>,
    nodes: Vec<String>,
}

impl Endpoint {
    /// Takes connections only while there is nothing better.
    fn last_resort(&self) -> bool {
        self.serving && self.terminating
    }
}

/// The node on whose behalf endpoints are chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Place {
    /// The node's name.
    pub node: String,
    /// Its `topology.kubernetes.io/zone`; empty if it has none.
    pub zone: String,
}

/// The endpoints of a port, each once, ordered by address.
pub fn endpoints(slices: &[Arc<EndpointSlice>], port: &ServicePort, family: Family, place: &Place) -> Vec<Endpoint> {
    let mut found: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.address_type == family.name()) {
        let ports = slice.ports.iter().flatten();
        let matching = ports.filter(|candidate| {
            candidate.name.as_deref().unwrap_or_default() == port.name
                && service::protocol(candidate.protocol.as_deref()) == Some(port.protocol)
        });
        for number in matching.filter_map(|port| u16::try_from(port.port?).ok()) {
            for listed in slice.endpoints.iter().flatten() {
                let Some(address) = listed.addresses.first().and_then(|address| address.parse::<IpAddr>().ok()) else { continue };
                let endpoint = endpoint(listed, SocketAddr::new(address, number), place);
                // While slices are repacked an endpoint can stand in two of them; the one that is ready is the newer.
                match found.get(&endpoint.address) {
                    Some(known) if known.ready => {}
                    _ => drop(found.insert(endpoint.address, endpoint)),
                }
            }
        }
    }
    found.into_values().collect()
}

fn endpoint(listed: &Listed, address: SocketAddr, place: &Place) -> Endpoint {
    let conditions = listed.conditions.as_ref();
    let hints = listed.hints.as_ref();
    Endpoint {
        address,
        ready: conditions.and_then(|c| c.ready).unwrap_or(true),
        serving: conditions.and_then(|c| c.serving).unwrap_or(true),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        local: listed.node_name.as_deref() == Some(&place.node),
        anywhere: listed.node_name.is_none(),
        zones: hints.iter().flat_map(|hints| hints.for_zones.iter().flatten()).map(|zone| zone.name.clone()).collect(),
        nodes: hints.iter().flat_map(|hints| hints.for_nodes.iter().flatten()).map(|node| node.name.clone()).collect(),
    }
}

/// The endpoints that a port uses from this node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usable<'a> {
    /// For traffic policy Cluster.
    pub cluster: Vec<&'a Endpoint>,
    /// For traffic policy Local.
    pub local: Vec<&'a Endpoint>,
    /// Whether there is one anywhere, be it out of reach by policy.
    pub any: bool,
}

/// Chooses. Ready endpoints come before those that only finish what they have; hints count only when every ready endpoint has some.
pub fn usable<'a>(all: &'a [Endpoint], port: &ServicePort, place: &Place) -> Usable<'a> {
    let pick = |wanted: &dyn Fn(&Endpoint) -> bool| all.iter().filter(|endpoint| wanted(endpoint)).collect::<Vec<_>>();
    let or_last_resort = |ready: Vec<&'a Endpoint>, among: &dyn Fn(&Endpoint) -> bool| {
        if ready.is_empty() { pick(&|endpoint| among(endpoint) && endpoint.last_resort()) } else { ready }
    };
    let mut usable = Usable::default();
    if port.uses_cluster_endpoints() {
        let hinted = hinted(all, place);
        let ready = pick(&|endpoint| endpoint.ready && hinted.is_none_or(|matches| matches(endpoint, place)));
        usable.cluster = or_last_resort(ready, &|_| true);
        usable.any = !usable.cluster.is_empty();
    }
    if port.uses_local_endpoints() {
        usable.local = or_last_resort(pick(&|endpoint| endpoint.local && endpoint.ready), &|endpoint| endpoint.local);
        usable.any = usable.any || all.iter().any(|endpoint| endpoint.ready || endpoint.last_resort());
    }
    usable
}

/// How many addresses are ready on this node, whatever their ports: what load balancers weigh nodes by.
pub fn ready_here(slices: &[Arc<EndpointSlice>], place: &Place) -> usize {
    let listed = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let here = listed.filter(|listed| listed.node_name.as_deref() == Some(&place.node));
    let ready = here.filter(|listed| listed.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true));
    ready.filter_map(|listed| listed.addresses.first()).collect::<std::collections::BTreeSet<_>>().len()
}

type Has = fn(&Endpoint) -> bool;
type Hint = fn(&Endpoint, &Place) -> bool;

/// By which hints to choose: the node's, else the zone's, if every ready endpoint has such hints and one of them is meant for here.
fn hinted(all: &[Endpoint], place: &Place) -> Option<Hint> {
    let kinds: [(Has, Hint); 2] = [
        (|endpoint| !endpoint.nodes.is_empty(), |endpoint, place| endpoint.nodes.contains(&place.node)),
        (|endpoint| !endpoint.zones.is_empty(), |endpoint, place| endpoint.zones.contains(&place.zone)),
    ];
    let ready = || all.iter().filter(|endpoint| endpoint.ready);
    let kind = kinds.iter().find(|(has, here)| ready().all(has) && ready().any(|endpoint| here(endpoint, place)));
    kind.map(|(_, here)| *here)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{service, slice};
    use serde_json::{Value, json};

    fn chosen(patch: Value, listed: Value) -> (Vec<String>, Vec<String>, bool) {
        let place = Place { node: "n1".into(), zone: "z1".into() };
        let port = service::ports(&service(patch), Family::V4).remove(0);
        let all = endpoints(&[Arc::new(slice(listed))], &port, Family::V4, &place);
        let usable = usable(&all, &port, &place);
        let names = |list: &[&Endpoint]| list.iter().map(|endpoint| endpoint.address.to_string()).collect();
        (names(&usable.cluster), names(&usable.local), usable.any)
    }

    #[test]
    fn which_endpoints_are_used() {
        let up = |last: u8, node: &str| json!({"addresses": [format!("10.0.0.{last}")], "nodeName": node});
        let state = |last: u8, ready: bool, serving: bool| json!({"addresses": [format!("10.0.0.{last}")], "nodeName": "n1", "conditions": {"ready": ready, "serving": serving, "terminating": serving}});
        let zoned = |last: u8, zone: &str| json!({"addresses": [format!("10.0.0.{last}")], "hints": {"forZones": [{"name": zone}]}});
        let noded = |last: u8, node: &str| json!({"addresses": [format!("10.0.0.{last}")], "hints": {"forZones": [{"name": "z1"}], "forNodes": [{"name": node}]}});
        let external = json!({"spec": {"externalTrafficPolicy": "Local", "ports": [{"name": "http", "port": 80, "nodePort": 30000}]}});
        let internal = json!({"spec": {"internalTrafficPolicy": "Local"}});
        let (one, two) = ("10.0.0.1:8080", "10.0.0.2:8080");
        type Case<'a> = (&'a str, Value, Value, &'a [&'a str], &'a [&'a str], bool);
        let cases: [Case<'_>; 11] = [
            ("all ready ones", json!({}), json!([up(2, "n2"), up(1, "n1")]), &[one, two], &[], true),
            ("none", json!({}), json!([]), &[], &[], false),
            ("not those that are not ready", json!({}), json!([state(1, false, false), up(2, "n2")]), &[two], &[], true),
            ("nothing but terminating ones", json!({}), json!([state(1, false, true)]), &[one], &[], true),
            ("internally only local ones", internal.clone(), json!([up(1, "n1"), up(2, "n2")]), &[], &[one], true),
            ("internally no local one", internal, json!([up(2, "n2")]), &[], &[], true),
            ("external traffic", external.clone(), json!([up(1, "n1"), up(2, "n2")]), &[one, two], &[one], true),
            ("a local one that terminates", external, json!([state(1, false, true), up(2, "n2")]), &[two], &[one], true),
            ("the own zone", json!({}), json!([zoned(1, "z1"), zoned(2, "z2")]), &[one], &[], true),
            ("no zone when one has no hint", json!({}), json!([zoned(1, "z1"), up(2, "n2")]), &[one, two], &[], true),
            ("the own node before the zone", json!({}), json!([noded(1, "n1"), noded(2, "n2")]), &[one], &[], true),
        ];
        for (case, patch, listed, cluster, local, any) in cases {
            let (got_cluster, got_local, got_any) = chosen(patch, listed);
            assert_eq!((got_cluster, got_local, got_any), (strings(cluster), strings(local), any), "{case}");
        }
    }

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|&text| text.to_owned()).collect()
    }
}
