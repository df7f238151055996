//! What is wrong with claims of devices, classes and slices (upstream: `pkg/apis/resource/validation`), and the parts that they have in common.

pub mod claims;
pub mod slices;

use crate::cel::devices as cel;
use crate::field::{ErrorList, Path};
use crate::resources::defaulting::{items, str};
use crate::validation::{invalid, labels, names};
use k8s_openapi::api::resource::v1::{DeviceSelector, DeviceToleration, OpaqueDeviceConfiguration};
use serde_json::Value;
use std::collections::HashSet;

/// How many requests a claim may have, and as many constraints and configurations.
const MAX_REQUESTS: usize = 32;
/// How many selectors a request or class may have.
const MAX_SELECTORS: usize = 32;
/// How long an expression may be.
const MAX_EXPRESSION: usize = 10 * 1024;
/// How long the parameters of a driver may be.
const MAX_PARAMETERS: usize = 10 * 1024;
/// How long a domain may be, and a name in it.
const MAX_DOMAIN: usize = 63;
const MAX_IDENTIFIER: usize = 32;
/// How long a pool's name may be.
const MAX_POOL: usize = 253;
/// How long a driver's name may be.
const MAX_DRIVER: usize = 63;
/// How many conditions a device may wait for.
const MAX_BINDING_CONDITIONS: usize = 4;

/// The effects that a device's taint may have.
const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];

/// Checks every item, and that there are not too many.
fn list<T>(errors: &mut ErrorList, path: &Path, list: &[T], max: usize, mut check: impl FnMut(&mut ErrorList, &Path, &T)) {
    for (index, item) in list.iter().enumerate() {
        check(errors, &path.index(index), item);
    }
    if list.len() > max {
        errors.too_many(path, list.len(), max);
    }
}

/// The same, and that no two items have the same key.
fn set<T>(
    errors: &mut ErrorList,
    path: &Path,
    items: &[T],
    max: usize,
    key: impl Fn(&T) -> String,
    mut check: impl FnMut(&mut ErrorList, &Path, &T),
) {
    let mut seen = HashSet::new();
    list(errors, path, items, max, |errors, path, item| {
        check(errors, path, item);
        if !seen.insert(key(item)) {
            errors.duplicate(path, key(item));
        }
    });
}

fn label(errors: &mut ErrorList, path: &Path, text: &str) {
    invalid(errors, path, text, names::dns1123_label(text));
}

fn class_name(errors: &mut ErrorList, path: &Path, name: &str) {
    if name.is_empty() {
        errors.required(path, "");
    } else {
        invalid(errors, path, name, names::dns1123_subdomain(name));
    }
}

fn driver_name(errors: &mut ErrorList, path: &Path, name: &str) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    if name.len() > MAX_DRIVER {
        errors.too_long(path, MAX_DRIVER);
    }
    invalid(errors, path, name, names::dns1123_subdomain(&name.to_lowercase()));
}

fn pool_name(errors: &mut ErrorList, path: &Path, name: &str) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    if name.len() > MAX_POOL {
        errors.too_long(path, MAX_POOL);
    }
    name.split('/').for_each(|part| invalid(errors, path, part, names::dns1123_subdomain(part)));
}

/// A name with or without a domain.
fn qualified_name(errors: &mut ErrorList, path: &Path, name: &str) {
    if name.is_empty() {
        errors.required(path, "name required");
        return;
    }
    let identifier = |errors: &mut ErrorList, text: &str| {
        if text.is_empty() {
            errors.required(path, "name required");
        } else if text.len() > MAX_IDENTIFIER {
            errors.too_long(path, MAX_IDENTIFIER);
        }
        if !text.is_empty() {
            invalid(errors, path, text, names::c_identifier(text));
        }
    };
    match name.split_once('/') {
        None => identifier(errors, name),
        Some((domain, text)) => {
            if domain.is_empty() {
                errors.required(path, "domain required");
            } else {
                if domain.len() > MAX_DOMAIN {
                    errors.too_long(path, MAX_DOMAIN);
                }
                invalid(errors, path, domain, names::dns1123_subdomain(domain));
            }
            identifier(errors, text);
        }
    }
}

/// A name that has to have a domain.
fn fully_qualified_name(errors: &mut ErrorList, path: &Path, name: &str) {
    qualified_name(errors, path, name);
    if !name.is_empty() && !name.contains('/') {
        errors.invalid(path, name, "must include a domain");
    }
}

