//! Shared caches: one list+watch and one in-memory store per kind and process (upstream: shared informers).
//!
//! The list+watch itself is kube-rs's `watcher`, an explicit state machine that resumes, relists on 410 and backs off. What is ours is the
//! store: keyed and indexed, typed, and told apart from its past, so that subscribers get the old and the new object. managedFields, a third of most
//! objects, are dropped before anything is stored, and with [`SharedCaches::trim`] whatever else a process never reads. There is no periodic resync.
//!
//! Subscribers run inside the watch's own task, one change at a time and after the store has it: they may only do what cannot block, as a rule put a
//! key into a work queue. That is why there is no channel whose length would have to be bounded.

use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use std::any::{Any, TypeId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Namespace and name; the namespace is empty for objects of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Empty for objects of the cluster.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl ObjectKey {
    /// A key from its parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object.
    pub fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// What can be cached.
pub trait Cacheable: Resource + Clone + DeserializeOwned + fmt::Debug + Send + Sync + 'static {}
impl<K: Resource + Clone + DeserializeOwned + fmt::Debug + Send + Sync + 'static> Cacheable for K {}

/// What a subscriber is told.
#[derive(Clone, Debug)]
pub enum Change<K> {
    /// The object is new to the cache.
    Added(Arc<K>),
    /// The object changed.
    Updated {
        /// As it was.
        old: Arc<K>,
        /// As it is.
        new: Arc<K>,
    },
    /// The object is gone; this is its last known state.
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The newest state.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Change::Added(object) | Change::Deleted(object) => object,
            Change::Updated { new, .. } => new,
        }
    }

    /// The state before, if there was one.
    pub fn old(&self) -> Option<&Arc<K>> {
        match self {
            Change::Added(_) => None,
            Change::Updated { old, .. } => Some(old),
            Change::Deleted(object) => Some(object),
        }
    }
}

/// The index of objects by the UID of their controller, which every cache has.
pub const BY_OWNER: &str = "owner";

type IndexFn<K> = fn(&K) -> Vec<String>;
type Trim<K> = fn(&mut K);
type Subscriber<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

struct Index<K> {
    keys_of: IndexFn<K>,
    entries: HashMap<String, BTreeSet<ObjectKey>>,
}

impl<K> Index<K> {
    fn insert(&mut self, key: &ObjectKey, object: &K) {
        for value in (self.keys_of)(object) {
            self.entries.entry(value).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &ObjectKey, object: &K) {
        for value in (self.keys_of)(object) {
            if let Some(keys) = self.entries.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.entries.remove(&value);
                }
            }
        }
    }
}

struct Objects<K> {
    by_key: BTreeMap<ObjectKey, Arc<K>>,
    indexes: HashMap<&'static str, Index<K>>,
}

impl<K> Objects<K> {
    fn insert(&mut self, key: ObjectKey, object: Arc<K>) -> Option<Arc<K>> {
        let old = self.by_key.insert(key.clone(), object.clone());
        for index in self.indexes.values_mut() {
            if let Some(old) = &old {
                index.remove(&key, old);
            }
            index.insert(&key, &object);
        }
        old
    }

    fn remove(&mut self, key: &ObjectKey) -> Option<Arc<K>> {
        let old = self.by_key.remove(key)?;
        for index in self.indexes.values_mut() {
            index.remove(key, &old);
        }
        Some(old)
    }
}

/// The objects of one kind, as the watch last told.
pub struct Cache<K> {
    objects: RwLock<Objects<K>>,
    /// Also what serialises changes: held while one is stored and told to the subscribers.
    subscribers: Mutex<Vec<Subscriber<K>>>,
    synced: watch::Sender<bool>,
    trim: Trim<K>,
}

impl<K: Cacheable> Default for Cache<K> {
    fn default() -> Self {
        Self::trimmed(|_| {})
    }
}

impl<K: Cacheable> Cache<K> {
    /// One that holds what `trim` leaves of an object. It must leave namespace, name, UID and resource version.
    pub fn trimmed(trim: fn(&mut K)) -> Self {
        let owner = Index { keys_of: controller_uid::<K>, entries: HashMap::new() };
        Self {
            objects: RwLock::new(Objects { by_key: BTreeMap::new(), indexes: HashMap::from([(BY_OWNER, owner)]) }),
            subscribers: Mutex::new(Vec::new()),
            synced: watch::Sender::new(false),
            trim,
        }
    }
}

fn controller_uid<K: Resource>(object: &K) -> Vec<String> {
    let owners = object.meta().owner_references.iter().flatten();
    owners.filter(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone()).collect()
}

