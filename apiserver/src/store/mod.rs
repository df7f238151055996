//! The waist of the server: a key-value store with revisions, compare-and-swap, watches and leases, as etcd has it.
//! Nothing above this trait knows which store it is; nothing below it knows what an object is.
//!
//! Promises, checked by one shared suite on every implementation:
//! - Every write gets a revision of its own, larger by one than the last; a `put` or `delete` that fails takes none.
//! - A write is answered after it is durable. What was answered is there after `kill -9`, in order, and nothing else.
//! - A list is a consistent snapshot at one revision, which it names.
//! - A watch gets every event after its start revision exactly once, in revision order, and events of one revision together.
//! - Reading or watching from below the compacted revision fails with [`StoreError::Compacted`].

mod committer;
pub mod embedded;
pub mod encryption;
pub mod etcd;
mod history;
mod index;
mod log;
pub mod memory;
#[cfg(test)]
mod model;
mod packing;
pub mod sled;
#[cfg(test)]
mod suite;

use bytes::Bytes;
use futures::future::BoxFuture;
use std::time::Duration;

/// The number of a write. The empty store is at revision 1, as etcd's; the first write makes 2.
pub type Revision = u64;

/// An entry as of some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key, e.g. `/registry/pods/default/a`.
    pub key: String,
    /// What was put.
    pub value: Bytes,
    /// The revision that made the key.
    pub create_revision: Revision,
    /// The revision of this value.
    pub mod_revision: Revision,
    /// The lease that ends it, or 0.
    pub lease: LeaseId,
}

/// A lease; 0 means none.
pub type LeaseId = i64;

/// What must hold for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key's `mod_revision` is this.
    At(Revision),
    /// Nothing.
    Any,
}

/// Part of the key space, in key order.
#[derive(Clone, Debug)]
pub struct Range {
    /// All keys that start with this.
    pub prefix: String,
    /// Only keys after this one (exclusive), for the next page.
    pub after: Option<String>,
    /// At most so many; 0 for all.
    pub limit: usize,
    /// The state as of this revision; `None` for now.
    pub at: Option<Revision>,
}

/// What a list found.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The entries, by key.
    pub items: Vec<KeyValue>,
    /// The revision that this is the state of.
    pub revision: Revision,
    /// How many more there are in the range after the last item.
    pub remaining: usize,
}

/// A change.
#[derive(Clone, Debug)]
pub struct Event {
    /// The revision that made it.
    pub revision: Revision,
    /// The key.
    pub key: String,
    /// The new entry; `None` for a deletion. What stood there before, the watch cache knows.
    pub current: Option<KeyValue>,
}

/// What a watch delivers at a time.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Changes in revision order; none where only the progress is told.
    pub events: Vec<Event>,
    /// Every change of the watched prefix up to and with this revision has been delivered once this batch is.
    pub revision: Revision,
}

/// How large a value can be (etcd's limit for a request).
pub const VALUE_LIMIT: usize = 1536 << 10;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// [`Expect`] did not hold; this is what stands there instead.
    #[error("the key's revision is not the expected one")]
    Conflict(Option<KeyValue>),
    /// The revision asked for is compacted; the oldest that can be read is given.
    #[error("required revision has been compacted, oldest is {0}")]
    Compacted(Revision),
    /// The revision asked for is larger than the current one, which is given.
    #[error("required revision is in the future, current is {0}")]
    Future(Revision),
    /// A value over [`VALUE_LIMIT`].
    #[error("value of {0} bytes is too large")]
    TooLarge(usize),
    /// No such lease.
    #[error("requested lease not found")]
    NoLease,
    /// The disk or the connection failed, or the store is closing.
    #[error("store unavailable: {0}")]
    Unavailable(String),
}

/// What store methods answer.
pub type StoreResult<T> = Result<T, StoreError>;

/// A running watch. It tells its progress also when others than the watched keys change, so that a reader can wait for a revision.
/// The channel is bounded; a watcher that does not keep up gets [`StoreError::Compacted`] as its last item and watches again from
/// the last revision it has, which replays from the history as long as that reaches back so far.
pub type Watch = futures::stream::BoxStream<'static, StoreResult<Batch>>;

/// See the module's head for what all implementations promise.
pub trait Store: Send + Sync + 'static {
    /// The revision that a read started now must at least show: every write acknowledged before the call is in it.
    fn revision(&self) -> BoxFuture<'_, StoreResult<Revision>>;

    /// The entry under `key`, as of now, and the store's revision.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, StoreResult<(Option<KeyValue>, Revision)>>;

    /// The entries of a range at one revision.
    fn list(&self, range: Range) -> BoxFuture<'_, StoreResult<Listing>>;

    /// Puts `value` if `expect` holds; answers the write's revision once it is durable.
    fn put(&self, key: String, value: Bytes, expect: Expect, lease: LeaseId) -> BoxFuture<'_, StoreResult<Revision>>;

    /// Deletes if `expect` holds (a missing key is a [`StoreError::Conflict`] with `None`); answers the write's revision.
    fn delete(&self, key: String, expect: Expect) -> BoxFuture<'_, StoreResult<Revision>>;

    /// All changes under `prefix` after `from` (exclusive).
    fn watch(&self, prefix: String, from: Revision) -> BoxFuture<'_, StoreResult<Watch>>;

    /// Forgets what was overwritten or deleted at or before `revision`.
    fn compact(&self, revision: Revision) -> BoxFuture<'_, StoreResult<()>>;

    /// A new lease: what is put under it is deleted when `ttl` has passed since the grant (Kubernetes never renews: it is for events).
    fn grant(&self, ttl: Duration) -> BoxFuture<'_, StoreResult<LeaseId>>;

    /// Whether writes can succeed now; reads may work all the same.
    fn health(&self) -> BoxFuture<'_, StoreResult<()>>;

    /// Ends the store: what is queued is written, watches end.
    fn close(&self) -> BoxFuture<'_, StoreResult<()>>;
}
