//! VolumeAttachment: that a volume is, or is to be, attached to a node.

use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, named, shown};
use crate::resource::{Cells, Column, PrintContext, Resource, Subresource};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use serde_json::json;

const SUBRESOURCES: &[Subresource] = &[Subresource::status("VolumeAttachment")];

const COLUMNS: &[Column] = &[NAME, named("Attacher"), shown("PV", "string"), shown("Node", "string"), shown("Attached", "boolean"), AGE];

impl Kind for VolumeAttachment {
    fn prepare_for_create(&mut self) {
        self.status = None;
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let attached = self.status.as_ref().is_some_and(|s| s.attached);
        let volume = self.spec.source.persistent_volume_name.as_deref().unwrap_or("");
        vec![
            printer::name(&self.metadata),
            json!(self.spec.attacher),
            json!(volume),
            json!(self.spec.node_name),
            json!(attached),
            printer::age(&self.metadata, context),
        ]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource { subresources: SUBRESOURCES.into(), columns: COLUMNS.into(), ..Resource::of::<VolumeAttachment>() }
}
