//! Create (upstream: `registry/rest/create.go`, `endpoints/handlers/create.go`).

use super::{Endpoint, Registry, Write, Written, metadata, print, store_error};
use crate::admission::{Context, Operation, Request};
use crate::encoding;
use crate::store::{Expect, StoreError};
use api::field::{ErrorList, Path};
use api::{Object, StatusError, status::Result};
use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

/// How often a generated name that turns out to be taken is made anew (upstream's).
const NAME_ATTEMPTS: usize = 8;

/// Now, in the whole seconds that metadata has.
pub(super) fn now() -> Time {
    let now = Timestamp::now();
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// Now, as managed fields have it.
pub(super) fn now_text() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Registry {
    /// Creates `object`, which passed the schema.
    pub async fn create(&self, write: &Write<'_>, object: Value) -> Result<Written> {
        self.create_owned(write, object, None).await
    }

    /// Creates `object` with these managed fields, where they are known (apply); else they are made from it.
    pub(super) async fn create_owned(&self, write: &Write<'_>, mut object: Value, managed: Option<Value>) -> Result<Written> {
        let row = &*write.endpoint.row;
        metadata::match_namespace(&mut object, if row.namespaced() { write.namespace } else { "" })?;
        if !metadata::text(&object, "resourceVersion").is_empty() {
            return Err(StatusError::new(500, "", "resourceVersion should not be set on objects to be created"));
        }
        let sent = metadata::take_managed_fields(&mut object);
        self.gates.drop_disabled(&row.group, &row.plural, &mut object, None);
        let generated = metadata::text(&object, "name").is_empty() && !metadata::text(&object, "generateName").is_empty();
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.create_once(write, &object, &sent, managed.clone()).await {
                Err(error) if generated && error.reason() == "AlreadyExists" => {
                    if attempt == NAME_ATTEMPTS {
                        let message = format!("{error}, the server was not able to generate a unique name for the object");
                        let mut error = error;
                        error.0.message = Some(message);
                        return Err(error);
                    }
                }
                other => return other,
            }
        }
    }

    /// One attempt; a name that is to be generated is another one in each.
    async fn create_once(&self, write: &Write<'_>, object: &Value, sent: &Value, managed: Option<Value>) -> Result<Written> {
        let Write { endpoint, .. } = write;
        let row = &*endpoint.row;
        let empty = metadata::empty_lists(object);
        let mut typed = endpoint.typed(object)?;
        typed.set_defaults();
        let managed = managed.unwrap_or_else(|| {
            let mut wanted = typed.to_value();
            metadata::restore_empty_lists(&mut wanted, &empty);
            write.managed_fields(None, sent, &wanted)
        });

        self.mutate(write, Operation::Create, Some(&mut *typed), None, [&managed, &Value::Null]).await?;

        metadata::fill_system_fields(typed.metadata_mut(), now());
        typed.metadata_mut().generation = row.generation.then_some(1);
        typed.prepare_for_create();
        if row.generation && typed.metadata().generation.is_none() {
            typed.metadata_mut().generation = Some(1);
        }
        let meta = typed.metadata_mut();
        if meta.name.as_deref().unwrap_or("").is_empty()
            && let Some(prefix) = meta.generate_name.as_deref().filter(|p| !p.is_empty())
        {
            meta.name = Some(metadata::generate_name(prefix));
        }
        let name = meta.name.clone().unwrap_or_default();
        validate_new(endpoint, &*typed)?;
        write.notes.warn_all(typed.warnings(None));
        self.validate(write, Operation::Create, &name, Some(&*typed), None, [&managed, &Value::Null]).await?;

        let allocation = self.services.allocate(self, write, &mut *typed, None).await?;
        let mut value = typed.to_value();
        metadata::put_managed_fields(&mut value, managed);
        let result = self.store_new(write, &name, value).await;
        self.services.settle(self, write, allocation, result.is_ok()).await;
        Ok(Written { object: result?, created: true })
    }

    /// Puts a finished object under a name that must be free.
    async fn store_new(&self, write: &Write<'_>, name: &str, value: Value) -> Result<Bytes> {
        let Write { endpoint, namespace, .. } = write;
        let row = &*endpoint.row;
        let taken = || StatusError::already_exists(&row.group, &row.plural, name);
        let cache = endpoint.cache()?;
        let relative = super::keys::relative(if row.namespaced() { namespace } else { "" }, name);
        if write.dry_run {
            if self.read_through(endpoint, &relative).await?.is_some() {
                return Err(taken());
            }
            return Ok(print(&value));
        }
        let lease = if row.plural == "events" { self.event_lease().await? } else { 0 };
        let key = format!("{}{relative}", cache.prefix());
        let stored = endpoint.stored(value).await?;
        match self.store.put(key, stored.clone(), Expect::Absent, lease).await {
            Ok(revision) => {
                self.settle(revision).await?;
                endpoint.served(encoding::with_resource_version(&stored, revision)).await
            }
            Err(StoreError::Conflict(_)) => Err(taken()),
            Err(error) => Err(store_error(error)),
        }
    }

    /// Mutating admission, in order, and once more where somebody has to see what others made of the object.
    pub(super) async fn mutate(
        &self,
        write: &Write<'_>,
        operation: Operation,
        mut object: Option<&mut dyn Object>,
        old: Option<&dyn Object>,
        [managed, old_managed]: [&Value; 2],
    ) -> Result<()> {
        if !write.admit {
            return Ok(());
        }
        let name = object.as_deref().and_then(|o| o.metadata().name.clone()).unwrap_or_else(|| write.name.to_owned());
        let context = write.admission_context(managed, old_managed);
        let request = write.admission_request(operation, &name, old, &context);
        for plugin in self.admission() {
            plugin.admit(&request, object.as_deref_mut()).await?;
        }
        if context.rounds.again() {
            for plugin in self.admission() {
                plugin.admit(&request, object.as_deref_mut()).await?;
            }
        }
        Ok(())
    }

    /// Validating admission, in order.
    pub(super) async fn validate(
        &self,
        write: &Write<'_>,
        operation: Operation,
        name: &str,
        object: Option<&dyn Object>,
        old: Option<&dyn Object>,
        [managed, old_managed]: [&Value; 2],
    ) -> Result<()> {
        if !write.admit {
            return Ok(());
        }
        let context = write.admission_context(managed, old_managed);
        let request = write.admission_request(operation, name, old, &context);
        for plugin in self.admission() {
            plugin.validate(&request, object).await?;
        }
        Ok(())
    }
}

