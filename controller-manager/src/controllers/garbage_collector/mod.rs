//! Deletes what belongs to something that is gone, in the three ways in which a deletion can be asked for: background, foreground, orphan
//! (upstream: `pkg/controller/garbagecollector`).
//!
//! Watches the metadata of every kind that the apiserver serves, custom ones too, and keeps the [`graph`] of owners. What to do about an object is
//! decided on its present state in the apiserver; that an owner is gone is only believed if the apiserver says so.

pub mod graph;

use crate::controller::{Context, Controller, Keys};
use crate::discovery::{self, Served};
use crate::ops::{DeleteOptions, Op, Propagation, Request};
use client::ObjectKey;
use futures::StreamExt;
use futures::future::BoxFuture;
use graph::{FOREGROUND, Graph, KindName, ORPHAN, Object};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How soon to ask again for the kinds after a definition has changed, or after asking has failed.
const REDISCOVER: Duration = Duration::from_secs(1);

/// Keys are UIDs, in the place of names.
pub struct GarbageCollector {
    context: Context,
    graph: Mutex<Graph>,
    kinds: Mutex<BTreeMap<KindName, Watched>>,
    definitions_changed: Notify,
    /// Objects to look at once every kind has been listed.
    noted: Mutex<BTreeSet<String>>,
    /// Its queue, once it has one.
    keys: OnceLock<Keys>,
}

struct Watched {
    served: Served,
    synced: bool,
    stop: CancellationToken,
}

/// What can be said of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// It is there.
    Solid,
    /// It is there, and waits for its dependents to be gone.
    Waiting,
    /// It is gone.
    Absent,
    /// It would be in a namespace, and an object of the cluster cannot say in which: nothing is known of it.
    Elsewhere,
}

fn key(uid: &str) -> ObjectKey {
    ObjectKey::new("", uid)
}

type Metadata = PartialObjectMeta<DynamicObject>;

impl GarbageCollector {
    /// With a graph of its own.
    pub fn new(context: Context) -> Self {
        Self {
            context,
            graph: Mutex::default(),
            kinds: Mutex::default(),
            definitions_changed: Notify::new(),
            noted: Mutex::default(),
            keys: OnceLock::new(),
        }
    }

    fn look(&self, uids: Vec<String>) {
        let Some(keys) = self.keys.get() else { return };
        for uid in uids {
            keys.add(key(&uid));
        }
    }

    fn served(&self, api_version: &str, kind: &str) -> Option<Served> {
        let kinds = self.kinds.lock();
        let name = KindName { api_version: api_version.to_owned(), kind: kind.to_owned() };
        if let Some(watched) = kinds.get(&name) {
            return Some(watched.served.clone());
        }
        // Another version of a kind that is watched in the preferred one.
        let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
        kinds.values().map(|watched| &watched.served).find(|served| served.resource.group == group && served.resource.kind == kind).cloned()
    }

    fn api(&self, served: &Served, namespace: &str) -> Api<DynamicObject> {
        let client = self.context.executor.client().clone();
        if served.namespaced { Api::namespaced_with(client, namespace, &served.resource) } else { Api::all_with(client, &served.resource) }
    }

    async fn present(&self, object: &Object) -> anyhow::Result<Option<(Served, Metadata)>> {
        let Some(served) = self.served(&object.kind.api_version, &object.kind.kind) else { return Ok(None) };
        let found = self.api(&served, &object.namespace).get_metadata_opt(&object.name).await?;
        Ok(found.filter(|found| found.metadata.uid.as_deref() == Some(&object.uid)).map(|found| (served, found)))
    }

