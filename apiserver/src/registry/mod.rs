//! The generic registry: every verb on every kind, by the kind's row (upstream: `registry/generic/registry/store.go`).
//!
//! Reads come from the watch cache as bytes; writes go through one path, in [`create`], [`update`] and [`delete`], in upstream's order.
//! What a kind does differently is in its row and its [`api::Kind`], never here; the few resources whose writes concern other objects
//! (service addresses, bindings, evictions) have a file each.

pub mod create;
mod custom;
pub mod delete;
pub mod endpoint;
pub mod keys;
pub mod metadata;
pub mod objects;
mod ownership;
pub mod patch;
pub mod pods;
pub mod read;
pub mod scale;
mod selection;
pub mod subresource;
pub mod update;

pub use endpoint::Endpoint;
pub use selection::Following;

use crate::admission::Admission;
use crate::authentication::UserInfo;
use crate::cache::{Attributes, CacheError, Caches, Describe, ResourceSpec};
use crate::notes::Notes;
use crate::store::{LeaseId, Revision, Store, StoreError};
use api::decode::body::FieldValidation;
use api::features::Gates;
use api::resource::{SelectableField, Verb};
use api::{Resource, StatusError, status::Result};
use arc_swap::ArcSwap;
use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{StatusCause, StatusDetails};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

fn print(value: &Value) -> Bytes {
    Bytes::from(serde_json::to_vec(value).expect("a JSON value prints into memory"))
}

/// What a write that lost the race is told (upstream: `registry.OptimisticLockErrorMsg`).
pub const MODIFIED: &str = "the object has been modified; please apply your changes to the latest version and try again";

/// A write: on what, by whom and how. One for each request.
pub struct Write<'a> {
    /// The resource.
    pub endpoint: &'a Endpoint,
    /// `status`, ... or empty.
    pub subresource: &'a str,
    /// The namespace in the path, or empty.
    pub namespace: &'a str,
    /// The name in the path, or empty.
    pub name: &'a str,
    /// Who.
    pub user: &'a UserInfo,
    /// Who owns the fields that change: the `fieldManager` given, else the client's program.
    pub manager: &'a str,
    /// Everything but the store.
    pub dry_run: bool,
    /// What becomes of unknown fields.
    pub field_validation: FieldValidation,
    /// Whether admission is asked: not for what the server itself writes.
    pub admit: bool,
    /// The request's options, an object of `meta.k8s.io/v1`, for those who are asked about the write.
    pub options: &'a Value,
    /// What was asked for, where that is no object of the resource (a binding, an eviction); else `Null`.
    pub asked: &'a Value,
    /// Where warnings go.
    pub notes: &'a Arc<Notes>,
}

/// What a write came to.
pub struct Written {
    /// The object as served.
    pub object: Bytes,
    /// Whether it was made by this write.
    pub created: bool,
}

type Table = HashMap<String, HashMap<String, HashMap<String, Arc<Endpoint>>>>;

/// All resources, and what their writes need.
pub struct Registry {
    store: Arc<dyn Store>,
    caches: Caches,
    table: ArcSwap<Table>,
    rows: ArcSwap<Vec<Arc<Resource>>>,
    /// What every table and every list of rows begins with.
    builtin: Arc<Table>,
    builtin_rows: Vec<Arc<Resource>>,
    custom: tokio::sync::Mutex<custom::CustomCaches>,
    /// What all keys start with.
    root: String,
    admission: OnceLock<Vec<Arc<dyn Admission>>>,
    services: crate::services::Services,
    /// Which features are on.
    gates: Gates,
    event_ttl: Duration,
    event_lease: Mutex<Option<(Instant, LeaseId)>>,
}

/// Reads the attributes that selectors ask for out of an object's stored text: labels, and these fields.
fn describe(fields: Vec<SelectableField>) -> Describe {
    if fields.is_empty() {
        return crate::cache::describe_by_paths(&[]);
    }
    Arc::new(move |stored| {
        let object: Value = serde_json::from_slice(stored)?;
        let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
        let mut labels: Vec<(Box<str>, Box<str>)> = labels.filter_map(|(k, v)| Some((k.as_str().into(), v.as_str()?.into()))).collect();
        labels.sort_unstable();
        let fields = fields.iter().map(|f| (f.label.clone(), f.value(&object).into())).collect();
        Ok(Attributes { labels: labels.into(), fields })
    })
}

