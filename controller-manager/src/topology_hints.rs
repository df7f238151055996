//! For which zone's clients an endpoint is meant, so that every zone has a part of a service's endpoints that suits its part of the cluster's CPUs
//! (`service.kubernetes.io/topology-mode: Auto`; upstream: `k8s.io/endpointslice/topologycache`).
//!
//! An endpoint is meant for its own zone, but where that leaves a zone with too few: then zones that have more give some away. What was decided before stays as
//! long as it is good enough, so that clients do not move for nothing. Where nobody can be served well all endpoints are for everybody.

use crate::nodes;
use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, ForZone};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The label of nodes that names their zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// Services' annotations that ask for it; the first wins.
const MODES: [&str; 2] = ["service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode"];
/// Nodes with these labels are no place for what uses services.
const EXCLUDED: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];
/// How much more than its share an endpoint may have to bear.
const OVERLOAD: f64 = 0.2;

/// The zones' shares of the CPUs; all are 1 together.
pub type Shares = BTreeMap<String, f64>;

/// Whether a service asks for such hints.
pub fn is_asked_for(service: &Service) -> bool {
    let annotations = service.metadata.annotations.as_ref();
    let mode = MODES.iter().find_map(|name| annotations?.get(*name));
    mode.is_some_and(|mode| mode == "Auto" || mode == "auto")
}

/// What of a node the shares are made from: its zone and CPUs in thousandths, as far as it tells, if it counts at all.
pub fn part(node: &Node) -> Option<(Option<&str>, i64)> {
    let labels = node.metadata.labels.as_ref();
    let excluded = labels.is_some_and(|labels| EXCLUDED.iter().any(|name| labels.contains_key(*name)));
    if excluded || !nodes::is_ready(node) {
        return None;
    }
    let zone = labels.and_then(|labels| labels.get(ZONE)).map(String::as_str).filter(|zone| !zone.is_empty());
    let cpu = node.status.as_ref().and_then(|status| status.allocatable.as_ref()?.get("cpu"));
    Some((zone, cpu.and_then(|cpu| Quantity::of(cpu).ok()).map_or(0, Quantity::milli_value)))
}

/// The shares; `None` if a node does not tell, or if there are no two zones.
pub fn shares(nodes: &[Arc<Node>]) -> Option<Shares> {
    let mut by_zone: BTreeMap<String, i64> = BTreeMap::new();
    for (zone, cpu) in nodes.iter().filter_map(|node| part(node)) {
        *by_zone.entry(zone.filter(|_| cpu > 0)?.to_owned()).or_default() += cpu;
    }
    let total: i64 = by_zone.values().sum();
    (by_zone.len() > 1).then(|| by_zone.into_iter().map(|(zone, cpu)| (zone, cpu as f64 / total as f64)).collect())
}

/// How many endpoints a zone should have.
struct Allocation {
    least: usize,
    most: usize,
    desired: f64,
}

fn allocations(shares: &Shares, endpoints: usize) -> Result<BTreeMap<&str, Allocation>, String> {
    let refused = |why: &str| format!("{why} ({endpoints} endpoints, {} zones)", shares.len());
    if shares.len() > endpoints {
        return Err(refused("Insufficient number of endpoints"));
    }
    let mut all = BTreeMap::new();
    for (zone, share) in shares {
        let desired = share * endpoints as f64;
        let least = (desired / (1.0 + OVERLOAD)).ceil() as usize;
        all.insert(zone.as_str(), Allocation { least, most: least, desired: desired.max(least as f64) });
    }
    let spare = endpoints
        .checked_sub(all.values().map(|allocation| allocation.least).sum())
        .ok_or_else(|| refused("Unable to allocate minimum required endpoints to each zone without exceeding overload threshold"))?;
    all.values_mut().for_each(|allocation| allocation.most += spare);
    Ok(all)
}