    async fn sync(&self, uid: &str) -> anyhow::Result<()> {
        let Some(object) = self.graph.lock().get(uid).cloned() else { return Ok(()) };
        if object.leaves_dependents() {
            return self.orphan_dependents(&object).await;
        }
        if object.waits_for_dependents() {
            return self.wait_for_dependents(&object).await;
        }
        if object.deleting || object.owners.is_empty() {
            return Ok(());
        }
        let Some((served, present)) = self.present(&object).await? else { return Ok(()) };
        let references = present.metadata.owner_references.clone().unwrap_or_default();
        let mut owners = Vec::new();
        for reference in &references {
            let owner = self.judge(reference, &object.namespace).await?;
            if owner == Owner::Absent && self.is_of_another_namespace(reference, &object.namespace) {
                self.tell_of_wrong_namespace(&object, reference).await?;
            }
            owners.push((reference, owner));
        }
        let dependents = self.graph.lock().dependents(uid);
        match decide(&owners, &object, &dependents) {
            Decision::Keep => Ok(()),
            Decision::KeepOwners(kept) => {
                let metadata = json!({"ownerReferences": kept, "uid": uid, "resourceVersion": present.metadata.resource_version});
                self.patch(&served, &object, json!({ "metadata": metadata })).await
            }
            Decision::Delete(propagation) => {
                let options = DeleteOptions {
                    uid: Some(uid.to_owned()),
                    resource_version: present.metadata.resource_version.clone(),
                    propagation: Some(propagation),
                    ..DeleteOptions::default()
                };
                tracing::debug!(
                    kind = object.kind.kind,
                    namespace = object.namespace,
                    name = object.name,
                    ?propagation,
                    "deleting, its owner is gone"
                );
                self.context.executor.send(Request::delete_at(served.path(&object.namespace, &object.name), object.name, &options)).await?;
                Ok(())
            }
        }
    }

    /// Whether an owner is there: by the graph if it knows it, else by the apiserver.
    async fn judge(&self, reference: &OwnerReference, namespace: &str) -> anyhow::Result<Owner> {
        {
            let graph = self.graph.lock();
            if let Some(owner) = graph.get(&reference.uid).filter(|owner| owner.is_meant_by(reference, namespace)) {
                return Ok(if owner.waits_for_dependents() { Owner::Waiting } else { Owner::Solid });
            }
        }
        let Some(served) = self.served(&reference.api_version, &reference.kind) else {
            anyhow::bail!("no matches for kind \"{}\" in version \"{}\"", reference.kind, reference.api_version);
        };
        if served.namespaced && namespace.is_empty() {
            return Ok(Owner::Elsewhere);
        }
        let found = self.api(&served, namespace).get_metadata_opt(&reference.name).await?;
        let Some(found) = found.filter(|found| found.metadata.uid.as_ref() == Some(&reference.uid)) else { return Ok(Owner::Absent) };
        let found =
            Object::new(Arc::new(KindName { api_version: reference.api_version.clone(), kind: reference.kind.clone() }), &found.metadata);
        Ok(if found.waits_for_dependents() { Owner::Waiting } else { Owner::Solid })
    }

    /// Whether there is an object with the owner's UID, but where the reference cannot reach.
    fn is_of_another_namespace(&self, reference: &OwnerReference, namespace: &str) -> bool {
        self.graph.lock().get(&reference.uid).is_some_and(|owner| !owner.namespace.is_empty() && owner.namespace != namespace)
    }

    /// Tells at the object that its owner is not where the reference says, before it goes for that.
    async fn tell_of_wrong_namespace(&self, object: &Object, reference: &OwnerReference) -> anyhow::Result<()> {
        let OwnerReference { api_version, kind, name, uid, .. } = reference;
        let namespace = &object.namespace;
        let owner = format!("[{api_version}/{kind}, namespace: {namespace}, name: {name}, uid: {uid}]");
        let about = ObjectReference {
            api_version: Some(object.kind.api_version.clone()),
            kind: Some(object.kind.kind.clone()),
            namespace: Some(namespace.clone()),
            name: Some(object.name.clone()),
            uid: Some(object.uid.clone()),
            ..ObjectReference::default()
        };
        let message = format!("ownerRef {owner} does not exist in namespace \"{namespace}\"");
        let told = Op::Event { about: Box::new(about), warning: true, reason: "OwnerRefInvalidNamespace", message };
        self.context.executor.apply(vec![told]).await?;
        Ok(())
    }

