//! The specification as a table: a query, and the records of its answer as zone files write them.

use super::*;
use crate::fixtures::{external, headless, service, slice};
use serde_json::json;

fn zone() -> Zone {
    Zone { domain: Name::from_ascii("cluster.local.").unwrap(), ttl: 30, pods: true, servers: vec!["10.96.0.10".parse().unwrap()] }
}

fn index() -> Index {
    let mut index = Index::default();
    ["default", "kube-system"].iter().for_each(|name| index.set_namespace(name, true));
    let ports = json!([{"name": "http", "port": 80}, {"name": "dns", "protocol": "UDP", "port": 53}]);
    let mut set = |name: &str, service: &Service, slices: &[_]| {
        let key = ObjectKey::new("default", name);
        index.set_service(&key, Some(service));
        index.set_endpoints(&key, slices);
    };
    use k8s_openapi::api::core::v1::Service;
    let pods = json!([{"addresses": ["10.244.0.4"]}]);
    set(
        "web",
        &service("default", "web", "10.96.0.5", ports.clone()),
        &[slice("default", "web", pods, json!([{"name": "http", "port": 8080}]))],
    );
    let mut dual = service("default", "dual", "10.96.0.6", json!([{"port": 80}]));
    dual.spec.as_mut().unwrap().cluster_ips = Some(vec!["10.96.0.6".into(), "2001:db8::6".into()]);
    set("dual", &dual, &[]);
    let members = json!([
        {"addresses": ["10.244.0.7"], "hostname": "db-0"},
        {"addresses": ["10.244.0.8"], "hostname": "db-1"},
        {"addresses": ["10.244.0.9"]},
        {"addresses": ["10.244.0.10"], "conditions": {"ready": false}},
    ]);
    let port = json!([{"name": "pg", "port": 5432}]);
    set("db", &headless("default", "db", port.clone()), &[slice("default", "db", members.clone(), port)]);
    set("portless", &headless("default", "portless", json!([])), &[slice("default", "portless", members, json!([]))]);
    set("nobody", &headless("default", "nobody", json!([{"port": 1}])), &[]);
    set("outside", &external("default", "outside", "Example.COM"), &[]);
    set("number", &external("default", "number", "192.0.2.9"), &[]);
    index
}

fn shown(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| format!("{} {} {} {}", record.name, record.ttl, record.record_type(), record.data)).collect()
}

fn asked(name: &str, kind: RecordType) -> Resolved {
    zone().resolve(&index(), &Query::query(Name::from_ascii(name).unwrap(), kind), 0)
}

const NOTHING: [&str; 0] = [];

