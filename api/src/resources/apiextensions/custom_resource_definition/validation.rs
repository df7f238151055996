//! What is wrong with a definition, in upstream's words (upstream: `pkg/apis/apiextensions/validation/validation.go`).

use super::{conditions, rules, schema};
use crate::field::{ErrorList, Path};
use crate::structural::Structural;
use crate::validation::{IMMUTABLE, invalid, names};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceConversion, CustomResourceDefinition, CustomResourceDefinitionNames,
    CustomResourceDefinitionVersion, CustomResourceSubresources, SelectableField,
};

const SCOPES: [&str; 2] = ["Cluster", "Namespaced"];
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 10] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password", "int-or-string", "name"];
/// How many fields of a version can be selected by (upstream's).
const MAX_SELECTABLE: usize = 8;

/// Everything that is wrong with a definition, or with the change from `old`.
pub(super) fn validate(definition: &CustomResourceDefinition, old: Option<&CustomResourceDefinition>, errors: &mut ErrorList) {
    let spec = &definition.spec;
    let wanted = format!("{}.{}", spec.names.plural, spec.group);
    let name = definition.metadata.name.as_deref().unwrap_or_default();
    if name != wanted {
        errors.invalid(&Path::new("metadata").child("name"), name, "must be spec.names.plural+\".\"+spec.group");
    }
    approval(definition, old, errors);
    of_spec(definition, old, errors);
    if let Some(old) = old {
        let path = Path::new("spec");
        let (new, before) = (&spec, &old.spec);
        let established = conditions::is(old, conditions::ESTABLISHED);
        for (field, always, new, old) in [
            ("scope", false, &new.scope, &before.scope),
            ("names.kind", false, &new.names.kind, &before.names.kind),
            ("group", true, &new.group, &before.group),
            ("names.plural", true, &new.names.plural, &before.names.plural),
        ] {
            if new != old && (always || established) {
                errors.invalid(&path.child(field), new.as_str(), IMMUTABLE);
            }
        }
    }
    if old.is_some() {
        stored_versions(definition, errors);
    }
}

/// The versions in which objects are stored have to stay.
pub(super) fn stored_versions(definition: &CustomResourceDefinition, errors: &mut ErrorList) {
    let path = Path::new("status").child("storedVersions");
    let stored = definition.status.as_ref().and_then(|s| s.stored_versions.clone()).unwrap_or_default();
    if stored.is_empty() {
        errors.invalid(&path, stored, "must have at least one stored version");
        return;
    }
    let known = |name: &String| definition.spec.versions.iter().any(|v| v.name == *name);
    for (i, version) in stored.iter().enumerate().filter(|(_, v)| !known(v)) {
        let why = format!(
            "missing from spec.versions; {version} was previously a storage version, and must remain in spec.versions until a storage \
             migration ensures no data remains persisted in {version} and removes {version} from status.storedVersions"
        );
        errors.invalid(&path.index(i), version.as_str(), &why);
    }
    let storage = definition.spec.versions.iter().find(|v| v.storage);
    if let Some(storage) = storage.filter(|v| !stored.contains(&v.name)) {
        errors.invalid(&path, stored, &format!("must have the storage version {}", storage.name));
    }
}

fn approval(definition: &CustomResourceDefinition, old: Option<&CustomResourceDefinition>, errors: &mut ErrorList) {
    let of = |d: &CustomResourceDefinition| {
        d.metadata.annotations.as_ref().and_then(|a| a.get(conditions::APPROVAL)).cloned().unwrap_or_default()
    };
    let given = of(definition);
    if !conditions::is_protected(&definition.spec.group) || old.is_some_and(|o| of(o) == given) {
        return;
    }
    let path = Path::new("metadata").child("annotations").key(conditions::APPROVAL);
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    if given.is_empty() {
        errors.required(&path, &format!("protected groups must have approval annotation {:?}, {see}", conditions::APPROVAL));
    } else if !given.starts_with("unapproved") && !given.starts_with("https://") && !given.starts_with("http://") {
        let why = format!(
            "protected groups must have approval annotation {:?} with either a URL or a reason starting with \"unapproved\", {see}",
            conditions::APPROVAL
        );
        errors.invalid(&path, given, &why);
    }
}

