//! One watcher of a resource: what it has still to be told, and its bookmarks.
//!
//! The feed never waits for it. What it has not taken yet stands in a bounded channel; when that is full the watcher is dropped, which
//! ends its stream after what it was already given, and its client resumes from the last revision it saw.

use super::Progress;
use super::entry::Entry;
use super::filter::Filter;
use crate::encoding::{self, EventType};
use crate::store::Revision;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// How many events a watcher may be behind. Upstream holds 10 to 1,000 and then waits up to 50 ms; nothing waits here, and an event is two words.
const BEHIND: usize = 4096;
/// How many events are handed over at once, so that a frame on the wire stays below some 256 KiB of pods.
const AT_ONCE: usize = 64;
/// How often a quiet watcher that asked for bookmarks gets one (upstream's).
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// How long before its deadline a watcher gets a last bookmark (upstream's), so that its client resumes from there.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the changes after this revision.
    After(Revision),
    /// With everything there is, as ADDED events in key order. Whoever needs the latest state calls [`super::Cache::catch_up`] first.
    Initial {
        /// Whether a bookmark with the annotation `k8s.io/initial-events-end` follows them (`sendInitialEvents=true`).
        end_bookmark: bool,
    },
}

/// How to watch.
#[derive(Clone, Copy, Debug)]
pub struct WatchOptions {
    /// Where to begin.
    pub start: Start,
    /// Whether to send bookmarks now and then (`allowWatchBookmarks`).
    pub bookmarks: bool,
    /// When to end (`timeoutSeconds`).
    pub deadline: Option<Instant>,
}

/// What a watcher is told.
#[derive(Clone)]
pub enum WatchEvent {
    /// A change of an object, as seen through the watcher's filter.
    Object {
        /// ADDED, MODIFIED or DELETED.
        event_type: EventType,
        /// The object; of a deleted one the last state, with the revision of its end.
        entry: Arc<Entry>,
    },
    /// Everything up to this revision has been told.
    Bookmark {
        /// The revision.
        revision: Revision,
        /// Whether this ends the initial events.
        initial_events_end: bool,
    },
}

impl WatchEvent {
    /// The line to send. The kind and version are the resource's, for bookmarks; objects have their own.
    pub fn frame(&self, kind: &str, api_version: &str) -> Bytes {
        match self {
            WatchEvent::Object { event_type, entry } => entry.frame(*event_type),
            WatchEvent::Bookmark { revision, initial_events_end } => {
                encoding::encode_frame(EventType::Bookmark, &encoding::encode_bookmark(kind, api_version, *revision, *initial_events_end))
            }
        }
    }
}

/// The feed's end of a watcher.
pub(super) struct Slot {
    pub(super) filter: Filter,
    sender: mpsc::Sender<WatchEvent>,
}

impl Slot {
    /// Hands it an event; false when it is gone or too far behind, and is to be dropped.
    pub(super) fn offer(&self, event: WatchEvent) -> bool {
        self.sender.try_send(event).is_ok()
    }

    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }
}

/// The reader's end of a watch.
pub struct Watcher {
    backlog: VecDeque<WatchEvent>,
    events: mpsc::Receiver<WatchEvent>,
    initial_end: Option<Revision>,
    progress: Progress,
    next_bookmark: Option<Instant>,
    deadline: Option<Instant>,
}

impl Watcher {
    pub(super) fn new(
        filter: Filter,
        options: &WatchOptions,
        backlog: VecDeque<WatchEvent>,
        initial_end: Option<Revision>,
        progress: Progress,
    ) -> (Slot, Watcher) {
        let (sender, events) = mpsc::channel(BEHIND);
        let next_bookmark = options.bookmarks.then(|| bookmark_after(Instant::now(), options.deadline));
        (Slot { filter, sender }, Watcher { backlog, events, initial_end, progress, next_bookmark, deadline: options.deadline })
    }

    /// The next events, at least one and at most 64; `None` when the watch is over. Cancel-safe: nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Vec<WatchEvent>> {
        if !self.backlog.is_empty() {
            let count = self.backlog.len().min(AT_ONCE);
            return Some(self.backlog.drain(..count).collect());
        }
        if let Some(revision) = self.initial_end.take() {
            return Some(vec![WatchEvent::Bookmark { revision, initial_events_end: true }]);
        }
        let mut events = Vec::new();
        let received = tokio::select! {
            biased;
            count = self.events.recv_many(&mut events, AT_ONCE) => count,
            () = at(self.deadline) => return None,
            () = at(self.next_bookmark) => return Some(self.bookmark()),
        };
        (received > 0).then_some(events)
    }

    /// What is due before a bookmark, and the bookmark. Whatever was changed before the feed announced `revision` is already in the
    /// channel, so after emptying it the watcher has been told of everything up to there.
    fn bookmark(&mut self) -> Vec<WatchEvent> {
        self.next_bookmark = Some(bookmark_after(Instant::now(), self.deadline));
        let revision = self.progress.current();
        let mut events = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            events.push(event);
        }
        events.push(WatchEvent::Bookmark { revision, initial_events_end: false });
        events
    }
}

/// When the next bookmark is due: in a minute, or shortly before the deadline if that comes first and is not over yet.
fn bookmark_after(now: Instant, deadline: Option<Instant>) -> Instant {
    let regular = now + BOOKMARK_EVERY;
    match deadline.and_then(|d| d.checked_sub(LAST_BOOKMARK)) {
        Some(last) if last > now && last < regular => last,
        _ => regular,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
