//! The cache over a store in memory: what readers and watchers see, compared with a model that is simple enough to be right.

use super::{Cache, CacheError, Caches, Filter, Page, Paging, ResourceSpec, Start, WatchEvent, WatchOptions, Watcher, describe_by_paths};
use crate::encoding::{self, EventType};
use crate::store::embedded::Options;
use crate::store::{Batch, Expect, KeyValue, LeaseId, Listing, Range, Revision, Store, StoreError, StoreResult, Watch, memory};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

fn pods() -> ResourceSpec {
    ResourceSpec { prefix: "/registry/pods/".into(), describe: describe_by_paths(&["spec.nodeName".into()]), revise: None }
}

fn object(key: &str, label: u8, size: usize) -> Bytes {
    let name = key.rsplit('/').next().unwrap();
    encoding::encode(&json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "labels": {"v": label.to_string()}},
        "spec": {"nodeName": format!("n{label}")}, "padding": "x".repeat(size)}))
}

struct Cluster {
    store: Arc<dyn Store>,
    caches: Caches,
    pods: Arc<Cache>,
}

impl Cluster {
    async fn new() -> Cluster {
        Cluster::over(memory::open(Options::default()).unwrap()).await
    }

    async fn over(store: Arc<dyn Store>) -> Cluster {
        let caches = Caches::start(store.clone(), "/registry/", vec![pods()]).await.unwrap();
        let pods = caches.get("/registry/pods/").unwrap();
        Cluster { store, caches, pods }
    }

    async fn put(&self, key: &str, label: u8) -> Revision {
        let value = object(key, label, 0);
        let revision = self.store.put(format!("/registry/pods/{key}"), value, Expect::Any, 0).await.unwrap();
        self.pods.wait_until(revision).await.unwrap();
        revision
    }

    async fn delete(&self, key: &str) -> Revision {
        let revision = self.store.delete(format!("/registry/pods/{key}"), Expect::Any).await.unwrap();
        self.pods.wait_until(revision).await.unwrap();
        revision
    }

    fn watch(&self, filter: Filter, start: Start) -> Watcher {
        self.pods.watch(filter, WatchOptions { start, bookmarks: false, deadline: None }).unwrap()
    }
}

/// An event as a client reads it: type, `namespace/name`, resource version, the label.
type Seen = (String, String, Revision, String);

fn seen(event: &WatchEvent) -> Seen {
    let WatchEvent::Object { entry, .. } = event else { panic!("no bookmark was asked for") };
    let frame: Value = serde_json::from_slice(&event.frame("Pod", "v1")).unwrap();
    let metadata = &frame["object"]["metadata"];
    let revision = metadata["resourceVersion"].as_str().unwrap().parse().unwrap();
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    (text(&frame["type"]), entry.relative_key().to_owned(), revision, text(&metadata["labels"]["v"]))
}

async fn next(watcher: &mut Watcher) -> Option<Vec<WatchEvent>> {
    tokio::time::timeout(PATIENCE, watcher.next()).await.expect("a watcher must go on")
}

async fn take(watcher: &mut Watcher, count: usize) -> Vec<Seen> {
    let mut events = Vec::new();
    while events.len() < count {
        events.extend(next(watcher).await.expect("the watch goes on").iter().map(seen));
    }
    events
}

fn keys(page: &Page) -> Vec<&str> {
    page.entries.iter().map(|e| e.relative_key()).collect()
}

#[tokio::test]
async fn reads_see_acknowledged_writes() {
    let cluster = Cluster::new().await;
    let revision = cluster.put("ns/a", 1).await;
    let entry = cluster.pods.find("ns", "a").unwrap();
    assert_eq!((entry.revision, entry.create_revision, entry.namespace(), entry.name()), (revision, revision, "ns", "a"));
    assert_eq!((entry.label("v"), entry.field("spec.nodeName"), entry.field("nosuch")), (Some("1"), Some("n1"), None));
    let value: Value = serde_json::from_slice(&entry.bytes()).unwrap();
    assert_eq!(value["metadata"]["resourceVersion"], revision.to_string());
    // A write to another resource moves this one's revision along.
    let other = cluster.store.put("/registry/nodes/n".into(), Bytes::from_static(b"{}"), Expect::Any, 0).await.unwrap();
    assert_eq!(cluster.pods.catch_up().await.unwrap(), other);
    assert_eq!(cluster.pods.list(&Filter::all(), &Paging::default()).revision, other);
    let gone = cluster.delete("ns/a").await;
    assert!(cluster.pods.find("ns", "a").is_none());
    assert_eq!(cluster.pods.revision(), gone);
}

