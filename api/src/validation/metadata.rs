//! What every object's `metadata` must look like, at creation and across an update
//! (upstream: `apimachinery/pkg/api/validation/objectmeta.go`).

use super::names::{canonical_ip, dns1035_label, dns1123_label, dns1123_subdomain, path_segment, qualified_name};
use super::{IMMUTABLE, NOT_NEGATIVE, invalid, labels};
use crate::field::{ErrorList, Path};
use crate::resource::NameRule;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde_json::{Value, json};

/// Whether a name is one that the kind allows; `prefix` is for `generateName`, which may end in a dash.
pub fn name(rule: NameRule, text: &str, prefix: bool) -> Vec<String> {
    let masked = match text.strip_suffix('-') {
        Some(start) if prefix && !start.is_empty() => format!("{start}a"),
        _ => text.to_owned(),
    };
    match rule {
        NameRule::Subdomain => dns1123_subdomain(&masked),
        NameRule::Label => dns1123_label(&masked),
        NameRule::Rfc1035Label => dns1035_label(&masked),
        // The dots alone are allowed as a prefix.
        NameRule::PathSegment if prefix && matches!(text, "." | "..") => Vec::new(),
        NameRule::PathSegment => path_segment(text),
        NameRule::Address => canonical_ip(text),
    }
}

/// Finalizers without a domain that the system itself knows.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// A finalizer's name: qualified by a domain, or one of the system's own.
pub fn finalizer_name(text: &str, path: &Path, errors: &mut ErrorList) {
    invalid(errors, path, text, qualified_name(text));
    own_domain(text, path, errors);
}

fn own_domain(text: &str, path: &Path, errors: &mut ErrorList) {
    if !text.contains('/') && !STANDARD_FINALIZERS.contains(&text) {
        errors.invalid(path, text, "name is neither a standard finalizer name nor is it fully qualified");
    }
}

/// What is wrong with the finalizers of an object of Kubernetes itself, beyond what is asked of every object: custom resources, their
/// definitions and API services may have some without a domain.
pub fn kube_finalizers(row: &crate::Resource, meta: &ObjectMeta, path: &Path, errors: &mut ErrorList) {
    if row.custom.is_some() || ["apiextensions.k8s.io", "apiregistration.k8s.io"].contains(&&*row.group) {
        return;
    }
    for (i, text) in meta.finalizers.iter().flatten().enumerate() {
        own_domain(text, &path.child("finalizers").index(i), errors);
    }
}

fn finalizers(finalizers: Option<&Vec<String>>, path: &Path, errors: &mut ErrorList) {
    let Some(list) = finalizers else { return };
    for (i, text) in list.iter().enumerate() {
        invalid(errors, &path.index(i), text, qualified_name(text));
    }
    if ["orphan", "foregroundDeletion"].iter().all(|f| list.iter().any(|l| l == f)) {
        errors.invalid(path, json!(list), "finalizer orphan and foregroundDeletion cannot be both set");
    }
}

/// An owner as upstream shows it, with the fields in the order of its type.
fn show_owner(owner: &OwnerReference) -> String {
    let text = |name: &str, value: &str| format!("{}:{}", json!(name), json!(value));
    let mut fields =
        vec![text("apiVersion", &owner.api_version), text("kind", &owner.kind), text("name", &owner.name), text("uid", &owner.uid)];
    for (name, flag) in [("controller", owner.controller), ("blockOwnerDeletion", owner.block_owner_deletion)] {
        fields.extend(flag.map(|flag| format!("{}:{flag}", json!(name))));
    }
    format!("{{{}}}", fields.join(","))
}

fn owner_references(references: Option<&Vec<OwnerReference>>, path: &Path, errors: &mut ErrorList) {
    let mut controller: Option<&OwnerReference> = None;
    for reference in references.into_iter().flatten() {
        if reference.api_version.is_empty() || reference.api_version.split_once('/').is_some_and(|(_, version)| version.is_empty()) {
            errors.invalid(&path.child("apiVersion"), reference.api_version.as_str(), "version must not be empty");
        }
        for (field, value) in [("kind", &reference.kind), ("name", &reference.name), ("uid", &reference.uid)] {
            if value.is_empty() {
                errors.invalid(&path.child(field), "", "must not be empty");
            }
        }
        if reference.controller != Some(true) {
            continue;
        }
        if let Some(first) = controller {
            let why = format!(
                "Only one reference can have Controller set to true. Found \"true\" in references for {}/{} and {}/{}",
                first.kind, first.name, reference.kind, reference.name
            );
            let shown: Vec<String> = references.into_iter().flatten().map(show_owner).collect();
            errors.invalid_as(path, &format!("[{}]", shown.join(",")), &why);
        }
        controller = Some(reference);
    }
}

