//! What every store promises, as tests that run on each implementation: [`suite!`] makes one test of every case. A case gets a store
//! that may already have a history (etcd's is shared), so it keeps to keys of its own and takes no revision for granted.

use super::{Batch, Event, Expect, Range, Revision, Store, StoreError, VALUE_LIMIT, Watch};
use bytes::Bytes;
use futures::StreamExt;
use std::sync::Arc;
use std::time::Duration;

/// How long to wait for what must happen; never reached by a store that works.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs every case on the stores that `$open` (an async function) makes, each with a guard of what it lives in; `None` leaves the case out.
macro_rules! suite {
    ($open:path) => {
        crate::store::suite::suite! { @ $open;
            every_write_has_a_revision_of_its_own, a_write_happens_only_as_expected, one_of_many_writers_wins, lists_come_in_pages_of_one_revision,
            old_revisions_can_be_read_until_compaction, a_watch_misses_nothing_and_repeats_nothing, a_watch_tells_its_progress,
            a_watch_sees_its_prefix_only, what_is_leased_ends, values_are_limited, a_closed_store_refuses }
    };
    (@ $open:path; $($case:ident),*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            let Some((store, _place)) = $open().await else { return };
            crate::store::suite::$case(store).await;
        }
    )* };
}
pub(crate) use suite;

fn text(text: &str) -> Bytes {
    Bytes::from(text.to_owned())
}

fn under(prefix: &str) -> Range {
    Range { prefix: prefix.into(), after: None, limit: 0, at: None }
}

async fn put(store: &Arc<dyn Store>, key: &str, value: &str) -> Revision {
    store.put(key.into(), text(value), Expect::Any, 0).await.unwrap()
}

async fn next(watch: &mut Watch) -> Option<Result<Batch, StoreError>> {
    tokio::time::timeout(PATIENCE, watch.next()).await.expect("a watch must go on")
}

/// The next `count` events.
async fn events(watch: &mut Watch, count: usize) -> Vec<Event> {
    let mut found = Vec::new();
    while found.len() < count {
        found.extend(next(watch).await.expect("the watch ended").unwrap().events);
    }
    assert_eq!(found.len(), count);
    found
}

fn brief(events: &[Event]) -> Vec<(Revision, &str, Option<&[u8]>)> {
    events.iter().map(|e| (e.revision, e.key.as_str(), e.current.as_ref().map(|c| &c.value[..]))).collect()
}

pub async fn every_write_has_a_revision_of_its_own(store: Arc<dyn Store>) {
    let start = store.revision().await.unwrap();
    let a = put(&store, "/registry/own/a", "1").await;
    let b = put(&store, "/registry/own/b", "2").await;
    let a2 = put(&store, "/registry/own/a", "3").await;
    store.put("/registry/own/a".into(), text("x"), Expect::Absent, 0).await.unwrap_err();
    let gone = store.delete("/registry/own/b".into(), Expect::At(b)).await.unwrap();
    assert_eq!([a, b, a2, gone], [start + 1, start + 2, start + 3, start + 4]);
    assert_eq!(store.revision().await.unwrap(), gone);
    let (found, revision) = store.get("/registry/own/a").await.unwrap();
    let found = found.unwrap();
    assert_eq!((found.value, found.create_revision, found.mod_revision, found.lease, revision), (text("3"), a, a2, 0, gone));
    assert_eq!(store.get("/registry/own/b").await.unwrap(), (None, gone));
    let again = put(&store, "/registry/own/b", "4").await;
    assert_eq!(store.get("/registry/own/b").await.unwrap().0.unwrap().create_revision, again);
}