/// Expressions. Those that are `stored` already were fine then and are taken for fine.
fn selectors(errors: &mut ErrorList, path: &Path, selectors: Option<&Vec<DeviceSelector>>, stored: bool) {
    list(errors, path, selectors.map_or(&[], Vec::as_slice), MAX_SELECTORS, |errors, path, selector| {
        let Some(selector) = &selector.cel else { return errors.required(&path.child("cel"), "") };
        let (path, expression) = (path.child("cel").child("expression"), selector.expression.as_str());
        if stored {
            return;
        }
        if expression.len() > MAX_EXPRESSION {
            return errors.too_long(&path, MAX_EXPRESSION);
        }
        match cel::compile(expression) {
            Err(why) if why.starts_with("ERROR") => errors.invalid(&path, expression, &format!("compilation failed: {why}")),
            Err(why) => errors.invalid(&path, expression, &why),
            Ok(program) if program.cost().max > cel::COST_LIMIT => errors.forbidden(&path, "too complex, exceeds cost limit"),
            Ok(_) => {}
        }
    });
}

/// A driver's own configuration: what only it understands has to be an object at least.
fn configuration(errors: &mut ErrorList, path: &Path, opaque: Option<&OpaqueDeviceConfiguration>) {
    let path = path.child("opaque");
    let Some(opaque) = opaque else { return errors.required(&path, "") };
    driver_name(errors, &path.child("driver"), &opaque.driver);
    parameters(errors, &path.child("parameters"), &opaque.parameters.0);
}

fn parameters(errors: &mut ErrorList, path: &Path, value: &Value) {
    match value {
        Value::Null => errors.required(path, ""),
        Value::Object(_) => {
            if value.to_string().len() > MAX_PARAMETERS {
                errors.too_long(path, MAX_PARAMETERS);
            }
        }
        _ => errors.invalid_as(path, "\"<value omitted>\"", "parameters must be a valid JSON object"),
    }
}

fn effect(errors: &mut ErrorList, path: &Path, effect: &str) {
    if !EFFECTS.contains(&effect) {
        errors.not_supported(path, effect, &EFFECTS);
    }
}

fn tolerations(errors: &mut ErrorList, path: &Path, tolerations: &Option<Vec<DeviceToleration>>) {
    for (index, toleration) in items(tolerations).iter().enumerate() {
        let path = path.index(index);
        let (key, value) = (str(&toleration.key), str(&toleration.value));
        if !key.is_empty() {
            labels::label_name(errors, &path.child("key"), key);
        }
        match str(&toleration.operator) {
            "Exists" if value.is_empty() => {}
            "Exists" => errors.invalid(&path.child("value"), value, "must be empty for operator `Exists`"),
            "Equal" => invalid(errors, &path.child("value"), value, names::label_value(value)),
            "" => errors.required(&path.child("operator"), ""),
            other => errors.not_supported(&path.child("operator"), other, &["Equal", "Exists"]),
        }
        if key.is_empty() && str(&toleration.operator) == "Equal" {
            errors.required(&path.child("key"), "must be set when operator is `Equal`");
        }
        if let Some(text) = toleration.effect.as_deref().filter(|text| !text.is_empty()) {
            effect(errors, &path.child("effect"), text);
        }
    }
}

/// What a device waits for, and what makes it give up: the one only with the other, and nothing in both.
fn binding_conditions(errors: &mut ErrorList, path: &Path, conditions: &Option<Vec<String>>, failures: &Option<Vec<String>>) {
    let (conditions, failures) = (items(conditions), items(failures));
    for (name, all) in [("bindingConditions", conditions), ("bindingFailureConditions", failures)] {
        list(errors, &path.child(name), all, MAX_BINDING_CONDITIONS, |errors, path, condition| {
            invalid(errors, path, condition, names::qualified_name(condition));
        });
    }
    if conditions.is_empty() != failures.is_empty() {
        let (missing, given) = if conditions.is_empty() {
            ("bindingConditions", "bindingFailureConditions")
        } else {
            ("bindingFailureConditions", "bindingConditions")
        };
        errors.invalid(&path.child(missing), Value::Array(Vec::new()), &format!("{missing} are required to use {given}"));
    }
    if let Some(both) = conditions.iter().find(|condition| failures.contains(condition)) {
        errors.invalid(
            &path.child("bindingFailureConditions"),
            both.as_str(),
            "bindingFailureConditions must not overlap with bindingConditions",
        );
    }
}

#[cfg(test)]
mod tests;
