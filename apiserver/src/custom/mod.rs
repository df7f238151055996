//! Custom resources: follows the definitions, gives them their names and conditions, serves what is established, and clears up what is deleted
//! (upstream: `apiextensions-apiserver`). The objects themselves are the registry's, as those of every kind.
//!
//! One task follows the definitions. It looks at all of them whenever one has changed, but makes rows anew only for those whose specification
//! changed: a kind whose rows stay keeps its cache and its watches.

pub mod conversion;

use crate::cache::{Cache, Filter, Start, WatchEvent, WatchOptions, Watcher};
use crate::encoding::EventType;
use crate::objects::{Collection, Objects};
use crate::outbound::Caller;
use crate::registry::Registry;
use api::Resource;
use api::custom::Family;
use api::resources::apiextensions::custom_resource_definition::{CLEANUP_FINALIZER, conditions};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const DEFINITIONS: Collection = Collection::of("apiextensions.k8s.io", "customresourcedefinitions");
/// How long after a write that failed it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What is known of the definitions.
pub struct Definitions {
    registry: Arc<Registry>,
    caller: Arc<Caller>,
    known: BTreeMap<String, Arc<CustomResourceDefinition>>,
    /// The rows that are served, by the name of their definition, with the definition that they were made of.
    served: BTreeMap<String, (Arc<CustomResourceDefinition>, Vec<Arc<Resource>>)>,
    /// Those who delete the objects of a definition that is deleted, by its uid.
    cleaning: HashMap<String, JoinHandle<()>>,
    watcher: Option<Watcher>,
}

fn now() -> Time {
    let now = Timestamp::now();
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

impl Definitions {
    /// Serves what is established already. When this returns, no request for a custom resource is answered as if there were no such kind.
    pub async fn start(registry: Arc<Registry>, caller: Arc<Caller>) -> api::status::Result<Self> {
        let mut definitions =
            Definitions { registry, caller, known: BTreeMap::new(), served: BTreeMap::new(), cleaning: HashMap::new(), watcher: None };
        definitions.restart();
        definitions.drain();
        definitions.serve().await?;
        Ok(definitions)
    }

    /// Follows the definitions until the server stops.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let settled = self.settle().await;
            let next = async {
                match &mut self.watcher {
                    Some(watcher) => watcher.next().await,
                    None => None,
                }
            };
            let events = tokio::select! {
                () = stop.cancelled() => break,
                events = next => events,
                () = tokio::time::sleep(RETRY), if !settled => Some(Vec::new()),
            };
            match events {
                Some(events) => {
                    events.iter().for_each(|e| self.take(e));
                    self.drain();
                }
                None => self.restart(),
            }
        }
        self.cleaning.values().for_each(JoinHandle::abort);
    }

    fn cache(&self) -> Option<Arc<Cache>> {
        self.registry.stored_endpoint(DEFINITIONS.group, DEFINITIONS.plural)?.cache.clone()
    }

    /// Watches from the present state on.
    fn restart(&mut self) {
        self.known.clear();
        let options = WatchOptions { start: Start::Initial { end_bookmark: false }, bookmarks: false, deadline: None };
        self.watcher = self.cache().and_then(|cache| {
            cache.watch(Filter::all(), options).inspect_err(|error| tracing::error!(%error, "cannot watch the definitions")).ok()
        });
    }

    /// Takes what is there without waiting.
    fn drain(&mut self) {
        use futures::FutureExt;
        while let Some(watcher) = &mut self.watcher {
            match tokio::task::unconstrained(watcher.next()).now_or_never() {
                Some(Some(events)) => events.iter().for_each(|e| self.take(e)),
                _ => return,
            }
        }
    }

    fn take(&mut self, event: &WatchEvent) {
        let WatchEvent::Object { event_type, entry } = event else { return };
        if *event_type == EventType::Deleted {
            self.known.remove(entry.name());
            return;
        }
        if let Some(definition) = crate::objects::decode::<CustomResourceDefinition>(&entry.bytes()) {
            self.known.insert(entry.name().to_owned(), Arc::new(definition));
        }
    }

    /// Brings everything to what the definitions say. Whether all of it succeeded.
    async fn settle(&mut self) -> bool {
        let mut all = true;
        let mut decided: Vec<CustomResourceDefinition> = Vec::new();
        let names: Vec<String> = self.known.keys().cloned().collect();
        for name in names {
            let Some(definition) = self.known.get(&name).cloned() else { continue };
            if definition.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let new = conditions::decide(&definition, self.known.values().map(|d| &**d), &now());
            if new.status != definition.status {
                // What others may be given depends on what this one has been given.
                self.known.insert(name, Arc::new(new.clone()));
                decided.push(new);
            }
        }
        // Served before it is said to be.
        if let Err(error) = self.serve().await {
            tracing::warn!(%error, "custom resources cannot be served");
            all = false;
        }
        for definition in decided {
            let Ok(value) = serde_json::to_value(&definition) else { continue };
            if let Err(error) = Objects::update(&*self.registry, DEFINITIONS, "", "status", value).await {
                // Who lost a race is told of the new state.
                tracing::debug!(%error, "a definition's status cannot be written");
                all &= error.code() == 409 || error.code() == 404;
                if let Some(name) = &definition.metadata.name {
                    self.reread(name);
                }
            }
        }
        self.clean();
        all
    }

    fn reread(&mut self, name: &str) {
        let bytes = Objects::get(&*self.registry, DEFINITIONS, "", name);
        match bytes.and_then(|b| crate::objects::decode::<CustomResourceDefinition>(&b)) {
            Some(definition) => drop(self.known.insert(name.to_owned(), Arc::new(definition))),
            None => drop(self.known.remove(name)),
        }
    }

    /// Hands the rows of all established definitions to the registry.
    async fn serve(&mut self) -> api::status::Result<()> {
        let mut served = BTreeMap::new();
        for (name, definition) in self.known.iter().filter(|(_, d)| conditions::is(d, conditions::ESTABLISHED)) {
            let same = self.served.get(name).filter(|(before, _)| serves_the_same(before, definition));
            let rows = match same {
                Some((_, rows)) => {
                    rows.iter().filter_map(|r| r.custom.as_ref()).for_each(|v| v.family.note(definition));
                    rows.clone()
                }
                None => Family::rows(definition),
            };
            served.insert(name.clone(), (definition.clone(), rows));
        }
        let rows = |s: &BTreeMap<String, (Arc<CustomResourceDefinition>, Vec<Arc<Resource>>)>| -> Vec<Arc<Resource>> {
            s.values().flat_map(|(_, rows)| rows.iter().cloned()).collect()
        };
        let (before, after) = (rows(&self.served), rows(&served));
        if before.len() != after.len() || before.iter().zip(&after).any(|(a, b)| !Arc::ptr_eq(a, b)) {
            self.registry.serve_custom(after, &self.caller).await?;
        }
        self.served = served;
        Ok(())
    }

    /// Sees to it that the objects of every definition that is deleted are deleted.
    fn clean(&mut self) {
        self.cleaning.retain(|_, task| !task.is_finished());
        for definition in self.known.values() {
            let meta = &definition.metadata;
            let held = meta.finalizers.iter().flatten().any(|f| f == CLEANUP_FINALIZER);
            let uid = meta.uid.clone().unwrap_or_default();
            if meta.deletion_timestamp.is_none() || !held || self.cleaning.contains_key(&uid) {
                continue;
            }
            let (registry, definition) = (self.registry.clone(), definition.clone());
            self.cleaning.insert(uid, tokio::spawn(async move { clean(&registry, &definition).await }));
        }
    }
}