impl Registry {
    /// Reads every stored resource of `rows` into its cache. `root` is what all keys start with.
    pub async fn start(
        store: Arc<dyn Store>,
        root: &str,
        rows: Vec<Arc<Resource>>,
        services: crate::services::Services,
        gates: Gates,
        event_ttl: Duration,
    ) -> Result<Arc<Self>> {
        let stored = |r: &&Arc<Resource>| r.verbs.contains(&Verb::Watch);
        let specs = rows.iter().filter(stored).filter(|r| r.storage.is_none());
        let specs = specs
            .map(|r| ResourceSpec { prefix: keys::prefix(root, r), describe: describe(r.selectable_fields.to_vec()), revise: None })
            .collect();
        let everything = format!("{}/", root.trim_end_matches('/'));
        let caches = Caches::start(store.clone(), &everything, specs).await.map_err(unavailable)?;
        let mut table = Table::new();
        for row in &rows {
            let cache = if stored(&row) { caches.get(&keys::prefix(root, row)) } else { None };
            let versions = table.entry(row.group.to_string()).or_default();
            let resources = versions.entry(row.version.to_string()).or_default();
            resources.insert(row.plural.to_string(), Arc::new(Endpoint::new(row.clone(), cache, None)));
        }
        Ok(Arc::new(Registry {
            store,
            caches,
            table: ArcSwap::from_pointee(table.clone()),
            rows: ArcSwap::from_pointee(rows.clone()),
            builtin: Arc::new(table),
            builtin_rows: rows,
            custom: Default::default(),
            root: root.to_owned(),
            admission: OnceLock::new(),
            services,
            gates,
            event_ttl,
            event_lease: Mutex::new(None),
        }))
    }

    /// Sets the admission plugins, in order; once, before the first write that passes admission.
    pub fn set_admission(&self, plugins: Vec<Arc<dyn Admission>>) {
        if self.admission.set(plugins).is_err() {
            tracing::error!("the admission plugins were already set");
        }
    }

    fn admission(&self) -> &[Arc<dyn Admission>] {
        self.admission.get().map_or(&[], Vec::as_slice)
    }

    /// The rows served, in discovery's order.
    pub fn rows(&self) -> Arc<Vec<Arc<Resource>>> {
        self.rows.load_full()
    }

    /// Whether anything is served under this group.
    pub fn has_group(&self, group: &str) -> bool {
        self.table.load().contains_key(group)
    }

    /// The resource served at this place.
    pub fn endpoint(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Endpoint>> {
        self.table.load().get(group)?.get(version)?.get(plural).cloned()
    }

    /// The resource by group and plural alone, in the version that is stored.
    pub fn stored_endpoint(&self, group: &str, plural: &str) -> Option<Arc<Endpoint>> {
        let table = self.table.load();
        let found = table.get(group)?.values().filter_map(|resources| resources.get(plural)).find(|e| e.holds_stored());
        found.cloned()
    }

    /// The other versions in which the objects of a resource are served, in discovery's order.
    pub fn equivalents(&self, row: &Resource) -> Vec<Arc<Endpoint>> {
        let stored = |r: &Resource| r.storage.map_or_else(|| r.group.to_string(), |s| s.group.to_owned());
        let rows = self.rows();
        let others = rows.iter().filter(|r| r.plural == row.plural && !std::ptr::eq(&***r, row) && stored(r) == stored(row));
        // What only a webhook can convert has none: nobody is asked on the way to asking somebody.
        let others = others.filter(|r| r.custom.as_ref().is_none_or(|c| !c.family.asks_webhook()));
        others.filter_map(|r| self.endpoint(&r.group, &r.version, &r.plural)).collect()
    }

    /// The store.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Waits until every reader sees the write of this revision. Only then is a write answered.
    async fn settle(&self, revision: Revision) -> Result<()> {
        self.caches.wait_until(revision).await.map_err(unavailable)
    }

    /// The lease under which events that are written now end. One serves all events of a minute, as upstream's.
    async fn event_lease(&self) -> Result<LeaseId> {
        const SHARED_FOR: Duration = Duration::from_secs(60);
        let known = *self.event_lease.lock();
        if let Some((since, lease)) = known
            && since.elapsed() < SHARED_FOR
        {
            return Ok(lease);
        }
        let lease = self.store.grant(self.event_ttl + SHARED_FOR).await.map_err(store_error)?;
        *self.event_lease.lock() = Some((Instant::now(), lease));
        Ok(lease)
    }
}

/// What a client is told when the store fails.
pub fn store_error(error: StoreError) -> StatusError {
    match error {
        StoreError::Compacted(_) => StatusError::expired("The resourceVersion for the provided watch is too old."),
        StoreError::TooLarge(size) => StatusError::too_large(format!("Request entity too large: limit is {}", size.min(1536 * 1024))),
        other => StatusError::internal(other),
    }
}

/// What a client is told when a read fails.
pub fn unavailable(error: CacheError) -> StatusError {
    match error {
        CacheError::TooOld { .. } => StatusError::expired(error.to_string()),
        CacheError::TooLarge { .. } => {
            let mut status = StatusError::new(504, "Timeout", format!("Timeout: {error}"));
            let cause = StatusCause {
                reason: Some("ResourceVersionTooLarge".into()),
                message: Some("Too large resource version".into()),
                field: None,
            };
            status.0.details = Some(StatusDetails { causes: Some(vec![cause]), retry_after_seconds: Some(1), ..Default::default() });
            status
        }
        CacheError::Store(error) => store_error(error),
    }
}
