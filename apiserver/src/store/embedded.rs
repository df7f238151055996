//! The store inside the server's own process, over any [log](super::log): the trait's methods, which send writes to the
//! [committer](super::committer) and read at the last durable revision.
//!
//! In memory it keeps the [index](super::index) (keys and revisions, some 150 bytes each) and no values. A lease needs no record: its id is
//! the time it ends, so that granting one costs nothing and a restart knows it from the keys under it.

use super::committer::{Committer, Request};
use super::history;
use super::index::{Index, Version};
use super::log::{Log, LogError};
use super::{Batch, Event, Expect, KeyValue, LeaseId, Listing, Range, Revision, Store, StoreError, StoreResult, Watch};
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// How many writes may be queued; further writers wait. A few batches, so that the next is always full under load.
const QUEUE: usize = 1024;
/// How many batches a watcher may be behind.
const WATCH_QUEUE: usize = 64;
/// An id is the end of the lease in milliseconds since 1970, shifted by so many bits that tell leases of one millisecond apart.
const LEASE_SHIFT: u32 = 20;

/// How much history is kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Upstream compacts every 5 minutes.
    pub age: Duration,
    /// Not more than so many bytes of overwritten and deleted values, so that a busy cluster does not fill the disk (which holds about
    /// three times what is live and this).
    pub bytes: usize,
    /// Not more than so many of them, so that many small ones do not fill the memory.
    pub versions: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Retention { age: Duration::from_secs(300), bytes: 32 << 20, versions: 50_000 }
    }
}

/// What an embedded store can be told.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How much history is kept.
    pub retention: Retention,
    /// The clock that leases end by.
    pub now: fn() -> SystemTime,
}

impl Default for Options {
    fn default() -> Self {
        Options { retention: Retention::default(), now: SystemTime::now }
    }
}

/// What readers, writers and the committer share.
pub(super) struct Shared<L> {
    pub(super) log: L,
    pub(super) index: RwLock<Index>,
    /// The last durable revision; changed only under the lock of `watches`.
    durable: AtomicU64,
    watches: Mutex<Watches>,
    now: fn() -> SystemTime,
}

#[derive(Default)]
struct Watches {
    slots: Vec<Slot>,
    state: State,
}

/// Whether there are events to come.
#[derive(Clone, Default)]
enum State {
    #[default]
    Open,
    /// Nothing can be written until the log has been opened again.
    Failed(String),
    /// For good.
    Closed,
}

/// A watcher, as the committer sees it.
struct Slot {
    prefix: String,
    batches: mpsc::Sender<Batch>,
}

impl<L: Log> Shared<L> {
    pub(super) fn durable(&self) -> Revision {
        self.durable.load(Ordering::Acquire)
    }

    /// Makes writes visible: from here on they are read, and watchers are told.
    pub(super) fn announce(&self, revision: Revision, events: Vec<Event>) {
        let mut watches = self.watches.lock();
        self.durable.store(revision, Ordering::Release);
        watches.slots.retain(|slot| {
            let events = events.iter().filter(|e| e.key.starts_with(&slot.prefix)).cloned().collect();
            // One that is full has fallen behind and one that is closed has gone; both are dropped.
            slot.batches.try_send(Batch { events, revision }).is_ok()
        });
    }

    /// Writing failed: until [`recovered`](Self::recovered) nothing is written, and who watches has to watch again.
    pub(super) fn fail(&self, reason: &str) {
        self.end_watches(State::Failed(reason.to_owned()));
    }

    /// Ends the store.
    pub(super) fn end(&self) {
        self.end_watches(State::Closed);
    }

    fn end_watches(&self, state: State) {
        let mut watches = self.watches.lock();
        watches.state = state;
        watches.slots.clear();
    }

    /// Goes on with the log as it was found when it was opened again. What had been announced must be in it.
    pub(super) fn recovered(&self, index: Index) -> Result<(), LogError> {
        let mut watches = self.watches.lock();
        let (revision, announced) = (index.revision(), self.durable());
        if revision < announced {
            return Err(LogError(format!("the log ends at revision {revision}, and {announced} had been written")));
        }
        *self.index.write() = index;
        self.durable.store(revision, Ordering::Release);
        watches.state = State::Open;
        Ok(())
    }

    /// Whether it can be written to.
    fn health(&self) -> StoreResult<()> {
        match &self.watches.lock().state {
            State::Open => Ok(()),
            State::Failed(reason) => Err(StoreError::Unavailable(reason.clone())),
            State::Closed => Err(StoreError::Unavailable("the store is closed".into())),
        }
    }

