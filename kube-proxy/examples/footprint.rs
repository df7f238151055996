//! What 10,000 Services of 10 endpoints each cost a node, and one change among them: time and memory of the plan and, where the kernel may be changed, of the kernel's part.
//!
//! `cargo build --release -p kube-proxy --example footprint && unshare -n target/release/examples/footprint [SERVICES [ENDPOINTS]]`, as root: the network namespace
//! is its own, so that no Service of this machine is touched. Without the right to change tables it prints the plan's part alone.

use client::ObjectKey;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube_proxy::family::Family;
use kube_proxy::nft;
use kube_proxy::plan::{Context, plan};
use kube_proxy::ruleset::{Changes, Found, Ruleset};
use kube_proxy::skeleton::Skeleton;
use serde_json::json;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const TABLE: &str = "kube-proxy-footprint";
/// How many changes are measured.
const CHANGES: usize = 20;

fn address(base: [u8; 4], number: usize) -> String {
    let number = u32::try_from(number).expect("there are fewer addresses than that");
    Ipv4Addr::from(u32::from(Ipv4Addr::from(base)) + number).to_string()
}

fn service(number: usize) -> Service {
    let ip = address([10, 96, 0, 1], number);
    let object = json!({
        "metadata": {"namespace": "default", "name": format!("service-{number}")},
        "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": [{"name": "http", "port": 80}]},
    });
    serde_json::from_value(object).expect("it is a Service")
}

/// The endpoints of a Service; the last one is another after a change.
fn slice(number: usize, endpoints: usize, changed: usize) -> Arc<EndpointSlice> {
    let one = |index: usize| {
        let moved = if index + 1 == endpoints { changed } else { 0 };
        json!({"addresses": [address([10, 128, 0, 1], number * endpoints + index + moved * 4_000_000)], "nodeName": "elsewhere"})
    };
    let object = json!({
        "metadata": {"namespace": "default", "name": format!("service-{number}-abcde"), "labels": {"kubernetes.io/service-name": format!("service-{number}")}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": (0..endpoints).map(one).collect::<Vec<_>>(),
    });
    Arc::new(serde_json::from_value(object).expect("it is an EndpointSlice"))
}

fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

fn megabytes(bytes: usize) -> usize {
    bytes / 1_000_000
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse().expect("a number"));
    let (services, endpoints) = (arguments.next().unwrap_or(10_000), arguments.next().unwrap_or(10));
    let objects: Vec<(Service, Arc<EndpointSlice>)> = (0..services).map(|number| (service(number), slice(number, endpoints, 0))).collect();
    let context = Context { cluster_cidrs: vec!["10.128.0.0/9".into()], ..Context::default() };
    let skeleton = Skeleton { table: TABLE.into(), masquerade_bit: 14, node_port_addresses: Vec::new() };

    let (before, started) = (resident(), Instant::now());
    let planned = |(service, slice): &(Service, Arc<EndpointSlice>)| {
        (ObjectKey::of(service), Some(plan(service, std::slice::from_ref(slice), Family::V4, &context)))
    };
    let changes: Changes = objects.iter().map(planned).collect();
    let (mut table, text) = Ruleset::take_over(&skeleton, Family::V4, &Found::default(), changes);
    println!("{services} Services of {endpoints} endpoints");
    println!("| plan of all | {:.0?} |", started.elapsed());
    println!("| its transaction | {} MB |", megabytes(text.len()));
    let usable = nft::families(TABLE).await.contains(&Family::V4);
    if usable {
        let started = Instant::now();
        nft::apply(&text).await.expect("the kernel takes the table");
        println!("| the kernel takes it | {:.0?} |", started.elapsed());
    }
    drop(text);
    println!("| rules in memory | {} MB |", megabytes(resident().saturating_sub(before)));

    let (mut plans, mut kernel, mut lines) = (Vec::new(), Vec::new(), 0);
    for change in 1..=CHANGES {
        let number = change * services / (CHANGES + 1);
        let slice = slice(number, endpoints, change);
        let started = Instant::now();
        let wanted = plan(&objects[number].0, &[slice], Family::V4, &context);
        let text = table.apply(vec![(ObjectKey::of(&objects[number].0), Some(wanted))]);
        plans.push(started.elapsed());
        lines = lines.max(text.lines().count());
        if usable {
            let started = Instant::now();
            nft::apply(&text).await.expect("the kernel takes the change");
            kernel.push(started.elapsed());
        }
    }
    println!("| plan of one change | {:.0?}, {lines} lines |", median(plans));
    if usable {
        println!("| the kernel takes one change | {:.1?} |", median(kernel));
        nft::remove(Family::V4, TABLE).await.expect("the table goes");
    }
}