fn of_spec(definition: &CustomResourceDefinition, old: Option<&CustomResourceDefinition>, errors: &mut ErrorList) {
    let spec = &definition.spec;
    let path = Path::new("spec");
    let group = path.child("group");
    if spec.group.is_empty() {
        errors.required(&group, "");
    } else {
        invalid(errors, &group, &spec.group, names::dns1123_subdomain(&spec.group));
        if !spec.group.contains('.') {
            errors.invalid(&group, spec.group.as_str(), "should be a domain with at least one dot");
        }
    }
    if !SCOPES.contains(&spec.scope.as_str()) {
        errors.not_supported(&path.child("scope"), spec.scope.as_str(), &SCOPES);
    }
    let kept = old.is_some_and(|o| o.spec.preserve_unknown_fields == Some(true));
    if spec.preserve_unknown_fields == Some(true) && !kept {
        errors.invalid(
            &path.child("preserveUnknownFields"),
            true,
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        );
    }
    if spec.versions.iter().filter(|v| v.storage).count() != 1 {
        let shown: Vec<&str> = spec.versions.iter().map(|v| v.name.as_str()).collect();
        errors.invalid(&path.child("versions"), shown, "must have exactly one version marked as storage version");
    }
    // Upstream keeps what all versions have in common at the top, and reports it there.
    let single = spec.versions.len() == 1;
    for (i, version) in spec.versions.iter().enumerate() {
        let at = path.child("versions").index(i);
        if spec.versions[..i].iter().any(|v| v.name == version.name) {
            errors.invalid(&path.child("versions"), version.name.as_str(), "must contain unique version names");
        }
        invalid(errors, &at.child("name"), &version.name, names::dns1035_label(&version.name));
        if version.deprecated != Some(true) && version.deprecation_warning.is_some() {
            errors.invalid(
                &at.child("deprecationWarning"),
                version.deprecation_warning.clone().unwrap_or_default(),
                "can only be set for deprecated versions",
            );
        }
        let before = old.and_then(|o| o.spec.versions.iter().find(|v| v.name == version.name));
        of_version(version, before, &at, if single { &path } else { &at }, single, errors);
    }
    of_names(&spec.names, &path.child("names"), errors);
    if let Some(conversion) = &spec.conversion {
        of_conversion(conversion, &path.child("conversion"), errors);
    }
}

fn of_version(
    version: &CustomResourceDefinitionVersion,
    before: Option<&CustomResourceDefinitionVersion>,
    own: &Path,
    path: &Path,
    single: bool,
    errors: &mut ErrorList,
) {
    let Some(props) = version.schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref()) else {
        errors.required(&own.child("schema").child("openAPIV3Schema"), "");
        return;
    };
    let at = path.child(if single { "validation" } else { "schema" }).child("openAPIV3Schema");
    let had = errors.0.len();
    schema::validate(props, &at, errors);
    // What was stored as it is stays allowed, however expensive it is found to be now.
    let unchanged = before.is_some_and(|b| b.schema == version.schema);
    if errors.0.len() == had && !unchanged {
        rules::validate(props, &at, errors);
    }
    columns(version.additional_printer_columns.as_deref().unwrap_or_default(), &path.child("additionalPrinterColumns"), errors);
    if let Some(subresources) = &version.subresources {
        of_subresources(subresources, &path.child("subresources"), errors);
    }
    let structural = Structural::new(props);
    selectable(version.selectable_fields.as_deref().unwrap_or_default(), &structural, &path.child("selectableFields"), errors);
}