    /// Why a request was not answered.
    fn ended(&self) -> StoreError {
        self.health().err().unwrap_or_else(|| StoreError::Unavailable("the store could not write".into()))
    }

    /// Why no more events come; `None` where the store goes on, or has been closed in peace.
    pub(super) fn failure(&self) -> Option<StoreError> {
        match &self.watches.lock().state {
            State::Failed(reason) => Some(StoreError::Unavailable(reason.clone())),
            State::Open | State::Closed => None,
        }
    }

    /// Whether the store was closed.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.watches.lock().state, State::Closed)
    }

    pub(super) fn read(&self, revision: Revision) -> StoreResult<Option<KeyValue>> {
        Ok(self.log.read(revision)?.and_then(|record| record.into_key_value(revision)))
    }

    /// How long a lease has still to live; `None` if it has ended.
    pub(super) fn until(&self, lease: LeaseId) -> Option<Duration> {
        let end = UNIX_EPOCH + Duration::from_millis(u64::try_from(lease >> LEASE_SHIFT).ok()?);
        end.duration_since((self.now)()).ok().filter(|left| !left.is_zero())
    }

    /// How long until the first lease ends.
    pub(super) fn next_expiry(&self) -> Option<Duration> {
        let (lease, _) = self.index.read().first_lease()?;
        Some(self.until(lease).unwrap_or_default())
    }

    /// The values of versions that were selected at a revision.
    fn fetch(&self, versions: &[(Arc<str>, Version)], at: Revision) -> StoreResult<Option<Vec<KeyValue>>> {
        let mut found = Vec::with_capacity(versions.len());
        for (_, version) in versions {
            match self.read(version.revision)? {
                Some(entry) => found.push(entry),
                // Compacted away since it was selected.
                None if self.index.read().compacted() > at => return Ok(None),
                None => return Err(StoreError::Unavailable(format!("the record of revision {} is missing", version.revision))),
            }
        }
        Ok(Some(found))
    }

    fn get(&self, key: &str) -> StoreResult<(Option<KeyValue>, Revision)> {
        loop {
            let durable = self.durable();
            let Some(version) = self.index.read().version_at(key, durable) else { return Ok((None, durable)) };
            if let Some(found) = self.fetch(&[(Arc::from(key), version)], durable)? {
                return Ok((found.into_iter().next(), durable));
            }
        }
    }

    fn list(&self, range: &Range) -> StoreResult<Listing> {
        loop {
            let durable = self.durable();
            let revision = range.at.unwrap_or(durable);
            let selection = self.index.read().select(range, durable)?;
            match self.fetch(&selection.found, revision)? {
                Some(items) => return Ok(Listing { items, revision, remaining: selection.remaining }),
                None if range.at.is_some() => return Err(StoreError::Compacted(self.index.read().compacted())),
                None => {}
            }
        }
    }
}

impl From<LogError> for StoreError {
    fn from(error: LogError) -> Self {
        StoreError::Unavailable(error.0)
    }
}

/// A store in this process.
struct Embedded<L: Log> {
    shared: Arc<Shared<L>>,
    requests: std::sync::mpsc::Sender<Request>,
    room: Arc<Semaphore>,
    lease_sequence: AtomicI64,
    committer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// The index of what a log holds.
pub(super) fn read_index<L: Log>(log: &L) -> StoreResult<Index> {
    let mut index = Index::new(log.compacted()?);
    add_records(&mut index, log, 0)?;
    Ok(index)
}

fn add_records<L: Log>(index: &mut Index, log: &L, after: Revision) -> StoreResult<()> {
    log.scan(after, &mut |revision, record| {
        let size = record.value.as_ref().map_or(0, Bytes::len) as u32;
        index.add(&record.key, Version { revision, created: record.created, lease: record.lease, size });
        true
    })?;
    Ok(())
}

/// Starts the committer over a log with its index, which may have been read some time before.
pub(super) fn open<L: Log>(log: L, mut index: Index, options: Options) -> StoreResult<Arc<dyn Store>> {
    let known = index.revision();
    add_records(&mut index, &log, known)?;
    let durable = AtomicU64::new(index.revision());
    let shared = Arc::new(Shared { log, index: RwLock::new(index), durable, watches: Mutex::default(), now: options.now });
    let (requests, queue) = std::sync::mpsc::channel();
    let committer = Committer::new(shared.clone(), queue, options.retention);
    let thread = std::thread::Builder::new().name("committer".into()).spawn(move || committer.run());
    let committer = Mutex::new(Some(thread.map_err(|e| StoreError::Unavailable(e.to_string()))?));
    let room = Arc::new(Semaphore::new(QUEUE));
    Ok(Arc::new(Embedded { shared, requests, room, lease_sequence: AtomicI64::new(0), committer }))
}

impl<L: Log> Embedded<L> {
    async fn write(&self, key: String, value: Option<Bytes>, expect: Expect, lease: LeaseId) -> StoreResult<Revision> {
        let permit = self.room.clone().acquire_owned().await.map_err(|_| self.shared.ended())?;
        let (answer, answered) = oneshot::channel();
        let request = Request::Write { key, value, expect, lease, answer, permit };
        self.requests.send(request).map_err(|_| self.shared.ended())?;
        answered.await.map_err(|_| self.shared.ended())?
    }