pub async fn a_write_happens_only_as_expected(store: Arc<dyn Store>) {
    let key = "/registry/expect/a".to_owned();
    let found = |error: StoreError| match error {
        StoreError::Conflict(current) => current.map(|kv| (kv.value, kv.mod_revision)),
        other => panic!("{other}"),
    };
    assert_eq!(found(store.put(key.clone(), text("1"), Expect::At(1), 0).await.unwrap_err()), None);
    assert_eq!(found(store.delete(key.clone(), Expect::Any).await.unwrap_err()), None);
    let first = store.put(key.clone(), text("1"), Expect::Absent, 0).await.unwrap();
    for expect in [Expect::Absent, Expect::At(first - 1), Expect::At(first + 1)] {
        assert_eq!(found(store.put(key.clone(), text("2"), expect, 0).await.unwrap_err()), Some((text("1"), first)), "{expect:?}");
        assert_eq!(found(store.delete(key.clone(), expect).await.unwrap_err()), Some((text("1"), first)), "{expect:?}");
    }
    let second = store.put(key.clone(), text("2"), Expect::At(first), 0).await.unwrap();
    store.delete(key.clone(), Expect::At(second)).await.unwrap();
    store.put(key.clone(), text("3"), Expect::Absent, 0).await.unwrap();
    store.delete(key, Expect::Any).await.unwrap();
}

