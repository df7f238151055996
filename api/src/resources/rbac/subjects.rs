//! The subjects of role bindings: their defaults, and their names for the printer columns.

use crate::field::{ErrorList, Path};
use crate::resources::defaulting::text;
use crate::validation::{invalid, names as syntax};
use k8s_openapi::api::rbac::v1::{RoleRef, Subject};
use serde_json::json;

/// The group of roles, and of users and groups as subjects.
pub const RBAC: &str = "rbac.authorization.k8s.io";

/// Users and groups are of the RBAC group; service accounts are of the core group, whose name is empty.
pub fn subject_defaults(subject: &mut Subject) {
    if subject.kind == "User" || subject.kind == "Group" {
        text(&mut subject.api_group, RBAC);
    }
}

/// The names of the subjects of one kind; service accounts with their namespace.
pub fn names(subjects: &[Subject], kind: &str) -> String {
    let name = |s: &Subject| match kind {
        "ServiceAccount" => format!("{}/{}", s.namespace.as_deref().unwrap_or(""), s.name),
        _ => s.name.clone(),
    };
    subjects.iter().filter(|s| s.kind == kind).map(name).collect::<Vec<_>>().join(", ")
}

/// What is wrong with a binding: the role it names and those it grants it to.
pub fn validate(role: &RoleRef, subjects: &[Subject], namespaced: bool, errors: &mut ErrorList) {
    let path = Path::new("roleRef");
    let group = role.api_group.as_deref().unwrap_or_default();
    if group != RBAC {
        errors.not_supported(&path.child("apiGroup"), group, &[RBAC]);
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&role.kind.as_str()) {
        errors.not_supported(&path.child("kind"), role.kind.as_str(), kinds);
    }
    if role.name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        invalid(errors, &path.child("name"), &role.name, syntax::path_segment(&role.name));
    }
    for (i, subject) in subjects.iter().enumerate() {
        validate_subject(subject, namespaced, &Path::new("subjects").index(i), errors);
    }
}

fn validate_subject(subject: &Subject, namespaced: bool, path: &Path, errors: &mut ErrorList) {
    if subject.name.is_empty() {
        errors.required(&path.child("name"), "");
    }
    let group = subject.api_group.as_deref().unwrap_or_default();
    match subject.kind.as_str() {
        "ServiceAccount" => {
            if !subject.name.is_empty() {
                invalid(errors, &path.child("name"), &subject.name, syntax::dns1123_subdomain(&subject.name));
            }
            if !group.is_empty() {
                errors.not_supported(&path.child("apiGroup"), group, &[""]);
            }
            if !namespaced && subject.namespace.as_deref().unwrap_or_default().is_empty() {
                errors.required(&path.child("namespace"), "");
            }
        }
        "User" | "Group" => {
            if group != RBAC {
                errors.not_supported(&path.child("apiGroup"), group, &[RBAC]);
            }
        }
        other => errors.not_supported(&path.child("kind"), other, &["ServiceAccount", "User", "Group"]),
    }
}

/// What is wrong with a change of the role that a binding names: it would grant something else to the same subjects.
pub fn validate_role_change(new: &RoleRef, old: &RoleRef, errors: &mut ErrorList) {
    if new != old {
        let shown = json!({"APIGroup": new.api_group, "Kind": new.kind, "Name": new.name});
        errors.invalid(&Path::new("roleRef"), shown, "cannot change roleRef");
    }
}
