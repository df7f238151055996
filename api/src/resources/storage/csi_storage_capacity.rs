//! CSIStorageCapacity: how much a storage driver has left, by topology and class.

use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource};
use k8s_openapi::api::storage::v1::CSIStorageCapacity;
use serde_json::json;

const COLUMNS: &[Column] = &[NAME, shown("StorageClassName", "string"), shown("Capacity", "string"), AGE];

impl Kind for CSIStorageCapacity {
    fn cells(&self, context: &PrintContext) -> Cells {
        let capacity = self.capacity.as_ref().map_or(printer::UNSET, |q| q.0.as_str());
        vec![printer::name(&self.metadata), json!(self.storage_class_name), json!(capacity), printer::age(&self.metadata, context)]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource { columns: COLUMNS.into(), ..Resource::of::<CSIStorageCapacity>() }
}
