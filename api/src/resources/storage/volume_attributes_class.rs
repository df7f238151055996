//! VolumeAttributesClass: properties of a volume that can change while it is in use.

use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource, texts};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use serde_json::json;

const COLUMNS: &[Column] = &[NAME, shown("DriverName", "string"), AGE];

impl Kind for VolumeAttributesClass {
    fn cells(&self, context: &PrintContext) -> Cells {
        vec![printer::name(&self.metadata), json!(self.driver_name), printer::age(&self.metadata, context)]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource { short_names: texts(&["vac"]), columns: COLUMNS.into(), ..Resource::of::<VolumeAttributesClass>() }
}