#[test]
fn records_by_name_and_type() {
    use RecordType::{A, AAAA, CNAME, NS, PTR, SRV, TXT};
    let cases: &[(&str, RecordType, &[&str])] = &[
        ("web.default.svc.cluster.local.", A, &["web.default.svc.cluster.local. 30 A 10.96.0.5"]),
        ("WEB.Default.svc.CLUSTER.local.", A, &["WEB.Default.svc.CLUSTER.local. 30 A 10.96.0.5"]),
        ("dual.default.svc.cluster.local.", A, &["dual.default.svc.cluster.local. 30 A 10.96.0.6"]),
        ("dual.default.svc.cluster.local.", AAAA, &["dual.default.svc.cluster.local. 30 AAAA 2001:db8::6"]),
        (
            "_http._tcp.web.default.svc.cluster.local.",
            SRV,
            &["_http._tcp.web.default.svc.cluster.local. 30 SRV 0 100 80 web.default.svc.cluster.local."],
        ),
        (
            "_dns._udp.web.default.svc.cluster.local.",
            SRV,
            &["_dns._udp.web.default.svc.cluster.local. 30 SRV 0 100 53 web.default.svc.cluster.local."],
        ),
        ("_http._tcp.web.default.svc.cluster.local.", A, &["_http._tcp.web.default.svc.cluster.local. 30 A 10.96.0.5"]),
        // Names of endpoints, also of a Service with an address of its own.
        ("10-244-0-4.web.default.svc.cluster.local.", A, &["10-244-0-4.web.default.svc.cluster.local. 30 A 10.244.0.4"]),
        ("db-0.db.default.svc.cluster.local.", A, &["db-0.db.default.svc.cluster.local. 30 A 10.244.0.7"]),
        ("10-244-0-9.db.default.svc.cluster.local.", A, &["10-244-0-9.db.default.svc.cluster.local. 30 A 10.244.0.9"]),
        (
            "db.default.svc.cluster.local.",
            A,
            &[
                "db.default.svc.cluster.local. 30 A 10.244.0.7",
                "db.default.svc.cluster.local. 30 A 10.244.0.8",
                "db.default.svc.cluster.local. 30 A 10.244.0.9",
            ],
        ),
        (
            "_pg._tcp.db.default.svc.cluster.local.",
            SRV,
            &[
                "_pg._tcp.db.default.svc.cluster.local. 30 SRV 0 33 5432 10-244-0-9.db.default.svc.cluster.local.",
                "_pg._tcp.db.default.svc.cluster.local. 30 SRV 0 33 5432 db-0.db.default.svc.cluster.local.",
                "_pg._tcp.db.default.svc.cluster.local. 30 SRV 0 33 5432 db-1.db.default.svc.cluster.local.",
            ],
        ),
        ("db-1.portless.default.svc.cluster.local.", A, &["db-1.portless.default.svc.cluster.local. 30 A 10.244.0.8"]),
        ("outside.default.svc.cluster.local.", CNAME, &["outside.default.svc.cluster.local. 30 CNAME Example.COM."]),
        ("number.default.svc.cluster.local.", A, &["number.default.svc.cluster.local. 30 A 192.0.2.9"]),
        ("10-244-0-77.default.pod.cluster.local.", A, &["10-244-0-77.default.pod.cluster.local. 30 A 10.244.0.77"]),
        ("2001-db8--1.default.pod.cluster.local.", AAAA, &["2001-db8--1.default.pod.cluster.local. 30 AAAA 2001:db8::1"]),
        ("5.0.96.10.in-addr.arpa.", PTR, &["5.0.96.10.in-addr.arpa. 30 PTR web.default.svc.cluster.local."]),
        (
            "7.0.244.10.in-addr.arpa.",
            PTR,
            &[
                "7.0.244.10.in-addr.arpa. 30 PTR db-0.db.default.svc.cluster.local.",
                "7.0.244.10.in-addr.arpa. 30 PTR db-0.portless.default.svc.cluster.local.",
            ],
        ),
        (
            "6.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.",
            PTR,
            &["6.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. 30 PTR dual.default.svc.cluster.local."],
        ),
        ("dns-version.cluster.local.", TXT, &["dns-version.cluster.local. 30 TXT 1.1.0"]),
        ("cluster.local.", NS, &["cluster.local. 30 NS ns.dns.cluster.local."]),
        ("ns.dns.cluster.local.", A, &["ns.dns.cluster.local. 30 A 10.96.0.10"]),
    ];
    for (name, kind, expected) in cases {
        let Resolved::Answer(answer) = asked(name, *kind) else { panic!("{name} {kind}: elsewhere") };
        assert_eq!(shown(&answer.answers), *expected, "{name} {kind}");
        assert!(answer.authoritative && answer.code == ResponseCode::NoError && answer.authority.is_empty(), "{name} {kind}");
    }
}

