//! Policies as their authors write them, and a stand-in for the kernel that says which packets a plan lets through.

use super::*;
use crate::policy::world::peer;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

fn pod(namespace: &str, name: &str, ip: &str, node: &str) -> Arc<Peer> {
    let object: Pod = serde_json::from_value(json!({
        "metadata": {"namespace": namespace, "name": name, "labels": {"pod": name}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8000 + u16::from(name.as_bytes()[0])}]}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    }))
    .unwrap();
    Arc::new(peer(&object).unwrap())
}

/// Pods a, b and c in the namespaces x and y; `x/a` has 10.0.1.1, `y/c` has 10.0.2.3. Those named b are on another node.
fn world(policies: Vec<Value>) -> World {
    let mut world = World::default();
    for (row, namespace) in ["x", "y"].into_iter().enumerate() {
        world.namespaces.insert(namespace.to_owned(), [("ns".to_owned(), namespace.to_owned())].into());
        for (column, name) in ["a", "b", "c"].into_iter().enumerate() {
            world.pods.push(pod(namespace, name, &format!("10.0.{}.{}", row + 1, column + 1), if name == "b" { "n2" } else { "n1" }));
        }
    }
    for (number, spec) in policies.into_iter().enumerate() {
        let policy = json!({"metadata": {"namespace": "x", "name": format!("p{number}")}, "spec": spec});
        world.policies.push(Arc::new(serde_json::from_value(policy).unwrap()));
    }
    world
}

/// Whether the table lets a first packet through, as the kernel reads the words that plans are made of.
fn passes(table: &Table, from: &str, to: &str, protocol: &str, port: u16) -> bool {
    let packet = Packet { from, to, protocol, port };
    DIRECTIONS.iter().all(|direction| {
        let chain = table.chains.get(&format!("forward-{}", direction.word));
        chain.is_none_or(|chain| packet.verdict(table, &chain.rules) != Some(false))
    })
}

struct Packet<'a> {
    from: &'a str,
    to: &'a str,
    protocol: &'a str,
    port: u16,
}

impl Packet<'_> {
    fn verdict(&self, table: &Table, rules: &[String]) -> Option<bool> {
        rules.iter().find_map(|rule| self.rule(table, rule))
    }

    fn rule(&self, table: &Table, rule: &str) -> Option<bool> {
        let words: Vec<&str> = rule.split(' ').collect();
        let mut rest = words.as_slice();
        loop {
            let matched;
            (matched, rest) = match rest {
                ["accept"] => return Some(true),
                ["drop"] => return Some(false),
                ["jump" | "goto", chain] => return self.verdict(table, &table.chains[*chain].rules),
                ["ct", "state", "established,related", rest @ ..] => (false, rest),
                ["ip", "saddr", ".", "ip", "daddr", set, rest @ ..] => {
                    (self.in_set(table, set, &format!("{} . {}", self.from, self.to)), rest)
                }
                ["ip", "daddr", ".", "meta", "l4proto", ".", "th", "dport", set, rest @ ..] => {
                    (self.in_set(table, set, &format!("{} . {} . {}", self.to, self.protocol, self.port)), rest)
                }
                ["ip", side, "vmap", map] => {
                    let verdict = table.sets[&map[1..]].elements.get(self.address(side))?;
                    return self.rule(table, verdict);
                }
                ["ip", side, "!=", cidr, rest @ ..] => (!within(self.address(side), cidr), rest),
                ["ip", side, set, rest @ ..] if set.starts_with('@') => (self.in_set(table, set, self.address(side)), rest),
                ["ip", side, cidr, rest @ ..] => (within(self.address(side), cidr), rest),
                ["meta", "l4proto", protocol, rest @ ..] => (*protocol == self.protocol, rest),
                [protocol, "dport", ports, rest @ ..] => {
                    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
                    let range = first.parse::<u16>().unwrap()..=last.parse::<u16>().unwrap();
                    (*protocol == self.protocol && range.contains(&self.port), rest)
                }
                other => panic!("no such words: {other:?}"),
            };
            if !matched {
                return None;
            }
        }
    }

    fn address(&self, side: &str) -> &str {
        if side == "saddr" { self.from } else { self.to }
    }

    fn in_set(&self, table: &Table, set: &str, element: &str) -> bool {
        table.sets[&set[1..]].elements.contains_key(element)
    }
}