    /// Foreground: the object goes when nothing that blocks it is left.
    async fn wait_for_dependents(&self, object: &Object) -> anyhow::Result<()> {
        let blocking = self.graph.lock().blocking_dependents(&object.uid);
        if blocking.is_empty() {
            return self.remove_finalizer(object, FOREGROUND).await;
        }
        self.look(blocking.into_iter().filter(|dependent| !dependent.deleting).map(|dependent| dependent.uid).collect());
        Ok(())
    }

    /// Orphan: the dependents forget their owner, and then it goes.
    async fn orphan_dependents(&self, object: &Object) -> anyhow::Result<()> {
        let dependents = self.graph.lock().dependents(&object.uid);
        for dependent in dependents {
            let Some((served, present)) = self.present(&dependent).await? else { continue };
            let mut kept = present.metadata.owner_references.clone().unwrap_or_default();
            kept.retain(|reference| reference.uid != object.uid);
            let metadata = json!({"ownerReferences": kept, "uid": dependent.uid, "resourceVersion": present.metadata.resource_version});
            self.patch(&served, &dependent, json!({ "metadata": metadata })).await?;
        }
        self.remove_finalizer(object, ORPHAN).await
    }

    async fn remove_finalizer(&self, object: &Object, finalizer: &str) -> anyhow::Result<()> {
        let Some((served, present)) = self.present(object).await? else { return Ok(()) };
        let mut kept = present.metadata.finalizers.clone().unwrap_or_default();
        let before = kept.len();
        kept.retain(|present| present != finalizer);
        if kept.len() == before {
            return Ok(());
        }
        let metadata = json!({"finalizers": kept, "uid": object.uid, "resourceVersion": present.metadata.resource_version});
        self.patch(&served, object, json!({ "metadata": metadata })).await
    }

    async fn patch(&self, served: &Served, object: &Object, patch: Value) -> anyhow::Result<()> {
        let path = served.path(&object.namespace, &object.name);
        self.context.executor.send(Request::merge_patch_at(path, object.name.clone(), patch).tolerating(&[404])).await?;
        Ok(())
    }

    /// Watches what the apiserver serves, and no longer what it does not.
    async fn follow(self: &Arc<Self>, watches: &mut JoinSet<()>, stop: &CancellationToken) -> anyhow::Result<()> {
        let all = discovery::served(self.context.executor.client()).await?;
        let wanted = all.into_iter().filter(|kind| ["delete", "list", "watch"].iter().all(|verb| kind.can(verb)));
        let wanted = wanted.filter(|kind| !(kind.resource.group.is_empty() && kind.resource.plural == "events"));
        let mut kinds = self.kinds.lock();
        let mut present = BTreeSet::new();
        for served in wanted {
            let name = KindName { api_version: served.resource.api_version.clone(), kind: served.resource.kind.clone() };
            present.insert(name.clone());
            if kinds.contains_key(&name) {
                continue;
            }
            let stop = stop.child_token();
            kinds.insert(name.clone(), Watched { served: served.clone(), synced: false, stop: stop.clone() });
            let collector = self.clone();
            watches.spawn(async move { collector.watch_kind(Arc::new(name), served, stop).await });
        }
        let gone: Vec<KindName> = kinds.keys().filter(|name| !present.contains(*name)).cloned().collect();
        for name in gone {
            if let Some(watched) = kinds.remove(&name) {
                watched.stop.cancel();
            }
            let mut graph = self.graph.lock();
            for uid in graph.of_kind(&name) {
                self.look(graph.remove(&uid));
            }
        }
        drop(kinds);
        // A kind that has gone is not waited for.
        self.look_when_synced(Vec::new());
        Ok(())
    }

