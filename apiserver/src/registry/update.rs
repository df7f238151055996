//! Update and patch: one loop that reads, makes the new object from the old, checks it and swaps it in, until nobody came between
//! (upstream: `registry/generic/registry/store.go` Update, `storage/etcd3` GuaranteedUpdate).

use super::subresource::View;
use super::{Endpoint, MODIFIED, Registry, Write, Written, metadata, print, store_error};
use crate::admission::Operation;
use crate::encoding;
use crate::store::{Expect, KeyValue, Revision, StoreError};
use api::field::{ErrorList, Path};
use api::{Object, StatusError, status::Result};
use bytes::Bytes;
use serde_json::Value;

/// How often a write is tried again that lost a race. Upstream never gives up; a client that loses this often is told of the conflict.
const ATTEMPTS: usize = 64;

/// The present object of an update.
pub struct Current {
    /// As served, with resource version, without managed fields.
    pub value: Value,
    /// Its managed fields.
    pub managed: Value,
    /// As its type.
    pub typed: Box<dyn Object>,
    /// The text it was made from: the cached one has the resource version in it, the stored one has not.
    text: Bytes,
    revision: Revision,
}

/// What an update wants the object to be.
pub struct Wanted {
    /// The new object, schema-checked, without managed fields.
    pub value: Value,
    /// Its managed fields, where the maker of the object has already worked them out (apply) or the client set them; `Null` else.
    pub managed: Value,
    /// Whether `managed` is final (apply) rather than what the client sent.
    pub applied: bool,
    /// The uid that the object must have had, if the client said one.
    pub uid: Option<String>,
}

/// Makes the wanted object from the present one: called again for each attempt.
pub type Make<'a> = &'a (dyn Fn(&Current) -> Result<Wanted> + Sync);

/// Kinds that a PUT to a free name creates (upstream: `AllowCreateOnUpdate`).
const CREATE_ON_UPDATE: &[(&str, &str)] = &[
    ("", "endpoints"),
    ("", "events"),
    ("", "limitranges"),
    ("", "services"),
    ("coordination.k8s.io", "leases"),
    ("events.k8s.io", "events"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("rbac.authorization.k8s.io", "roles"),
];

/// Kinds whose updates must say which version they change (upstream: `AllowUnconditionalUpdate` is false).
const CONDITIONAL_ONLY: &[(&str, &str)] = &[
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "apiservices"),
    ("coordination.k8s.io", "leases"),
    ("node.k8s.io", "runtimeclasses"),
    ("policy", "poddisruptionbudgets"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "volumeattachments"),
];

fn listed(table: &[(&str, &str)], endpoint: &Endpoint) -> bool {
    table.iter().any(|(group, plural)| *group == endpoint.row.group && *plural == endpoint.row.plural)
}

impl Endpoint {
    /// Whether a PUT to a free name creates the object.
    pub fn creates_on_update(&self) -> bool {
        listed(CREATE_ON_UPDATE, self)
    }

    /// The present object from what the store or the cache holds.
    pub(super) async fn current(&self, text: Bytes, revision: Revision) -> Result<Current> {
        let mut value = self.served_value(&text).await?;
        let managed = metadata::take_managed_fields(&mut value);
        metadata::of(&mut value).insert("resourceVersion".into(), revision.to_string().into());
        let mut typed = self.typed(&value)?;
        typed.set_defaults();
        Ok(Current { value, managed, typed, text, revision })
    }
}

impl Registry {
    /// The present object, from the cache or, with `fresh`, from the store.
    pub(super) async fn current(&self, write: &Write<'_>, fresh: bool) -> Result<Option<Current>> {
        let endpoint = write.endpoint;
        let cache = endpoint.cache()?;
        let namespace = if endpoint.row.namespaced() { write.namespace } else { "" };
        let relative = super::keys::relative(namespace, write.name);
        if !fresh && let Some(entry) = cache.get(&relative) {
            return endpoint.current(entry.bytes(), entry.revision).await.map(Some);
        }
        match self.read_through(endpoint, &relative).await? {
            Some(KeyValue { value, mod_revision, .. }) => endpoint.current(value, mod_revision).await.map(Some),
            None => Ok(None),
        }
    }

