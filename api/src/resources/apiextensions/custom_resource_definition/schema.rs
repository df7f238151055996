//! What makes a schema structural, and what Kubernetes leaves out of OpenAPI (upstream: `validateOpenAPISchema`, `schema/validation.go`).

use crate::field::{ErrorList, Path};
use crate::structural::{self, Structural};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool};
use serde_json::Value;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const SCALARS: [&str; 4] = ["boolean", "integer", "number", "string"];

/// Where a schema stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Field,
    Item,
}

/// Everything that is wrong with a schema.
pub(super) fn validate(props: &JSONSchemaProps, path: &Path, errors: &mut ErrorList) {
    node(props, Level::Root, path, errors);
}

fn flag(b: Option<bool>) -> bool {
    b == Some(true)
}

fn node(props: &JSONSchemaProps, level: Level, path: &Path, errors: &mut ErrorList) {
    unsupported(props, path, errors);
    shape(props, level, path, errors);
    lists_and_maps(props, path, errors);
    for (word, list) in [("allOf", &props.all_of), ("anyOf", &props.any_of), ("oneOf", &props.one_of)] {
        list.iter().flatten().enumerate().for_each(|(i, p)| nested(p, &path.child(word).index(i), errors));
    }
    if let Some(not) = &props.not {
        nested(not, &path.child("not"), errors);
    }
    default(props, path, errors);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &props.items {
        node(items, Level::Item, &path.child("items"), errors);
    }
    for (name, property) in props.properties.iter().flatten() {
        node(property, Level::Field, &path.child("properties").key(name), errors);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &props.additional_properties {
        node(values, Level::Field, &path.child("additionalProperties"), errors);
    }
}

fn unsupported(props: &JSONSchemaProps, path: &Path, errors: &mut ErrorList) {
    for (word, present) in [
        ("definitions", props.definitions.as_ref().is_some_and(|d| !d.is_empty())),
        ("dependencies", props.dependencies.as_ref().is_some_and(|d| !d.is_empty())),
        ("patternProperties", props.pattern_properties.as_ref().is_some_and(|p| !p.is_empty())),
        ("additionalItems", props.additional_items.is_some()),
        ("id", props.id.as_ref().is_some_and(|i| !i.is_empty())),
        ("$ref", props.ref_path.as_ref().is_some_and(|r| !r.is_empty())),
    ] {
        if present {
            errors.forbidden(&path.child(word), &format!("{word} is not supported"));
        }
    }
    if flag(props.unique_items) {
        errors.forbidden(&path.child("uniqueItems"), "uniqueItems cannot be set to true since the runtime complexity becomes quadratic");
    }
    match (&props.additional_properties, props.properties.as_ref().is_some_and(|p| !p.is_empty())) {
        (Some(JSONSchemaPropsOrBool::Bool(false)), _) => {
            errors.forbidden(&path.child("additionalProperties"), "additionalProperties cannot be set to false");
        }
        (Some(_), true) => {
            errors.forbidden(&path.child("additionalProperties"), "additionalProperties and properties are mutual exclusive");
        }
        _ => {}
    }
    if matches!(props.items, Some(JSONSchemaPropsOrArray::Schemas(_))) {
        errors.forbidden(&path.child("items"), "items must be a schema object and not an array");
    }
    match props.type_.as_deref() {
        None | Some("") => {}
        Some("null") => errors.forbidden(&path.child("type"), "type cannot be set to null, use nullable as an alternative"),
        Some(other) if !TYPES.contains(&other) => errors.not_supported(&path.child("type"), other, &TYPES),
        Some(_) => {}
    }
    if let Some(pattern) = props.pattern.as_deref().filter(|p| !p.is_empty())
        && let Err(why) = crate::go_regex::compile(pattern)
    {
        errors.invalid(&path.child("pattern"), pattern, &format!("must be a valid regular expression, but isn't: {why}"));
    }
}

fn shape(props: &JSONSchemaProps, level: Level, path: &Path, errors: &mut ErrorList) {
    let ty = props.type_.as_deref().unwrap_or("");
    let (embedded, open) = (flag(props.x_kubernetes_embedded_resource), flag(props.x_kubernetes_preserve_unknown_fields));
    let of_type = path.child("type");
    if ty == "array" && props.items.is_none() {
        errors.required(&path.child("items"), "must be specified");
    }
    if embedded && ty != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        if ty.is_empty() { errors.required(&of_type, why) } else { errors.invalid(&of_type, ty, why) }
    } else if ty.is_empty() && !flag(props.x_kubernetes_int_or_string) && !open {
        errors.required(
            &of_type,
            match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            },
        );
    }
    if level == Level::Root && !ty.is_empty() && ty != "object" {
        errors.invalid(&of_type, ty, "must be object at the root");
    }
    let none = props.properties.as_ref().is_none_or(std::collections::BTreeMap::is_empty);
    if embedded && none && !open {
        errors.required(
            &path.child("properties"),
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        );
    }
    if open && !matches!(ty, "" | "object" | "array") {
        errors.invalid(&of_type, ty, "must be object if x-kubernetes-preserve-unknown-fields is true");
    }
    if level == Level::Root || embedded {
        whole(props, path, errors);
    }
}

