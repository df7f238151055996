//! ResourceSlice: devices of a node or network, as their driver publishes them.

use super::validation::slices::slice_spec;
use crate::field::ErrorList;
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource, SelectableField};
use k8s_openapi::api::resource::v1::ResourceSlice;
use serde_json::json;

const COLUMNS: &[Column] = &[NAME, shown("Node", "string"), shown("Driver", "string"), shown("Pool", "string"), AGE];

impl Kind for ResourceSlice {
    fn validate(&self, errors: &mut ErrorList) {
        slice_spec(errors, &self.spec, None);
    }

    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        slice_spec(errors, &self.spec, Some(&old.spec));
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let spec = &self.spec;
        let node = spec.node_name.as_deref().unwrap_or("");
        vec![printer::name(&self.metadata), json!(node), json!(spec.driver), json!(spec.pool.name), printer::age(&self.metadata, context)]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource {
        generation: true,
        selectable_fields: [SelectableField::at("spec.driver"), SelectableField::at("spec.nodeName")].to_vec().into(),
        columns: COLUMNS.into(),
        ..Resource::of::<ResourceSlice>()
    }
}
