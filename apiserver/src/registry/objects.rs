//! The registry as identity, policy and bootstrap see it: [`Objects`] over the caches and the ordinary write path.

use super::{Registry, Write, Written, keys, metadata};
use crate::authentication::UserInfo;
use crate::cache::{Cache, Filter, Start, WatchEvent, WatchOptions, Watcher};
use crate::encoding::EventType;
use crate::handlers::parameters::{DeleteParameters, Preconditions};
use crate::notes::Notes;
use crate::objects::{Change, Collection, Feed, Objects};
use crate::registry::subresource::View;
use crate::registry::update::Wanted;
use api::decode::body::FieldValidation;
use api::{StatusError, status::Result};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;
use std::sync::{Arc, LazyLock};

/// What fields that the server itself writes are owned by.
const MANAGER: &str = "kube-apiserver";

/// The server's own identity.
static SELF: LazyLock<UserInfo> = LazyLock::new(|| UserInfo {
    name: "system:apiserver".into(),
    groups: vec!["system:masters".into(), "system:authenticated".into()],
    ..Default::default()
});

/// What the server itself writes is noted nowhere.
static NOBODY: LazyLock<Arc<Notes>> = LazyLock::new(Default::default);

impl Registry {
    fn collection(&self, collection: Collection) -> Result<Arc<super::Endpoint>> {
        self.stored_endpoint(collection.group, collection.plural)
            .ok_or_else(|| StatusError::internal(format!("{}.{} is not served", collection.plural, collection.group)))
    }

    fn collection_cache(&self, collection: Collection) -> Option<Arc<Cache>> {
        self.stored_endpoint(collection.group, collection.plural)?.cache.clone()
    }

    /// What happens from now on to the objects that the filter takes; `None` if the collection is not served.
    pub(crate) fn changes(&self, collection: Collection, filter: Filter) -> Option<Watcher> {
        let cache = self.collection_cache(collection)?;
        cache.watch(filter, WatchOptions { start: Start::After(cache.revision()), bookmarks: false, deadline: None }).ok()
    }
}

pub(super) fn own_write<'a>(endpoint: &'a super::Endpoint, namespace: &'a str, name: &'a str, subresource: &'a str) -> Write<'a> {
    Write {
        endpoint,
        subresource,
        namespace,
        name,
        user: &SELF,
        manager: MANAGER,
        dry_run: false,
        field_validation: FieldValidation::Ignore,
        admit: false,
        options: &Value::Null,
        asked: &Value::Null,
        notes: &NOBODY,
    }
}

impl Registry {
    /// Applies a status as the server itself, under the name of the part of it that does so.
    pub async fn apply_status(&self, collection: Collection, manager: &str, wanted: &Value) -> Result<()> {
        let endpoint = self.collection(collection)?;
        let name = metadata::text(wanted, "name");
        let write = Write { manager, ..own_write(&endpoint, "", name, "status") };
        let target = crate::handlers::target(&endpoint, "status")?;
        let text = Bytes::from(wanted.to_string());
        self.patch(&write, super::patch::PatchKind::Apply, &target, &text, true).await.map(drop)
    }
}

impl Objects for Registry {
    fn get(&self, collection: Collection, namespace: &str, name: &str) -> Option<Bytes> {
        self.collection_cache(collection)?.find(namespace, name).map(|e| e.bytes())
    }

    fn list(&self, collection: Collection, namespace: &str) -> Vec<Bytes> {
        let Some(cache) = self.collection_cache(collection) else { return Vec::new() };
        let filter = Filter::all().in_namespace(namespace);
        cache.list(&filter, &Default::default()).entries.iter().map(|e| e.bytes()).collect()
    }

    fn feed(&self, collection: Collection) -> Box<dyn Feed> {
        Box::new(CacheFeed { cache: self.collection_cache(collection), watcher: None })
    }