fn within(address: &str, cidr: &str) -> bool {
    let number = |text: &str| text.parse::<std::net::Ipv4Addr>().map(u32::from).unwrap();
    let (network, length) = cidr.split_once('/').unwrap();
    let mask = u32::MAX.checked_shl(32 - length.parse::<u32>().unwrap()).unwrap_or(0);
    number(address) & mask == number(network) & mask
}

const XA: &str = "10.0.1.1";
const XB: &str = "10.0.1.2";
const XC: &str = "10.0.1.3";
const YA: &str = "10.0.2.1";
const WORLD: &str = "192.0.2.7";

/// From, to, protocol, port, and whether it passes.
type Flow = (&'static str, &'static str, &'static str, u16, bool);

#[test]
fn policies_let_through_what_they_say() {
    let a = json!({"matchLabels": {"pod": "a"}});
    let cases: Vec<(&str, Vec<Value>, Vec<Flow>)> = vec![
        ("no policy", vec![], vec![(XB, XA, "tcp", 80, true)]),
        (
            "deny all ingress",
            vec![json!({"podSelector": {}, "policyTypes": ["Ingress"]})],
            vec![
                (XB, XA, "tcp", 80, false),
                (WORLD, XC, "icmp", 0, false),
                (XA, XB, "tcp", 80, true),
                (XA, YA, "tcp", 80, true),
                (XA, XA, "tcp", 80, true),
            ],
        ),
        (
            "a pod of the same namespace",
            vec![json!({"podSelector": a, "ingress": [{"from": [{"podSelector": {"matchLabels": {"pod": "b"}}}]}]})],
            vec![
                (XB, XA, "tcp", 80, true),
                (XB, XA, "udp", 53, true),
                (XC, XA, "tcp", 80, false),
                ("10.0.2.2", XA, "tcp", 80, false),
                (XA, XC, "tcp", 80, true),
            ],
        ),
        (
            "all pods of a namespace, and a pod of any",
            vec![json!({"podSelector": a, "ingress": [
                {"from": [{"namespaceSelector": {"matchLabels": {"ns": "y"}}}], "ports": [{"port": 80}]},
                {"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"pod": "b"}}}], "ports": [{"port": 81, "protocol": "UDP"}]},
            ]})],
            vec![
                (YA, XA, "tcp", 80, true),
                (YA, XA, "tcp", 81, false),
                (XB, XA, "udp", 81, true),
                (XB, XA, "tcp", 81, false),
                ("10.0.2.2", XA, "udp", 81, true),
                (XC, XA, "udp", 81, false),
            ],
        ),
        (
            "ports by number, range and name",
            vec![
                json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80}, {"port": 90, "endPort": 95}, {"port": "web"}, {"protocol": "SCTP"}]}]}),
            ],
            vec![
                (WORLD, XA, "tcp", 80, true),
                (WORLD, XA, "tcp", 89, false),
                (WORLD, XA, "tcp", 90, true),
                (WORLD, XA, "tcp", 95, true),
                (WORLD, XA, "tcp", 96, false),
                (WORLD, XA, "tcp", 8097, true),
                (WORLD, XC, "tcp", 8097, false),
                (WORLD, XC, "tcp", 8099, true),
                (WORLD, XA, "sctp", 7, true),
                (WORLD, XA, "udp", 80, false),
            ],
        ),
        (
            "blocks with exceptions",
            vec![
                json!({"podSelector": a, "egress": [{"to": [{"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25", "192.0.2.9/32"]}}, {"ipBlock": {"cidr": "fd00::/64"}}]}], "policyTypes": ["Egress"]}),
            ],
            vec![
                (XA, WORLD, "tcp", 80, true),
                (XA, "192.0.2.129", "tcp", 80, false),
                (XA, "192.0.2.9", "tcp", 80, false),
                (XA, XB, "tcp", 80, false),
                (XB, XA, "tcp", 80, true),
                (XC, XB, "tcp", 80, true),
            ],
        ),
        (
            "policies add up",
            vec![
                json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}),
                json!({"podSelector": a, "ingress": [{"from": [{"podSelector": {"matchLabels": {"pod": "c"}}}]}], "policyTypes": ["Ingress"]}),
                json!({"podSelector": {"matchLabels": {"pod": "c"}}, "egress": [{"to": [{"podSelector": {"matchLabels": {"pod": "a"}}}]}], "policyTypes": ["Egress"]}),
            ],
            // Both ends have to agree.
            vec![
                (XC, XA, "tcp", 80, true),
                (XA, XC, "tcp", 80, false),
                (XB, XA, "tcp", 80, false),
                (XC, XB, "tcp", 80, false),
                (YA, XC, "tcp", 80, false),
            ],
        ),
        (
            "egress is implied by its rules",
            vec![json!({"podSelector": a, "egress": [{"ports": [{"port": "web"}]}]})],
            vec![(XA, XB, "tcp", 8098, true), (XA, XB, "tcp", 8097, false), (XB, XA, "tcp", 80, false)],
        ),
        (
            "everything allowed",
            vec![json!({"podSelector": {}, "policyTypes": ["Ingress"]}), json!({"podSelector": a, "ingress": [{}]})],
            vec![(WORLD, XA, "tcp", 80, true), (WORLD, XC, "tcp", 80, false)],
        ),
    ];
    for (case, policies, flows) in cases {
        let table = plan(&world(policies), "n1", Family::V4);
        for (from, to, protocol, port, expected) in flows {
            assert_eq!(passes(&table, from, to, protocol, port), expected, "{case}: {from} to {to} {protocol} {port}: {table:#?}");
        }
    }
}

