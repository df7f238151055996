//! What the store and the watch cache can do on this machine: `cargo bench -p apiserver --bench store`. Prints figures and judges none of them.
//!
//! Objects are of the size that FIGURES were measured with, 3.4 KB. Latencies are as the caller sees them.

#![allow(clippy::unwrap_used)] // A measurement that fails has nothing better to do than to say where.

use apiserver::cache::{Caches, Filter, Paging, ResourceSpec, Start, WatchEvent, WatchOptions, describe_by_paths};
use apiserver::encoding::{self, ListHead};
use apiserver::store::embedded::Options;
use apiserver::store::{Expect, Store};
use bytes::Bytes;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PODS: usize = 5_000;
const OBJECT: usize = 3_400;

fn pod(name: &str) -> Bytes {
    let mut object = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "namespace": "default", "labels": {"app": "web", "pod-template-hash": "5d4f8"}},
        "spec": {"nodeName": "node-1", "containers": [{"name": "c", "image": "nginx"}]}, "status": {"phase": "Running"}});
    let padding = OBJECT - encoding::encode(&object).len() - 24;
    object["metadata"]["annotations"] = json!({"padding": "x".repeat(padding)});
    encoding::encode(&object)
}

/// Resident memory in MiB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmRSS:"));
    line.and_then(|l| l.split_whitespace().nth(1)?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

fn disk(directory: &std::path::Path) -> f64 {
    std::fs::metadata(directory.join("db")).map_or(0.0, |m| m.len() as f64 / (1 << 20) as f64)
}

fn percentile(sorted: &[Duration], part: f64) -> Duration {
    sorted.get(((sorted.len() as f64 * part) as usize).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

fn row(case: &str, count: usize, elapsed: Duration, mut latencies: Vec<Duration>) {
    latencies.sort_unstable();
    let rate = count as f64 / elapsed.as_secs_f64();
    let (p50, p99) = (percentile(&latencies, 0.5), percentile(&latencies, 0.99));
    println!("{case:<44} {rate:>10.0}/s   p50 {p50:>10.2?}   p99 {p99:>10.2?}");
}

/// `total` writes by `writers`, over `PODS` keys.
async fn write(store: &Arc<dyn Store>, writers: usize, total: usize) -> (Duration, Vec<Duration>) {
    let start = Instant::now();
    let tasks = (0..writers).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut latencies = Vec::with_capacity(total / writers);
            for index in 0..total / writers {
                let name = format!("pod-{}", (index * writers + writer) % PODS);
                let value = pod(&name);
                let start = Instant::now();
                store.put(format!("/registry/pods/default/{name}"), value, Expect::Any, 0).await.unwrap();
                latencies.push(start.elapsed());
            }
            latencies
        })
    });
    let latencies = futures::future::join_all(tasks).await.into_iter().flat_map(Result::unwrap).collect();
    (start.elapsed(), latencies)
}

async fn store_figures() {
    let directory = tempfile::tempdir().unwrap();
    println!("resident at start: {:.1} MiB", resident());
    let store = apiserver::store::sled::open(directory.path(), Options::default()).unwrap();
    for (writers, total) in [(1, 2_000), (16, 20_000), (64, 40_000), (256, 60_000)] {
        let (elapsed, latencies) = write(&store, writers, total).await;
        row(&format!("durable writes, {writers} writers"), total, elapsed, latencies);
        println!("    resident {:.1} MiB, file {:.0} MiB", resident(), disk(directory.path()));
    }
    store.close().await.unwrap();
    drop(store);
    let start = Instant::now();
    let store = apiserver::store::sled::open(directory.path(), Options::default()).unwrap();
    println!("opened again in {:.0?}, at revision {}, resident {:.1} MiB", start.elapsed(), store.revision().await.unwrap(), resident());
}

