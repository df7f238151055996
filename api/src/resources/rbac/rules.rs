//! What is wrong with the rules of a role (upstream: `pkg/apis/rbac/validation`).

use crate::field::{ErrorList, Path};
use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::json;

/// Checks the rules of a role; those of a namespaced one may not name paths.
pub fn validate(rules: &[PolicyRule], namespaced: bool, errors: &mut ErrorList) {
    for (i, rule) in rules.iter().enumerate() {
        one(rule, namespaced, &Path::new("rules").index(i), errors);
    }
}

fn one(rule: &PolicyRule, namespaced: bool, path: &Path, errors: &mut ErrorList) {
    let empty = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
    if rule.verbs.is_empty() {
        errors.required(&path.child("verbs"), "verbs must contain at least one value");
    }
    if !empty(&rule.non_resource_urls) {
        let at = path.child("nonResourceURLs");
        if namespaced {
            errors.invalid(&at, json!(rule.non_resource_urls), "namespaced rules cannot apply to non-resource URLs");
        }
        if !empty(&rule.api_groups) || !empty(&rule.resources) || !empty(&rule.resource_names) {
            errors.invalid(&at, json!(rule.non_resource_urls), "rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    if empty(&rule.api_groups) {
        errors.required(&path.child("apiGroups"), "resource rules must supply at least one api group");
    }
    if empty(&rule.resources) {
        errors.required(&path.child("resources"), "resource rules must supply at least one resource");
    }
}
