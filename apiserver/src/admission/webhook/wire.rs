//! The object of a request as those see it who are asked about it: whole, with its managed fields, in the version they want, and for `/scale` as the scale
//! that it is asked for as. And the way back, from what they made of it.

use crate::admission::Request;
use crate::handlers::target;
use crate::registry::{Endpoint, Registry, metadata, scale};
use api::decode::body::{self, FieldValidation};
use api::{Object, StatusError, status::Result};
use serde_json::Value;
use std::sync::Arc;

/// A request's objects in the version of the request. `Null` where there is none.
pub(in crate::admission) struct Wire<'a> {
    endpoint: Arc<Endpoint>,
    subresource: &'a str,
    object: Value,
    old: Value,
}

impl<'a> Wire<'a> {
    /// The objects of `request`; `object` is the one to be written.
    pub fn new(registry: &Registry, request: &Request<'a>, object: Option<&dyn Object>) -> Result<Self> {
        let row = request.resource;
        let endpoint = registry.endpoint(&row.group, &row.version, &row.plural);
        let endpoint = endpoint.ok_or_else(|| StatusError::internal(format!("{} is not served", row.qualified())))?;
        let shown = |object: &dyn Object, managed: &Value| -> Result<Value> {
            let mut value = object.to_value();
            metadata::put_managed_fields(&mut value, managed.clone());
            if request.subresource == "scale" { scale::of(&endpoint.row, &value) } else { Ok(value) }
        };
        let context = request.context;
        let new = match (&context.asked, object) {
            (Value::Null, Some(object)) => shown(object, &context.managed)?,
            (asked, _) => asked.clone(),
        };
        // What is asked for in words of its own replaces nothing.
        let old = request.old.filter(|_| context.asked.is_null()).map_or(Ok(Value::Null), |old| shown(old, &context.old_managed))?;
        Ok(Wire { endpoint, subresource: request.subresource, object: new, old })
    }

    /// The resource of the request.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// The object to be written.
    pub fn object(&self) -> &Value {
        &self.object
    }

    /// The object as it was.
    pub fn old(&self) -> &Value {
        &self.old
    }

    /// Both, in another version.
    pub fn in_version(&self, endpoint: &Endpoint) -> Result<[Value; 2]> {
        let convert = |value: &Value| match self.converts(endpoint, value) {
            true => converted(&self.endpoint, endpoint, value.clone()),
            false => value.clone(),
        };
        Ok([convert(&self.object), convert(&self.old)])
    }

    /// Scales and the like are the same whatever the version of their resource.
    fn converts(&self, to: &Endpoint, value: &Value) -> bool {
        !Arc::ptr_eq(&self.endpoint.row, &to.row) && value["kind"] == self.endpoint.row.kind.as_ref()
    }

    /// Takes over what somebody made of the object, in the version of `endpoint`. Its managed fields stay as they are.
    pub fn take(&mut self, endpoint: &Endpoint, made: Value, object: &mut dyn Object) -> Result<()> {
        let made = if self.converts(endpoint, &self.object) { converted(endpoint, &self.endpoint, made) } else { made };
        let managed = self.object["metadata"].get("managedFields").cloned().unwrap_or_default();
        let mut whole = match self.subresource {
            "scale" => scale::apply(&self.endpoint.row, &object.to_value(), &made)?,
            _ => made,
        };
        metadata::take_managed_fields(&mut whole);
        let row = &*self.endpoint.row;
        let subresource = if self.subresource == "scale" { "" } else { self.subresource };
        debug_assert!(row.subresource(subresource).is_some() || subresource.is_empty());
        let (whole, _) = body::decode_value(&target(&self.endpoint, subresource)?, &whole, FieldValidation::Ignore)?;
        object.replace(whole).map_err(StatusError::internal)?;
        object.set_defaults();
        let mut value = object.to_value();
        metadata::put_managed_fields(&mut value, managed);
        self.object = if self.subresource == "scale" { scale::of(&self.endpoint.row, &value)? } else { value };
        Ok(())
    }
}

/// A served object of one version in another, by way of what is stored.
fn converted(from: &Endpoint, to: &Endpoint, mut value: Value) -> Value {
    if let Some(version) = &to.row.custom {
        version.family.relabel(&version.name, &mut value);
        version.family.settle(&version.name, &mut value);
        return value;
    }
    let stored = match &from.row.storage {
        None => value,
        Some(conversion) => (conversion.to_storage)(value),
    };
    let mut served = match &to.row.storage {
        None => stored,
        Some(conversion) => (conversion.from_storage)(stored),
    };
    served["apiVersion"] = to.api_version.as_str().into();
    served["kind"] = to.row.kind.as_ref().into();
    served
}
