//! Validation of values against a schema, in upstream's words (upstream: `kube-openapi/pkg/validation/validate`, `schema/listtype`, `schema/objectmeta`).
//!
//! On an update, what was wrong already and did not change is let pass, so that a definition can become stricter (ratcheting).

use super::{Additional, Structural};
use crate::field::{ErrorList, ErrorType, FieldError, Path};
use crate::validation::formats;
use serde_json::Value;

/// What is wrong with a value; with `old`, what is newly wrong.
pub fn validate(schema: &Structural, value: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let mut found = Vec::new();
    node(schema, value, Old::of(old), "", true, &mut found);
    errors.0.extend(found);
}

/// The old value at a place, if there is one to compare with.
#[derive(Clone, Copy)]
struct Old<'a> {
    value: Option<&'a Value>,
    /// Whether there is an old object at all.
    updating: bool,
}

impl<'a> Old<'a> {
    fn of(value: Option<&'a Value>) -> Self {
        Old { value, updating: value.is_some() }
    }

    fn below(self, value: Option<&'a Value>) -> Self {
        Old { value, ..self }
    }
}

/// Where errors without a place of their own are reported.
fn nowhere() -> Path {
    Path::new("<nil>")
}

fn at(path: &str) -> Path {
    if path.is_empty() { nowhere() } else { Path::new(path) }
}

fn push(found: &mut Vec<FieldError>, path: &str, kind: ErrorType, message: String) {
    found.push(FieldError { path: at(path), kind, message });
}

fn invalid(found: &mut Vec<FieldError>, path: &str, shown: &str, why: &str) {
    push(found, path, ErrorType::Invalid, format!("Invalid value: {shown}: {path} in body {why}"));
}

/// The type's name of a JSON value.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() && n.as_f64().is_some_and(|f| f.fract() != 0.0) => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn fits(schema: &Structural, value: &Value) -> bool {
    if schema.int_or_string {
        return matches!(type_name(value), "integer" | "string");
    }
    match (schema.ty.as_str(), type_name(value)) {
        ("", _) => true,
        ("number", "integer") => true,
        (wanted, given) => wanted == given,
    }
}

fn node(schema: &Structural, value: &Value, old: Old<'_>, path: &str, root: bool, found: &mut Vec<FieldError>) {
    if value.is_null() && (schema.nullable || (schema.ty.is_empty() && !schema.int_or_string)) {
        return;
    }
    // What has not changed is not looked at again.
    if !root && old.updating && old.value == Some(value) {
        return;
    }
    if !fits(schema, value) {
        let (wanted, given) = (if schema.int_or_string { "integer,string" } else { &schema.ty }, type_name(value));
        let path = if path.is_empty() { "" } else { path };
        push(found, path, ErrorType::TypeInvalid, format!("Invalid value: {given:?}: {path} in body must be of type {wanted}: {given:?}"));
        return;
    }
    match value {
        Value::String(text) => string(schema, text, path, found),
        Value::Number(_) => number(schema, value, path, found),
        Value::Array(items) => array(schema, items, old, path, found),
        Value::Object(map) => object(schema, map, old, path, root, found),
        _ => {}
    }
    if !schema.enumeration.is_empty() && !schema.enumeration.contains(value) {
        let list = schema.enumeration.iter().map(|v| v.as_str().map_or_else(|| format!("{:?}", v.to_string()), |s| format!("{s:?}")));
        let list = list.collect::<Vec<_>>().join(", ");
        push(found, path, ErrorType::NotSupported, format!("Unsupported value: {value}: supported values: {list}"));
    }
    combinations(schema, value, path, found);
}

fn string(schema: &Structural, text: &str, path: &str, found: &mut Vec<FieldError>) {
    let length = || i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    let shown = Value::from(text).to_string();
    if let Some(max) = schema.max_length.filter(|max| length() > *max) {
        push(found, path, ErrorType::TooLong, format!("Too long: may not be more than {max} bytes"));
    }
    if let Some(min) = schema.min_length.filter(|min| length() < *min) {
        invalid(found, path, &shown, &format!("should be at least {min} chars long"));
    }
    if let Some(pattern) = &schema.pattern
        && pattern.regex.as_ref().is_some_and(|r| !r.is_match(text))
    {
        invalid(found, path, &shown, &format!("should match '{}'", pattern.text));
    }
    if !schema.format.is_empty() && formats::matches(&schema.format, text) == Some(false) {
        let why = format!("Invalid value: {shown}: {path} in body must be of type {}: {shown}", schema.format);
        push(found, path, ErrorType::TypeInvalid, why);
    }
}

