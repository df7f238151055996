//! What the request path asks of a kind: [`Kind`], written per type over the k8s-openapi struct, and [`Object`], the same with
//! the type erased, which the registry and admission work on.
//!
//! Every method has the default that suits a kind with nothing special about it, so a kind with only a row in the table still
//! works in full. All of it is pure. The order in which the registry calls it is upstream's:
//! create: decode, `default`, mutating admission, `prepare_for_create`, `validate`, validating admission, store;
//! update: decode, `default`, mutating admission, `prepare_for_update`, `validate_update`, validating admission, compare-and-swap.

use crate::field::ErrorList;
use crate::printer;
use crate::resource::{Cells, PrintContext};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::any::Any;

/// A kind's own rules (upstream: its `defaults.go`, `strategy.go` and `validation.go`).
/// Metadata that all kinds share (uid, timestamps, name and label syntax, finalizers) is checked by the registry, not here.
pub trait Kind: k8s_openapi::Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// Fills in what the client left out. Runs on every decoded object, also on one read back from an older store.
    fn set_defaults(&mut self) {}

    /// Clears and sets what a client may not choose on create (status, generation-like fields).
    fn prepare_for_create(&mut self) {}

    /// Carries over from `old` what an update of the main resource may not change (as a rule: status), before validation.
    /// The default restores `status` from `old` if the row has a status subresource (the registry does that, by the row).
    fn prepare_for_update(&mut self, old: &Self) {
        let _ = old;
    }

    /// Whether the change from `old` to `self` raises `metadata.generation`. The registry's default compares everything
    /// but metadata and status; answer `Some` to decide otherwise.
    fn raises_generation(&self, old: &Self) -> Option<bool> {
        let _ = old;
        None
    }

    /// What is wrong with a new object.
    fn validate(&self, errors: &mut ErrorList) {
        let _ = errors;
    }

    /// What is wrong with the change, including what is wrong with the new object as such.
    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        let _ = old;
        self.validate(errors);
    }

    /// On an update through `/status`, after everything but status (and managedFields) was restored from `old`.
    fn prepare_for_status_update(&mut self, old: &Self) {
        let _ = old;
    }

    /// What is wrong with a change through `/status`.
    fn validate_status_update(&self, old: &Self, errors: &mut ErrorList) {
        let _ = (old, errors);
    }

    /// What is wrong with a change through a subresource other than `/status` that shows a part of the object (`resize`, `approval`, ...).
    fn validate_subresource_update(&self, subresource: &str, old: &Self, errors: &mut ErrorList) {
        let _ = subresource;
        self.validate_update(old, errors);
    }

    /// Texts for `Warning` headers (deprecated fields and the like). `old` is `None` on create.
    fn warnings(&self, old: Option<&Self>) -> Vec<String> {
        let _ = old;
        Vec::new()
    }

    /// The cells of the object's row in a table, as many as the row has columns.
    fn cells(&self, context: &PrintContext) -> Cells {
        let _ = context;
        printer::name_and_creation(self.metadata())
    }
}

