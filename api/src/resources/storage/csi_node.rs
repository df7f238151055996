//! CSINode: the storage drivers of a node.

use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource};
use k8s_openapi::api::storage::v1::CSINode;
use serde_json::json;

const COLUMNS: &[Column] = &[NAME, shown("Drivers", "integer"), AGE];

impl Kind for CSINode {
    fn cells(&self, context: &PrintContext) -> Cells {
        vec![printer::name(&self.metadata), json!(self.spec.drivers.len()), printer::age(&self.metadata, context)]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource { columns: COLUMNS.into(), ..Resource::of::<CSINode>() }
}