/// A bound as Go prints it: whole numbers without a fraction.
fn bound(n: f64) -> String {
    if n.fract() == 0.0 && n.abs() < 1e21 { format!("{n:.0}") } else { n.to_string() }
}

fn number(schema: &Structural, value: &Value, path: &str, found: &mut Vec<FieldError>) {
    let n = value.as_f64().unwrap_or(0.0);
    let shown = value.to_string();
    if let Some(max) = schema.maximum.filter(|max| n > *max || (schema.exclusive_maximum && n == *max)) {
        let than = if schema.exclusive_maximum { "less than" } else { "less than or equal to" };
        invalid(found, path, &shown, &format!("should be {than} {}", bound(max)));
    }
    if let Some(min) = schema.minimum.filter(|min| n < *min || (schema.exclusive_minimum && n == *min)) {
        let than = if schema.exclusive_minimum { "greater than" } else { "greater than or equal to" };
        invalid(found, path, &shown, &format!("should be {than} {}", bound(min)));
    }
    if let Some(of) = schema.multiple_of.filter(|of| *of != 0.0 && (n / of).fract() != 0.0) {
        invalid(found, path, &shown, &format!("should be a multiple of {}", bound(of)));
    }
    let whole = value.as_i64();
    let small = schema.format == "int32" && whole.is_some_and(|n| i32::try_from(n).is_err());
    if small {
        invalid(found, path, &shown, "should be a valid int32");
    }
}

fn array(schema: &Structural, items: &[Value], old: Old<'_>, path: &str, found: &mut Vec<FieldError>) {
    let count = i64::try_from(items.len()).unwrap_or(i64::MAX);
    if let Some(min) = schema.min_items.filter(|min| count < *min) {
        invalid(found, path, &count.to_string(), &format!("should have at least {min} items"));
    }
    if let Some(max) = schema.max_items.filter(|max| count > *max) {
        push(found, path, ErrorType::TooMany, format!("Too many: {count}: must have at most {max} items"));
    }
    let Some(item) = schema.items.as_deref() else { return };
    let before = old.value.and_then(Value::as_array);
    for (i, value) in items.iter().enumerate() {
        node(item, value, old.below(counterpart(schema, value, before)), &format!("{path}[{i}]"), false, found);
    }
}

/// The item of the old list that has the same keys.
pub(super) fn counterpart<'a>(schema: &Structural, item: &Value, old: Option<&'a Vec<Value>>) -> Option<&'a Value> {
    if schema.list_type != "map" {
        return None;
    }
    let default = |key: &str| schema.items.as_ref()?.properties.get(key)?.default.as_ref();
    old?.iter().find(|o| schema.list_map_keys.iter().all(|k| o.get(k).or_else(|| default(k)) == item.get(k).or_else(|| default(k))))
}

fn object(schema: &Structural, map: &serde_json::Map<String, Value>, old: Old<'_>, path: &str, root: bool, found: &mut Vec<FieldError>) {
    let count = i64::try_from(map.len()).unwrap_or(i64::MAX);
    if let Some(max) = schema.max_properties.filter(|max| count > *max) {
        push(found, path, ErrorType::TooMany, format!("Too many: {count}: must have at most {max} items"));
    }
    if let Some(min) = schema.min_properties.filter(|min| count < *min) {
        invalid(found, path, &count.to_string(), &format!("should have at least {min} properties"));
    }
    let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    for name in schema.required.iter().filter(|name| !map.contains_key(*name)) {
        push(found, &join(name), ErrorType::Required, "Required value".into());
    }
    for (name, value) in map {
        let before = if schema.map_type == "atomic" { None } else { old.value.and_then(|o| o.get(name)) };
        if let Some(property) = schema.properties.get(name) {
            // The type and the metadata of a resource are not the schema's.
            if root && name == "metadata" {
                continue;
            }
            node(property, value, old.below(before), &join(name), false, found);
        } else if let Additional::Schema(values) = &schema.additional {
            node(values, value, old.below(before), &join(name), false, found);
        }
    }
}