/// How many endpoints zones give away, and how many they receive.
fn exchange<'a>(
    allocations: &BTreeMap<&'a str, Allocation>,
    counts: &BTreeMap<String, usize>,
) -> (BTreeMap<&'a str, usize>, BTreeMap<&'a str, usize>) {
    let surplus = |zone: &str, allocation: &Allocation| counts.get(zone).copied().unwrap_or(0) as f64 - allocation.desired;
    let mut balance: BTreeMap<&str, f64> = allocations.iter().map(|(zone, allocation)| (*zone, surplus(zone, allocation))).collect();
    let (mut giving, mut receiving) = (BTreeMap::new(), BTreeMap::new());
    loop {
        let order = |a: &(&&'a str, &f64), b: &(&&'a str, &f64)| a.1.total_cmp(b.1);
        let (Some((giver, more)), Some((receiver, less))) = (balance.iter().max_by(order), balance.iter().min_by(order)) else { break };
        let (giver, more, receiver, less) = (*giver, *more, *receiver, -*less);
        if (more < 1.0 && less < 1.0) || more < 0.5 || less < 0.5 {
            break;
        }
        *giving.entry(giver).or_default() += 1;
        *receiving.entry(receiver).or_default() += 1;
        balance.entry(giver).and_modify(|left| *left -= 1.0);
        balance.entry(receiver).and_modify(|left| *left += 1.0);
    }
    (giving, receiving)
}

/// The zones that endpoints are meant for, each given by its own zone and the one that it has been meant for so far.
fn zones(shares: Option<&Shares>, endpoints: &[(Option<&str>, Option<&str>)]) -> Result<Vec<String>, String> {
    let unknown = "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes";
    let allocations = allocations(shares.ok_or(unknown)?, endpoints.len())?;
    let mut zones = Vec::with_capacity(endpoints.len());
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut settled = true;
    for (own, before) in endpoints {
        let own = own.filter(|zone| !zone.is_empty()).ok_or("One or more endpoints do not have a zone specified")?;
        let before = before.filter(|zone| allocations.contains_key(zone));
        settled &= before.is_some();
        let zone = before.unwrap_or(own).to_owned();
        *counts.entry(zone.clone()).or_default() += 1;
        zones.push(zone);
    }
    let suits = |(zone, a): (&&str, &Allocation)| (a.least..=a.most).contains(&counts.get(*zone).copied().unwrap_or(0));
    if settled && allocations.iter().all(suits) {
        return Ok(zones);
    }
    let (mut giving, mut receiving) = exchange(&allocations, &counts);
    for zone in &mut zones {
        let Some(left) = giving.get_mut(zone.as_str()).filter(|left| **left > 0) else { continue };
        let Some(mut receiver) = receiving.first_entry() else { break };
        *left -= 1;
        *zone = (*receiver.key()).to_owned();
        *receiver.get_mut() -= 1;
        if *receiver.get() == 0 {
            receiver.remove();
        }
    }
    Ok(zones)
}

