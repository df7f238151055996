//! ResourceQuota: how much a namespace may use in all.

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource, Subresource, texts};
use crate::resources::core::resource_name;
use crate::resources::defaulting::items;
use crate::validation::IMMUTABLE;
use k8s_openapi::api::core::v1::ResourceQuota;
use k8s_openapi::api::core::v1::ResourceQuotaSpec;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::Value;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

const SUBRESOURCES: &[Subresource] = &[Subresource::status("ResourceQuota")];

const COLUMNS: &[Column] = &[NAME, shown("Request", "string"), shown("Limit", "string"), AGE];

impl Kind for ResourceQuota {
    fn prepare_for_create(&mut self) {
        self.status = None;
    }

    fn validate(&self, errors: &mut ErrorList) {
        let Some(spec) = &self.spec else { return };
        let path = Path::new("spec");
        amounts(errors, &path.child("hard"), spec.hard.as_ref());
        let scopes = items(&spec.scopes);
        let at = path.child("scopes");
        for scope in scopes {
            check_scope(errors, &at, scope, serde_json::json!(scopes), spec.hard.as_ref());
        }
        conflicting(errors, &at, scopes, scopes);
        selector(errors, &path.child("scopeSelector").child("matchExpressions"), spec);
    }

    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        self.validate(errors);
        let scopes = |q: &Self| q.spec.as_ref().and_then(|s| s.scopes.clone()).unwrap_or_default();
        let set = |q: &Self| scopes(q).into_iter().collect::<BTreeSet<_>>();
        if set(self) != set(old) {
            errors.invalid(&Path::new("spec").child("scopes"), scopes(self), IMMUTABLE);
        }
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut ErrorList) {
        let Some(status) = &self.status else { return };
        for (field, list) in [("hard", &status.hard), ("used", &status.used)] {
            amounts(errors, &Path::new("status").child(field), list.as_ref());
        }
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let (request, limit) = usage(self);
        vec![printer::name(&self.metadata), json!(request), json!(limit), printer::age(&self.metadata, context)]
    }
}

/// `used/hard` of each resource, limits apart from all else.
fn usage(quota: &ResourceQuota) -> (String, String) {
    let Some(status) = &quota.status else { return Default::default() };
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (name, hard) in status.hard.iter().flatten() {
        let used = status.used.as_ref().and_then(|u| u.get(name)).map_or("0", |q| q.0.as_str());
        let text = format!("{name}: {used}/{}", hard.0);
        if name.starts_with("limits") { limits.push(text) } else { requests.push(text) }
    }
    (requests.join(", "), limits.join(", "))
}

type List = BTreeMap<String, Quantity>;

fn amounts(errors: &mut ErrorList, path: &Path, list: Option<&List>) {
    for (name, quantity) in list.into_iter().flatten() {
        let at = path.key(name);
        resource_name::quota_name(errors, &at, name);
        resource_name::quantity(errors, &at, name, quantity);
    }
}

/// The scopes, and whether each counts all resources of pods or only the number of pods.
const SCOPES: &[(&str, bool)] = &[
    ("Terminating", true),
    ("NotTerminating", true),
    ("BestEffort", false),
    ("NotBestEffort", true),
    ("PriorityClass", true),
    ("CrossNamespacePodAffinity", true),
    ("VolumeAttributesClass", false),
];
const POD_RESOURCES: &[&str] = &[
    "pods",
    "cpu",
    "memory",
    "requests.cpu",
    "requests.memory",
    "limits.cpu",
    "limits.memory",
    "ephemeral-storage",
    "requests.ephemeral-storage",
    "limits.ephemeral-storage",
];

fn check_scope(errors: &mut ErrorList, path: &Path, scope: &str, shown: Value, hard: Option<&List>) {
    let Some((_, all)) = SCOPES.iter().find(|(name, _)| *name == scope) else {
        return errors.invalid(path, shown, "unsupported scope");
    };
    for name in hard.into_iter().flatten().map(|(name, _)| name.as_str()) {
        let counts = if *all { POD_RESOURCES.contains(&name) } else { name == "pods" };
        let volumes = scope == "VolumeAttributesClass" && matches!(name, "persistentvolumeclaims" | "requests.storage");
        if !name.contains('/') && !counts && !volumes {
            errors.invalid(path, shown.clone(), "unsupported scope applied to resource");
        }
    }
}

fn conflicting(errors: &mut ErrorList, path: &Path, scopes: &[String], shown: &[String]) {
    for (a, b) in [("BestEffort", "NotBestEffort"), ("NotTerminating", "Terminating")] {
        if scopes.iter().any(|s| s == a) && scopes.iter().any(|s| s == b) {
            errors.invalid(path, shown, "conflicting scopes");
        }
    }
}

fn selector(errors: &mut ErrorList, path: &Path, spec: &ResourceQuotaSpec) {
    let Some(selector) = &spec.scope_selector else { return };
    let requirements = items(&selector.match_expressions);
    for requirement in requirements {
        let (scope, operator, values) = (requirement.scope_name.as_str(), requirement.operator.as_str(), items(&requirement.values));
        if !SCOPES.iter().any(|(name, _)| *name == scope) {
            errors.invalid(&path.child("scopeName"), scope, "unsupported scope");
        } else {
            check_scope(errors, path, scope, serde_json::json!(selector), spec.hard.as_ref());
        }
        if !matches!(scope, "PriorityClass" | "VolumeAttributesClass") && operator != "Exists" && SCOPES.iter().any(|(n, _)| *n == scope) {
            let why = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, \
                       ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            errors.invalid(&path.child("operator"), operator, why);
        }
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.required(&path.child("values"), why);
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.invalid(&path.child("values"), values, why);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
        }
    }
    let scopes: Vec<String> = requirements.iter().map(|r| r.scope_name.clone()).collect();
    conflicting(errors, path, &scopes, items(&spec.scopes));
}

/// The row.
pub fn row() -> Resource {
    Resource {
        short_names: texts(&["quota"]),
        subresources: SUBRESOURCES.into(),
        columns: COLUMNS.into(),
        ..Resource::of::<ResourceQuota>()
    }
}