impl<K: Cacheable> Cache<K> {
    /// The object of that key.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.objects.read().by_key.get(key).cloned()
    }

    /// All objects, ordered by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.objects.read().by_key.values().cloned().collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.objects.read().by_key.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects of a namespace, ordered by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let objects = self.objects.read();
        let from = ObjectKey::new(namespace, "");
        objects.by_key.range(from..).take_while(|(key, _)| key.namespace == namespace).map(|(_, object)| object.clone()).collect()
    }

    /// Whether a namespace has any.
    pub fn has_in_namespace(&self, namespace: &str) -> bool {
        self.objects.read().by_key.range(ObjectKey::new(namespace, "")..).next().is_some_and(|(key, _)| key.namespace == namespace)
    }

    /// The objects whose controller (owner reference with `controller: true`) has that UID.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.by_index(BY_OWNER, uid)
    }

    /// The objects that the index has under `value`. Nothing, if there is no such index.
    pub fn by_index(&self, index: &'static str, value: &str) -> Vec<Arc<K>> {
        let objects = self.objects.read();
        let keys = objects.indexes.get(index).and_then(|index| index.entries.get(value));
        keys.into_iter().flatten().filter_map(|key| objects.by_key.get(key).cloned()).collect()
    }

    /// Adds an index; one that exists under that name stays.
    pub fn add_index(&self, name: &'static str, keys_of: fn(&K) -> Vec<String>) {
        let mut objects = self.objects.write();
        if objects.indexes.contains_key(name) {
            return;
        }
        let mut index = Index { keys_of, entries: HashMap::new() };
        for (key, object) in &objects.by_key {
            index.insert(key, object);
        }
        objects.indexes.insert(name, index);
    }

    /// Calls `subscriber` with every change from now on, and first with every object that is already there. It must not block, and must not subscribe.
    pub fn subscribe(&self, subscriber: impl Fn(&Change<K>) + Send + Sync + 'static) {
        let mut subscribers = self.subscribers.lock();
        for object in self.list() {
            subscriber(&Change::Added(object));
        }
        subscribers.push(Box::new(subscriber));
    }

    /// Whether the first list has arrived.
    pub fn has_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Waits until the first list has arrived.
    pub async fn wait_until_synced(&self) {
        // The sender lives as long as self.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Takes in one object, as the watch told it. Public for tests of what lives off a cache.
    pub fn apply(&self, mut object: K) {
        self.strip(&mut object);
        let key = ObjectKey::of(&object);
        // A copy, since what was read from text has lists with room for more: up to three times what they hold, for the large items that the API has.
        let new = Arc::new(object.clone());
        let subscribers = self.subscribers.lock();
        let old = self.objects.write().insert(key, new.clone());
        let change = match old {
            Some(old) if old.meta().resource_version.is_some() && old.meta().resource_version == new.meta().resource_version => return,
            // The same name with another UID: the one was deleted and the other created between two looks.
            Some(old) if old.meta().uid != new.meta().uid => {
                tell(&subscribers, &Change::Deleted(old));
                Change::Added(new)
            }
            Some(old) => Change::Updated { old, new },
            None => Change::Added(new),
        };
        tell(&subscribers, &change);
    }

    /// Removes an object. Public for tests of what lives off a cache.
    pub fn delete(&self, key: &ObjectKey, last: Option<K>) {
        let subscribers = self.subscribers.lock();
        let Some(old) = self.objects.write().remove(key) else { return };
        let last = last.map(|mut object| {
            self.strip(&mut object);
            Arc::new(object)
        });
        tell(&subscribers, &Change::Deleted(last.unwrap_or(old)));
    }

    /// Leaves of an object what is held.
    fn strip(&self, object: &mut K) {
        object.meta_mut().managed_fields = None;
        (self.trim)(object);
    }

    /// Replaces everything by a new list. Public for tests of what lives off a cache.
    pub fn replace(&self, listed: Vec<K>) {
        let present: BTreeSet<ObjectKey> = listed.iter().map(ObjectKey::of).collect();
        let gone: Vec<ObjectKey> = self.objects.read().by_key.keys().filter(|key| !present.contains(key)).cloned().collect();
        for key in gone {
            self.delete(&key, None);
        }
        for object in listed {
            self.apply(object);
        }
        self.synced.send_replace(true);
    }

    /// Keeps the cache filled until cancelled.
    async fn run(&self, api: Api<K>, config: watcher::Config, stop: CancellationToken)
    where
        K: Resource<DynamicType = ()>,
    {
        let mut listed = Vec::new();
        let mut events = watcher(api, config).default_backoff().boxed();
        while let Some(Some(event)) = stop.run_until_cancelled(events.next()).await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(mut object)) => {
                    self.strip(&mut object);
                    listed.push(object);
                }
                Ok(watcher::Event::InitDone) => self.replace(std::mem::take(&mut listed)),
                Ok(watcher::Event::Apply(object)) => self.apply(object),
                Ok(watcher::Event::Delete(object)) => self.delete(&ObjectKey::of(&object), Some(object)),
                Err(error) => tracing::warn!(kind = %K::kind(&()), %error, "watch failed, trying again"),
            }
        }
    }
}