pub async fn one_of_many_writers_wins(store: Arc<dyn Store>) {
    put(&store, "/registry/race/n", "0").await;
    let add = |store: Arc<dyn Store>| async move {
        for _ in 0..10 {
            loop {
                let current = store.get("/registry/race/n").await.unwrap().0.unwrap();
                let number: u64 = std::str::from_utf8(&current.value).unwrap().parse().unwrap();
                let expect = Expect::At(current.mod_revision);
                match store.put(current.key, text(&(number + 1).to_string()), expect, 0).await {
                    Ok(_) => break,
                    Err(StoreError::Conflict(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    futures::future::join_all((0..8).map(|_| tokio::spawn(add(store.clone())))).await.into_iter().for_each(|r| r.unwrap());
    assert_eq!(store.get("/registry/race/n").await.unwrap().0.unwrap().value, text("80"));
}

pub async fn lists_come_in_pages_of_one_revision(store: Arc<dyn Store>) {
    for index in 0..10 {
        put(&store, &format!("/registry/pages/a{index}"), "x").await;
    }
    put(&store, "/registry/pagesother/a", "x").await;
    let first = store.list(Range { limit: 4, ..under("/registry/pages/") }).await.unwrap();
    assert_eq!((first.items.len(), first.remaining), (4, 6));
    put(&store, "/registry/pages/a35", "late").await;
    store.delete("/registry/pages/a7".into(), Expect::Any).await.unwrap();
    let after = first.items.last().map(|kv| kv.key.clone());
    let rest = store.list(Range { after, at: Some(first.revision), ..under("/registry/pages/") }).await.unwrap();
    let keys: Vec<&str> = first.items.iter().chain(&rest.items).map(|kv| kv.key.as_str()).collect();
    let expected: Vec<String> = (0..10).map(|i| format!("/registry/pages/a{i}")).collect();
    assert_eq!((keys, rest.revision, rest.remaining), (expected.iter().map(String::as_str).collect(), first.revision, 0));
    let now = store.list(under("/registry/pages/")).await.unwrap();
    assert_eq!((now.items.len(), now.revision), (10, store.revision().await.unwrap()));
    assert!(store.list(under("/registry/nothing/")).await.unwrap().items.is_empty());
}

pub async fn old_revisions_can_be_read_until_compaction(store: Arc<dyn Store>) {
    let first = put(&store, "/registry/old/a", "1").await;
    let second = put(&store, "/registry/old/a", "2").await;
    let gone = store.delete("/registry/old/a".into(), Expect::Any).await.unwrap();
    let last = put(&store, "/registry/old/b", "3").await;
    let at = |revision| Range { at: Some(revision), ..under("/registry/old/") };
    let values = |listing: super::Listing| listing.items.into_iter().map(|kv| kv.value).collect::<Vec<_>>();
    assert_eq!(values(store.list(at(first)).await.unwrap()), [text("1")]);
    assert_eq!(values(store.list(at(second)).await.unwrap()), [text("2")]);
    assert!(values(store.list(at(gone)).await.unwrap()).is_empty());
    assert!(matches!(store.list(at(last + 1)).await.unwrap_err(), StoreError::Future(_)));
    assert!(matches!(store.compact(last + 100).await.unwrap_err(), StoreError::Future(_)));
    store.compact(second).await.unwrap();
    assert!(matches!(store.list(at(first)).await.unwrap_err(), StoreError::Compacted(oldest) if oldest == second));
    assert_eq!(values(store.list(at(second)).await.unwrap()), [text("2")]);
    assert!(matches!(watch_error(&store, "/registry/old/", first - 1).await, StoreError::Compacted(_)));
    store.compact(last).await.unwrap();
    assert_eq!(values(store.list(under("/registry/old/")).await.unwrap()), [text("3")]);
    assert_eq!(put(&store, "/registry/old/c", "4").await, last + 1);
}

/// What a watch fails with, whether at once or as its first item.
async fn watch_error(store: &Arc<dyn Store>, prefix: &str, from: Revision) -> StoreError {
    match store.watch(prefix.into(), from).await {
        Err(error) => error,
        Ok(mut watch) => next(&mut watch).await.unwrap().unwrap_err(),
    }
}

pub async fn a_watch_misses_nothing_and_repeats_nothing(store: Arc<dyn Store>) {
    const WRITERS: usize = 4;
    const WRITES: usize = 200;
    let start = store.revision().await.unwrap();
    let write = |store: Arc<dyn Store>, writer: usize| async move {
        for index in 0..WRITES {
            let key = format!("/registry/all/{writer}-{}", index % 7);
            if index % 5 == 4 {
                store.delete(format!("/registry/all/{writer}-{}", (index - 1) % 7), Expect::Any).await.unwrap();
            } else {
                store.put(key, text(&index.to_string()), Expect::Any, 0).await.unwrap();
            }
        }
    };
    let writers: Vec<_> = (0..WRITERS).map(|writer| tokio::spawn(write(store.clone(), writer))).collect();
    let mut watch = store.watch("/registry/all/".into(), start).await.unwrap();
    let mut all: Vec<Event> = Vec::new();
    let mut reached = start;
    while all.len() < WRITERS * WRITES {
        match next(&mut watch).await.expect("the watch ended") {
            Ok(batch) => {
                reached = batch.revision;
                all.extend(batch.events);
            }
            // The writers were too fast for this task.
            Err(StoreError::Compacted(_)) => watch = store.watch("/registry/all/".into(), reached).await.unwrap(),
            Err(error) => panic!("{error}"),
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let revisions: Vec<Revision> = all.iter().map(|e| e.revision).collect();
    assert_eq!(revisions, (start + 1..=start + (WRITERS * WRITES) as u64).collect::<Vec<_>>());
    for event in &all {
        assert!(event.current.as_ref().is_none_or(|c| c.mod_revision == event.revision && c.key == event.key));
    }
    // From any revision, a watch tells the same again.
    for from in [0, 1, WRITES, WRITERS * WRITES - 1] {
        let mut again = store.watch("/registry/all/".into(), start + from as u64).await.unwrap();
        assert_eq!(brief(&events(&mut again, all.len() - from).await), brief(&all[from..]));
    }
    assert!(matches!(watch_error(&store, "/registry/all/", start + 1_000_000).await, StoreError::Future(_)));
}

pub async fn a_watch_tells_its_progress(store: Arc<dyn Store>) {
    let start = store.revision().await.unwrap();
    let mut watch = store.watch("/registry/quiet/".into(), start).await.unwrap();
    let revision = put(&store, "/registry/busy/a", "1").await;
    let reach = async {
        loop {
            // Asking for the revision is what makes a store see to it that its watches come to it.
            assert!(store.revision().await.unwrap() >= revision);
            let batch = watch.next().await.unwrap().unwrap();
            assert!(batch.events.is_empty());
            if batch.revision >= revision {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, reach).await.expect("a watch must tell its progress");
}

pub async fn a_watch_sees_its_prefix_only(store: Arc<dyn Store>) {
    let start = store.revision().await.unwrap();
    let mut live = store.watch("/registry/one/".into(), start).await.unwrap();
    put(&store, "/registry/on", "no").await;
    put(&store, "/registry/onemore/a", "no").await;
    let revision = put(&store, "/registry/one/a", "yes").await;
    let gone = store.delete("/registry/one/a".into(), Expect::Any).await.unwrap();
    let expected: Vec<(Revision, &str, Option<&[u8]>)> = vec![(revision, "/registry/one/a", Some(b"yes")), (gone, "/registry/one/a", None)];
    assert_eq!(brief(&events(&mut live, 2).await), expected);
    let mut replayed = store.watch("/registry/one/".into(), start).await.unwrap();
    assert_eq!(brief(&events(&mut replayed, 2).await), expected);
}

pub async fn what_is_leased_ends(store: Arc<dyn Store>) {
    let start = store.revision().await.unwrap();
    let mut watch = store.watch("/registry/leased/".into(), start).await.unwrap();
    let lease = store.grant(Duration::from_secs(2)).await.unwrap();
    let other = store.grant(Duration::from_secs(600)).await.unwrap();
    assert_ne!(lease, other);
    for (key, lease) in [("a", lease), ("kept", lease), ("b", lease), ("long", other)] {
        store.put(format!("/registry/leased/{key}"), text("1"), Expect::Absent, lease).await.unwrap();
    }
    assert_eq!(store.get("/registry/leased/a").await.unwrap().0.unwrap().lease, lease);
    put(&store, "/registry/leased/kept", "2").await;
    let told = events(&mut watch, 7).await;
    let mut ended: Vec<&str> = told[5..].iter().filter(|e| e.current.is_none()).map(|e| e.key.as_str()).collect();
    ended.sort_unstable();
    assert_eq!(ended, ["/registry/leased/a", "/registry/leased/b"]);
    let left = store.list(under("/registry/leased/")).await.unwrap();
    assert_eq!(left.items.iter().map(|kv| kv.key.as_str()).collect::<Vec<_>>(), ["/registry/leased/kept", "/registry/leased/long"]);
    let late = store.put("/registry/leased/late".into(), text("1"), Expect::Any, lease).await;
    assert!(matches!(late, Err(StoreError::NoLease)));
}

pub async fn values_are_limited(store: Arc<dyn Store>) {
    // Around the sizes at which a store may cut values.
    for size in [0, 1, 24 << 10, (24 << 10) + 1, 700_000, VALUE_LIMIT - 4096] {
        let value = Bytes::from(vec![b'x'; size]);
        let revision = store.put("/registry/size/a".into(), value.clone(), Expect::Any, 0).await.unwrap();
        let found = store.get("/registry/size/a").await.unwrap().0.unwrap();
        assert_eq!((found.value.len(), found.mod_revision), (size, revision));
        assert_eq!(found.value, value);
    }
    let large = store.put("/registry/size/a".into(), Bytes::from(vec![b'x'; VALUE_LIMIT + 1]), Expect::Any, 0).await;
    assert!(matches!(large, Err(StoreError::TooLarge(_))));
}

pub async fn a_closed_store_refuses(store: Arc<dyn Store>) {
    let start = put(&store, "/registry/closed/a", "1").await;
    let mut watch = store.watch("/registry/closed/".into(), start).await.unwrap();
    store.close().await.unwrap();
    let put = store.put("/registry/closed/a".into(), text("2"), Expect::Any, 0).await;
    assert!(matches!(put, Err(StoreError::Unavailable(_))));
    while let Some(item) = next(&mut watch).await {
        assert!(item.unwrap().events.is_empty());
    }
}