/// A resource's type and metadata are not for the schema to say.
fn whole(props: &JSONSchemaProps, path: &Path, errors: &mut ErrorList) {
    for name in ["apiVersion", "kind"] {
        let given = props.properties.as_ref().and_then(|p| p.get(name)).and_then(|p| p.type_.as_deref()).filter(|t| *t != "string");
        if let Some(given) = given {
            errors.invalid(&path.child("properties").key(name).child("type"), given, "must be string");
        }
    }
    let Some(metadata) = props.properties.as_ref().and_then(|p| p.get("metadata")) else { return };
    let at = path.child("properties").key("metadata");
    match metadata.type_.as_deref() {
        None | Some("" | "object") => {}
        Some(other) => errors.invalid(&at.child("type"), other, "must be object"),
    }
    if metadata.properties.iter().flatten().any(|(name, _)| name != "name" && name != "generateName") {
        errors.forbidden(&at, "must not specify anything other than name and generateName, but metadata is implicitly specified");
    }
}

fn lists_and_maps(props: &JSONSchemaProps, path: &Path, errors: &mut ErrorList) {
    let ty = props.type_.as_deref().unwrap_or("");
    let kind = props.x_kubernetes_list_type.as_deref();
    let keys = props.x_kubernetes_list_map_keys.as_deref().unwrap_or_default();
    let items = match &props.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => Some(items),
        _ => None,
    };
    let wrong_type = |errors: &mut ErrorList, why: &str| {
        if ty.is_empty() { errors.required(&path.child("type"), why) } else { errors.invalid(&path.child("type"), ty, why) }
    };
    if let Some(kind) = kind {
        if ty != "array" {
            wrong_type(errors, "must be array if x-kubernetes-list-type is specified");
        }
        if !["atomic", "set", "map"].contains(&kind) {
            errors.not_supported(&path.child("x-kubernetes-list-type"), kind, &["atomic", "set", "map"]);
        }
    }
    let map_keys = path.child("x-kubernetes-list-map-keys");
    if !keys.is_empty() {
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        match kind {
            None => errors.required(&path.child("x-kubernetes-list-type"), why),
            Some("map") => {}
            Some(other) => errors.invalid(&path.child("x-kubernetes-list-type"), other, why),
        }
    }
    if kind == Some("set")
        && let Some(items) = items
    {
        let atomic = match items.type_.as_deref() {
            Some("object") => items.x_kubernetes_map_type.as_deref() == Some("atomic"),
            Some("array") => items.x_kubernetes_list_type.as_deref().is_none_or(|t| t == "atomic"),
            _ => true,
        };
        if !atomic {
            let at = path.child("items").child(if items.type_.as_deref() == Some("object") {
                "x-kubernetes-map-type"
            } else {
                "x-kubernetes-list-type"
            });
            errors.invalid(&at, Value::Null, "forbidden: must be atomic as item of a list with x-kubernetes-list-type=set");
        }
        if flag(items.nullable) {
            errors.forbidden(&path.child("items").child("nullable"), "cannot be nullable when x-kubernetes-list-type is set");
        }
    }
    if kind == Some("map") {
        if keys.is_empty() {
            errors.required(&map_keys, "must not be empty if x-kubernetes-list-type is map");
        }
        match items {
            None => errors.required(&path.child("items"), "must have a schema if x-kubernetes-list-type is map"),
            Some(items) => {
                if items.type_.as_deref() != Some("object") {
                    let why = "must be object if parent array's x-kubernetes-list-type is map";
                    errors.invalid(&path.child("items").child("type"), items.type_.clone().unwrap_or_default(), why);
                }
                if flag(items.nullable) {
                    errors.forbidden(&path.child("items").child("nullable"), "cannot be nullable when x-kubernetes-list-type is map");
                }
                list_keys(keys, items, path, errors);
            }
        }
    }
    if let Some(kind) = props.x_kubernetes_map_type.as_deref() {
        if ty != "object" {
            wrong_type(errors, "must be object if x-kubernetes-map-type is specified");
        }
        if !["atomic", "granular"].contains(&kind) {
            errors.not_supported(&path.child("x-kubernetes-map-type"), kind, &["atomic", "granular"]);
        }
    }
}