#[test]
fn nothing_is_made_where_nothing_is_picked() {
    let other = json!({"podSelector": {"matchLabels": {"pod": "b"}}});
    assert_eq!(plan(&world(vec![other.clone()]), "n1", Family::V4), Table::default());
    assert_ne!(plan(&world(vec![other.clone()]), "n2", Family::V4), Table::default());
    assert_eq!(plan(&world(vec![other]), "n2", Family::V6).sets, BTreeMap::new());
}

#[test]
fn pods_that_the_same_policies_pick_share_a_chain() {
    let table = plan(&world(vec![json!({"podSelector": {}}), json!({"podSelector": {}})]), "n1", Family::V4);
    let verdicts: std::collections::BTreeSet<&String> = table.sets["ingress"].elements.values().collect();
    assert_eq!((table.sets["ingress"].elements.len(), verdicts.len()), (2, 1));
}

#[test]
fn pods_without_an_address_of_their_own_are_nobodys_peers() {
    let with = |patch: Value| {
        let mut object = json!({"metadata": {"name": "p"}, "spec": {"containers": []}, "status": {"podIP": "10.0.0.1"}});
        for (key, value) in patch.as_object().unwrap() {
            let part = object[key].as_object_mut().unwrap();
            part.extend(value.as_object().unwrap().clone());
        }
        peer(&serde_json::from_value(object).unwrap()).is_some()
    };
    assert!(with(json!({})));
    assert!(!with(json!({"spec": {"hostNetwork": true}})));
    assert!(!with(json!({"status": {"phase": "Succeeded"}})));
    assert!(!with(json!({"status": {"podIP": ""}})));
}
