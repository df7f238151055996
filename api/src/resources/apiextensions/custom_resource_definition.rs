//! CustomResourceDefinition: a kind that a user adds to the API.

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::resource::{Resource, Subresource, texts};
use crate::resources::defaulting::absent;
use crate::validation::{IMMUTABLE, invalid, names};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionSpec;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionStatus;

const SUBRESOURCES: &[Subresource] = &[Subresource::status("CustomResourceDefinition")];

impl Kind for CustomResourceDefinition {
    fn set_defaults(&mut self) {
        let spec = &mut self.spec;
        if spec.names.singular.as_deref().is_none_or(str::is_empty) {
            spec.names.singular = Some(spec.names.kind.to_lowercase());
        }
        if spec.names.list_kind.as_deref().is_none_or(str::is_empty) && !spec.names.kind.is_empty() {
            spec.names.list_kind = Some(format!("{}List", spec.names.kind));
        }
        let conversion = spec.conversion.get_or_insert_default();
        if conversion.strategy.is_empty() {
            conversion.strategy = "None".into();
        }
        let client = conversion.webhook.as_mut().and_then(|w| w.client_config.as_mut());
        if let Some(service) = client.and_then(|c| c.service.as_mut()) {
            absent(&mut service.port, 443);
        }
    }

    fn prepare_for_create(&mut self) {
        let stored = self.spec.versions.iter().filter(|v| v.storage).map(|v| v.name.clone()).collect();
        self.status = Some(CustomResourceDefinitionStatus { stored_versions: Some(stored), ..CustomResourceDefinitionStatus::default() });
    }

    fn prepare_for_update(&mut self, old: &Self) {
        let mut status = old.status.clone().unwrap_or_default();
        let stored = status.stored_versions.get_or_insert_default();
        for version in self.spec.versions.iter().filter(|v| v.storage) {
            if !stored.contains(&version.name) {
                stored.push(version.name.clone());
            }
        }
        self.status = Some(status);
    }

    fn validate(&self, errors: &mut ErrorList) {
        let spec = &self.spec;
        let wanted = format!("{}.{}", spec.names.plural, spec.group);
        let name = self.metadata.name.as_deref().unwrap_or_default();
        if name != wanted {
            errors.invalid(&Path::new("metadata").child("name"), name, "must be spec.names.plural+\".\"+spec.group");
        }
        validate_spec(spec, errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        Kind::validate(self, errors);
        let path = Path::new("spec");
        let (new, old) = (&self.spec, &old.spec);
        for (field, new, old) in [
            ("group", &new.group, &old.group),
            ("scope", &new.scope, &old.scope),
            ("names.kind", &new.names.kind, &old.names.kind),
            ("names.plural", &new.names.plural, &old.names.plural),
        ] {
            if new != old {
                errors.invalid(&path.child(field), new.as_str(), IMMUTABLE);
            }
        }
    }
}

const SCOPES: [&str; 2] = ["Cluster", "Namespaced"];

fn validate_spec(spec: &CustomResourceDefinitionSpec, errors: &mut ErrorList) {
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
    let stored = spec.versions.iter().filter(|v| v.storage).count();
    if stored != 1 {
        let shown: Vec<&str> = spec.versions.iter().map(|v| v.name.as_str()).collect();
        errors.invalid(&path.child("versions"), shown, "must have exactly one version marked as storage version");
    }
    for (i, version) in spec.versions.iter().enumerate() {
        let at = path.child("versions").index(i);
        if spec.versions[..i].iter().any(|v| v.name == version.name) {
            errors.invalid(&path.child("versions"), version.name.as_str(), "must contain unique version names");
        }
        invalid(errors, &at.child("name"), &version.name, names::dns1035_label(&version.name));
        let Some(schema) = version.schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref()) else {
            errors.required(&at.child("schema").child("openAPIV3Schema"), "");
            continue;
        };
        // Upstream keeps the schema of a single version at the top, and reports it there.
        let at = if spec.versions.len() == 1 { path.child("validation") } else { at.child("schema") }.child("openAPIV3Schema");
        match schema.type_.as_deref() {
            None | Some("") => errors.required(&at.child("type"), "must not be empty at the root"),
            Some("object") => {}
            Some(other) => errors.invalid(&at.child("type"), other, "must be object at the root"),
        }
    }
    let names_path = path.child("names");
    for (field, value) in [("plural", &spec.names.plural), ("kind", &spec.names.kind)] {
        if value.is_empty() {
            errors.required(&names_path.child(field), "");
        } else {
            invalid(errors, &names_path.child(field), value, names::dns1035_label(&value.to_lowercase()));
        }
    }
    for (i, short) in spec.names.short_names.iter().flatten().enumerate() {
        invalid(errors, &names_path.child("shortNames").index(i), short, names::dns1035_label(short));
    }
}

/// The row.
pub fn row() -> Resource {
    Resource {
        short_names: texts(&["crd", "crds"]),
        categories: texts(&["api-extensions"]),
        subresources: SUBRESOURCES.into(),
        generation: true,
        hashed_version: Some("v1beta1".into()),
        ..Resource::of::<CustomResourceDefinition>()
    }
}