/// `allOf`, `anyOf`, `oneOf` and `not`.
fn combinations(schema: &Structural, value: &Value, path: &str, found: &mut Vec<FieldError>) {
    let nothing = Old { value: None, updating: false };
    let wrong = |schema: &Structural| {
        let mut wrong = Vec::new();
        node(schema, value, nothing, path, false, &mut wrong);
        wrong
    };
    let composite = |found: &mut Vec<FieldError>, why: String| {
        found.push(FieldError { path: nowhere(), kind: ErrorType::Invalid, message: format!("Invalid value: \"\": {path:?} must {why}") });
    };
    let fewest = |each: Vec<Vec<FieldError>>| each.into_iter().min_by_key(Vec::len).unwrap_or_default();
    if !schema.any_of.is_empty() {
        let each: Vec<Vec<FieldError>> = schema.any_of.iter().map(wrong).collect();
        if each.iter().all(|w| !w.is_empty()) {
            composite(found, "validate at least one schema (anyOf)".into());
            found.extend(fewest(each));
        }
    }
    if !schema.one_of.is_empty() {
        let each: Vec<Vec<FieldError>> = schema.one_of.iter().map(wrong).collect();
        match each.iter().filter(|w| w.is_empty()).count() {
            1 => {}
            0 => {
                composite(found, "validate one and only one schema (oneOf). Found none valid".into());
                found.extend(fewest(each));
            }
            n => composite(found, format!("validate one and only one schema (oneOf). Found {n} valid alternatives")),
        }
    }
    let all: Vec<Vec<FieldError>> = schema.all_of.iter().map(wrong).collect();
    let failed = all.iter().filter(|w| !w.is_empty()).count();
    if failed > 0 {
        found.extend(all.into_iter().flatten());
        let none = if failed == schema.all_of.len() { ". None validated" } else { "" };
        composite(found, format!("validate all the schemas (allOf){none}"));
    }
    if schema.not.as_ref().is_some_and(|not| wrong(not).is_empty()) {
        composite(found, "not validate the schema (not)".into());
    }
}

/// Lists that are sets or have keys hold nothing twice.
pub fn validate_lists(schema: &Structural, value: &Value, errors: &mut ErrorList) {
    lists(schema, value, "", errors);
}

fn lists(schema: &Structural, value: &Value, path: &str, errors: &mut ErrorList) {
    match value {
        Value::Array(items) => {
            let identity = |item: &Value| -> Option<Value> {
                match schema.list_type.as_str() {
                    "set" => Some(item.clone()),
                    "map" => {
                        let default = |key: &str| schema.items.as_ref()?.properties.get(key)?.default.clone();
                        let keys =
                            schema.list_map_keys.iter().filter_map(|k| Some((k.clone(), item.get(k).cloned().or_else(|| default(k))?)));
                        Some(Value::Object(keys.collect()))
                    }
                    _ => None,
                }
            };
            let identities: Vec<Option<Value>> = items.iter().map(identity).collect();
            let mut seen: std::collections::HashSet<String> = std::collections::HashSet::new();
            for (i, identity) in identities.iter().enumerate() {
                if let Some(identity) = identity
                    && !seen.insert(identity.to_string())
                {
                    errors.duplicate(&at(&format!("{path}[{i}]")), identity.clone());
                }
            }
            if let Some(schema) = schema.items.as_deref() {
                items.iter().enumerate().for_each(|(i, value)| lists(schema, value, &format!("{path}[{i}]"), errors));
            }
        }
        Value::Object(map) => {
            for (name, value) in map {
                let Some(member) = schema.member(name) else { continue };
                let step = match (path.is_empty(), schema.properties.contains_key(name)) {
                    (true, _) => name.clone(),
                    (false, true) => format!("{path}.{name}"),
                    (false, false) => format!("{path}[{name}]"),
                };
                lists(member, value, &step, errors);
            }
        }
        _ => {}
    }
}

/// Objects that are whole resources say what they are.
pub fn validate_embedded(schema: &Structural, value: &Value, errors: &mut ErrorList) {
    embedded(schema, value, "", errors);
}

fn embedded(schema: &Structural, value: &Value, path: &str, errors: &mut ErrorList) {
    match value {
        Value::Object(map) => {
            if schema.embedded {
                for field in ["apiVersion", "kind"] {
                    if map.get(field).and_then(Value::as_str).is_none_or(str::is_empty) {
                        errors.required(&at(path).child(field), "must not be empty");
                    }
                }
            }
            for (name, value) in map {
                if let Some(member) = schema.member(name) {
                    embedded(member, value, &if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, errors);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.items.as_deref() {
                items.iter().enumerate().for_each(|(i, value)| embedded(schema, value, &format!("{path}[{i}]"), errors));
            }
        }
        _ => {}
    }
}