fn tell<K>(subscribers: &[Subscriber<K>], change: &Change<K>) {
    for subscriber in subscribers {
        subscriber(change);
    }
}

/// All caches of a process. Whoever asks for a kind first starts its watch; it runs until the last handle on the `SharedCaches` is gone.
pub struct SharedCaches {
    client: Client,
    /// By type and selection.
    by_type: Mutex<HashMap<(TypeId, String), Entry>>,
    /// A [`Trim`] by type.
    trims: Mutex<HashMap<TypeId, Box<dyn Any + Send + Sync>>>,
    stop: CancellationToken,
    /// Whether watches fill the caches, or whoever made them.
    watched: bool,
    _stop_on_drop: DropGuard,
}

struct Entry {
    cache: Arc<dyn Any + Send + Sync>,
    kind: String,
    synced: watch::Receiver<bool>,
}

impl SharedCaches {
    /// No caches yet.
    pub fn new(client: Client) -> Arc<Self> {
        Self::made(client, true)
    }

    /// Caches without watches, for simulations that decide themselves what a cache gets to know and when.
    pub fn unfed(client: Client) -> Arc<Self> {
        Self::made(client, false)
    }

    fn made(client: Client, watched: bool) -> Arc<Self> {
        let stop = CancellationToken::new();
        Arc::new(Self {
            client,
            by_type: Mutex::default(),
            trims: Mutex::default(),
            watched,
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
        })
    }

    /// The client that the caches use.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Says what this process never reads of a kind: caches of it that are asked for from now on hold only what `trim` leaves (upstream:
    /// `SetTransform`). What such a cache holds cannot be written back whole, only patched.
    pub fn trim<K: Cacheable>(&self, trim: fn(&mut K)) {
        self.trims.lock().insert(TypeId::of::<K>(), Box::new(trim));
    }

    /// The cache of all objects of a kind.
    pub fn of<K: Cacheable + Resource<DynamicType = ()>>(&self) -> Arc<Cache<K>> {
        self.selected(watcher::Config::default().any_semantic())
    }

    /// The same, of the objects that a selector picks: there is one cache per kind and selection.
    pub fn selected<K: Cacheable + Resource<DynamicType = ()>>(&self, config: watcher::Config) -> Arc<Cache<K>> {
        let mut by_type = self.by_type.lock();
        let selection = [&config.label_selector, &config.field_selector].map(|selector| selector.clone().unwrap_or_default()).join(";");
        let key = (TypeId::of::<K>(), selection);
        if let Some(entry) = by_type.get(&key) {
            return entry.cache.clone().downcast().expect("the cache under a type's id is that type's");
        }
        let trim = self.trims.lock().get(&TypeId::of::<K>()).and_then(|trim| trim.downcast_ref::<Trim<K>>().copied());
        let cache = Arc::new(trim.map_or_else(Cache::<K>::default, Cache::trimmed));
        let entry = Entry { cache: cache.clone(), kind: K::kind(&()).into_owned(), synced: cache.synced.subscribe() };
        by_type.insert(key, entry);
        if !self.watched {
            return cache;
        }
        let (api, stop, filled) = (Api::all(self.client.clone()), self.stop.clone(), cache.clone());
        tokio::spawn(async move { filled.run(api, config, stop).await });
        cache
    }

    /// Waits until every cache asked for so far has its first list.
    pub async fn wait_until_synced(&self) {
        let waiting: Vec<_> = self.by_type.lock().values().map(|entry| entry.synced.clone()).collect();
        for mut synced in waiting {
            // An error means that the cache is gone: nobody waits for it any more.
            let _ = synced.wait_for(|synced| *synced).await;
        }
    }

    /// The kinds whose first list has not arrived, for health checks and logs.
    pub fn unsynced(&self) -> Vec<String> {
        self.by_type.lock().values().filter(|entry| !*entry.synced.borrow()).map(|entry| entry.kind.clone()).collect()
    }