fn list_keys(keys: &[String], items: &JSONSchemaProps, path: &Path, errors: &mut ErrorList) {
    let at = path.child("x-kubernetes-list-map-keys");
    for (i, key) in keys.iter().enumerate() {
        if keys[..i].contains(key) {
            errors.duplicate(&at.index(i), key.as_str());
            continue;
        }
        let Some(property) = items.properties.as_ref().and_then(|p| p.get(key)) else {
            errors.invalid(&at.index(i), key.as_str(), "entries must all be names of item properties");
            continue;
        };
        let below = path.child("items").child("properties").key(key);
        let ty = property.type_.as_deref().unwrap_or("");
        if !SCALARS.contains(&ty) {
            errors.invalid(&below.child("type"), ty, "must be a scalar type if parent array's x-kubernetes-list-type is map");
        }
        if flag(property.nullable) {
            errors.forbidden(&below.child("nullable"), "this property is in x-kubernetes-list-map-keys, so it cannot be nullable");
        }
        if !items.required.iter().flatten().any(|r| r == key) && property.default.is_none() {
            let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.required(&below.child("default"), why);
        }
    }
}

/// What stands inside `allOf` and the like says something about values, and nothing about what is there.
fn nested(props: &JSONSchemaProps, path: &Path, errors: &mut ErrorList) {
    let text = |t: &Option<String>| t.as_ref().is_some_and(|t| !t.is_empty());
    for (word, present, why) in [
        ("type", text(&props.type_), "must be empty to be structural"),
        ("title", text(&props.title), "must be empty to be structural"),
        ("description", text(&props.description), "must be empty to be structural"),
        ("default", props.default.is_some(), "must be undefined to be structural"),
        ("additionalProperties", props.additional_properties.is_some(), "must be undefined to be structural"),
        ("nullable", flag(props.nullable), "must be false to be structural"),
        ("x-kubernetes-preserve-unknown-fields", flag(props.x_kubernetes_preserve_unknown_fields), "must be false to be structural"),
        ("x-kubernetes-embedded-resource", flag(props.x_kubernetes_embedded_resource), "must be false to be structural"),
        ("x-kubernetes-list-type", props.x_kubernetes_list_type.is_some(), "must be undefined to be structural"),
        ("x-kubernetes-map-type", props.x_kubernetes_map_type.is_some(), "must be undefined to be structural"),
    ] {
        // What an int-or-string may be is said by the types inside its anyOf.
        if present && !(word == "type" && int_or_string(path)) {
            errors.forbidden(&path.child(word), why);
        }
    }
    if let Some(pattern) = props.pattern.as_deref().filter(|p| !p.is_empty())
        && let Err(why) = crate::go_regex::compile(pattern)
    {
        errors.invalid(&path.child("pattern"), pattern, &format!("must be a valid regular expression, but isn't: {why}"));
    }
    for (word, list) in [("allOf", &props.all_of), ("anyOf", &props.any_of), ("oneOf", &props.one_of)] {
        list.iter().flatten().enumerate().for_each(|(i, p)| nested(p, &path.child(word).index(i), errors));
    }
    if let Some(not) = &props.not {
        nested(not, &path.child("not"), errors);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &props.items {
        nested(items, &path.child("items"), errors);
    }
    for (name, property) in props.properties.iter().flatten() {
        nested(property, &path.child("properties").key(name), errors);
    }
}

/// Whether the path ends as that of one of an int-or-string's two types may.
fn int_or_string(path: &Path) -> bool {
    ["anyOf[0]", "anyOf[1]"].iter().any(|end| path.as_str().ends_with(end))
}

/// A default has to be a value of its schema.
fn default(props: &JSONSchemaProps, path: &Path, errors: &mut ErrorList) {
    let Some(default) = &props.default else { return };
    let at = path.child("default");
    let schema = Structural::new(props);
    let mut pruned = default.0.clone();
    let mut unknown = Vec::new();
    structural::prune(&schema, &mut pruned, false, &mut unknown);
    if !unknown.is_empty() {
        let why = format!("must not have unknown fields: {}", unknown.join(", "));
        errors.invalid(&at, default.0.clone(), &why);
    }
    let mut wrong = ErrorList::new();
    structural::validate(&schema, &default.0, None, &mut wrong);
    for mut error in wrong.0 {
        let below = error.path.as_str().trim_start_matches("<nil>").to_owned();
        error.path = if below.is_empty() { at.clone() } else { at.child(&below) };
        error.message = error.message.replace(":  in body", &format!(": {at} in body"));
        errors.0.push(error);
    }
}
