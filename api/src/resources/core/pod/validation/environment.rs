//! Validation of environment variables and of what their values are taken from.

use crate::field::{ErrorList, Path};
use crate::resources::core::resource_name::parse;
use crate::resources::defaulting::str;
use crate::validation::{invalid, names};
use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, EnvVarSource, FileKeySelector, ObjectFieldSelector, ResourceFieldSelector};

/// The fields of a pod that a variable can have as its value.
const VARIABLE_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// The fields of a pod that a file can have as its content.
pub const FILE_FIELDS: &[&str] = &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// The fields of a pod that can be named at all, for either.
const FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: &[&str] =
    &["limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"];
const BYTE_DIVISORS: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// `env`.
pub fn variables(errors: &mut ErrorList, path: &Path, variables: &[EnvVar]) {
    for (i, variable) in variables.iter().enumerate() {
        let path = path.index(i);
        if variable.name.is_empty() {
            errors.required(&path.child("name"), "");
        } else {
            invalid(errors, &path.child("name"), &variable.name, names::environment_name(&variable.name));
        }
        if let Some(source) = &variable.value_from {
            value_from(errors, &path.child("valueFrom"), source, str(&variable.value));
        }
    }
}

fn value_from(errors: &mut ErrorList, path: &Path, source: &EnvVarSource, value: &str) {
    let mut count = 0;
    if let Some(field) = &source.field_ref {
        count += 1;
        field_ref(errors, &path.child("fieldRef"), field, VARIABLE_FIELDS);
    }
    if let Some(resource) = &source.resource_field_ref {
        count += 1;
        resource_ref(errors, &path.child("resourceFieldRef"), resource, false);
    }
    if let Some(key) = &source.config_map_key_ref {
        count += 1;
        key_ref(errors, &path.child("configMapKeyRef"), &key.name, &key.key);
    }
    if let Some(key) = &source.secret_key_ref {
        count += 1;
        key_ref(errors, &path.child("secretKeyRef"), &key.name, &key.key);
    }
    if let Some(key) = &source.file_key_ref {
        count += 1;
        file_ref(errors, &path.child("fileKeyRef"), key);
    }
    match count {
        0 => {
            let what = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
            errors.invalid(path, "", what);
        }
        _ if !value.is_empty() => errors.invalid(path, "", "may not be specified when `value` is not empty"),
        1 => {}
        _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
    }
}

fn key_ref(errors: &mut ErrorList, path: &Path, name: &str, key: &str) {
    invalid(errors, &path.child("name"), name, names::dns1123_subdomain(name));
    if key.is_empty() {
        errors.required(&path.child("key"), "");
    } else {
        invalid(errors, &path.child("key"), key, names::config_key(key));
    }
}

fn file_ref(errors: &mut ErrorList, path: &Path, key: &FileKeySelector) {
    if key.key.is_empty() {
        errors.required(&path.child("key"), "");
    } else {
        invalid(errors, &path.child("key"), &key.key, names::environment_name(&key.key));
    }
    if key.volume_name.is_empty() {
        errors.required(&path.child("volumeName"), "");
    } else {
        invalid(errors, &path.child("volumeName"), &key.volume_name, names::dns1123_label(&key.volume_name));
    }
    if key.path.is_empty() {
        errors.required(&path.child("path"), "");
    } else {
        super::volumes::local_path(errors, &path.child("path"), &key.path);
    }
}

/// The part before and in the brackets: `metadata.labels['a']`.
fn subscript(field: &str) -> Option<(&str, &str)> {
    let (path, rest) = field.split_once("['")?;
    rest.strip_suffix("']").map(|key| (path, key))
}

/// A reference to a field of the pod.
pub fn field_ref(errors: &mut ErrorList, path: &Path, field: &ObjectFieldSelector, supported: &[&str]) {
    if str(&field.api_version).is_empty() {
        errors.required(&path.child("apiVersion"), "");
        return;
    }
    if field.field_path.is_empty() {
        errors.required(&path.child("fieldPath"), "");
        return;
    }
    let named = field.field_path.as_str();
    let known = match subscript(named) {
        Some((base, _)) => matches!(base, "metadata.annotations" | "metadata.labels"),
        None => FIELDS.contains(&named),
    };
    if !known {
        let why = match subscript(named) {
            Some(_) => format!("error converting fieldPath: field label does not support subscript: {named}"),
            None => format!("error converting fieldPath: field label not supported: {named}"),
        };
        errors.invalid(&path.child("fieldPath"), named, &why);
        return;
    }
    match subscript(named) {
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            invalid(errors, path, &key, names::qualified_name(&key));
        }
        Some((_, key)) => invalid(errors, path, key, names::qualified_name(key)),
        None if !supported.contains(&named) => errors.not_supported(&path.child("fieldPath"), named, supported),
        None => {}
    }
}

/// A reference to what a container asks for or may use. A file has to say of which container.
pub fn resource_ref(errors: &mut ErrorList, path: &Path, resource: &ResourceFieldSelector, file: bool) {
    let name = resource.resource.as_str();
    let huge_pages = name.starts_with("requests.hugepages-") || name.starts_with("limits.hugepages-");
    if file && str(&resource.container_name).is_empty() {
        errors.required(&path.child("containerName"), "");
    } else if name.is_empty() {
        errors.required(&path.child("resource"), "");
    } else if !RESOURCES.contains(&name) && !huge_pages {
        errors.not_supported(&path.child("resource"), name, RESOURCES);
    }
    let Some(divisor) = resource.divisor.as_ref().filter(|d| !parse(d).is_zero()) else { return };
    let (supported, what): (&[&str], _) = match name {
        "limits.cpu" | "requests.cpu" => (&["1m", "1"], "1m and 1 are supported with the cpu"),
        "limits.memory" | "requests.memory" => (BYTE_DIVISORS, "the memory"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => (BYTE_DIVISORS, "the local ephemeral storage"),
        _ if huge_pages => (BYTE_DIVISORS, "the hugepages"),
        _ => return,
    };
    if !supported.contains(&divisor.0.as_str()) {
        let why = match supported.len() {
            2 => format!("only divisor's values {what} resource"),
            _ => format!("only divisor's values {} are supported with {what} resource", BYTE_DIVISORS.join(", ")),
        };
        errors.invalid(&path.child("divisor"), name, &why);
    }
}

/// `envFrom`.
pub fn sources(errors: &mut ErrorList, path: &Path, sources: &[EnvFromSource]) {
    for (i, source) in sources.iter().enumerate() {
        let at = path.index(i);
        let prefix = str(&source.prefix);
        if !prefix.is_empty() {
            invalid(errors, &at.child("prefix"), prefix, names::environment_name(prefix));
        }
        let references =
            [("configMapRef", source.config_map_ref.as_ref().map(|r| &r.name)), ("secretRef", source.secret_ref.as_ref().map(|r| &r.name))];
        let given: Vec<_> = references.iter().filter_map(|(field, name)| name.map(|n| (field, n))).collect();
        for (field, name) in &given {
            let path = at.child(field).child("name");
            if name.is_empty() {
                errors.required(&path, "");
            } else {
                // A trailing dash is let pass, as in a prefix for generated names.
                let stem = name.strip_suffix('-').filter(|s| !s.is_empty()).unwrap_or(name);
                invalid(errors, &path, name, names::dns1123_subdomain(stem));
            }
        }
        match given.len() {
            0 => errors.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
        }
    }
}
