//! The current state of one resource, as a list and as a log of its latest changes.
//!
//! Readers copy `Arc`s out under a lock that is never held across an await, a disk access or the serving of a watcher. Nobody but the
//! feed (in the parent module) changes it.

use super::entry::{Attributes, Entry};
use super::filter::Filter;
use super::watcher::{Slot, Start, WatchEvent, WatchOptions, Watcher};
use super::{CacheError, Progress, ResourceSpec};
use crate::encoding::EventType;
use crate::store::{Event, KeyValue, Range, Revision, Store, StoreError};
use parking_lot::{Mutex, RwLock};
use std::borrow::Borrow;
use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

/// How many changes a resource remembers for watches that start in the past.
const CHANGES: usize = 10_000;
/// How many bytes of overwritten and deleted objects it keeps for that; what is still current costs nothing.
const SUPERSEDED_BYTES: usize = 8 << 20;
/// How many entries are read from the store at once for a list at an old revision.
const STORE_PAGE: usize = 500;

/// A change of one object.
pub(super) struct Change {
    revision: Revision,
    /// The state after; for a deletion the last one, carrying the deletion's revision.
    entry: Arc<Entry>,
    deleted: bool,
    previous: Option<Arc<Entry>>,
    /// The state before, carrying this change's revision: what a watcher gets whose selector the object has left.
    left: std::sync::OnceLock<Arc<Entry>>,
}

impl Change {
    fn superseded(&self) -> usize {
        self.previous.as_ref().map_or(0, |p| p.weight()) + if self.deleted { self.entry.weight() } else { 0 }
    }

    /// What a watcher with this filter sees of the change.
    fn seen_by(&self, filter: &Filter) -> Option<WatchEvent> {
        let before = self.previous.as_ref().is_some_and(|p| filter.takes(p));
        let after = !self.deleted && filter.takes(&self.entry);
        let (event_type, entry) = match (before, after) {
            (false, false) => return None,
            (false, true) => (EventType::Added, self.entry.clone()),
            (true, true) => (EventType::Modified, self.entry.clone()),
            (true, false) if self.deleted => (EventType::Deleted, self.entry.clone()),
            (true, false) => {
                let previous = self.previous.as_ref()?;
                (EventType::Deleted, self.left.get_or_init(|| Arc::new(previous.departed(self.revision))).clone())
            }
        };
        Some(WatchEvent::Object { event_type, entry })
    }
}

/// An entry in key order.
struct ByKey(Arc<Entry>);

impl Borrow<str> for ByKey {
    fn borrow(&self) -> &str {
        self.0.key()
    }
}
impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}
impl Eq for ByKey {}
impl PartialOrd for ByKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for ByKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.key().cmp(other.0.key())
    }
}

#[derive(Default)]
struct State {
    entries: BTreeSet<ByKey>,
    changes: VecDeque<Arc<Change>>,
    superseded: usize,
    /// A watch can start after this revision or a later one.
    oldest: Revision,
    /// The revision of the last change: since then the state is what it is now.
    changed: Revision,
}

impl State {
    fn remember(&mut self, change: Arc<Change>) {
        self.changed = change.revision;
        self.superseded += change.superseded();
        self.changes.push_back(change);
        while self.changes.len() > CHANGES || self.superseded > SUPERSEDED_BYTES {
            let Some(old) = self.changes.pop_front() else { break };
            self.superseded -= old.superseded();
            self.oldest = old.revision;
        }
    }

    fn range(&self, prefix: &str, after: Option<&str>) -> impl Iterator<Item = &Arc<Entry>> {
        let start = match after {
            Some(key) => Bound::Excluded(key),
            None => Bound::Included(prefix),
        };
        let entries = self.entries.range::<str, _>((start, Bound::Unbounded)).map(|e| &e.0);
        entries.take_while(move |e| e.key().starts_with(prefix))
    }
}

