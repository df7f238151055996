//! The store on disk is killed hundreds of times while it writes, and after each time must hold every acknowledged write, in order, and
//! nothing that was not asked for.
//!
//! The writer is this same binary, started again: its writers each work through a sequence of writes that is known from a seed, one at a
//! time, and print every acknowledgement. So after a kill each of them has had its acknowledged writes and at most the one after them.
//! SIGKILL leaves the kernel's page cache alone: what a power cut takes is not tested here.

#![allow(clippy::unwrap_used)] // A panic is how a test reports.

use apiserver::store::embedded::{Options, Retention};
use apiserver::store::{Event, Expect, Range, Revision, Store, StoreError};
use bytes::Bytes;
use futures::StreamExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const ROUNDS: u64 = 300;
const WRITERS: u64 = 16;
/// Where the child finds the store, and which round it is.
const DIRECTORY: &str = "CRASH_DIRECTORY";
const ROUND: &str = "CRASH_ROUND";

/// The write of a writer that has done `index` before in this round: one of its own keys, and the value; `None` to delete.
fn write(round: u64, writer: u64, index: u64) -> (String, Option<Bytes>) {
    let mut random = StdRng::seed_from_u64(round << 32 | writer << 24 | index);
    let key = format!("/registry/pods/{writer}/{}", random.random_range(0..5));
    let size = if random.random_ratio(1, 50) { 60_000 } else { random.random_range(0..5_000) };
    let value = random.random_ratio(4, 5).then(|| {
        let mut value = format!("{round} {writer} {index} ").into_bytes();
        let text = value.len();
        value.resize(text + size, 0);
        // Noise, so that it stays as long when it is stored.
        random.fill(&mut value[text..]);
        Bytes::from(value)
    });
    (key, value)
}

fn open(directory: &Path) -> Arc<dyn Store> {
    // Little history, so that records are removed under load as well; but more than a round makes.
    let retention = Retention { age: Duration::from_secs(3600), bytes: usize::MAX, versions: 1_000 };
    apiserver::store::sled::open(directory, Options { retention, ..Options::default() }).expect("the store opens")
}

/// The child's part: writes until it is killed. Run as an ordinary test, without a directory, it has nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writer() {
    let (Ok(directory), Ok(round)) = (std::env::var(DIRECTORY), std::env::var(ROUND)) else { return };
    let round = round.parse().unwrap();
    let store = open(Path::new(&directory));
    let tasks = (0..WRITERS).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for index in 0.. {
                let (key, value) = write(round, writer, index);
                let revision = match value {
                    Some(value) => store.put(key, value, Expect::Any, 0).await.unwrap(),
                    // With nothing to delete there is no write, which is acknowledged as revision 0.
                    None => match store.delete(key, Expect::Any).await {
                        Err(StoreError::Conflict(None)) => 0,
                        deleted => deleted.unwrap(),
                    },
                };
                // One system call, so that a kill leaves whole lines.
                std::io::stdout().write_all(format!("ack {writer} {index} {revision}\n").as_bytes()).unwrap();
            }
        })
    });
    futures::future::join_all(tasks).await;
}

/// What the child acknowledged: for each writer the revisions of its writes, in order.
type Acknowledged = Vec<Vec<Revision>>;

/// Lets a child write and kills it, after a number of acknowledgements or a time, whichever the seed says.
fn write_and_kill(directory: &Path, round: u64) -> Acknowledged {
    let mut random = StdRng::seed_from_u64(round);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer", "--nocapture", "--quiet"])
        .env(DIRECTORY, directory)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut acknowledged: Acknowledged = vec![Vec::new(); WRITERS as usize];
    let mut take = |line: &str| {
        // The test harness prints lines of its own.
        let Some(("ack", rest)) = line.trim_end().split_once(' ') else { return };
        let numbers: Vec<u64> = rest.split(' ').map(|n| n.parse().unwrap()).collect();
        let [writer, index, revision] = numbers[..] else { panic!("{line}") };
        assert_eq!(acknowledged[writer as usize].len() as u64, index);
        acknowledged[writer as usize].push(revision);
    };
    if random.random_ratio(1, 10) {
        std::thread::sleep(Duration::from_millis(random.random_range(0..40)));
    } else {
        for _ in 0..random.random_range(1..400) {
            let mut line = String::new();
            assert!(lines.read_line(&mut line).unwrap() > 0, "the writer ended by itself in round {round}");
            take(&line);
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    lines.lines().for_each(|line| take(&line.unwrap()));
    acknowledged
}

/// Everything that happened after a revision.
async fn history(store: &Arc<dyn Store>, from: Revision) -> Vec<Event> {
    let until = store.revision().await.unwrap();
    let mut watch = store.watch("/".into(), from).await.unwrap();
    let mut events = Vec::new();
    let mut reached = from;
    while reached < until {
        let batch = watch.next().await.unwrap().unwrap();
        events.extend(batch.events);
        reached = batch.revision;
    }
    events
}

/// What each key holds, and since when.
type Model = HashMap<String, (Revision, Bytes)>;

/// Checks one round's history against what was acknowledged, and brings the model up to date.
fn check(round: u64, from: Revision, events: &[Event], acknowledged: &Acknowledged, model: &mut Model) {
    let mut next = vec![0usize; WRITERS as usize];
    for (offset, event) in events.iter().enumerate() {
        assert_eq!(event.revision, from + 1 + offset as u64, "round {round}: every write has the next revision");
        let writer: usize = event.key.split('/').nth(3).unwrap().parse().unwrap();
        let done = &acknowledged[writer];
        while done.get(next[writer]) == Some(&0) {
            next[writer] += 1;
        }
        let index = next[writer];
        let (key, value) = write(round, writer as u64, index as u64);
        let found = event.current.as_ref().map(|c| &c.value);
        assert!(event.key == key && found == value.as_ref(), "round {round}: writer {writer}'s write {index} is another");
        match done.get(index) {
            Some(revision) => assert_eq!(*revision, event.revision, "round {round}: the write is at the revision acknowledged"),
            None => assert_eq!(index, done.len(), "round {round}: writer {writer} had not come to this"),
        }
        next[writer] += 1;
        match &event.current {
            Some(current) => model.insert(key, (event.revision, current.value.clone())),
            None => model.remove(&key),
        };
    }
    for (writer, done) in acknowledged.iter().enumerate() {
        let missing = done.iter().skip(next[writer]).filter(|revision| **revision != 0).count();
        assert_eq!(missing, 0, "round {round}: acknowledged writes of writer {writer} are lost");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_store_has_all_it_acknowledged_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let mut model = Model::new();
    let mut reached = 1;
    let mut total = 0;
    let mut slowest = Duration::ZERO;
    for round in 0..ROUNDS {
        let acknowledged = write_and_kill(directory.path(), round);
        total += acknowledged.iter().map(Vec::len).sum::<usize>();
        let start = Instant::now();
        let store = open(directory.path());
        slowest = slowest.max(start.elapsed());
        let events = history(&store, reached).await;
        check(round, reached, &events, &acknowledged, &mut model);
        reached += events.len() as u64;
        let listing = store.list(Range { prefix: "/".into(), after: None, limit: 0, at: None }).await.unwrap();
        assert_eq!(listing.revision, reached);
        let found: Model = listing.items.into_iter().map(|kv| (kv.key, (kv.mod_revision, kv.value))).collect();
        assert!(found == model, "round {round}: the state is not what the history leads to");
        store.close().await.unwrap();
    }
    println!("{ROUNDS} kills, {total} acknowledged writes, revision {reached}, slowest reopening {slowest:?}");
}