async fn list_figures(caches: &Caches) {
    let cache = caches.get("/registry/pods/").unwrap();
    println!("{} pods in the cache, resident {:.1} MiB", cache.len(), resident());
    let mut latencies = Vec::new();
    let start = Instant::now();
    let mut bytes = 0;
    for _ in 0..50 {
        let begin = Instant::now();
        let page = cache.list(&Filter::all(), &Paging::default());
        let head = ListHead { kind: "PodList", api_version: "v1", revision: page.revision, ..Default::default() };
        bytes = encoding::list_chunks(&head, page.entries.iter().map(|e| &**e), true, 64 << 10).map(|c| c.len()).sum();
        latencies.push(begin.elapsed());
    }
    row(&format!("list {} pods ({:.1} MB)", cache.len(), bytes as f64 / 1e6), 50, start.elapsed(), latencies);
    let filter = Filter::all().matching(|e| e.field("spec.nodeName") == Some("node-2") && e.label("app") == Some("web"));
    let mut latencies = Vec::new();
    let start = Instant::now();
    for _ in 0..200 {
        let begin = Instant::now();
        assert!(cache.list(&filter, &Paging::default()).entries.is_empty());
        latencies.push(begin.elapsed());
    }
    row("list by selectors that take none of them", 200, start.elapsed(), latencies);
}

async fn watch_figures(store: &Arc<dyn Store>, caches: &Caches) {
    const WATCHERS: usize = 100;
    const CHANGES: usize = 2_000;
    let cache = caches.get("/registry/pods/").unwrap();
    let began = Instant::now();
    // When the change that makes each revision was asked for.
    let asked: Arc<Vec<AtomicU64>> = Arc::new((0..CHANGES).map(|_| AtomicU64::new(0)).collect());
    let base = caches.catch_up().await.unwrap();
    let watchers: Vec<_> = (0..WATCHERS)
        .map(|_| {
            let options = WatchOptions { start: Start::After(base), bookmarks: false, deadline: None };
            let (mut watcher, asked) = (cache.watch(Filter::all(), options).unwrap(), asked.clone());
            tokio::spawn(async move {
                let mut latencies = Vec::with_capacity(CHANGES);
                while latencies.len() < CHANGES {
                    for event in watcher.next().await.expect("the watcher keeps up") {
                        let WatchEvent::Object { entry, .. } = &event else { continue };
                        std::hint::black_box(event.frame("Pod", "v1"));
                        let sent = asked[(entry.revision - base - 1) as usize].load(Ordering::Relaxed);
                        latencies.push(began.elapsed().saturating_sub(Duration::from_nanos(sent)));
                    }
                }
                latencies
            })
        })
        .collect();
    let start = Instant::now();
    for index in 0..CHANGES {
        asked[index].store(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
        let name = format!("pod-{}", index % PODS);
        store.put(format!("/registry/pods/default/{name}"), pod(&name), Expect::Any, 0).await.unwrap();
    }
    let latencies: Vec<Duration> = futures::future::join_all(watchers).await.into_iter().flat_map(Result::unwrap).collect();
    row(&format!("{WATCHERS} watchers, {CHANGES} changes one by one"), latencies.len(), start.elapsed(), latencies);
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        store_figures().await;
        let directory = tempfile::tempdir().unwrap();
        let store = apiserver::store::sled::open(directory.path(), Options::default()).unwrap();
        let pods = ResourceSpec {
            prefix: "/registry/pods/".into(),
            describe: describe_by_paths(&["spec.nodeName".into(), "status.phase".into()]),
            revise: None,
        };
        let caches = Caches::start(store.clone(), "/registry/", vec![pods]).await.unwrap();
        let start = Instant::now();
        let (elapsed, latencies) = write(&store, 64, PODS).await;
        caches.catch_up().await.unwrap();
        row("durable writes with the cache, 64 writers", PODS, elapsed, latencies);
        println!("    in the cache after {:.0?}", start.elapsed());
        list_figures(&caches).await;
        watch_figures(&store, &caches).await;
        println!("resident at the end: {:.1} MiB", resident());
    });
}
