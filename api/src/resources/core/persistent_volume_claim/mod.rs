//! PersistentVolumeClaim: what a pod asks of storage.

mod update;

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown, wide};
use crate::resource::{Cells, Column, PrintContext, Resource, Subresource, texts};
use crate::resources::core::persistent_volume::{access_modes, class};
use crate::resources::core::resource_name;
use crate::resources::defaulting::text;
use crate::validation::{invalid, labels, names};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::core::v1::{PersistentVolumeClaimSpec, PersistentVolumeClaimStatus, TypedLocalObjectReference, TypedObjectReference};
use serde_json::json;

const SUBRESOURCES: &[Subresource] = &[Subresource::status("PersistentVolumeClaim")];

/// The ways in which a volume may be mounted.
pub const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
/// What a volume may be used as.
pub const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];

const COLUMNS: &[Column] = &[
    NAME,
    shown("Status", "string"),
    shown("Volume", "string"),
    shown("Capacity", "string"),
    shown("Access Modes", "string"),
    shown("StorageClass", "string"),
    shown("VolumeAttributesClass", "string"),
    AGE,
    wide("VolumeMode", "string"),
];

impl Kind for PersistentVolumeClaim {
    fn set_defaults(&mut self) {
        text(&mut self.status.get_or_insert_default().phase, "Pending");
        let spec = self.spec.get_or_insert_default();
        text(&mut spec.volume_mode, "Filesystem");
    }

    fn prepare_for_create(&mut self) {
        self.status = Some(PersistentVolumeClaimStatus { phase: Some("Pending".into()), ..PersistentVolumeClaimStatus::default() });
        same_data_sources(self.spec.get_or_insert_default());
    }

    fn prepare_for_update(&mut self, _old: &Self) {
        same_data_sources(self.spec.get_or_insert_default());
    }

    fn validate(&self, errors: &mut ErrorList) {
        if let Some(spec) = &self.spec {
            self::spec(errors, &Path::new("spec"), spec);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        self.validate(errors);
        update::validate(errors, self, old);
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let (spec, status) = (self.spec.clone().unwrap_or_default(), self.status.clone().unwrap_or_default());
        let mut phase = status.phase.unwrap_or_default();
        if self.metadata.deletion_timestamp.is_some() {
            phase = "Terminating".into();
        }
        let bound = spec.volume_name.as_deref().is_some_and(|v| !v.is_empty());
        let capacity = status.capacity.as_ref().and_then(|c| c.get("storage")).filter(|_| bound);
        let modes = if bound { access_modes(status.access_modes.as_deref().unwrap_or(&[])) } else { String::new() };
        vec![
            printer::name(&self.metadata),
            json!(phase),
            json!(spec.volume_name.as_deref().unwrap_or("")),
            json!(capacity.map_or("", |q| q.0.as_str())),
            json!(modes),
            json!(class(&self.metadata, spec.storage_class_name.as_deref())),
            json!(spec.volume_attributes_class_name.as_deref().unwrap_or(printer::UNSET)),
            printer::age(&self.metadata, context),
            json!(spec.volume_mode.as_deref().unwrap_or(printer::UNSET)),
        ]
    }
}

/// A claim's source is named by two fields, an old and a new one: each is filled from the other, where they can say the same.
fn same_data_sources(spec: &mut PersistentVolumeClaimSpec) {
    match (&spec.data_source, &spec.data_source_ref) {
        (Some(old), None) => {
            let old = old.clone();
            spec.data_source_ref = Some(TypedObjectReference { api_group: old.api_group, kind: old.kind, name: old.name, namespace: None });
        }
        (None, Some(new)) if new.namespace.as_deref().is_none_or(str::is_empty) => {
            let new = new.clone();
            spec.data_source = Some(TypedLocalObjectReference { api_group: new.api_group, kind: new.kind, name: new.name });
        }
        _ => {}
    }
}

/// What is wrong with the spec of a claim, or of a template for claims.
pub fn spec(errors: &mut ErrorList, path: &Path, spec: &PersistentVolumeClaimSpec) {
    let modes = spec.access_modes.as_deref().unwrap_or(&[]);
    if modes.is_empty() {
        errors.required(&path.child("accessModes"), "at least 1 access mode is required");
    }
    labels::selector(errors, &path.child("selector"), spec.selector.as_ref());
    for mode in modes.iter().filter(|m| !ACCESS_MODES.contains(&m.as_str())) {
        errors.not_supported(&path.child("accessModes"), mode.as_str(), ACCESS_MODES);
    }
    let (once, others): (Vec<&str>, Vec<&str>) =
        modes.iter().map(String::as_str).filter(|m| ACCESS_MODES.contains(m)).partition(|m| *m == "ReadWriteOncePod");
    if !once.is_empty() && !others.is_empty() {
        errors.forbidden(&path.child("accessModes"), "may not use ReadWriteOncePod with other access modes");
    }
    let size = spec.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|r| r.get("storage"));
    let at = path.child("resources").key("storage");
    match size {
        None => errors.required(&at, ""),
        Some(size) if resource_name::parse(size).sign() <= 0 => errors.invalid(&at, size.0.as_str(), "must be greater than zero"),
        Some(_) => {}
    }
    for (field, class) in [("storageClassName", &spec.storage_class_name)] {
        if let Some(class) = class.as_deref().filter(|c| !c.is_empty()) {
            invalid(errors, &path.child(field), class, names::dns1123_subdomain(class));
        }
    }
    if let Some(mode) = spec.volume_mode.as_deref().filter(|m| !VOLUME_MODES.contains(m)) {
        errors.not_supported(&path.child("volumeMode"), mode, VOLUME_MODES);
    }
    sources(errors, path, spec);
    if let Some(class) = spec.volume_attributes_class_name.as_deref().filter(|c| !c.is_empty()) {
        invalid(errors, &path.child("volumeAttributesClassName"), class, names::dns1123_subdomain(class));
    }
}

fn sources(errors: &mut ErrorList, path: &Path, spec: &PersistentVolumeClaimSpec) {
    let old = spec.data_source.as_ref().map(|s| (&s.name, &s.kind, &s.api_group));
    let new = spec.data_source_ref.as_ref().map(|s| (&s.name, &s.kind, &s.api_group));
    for (field, source) in [("dataSource", old), ("dataSourceRef", new)] {
        let Some((name, kind, group)) = source else { continue };
        let path = path.child(field);
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        }
        if kind.is_empty() {
            errors.required(&path.child("kind"), "");
        }
        match group.as_deref().unwrap_or("") {
            "" if kind != "PersistentVolumeClaim" => {
                let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
                errors.invalid(&path, kind.as_str(), why);
            }
            "" => {}
            group => invalid(errors, &path.child("apiGroup"), group, names::dns1123_subdomain(group)),
        }
    }
    let namespace = spec.data_source_ref.as_ref().and_then(|s| s.namespace.as_deref()).unwrap_or("");
    let shown = path.child("dataSource").to_string();
    if !namespace.is_empty() {
        let at = path.child("dataSourceRef").child("namespace");
        invalid(errors, &at, namespace, names::dns1123_label(namespace));
        if old.is_some() {
            errors.invalid(path, shown, "may not be specified when dataSourceRef.namespace is specified");
        }
    } else if old.is_some() && new.is_some() && old != new {
        errors.invalid(path, shown, "must match dataSourceRef");
    }
}

/// The row.
pub fn row() -> Resource {
    Resource {
        short_names: texts(&["pvc"]),
        subresources: SUBRESOURCES.into(),
        columns: COLUMNS.into(),
        ..Resource::of::<PersistentVolumeClaim>()
    }
}
