//! Embedded stores against a model: any sequence of writes, compactions and restarts must leave a store whose every readable revision, and
//! every watch from one, is what a plain list of the writes says.

use super::embedded::{Options, Retention};
use super::{Expect, Range, Revision, Store, StoreError, memory, sled};
use bytes::Bytes;
use futures::StreamExt;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Debug)]
enum Op {
    /// A put of a value of so many bytes, or a deletion; what it expects is chosen by the number.
    Write { key: u8, size: Option<usize>, expect: u8 },
    /// A compaction to so many revisions before the last.
    Compact { before: u64 },
    /// Close and open again.
    Restart,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let size = proptest::option::weighted(0.75, prop_oneof![9 => 0..50usize, 1 => 20_000..60_000usize]);
    let write = (0..5u8, size, 0..8u8).prop_map(|(key, size, expect)| Op::Write { key, size, expect });
    let compact = (0..10u64).prop_map(|before| Op::Compact { before });
    proptest::collection::vec(prop_oneof![30 => write, 2 => compact, 1 => Just(Op::Restart)], 1..50)
}

/// A write that took place: its revision, key and value; no value for a deletion.
type Write = (Revision, String, Option<Bytes>);

#[derive(Default)]
struct Model {
    writes: Vec<Write>,
    compacted: Revision,
}

impl Model {
    fn revision(&self) -> Revision {
        self.writes.last().map_or(1, |w| w.0)
    }

    /// What there is at a revision: value, creation and last change of each key.
    fn state(&self, at: Revision) -> BTreeMap<&str, (&Bytes, Revision, Revision)> {
        let mut state: BTreeMap<&str, (&Bytes, Revision, Revision)> = BTreeMap::new();
        for (revision, key, value) in self.writes.iter().filter(|w| w.0 <= at) {
            match value {
                Some(value) => {
                    let created = state.get(key.as_str()).map_or(*revision, |(_, created, _)| *created);
                    state.insert(key, (value, created, *revision));
                }
                None => {
                    state.remove(key.as_str());
                }
            }
        }
        state
    }
}

async fn apply(store: &Arc<dyn Store>, model: &mut Model, op: &Op) {
    match op {
        Op::Write { key, size, expect } => {
            let key = format!("/registry/k/{key}");
            let current = model.state(model.revision()).get(key.as_str()).map(|(_, _, changed)| *changed);
            let expect = match expect {
                0 => Expect::Absent,
                1 => Expect::At(model.revision() + 1),
                2..5 => current.map_or(Expect::Absent, Expect::At),
                _ => Expect::Any,
            };
            let holds = match expect {
                Expect::Any => true,
                Expect::Absent => current.is_none(),
                Expect::At(revision) => current == Some(revision),
            };
            let value = size.map(|size| Bytes::from(vec![model.writes.len() as u8; size]));
            let takes_place = holds && (value.is_some() || current.is_some());
            let answer = match value.clone() {
                Some(value) => store.put(key.clone(), value, expect, 0).await,
                None => store.delete(key.clone(), expect).await,
            };
            match answer {
                Ok(revision) => {
                    assert!(takes_place);
                    assert_eq!(revision, model.revision() + 1);
                    model.writes.push((revision, key, value));
                }
                Err(StoreError::Conflict(found)) => {
                    assert!(!takes_place);
                    assert_eq!(found.map(|kv| kv.mod_revision), current);
                }
                Err(error) => panic!("{error}"),
            }
        }
        Op::Compact { before } => {
            let to = model.revision().saturating_sub(*before);
            store.compact(to).await.unwrap();
            model.compacted = model.compacted.max(to);
        }
        Op::Restart => {}
    }
}

async fn check(store: &Arc<dyn Store>, model: &Model) {
    assert_eq!(store.revision().await.unwrap(), model.revision());
    for at in 1..=model.revision() {
        let listing = store.list(Range { prefix: "/registry/".into(), after: None, limit: 0, at: Some(at) }).await;
        let watch = store.watch("/registry/".into(), at).await;
        if at < model.compacted {
            assert!(matches!(listing, Err(StoreError::Compacted(oldest)) if oldest == model.compacted));
            assert!(matches!(watch.err(), Some(StoreError::Compacted(oldest)) if oldest == model.compacted));
            continue;
        }
        let listing = listing.unwrap();
        let found = listing.items.iter().map(|kv| (kv.key.as_str(), (&kv.value, kv.create_revision, kv.mod_revision))).collect();
        assert_eq!(model.state(at), found, "at {at}");
        let expected: Vec<&Write> = model.writes.iter().filter(|w| w.0 > at).collect();
        let mut watch = watch.unwrap();
        let mut told: Vec<Write> = Vec::new();
        while told.len() < expected.len() {
            let batch = tokio::time::timeout(Duration::from_secs(30), watch.next()).await.expect("a watch goes on").unwrap().unwrap();
            told.extend(batch.events.into_iter().map(|e| (e.revision, e.key, e.current.map(|c| c.value))));
        }
        assert_eq!(told.iter().collect::<Vec<_>>(), expected, "from {at}");
    }
}

/// Runs a sequence on the store that `open` gives, which is asked again after a restart.
fn run(ops: &[Op], open: impl Fn() -> Option<Arc<dyn Store>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut store = open().unwrap();
        let mut model = Model::default();
        for op in ops {
            apply(&store, &mut model, op).await;
            if matches!(op, Op::Restart) {
                check(&store, &model).await;
                store.close().await.unwrap();
                drop(store);
                store = open().unwrap();
            }
        }
        check(&store, &model).await;
    });
}

/// Nothing is compacted but by request.
fn options() -> Options {
    let retention = Retention { age: Duration::from_secs(3600), bytes: usize::MAX, versions: usize::MAX };
    Options { retention, ..Options::default() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn memory_agrees(ops in ops()) {
        // It does not outlive a restart, so there is none.
        let ops: Vec<Op> = ops.into_iter().filter(|op| !matches!(op, Op::Restart)).collect();
        run(&ops, || memory::open(options()).ok());
    }

    #[test]
    fn sled_agrees(ops in ops()) {
        let directory = tempfile::tempdir().unwrap();
        run(&ops, || sled::open(directory.path(), options()).ok());
    }
}
