//! The plan, case by case: a Service and its endpoints in, rules out.

use super::*;
use crate::fixtures::{service, slice};
use serde_json::{Value, json};

fn context() -> Context {
    Context {
        place: Place { node: "n1".into(), zone: String::new() },
        node_ips: vec!["192.0.2.2".parse().unwrap()],
        cluster_cidrs: vec!["10.244.0.0/16".into()],
        masquerade_all: false,
    }
}

/// The rules as text: `CHAIN: RULE` and `MAP KEY -> VALUE`.
fn lines(patch: Value, endpoints: Value) -> Vec<String> {
    let rules = plan(&service(patch), &[Arc::new(slice(endpoints))], Family::V4, &context());
    let chains = rules.chains.iter().flat_map(|(chain, rules)| rules.iter().map(move |rule| format!("{chain}: {rule}")));
    let elements = rules.elements.iter().map(|((map, key), value)| format!("{} {key} -> {value}", map.name()));
    chains.chain(elements).collect()
}

fn at(last: u8, node: &str) -> Value {
    json!({"addresses": [format!("10.244.0.{last}")], "nodeName": node})
}

#[test]
fn a_cluster_ip_has_one_chain_with_one_map() {
    assert_eq!(
        lines(json!({}), json!([at(1, "n1"), at(2, "n2")])),
        [
            "service-ns/svc/tcp/http: ip daddr 10.96.0.1 tcp dport 80 ip saddr != { 10.244.0.0/16 } jump mark-for-masquerade",
            "service-ns/svc/tcp/http: meta l4proto tcp dnat ip addr . port to numgen random mod 2 map { 0 : 10.244.0.1 . 8080, 1 : 10.244.0.2 . 8080 }",
            "cluster-ips 10.96.0.1 -> ",
            "service-ips 10.96.0.1 . tcp . 80 -> goto service-ns/svc/tcp/http",
            "hairpin 10.244.0.1 . 10.244.0.1 . tcp . 8080 -> ",
        ]
    );
}

#[test]
fn without_endpoints_everything_is_refused() {
    let patch =
        json!({"spec": {"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": 30080}], "externalIPs": ["1.2.3.4"]}});
    assert_eq!(
        lines(patch, json!([])),
        [
            "cluster-ips 10.96.0.1 -> ",
            "no-endpoint-services 1.2.3.4 . tcp . 80 -> goto reject-chain",
            "no-endpoint-services 10.96.0.1 . tcp . 80 -> goto reject-chain",
            "no-endpoint-nodeports tcp . 30080 -> goto reject-chain",
        ]
    );
}

#[test]
fn external_policy_local_keeps_the_source_and_serves_only_from_here() {
    let patch = json!({"spec": {
        "type": "NodePort", "externalTrafficPolicy": "Local", "ports": [{"name": "http", "port": 80, "nodePort": 30080}],
    }});
    let here = lines(patch.clone(), json!([at(1, "n1"), at(2, "n2")]));
    let external: Vec<&String> = here.iter().filter(|line| line.starts_with("external-")).collect();
    assert_eq!(
        external,
        [
            "external-ns/svc/tcp/http: ip saddr { 10.244.0.0/16 } goto service-ns/svc/tcp/http",
            "external-ns/svc/tcp/http: fib saddr type local jump mark-for-masquerade",
            "external-ns/svc/tcp/http: fib saddr type local goto service-ns/svc/tcp/http",
            "external-ns/svc/tcp/http: goto local-ns/svc/tcp/http",
        ]
    );
    assert!(here.iter().any(|line| line.starts_with("local-") && line.ends_with("mod 1 map { 0 : 10.244.0.1 . 8080 }")), "{here:#?}");
    let elsewhere = lines(patch, json!([at(2, "n2")]));
    assert!(elsewhere.contains(&"no-endpoint-nodeports tcp . 30080 -> drop".to_owned()), "{elsewhere:#?}");
    assert!(elsewhere.contains(&"service-nodeports tcp . 30080 -> goto external-ns/svc/tcp/http".to_owned()));
}