#[tokio::test]
async fn what_was_there_before_the_cache_is_in_it() {
    let store = memory::open(Options::default()).unwrap();
    let revision = store.put("/registry/pods/ns/a".into(), object("ns/a", 1, 0), Expect::Any, 0).await.unwrap();
    let cluster = Cluster::over(store).await;
    assert_eq!(cluster.pods.get("ns/a").unwrap().revision, revision);
    let from_before = cluster.pods.watch(Filter::all(), WatchOptions { start: Start::After(1), bookmarks: false, deadline: None });
    assert!(matches!(from_before.err(), Some(CacheError::TooOld { asked: 1, oldest }) if oldest == revision));
    let mut all = cluster.watch(Filter::all(), Start::Initial { end_bookmark: false });
    assert_eq!(take(&mut all, 1).await, [("ADDED".into(), "ns/a".into(), revision, "1".into())]);
}

#[tokio::test]
async fn pages_are_of_one_revision_whatever_happens_between_them() {
    let cluster = Cluster::new().await;
    for name in ["a/1", "a/2", "a/3", "b/1", "b/2"] {
        cluster.put(name, 1).await;
    }
    let filter = Filter::all();
    let paging = |after: Option<String>, limit| Paging { after, limit };
    let first = cluster.pods.list(&filter, &paging(None, 2));
    assert_eq!((keys(&first), first.next.as_deref(), first.remaining), (vec!["a/1", "a/2"], Some("a/2"), Some(3)));
    // Nothing has changed: from memory. Then something has: from the store.
    for change in [false, true] {
        if change {
            cluster.put("a/25", 1).await;
            cluster.delete("b/1").await;
        }
        let second = cluster.pods.list_at(first.revision, &filter, &paging(first.next.clone(), 2)).await.unwrap();
        assert_eq!((keys(&second), second.next.as_deref(), second.remaining), (vec!["a/3", "b/1"], Some("b/1"), Some(1)));
        let third = cluster.pods.list_at(first.revision, &filter, &paging(second.next, 2)).await.unwrap();
        assert_eq!((keys(&third), third.next.as_deref(), third.remaining, third.revision), (vec!["b/2"], None, None, first.revision));
        let one = cluster.pods.list_at(first.revision, &Filter::all().in_namespace("b"), &Paging::default()).await.unwrap();
        assert_eq!(keys(&one), ["b/1", "b/2"]);
    }
    let named = cluster.pods.list(&Filter::all().named("1"), &paging(None, 1));
    assert_eq!((keys(&named), named.remaining), (vec!["a/1"], None));
    cluster.store.compact(cluster.pods.revision()).await.unwrap();
    let compacted = cluster.pods.list_at(first.revision, &filter, &Paging::default()).await;
    assert!(matches!(compacted.err(), Some(CacheError::Store(StoreError::Compacted(_)))));
    let future = cluster.pods.list_at(1_000_000, &filter, &Paging::default()).await;
    assert!(matches!(future.err(), Some(CacheError::TooLarge { asked: 1_000_000, .. })));
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let cluster = Cluster::new().await;
    let a = cluster.put("ns/a", 1).await;
    let b = cluster.put("ns/b", 2).await;
    let mut watcher = cluster.watch(Filter::all(), Start::Initial { end_bookmark: true });
    let expected = [("ADDED".into(), "ns/a".into(), a, "1".into()), ("ADDED".into(), "ns/b".into(), b, "2".into())];
    assert_eq!(take(&mut watcher, 2).await, expected);
    let bookmark = next(&mut watcher).await.unwrap();
    let frame: Value = serde_json::from_slice(&bookmark[0].frame("Pod", "v1")).unwrap();
    assert_eq!(
        frame["object"]["metadata"],
        json!({"resourceVersion": b.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}})
    );
    let c = cluster.put("ns/c", 3).await;
    assert_eq!(take(&mut watcher, 1).await, [("ADDED".into(), "ns/c".into(), c, "3".into())]);
}

