//! From policies, pods and namespaces to the table of one node (`networking.k8s.io/v1` NetworkPolicy).
//!
//! A packet between pods is looked at when it is forwarded, after a Service's address has become its endpoint's and before any source address is
//! masqueraded: once on behalf of the pod that sends it and once for the pod that it goes to. One lookup by the pod's address leads to the chain of all
//! policies that pick it, in which whatever no policy accepts is dropped. Pods that the same policies pick share that chain, and rules that
//! speak of the same pods share the set of their addresses.
//!
//! What a pod and its own node send each other is never held back, nor what a pod sends itself by way of a Service, nor answers.

use crate::policy::table::{Chain, Set, Table};
use crate::policy::world::{Labels, Peer};
use api::selector::LabelSelector;
use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube_proxy::family::Family;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// All that a plan is made of.
#[derive(Default)]
pub struct World {
    /// Pods with addresses, of all nodes.
    pub pods: Vec<Arc<Peer>>,
    /// Labels of namespaces.
    pub namespaces: HashMap<String, Labels>,
    /// Policies.
    pub policies: Vec<Arc<NetworkPolicy>>,
}

/// Which way packets go, seen from the pod that a policy picks.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Direction {
    /// In `policyTypes`.
    name: &'static str,
    /// In names of chains and maps.
    word: &'static str,
    /// Where a packet has the pod's address, and where the other side's.
    own: &'static str,
    other: &'static str,
    /// Before those of upstream's proxy that refuse nothing any more, and behind those that do.
    priority: i32,
}

const DIRECTIONS: [Direction; 2] = [
    Direction { name: "Egress", word: "egress", own: "saddr", other: "daddr", priority: -20 },
    Direction { name: "Ingress", word: "ingress", own: "daddr", other: "saddr", priority: -10 },
];

/// Pairs of a pod's address with itself.
const SELF: &str = "self";

/// The table of one node in one family; empty where no policy picks any of its pods.
pub fn plan(world: &World, node: &str, family: Family) -> Table {
    let mut plan = Plan { world, family, table: Table::default() };
    let mut by_namespace: HashMap<&str, Vec<Picking<'_>>> = HashMap::new();
    for policy in &world.policies {
        let Some(spec) = &policy.spec else { continue };
        // The server refuses selectors that cannot be read; a policy that has one all the same picks nothing.
        let Some(selector) = selector(spec.pod_selector.as_ref()) else { continue };
        let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
        let name = policy.metadata.name.as_deref().unwrap_or_default();
        by_namespace.entry(namespace).or_default().push(Picking { namespace, name, spec, selector });
    }
    for pod in world.pods.iter().filter(|pod| pod.node == node) {
        let policies = by_namespace.get(pod.namespace.as_str()).map(Vec::as_slice).unwrap_or_default();
        let picked: Vec<&Picking<'_>> = policies.iter().filter(|policy| policy.selector.matches(Some(&pod.labels))).collect();
        for direction in DIRECTIONS {
            let picked: Vec<&Picking<'_>> = picked.iter().filter(|policy| concerns(policy.spec, direction)).copied().collect();
            if !picked.is_empty() {
                plan.isolate(pod, direction, &picked);
            }
        }
    }
    plan.hooks();
    plan.table
}

struct Picking<'a> {
    namespace: &'a str,
    name: &'a str,
    spec: &'a NetworkPolicySpec,
    selector: LabelSelector,
}

/// Whether a policy is about that direction. The server fills `policyTypes` in; without, it is as the server would have it.
fn concerns(spec: &NetworkPolicySpec, direction: Direction) -> bool {
    match spec.policy_types.as_deref().unwrap_or_default() {
        [] => direction.name == "Ingress" || spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
        types => types.iter().any(|name| name == direction.name),
    }
}

/// None picks everything, as an empty selector does.
fn selector(selector: Option<&meta::LabelSelector>) -> Option<LabelSelector> {
    match selector {
        None => Some(LabelSelector::everything()),
        some => LabelSelector::of(some).ok(),
    }
}

/// A short name for something long.
fn hash(text: &str) -> String {
    Sha256::digest(text).iter().take(10).map(|byte| format!("{byte:02x}")).collect()
}

struct Plan<'a> {
    world: &'a World,
    family: Family,
    table: Table,
}

