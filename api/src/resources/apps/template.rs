//! What the workloads that keep pods running have in common: their selector, their template, how they are replaced
//! (upstream: `pkg/apis/apps/validation`).

use crate::field::{ErrorList, Path};
use crate::resources::core::pod::validation;
use crate::resources::defaulting::str;
use crate::validation::{labels, names, numbers};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Map, Value, json};
use std::borrow::Cow;

/// What upstream tells of a name that becomes part of pods' names.
pub fn name_warning(metadata: &ObjectMeta) -> Option<String> {
    let messages = names::dns1123_label(str(&metadata.name));
    let why = "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended";
    (!messages.is_empty()).then(|| format!("{why}: [{}]", messages.join(" ")))
}

/// Keeps `selector: {}` apart from no selector, which the typed object could not: the one gets an empty map of labels.
pub fn mark_empty_selector(value: &Value) -> Cow<'_, Value> {
    let mut value = Cow::Borrowed(value);
    if value["spec"]["selector"].as_object().is_some_and(Map::is_empty) {
        value.to_mut()["spec"]["selector"]["matchLabels"] = json!({});
    }
    value
}

/// A selector that selects something. `what` is what it would be the selector of.
pub fn selector(errors: &mut ErrorList, path: &Path, selector: &LabelSelector, what: &str) {
    if selector.match_labels.is_none() && selector.match_expressions.is_none() {
        errors.required(path, "");
        return;
    }
    labels::selector(errors, path, Some(selector));
    if labels::is_empty(selector) {
        errors.invalid(path, shown(selector), &format!("empty selector is invalid for {what}"));
    }
}

/// A selector as it is shown in messages.
pub fn shown(selector: &LabelSelector) -> Value {
    let mut value = json!(selector);
    if let Some(map) = value.as_object_mut() {
        map.retain(|_, v| v.as_object().is_none_or(|o| !o.is_empty()));
        for expression in map.get_mut("matchExpressions").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(expression) = expression.as_object_mut() {
                expression.retain(|_, v| v.as_array().is_none_or(|a| !a.is_empty()));
            }
        }
    }
    value
}

/// Whether the selector could be used at all.
fn is_usable(selector: &LabelSelector) -> bool {
    let mut errors = ErrorList::new();
    labels::selector(&mut errors, &Path::default(), Some(selector));
    errors.is_empty()
}

/// The template of pods that are kept running, with labels that the selector picks.
pub fn running(errors: &mut ErrorList, path: &Path, template: &PodTemplateSpec, selector: &LabelSelector, kind: &str) {
    if !is_usable(selector) {
        errors.invalid(&path.sibling("selector"), shown(selector), "invalid label selector");
        return;
    }
    let given = selector.match_labels.is_some() || selector.match_expressions.is_some();
    // No selector selects nothing; an empty one everything.
    let matches = given && labels::matches(selector, template.metadata.as_ref().and_then(|m| m.labels.as_ref()));
    if !matches {
        does_not_match(errors, path, template);
    }
    validation::template(errors, path, template);
    always(errors, path, template, kind);
}

/// The error of a template that its selector does not pick.
pub fn does_not_match(errors: &mut ErrorList, path: &Path, template: &PodTemplateSpec) {
    let given = template.metadata.as_ref().and_then(|m| m.labels.as_ref());
    errors.invalid(&path.child("metadata").child("labels"), json!(given), "`selector` does not match template `labels`");
}

/// Pods that are kept running restart always and have no deadline.
pub fn always(errors: &mut ErrorList, path: &Path, template: &PodTemplateSpec, kind: &str) {
    let Some(spec) = &template.spec else { return };
    let policy = str(&spec.restart_policy);
    if policy != "Always" {
        errors.not_supported(&path.child("spec").child("restartPolicy"), policy, &["Always"]);
    }
    if spec.active_deadline_seconds.is_some() {
        let why = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.forbidden(&path.child("spec").child("activeDeadlineSeconds"), &why);
    }
}

/// The amount that a number or percentage says, without what it is a percentage of.
pub fn amount(value: &Option<IntOrString>) -> i64 {
    match value {
        Some(IntOrString::Int(n)) => (*n).into(),
        Some(text) => numbers::as_percent(text).unwrap_or(0),
        None => 0,
    }
}

/// How a number or percentage that may be absent is shown.
pub fn show(value: &Option<IntOrString>) -> Value {
    value.as_ref().map_or(json!(0), numbers::show)
}
