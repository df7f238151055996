//! StorageClass: a way to make volumes.

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource, texts};
use crate::resources::defaulting::absent;
use crate::validation::{IMMUTABLE, invalid, names};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::json;

const COLUMNS: &[Column] = &[
    NAME,
    shown("Provisioner", "string"),
    shown("ReclaimPolicy", "string"),
    shown("VolumeBindingMode", "string"),
    shown("AllowVolumeExpansion", "string"),
    AGE,
];

impl Kind for StorageClass {
    fn set_defaults(&mut self) {
        absent(&mut self.reclaim_policy, "Delete".into());
        absent(&mut self.volume_binding_mode, "Immediate".into());
    }

    fn validate(&self, errors: &mut ErrorList) {
        let at = Path::new("provisioner");
        if self.provisioner.is_empty() {
            errors.required(&at, "");
        } else {
            invalid(errors, &at, &self.provisioner, names::qualified_name(&self.provisioner.to_lowercase()));
        }
        for (field, value, known) in [
            ("reclaimPolicy", &self.reclaim_policy, ["Delete", "Retain"]),
            ("volumeBindingMode", &self.volume_binding_mode, ["Immediate", "WaitForFirstConsumer"]),
        ] {
            if let Some(value) = value.as_deref().filter(|v| !known.contains(v)) {
                errors.not_supported(&Path::new(field), value, &known);
            }
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        if self.parameters != old.parameters {
            errors.forbidden(&Path::new("parameters"), "updates to parameters are forbidden.");
        }
        if self.provisioner != old.provisioner {
            errors.forbidden(&Path::new("provisioner"), "updates to provisioner are forbidden.");
        }
        if self.reclaim_policy != old.reclaim_policy {
            errors.forbidden(&Path::new("reclaimPolicy"), "updates to reclaimPolicy are forbidden.");
        }
        if self.volume_binding_mode != old.volume_binding_mode {
            errors.invalid(&Path::new("volumeBindingMode"), json!(self.volume_binding_mode), IMMUTABLE);
        }
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let default = self.metadata.annotations.iter().flatten().any(|(k, v)| DEFAULT_CLASS.contains(&k.as_str()) && v == "true");
        let name = self.metadata.name.as_deref().unwrap_or("");
        let name = if default { format!("{name} (default)") } else { name.into() };
        vec![
            json!(name),
            json!(self.provisioner),
            json!(self.reclaim_policy.as_deref().unwrap_or("Delete")),
            json!(self.volume_binding_mode.as_deref().unwrap_or(printer::UNSET)),
            json!(self.allow_volume_expansion.unwrap_or(false)),
            printer::age(&self.metadata, context),
        ]
    }
}

/// The annotations that make a class the one for claims that name none.
pub const DEFAULT_CLASS: [&str; 2] = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// The row.
pub fn row() -> Resource {
    Resource { short_names: texts(&["sc"]), columns: COLUMNS.into(), ..Resource::of::<StorageClass>() }
}
