//! How an object that exists is brought up to what it ought to be (upstream: `component-helpers/auth/rbac/reconciliation`). Pure functions.

use crate::authorization::rule;
use k8s_openapi::api::rbac::v1::PolicyRule;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// What is to be done with an object.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// Nothing.
    Fine,
    /// It becomes this.
    Update(Value),
    /// It is deleted and made anew, because what differs cannot be changed.
    Recreate,
}

const ROLE_AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const FLOW_AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

fn annotation<'a>(object: &'a Value, key: &str) -> &'a str {
    object["metadata"]["annotations"][key].as_str().unwrap_or_default()
}

fn changed(old: &Value, new: Value) -> Outcome {
    if new == *old { Outcome::Fine } else { Outcome::Update(new) }
}

/// Labels and annotations that are missing are added; those that are there stay as they are.
fn add_metadata(new: &mut Value, wanted: &Value) {
    for field in ["labels", "annotations"] {
        for (key, value) in wanted["metadata"][field].as_object().into_iter().flatten() {
            if new["metadata"][field].get(key).is_none() {
                new["metadata"][field][key] = value.clone();
            }
        }
    }
}

fn list<T: DeserializeOwned>(value: &Value) -> Vec<T> {
    serde_json::from_value(value.clone()).unwrap_or_default()
}

/// Roles: what is missing of the rules is added.
pub fn role(old: &Value, wanted: &Value) -> Outcome {
    if annotation(old, ROLE_AUTOUPDATE) == "false" {
        return Outcome::Fine;
    }
    let mut new = old.clone();
    add_metadata(&mut new, wanted);
    if wanted.get("aggregationRule").is_some() {
        new["aggregationRule"] = wanted["aggregationRule"].clone();
        return changed(old, new);
    }
    let mut rules = list::<PolicyRule>(&old["rules"]);
    let missing = rule::uncovered(&rules, &list::<PolicyRule>(&wanted["rules"]));
    if !missing.is_empty() {
        rules.extend(missing);
        new["rules"] = json!(rules);
    }
    changed(old, new)
}

/// Bindings: subjects that are missing are added; another role means a new binding.
pub fn binding(old: &Value, wanted: &Value) -> Outcome {
    if annotation(old, ROLE_AUTOUPDATE) == "false" {
        return Outcome::Fine;
    }
    if old["roleRef"]["kind"] != wanted["roleRef"]["kind"] || old["roleRef"]["name"] != wanted["roleRef"]["name"] {
        return Outcome::Recreate;
    }
    let mut new = old.clone();
    add_metadata(&mut new, wanted);
    let mut subjects: Vec<Value> = list(&old["subjects"]);
    let before = subjects.len();
    let same = |a: &Value, b: &Value| ["kind", "name", "namespace"].iter().all(|f| a[*f] == b[*f]);
    for subject in list::<Value>(&wanted["subjects"]) {
        if !subjects.iter().any(|s| same(s, &subject)) {
            subjects.push(subject);
        }
    }
    if subjects.len() != before {
        new["subjects"] = json!(subjects);
    }
    changed(old, new)
}

/// Flow control: the specification is ours as long as the annotation says so.
pub fn flow_control(old: &Value, wanted: &Value) -> Outcome {
    if annotation(old, FLOW_AUTOUPDATE) != "true" || contains(&old["spec"], &wanted["spec"]) {
        return Outcome::Fine;
    }
    let mut new = old.clone();
    new["spec"] = wanted["spec"].clone();
    changed(old, new)
}

/// Objects of which all fields that we give are ours: endpoints, configuration.
pub fn fields(old: &Value, wanted: &Value) -> Outcome {
    let mut new = old.clone();
    for (field, value) in wanted.as_object().into_iter().flatten() {
        if !matches!(field.as_str(), "metadata" | "apiVersion" | "kind") && !contains(&old[field], value) {
            new[field] = value.clone();
        }
    }
    changed(old, new)
}

/// Whether `old` says all that `wanted` does; fields that defaults filled in do not count.
fn contains(old: &Value, wanted: &Value) -> bool {
    match (old, wanted) {
        (Value::Object(old), Value::Object(wanted)) => wanted.iter().all(|(k, w)| old.get(k).is_some_and(|o| contains(o, w))),
        (Value::Array(old), Value::Array(wanted)) => old.len() == wanted.len() && old.iter().zip(wanted).all(|(o, w)| contains(o, w)),
        (old, wanted) => old == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_that_were_filled_in_are_no_difference() {
        let wanted = json!({"spec": {"a": [{"b": 1}]}});
        assert_eq!(fields(&json!({"spec": {"a": [{"b": 1, "c": 2}], "d": 3}}), &wanted), Outcome::Fine);
        assert!(matches!(fields(&json!({"spec": {"a": []}}), &wanted), Outcome::Update(_)));
        assert!(matches!(fields(&json!({}), &wanted), Outcome::Update(_)));
    }

    #[test]
    fn flow_control_is_ours_only_while_annotated() {
        let wanted = json!({"spec": {"a": 1}});
        let old = |own: &str| json!({"metadata": {"annotations": {FLOW_AUTOUPDATE: own}}, "spec": {"a": 2}});
        assert_eq!(flow_control(&old("false"), &wanted), Outcome::Fine);
        assert!(matches!(flow_control(&old("true"), &wanted), Outcome::Update(new) if new["spec"]["a"] == 1));
    }
}