    /// Changes the object to what `make` wants. 404 if there is none; creation by update and apply is the handlers' to decide.
    pub async fn update(&self, write: &Write<'_>, view: View, make: Make<'_>) -> Result<Written> {
        for attempt in 0..ATTEMPTS {
            let Some(current) = self.current(write, attempt > 0).await? else {
                return Err(write.endpoint.not_found(write.name));
            };
            if let Some(written) = self.update_once(write, view, make, current).await? {
                return Ok(written);
            }
        }
        Err(write.endpoint.conflict(write.name, MODIFIED))
    }

    /// One attempt; `None` if somebody came between.
    async fn update_once(&self, write: &Write<'_>, view: View, make: Make<'_>, current: Current) -> Result<Option<Written>> {
        let Write { endpoint, .. } = write;
        let row = &*endpoint.row;
        let Wanted { mut value, managed, applied, uid } = make(&current)?;
        metadata::match_namespace(&mut value, metadata::text(&current.value, "namespace"))?;
        check_version(endpoint, write.name, &mut value, &current)?;
        if let Some(uid) = uid.filter(|uid| !uid.is_empty() && *uid != metadata::text(&current.value, "uid")) {
            return Err(uid_conflict(write, &current, &uid));
        }
        view.restrict(row, &mut value, &current.value);
        self.gates.drop_disabled(&row.group, &row.plural, &mut value, Some(&current.value));
        let mut typed = endpoint.typed(&value)?;
        typed.set_defaults();
        let managed = match applied {
            true => managed,
            false => write.managed_fields(Some(&current), &managed, &typed.to_value()),
        };
        self.mutate(write, Operation::Update, Some(&mut *typed), Some(&*current.typed), [&managed, &current.managed]).await?;

        metadata::carry_over(typed.metadata_mut(), current.typed.metadata());
        view.prepare(&mut *typed, &*current.typed);
        let mut new = typed.to_value();
        if view.changes_spec() && row.generation && raises_generation(&*typed, &new, &current) {
            let next = current.typed.metadata().generation.unwrap_or(0) + 1;
            typed.metadata_mut().generation = Some(next);
            metadata::of(&mut new).insert("generation".into(), next.into());
        }
        validate_change(endpoint, view, &*typed, &*current.typed)?;
        write.notes.warn_all(typed.warnings(Some(&*current.typed)));
        self.validate(write, Operation::Update, write.name, Some(&*typed), Some(&*current.typed), [&managed, &current.managed]).await?;
        let allocation = match view {
            View::Main => self.services.allocate(self, write, &mut *typed, Some(&*current.typed)).await?,
            _ => None,
        };
        if allocation.is_some() {
            new = typed.to_value();
        }
        metadata::put_managed_fields(&mut new, managed);
        let ends = super::delete::ends_with_update(&*typed);
        let object = self.swap(write, new, &current, ends).await;
        let written = matches!(object, Ok(Some(_)));
        self.services.settle(self, write, allocation, written).await;
        if ends && written {
            self.services.release(self, write, &*typed).await;
        }
        Ok(object?.map(|object| Written { object, created: false }))
    }