    /// Runs something that may read the disk where it holds up nobody.
    async fn blocking<T: Send + 'static>(&self, read: impl FnOnce(&Shared<L>) -> StoreResult<T> + Send + 'static) -> StoreResult<T> {
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || read(&shared)).await.map_err(|e| StoreError::Unavailable(e.to_string()))?
    }

    fn stop(&self) -> Option<std::thread::JoinHandle<()>> {
        // If it cannot be sent the committer has ended by itself.
        let _ = self.requests.send(Request::Close);
        self.committer.lock().take()
    }
}

impl<L: Log> Drop for Embedded<L> {
    fn drop(&mut self) {
        if let Some(thread) = self.stop() {
            // A panic of the committer has been reported by its thread.
            let _ = thread.join();
        }
    }
}

impl<L: Log> Store for Embedded<L> {
    fn revision(&self) -> BoxFuture<'_, StoreResult<Revision>> {
        std::future::ready(Ok(self.shared.durable())).boxed()
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, StoreResult<(Option<KeyValue>, Revision)>> {
        let key = key.to_owned();
        self.blocking(move |shared| shared.get(&key)).boxed()
    }

    fn list(&self, range: Range) -> BoxFuture<'_, StoreResult<Listing>> {
        self.blocking(move |shared| shared.list(&range)).boxed()
    }

    fn put(&self, key: String, value: Bytes, expect: Expect, lease: LeaseId) -> BoxFuture<'_, StoreResult<Revision>> {
        self.write(key, Some(value), expect, lease).boxed()
    }

    fn delete(&self, key: String, expect: Expect) -> BoxFuture<'_, StoreResult<Revision>> {
        self.write(key, None, expect, 0).boxed()
    }

    fn watch(&self, prefix: String, from: Revision) -> BoxFuture<'_, StoreResult<Watch>> {
        let (sender, batches) = mpsc::channel(WATCH_QUEUE);
        let durable = {
            let mut watches = self.shared.watches.lock();
            if !matches!(watches.state, State::Open) {
                drop(watches);
                return std::future::ready(Err(self.shared.ended())).boxed();
            }
            watches.slots.push(Slot { prefix: prefix.clone(), batches: sender });
            self.shared.durable()
        };
        let compacted = self.shared.index.read().compacted();
        let watch = if from > durable {
            Err(StoreError::Future(durable))
        } else if from < compacted {
            Err(StoreError::Compacted(compacted))
        } else {
            Ok(history::watch(self.shared.clone(), prefix, from, durable, batches))
        };
        std::future::ready(watch).boxed()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, StoreResult<()>> {
        async move {
            let durable = self.shared.durable();
            if revision > durable {
                return Err(StoreError::Future(durable));
            }
            let (answer, answered) = oneshot::channel();
            self.requests.send(Request::Compact { revision, answer }).map_err(|_| self.shared.ended())?;
            answered.await.map_err(|_| self.shared.ended())?
        }
        .boxed()
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, StoreResult<LeaseId>> {
        let end = ((self.shared.now)() + ttl).duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let sequence = self.lease_sequence.fetch_add(1, Ordering::Relaxed) & ((1 << LEASE_SHIFT) - 1);
        // Milliseconds since 1970 have 41 bits now, so they fit with the sequence until the year 2248.
        let lease = i64::try_from(end).ok().and_then(|end| end.checked_mul(1 << LEASE_SHIFT)).map(|end| end | sequence);
        std::future::ready(lease.ok_or_else(|| StoreError::Unavailable("the lease is too long".into()))).boxed()
    }

    fn health(&self) -> BoxFuture<'_, StoreResult<()>> {
        std::future::ready(self.shared.health()).boxed()
    }

    fn close(&self) -> BoxFuture<'_, StoreResult<()>> {
        async move {
            let Some(thread) = self.stop() else { return Ok(()) };
            let ended = tokio::task::spawn_blocking(move || thread.join()).await;
            match ended {
                Ok(Ok(())) => Ok(()),
                _ => Err(StoreError::Unavailable("the committer has failed".into())),
            }
        }
        .boxed()
    }
}