#[tokio::test]
async fn a_bookmark_comes_after_everything_before_it() {
    let cluster = Cluster::new().await;
    let start = Start::After(cluster.pods.revision());
    // The last bookmark comes two seconds before the end.
    let deadline = Some(tokio::time::Instant::now() + Duration::from_millis(2200));
    let options = WatchOptions { start, bookmarks: true, deadline };
    let mut watcher = cluster.pods.watch(Filter::all().in_namespace("mine"), options).unwrap();
    cluster.put("mine/a", 1).await;
    let other = cluster.put("other/a", 1).await;
    assert_eq!(take(&mut watcher, 1).await[0].1, "mine/a");
    let events = next(&mut watcher).await.unwrap();
    assert!(matches!(events[..], [WatchEvent::Bookmark { revision, initial_events_end: false }] if revision == other));
    assert!(next(&mut watcher).await.is_none(), "the watch ends at its deadline");
}

#[tokio::test]
async fn a_watcher_that_does_not_keep_up_is_dropped() {
    let cluster = Cluster::new().await;
    let mut slow = cluster.watch(Filter::all(), Start::After(cluster.pods.revision()));
    let writes = (0..5_000).map(|i| cluster.store.put(format!("/registry/pods/ns/{}", i % 10), object("a", 1, 0), Expect::Any, 0));
    futures::future::join_all(writes).await;
    cluster.caches.catch_up().await.unwrap();
    assert_eq!(cluster.pods.watchers(), 0);
    let mut last = 0;
    while let Some(events) = next(&mut slow).await {
        last = seen(events.last().unwrap()).2;
    }
    // It goes on from where it was, and misses nothing.
    let mut resumed = cluster.watch(Filter::all(), Start::After(last));
    let rest = take(&mut resumed, (cluster.pods.revision() - last) as usize).await;
    assert_eq!((rest[0].2, rest.last().unwrap().2), (last + 1, cluster.pods.revision()));
}

#[tokio::test]
async fn the_memory_of_changes_is_bounded() {
    let cluster = Cluster::new().await;
    let start = cluster.pods.revision();
    for _ in 0..100 {
        let value = object("ns/a", 1, 200_000);
        cluster.store.put("/registry/pods/ns/a".into(), value, Expect::Any, 0).await.unwrap();
    }
    let now = cluster.caches.catch_up().await.unwrap();
    let options = |from| WatchOptions { start: Start::After(from), bookmarks: false, deadline: None };
    let Err(CacheError::TooOld { oldest, .. }) = cluster.pods.watch(Filter::all(), options(start)) else { panic!("8 MiB are not 20 MB") };
    assert!(oldest > start + 50 && oldest < now - 30);
    assert!(cluster.pods.watch(Filter::all(), options(oldest)).is_ok());
    assert!(cluster.pods.watch(Filter::all(), options(oldest - 1)).is_err());
}

#[tokio::test]
async fn resources_come_and_go() {
    let cluster = Cluster::new().await;
    let revision = cluster.store.put("/registry/x.io/things/a".into(), object("a", 1, 0), Expect::Any, 0).await.unwrap();
    let spec = ResourceSpec { prefix: "/registry/x.io/things/".into(), describe: describe_by_paths(&[]), revise: None };
    let things = cluster.caches.add(spec.clone()).await.unwrap();
    assert_eq!(things.get("a").unwrap().revision, revision);
    assert!(Arc::ptr_eq(&things, &cluster.caches.add(spec).await.unwrap()));
    let revision = cluster.store.put("/registry/x.io/things/b".into(), object("b", 1, 0), Expect::Any, 0).await.unwrap();
    cluster.caches.wait_until(revision).await.unwrap();
    assert_eq!((things.len(), cluster.pods.len()), (2, 0));
    let options = WatchOptions { start: Start::After(revision), bookmarks: false, deadline: None };
    let mut watcher = things.watch(Filter::all(), options).unwrap();
    cluster.caches.remove("/registry/x.io/things/");
    assert!(next(&mut watcher).await.is_none(), "whoever still holds the resource keeps no watch open");
    assert!(next(&mut things.watch(Filter::all(), options).unwrap()).await.is_none());
}