    fn read<'a>(&'a self, collection: Collection, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Result<Option<Bytes>>> {
        Box::pin(async move {
            let endpoint = self.collection(collection)?;
            let found = self.read_through(&endpoint, &keys::relative(namespace, name)).await?;
            Ok(found.map(|kv| crate::encoding::with_resource_version(&kv.value, kv.mod_revision)))
        })
    }

    fn create<'a>(&'a self, collection: Collection, namespace: &'a str, object: Value) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(async move {
            let endpoint = self.collection(collection)?;
            let write = own_write(&endpoint, namespace, "", "");
            let Written { object, .. } = Registry::create(self, &write, complete(&endpoint, object)).await?;
            Ok(object)
        })
    }

    fn update<'a>(
        &'a self,
        collection: Collection,
        namespace: &'a str,
        subresource: &'a str,
        object: Value,
    ) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(async move {
            let endpoint = self.collection(collection)?;
            let mut object = complete(&endpoint, object);
            let name = metadata::text(&object, "name").to_owned();
            let write = own_write(&endpoint, namespace, &name, subresource);
            let view = View::of(subresource).ok_or_else(|| crate::respond::generic(405))?;
            let managed = metadata::take_managed_fields(&mut object);
            let make =
                |_: &super::update::Current| Ok(Wanted { value: object.clone(), managed: managed.clone(), applied: false, uid: None });
            Ok(Registry::update(self, &write, view, &make).await?.object)
        })
    }

    fn delete<'a>(&'a self, collection: Collection, namespace: &'a str, name: &'a str, uid: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let endpoint = self.collection(collection)?;
            let write = own_write(&endpoint, namespace, name, "");
            let uid = (!uid.is_empty()).then(|| uid.to_owned());
            let options = DeleteParameters { preconditions: Preconditions { uid, resource_version: None }, ..Default::default() };
            Registry::delete(self, &write, &options).await.map(|_| ())
        })
    }
}

/// What the server writes says its kind and version even where the caller left them out.
fn complete(endpoint: &super::Endpoint, mut object: Value) -> Value {
    metadata::of(&mut object);
    object["apiVersion"] = endpoint.api_version.as_str().into();
    object["kind"] = endpoint.row.kind.as_ref().into();
    object
}

/// A feed over a watch of the cache. A collection that is not served has nothing to tell.
struct CacheFeed {
    cache: Option<Arc<Cache>>,
    watcher: Option<Watcher>,
}

impl CacheFeed {
    /// Starts over with the present state.
    fn restart(&mut self, apply: &mut dyn FnMut(Change)) {
        let Some(cache) = &self.cache else { return };
        let options = WatchOptions { start: Start::Initial { end_bookmark: false }, bookmarks: false, deadline: None };
        apply(Change::Reset);
        match cache.watch(Filter::all(), options) {
            Ok(watcher) => self.watcher = Some(watcher),
            // A watch from the present state has no version that could be too old.
            Err(error) => tracing::error!(%error, "cannot watch the cache"),
        }
    }
}

impl Feed for CacheFeed {
    fn drain(&mut self, apply: &mut dyn FnMut(Change)) {
        if self.watcher.is_none() {
            self.restart(apply);
        }
        loop {
            let Some(watcher) = &mut self.watcher else { return };
            // Without tokio's budget, which could make a full channel look empty.
            match tokio::task::unconstrained(watcher.next()).now_or_never() {
                Some(Some(events)) => events.iter().for_each(|e| tell(e, apply)),
                Some(None) => self.restart(apply),
                None => return,
            }
        }
    }
}

fn tell(event: &WatchEvent, apply: &mut dyn FnMut(Change)) {
    let WatchEvent::Object { event_type, entry } = event else { return };
    let (namespace, name) = (entry.namespace().to_owned(), entry.name().to_owned());
    apply(match event_type {
        EventType::Deleted => Change::Gone { namespace, name },
        _ => Change::Put { namespace, name, object: entry.bytes() },
    });
}
