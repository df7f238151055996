//! What of the registry changes while it runs: the rows of custom resources, their caches, and the end of their objects.

use super::endpoint::Endpoint;
use super::objects::own_write;
use super::{Registry, Table, describe, keys, unavailable};
use crate::cache::{Cache, Filter, ResourceSpec, Revise, Start, WatchOptions};
use crate::encoding;
use crate::handlers::parameters::DeleteParameters;
use crate::outbound::Caller;
use api::Resource;
use api::custom::Family;
use api::resource::SelectableField;
use api::status::Result;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// The caches of custom resources by their prefixes, with the definition that each was made for.
pub(super) type CustomCaches = HashMap<String, Arc<Family>>;

/// A stored text as the present definition has it: in the version that is stored now, pruned and with its defaults. What only a webhook can convert stays.
fn revise(family: Arc<Family>) -> Revise {
    Arc::new(move |stored| {
        let mut object: Value = serde_json::from_slice(stored).ok()?;
        let target = family.api_version(&family.storage);
        if object["apiVersion"] != target.as_str() {
            if family.asks_webhook() {
                return None;
            }
            let own = object["apiVersion"].as_str().and_then(|v| v.split_once('/')).map(|(_, v)| v.to_owned()).unwrap_or_default();
            family.default(&own, &mut object);
            family.relabel(&family.storage, &mut object);
        }
        family.settle(&family.storage, &mut object);
        let revised = encoding::encode(&object);
        (revised != *stored).then_some(revised)
    })
}

impl Registry {
    /// Serves these custom resources and no others. A resource whose row is the same as before keeps its cache and its watches.
    pub async fn serve_custom(&self, mut rows: Vec<Arc<Resource>>, caller: &Arc<Caller>) -> Result<()> {
        let order = |a: &Arc<Resource>, b: &Arc<Resource>| {
            a.group.cmp(&b.group).then_with(|| api::version_order::compare(&b.version, &a.version)).then_with(|| a.plural.cmp(&b.plural))
        };
        rows.sort_by(order);
        let mut changing = self.custom.lock().await;
        let mut wanted: CustomCaches = HashMap::new();
        for row in &rows {
            let Some(version) = &row.custom else { continue };
            wanted.insert(keys::prefix(&self.root, row), version.family.clone());
        }
        let stale = |prefix: &String, family: &Arc<Family>| wanted.get(prefix).is_none_or(|w| !Arc::ptr_eq(w, family));
        let gone: Vec<String> = changing.iter().filter(|(p, f)| stale(p, f)).map(|(p, _)| p.clone()).collect();
        let mut fresh: HashMap<&String, Arc<Cache>> = HashMap::new();
        for prefix in &gone {
            self.caches.remove(prefix);
        }
        for (prefix, family) in &wanted {
            let fields = rows.iter().filter(|r| keys::prefix(&self.root, r) == *prefix).flat_map(|r| r.selectable_fields.iter().cloned());
            let mut distinct: Vec<SelectableField> = Vec::new();
            for field in fields {
                if !distinct.iter().any(|f| f.label == field.label) {
                    distinct.push(field);
                }
            }
            let spec = ResourceSpec { prefix: prefix.clone(), describe: describe(distinct), revise: Some(revise(family.clone())) };
            fresh.insert(prefix, self.caches.add(spec).await.map_err(unavailable)?);
        }
        let mut table: Table = (*self.builtin).clone();
        let before = self.table.load();
        for row in &rows {
            let cache = fresh.get(&keys::prefix(&self.root, row)).cloned();
            let known = before.get(&*row.group).and_then(|v| v.get(&*row.version)).and_then(|r| r.get(&*row.plural));
            let endpoint = match known.filter(|e| Arc::ptr_eq(&e.row, row)) {
                Some(endpoint) => endpoint.clone(),
                None => Arc::new(Endpoint::new(row.clone(), cache, Some(caller.clone()))),
            };
            let versions = table.entry(row.group.to_string()).or_default();
            versions.entry(row.version.to_string()).or_default().insert(row.plural.to_string(), endpoint);
        }
        let all = self.builtin_rows.iter().cloned().chain(rows.iter().cloned()).collect();
        self.table.store(Arc::new(table));
        self.rows.store(Arc::new(all));
        *changing = wanted;
        Ok(())
    }

    /// Whether there are objects of a custom resource.
    pub fn has_objects(&self, group: &str, plural: &str) -> bool {
        self.stored_endpoint(group, plural).and_then(|e| e.cache.clone()).is_some_and(|cache| !cache.is_empty())
    }

    /// Deletes every object of a custom resource, and waits until the last is gone.
    pub async fn delete_all(&self, group: &str, plural: &str) -> Result<()> {
        // A resource that is not served has no objects that anybody could have made.
        let Some(endpoint) = self.stored_endpoint(group, plural) else { return Ok(()) };
        let cache = endpoint.cache()?;
        let options = WatchOptions { start: Start::Initial { end_bookmark: false }, bookmarks: false, deadline: None };
        let mut watcher = cache.watch(Filter::all(), options).map_err(unavailable)?;
        loop {
            let present = cache.all();
            if present.is_empty() {
                return Ok(());
            }
            for entry in present {
                let write = own_write(&endpoint, entry.namespace(), entry.name(), "");
                match self.delete(&write, &DeleteParameters::default()).await {
                    Err(error) if error.code() != 404 => return Err(error),
                    _ => {}
                }
            }
            if cache.is_empty() {
                return Ok(());
            }
            // Some are held by finalizers of their own.
            if watcher.next().await.is_none() {
                return Err(api::StatusError::internal("the watch of the objects to delete has ended"));
            }
        }
    }
}