/// A list, or a page of it.
pub struct Page {
    /// The objects, in key order.
    pub entries: Vec<Arc<Entry>>,
    /// The revision that this is the state of.
    pub revision: Revision,
    /// Where the next page begins: the relative key of the last object of this one. `None` if this is all.
    pub next: Option<String>,
    /// How many objects follow; known only where nothing but a namespace was selected, and not always for an old revision.
    pub remaining: Option<usize>,
}

/// Where in a list to begin, and where to end.
#[derive(Clone, Debug, Default)]
pub struct Paging {
    /// Only objects after this relative key: [`Page::next`] of the page before.
    pub after: Option<String>,
    /// At most so many; 0 for all.
    pub limit: usize,
}

/// Everything that is known of one resource.
pub struct Cache {
    spec: ResourceSpec,
    store: Arc<dyn Store>,
    progress: Progress,
    state: RwLock<State>,
    /// Everybody who is told of changes; `None` once the resource is removed. A watch holds on to its resource, so that only this ends it.
    watchers: Mutex<Option<Vec<Slot>>>,
}

impl Cache {
    pub(super) fn new(spec: ResourceSpec, store: Arc<dyn Store>, progress: Progress) -> Cache {
        Cache { spec, store, progress, state: RwLock::default(), watchers: Mutex::new(Some(Vec::new())) }
    }

    /// The prefix of its keys: `/registry/pods/`.
    pub fn prefix(&self) -> &str {
        &self.spec.prefix
    }

    /// The revision up to which the cache has seen every write.
    pub fn revision(&self) -> Revision {
        self.progress.current()
    }

    /// Waits until every write up to `revision` is in the cache, at most upstream's 3 seconds.
    pub async fn wait_until(&self, revision: Revision) -> Result<(), CacheError> {
        self.progress.wait_until(revision).await
    }

    /// Waits until every write acknowledged before this call is in the cache: what a read without a resource version does first.
    pub async fn catch_up(&self) -> Result<Revision, CacheError> {
        let revision = self.store.revision().await?;
        self.wait_until(revision).await?;
        Ok(revision)
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.state.read().entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The object under a relative key: `namespace/name`, or `name` of a cluster-scoped one.
    pub fn get(&self, relative_key: &str) -> Option<Arc<Entry>> {
        let key = format!("{}{relative_key}", self.spec.prefix);
        self.state.read().entries.get(key.as_str()).map(|e| e.0.clone())
    }

    /// The object of that name; `namespace` is empty for a cluster-scoped one.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        if namespace.is_empty() { self.get(name) } else { self.get(&format!("{namespace}/{name}")) }
    }

    /// The objects the filter takes, as of now.
    pub fn list(&self, filter: &Filter, paging: &Paging) -> Page {
        let state = self.state.read();
        self.page(&state, self.revision().max(state.changed), filter, paging)
    }

    /// Every object, as of now: for those inside the server who look through all of a resource.
    pub fn all(&self) -> Vec<Arc<Entry>> {
        self.state.read().entries.iter().map(|e| e.0.clone()).collect()
    }

    fn page(&self, state: &State, revision: Revision, filter: &Filter, paging: &Paging) -> Page {
        let prefix = format!("{}{}", self.spec.prefix, filter.key_prefix());
        let after = paging.after.as_ref().map(|key| format!("{}{key}", self.spec.prefix));
        let mut candidates = state.range(&prefix, after.as_deref());
        let limit = if paging.limit == 0 { usize::MAX } else { paging.limit };
        let mut entries: Vec<Arc<Entry>> = Vec::new();
        let mut more = false;
        for entry in candidates.by_ref().filter(|e| filter.takes(e)) {
            if entries.len() == limit {
                more = true;
                break;
            }
            entries.push(entry.clone());
        }
        let next = if more { entries.last().map(|e| e.relative_key().to_owned()) } else { None };
        let remaining = (more && !filter.selects()).then(|| 1 + candidates.count());
        Page { entries, revision, next, remaining }
    }

