//! ConfigMap: configuration for pods, as text or bytes under keys.

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource, texts};
use crate::validation::{invalid, names};
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;

const COLUMNS: &[Column] = &[NAME, shown("Data", "string"), AGE];

impl Kind for ConfigMap {
    fn validate(&self, errors: &mut ErrorList) {
        let mut size = 0;
        let path = Path::new("data");
        for (key, value) in self.data.iter().flatten() {
            invalid(errors, &path.key(key), key, names::config_key(key));
            if self.binary_data.as_ref().is_some_and(|b| b.contains_key(key)) {
                errors.invalid(&path.key(key), key.as_str(), "duplicate of key present in binaryData");
            }
            size += value.len();
        }
        for (key, value) in self.binary_data.iter().flatten() {
            invalid(errors, &Path::new("binaryData").key(key), key, names::config_key(key));
            size += value.0.len();
        }
        if size > SIZE_MAX {
            errors.too_long(&Path::default(), SIZE_MAX);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        if old.immutable == Some(true) {
            let changes = [
                ("immutable", self.immutable != Some(true)),
                ("data", self.data != old.data),
                ("binaryData", self.binary_data != old.binary_data),
            ];
            for (field, _) in changes.iter().filter(|(_, changed)| *changed) {
                errors.forbidden(&Path::new(field), "field is immutable when `immutable` is set");
            }
        }
        self.validate(errors);
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let count = self.data.as_ref().map_or(0, |d| d.len()) + self.binary_data.as_ref().map_or(0, |d| d.len());
        vec![printer::name(&self.metadata), json!(count), printer::age(&self.metadata, context)]
    }
}

/// How many bytes the values of a ConfigMap or Secret may have in all: 1 MiB, well below what a store takes in one object.
pub const SIZE_MAX: usize = 1024 * 1024;

/// The row.
pub fn row() -> Resource {
    Resource { short_names: texts(&["cm"]), columns: COLUMNS.into(), ..Resource::of::<ConfigMap>() }
}
