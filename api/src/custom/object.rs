//! An object of a custom kind, as the registry and admission see it.

use super::Version;
use crate::field::{ErrorList, ErrorType};
use crate::kind::Object;
use crate::openapi::OBJECT_META;
use crate::resource::{Cells, PrintContext};
use crate::{normalize, schema, structural};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use std::any::Any;
use std::sync::Arc;

/// What is said where rules were not run (upstream's text).
const NOT_CHECKED: &str =
    "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";

/// The object: its metadata typed, the rest as JSON.
#[derive(Clone, Debug)]
pub struct CustomObject {
    metadata: ObjectMeta,
    content: Value,
    version: Arc<Version>,
}

impl CustomObject {
    /// From JSON that was decoded.
    pub fn new(mut content: Value, version: Arc<Version>) -> Result<Self, serde_json::Error> {
        let metadata = match content.as_object_mut().and_then(|c| c.remove("metadata")) {
            Some(metadata) => serde_json::from_value(metadata)?,
            None => ObjectMeta::default(),
        };
        Ok(CustomObject { metadata, content, version })
    }

    fn same(other: &dyn Object) -> &CustomObject {
        (other as &dyn Any).downcast_ref().expect("the registry compares objects of one kind only")
    }

    fn check(&self, old: Option<&CustomObject>, errors: &mut ErrorList) {
        let value = self.to_value();
        let old = old.map(Object::to_value);
        let version = &self.version;
        if let Some(schema) = &version.schema {
            structural::validate(schema, &value, old.as_ref(), errors);
        }
        if let Some(scale) = &version.scale {
            scale.validate(&value, errors);
        }
        let Some(schema) = &version.schema else { return };
        structural::validate_embedded(schema, &value, errors);
        lists(schema, &value, old.as_ref(), errors);
        let Some(rules) = &version.rules else { return };
        let blocks = |kind: ErrorType| {
            matches!(kind, ErrorType::NotSupported | ErrorType::Required | ErrorType::TooLong | ErrorType::TooMany | ErrorType::TypeInvalid)
        };
        if errors.0.iter().any(|e| blocks(e.kind)) {
            errors.invalid(&crate::field::Path::new("<nil>"), Value::Null, NOT_CHECKED);
        } else {
            rules.check(schema, &value, old.as_ref(), errors);
        }
    }
}

/// What is wrong with the lists, unless something was wrong with them before.
fn lists(schema: &structural::Structural, new: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let mut wrong = ErrorList::new();
    structural::validate_lists(schema, new, &mut wrong);
    let mut before = ErrorList::new();
    if let Some(old) = old.filter(|_| !wrong.is_empty()) {
        structural::validate_lists(schema, old, &mut before);
    }
    if before.is_empty() {
        errors.0.extend(wrong.0);
    }
}

impl Object for CustomObject {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
    fn to_value(&self) -> Value {
        let mut value = self.content.clone();
        let mut metadata = serde_json::to_value(&self.metadata).expect("metadata has string keys and no failing serializers");
        if let Some(root) = schema::find(OBJECT_META) {
            normalize::normalize(root, &mut metadata);
        }
        value["metadata"] = metadata;
        value
    }
    fn replace(&mut self, value: Value) -> Result<(), serde_json::Error> {
        *self = CustomObject::new(value, self.version.clone())?;
        Ok(())
    }
    fn boxed_clone(&self) -> Box<dyn Object> {
        Box::new(self.clone())
    }
    fn set_defaults(&mut self) {
        self.version.family.default(&self.version.name, &mut self.content);
    }
    fn prepare_for_create(&mut self) {
        if self.version.has_status
            && let Some(content) = self.content.as_object_mut()
        {
            content.remove("status");
        }
    }
    fn prepare_for_update(&mut self, _old: &dyn Object) {}
    fn raises_generation(&self, old: &dyn Object) -> Option<bool> {
        let old = Self::same(old);
        let counts = |name: &String| !(self.version.has_status && name == "status") && name != "apiVersion" && name != "kind";
        let parts = |object: &CustomObject| -> serde_json::Map<String, Value> {
            object.content.as_object().into_iter().flatten().filter(|(name, _)| counts(name)).map(|(n, v)| (n.clone(), v.clone())).collect()
        };
        Some(parts(self) != parts(old))
    }
    fn validate(&self, errors: &mut ErrorList) {
        self.check(None, errors);
    }
    fn validate_update(&self, old: &dyn Object, errors: &mut ErrorList) {
        self.check(Some(Self::same(old)), errors);
    }
    fn prepare_for_status_update(&mut self, old: &dyn Object) {
        // Nothing but the status changes: of the metadata only the version that the client named counts.
        let version = self.metadata.resource_version.take();
        self.metadata = ObjectMeta { resource_version: version, ..Self::same(old).metadata.clone() };
    }
    fn validate_status_update(&self, old: &dyn Object, errors: &mut ErrorList) {
        self.check(Some(Self::same(old)), errors);
    }
    fn validate_subresource_update(&self, _subresource: &str, old: &dyn Object, errors: &mut ErrorList) {
        self.check(Some(Self::same(old)), errors);
    }
    fn warnings(&self, _old: Option<&dyn Object>) -> Vec<String> {
        Vec::new()
    }
    fn cells(&self, context: &PrintContext) -> Cells {
        self.version.columns.cells(&self.to_value(), context)
    }
}