    /// The objects the filter takes, as they were at `revision`: for `resourceVersionMatch=Exact` and later pages. From memory where
    /// nothing has changed since, else from the store's history; [`CacheError::Store`] with [`StoreError::Compacted`] if that is gone, or if it is past
    /// what clients may ask for.
    pub async fn list_at(&self, revision: Revision, filter: &Filter, paging: &Paging) -> Result<Page, CacheError> {
        self.wait_until(revision).await?;
        self.progress.kept(revision)?;
        {
            let state = self.state.read();
            if revision >= state.changed {
                return Ok(self.page(&state, revision, filter, paging));
            }
        }
        let limit = if paging.limit == 0 { usize::MAX } else { paging.limit };
        let mut entries: Vec<Arc<Entry>> = Vec::new();
        let mut after = paging.after.as_ref().map(|key| format!("{}{key}", self.spec.prefix));
        loop {
            let range = Range {
                prefix: format!("{}{}", self.spec.prefix, filter.key_prefix()),
                after: after.clone(),
                limit: STORE_PAGE.min(limit.saturating_sub(entries.len()).saturating_add(1)),
                at: Some(revision),
            };
            let listing = self.store.list(range).await?;
            after = listing.items.last().map(|kv| kv.key.clone());
            let mut remaining = listing.remaining;
            let mut rest = listing.items.iter();
            for kv in rest.by_ref() {
                let entry = self.entry(kv, EventType::Added);
                if !filter.takes(&entry) {
                    continue;
                }
                if entries.len() == limit {
                    remaining += 1 + rest.len();
                    let next = entries.last().map(|e| e.relative_key().to_owned());
                    return Ok(Page { entries, revision, next, remaining: (!filter.selects()).then_some(remaining) });
                }
                entries.push(Arc::new(entry));
            }
            if remaining == 0 {
                return Ok(Page { entries, revision, next: None, remaining: None });
            }
        }
    }

    /// Follows what the filter takes. Ends with `None` from [`Watcher::next`]: at the deadline, when the watcher does not keep up (it
    /// then resumes from the last revision it has seen, as with upstream), and when the resource is removed.
    pub fn watch(&self, filter: Filter, options: WatchOptions) -> Result<Watcher, CacheError> {
        // The feed holds this lock while it hands out a change, so none falls between the backlog and the channel, or into both.
        let mut watchers = self.watchers.lock();
        let state = self.state.read();
        let revision = self.revision().max(state.changed);
        let (backlog, initial_end) = match options.start {
            Start::Initial { end_bookmark } => {
                let event = |entry: &Arc<Entry>| WatchEvent::Object { event_type: EventType::Added, entry: entry.clone() };
                let prefix = format!("{}{}", self.spec.prefix, filter.key_prefix());
                let backlog: VecDeque<WatchEvent> = state.range(&prefix, None).filter(|e| filter.takes(e)).map(event).collect();
                (backlog, end_bookmark.then_some(revision))
            }
            Start::After(from) if from < state.oldest => return Err(CacheError::TooOld { asked: from, oldest: state.oldest }),
            Start::After(from) => {
                let known = state.changes.partition_point(|c| c.revision <= from);
                (state.changes.range(known..).filter_map(|c| c.seen_by(&filter)).collect(), None)
            }
        };
        drop(state);
        let (slot, watcher) = Watcher::new(filter, &options, backlog, initial_end, self.progress.clone());
        if let Some(watchers) = watchers.as_mut() {
            watchers.push(slot);
        }
        Ok(watcher)
    }

    /// Ends all watches after what they were already given, and those that begin later after what there was.
    pub(super) fn end(&self) {
        self.watchers.lock().take();
    }

    /// How many watchers there are.
    pub fn watchers(&self) -> usize {
        let mut watchers = self.watchers.lock();
        let Some(watchers) = watchers.as_mut() else { return 0 };
        watchers.retain(Slot::is_open);
        watchers.len()
    }

    fn describe(&self, stored: &KeyValue) -> Attributes {
        (self.spec.describe)(&stored.value).unwrap_or_else(|error| {
            // What the registry wrote parses. Somebody else wrote into the store; the object stays reachable so that it can be repaired.
            tracing::error!(key = stored.key, %error, "an object in the store cannot be read: selectors see it without labels and fields");
            Attributes::default()
        })
    }

