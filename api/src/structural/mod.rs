//! Structural schemas: what a CustomResourceDefinition says its objects look like (upstream: `apiextensions-apiserver/pkg/apiserver/schema`).
//!
//! A [`Structural`] is made once from the definition's OpenAPI schema; pruning, defaulting, validation, rules, field ownership and OpenAPI are all driven
//! by it. Value validations (`allOf`, `anyOf`, `oneOf`, `not`) hold schemas of the same type, of which only the constraints count.

mod arena;
mod defaulting;
mod pruning;
mod rules;
mod validation;

pub use arena::{arena, decoding_root};
pub use defaulting::{default, drop_nulls};
pub use pruning::prune;
pub use rules::{CompiledRule, Rules, cel_type};
pub use validation::{validate, validate_embedded, validate_lists};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ValidationRule,
};
use regex::Regex;
use serde_json::Value;
use std::collections::BTreeMap;

/// What of a map's values is known.
#[derive(Clone, Debug, Default)]
pub enum Additional {
    /// There is no such keyword.
    #[default]
    Absent,
    /// Anything, or nothing.
    Bool(bool),
    /// They look like this.
    Schema(Box<Structural>),
}

/// A schema.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)] // The names are those of OpenAPI.
pub struct Structural {
    pub ty: String,
    pub format: String,
    pub nullable: bool,
    pub default: Option<Value>,
    pub items: Option<Box<Structural>>,
    pub properties: BTreeMap<String, Structural>,
    pub additional: Additional,
    pub required: Vec<String>,
    pub enumeration: Vec<Value>,
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub max_length: Option<i64>,
    pub min_length: Option<i64>,
    pub pattern: Option<Pattern>,
    pub max_items: Option<i64>,
    pub min_items: Option<i64>,
    pub max_properties: Option<i64>,
    pub min_properties: Option<i64>,
    pub multiple_of: Option<f64>,
    pub all_of: Vec<Structural>,
    pub any_of: Vec<Structural>,
    pub one_of: Vec<Structural>,
    pub not: Option<Box<Structural>>,
    pub preserve_unknown: bool,
    pub embedded: bool,
    pub int_or_string: bool,
    pub list_type: String,
    pub list_map_keys: Vec<String>,
    pub map_type: String,
    pub rules: Vec<ValidationRule>,
}

/// A pattern, compiled; one that does not compile lets everything pass, as the definition's validation has refused it.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// As written.
    pub text: String,
    /// As matched.
    pub regex: Option<Regex>,
}

impl Structural {
    /// The schema of a definition's version.
    pub fn new(props: &JSONSchemaProps) -> Self {
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        let flag = |b: Option<bool>| b == Some(true);
        let many = |list: &Option<Vec<JSONSchemaProps>>| list.iter().flatten().map(Structural::new).collect();
        Structural {
            ty: text(&props.type_),
            format: text(&props.format),
            nullable: flag(props.nullable),
            default: props.default.as_ref().map(|d| d.0.clone()),
            items: props.items.as_ref().and_then(|i| match i {
                JSONSchemaPropsOrArray::Schema(schema) => Some(Box::new(Structural::new(schema))),
                JSONSchemaPropsOrArray::Schemas(_) => None,
            }),
            properties: props.properties.iter().flatten().map(|(name, p)| (name.clone(), Structural::new(p))).collect(),
            additional: match &props.additional_properties {
                None => Additional::Absent,
                Some(JSONSchemaPropsOrBool::Bool(b)) => Additional::Bool(*b),
                Some(JSONSchemaPropsOrBool::Schema(schema)) => Additional::Schema(Box::new(Structural::new(schema))),
            },
            required: props.required.clone().unwrap_or_default(),
            enumeration: props.enum_.iter().flatten().map(|e| e.0.clone()).collect(),
            maximum: props.maximum,
            exclusive_maximum: flag(props.exclusive_maximum),
            minimum: props.minimum,
            exclusive_minimum: flag(props.exclusive_minimum),
            max_length: props.max_length,
            min_length: props.min_length,
            pattern: props
                .pattern
                .as_ref()
                .filter(|p| !p.is_empty())
                .map(|text| Pattern { text: text.clone(), regex: crate::go_regex::compile(text).ok() }),
            max_items: props.max_items,
            min_items: props.min_items,
            max_properties: props.max_properties,
            min_properties: props.min_properties,
            multiple_of: props.multiple_of,
            all_of: many(&props.all_of),
            any_of: many(&props.any_of),
            one_of: many(&props.one_of),
            not: props.not.as_ref().map(|n| Box::new(Structural::new(n))),
            preserve_unknown: flag(props.x_kubernetes_preserve_unknown_fields),
            embedded: flag(props.x_kubernetes_embedded_resource),
            int_or_string: flag(props.x_kubernetes_int_or_string),
            list_type: text(&props.x_kubernetes_list_type),
            list_map_keys: props.x_kubernetes_list_map_keys.clone().unwrap_or_default(),
            map_type: text(&props.x_kubernetes_map_type),
            rules: props.x_kubernetes_validations.clone().unwrap_or_default(),
        }
    }

    /// The schema of the values under keys that no property declares.
    pub fn values(&self) -> Option<&Structural> {
        match &self.additional {
            Additional::Schema(schema) => Some(schema),
            _ => None,
        }
    }

    /// The schema of a member of an object.
    pub fn member(&self, name: &str) -> Option<&Structural> {
        self.properties.get(name).or_else(|| self.values())
    }

    /// Whether it or a schema below it, value validations apart, satisfies `wanted`.
    pub fn any(&self, wanted: &dyn Fn(&Structural) -> bool) -> bool {
        wanted(self)
            || self.items.as_ref().is_some_and(|i| i.any(wanted))
            || self.properties.values().any(|p| p.any(wanted))
            || self.values().is_some_and(|v| v.any(wanted))
    }
}

#[cfg(test)]
mod tests;