#[test]
fn names_without_such_records_exist_and_others_do_not() {
    use RecordType::{A, AAAA, ANY, CNAME, MX, SRV};
    let cases: &[(&str, RecordType, bool)] = &[
        ("web.default.svc.cluster.local.", AAAA, true),
        ("web.default.svc.cluster.local.", CNAME, true),
        ("web.default.svc.cluster.local.", MX, true),
        ("web.default.svc.cluster.local.", ANY, true),
        ("db-1.portless.default.svc.cluster.local.", SRV, true),
        ("cluster.local.", A, true),
        ("svc.cluster.local.", A, true),
        ("default.svc.cluster.local.", A, true),
        ("kube-system.pod.cluster.local.", A, true),
        ("10-244-0-77.default.pod.cluster.local.", AAAA, true),
        ("dns-version.cluster.local.", A, true),
        ("absent.svc.cluster.local.", A, false),
        ("absent.default.svc.cluster.local.", A, false),
        ("web.absent.svc.cluster.local.", A, false),
        ("nobody.default.svc.cluster.local.", A, false),
        ("db-7.db.default.svc.cluster.local.", A, false),
        ("10-244-0-10.db.default.svc.cluster.local.", A, false),
        ("_http._udp.web.default.svc.cluster.local.", SRV, false),
        ("_http._tcp.portless.default.svc.cluster.local.", SRV, false),
        ("_a._tcp.outside.default.svc.cluster.local.", SRV, false),
        ("a.b.c.web.default.svc.cluster.local.", A, false),
        ("busybox.default.pod.cluster.local.", A, false),
        ("10-244-0-77.absent.pod.cluster.local.", A, false),
        ("a.cluster.local.", A, false),
        ("web.default.cluster.local.", A, false),
    ];
    for (name, kind, exists) in cases {
        let Resolved::Answer(answer) = asked(name, *kind) else { panic!("{name} {kind}: elsewhere") };
        let code = if *exists { ResponseCode::NoError } else { ResponseCode::NXDomain };
        assert_eq!((answer.code, shown(&answer.answers)), (code, Vec::new()), "{name} {kind}");
        let serial = index().serial();
        let soa = format!("cluster.local. 30 SOA ns.dns.cluster.local. hostmaster.cluster.local. {serial} 7200 1800 86400 30");
        assert_eq!(shown(&answer.authority), [soa], "{name} {kind}");
    }
}

#[test]
fn others_names_are_others() {
    for (name, kind) in [
        ("example.com.", RecordType::A),
        ("local.", RecordType::A),
        ("notcluster.local.", RecordType::A),
        ("1.2.0.192.in-addr.arpa.", RecordType::PTR),
        ("96.10.in-addr.arpa.", RecordType::PTR),
        ("5.0.96.10.in-addr.arpa.", RecordType::SOA),
    ] {
        assert_eq!(asked(name, kind), Resolved::Elsewhere, "{name}");
    }
}

#[test]
fn aliases_are_followed_for_every_type_but_their_own() {
    let Resolved::Alias(answer, target) = asked("outside.default.svc.cluster.local.", RecordType::A) else { panic!("no alias") };
    assert_eq!(shown(&answer.answers), ["outside.default.svc.cluster.local. 30 CNAME Example.COM."]);
    assert_eq!(target, Name::from_ascii("example.com.").unwrap());
}

#[test]
fn ports_come_with_the_addresses_of_their_endpoints() {
    let Resolved::Answer(answer) = asked("_pg._tcp.db.default.svc.cluster.local.", RecordType::SRV) else { panic!("elsewhere") };
    let expected = [
        "10-244-0-9.db.default.svc.cluster.local. 30 A 10.244.0.9",
        "db-0.db.default.svc.cluster.local. 30 A 10.244.0.7",
        "db-1.db.default.svc.cluster.local. 30 A 10.244.0.8",
    ];
    assert_eq!(shown(&answer.additional), expected);
    let Resolved::Answer(all) = asked("web.default.svc.cluster.local.", RecordType::SRV) else { panic!("elsewhere") };
    assert_eq!((all.answers.len(), all.additional.len()), (2, 1));
}

#[test]
fn each_address_has_its_turn() {
    let first = |turn| {
        let query = Query::query(Name::from_ascii("db.default.svc.cluster.local.").unwrap(), RecordType::A);
        let Resolved::Answer(answer) = zone().resolve(&index(), &query, turn) else { panic!("elsewhere") };
        answer.answers[0].data.to_string()
    };
    assert_eq!([0, 1, 2, 3].map(first), ["10.244.0.7", "10.244.0.8", "10.244.0.9", "10.244.0.7"]);
}

#[test]
fn pods_have_no_names_where_that_is_so_configured() {
    let zone = Zone { pods: false, ..zone() };
    let query = Query::query(Name::from_ascii("10-244-0-77.default.pod.cluster.local.").unwrap(), RecordType::A);
    let Resolved::Answer(answer) = zone.resolve(&index(), &query, 0) else { panic!("elsewhere") };
    assert_eq!((answer.code, shown(&answer.answers).len()), (ResponseCode::NXDomain, NOTHING.len()));
}