    fn entry(&self, stored: &KeyValue, announced: EventType) -> Entry {
        let revised = self.spec.revise.as_ref().and_then(|revise| revise(&stored.value));
        match revised {
            Some(value) => {
                let stored = KeyValue { value, ..stored.clone() };
                Entry::new(self.spec.prefix.len(), &stored, self.describe(&stored), announced)
            }
            None => Entry::new(self.spec.prefix.len(), stored, self.describe(stored), announced),
        }
    }

    /// Takes over the state of `items` at `revision`. What differs from the state before is told to the watchers.
    pub(super) fn replace(&self, items: Vec<KeyValue>, revision: Revision) {
        let mut events: Vec<Event> = Vec::new();
        let first = {
            let mut state = self.state.write();
            let first = state.changed == 0 && state.oldest == 0;
            let keys: std::collections::HashSet<&str> = items.iter().map(|kv| kv.key.as_str()).collect();
            for gone in state.entries.iter().filter(|e| !keys.contains(e.0.key())) {
                events.push(Event { revision, key: gone.0.key().to_owned(), current: None });
            }
            if first {
                state.entries = items.iter().map(|kv| ByKey(Arc::new(self.entry(kv, EventType::Added)))).collect();
                state.oldest = revision;
                state.changed = items.iter().map(|kv| kv.mod_revision).max().unwrap_or(0);
            }
            first
        };
        if first {
            return;
        }
        events.extend(items.into_iter().filter(|kv| self.known_revision(&kv.key) != Some(kv.mod_revision)).map(|kv| Event {
            revision: kv.mod_revision,
            key: kv.key.clone(),
            current: Some(kv),
        }));
        events.sort_by_key(|e| e.revision);
        self.apply(events);
        // The changes between were missed: nobody can resume from before.
        let mut state = self.state.write();
        state.changes.clear();
        state.superseded = 0;
        state.oldest = revision;
    }

    fn known_revision(&self, key: &str) -> Option<Revision> {
        self.state.read().entries.get(key).map(|e| e.0.revision)
    }

    /// Applies changes, in revision order, and hands them to the watchers.
    pub(super) fn apply(&self, events: Vec<Event>) {
        let mut watchers = self.watchers.lock();
        let mut changes = Vec::with_capacity(events.len());
        // Texts are read and copied before the lock is taken, so that readers wait for none of it.
        let entries: Vec<Option<Arc<Entry>>> = events
            .iter()
            .map(|e| {
                let kv = e.current.as_ref()?;
                let created = kv.create_revision == kv.mod_revision;
                Some(Arc::new(self.entry(kv, if created { EventType::Added } else { EventType::Modified })))
            })
            .collect();
        {
            let mut state = self.state.write();
            for (event, entry) in events.into_iter().zip(entries) {
                let previous = state.entries.get(event.key.as_str()).map(|e| e.0.clone());
                let change = match (entry, previous) {
                    (Some(entry), previous) => {
                        state.entries.replace(ByKey(entry.clone()));
                        Change { revision: event.revision, entry, deleted: false, previous, left: Default::default() }
                    }
                    (None, Some(previous)) => {
                        state.entries.remove(event.key.as_str());
                        let entry = Arc::new(previous.departed(event.revision));
                        Change { revision: event.revision, entry, deleted: true, previous: Some(previous), left: Default::default() }
                    }
                    (None, None) => continue,
                };
                let change = Arc::new(change);
                state.remember(change.clone());
                changes.push(change);
            }
        }
        if let Some(watchers) = watchers.as_mut() {
            watchers.retain_mut(|slot| changes.iter().filter_map(|c| c.seen_by(&slot.filter)).all(|event| slot.offer(event)));
        }
    }
}

impl From<StoreError> for CacheError {
    fn from(error: StoreError) -> Self {
        CacheError::Store(error)
    }
}