/// Whether the same rows follow from two states of a definition.
fn serves_the_same(a: &CustomResourceDefinition, b: &CustomResourceDefinition) -> bool {
    let names = |d: &CustomResourceDefinition| d.status.as_ref().and_then(|s| s.accepted_names.clone());
    a.metadata.uid == b.metadata.uid && a.spec == b.spec && names(a) == names(b)
}

/// Deletes the objects of a definition, waits until they are gone, and lets the definition go.
async fn clean(registry: &Arc<Registry>, definition: &CustomResourceDefinition) {
    let name = definition.metadata.name.clone().unwrap_or_default();
    let say = |holds: bool, reason: &'static str, message: &'static str, finish: bool| {
        let name = name.clone();
        async move {
            let Some(bytes) = Objects::get(&**registry, DEFINITIONS, "", &name) else { return Ok(()) };
            let Some(mut definition) = crate::objects::decode::<CustomResourceDefinition>(&bytes) else { return Ok(()) };
            conditions::set(&mut definition, conditions::TERMINATING, holds, reason, message, &now());
            let value = serde_json::to_value(&definition).map_err(api::StatusError::internal)?;
            let written = Objects::update(&**registry, DEFINITIONS, "", "status", value).await?;
            if finish && let Some(mut definition) = crate::objects::decode::<CustomResourceDefinition>(&written) {
                definition.metadata.finalizers.get_or_insert_default().retain(|f| f != CLEANUP_FINALIZER);
                let value = serde_json::to_value(&definition).map_err(api::StatusError::internal)?;
                Objects::update(&**registry, DEFINITIONS, "", "", value).await?;
            }
            Ok::<(), api::StatusError>(())
        }
    };
    loop {
        let (group, plural) = (&definition.spec.group, &definition.spec.names.plural);
        let outcome = match registry.has_objects(group, plural) {
            true => match say(true, "InstanceDeletionInProgress", "CustomResource deletion is in progress", false).await {
                Ok(()) => registry.delete_all(group, plural).await,
                Err(error) => Err(error),
            },
            false => Ok(()),
        };
        let outcome = match outcome {
            Ok(()) => say(false, "InstanceDeletionCompleted", "removed all instances", true).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => return,
            Err(error) if error.code() == 404 => return,
            Err(error) => tracing::debug!(definition = name, %error, "the objects of a definition cannot be deleted; trying again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}