/// A store whose first watch falls behind, as one does that is not served in time; until then it stays silent.
struct Lagging {
    inner: Arc<dyn Store>,
    lagged: Arc<AtomicBool>,
    release: Arc<tokio::sync::Notify>,
}

impl Store for Lagging {
    fn revision(&self) -> BoxFuture<'_, StoreResult<Revision>> {
        self.inner.revision()
    }
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, StoreResult<(Option<KeyValue>, Revision)>> {
        self.inner.get(key)
    }
    fn list(&self, range: Range) -> BoxFuture<'_, StoreResult<Listing>> {
        self.inner.list(range)
    }
    fn put(&self, key: String, value: Bytes, expect: Expect, lease: LeaseId) -> BoxFuture<'_, StoreResult<Revision>> {
        self.inner.put(key, value, expect, lease)
    }
    fn delete(&self, key: String, expect: Expect) -> BoxFuture<'_, StoreResult<Revision>> {
        self.inner.delete(key, expect)
    }
    fn watch(&self, prefix: String, from: Revision) -> BoxFuture<'_, StoreResult<Watch>> {
        if self.lagged.swap(true, Ordering::SeqCst) {
            return self.inner.watch(prefix, from);
        }
        let release = self.release.clone();
        let lag = async move {
            release.notified().await;
            Err::<Batch, _>(StoreError::Compacted(0))
        };
        Box::pin(async move { Ok(futures::stream::once(lag).boxed()) })
    }
    fn compact(&self, revision: Revision) -> BoxFuture<'_, StoreResult<()>> {
        self.inner.compact(revision)
    }
    fn grant(&self, ttl: Duration) -> BoxFuture<'_, StoreResult<LeaseId>> {
        self.inner.grant(ttl)
    }
    fn health(&self) -> BoxFuture<'_, StoreResult<()>> {
        self.inner.health()
    }
    fn close(&self) -> BoxFuture<'_, StoreResult<()>> {
        self.inner.close()
    }
}

#[tokio::test]
async fn a_feed_that_fell_behind_catches_up() {
    for compact in [false, true] {
        let inner = memory::open(Options::default()).unwrap();
        let put = |key: &'static str, label| inner.put(format!("/registry/pods/{key}"), object(key, label, 0), Expect::Any, 0);
        put("ns/changed", 1).await.unwrap();
        put("ns/gone", 1).await.unwrap();
        put("ns/kept", 1).await.unwrap();
        let release = Arc::new(tokio::sync::Notify::new());
        let cluster = Cluster::over(Arc::new(Lagging { inner: inner.clone(), lagged: Arc::default(), release: release.clone() })).await;
        let start = Start::After(cluster.pods.revision());
        let mut watcher = cluster.watch(Filter::all(), start);
        let added = put("ns/added", 1).await.unwrap();
        let changed = put("ns/changed", 2).await.unwrap();
        let gone = inner.delete("/registry/pods/ns/gone".into(), Expect::Any).await.unwrap();
        if compact {
            inner.compact(gone).await.unwrap();
        }
        release.notify_one();
        cluster.pods.wait_until(gone).await.unwrap();
        let event = |kind: &str, key: &str, revision, label: &str| (kind.to_owned(), key.to_owned(), revision, label.to_owned());
        let expected =
            [event("ADDED", "ns/added", added, "1"), event("MODIFIED", "ns/changed", changed, "2"), event("DELETED", "ns/gone", gone, "1")];
        assert_eq!(take(&mut watcher, 3).await, expected, "compacted: {compact}");
        assert_eq!(keys(&cluster.pods.list(&Filter::all(), &Paging::default())), ["ns/added", "ns/changed", "ns/kept"]);
    }
}