fn of_names(names: &CustomResourceDefinitionNames, path: &Path, errors: &mut ErrorList) {
    for (field, value, mixed) in [
        ("plural", Some(&names.plural), false),
        ("singular", names.singular.as_ref(), false),
        ("kind", Some(&names.kind), true),
        ("listKind", names.list_kind.as_ref(), true),
    ] {
        let value = value.map_or("", String::as_str);
        if value.is_empty() {
            errors.required(&path.child(field), "");
            continue;
        }
        let wrong = names::dns1035_label(&value.to_lowercase());
        match (mixed, wrong.is_empty()) {
            (true, false) => {
                let why = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
                errors.invalid(&path.child(field), value, &why);
            }
            (true, true) => {}
            (false, _) => {
                let wrong = names::dns1035_label(value);
                if !wrong.is_empty() {
                    errors.invalid(&path.child(field), value, &wrong.join(","));
                }
            }
        }
    }
    for (field, list) in [("shortNames", &names.short_names), ("categories", &names.categories)] {
        for (i, name) in list.iter().flatten().enumerate() {
            let wrong = names::dns1035_label(name);
            if !wrong.is_empty() {
                errors.invalid(&path.child(field).index(i), name.as_str(), &wrong.join(","));
            }
        }
    }
    if !names.kind.is_empty() && Some(&names.kind) == names.list_kind.as_ref() {
        errors.invalid(&path.child("listKind"), names.kind.as_str(), "kind and listKind may not be the same");
    }
}

fn of_conversion(conversion: &CustomResourceConversion, path: &Path, errors: &mut ErrorList) {
    match conversion.strategy.as_str() {
        "None" => {
            if conversion.webhook.is_some() {
                errors.forbidden(&path.child("webhook"), "should not be set when strategy is not set to Webhook");
            }
        }
        "Webhook" => of_webhook(conversion, path, errors),
        other => errors.not_supported(&path.child("strategy"), other, &["None", "Webhook"]),
    }
}

fn of_webhook(conversion: &CustomResourceConversion, path: &Path, errors: &mut ErrorList) {
    let path = path.child("webhook");
    let Some(webhook) = &conversion.webhook else {
        errors.required(&path.child("clientConfig"), "required when strategy is set to Webhook");
        return;
    };
    let at = path.child("clientConfig");
    match webhook.client_config.as_ref().map(|c| (&c.url, &c.service)) {
        None => errors.required(&at, "required when strategy is set to Webhook"),
        Some((None, None) | (Some(_), Some(_))) => errors.required(&at, "exactly one of url or service is required"),
        Some((Some(url), None)) => {
            let host = url.strip_prefix("https://").map(|r| r.split(['/', '?', '#']).next().unwrap_or(""));
            match host {
                None => errors.invalid(
                    &at.child("url"),
                    url.as_str(),
                    "'https' is the only allowed URL scheme; desired format: https://host[/path]",
                ),
                Some("") => errors.invalid(&at.child("url"), url.as_str(), "host must be specified; desired format: https://host[/path]"),
                Some(host) if host.contains('@') => {
                    errors.invalid(&at.child("url"), url.as_str(), "user information is not permitted in the URL")
                }
                Some(_) => {
                    if url.contains('#') {
                        errors.invalid(&at.child("url"), url.as_str(), "fragments are not permitted in the URL");
                    }
                    if url.contains('?') {
                        errors.invalid(&at.child("url"), url.as_str(), "query parameters are not permitted in the URL");
                    }
                }
            }
        }
        Some((None, Some(service))) => {
            let at = at.child("service");
            if service.name.is_empty() {
                errors.required(&at.child("name"), "service name is required");
            }
            if service.namespace.is_empty() {
                errors.required(&at.child("namespace"), "service namespace is required");
            }
            if let Some(port) = service.port.filter(|p| !(1..=65535).contains(p)) {
                errors.invalid(&at.child("port"), port, "port is not valid: must be between 1 and 65535, inclusive");
            }
            if let Some(given) = service.path.as_deref().filter(|p| !p.starts_with('/')) {
                errors.invalid(&at.child("path"), given, "must start with a '/'");
            }
        }
    }
    let at = path.child("conversionReviewVersions");
    let versions = &webhook.conversion_review_versions;
    if versions.is_empty() {
        errors.required(&at, "");
        return;
    }
    for (i, version) in versions.iter().enumerate() {
        if versions[..i].contains(version) {
            errors.invalid(&at.index(i), version.as_str(), "duplicate version");
        }
        invalid(errors, &at.index(i), version, names::dns1035_label(version));
    }
    if !versions.iter().any(|v| v == "v1" || v == "v1beta1") {
        errors.invalid(&at, versions.clone(), "must include at least one of v1, v1beta1");
    }
}