    /// Puts the new object in the place of the current one, or deletes it if this was the last thing that held it. An object that did not
    /// change is not written, so that its version stays. `None` if somebody came between.
    pub(super) async fn swap(&self, write: &Write<'_>, new: Value, current: &Current, ends: bool) -> Result<Option<Bytes>> {
        let endpoint = write.endpoint;
        if write.dry_run {
            let mut new = new;
            metadata::of(&mut new).insert("resourceVersion".into(), current.revision.to_string().into());
            return Ok(Some(print(&new)));
        }
        let stored = endpoint.stored(new).await?;
        let namespace = if endpoint.row.namespaced() { write.namespace } else { "" };
        let key = format!("{}{}", endpoint.cache()?.prefix(), super::keys::relative(namespace, write.name));
        let expect = Expect::At(current.revision);
        if ends {
            return match self.store.delete(key, expect).await {
                Ok(revision) => {
                    self.settle(revision).await?;
                    endpoint.served(encoding::with_resource_version(&stored, revision)).await.map(Some)
                }
                Err(StoreError::Conflict(_)) => Ok(None),
                Err(error) => Err(store_error(error)),
            };
        }
        let unchanged = encoding::with_resource_version(&stored, current.revision);
        if stored == current.text || unchanged == current.text {
            return endpoint.served(unchanged).await.map(Some);
        }
        let lease = if endpoint.row.plural == "events" { self.event_lease().await? } else { 0 };
        match self.store.put(key, stored.clone(), expect, lease).await {
            Ok(revision) => {
                self.settle(revision).await?;
                endpoint.served(encoding::with_resource_version(&stored, revision)).await.map(Some)
            }
            Err(StoreError::Conflict(_)) => Ok(None),
            Err(error) => Err(store_error(error)),
        }
    }
}

/// The resource version that the new object names must be the present one. None at all means any, where the kind allows that.
fn check_version(endpoint: &Endpoint, name: &str, new: &mut Value, current: &Current) -> Result<()> {
    let wanted = metadata::text(new, "resourceVersion");
    if wanted.is_empty() || wanted == "0" {
        if listed(CONDITIONAL_ONLY, endpoint) {
            let mut errors = ErrorList::new();
            errors.invalid(&Path::new("metadata").child("resourceVersion"), 0, "must be specified for an update");
            return Err(StatusError::invalid(&endpoint.row.group, &endpoint.row.kind, name, errors));
        }
        metadata::of(new).insert("resourceVersion".into(), current.revision.to_string().into());
        return Ok(());
    }
    if wanted.parse::<Revision>().is_err() {
        let why = format!("strconv.ParseUint: parsing {wanted:?}: invalid syntax");
        return Err(StatusError::bad_request(format!("metadata.resourceVersion: Invalid value: {wanted:?}: {why}")));
    }
    if wanted != current.revision.to_string() { Err(endpoint.conflict(name, MODIFIED)) } else { Ok(()) }
}

/// Upstream answers this from its storage layer, key and all; clients have come to know it.
fn uid_conflict(write: &Write<'_>, current: &Current, uid: &str) -> StatusError {
    let row = &*write.endpoint.row;
    let namespace = if row.namespaced() { write.namespace } else { "" };
    let key = super::keys::prefix("/registry", row) + &super::keys::relative(namespace, write.name);
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: \
         UID in precondition: {uid}, UID in object meta: {}",
        metadata::text(&current.value, "uid")
    );
    write.endpoint.conflict(write.name, &why)
}

fn raises_generation(typed: &dyn Object, new: &Value, current: &Current) -> bool {
    typed.raises_generation(&*current.typed).unwrap_or_else(|| metadata::spec_differs(new, &current.value))
}

/// What is wrong with the change, metadata first.
fn validate_change(endpoint: &Endpoint, view: View, new: &dyn Object, old: &dyn Object) -> Result<()> {
    let row = &*endpoint.row;
    let mut errors = ErrorList::new();
    let path = Path::new("metadata");
    api::validation::metadata::object_meta_update(new.metadata(), old.metadata(), &path, &mut errors);
    api::validation::metadata::kube_finalizers(row, new.metadata(), &path, &mut errors);
    // The kinds' own validations check it once more, upstream; clients see both.
    errors.0.extend(errors.0.clone());
    view.validate(new, old, &mut errors);
    if errors.is_empty() {
        return Ok(());
    }
    Err(StatusError::invalid(&row.group, &row.kind, new.metadata().name.as_deref().unwrap_or(""), errors))
}
