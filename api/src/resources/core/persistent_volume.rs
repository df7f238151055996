//! PersistentVolume: a piece of storage that a claim can be bound to.

use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown, wide};
use crate::resource::{Cells, Column, PrintContext, Resource, Subresource, texts};
use crate::resources::defaulting::{absent, text};
use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::api::core::v1::PersistentVolumeStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

const SUBRESOURCES: &[Subresource] = &[Subresource::status("PersistentVolume")];

const COLUMNS: &[Column] = &[
    NAME,
    shown("Capacity", "string"),
    shown("Access Modes", "string"),
    shown("Reclaim Policy", "string"),
    shown("Status", "string"),
    shown("Claim", "string"),
    shown("StorageClass", "string"),
    shown("VolumeAttributesClass", "string"),
    shown("Reason", "string"),
    AGE,
    wide("VolumeMode", "string"),
];

impl Kind for PersistentVolume {
    fn set_defaults(&mut self) {
        text(&mut self.status.get_or_insert_default().phase, "Pending");
        let spec = self.spec.get_or_insert_default();
        text(&mut spec.persistent_volume_reclaim_policy, "Retain");
        text(&mut spec.volume_mode, "Filesystem");
        if let Some(host_path) = &mut spec.host_path {
            absent(&mut host_path.type_, String::new());
        }
        if let Some(iscsi) = &mut spec.iscsi {
            text(&mut iscsi.iscsi_interface, "default");
        }
    }

    fn prepare_for_create(&mut self) {
        self.status = Some(PersistentVolumeStatus {
            phase: Some("Pending".into()),
            last_phase_transition_time: self.metadata.creation_timestamp.clone(),
            ..PersistentVolumeStatus::default()
        });
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let (spec, status) = (self.spec.clone().unwrap_or_default(), self.status.clone().unwrap_or_default());
        let claim = spec.claim_ref.map_or(String::new(), |c| format!("{}/{}", c.namespace.unwrap_or_default(), c.name.unwrap_or_default()));
        let mut phase = status.phase.unwrap_or_default();
        if self.metadata.deletion_timestamp.is_some() {
            phase = "Terminating".into();
        }
        vec![
            printer::name(&self.metadata),
            json!(spec.capacity.as_ref().and_then(|c| c.get("storage")).map_or("", |q| q.0.as_str())),
            json!(access_modes(spec.access_modes.as_deref().unwrap_or(&[]))),
            json!(spec.persistent_volume_reclaim_policy.unwrap_or_default()),
            json!(phase),
            json!(claim),
            json!(class(&self.metadata, spec.storage_class_name.as_deref())),
            json!(spec.volume_attributes_class_name.as_deref().unwrap_or(printer::UNSET)),
            json!(status.reason.unwrap_or_default()),
            printer::age(&self.metadata, context),
            json!(spec.volume_mode.as_deref().unwrap_or(printer::UNSET)),
        ]
    }
}

/// The access modes by their short names, each once, in a fixed order.
pub fn access_modes(modes: &[String]) -> String {
    const SHORT: [(&str, &str); 4] =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let present = SHORT.iter().filter(|(mode, _)| modes.iter().any(|m| m == mode));
    present.map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

/// The class of a volume or claim: once an annotation, now a field. The annotation counts first.
pub fn class(metadata: &ObjectMeta, name: Option<&str>) -> String {
    let annotation = metadata.annotations.as_ref().and_then(|a| a.get("volume.beta.kubernetes.io/storage-class"));
    annotation.map_or(name.unwrap_or(""), String::as_str).to_owned()
}

/// The row.
pub fn row() -> Resource {
    Resource {
        short_names: texts(&["pv"]),
        subresources: SUBRESOURCES.into(),
        columns: COLUMNS.into(),
        ..Resource::of::<PersistentVolume>()
    }
}