impl Plan<'_> {
    /// Leads a pod's packets to the chain of the policies that pick it.
    fn isolate(&mut self, pod: &Peer, direction: Direction, policies: &[&Picking<'_>]) {
        let mut names: Vec<String> = policies.iter().map(|policy| format!("{}/{}", policy.namespace, policy.name)).collect();
        names.sort_unstable();
        let chain = format!("{}-{}", direction.word, hash(&names.join(" ")));
        if !self.table.chains.contains_key(&chain) {
            let mut rules: Vec<String> = policies.iter().map(|policy| format!("jump {}", self.policy(policy, direction))).collect();
            rules.push("drop".to_owned());
            self.table.chains.insert(chain.clone(), Chain { hook: None, rules });
        }
        let kind = self.family.address_type();
        for address in pod.addresses.iter().filter(|address| Family::of(address) == self.family) {
            let all = self.table.sets.entry(direction.word.to_owned()).or_default();
            all.kind = format!("{kind} : verdict");
            all.elements.insert(address.to_string(), format!("goto {chain}"));
            let own = self.table.sets.entry(SELF.to_owned()).or_default();
            own.kind = format!("{kind} . {kind}");
            own.elements.insert(format!("{address} . {address}"), String::new());
        }
    }

    /// The chain that accepts what a policy allows; its name.
    fn policy(&mut self, policy: &Picking<'_>, direction: Direction) -> String {
        let chain = format!("policy-{}-{}", direction.word, hash(&format!("{}/{}", policy.namespace, policy.name)));
        if self.table.chains.contains_key(&chain) {
            return chain;
        }
        let mut rules = Vec::new();
        let spec = policy.spec;
        if direction.name == "Ingress" {
            for rule in spec.ingress.iter().flatten() {
                self.rule(policy.namespace, direction, rule.from.as_deref(), rule.ports.as_deref(), &mut rules);
            }
        } else {
            for rule in spec.egress.iter().flatten() {
                self.rule(policy.namespace, direction, rule.to.as_deref(), rule.ports.as_deref(), &mut rules);
            }
        }
        self.table.chains.insert(chain.clone(), Chain { hook: None, rules });
        chain
    }

    /// What one rule accepts: every peer with every port; no peers are all peers, no ports all ports.
    fn rule(
        &mut self,
        namespace: &str,
        direction: Direction,
        peers: Option<&[NetworkPolicyPeer]>,
        ports: Option<&[NetworkPolicyPort]>,
        into: &mut Vec<String>,
    ) {
        let peers: Vec<String> = match peers.unwrap_or_default() {
            [] => vec![String::new()],
            some => some.iter().filter_map(|peer| self.peer(namespace, direction, peer)).collect(),
        };
        let ports = match ports.unwrap_or_default() {
            [] => vec![String::new()],
            some => self.ports(some),
        };
        for peer in &peers {
            into.extend(ports.iter().map(|port| format!("{peer}{port}accept")));
        }
    }

    /// What a packet from or to a peer matches; nothing if that cannot be in this family.
    fn peer(&mut self, namespace: &str, direction: Direction, peer: &NetworkPolicyPeer) -> Option<String> {
        let (ip, other) = (self.family.keyword(), direction.other);
        if let Some(block) = &peer.ip_block {
            return self.block(direction, block);
        }
        let pods = selector(peer.pod_selector.as_ref())?;
        let namespaces = match &peer.namespace_selector {
            None => None,
            some => Some(selector(some.as_ref())?),
        };
        let shown = serde_json::json!([peer.pod_selector, peer.namespace_selector, namespaces.is_none().then_some(namespace)]);
        let set = format!("pods-{}", hash(&shown.to_string()));
        if !self.table.sets.contains_key(&set) {
            let chosen = self.world.pods.iter().filter(|pod| {
                let here = match &namespaces {
                    None => pod.namespace == namespace,
                    Some(selector) => self.world.namespaces.get(&pod.namespace).is_some_and(|labels| selector.matches(Some(labels))),
                };
                here && pods.matches(Some(&pod.labels))
            });
            let addresses = chosen.flat_map(|pod| &pod.addresses).filter(|address| Family::of(address) == self.family);
            let members = Set::of(self.family.address_type(), addresses.map(ToString::to_string));
            self.table.sets.insert(set.clone(), members);
        }
        Some(format!("{ip} {other} @{set} "))
    }

    fn block(&self, direction: Direction, block: &IPBlock) -> Option<String> {
        let (ip, other) = (self.family.keyword(), direction.other);
        if !self.family.owns_cidr(&block.cidr) {
            return None;
        }
        let mut text = format!("{ip} {other} {} ", block.cidr);
        for except in block.except.iter().flatten() {
            text += &format!("{ip} {other} != {except} ");
        }
        Some(text)
    }

    /// What a packet to any of the ports matches, one text each for the protocols and named ports among them.
    fn ports(&mut self, ports: &[NetworkPolicyPort]) -> Vec<String> {
        let mut numbers: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
        let mut texts = Vec::new();
        for port in ports {
            let Some(protocol) = kube_proxy::service::protocol(port.protocol.as_deref()) else { continue };
            match (&port.port, port.end_port) {
                (None, _) => texts.push(format!("meta l4proto {protocol} ")),
                (Some(IntOrString::Int(from)), Some(to)) if to > *from => {
                    numbers.entry(protocol).or_default().push(format!("{protocol} dport {from}-{to} "));
                }
                (Some(IntOrString::Int(number)), _) => numbers.entry(protocol).or_default().push(format!("{protocol} dport {number} ")),
                (Some(IntOrString::String(name)), _) => texts.push(self.named(name, protocol)),
            }
        }
        texts.extend(numbers.into_values().flatten());
        texts
    }

    /// A named port is another number on every pod: the address that a packet goes to decides with it.
    fn named(&mut self, name: &str, protocol: &'static str) -> String {
        let set = format!("port-{}", hash(&format!("{protocol} {name}")));
        let kind = self.family.address_type();
        let members = self.world.pods.iter().flat_map(|pod| {
            let numbers = pod.ports.iter().filter(|(own, of, _)| own == name && *of == protocol).map(|(.., number)| number);
            let addresses = pod.addresses.iter().filter(|address| Family::of(address) == self.family);
            numbers.flat_map(move |number| addresses.clone().map(move |address| format!("{address} . {protocol} . {number}")))
        });
        let members = Set::of(&format!("{kind} . inet_proto . inet_service"), members);
        self.table.sets.entry(set.clone()).or_insert(members);
        format!("{} daddr . meta l4proto . th dport @{set} ", self.family.keyword())
    }

    /// The way from the kernel to the chains, where there are any.
    fn hooks(&mut self) {
        let ip = self.family.keyword();
        for direction in DIRECTIONS {
            if !self.table.sets.contains_key(direction.word) {
                continue;
            }
            let rules = vec![
                "ct state established,related accept".to_owned(),
                format!("{ip} saddr . {ip} daddr @{SELF} accept"),
                format!("{ip} {} vmap @{}", direction.own, direction.word),
            ];
            let hook = Some(format!("type filter hook forward priority {}", direction.priority));
            self.table.chains.insert(format!("forward-{}", direction.word), Chain { hook, rules });
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