/// Gives every ready endpoint its zone, or takes away what hints there are and says why. `before` knows what an endpoint has been meant for so far.
pub fn assign(shares: Option<&Shares>, endpoints: Vec<&mut Endpoint>, before: impl Fn(&Endpoint) -> Option<String>) -> Result<(), String> {
    let (mut ready, others): (Vec<_>, Vec<_>) =
        endpoints.into_iter().partition(|endpoint| endpoint.conditions.as_ref().is_some_and(|conditions| conditions.ready == Some(true)));
    others.into_iter().for_each(|endpoint| endpoint.hints = None);
    let before: Vec<Option<String>> = ready.iter().map(|endpoint| before(endpoint)).collect();
    let known: Vec<_> = ready.iter().zip(&before).map(|(endpoint, before)| (endpoint.zone.as_deref(), before.as_deref())).collect();
    let zones = zones(shares, &known);
    for (at, endpoint) in ready.iter_mut().enumerate() {
        let zone = zones.as_ref().ok().map(|zones| ForZone { name: zones[at].clone() });
        endpoint.hints = zone.map(|zone| EndpointHints { for_zones: Some(vec![zone]), for_nodes: None });
    }
    zones.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// `a:4 b:2` are nodes in zones with CPUs; `-` stands for what is missing, `!` in front for a node that is not ready, `*` for a control plane.
    fn cluster(text: &str) -> Vec<Arc<Node>> {
        let node = |text: &str| -> Arc<Node> {
            let (marks, zone_and_cpu) = text.split_at(usize::from(text.starts_with(['!', '*'])));
            let (zone, cpu) = zone_and_cpu.split_once(':').unwrap();
            let mut labels = json!({});
            if zone != "-" {
                labels[ZONE] = json!(zone);
            }
            if marks == "*" {
                labels[EXCLUDED[0]] = json!("");
            }
            let allocatable = if cpu == "-" { json!({}) } else { json!({"cpu": cpu}) };
            let ready = json!([{"type": "Ready", "status": if marks == "!" { "False" } else { "True" }}]);
            let status = json!({"allocatable": allocatable, "conditions": ready});
            Arc::new(serde_json::from_value(json!({"metadata": {"labels": labels}, "status": status})).unwrap())
        };
        text.split_whitespace().map(node).collect()
    }

    #[test]
    fn what_zones_have() {
        let shown = |text: &str| shares(&cluster(text)).map(|shares| format!("{shares:?}"));
        assert_eq!(shown("a:2 a:1 b:1").as_deref(), Some(r#"{"a": 0.75, "b": 0.25}"#));
        assert_eq!(shown("a:1 b:1 !c:8 *-:8").as_deref(), Some(r#"{"a": 0.5, "b": 0.5}"#));
        for text in ["", "a:1", "a:1 b:-", "a:1 b:1 -:1"] {
            assert_eq!(shown(text), None, "{text}");
        }
    }

    /// Endpoints are their own zones, with what they have been meant for so far after a slash.
    fn assigned(nodes: &str, endpoints: &str) -> String {
        let shares = shares(&cluster(nodes));
        let parts: Vec<_> = endpoints.split_whitespace().map(|text| text.split_once('/').unwrap_or((text, ""))).collect();
        let known: Vec<_> =
            parts.iter().map(|(own, before)| (Some(*own).filter(|own| *own != "-"), Some(*before).filter(|b| !b.is_empty()))).collect();
        zones(shares.as_ref(), &known).map_or_else(|why| why, |zones| zones.join(" "))
    }

    #[test]
    fn who_serves_whom() {
        for (nodes, endpoints, expected) in [
            ("a:1 b:1", "a b", "a b"),
            ("a:1 b:1", "a a a b", "b a a b"),
            ("a:1 b:1 c:1", "a a a a b c", "b c a a b c"),
            ("a:3 b:1", "a a a b", "a a a b"),
            ("a:1 b:1", "a a", "b a"),
            // What was decided stays, though it would be decided otherwise today.
            ("a:1 b:1", "a/a a/b a/a b/b", "a b a b"),
            ("a:1 b:1", "a/a a/b a/gone b/b", "a b a b"),
            ("a:1 b:1", "a/a a/a a/a b/b", "b a a b"),
            ("a:1 b:1", "a", "Insufficient number of endpoints (1 endpoints, 2 zones)"),
            (
                "a:10 b:1 c:1 d:1",
                "a a a a",
                "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold (4 endpoints, 4 zones)",
            ),
            ("a:1 b:1", "a -", "One or more endpoints do not have a zone specified"),
            ("a:1", "a a", "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes"),
        ] {
            assert_eq!(assigned(nodes, endpoints), expected, "{nodes}: {endpoints}");
        }
    }

    #[test]
    fn only_ready_endpoints_have_hints() {
        let endpoint = |ready: bool| -> Endpoint {
            let hints = json!({"forZones": [{"name": "old"}]});
            serde_json::from_value(json!({"addresses": [], "zone": "a", "conditions": {"ready": ready}, "hints": hints})).unwrap()
        };
        let mut all = [endpoint(true), endpoint(false), endpoint(true)];
        let hints =
            |all: &[Endpoint]| all.iter().map(|endpoint| json!(endpoint.hints)["forZones"][0]["name"].clone()).collect::<Vec<Value>>();
        assert_eq!(assign(shares(&cluster("a:1 b:1")).as_ref(), all.iter_mut().collect(), |_| None), Ok(()));
        assert_eq!(hints(&all), [json!("b"), json!(null), json!("a")]);
        assert!(assign(None, all.iter_mut().collect(), |_| None).is_err());
        assert_eq!(hints(&all), [json!(null), json!(null), json!(null)]);
    }

    #[test]
    fn which_services_ask() {
        for (annotations, expected) in [
            (json!({}), false),
            (json!({"service.kubernetes.io/topology-mode": "Auto"}), true),
            (json!({"service.kubernetes.io/topology-aware-hints": "auto"}), true),
            (json!({"service.kubernetes.io/topology-mode": "Auto", "service.kubernetes.io/topology-aware-hints": "Disabled"}), false),
        ] {
            let service: Service = serde_json::from_value(json!({"metadata": {"annotations": annotations}})).unwrap();
            assert_eq!(is_asked_for(&service), expected, "{annotations}");
        }
    }
}