    async fn watch_kind(self: Arc<Self>, kind: Arc<KindName>, served: Served, stop: CancellationToken) {
        let api: Api<Metadata> = Api::all_with(self.context.executor.client().clone(), &served.resource);
        let mut events = watcher(api, watcher::Config::default().any_semantic()).default_backoff().boxed();
        let mut listed = HashSet::new();
        let defines_kinds = matches!(kind.kind.as_str(), "CustomResourceDefinition" | "APIService");
        while let Some(Some(event)) = stop.run_until_cancelled(events.next()).await {
            let listing = matches!(event, Ok(watcher::Event::InitApply(_)));
            let look = match event {
                Ok(watcher::Event::Init) => {
                    listed.clear();
                    continue;
                }
                Ok(watcher::Event::InitApply(object)) => {
                    let object = Object::new(kind.clone(), &object.metadata);
                    listed.insert(object.uid.clone());
                    self.graph.lock().apply(object)
                }
                Ok(watcher::Event::InitDone) => {
                    let mut look: Vec<String> = {
                        let mut graph = self.graph.lock();
                        let gone: Vec<String> = graph.of_kind(&kind).into_iter().filter(|uid| !listed.contains(uid)).collect();
                        gone.into_iter().flat_map(|uid| graph.remove(&uid)).collect()
                    };
                    listed = HashSet::new();
                    if self.all_synced(&kind) {
                        look.extend(self.graph.lock().unsettled());
                    }
                    look
                }
                Ok(watcher::Event::Apply(object)) => {
                    if defines_kinds {
                        self.definitions_changed.notify_one();
                    }
                    self.graph.lock().apply(Object::new(kind.clone(), &object.metadata))
                }
                Ok(watcher::Event::Delete(object)) => {
                    if defines_kinds {
                        self.definitions_changed.notify_one();
                    }
                    self.graph.lock().remove(object.metadata.uid.as_deref().unwrap_or_default())
                }
                Err(error) => {
                    tracing::debug!(kind = kind.kind, %error, "watch failed, trying again");
                    continue;
                }
            };
            // What the first lists show is looked at when the last of them has come.
            if !listing || self.synced() {
                self.look_when_synced(look);
            }
        }
    }

    /// Whether every kind has been listed.
    fn synced(&self) -> bool {
        self.kinds.lock().values().all(|watched| watched.synced)
    }

    /// Before every kind has been listed, an owner that is not known may only not be known yet: until then, objects are only noted.
    fn look_when_synced(&self, look: Vec<String>) {
        let mut noted = self.noted.lock();
        noted.extend(look);
        if self.synced() {
            self.look(std::mem::take(&mut *noted).into_iter().collect());
        }
    }

    /// Notes that a kind has been listed. Whether that made it all of them.
    fn all_synced(&self, kind: &KindName) -> bool {
        let mut kinds = self.kinds.lock();
        let Some(watched) = kinds.get_mut(kind) else { return false };
        let first = !std::mem::replace(&mut watched.synced, true);
        first && kinds.values().all(|watched| watched.synced)
    }
}

/// What to do about an object with owners.
#[derive(Clone, Debug, PartialEq)]
enum Decision {
    Keep,
    KeepOwners(Vec<OwnerReference>),
    Delete(Propagation),
}

fn decide(owners: &[(&OwnerReference, Owner)], object: &Object, dependents: &[Object]) -> Decision {
    // Whoever wrote such a reference made a mistake that no retry mends; the object is not to pay for it.
    if owners.iter().any(|(_, owner)| *owner == Owner::Elsewhere) {
        return Decision::Keep;
    }
    let solid: Vec<OwnerReference> =
        owners.iter().filter(|(_, owner)| *owner == Owner::Solid).map(|(reference, _)| (*reference).clone()).collect();
    if owners.is_empty() || solid.len() == owners.len() {
        return Decision::Keep;
    }
    if !solid.is_empty() {
        return Decision::KeepOwners(solid);
    }
    let waited_for = owners.iter().any(|(_, owner)| *owner == Owner::Waiting);
    if waited_for && !dependents.is_empty() {
        // A circle of owners that all wait would never end: one of them has to stop blocking.
        let blocking = owners.iter().any(|(reference, _)| reference.block_owner_deletion == Some(true));
        if blocking && dependents.iter().any(Object::waits_for_dependents) {
            let unblocked =
                owners.iter().map(|(reference, _)| OwnerReference { block_owner_deletion: Some(false), ..(*reference).clone() });
            return Decision::KeepOwners(unblocked.collect());
        }
        return Decision::Delete(Propagation::Foreground);
    }
    Decision::Delete(match (object.orphan, object.foreground) {
        (true, _) => Propagation::Orphan,
        (false, true) => Propagation::Foreground,
        (false, false) => Propagation::Background,
    })
}

