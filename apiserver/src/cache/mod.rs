//! The watch cache: the current objects of every resource as text ready to send, fed by one watch of the store.
//!
//! All reads are served from here. One task, the feed, follows the whole store, applies each batch of changes to the caches it
//! concerns and then announces the revision it has reached; so all resources are at one revision, and a reader that wants to see a
//! write waits for its revision ([`Cache::wait_until`]), which does not depend on what was written. A write is answered after such a wait,
//! and a read without a resource version waits for the store's current revision: everybody sees every acknowledged write.
//!
//! Left out: it knows nothing of kinds, versions or HTTP. It never writes to the store.

mod describe;
mod entry;
mod feed;
mod filter;
mod marks;
mod resource;
#[cfg(test)]
mod tests;
mod watcher;

pub use describe::{Describe, describe_by_paths};
pub use entry::{Attributes, Entry};
pub use feed::Caches;
pub use filter::{Filter, Predicate};
pub use resource::{Cache, Page, Paging};
pub use watcher::{Start, WatchEvent, WatchOptions, Watcher};

use crate::store::{Revision, StoreError};
use bytes::Bytes;
use marks::Marks;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a reader waits for a revision that is not there yet (upstream's).
const WAIT: Duration = Duration::from_secs(3);

/// See [`ResourceSpec::revise`].
pub type Revise = Arc<dyn Fn(&[u8]) -> Option<Bytes> + Send + Sync>;

/// A resource to be cached.
#[derive(Clone)]
pub struct ResourceSpec {
    /// What all its keys start with, `/` at the end: `/registry/pods/`. No resource's prefix may start with another's.
    pub prefix: String,
    /// Reads the attributes that selectors use out of an object's text: [`describe_by_paths`].
    pub describe: Describe,
    /// Makes of a stored text what it would be if it were written now; `None` if nothing would change.
    pub revise: Option<Revise>,
}

/// What a read can fail with.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// 410 Expired: the changes since the revision asked for are not all known any more.
    #[error("too old resource version: {asked} ({oldest})")]
    TooOld {
        /// What was asked for.
        asked: Revision,
        /// The oldest a watch can start from.
        oldest: Revision,
    },
    /// 504 Timeout with the cause ResourceVersionTooLarge: no such revision yet.
    #[error("Too large resource version: {asked}, current: {current}")]
    TooLarge {
        /// What was asked for.
        asked: Revision,
        /// Where the cache is.
        current: Revision,
    },
    /// The store failed; [`StoreError::Compacted`] is 410 Expired.
    #[error(transparent)]
    Store(StoreError),
}

/// The revision the feed has reached, and when it has reached others.
#[derive(Clone)]
struct Progress {
    reached: watch::Receiver<Revision>,
    marks: Arc<Mutex<Marks>>,
}

impl Progress {
    fn current(&self) -> Revision {
        *self.reached.borrow()
    }

    /// Whether a list at this revision can still be continued.
    fn kept(&self, revision: Revision) -> Result<(), CacheError> {
        let oldest = self.marks.lock().oldest(Instant::now());
        if revision < oldest { Err(CacheError::Store(StoreError::Compacted(oldest))) } else { Ok(()) }
    }

    async fn wait_until(&self, revision: Revision) -> Result<(), CacheError> {
        if self.current() >= revision {
            return Ok(());
        }
        let mut receiver = self.reached.clone();
        let reached = tokio::time::timeout(WAIT, receiver.wait_for(|current| *current >= revision)).await;
        match reached {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(CacheError::Store(StoreError::Unavailable("the watch cache has stopped".into()))),
            Err(_) => Err(CacheError::TooLarge { asked: revision, current: self.current() }),
        }
    }
}