#[test]
fn external_policy_cluster_masquerades() {
    let patch = json!({"spec": {"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}});
    let all = lines(patch, json!([at(1, "n1")]));
    let external: Vec<&String> = all.iter().filter(|line| line.starts_with("external-")).collect();
    assert_eq!(external, ["external-ns/svc/tcp/http: jump mark-for-masquerade", "external-ns/svc/tcp/http: goto service-ns/svc/tcp/http"]);
}

#[test]
fn affinity_remembers_clients_for_each_endpoint() {
    let patch = json!({"spec": {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}});
    let rules = plan(&service(patch.clone()), &[Arc::new(slice(json!([at(1, "n1"), at(2, "n2")])))], Family::V4, &context());
    assert_eq!(rules.clients.values().collect::<Vec<_>>(), [&5, &5]);
    let (id, set) = ("ns/svc/tcp/http__10.244.0.1/8080", "affinity-ns/svc/tcp/http__10.244.0.1/8080/5");
    assert!(rules.clients.contains_key(set));
    assert_eq!(
        rules.chains[&format!("endpoint-{id}")],
        [format!("update @{set} {{ ip saddr }}"), "meta l4proto tcp dnat to 10.244.0.1:8080".to_owned()]
    );
    let service = &rules.chains["service-ns/svc/tcp/http"];
    assert_eq!(service[1], format!("ip saddr @{set} goto endpoint-{id}"), "who was here before comes before chance");
    assert!(service[3].starts_with("numgen random mod 2 vmap { 0 : goto endpoint-"), "{service:#?}");
}

#[test]
fn load_balancers_serve_only_their_source_ranges() {
    let patch = |ranges: Value| {
        json!({
            "spec": {"type": "LoadBalancer", "loadBalancerSourceRanges": ranges},
            "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}},
        })
    };
    let firewall = |ranges: Value| {
        lines(patch(ranges), json!([at(1, "n1")])).into_iter().filter(|line| line.starts_with("firewall")).collect::<Vec<_>>()
    };
    assert_eq!(
        firewall(json!(["203.0.113.0/24"])),
        [
            "firewall-ns/svc/tcp/http: ip saddr != { 203.0.113.0/24 } drop",
            "firewall-ips 198.51.100.1 . tcp . 80 -> goto firewall-ns/svc/tcp/http",
        ]
    );
    assert_eq!(firewall(json!(["192.0.2.0/24"]))[0], "firewall-ns/svc/tcp/http: ip saddr != { 192.0.2.0/24, 198.51.100.1 } drop");
    assert!(firewall(json!([])).is_empty());
}

#[test]
fn ipv6_has_its_own_words() {
    let service = service(json!({"spec": {"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"], "sessionAffinity": "ClientIP"}}));
    let mut six = slice(json!([{"addresses": ["fd01::1"]}]));
    six.address_type = "IPv6".into();
    let rules = plan(&service, &[Arc::new(six)], Family::V6, &context());
    assert!(rules.elements.contains_key(&(Map::ServiceIps, "fd00::1 . tcp . 80".to_owned())));
    assert_eq!(rules.chains["endpoint-ns/svc/tcp/http__fd01..1/8080"][1], "meta l4proto tcp dnat to [fd01::1]:8080");
}

#[test]
fn cidrs_contain() {
    for (cidr, address, expected) in [
        ("10.0.0.0/8", "10.255.0.1", true),
        ("10.0.0.0/8", "11.0.0.1", false),
        ("0.0.0.0/0", "11.0.0.1", true),
        ("192.0.2.2/32", "192.0.2.2", true),
        ("fd00::/64", "fd00::5", true),
        ("fd00::/64", "fd01::5", false),
        ("0.0.0.0/0", "fd01::5", false),
    ] {
        assert_eq!(contains(cidr, &address.parse().unwrap()), expected, "{cidr} {address}");
    }
}
