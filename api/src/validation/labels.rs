//! Checks of labels, annotations and label selectors as fields (upstream: `apimachinery/pkg/apis/meta/v1/validation` and
//! `apimachinery/pkg/api/validation`).

use super::{invalid, names};
use crate::field::{ErrorList, Path};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use std::collections::BTreeMap;

/// How many bytes the annotations of an object may have in all, keys and values together: 256 KiB.
pub const ANNOTATIONS_MAX: usize = 256 * 1024;

/// The name of a label.
pub fn label_name(errors: &mut ErrorList, path: &Path, name: &str) {
    invalid(errors, path, name, names::qualified_name(name));
}

/// Labels, or anything else with names and values like theirs.
pub fn labels(errors: &mut ErrorList, path: &Path, labels: Option<&BTreeMap<String, String>>) {
    for (name, value) in labels.into_iter().flatten() {
        label_name(errors, path, name);
        invalid(errors, path, value, names::label_value(value));
    }
}

/// Annotations: names like those of labels but for their case, and any values as long as they are not too many bytes.
pub fn annotations(errors: &mut ErrorList, path: &Path, annotations: Option<&BTreeMap<String, String>>) {
    let mut total = 0;
    for (name, value) in annotations.into_iter().flatten() {
        for message in names::qualified_name(&name.to_lowercase()) {
            errors.invalid(path, name.as_str(), &message);
        }
        total += name.len() + value.len();
    }
    if total > ANNOTATIONS_MAX {
        errors.too_long(path, ANNOTATIONS_MAX);
    }
}

/// A label selector.
pub fn selector(errors: &mut ErrorList, path: &Path, selector: Option<&LabelSelector>) {
    let Some(selector) = selector else { return };
    labels(errors, &path.child("matchLabels"), selector.match_labels.as_ref());
    for (i, requirement) in selector.match_expressions.iter().flatten().enumerate() {
        self::requirement(errors, &path.child("matchExpressions").index(i), requirement);
    }
}

fn requirement(errors: &mut ErrorList, path: &Path, requirement: &LabelSelectorRequirement) {
    let values = requirement.values.as_deref().unwrap_or(&[]);
    operator_and_values(errors, path, &requirement.operator, values);
    label_name(errors, &path.child("key"), &requirement.key);
    for (i, value) in values.iter().enumerate() {
        invalid(errors, &path.child("values").index(i), value, names::label_value(value));
    }
}

/// Whether there are values exactly where the operator needs them.
pub fn operator_and_values(errors: &mut ErrorList, path: &Path, operator: &str, values: &[String]) {
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "In" | "NotIn" => {}
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.forbidden(&path.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "Exists" | "DoesNotExist" => {}
        _ => errors.invalid(&path.child("operator"), operator, "not a valid selector operator"),
    }
}

/// Whether labels satisfy a selector. A selector that is malformed matches nothing, an empty one everything.
pub fn matches(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let get = |key: &str| labels.and_then(|l| l.get(key));
    let equal = selector.match_labels.iter().flatten().all(|(k, v)| get(k) == Some(v));
    equal
        && selector.match_expressions.iter().flatten().all(|e| {
            let values = e.values.as_deref().unwrap_or(&[]);
            match e.operator.as_str() {
                "In" => get(&e.key).is_some_and(|v| values.contains(v)),
                "NotIn" => get(&e.key).is_none_or(|v| !values.contains(v)),
                "Exists" => get(&e.key).is_some(),
                "DoesNotExist" => get(&e.key).is_none(),
                _ => false,
            }
        })
}

/// Whether a selector selects everything because it says nothing.
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(|l| l.is_empty()) && selector.match_expressions.as_ref().is_none_or(|e| e.is_empty())
}