/// A path of plain field names, each after a dot.
fn is_simple(path: &str) -> bool {
    let name = |n: &str| !n.is_empty() && !n.starts_with('-') && n.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    path.strip_prefix('.').is_some_and(|rest| rest.split('.').all(name))
}

fn columns(columns: &[CustomResourceColumnDefinition], path: &Path, errors: &mut ErrorList) {
    for (i, column) in columns.iter().enumerate() {
        let at = path.index(i);
        if column.name.is_empty() {
            errors.required(&at.child("name"), "");
        }
        if column.type_.is_empty() {
            let why = format!("must be one of {}", COLUMN_TYPES.join(","));
            errors.required(&at.child("type"), &why);
        } else if !COLUMN_TYPES.contains(&column.type_.as_str()) {
            errors.invalid(&at.child("type"), column.type_.as_str(), &format!("must be one of {}", COLUMN_TYPES.join(",")));
        }
        if let Some(format) = column.format.as_deref().filter(|f| !f.is_empty() && !COLUMN_FORMATS.contains(f)) {
            errors.invalid(&at.child("format"), format, &format!("must be one of {}", COLUMN_FORMATS.join(",")));
        }
        if column.json_path.is_empty() {
            errors.required(&at.child("jsonPath"), "");
        } else if let Err(why) = crate::jsonpath::JsonPath::new(&format!("{{{}}}", column.json_path)) {
            errors.invalid(&at.child("jsonPath"), column.json_path.as_str(), &why);
        }
    }
}

fn of_subresources(subresources: &CustomResourceSubresources, path: &Path, errors: &mut ErrorList) {
    let Some(scale) = &subresources.scale else { return };
    let path = path.child("scale");
    let selector = scale.label_selector_path.as_deref().unwrap_or("");
    for (field, value, required, roots, why) in [
        ("specReplicasPath", scale.spec_replicas_path.as_str(), true, &[".spec."][..], "should be a json path under .spec"),
        ("statusReplicasPath", scale.status_replicas_path.as_str(), true, &[".status."][..], "should be a json path under .status"),
        ("labelSelectorPath", selector, false, &[".spec.", ".status."][..], "should be a json path under either .spec or .status"),
    ] {
        let at = path.child(field);
        if value.is_empty() {
            if required {
                errors.required(&at, "");
            }
        } else if !is_simple(value) {
            errors.invalid(&at, value, "is an invalid path");
        } else if !roots.iter().any(|r| value.starts_with(r)) {
            errors.invalid(&at, value, why);
        }
    }
}

fn selectable(fields: &[SelectableField], schema: &Structural, path: &Path, errors: &mut ErrorList) {
    if fields.len() > MAX_SELECTABLE {
        errors.too_many(path, fields.len(), MAX_SELECTABLE);
    }
    for (i, field) in fields.iter().enumerate() {
        let at = path.index(i).child("jsonPath");
        let text = field.json_path.as_str();
        if text.is_empty() {
            errors.required(&at, "");
            continue;
        }
        if !is_simple(text) {
            errors.invalid(&at, text, "is an invalid path: expected [ or . but got something else");
            continue;
        }
        if text == ".metadata" || text.starts_with(".metadata.") {
            errors.invalid(&at, text, "must not point to fields in metadata");
        }
        match text[1..].split('.').try_fold(schema, |s, name| s.properties.get(name)) {
            None => errors.invalid(&at, text, "is an invalid path: does not refer to a valid field"),
            Some(found) if !matches!(found.ty.as_str(), "string" | "boolean" | "integer") => {
                errors.invalid(
                    &at,
                    text,
                    "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.",
                );
            }
            Some(_) => {}
        }
        if fields[..i].iter().any(|f| f.json_path == field.json_path) {
            errors.duplicate(&at, text);
        }
    }
}