impl Controller for GarbageCollector {
    fn workers(&self) -> usize {
        20
    }

    fn watch(self: Arc<Self>, keys: &Keys) {
        // Set once: a controller is watched for once.
        let _ = self.keys.set(keys.clone());
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(async move {
            self.sync(&key.name).await?;
            Ok(None)
        })
    }

    fn run(self: Arc<Self>, _: Keys, stop: CancellationToken) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            // They end with this task, however it ends.
            let mut watches = JoinSet::new();
            while !stop.is_cancelled() {
                while watches.try_join_next().is_some() {}
                let followed = self.follow(&mut watches, &stop).await;
                if let Err(error) = &followed {
                    tracing::warn!(error = format!("{error:#}"), "cannot tell what kinds there are, trying again");
                }
                let again = async {
                    if followed.is_ok() {
                        self.definitions_changed.notified().await;
                    }
                    // Definitions come in groups, and take a moment to be served.
                    tokio::time::sleep(REDISCOVER).await;
                };
                stop.run_until_cancelled(again).await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(more: impl FnOnce(&mut Object)) -> Object {
        let kind = Arc::new(KindName { api_version: "v1".to_owned(), kind: "Thing".to_owned() });
        let mut object = Object::new(kind, &Default::default());
        more(&mut object);
        object
    }

    #[test]
    fn what_to_do_about_an_object() {
        let reference =
            |name: &str| OwnerReference { name: name.to_owned(), block_owner_deletion: Some(true), ..OwnerReference::default() };
        let (a, b) = (reference("a"), reference("b"));
        let plain = object(|_| {});
        let waiting = object(|object| (object.deleting, object.foreground) = (true, true));
        let unblocked = OwnerReference { block_owner_deletion: Some(false), ..a.clone() };
        let background = Decision::Delete(Propagation::Background);
        type Case<'a> = (Vec<(&'a OwnerReference, Owner)>, Object, Vec<Object>, Decision);
        let cases: Vec<Case<'_>> = vec![
            (vec![], plain.clone(), vec![], Decision::Keep),
            (vec![(&a, Owner::Solid)], plain.clone(), vec![], Decision::Keep),
            (vec![(&a, Owner::Elsewhere), (&b, Owner::Absent)], plain.clone(), vec![], Decision::Keep),
            (vec![(&a, Owner::Solid), (&b, Owner::Absent)], plain.clone(), vec![], Decision::KeepOwners(vec![a.clone()])),
            (vec![(&a, Owner::Solid), (&b, Owner::Waiting)], plain.clone(), vec![], Decision::KeepOwners(vec![a.clone()])),
            (vec![(&a, Owner::Absent), (&b, Owner::Absent)], plain.clone(), vec![plain.clone()], background.clone()),
            (vec![(&a, Owner::Waiting)], plain.clone(), vec![], background),
            (vec![(&a, Owner::Waiting)], plain.clone(), vec![plain.clone()], Decision::Delete(Propagation::Foreground)),
            (vec![(&a, Owner::Waiting)], plain.clone(), vec![waiting], Decision::KeepOwners(vec![unblocked])),
            (vec![(&a, Owner::Absent)], object(|object| object.orphan = true), vec![], Decision::Delete(Propagation::Orphan)),
            (vec![(&a, Owner::Absent)], object(|object| object.foreground = true), vec![], Decision::Delete(Propagation::Foreground)),
        ];
        for (owners, object, dependents, expected) in cases {
            let shown: Vec<_> = owners.iter().map(|(reference, owner)| (&reference.name, *owner)).collect();
            assert_eq!(decide(&owners, &object, &dependents), expected, "{shown:?}");
        }
    }
}
