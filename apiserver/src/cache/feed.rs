//! The task that keeps all caches current, and the map it keeps them in.

use super::resource::Cache;
use super::{CacheError, Progress, ResourceSpec};
use crate::store::{Batch, Event, Range, Revision, Store, StoreError, StoreResult, Watch};
use futures::StreamExt;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// How long to leave a failing store alone before the next try.
const RETRY: Duration = Duration::from_millis(500);

/// A resource to be added, and where to say that it is there.
type Addition = (ResourceSpec, oneshot::Sender<Result<Arc<Cache>, CacheError>>);

/// The caches by key prefix, and the feed. When the last handle is dropped the feed ends.
pub struct Caches {
    caches: Arc<RwLock<BTreeMap<String, Arc<Cache>>>>,
    additions: mpsc::Sender<Addition>,
    progress: Progress,
    store: Arc<dyn Store>,
}

impl Caches {
    /// Starts the feed, which watches everything under `root` (`/registry/`), and reads in the resources given; all their prefixes start
    /// with it. Call it within a tokio runtime.
    pub async fn start(store: Arc<dyn Store>, root: &str, resources: Vec<ResourceSpec>) -> Result<Caches, CacheError> {
        let from = store.revision().await?;
        let (announce, progress) = watch::channel(from);
        let progress = Progress { reached: progress, marks: Arc::default() };
        let caches: Arc<RwLock<BTreeMap<String, Arc<Cache>>>> = Arc::default();
        // Additions are rare (custom resources) and wait for their answer.
        let (additions, requests) = mpsc::channel(16);
        let root = root.to_owned();
        let mut feed = Feed {
            root: root.clone(),
            store: store.clone(),
            caches: caches.clone(),
            progress: progress.clone(),
            announce,
            requests,
            reached: from,
        };
        let watch = store.watch(root, from).await?;
        for resource in resources {
            feed.add(resource).await?;
        }
        tokio::spawn(feed.run(watch));
        Ok(Caches { caches, additions, progress, store })
    }

    /// The cache of the resource with this key prefix.
    pub fn get(&self, prefix: &str) -> Option<Arc<Cache>> {
        self.caches.read().get(prefix).cloned()
    }

    /// Adds a resource, or answers the one that is there; it is complete when this returns.
    pub async fn add(&self, resource: ResourceSpec) -> Result<Arc<Cache>, CacheError> {
        let stopped = || CacheError::Store(StoreError::Unavailable("the watch cache has stopped".into()));
        let (answer, answered) = oneshot::channel();
        self.additions.send((resource, answer)).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }

    /// Forgets a resource; its watches end.
    pub fn remove(&self, prefix: &str) {
        let removed = self.caches.write().remove(prefix);
        if let Some(cache) = removed {
            cache.end();
        }
    }

    /// The revision up to which all caches have seen every write.
    pub fn revision(&self) -> Revision {
        self.progress.current()
    }

    /// See [`Cache::wait_until`].
    pub async fn wait_until(&self, revision: Revision) -> Result<(), CacheError> {
        self.progress.wait_until(revision).await
    }

    /// See [`Cache::catch_up`].
    pub async fn catch_up(&self) -> Result<Revision, CacheError> {
        let revision = self.store.revision().await?;
        self.wait_until(revision).await?;
        Ok(revision)
    }
}

struct Feed {
    root: String,
    store: Arc<dyn Store>,
    caches: Arc<RwLock<BTreeMap<String, Arc<Cache>>>>,
    progress: Progress,
    announce: watch::Sender<Revision>,
    requests: mpsc::Receiver<Addition>,
    /// Every cache has every change up to this revision.
    reached: Revision,
}

impl Feed {
    /// Runs until the store closes or nobody needs the caches any more.
    async fn run(mut self, mut watch: Watch) {
        loop {
            tokio::select! {
                request = self.requests.recv() => {
                    let Some((resource, answer)) = request else { return };
                    let added = self.add(resource).await;
                    // Whoever asked may have gone; the cache is there for the next.
                    let _ = answer.send(added);
                }
                batch = watch.next() => match batch {
                    Some(Ok(batch)) => self.apply(batch),
                    Some(Err(StoreError::Compacted(_))) => watch = self.resume().await,
                    Some(Err(error)) => {
                        tracing::warn!(%error, "the watch of the store failed, watching again");
                        tokio::time::sleep(RETRY).await;
                        watch = self.resume().await;
                    }
                    None => return,
                },
            }
        }
    }

    async fn add(&mut self, resource: ResourceSpec) -> Result<Arc<Cache>, CacheError> {
        if let Some(known) = self.caches.read().get(&resource.prefix) {
            return Ok(known.clone());
        }
        // While the feed reads the resource in it applies no changes, so the state at the revision reached is the right one to start from.
        let range = Range { prefix: resource.prefix.clone(), after: None, limit: 0, at: Some(self.reached) };
        let listing = self.store.list(range).await?;
        let prefix = resource.prefix.clone();
        let cache = Arc::new(Cache::new(resource, self.store.clone(), self.progress.clone()));
        cache.replace(listing.items, self.reached);
        self.caches.write().insert(prefix, cache.clone());
        Ok(cache)
    }

    fn apply(&mut self, batch: Batch) {
        for (cache, events) in by_cache(&self.caches.read(), batch.events) {
            cache.apply(events);
        }
        self.reach(self.reached.max(batch.revision));
    }

    fn reach(&mut self, revision: Revision) {
        self.reached = revision;
        self.progress.marks.lock().note(Instant::now(), revision);
        self.announce.send_replace(revision);
    }

    /// Watches again after the watch broke: from where it stood, or, if the store's history does not reach back so far, from a new list.
    async fn resume(&mut self) -> Watch {
        loop {
            match self.store.watch(self.root.clone(), self.reached).await {
                Ok(watch) => return watch,
                Err(StoreError::Compacted(_)) => match self.reload().await {
                    Ok(()) => continue,
                    Err(error) => tracing::warn!(%error, "cannot read the store"),
                },
                Err(StoreError::Unavailable(reason)) if self.requests.is_closed() => {
                    tracing::debug!(reason, "the store is gone, and so is everybody who reads it");
                    return futures::stream::empty().boxed();
                }
                Err(error) => tracing::warn!(%error, "cannot watch the store"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn reload(&mut self) -> StoreResult<()> {
        let revision = self.store.revision().await?;
        let caches: Vec<Arc<Cache>> = self.caches.read().values().cloned().collect();
        for cache in caches {
            let range = Range { prefix: cache.prefix().to_owned(), after: None, limit: 0, at: Some(revision) };
            cache.replace(self.store.list(range).await?.items, revision);
        }
        self.reach(revision);
        Ok(())
    }
}

/// Sorts events to the caches they concern. As no prefix starts with another, the greatest one not above a key is the only candidate.
fn by_cache(caches: &BTreeMap<String, Arc<Cache>>, events: Vec<Event>) -> Vec<(Arc<Cache>, Vec<Event>)> {
    let mut sorted: Vec<(Arc<Cache>, Vec<Event>)> = Vec::new();
    for event in events {
        let candidate = caches.range::<str, _>((Bound::Unbounded, Bound::Included(event.key.as_str()))).next_back();
        let Some((_, cache)) = candidate.filter(|(prefix, _)| event.key.starts_with(prefix.as_str())) else { continue };
        match sorted.iter_mut().find(|(known, _)| Arc::ptr_eq(known, cache)) {
            Some((_, events)) => events.push(event),
            None => sorted.push((cache.clone(), vec![event])),
        }
    }
    sorted
}