impl<'a> Write<'a> {
    fn admission_context(&self, managed: &Value, old_managed: &Value) -> Context {
        Context {
            notes: self.notes.clone(),
            options: self.options.clone(),
            managed: managed.clone(),
            old_managed: old_managed.clone(),
            asked: self.asked.clone(),
            ..Default::default()
        }
    }

    fn admission_request(&self, operation: Operation, name: &'a str, old: Option<&'a dyn Object>, context: &'a Context) -> Request<'a> {
        let row = &*self.endpoint.row;
        // A namespace's own requests are in it, as upstream has it.
        let namespace = if row.plural == "namespaces" && row.group.is_empty() { name } else { self.namespace };
        let Write { subresource, user, dry_run, .. } = *self;
        Request { resource: row, subresource, operation, namespace, name, old, user, dry_run, context }
    }
}

/// What is wrong with a new object, its metadata first.
fn validate_new(endpoint: &Endpoint, object: &dyn Object) -> Result<()> {
    let row = &*endpoint.row;
    let mut errors = ErrorList::new();
    let path = Path::new("metadata");
    api::validation::metadata::object_meta(object.metadata(), row.namespaced(), row.name_rule, &path, &mut errors);
    api::validation::metadata::kube_finalizers(row, object.metadata(), &path, &mut errors);
    object.validate(&mut errors);
    if errors.is_empty() {
        return Ok(());
    }
    Err(StatusError::invalid(&row.group, &row.kind, object.metadata().name.as_deref().unwrap_or(""), errors))
}
