//! CSIDriver: what a storage driver can do and what it wants to be told.

use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource};
use crate::resources::defaulting::{absent, items};
use k8s_openapi::api::storage::v1::CSIDriver;
use serde_json::json;

const COLUMNS: &[Column] = &[
    NAME,
    shown("AttachRequired", "boolean"),
    shown("PodInfoOnMount", "boolean"),
    shown("StorageCapacity", "boolean"),
    shown("TokenRequests", "string"),
    shown("RequiresRepublish", "boolean"),
    shown("Modes", "string"),
    AGE,
];

impl Kind for CSIDriver {
    fn set_defaults(&mut self) {
        let spec = &mut self.spec;
        absent(&mut spec.attach_required, true);
        absent(&mut spec.pod_info_on_mount, false);
        absent(&mut spec.storage_capacity, false);
        absent(&mut spec.fs_group_policy, "ReadWriteOnceWithFSType".into());
        if spec.volume_lifecycle_modes.as_ref().is_none_or(|m| m.is_empty()) {
            spec.volume_lifecycle_modes = Some(vec!["Persistent".into()]);
        }
        absent(&mut spec.requires_republish, false);
        absent(&mut spec.se_linux_mount, false);
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let spec = &self.spec;
        let tokens = items(&spec.token_requests).iter().map(|t| t.audience.as_str()).collect::<Vec<_>>().join(",");
        let tokens = if tokens.is_empty() { printer::UNSET.to_owned() } else { tokens };
        let modes = items(&spec.volume_lifecycle_modes).join(",");
        vec![
            printer::name(&self.metadata),
            json!(spec.attach_required.unwrap_or(true)),
            json!(spec.pod_info_on_mount.unwrap_or(false)),
            json!(spec.storage_capacity.unwrap_or(false)),
            json!(tokens),
            json!(spec.requires_republish.unwrap_or(false)),
            json!(if modes.is_empty() { printer::NONE.into() } else { modes }),
            printer::age(&self.metadata, context),
        ]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource { columns: COLUMNS.into(), ..Resource::of::<CSIDriver>() }
}