    /// Ends all watches.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    fn pod(namespace: &str, name: &str, version: u64, node: &str) -> Pod {
        let object = json!({
            "metadata": {
                "namespace": namespace, "name": name, "uid": format!("{namespace}-{name}"), "resourceVersion": version.to_string(),
                "managedFields": [{"manager": "m", "operation": "Update"}],
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "A", "name": "a", "uid": "not-controller"},
                    {"apiVersion": "v1", "kind": "B", "name": "b", "uid": "controller", "controller": true},
                ],
            },
            "spec": {"containers": [], "nodeName": node},
        });
        serde_json::from_value(object).unwrap()
    }

    fn node(pod: &Pod) -> Vec<String> {
        pod.spec.iter().filter_map(|spec| spec.node_name.clone()).collect()
    }

    fn recorded(cache: &Cache<Pod>) -> Arc<Mutex<Vec<String>>> {
        let log = Arc::new(Mutex::new(Vec::new()));
        let writer = log.clone();
        cache.subscribe(move |change| {
            let what = match change {
                Change::Added(_) => "added",
                Change::Updated { .. } => "updated",
                Change::Deleted(_) => "deleted",
            };
            writer.lock().push(format!("{what} {}", ObjectKey::of(change.object().as_ref())));
        });
        log
    }

    #[test]
    fn lookups_follow_changes() {
        let cache = Cache::<Pod>::default();
        cache.add_index("node", node);
        cache.apply(pod("a", "1", 1, "n1"));
        cache.apply(pod("a", "2", 2, "n1"));
        cache.apply(pod("b", "1", 3, "n2"));
        cache.apply(pod("a", "2", 4, "n2"));
        let names = |found: Vec<Arc<Pod>>| found.iter().map(|p| ObjectKey::of(p.as_ref()).to_string()).collect::<Vec<_>>();
        assert_eq!(names(cache.by_index("node", "n1")), ["a/1"]);
        assert_eq!(names(cache.by_index("node", "n2")), ["a/2", "b/1"]);
        assert_eq!(names(cache.in_namespace("a")), ["a/1", "a/2"]);
        assert_eq!(names(cache.owned_by("controller")), ["a/1", "a/2", "b/1"]);
        assert!(cache.owned_by("not-controller").is_empty());
        cache.delete(&ObjectKey::new("a", "2"), None);
        assert_eq!(names(cache.by_index("node", "n2")), ["b/1"]);
        assert_eq!(cache.get(&ObjectKey::new("a", "1")).unwrap().metadata.managed_fields, None);
    }

    #[test]
    fn what_is_not_read_is_not_held() {
        let cache = Cache::<Pod>::trimmed(|pod| pod.spec = None);
        let specs = Arc::new(Mutex::new(Vec::new()));
        let seen = specs.clone();
        cache.subscribe(move |change| seen.lock().push(change.object().spec.is_some()));
        cache.apply(pod("a", "1", 1, "n1"));
        cache.replace(vec![pod("a", "1", 2, "n1")]);
        assert_eq!(cache.get(&ObjectKey::new("a", "1")).unwrap().spec, None);
        cache.delete(&ObjectKey::new("a", "1"), Some(pod("a", "1", 3, "n1")));
        assert_eq!(*specs.lock(), [false, false, false]);
    }

    #[tokio::test]
    async fn a_process_says_once_what_it_does_not_read() {
        let nowhere = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let caches = SharedCaches::unfed(Client::try_from(nowhere).unwrap());
        caches.trim::<Pod>(|pod| pod.spec = None);
        for cache in [caches.of::<Pod>(), caches.selected(watcher::Config::default().labels("a=b"))] {
            cache.apply(pod("a", "1", 1, "n1"));
            assert_eq!(cache.get(&ObjectKey::new("a", "1")).unwrap().spec, None);
        }
    }

    #[test]
    fn a_relist_tells_only_the_differences() {
        let cache = Cache::<Pod>::default();
        cache.replace(vec![pod("a", "1", 1, "n"), pod("a", "2", 2, "n"), pod("a", "3", 3, "n")]);
        let log = recorded(&cache);
        log.lock().clear();
        cache.replace(vec![pod("a", "1", 1, "n"), pod("a", "3", 9, "n"), pod("a", "4", 10, "n")]);
        assert_eq!(*log.lock(), ["deleted a/2", "updated a/3", "added a/4"]);
        assert!(cache.has_synced());
    }

    #[test]
    fn a_late_subscriber_hears_of_what_is_there() {
        let cache = Cache::<Pod>::default();
        cache.apply(pod("a", "1", 1, "n"));
        let log = recorded(&cache);
        assert_eq!(*log.lock(), ["added a/1"]);
    }

    #[test]
    fn another_object_under_the_same_name_is_a_deletion_and_an_addition() {
        let cache = Cache::<Pod>::default();
        let log = recorded(&cache);
        cache.apply(pod("a", "1", 1, "n"));
        let mut other = pod("a", "1", 2, "n");
        other.metadata.uid = Some("other".to_owned());
        cache.apply(other);
        assert_eq!(*log.lock(), ["added a/1", "deleted a/1", "added a/1"]);
    }
}