/// What is wrong with the metadata of a new object.
pub fn object_meta(meta: &ObjectMeta, namespaced: bool, rule: NameRule, path: &Path, errors: &mut ErrorList) {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (given, prefix, namespace) = (text(&meta.name), text(&meta.generate_name), text(&meta.namespace));
    if !prefix.is_empty() {
        invalid(errors, &path.child("generateName"), &prefix, name(rule, &prefix, true));
    }
    if given.is_empty() {
        errors.required(&path.child("name"), "name or generateName is required");
    } else {
        invalid(errors, &path.child("name"), &given, name(rule, &given, false));
    }
    let at = path.child("namespace");
    match (namespaced, namespace.is_empty()) {
        (true, true) => errors.required(&at, ""),
        (true, false) => invalid(errors, &at, &namespace, dns1123_label(&namespace)),
        (false, false) => errors.forbidden(&at, "not allowed on this type"),
        (false, true) => {}
    }
    contents(meta, path, errors);
}

fn contents(meta: &ObjectMeta, path: &Path, errors: &mut ErrorList) {
    if let Some(generation) = meta.generation.filter(|g| *g < 0) {
        errors.invalid(&path.child("generation"), generation, NOT_NEGATIVE);
    }
    labels::labels(errors, &path.child("labels"), meta.labels.as_ref());
    labels::annotations(errors, &path.child("annotations"), meta.annotations.as_ref());
    owner_references(meta.owner_references.as_ref(), &path.child("ownerReferences"), errors);
    finalizers(meta.finalizers.as_ref(), &path.child("finalizers"), errors);
}

/// What is wrong with the metadata of an update, as such and as a change from `old`.
pub fn object_meta_update(new: &ObjectMeta, old: &ObjectMeta, path: &Path, errors: &mut ErrorList) {
    if old.deletion_timestamp.is_some() {
        let before = old.finalizers.as_deref().unwrap_or_default();
        let added: Vec<String> = new.finalizers.iter().flatten().filter(|f| !before.contains(f)).map(|f| format!("{f:?}")).collect();
        if !added.is_empty() {
            let why = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.join(", ")
            );
            errors.forbidden(&path.child("finalizers"), &why);
        }
    }
    if new.resource_version.as_deref().unwrap_or_default().is_empty() {
        errors.invalid(&path.child("resourceVersion"), 0, "must be specified for an update");
    }
    if new.generation < old.generation {
        errors.invalid(&path.child("generation"), new.generation.unwrap_or(0), "must not be decremented");
    }
    let text = |field: &Option<String>| json!(field.clone().unwrap_or_default());
    let time = |field: &Option<Time>| json!(field);
    let fixed: [(&str, Value, Value); 6] = [
        ("name", text(&new.name), text(&old.name)),
        ("namespace", text(&new.namespace), text(&old.namespace)),
        ("uid", text(&new.uid), text(&old.uid)),
        ("creationTimestamp", time(&new.creation_timestamp), time(&old.creation_timestamp)),
        ("deletionTimestamp", time(&new.deletion_timestamp), time(&old.deletion_timestamp)),
        ("deletionGracePeriodSeconds", json!(new.deletion_grace_period_seconds), json!(old.deletion_grace_period_seconds)),
    ];
    for (field, new, old) in fixed {
        if new != old {
            errors.invalid(&path.child(field), new, IMMUTABLE);
        }
    }
    contents(new, path, errors);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(name: &str) -> ObjectMeta {
        ObjectMeta { name: Some(name.into()), namespace: Some("ns".into()), resource_version: Some("1".into()), ..Default::default() }
    }

    fn messages(check: impl FnOnce(&mut ErrorList)) -> Vec<String> {
        let mut errors = ErrorList::new();
        check(&mut errors);
        errors.0.into_iter().map(|e| format!("{}: {}", e.path, e.message)).collect()
    }

    #[test]
    fn metadata_is_checked() {
        let path = Path::new("metadata");
        let check = |meta: &ObjectMeta, namespaced| messages(|e| object_meta(meta, namespaced, NameRule::Subdomain, &path, e));
        assert_eq!(check(&meta("a"), true), [""; 0]);
        assert_eq!(check(&meta("a"), false), ["metadata.namespace: Forbidden: not allowed on this type"]);
        assert_eq!(check(&ObjectMeta::default(), false), ["metadata.name: Required value: name or generateName is required"]);
        let odd = ObjectMeta { finalizers: Some(vec!["mine".into()]), ..meta("a") };
        assert_eq!(check(&odd, true), [""; 0]);
        let of = |plural: &str| {
            let row = crate::resources::all().iter().find(|r| r.plural == plural).unwrap();
            messages(|e| kube_finalizers(row, &odd, &path, e))
        };
        assert_eq!(of("customresourcedefinitions"), [""; 0]);
        assert_eq!(
            of("configmaps"),
            ["metadata.finalizers[0]: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified"]
        );
        let prefix = ObjectMeta { generate_name: Some("a-".into()), ..meta("a-bcdfg") };
        assert_eq!(check(&prefix, true), [""; 0]);
    }

    #[test]
    fn what_may_not_change_does_not() {
        let path = Path::new("metadata");
        let (old, new) = (ObjectMeta { uid: Some("u".into()), ..meta("a") }, ObjectMeta { uid: Some("v".into()), ..meta("a") });
        assert_eq!(messages(|e| object_meta_update(&new, &old, &path, e)), ["metadata.uid: Invalid value: \"v\": field is immutable"]);
    }
}
