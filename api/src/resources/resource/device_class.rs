//! DeviceClass: a kind of device that claims may ask for.

use super::validation::claims::class_spec;
use crate::field::ErrorList;
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME};
use crate::resource::{Cells, Column, PrintContext, Resource};
use k8s_openapi::api::resource::v1::DeviceClass;

const COLUMNS: &[Column] = &[NAME, AGE];

impl Kind for DeviceClass {
    fn validate(&self, errors: &mut ErrorList) {
        class_spec(errors, &self.spec, None);
    }

    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        class_spec(errors, &self.spec, Some(&old.spec));
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        vec![printer::name(&self.metadata), printer::age(&self.metadata, context)]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource { generation: true, columns: COLUMNS.into(), ..Resource::of::<DeviceClass>() }
}