/// A filter on `namespace/name` and the label, as the model has it.
type Takes = Box<dyn Fn(&str, u8) -> bool>;

/// What a watcher with a filter must be told of a history, from a revision on.
fn expected(history: &[(Revision, String, Option<u8>)], from: Revision, takes: &dyn Fn(&str, u8) -> bool) -> Vec<Seen> {
    let mut state: BTreeMap<&str, u8> = BTreeMap::new();
    let mut events = Vec::new();
    for (revision, key, label) in history {
        let before = match label {
            Some(label) => state.insert(key, *label),
            None => state.remove(key.as_str()),
        };
        if *revision <= from {
            continue;
        }
        let was = before.filter(|label| takes(key, *label));
        let is = label.filter(|label| takes(key, *label));
        let (kind, shown) = match (was, is) {
            (None, None) => continue,
            (None, Some(label)) => (EventType::Added, label),
            (Some(_), Some(label)) => (EventType::Modified, label),
            (Some(label), None) => (EventType::Deleted, label),
        };
        events.push((kind.as_str().to_owned(), key.clone(), *revision, shown.to_string()));
    }
    events
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn watchers_are_told_what_their_selector_sees(
        ops in proptest::collection::vec((0..2usize, 0..3usize, proptest::option::weighted(0.8, 0..3u8)), 1..60),
        starts in proptest::collection::vec(0..60usize, 3),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let cluster = Cluster::new().await;
            let filters: [(Filter, Takes); 3] = [
                (Filter::all(), Box::new(|_, _| true)),
                (Filter::all().matching(|e| e.label("v") == Some("1")), Box::new(|_, label| label == 1)),
                (Filter::all().in_namespace("ns0").matching(|e| e.field("spec.nodeName") != Some("n2")),
                    Box::new(|key, label| key.starts_with("ns0/") && label != 2)),
            ];
            let mut history = Vec::new();
            let mut live = Vec::new();
            let mut exists = std::collections::BTreeSet::new();
            for (index, (namespace, name, label)) in ops.iter().enumerate() {
                for (number, start) in starts.iter().enumerate().filter(|(_, start)| **start == index) {
                    live.push((number, cluster.pods.revision(), cluster.watch(filters[number].0.clone(), Start::After(cluster.pods.revision()))));
                    let _ = start;
                }
                let key = format!("ns{namespace}/{name}");
                match label {
                    Some(label) => {
                        exists.insert(key.clone());
                        history.push((cluster.put(&key, *label).await, key, Some(*label)));
                    }
                    None if exists.remove(&key) => history.push((cluster.delete(&key).await, key, None)),
                    None => {}
                }
            }
            // Those that watched live, and those that ask for it all afterwards, are told the same.
            for (number, (filter, takes)) in filters.iter().enumerate() {
                let middle = history.get(history.len() / 2).map_or(1, |(revision, _, _)| *revision);
                let late = [1, middle].map(|from| (number, from, cluster.watch(filter.clone(), Start::After(from))));
                for (_, from, mut watcher) in live.extract_if(.., |(n, _, _)| *n == number).chain(late) {
                    let expected = expected(&history, from, takes);
                    assert_eq!(take(&mut watcher, expected.len()).await, expected);
                }
            }
        });
    }
}

#[tokio::test]
async fn a_list_can_be_continued_for_five_minutes_and_no_longer() {
    let cluster = Cluster::new().await;
    let later = async |seconds: u64| {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(seconds)).await;
        tokio::time::resume();
    };
    let first = cluster.put("a/1", 1).await;
    later(11).await;
    let second = cluster.put("a/2", 1).await;
    let list = async |revision: Revision| cluster.pods.list_at(revision, &Filter::all(), &Paging::default()).await;
    later(100).await;
    assert_eq!(keys(&list(first).await.unwrap()), ["a/1"]);
    later(200).await;
    assert!(matches!(list(first).await.err(), Some(CacheError::Store(StoreError::Compacted(oldest))) if oldest == second));
    assert_eq!(keys(&list(second).await.unwrap()), ["a/1", "a/2"]);
}
