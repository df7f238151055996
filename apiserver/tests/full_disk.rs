//! A disk that is full for a while: the store refuses writes and says so, and goes on by itself with all it acknowledged once there is room.
//!
//! The limit on the size of files stands for the full disk, so that no file system has to be made. It holds for a whole process, and what
//! exceeds it is told by a signal; so the store runs in this same binary, started again by a shell that has the signal ignored.

#![allow(clippy::unwrap_used)] // A panic is how a test reports.

use apiserver::store::embedded::Options;
use apiserver::store::{Expect, Range, Store, StoreError, sled};
use bytes::Bytes;
use futures::StreamExt;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where the child finds the store.
const DIRECTORY: &str = "FULL_DISK_DIRECTORY";
const ROOM: u64 = 8 << 20;
const VALUE: usize = 20_000;
/// More than fits.
const WRITES: usize = 2_000;
/// How often the disk fills up.
const ROUNDS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);

fn limit(bytes: u64) {
    let (_, most) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, bytes.min(most), most).unwrap();
}

/// Puts noise, which takes as much room on the disk as in memory.
async fn put(store: &Arc<dyn Store>, key: &str, seed: usize) -> Result<u64, StoreError> {
    let mut value = vec![0; VALUE];
    StdRng::seed_from_u64(seed as u64).fill(&mut value[..]);
    store.put(key.to_owned(), Bytes::from(value), Expect::Any, 0).await
}

/// The revision of each key, as the store lists it.
async fn listed(store: &Arc<dyn Store>) -> BTreeMap<String, u64> {
    let listing = store.list(Range { prefix: "/".into(), after: None, limit: 0, at: None }).await.unwrap();
    listing.items.into_iter().map(|kv| (kv.key, kv.mod_revision)).collect()
}

/// The child's part. Run as an ordinary test, without a directory, it has nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_on_a_disk_that_fills_up() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let store = sled::open(Path::new(&directory), Options::default()).unwrap();
    let mut acknowledged = BTreeMap::new();
    for round in 1..=ROUNDS {
        limit(round as u64 * ROOM);
        let mut refused = None;
        for index in 0..WRITES {
            let key = format!("/registry/{round}/{index:04}");
            match put(&store, &key, index).await {
                Ok(revision) => assert_eq!(acknowledged.insert(key, revision), None),
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        assert!(matches!(refused, Some(StoreError::Unavailable(_))), "{refused:?}");
        assert!(matches!(put(&store, "/registry/late", 0).await, Err(StoreError::Unavailable(_))));
        assert!(store.health().await.is_err());
        let reached = store.revision().await.unwrap();
        assert!(store.watch("/".into(), reached).await.is_err(), "who watches is not left waiting");

        limit(u64::MAX);
        let end = Instant::now() + PATIENCE;
        let key = format!("/registry/{round}/again");
        let revision = loop {
            match put(&store, &key, 0).await {
                Ok(revision) => break revision,
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        acknowledged.insert(key, revision);
        store.health().await.unwrap();
        let mut watch = store.watch("/".into(), reached).await.unwrap();
        let mut next = reached;
        while next < revision {
            for event in watch.next().await.unwrap().unwrap().events {
                next += 1;
                assert_eq!(event.revision, next);
            }
        }
    }
    let before = listed(&store).await;
    // A write that was refused may have been made all the same; one that was acknowledged must have been.
    assert!(acknowledged.iter().all(|(key, revision)| before.get(key) == Some(revision)));
    store.close().await.unwrap();
    drop(store);
    let store = sled::open(Path::new(&directory), Options::default()).unwrap();
    assert_eq!(listed(&store).await, before);
}

#[test]
fn a_store_goes_on_when_the_disk_is_no_longer_full() {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "store_on_a_disk_that_fills_up", "--nocapture"])
        .env(DIRECTORY, directory.path())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{}", said.join("\n"));
    assert!(said[0].contains("1 passed"), "{}", said.join("\n"));
}