/// An object of any kind, built-in or custom, as the registry and admission see it.
pub trait Object: Any + Send + Sync {
    /// `metadata`.
    fn metadata(&self) -> &ObjectMeta;
    /// `metadata`, to change.
    fn metadata_mut(&mut self) -> &mut ObjectMeta;
    /// The object as JSON with `apiVersion` and `kind`, shaped as upstream's encoder would (see [`crate::normalize`]).
    fn to_value(&self) -> Value;
    /// A copy.
    fn boxed_clone(&self) -> Box<dyn Object>;
    /// Becomes what JSON says that passed the schema: how somebody outside changes it.
    fn replace(&mut self, value: Value) -> Result<(), serde_json::Error>;
    /// See [`Kind::set_defaults`].
    fn set_defaults(&mut self);
    /// See [`Kind::prepare_for_create`].
    fn prepare_for_create(&mut self);
    /// See [`Kind::prepare_for_update`]. `old` is of the same kind, else this is a bug and panics.
    fn prepare_for_update(&mut self, old: &dyn Object);
    /// See [`Kind::raises_generation`].
    fn raises_generation(&self, old: &dyn Object) -> Option<bool>;
    /// See [`Kind::validate`].
    fn validate(&self, errors: &mut ErrorList);
    /// See [`Kind::validate_update`].
    fn validate_update(&self, old: &dyn Object, errors: &mut ErrorList);
    /// See [`Kind::prepare_for_status_update`].
    fn prepare_for_status_update(&mut self, old: &dyn Object);
    /// See [`Kind::validate_status_update`].
    fn validate_status_update(&self, old: &dyn Object, errors: &mut ErrorList);
    /// See [`Kind::validate_subresource_update`].
    fn validate_subresource_update(&self, subresource: &str, old: &dyn Object, errors: &mut ErrorList);
    /// See [`Kind::warnings`].
    fn warnings(&self, old: Option<&dyn Object>) -> Vec<String>;
    /// See [`Kind::cells`].
    fn cells(&self, context: &PrintContext) -> Cells;
}

impl dyn Object {
    /// The object as the type `K`, if it is one: how an admission plugin gets at a `Pod`.
    pub fn downcast_ref<K: Kind>(&self) -> Option<&K> {
        (self as &dyn Any).downcast_ref()
    }

    /// The same, to change.
    pub fn downcast_mut<K: Kind>(&mut self) -> Option<&mut K> {
        (self as &mut dyn Any).downcast_mut()
    }
}

fn same<K: Kind>(other: &dyn Object) -> &K {
    other.downcast_ref().expect("the registry compares objects of one kind only")
}

impl<K: Kind> Object for K {
    fn metadata(&self) -> &ObjectMeta {
        k8s_openapi::Metadata::metadata(self)
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        k8s_openapi::Metadata::metadata_mut(self)
    }
    fn to_value(&self) -> Value {
        let mut value = serde_json::to_value(self).expect("API types have string keys and no failing serializers");
        if let Some(root) = crate::schema::of_kind(K::API_VERSION, K::KIND) {
            crate::normalize::normalize(root, &mut value);
        }
        value
    }
    fn boxed_clone(&self) -> Box<dyn Object> {
        Box::new(self.clone())
    }
    fn replace(&mut self, value: Value) -> Result<(), serde_json::Error> {
        *self = serde_json::from_value(value)?;
        Ok(())
    }
    fn set_defaults(&mut self) {
        Kind::set_defaults(self);
    }
    fn prepare_for_create(&mut self) {
        Kind::prepare_for_create(self);
    }
    fn prepare_for_update(&mut self, old: &dyn Object) {
        Kind::prepare_for_update(self, same(old));
    }
    fn raises_generation(&self, old: &dyn Object) -> Option<bool> {
        Kind::raises_generation(self, same(old))
    }
    fn validate(&self, errors: &mut ErrorList) {
        Kind::validate(self, errors);
    }
    fn validate_update(&self, old: &dyn Object, errors: &mut ErrorList) {
        Kind::validate_update(self, same(old), errors);
    }
    fn prepare_for_status_update(&mut self, old: &dyn Object) {
        Kind::prepare_for_status_update(self, same(old));
    }
    fn validate_status_update(&self, old: &dyn Object, errors: &mut ErrorList) {
        Kind::validate_status_update(self, same(old), errors);
    }
    fn validate_subresource_update(&self, subresource: &str, old: &dyn Object, errors: &mut ErrorList) {
        Kind::validate_subresource_update(self, subresource, same(old), errors);
    }
    fn warnings(&self, old: Option<&dyn Object>) -> Vec<String> {
        Kind::warnings(self, old.map(same))
    }
    fn cells(&self, context: &PrintContext) -> Cells {
        Kind::cells(self, context)
    }
}
