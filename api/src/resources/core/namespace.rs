//! Namespace: a scope for names, and what is deleted together.

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, NO_DELETE_COLLECTION, NameRule, PrintContext, Resource, SelectableField, Subresource, Verb, texts};
use crate::resources::defaulting::text;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::core::v1::NamespaceStatus;
use serde_json::json;

const SUBRESOURCES: &[Subresource] = &[Subresource::new("finalize", "Namespace", &[Verb::Update]), Subresource::status("Namespace")];

const COLUMNS: &[Column] = &[NAME, shown("Status", "string"), AGE];

impl Kind for Namespace {
    fn set_defaults(&mut self) {
        text(&mut self.status.get_or_insert_default().phase, "Active");
        if let Some(name) = self.metadata.name.clone().filter(|n| !n.is_empty()) {
            self.metadata.labels.get_or_insert_default().insert("kubernetes.io/metadata.name".into(), name);
        }
    }

    fn prepare_for_create(&mut self) {
        self.status = Some(NamespaceStatus { phase: Some("Active".into()), ..NamespaceStatus::default() });
        let finalizers = self.spec.get_or_insert_default().finalizers.get_or_insert_default();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            finalizers.push(FINALIZER.into());
        }
    }

    fn prepare_for_update(&mut self, old: &Self) {
        // Finalizers of the spec change through /finalize only.
        self.spec.get_or_insert_default().finalizers = old.spec.as_ref().and_then(|s| s.finalizers.clone());
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut ErrorList) {
        let phase = self.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("");
        let path = Path::new("status").child("Phase");
        match (self.metadata.deletion_timestamp.is_some(), phase) {
            (false, "Active") | (true, "Terminating") => {}
            (false, _) => errors.invalid(&path, phase, "may only be 'Active' if `deletionTimestamp` is empty"),
            (true, _) => errors.invalid(&path, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty"),
        }
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let phase = self.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("");
        vec![printer::name(&self.metadata), json!(phase), printer::age(&self.metadata, context)]
    }
}

/// What keeps a namespace until all that is in it is gone.
const FINALIZER: &str = "kubernetes";

/// The row.
pub fn row() -> Resource {
    Resource {
        short_names: texts(&["ns"]),
        verbs: NO_DELETE_COLLECTION.into(),
        subresources: SUBRESOURCES.into(),
        name_rule: NameRule::Label,
        selectable_fields: [SelectableField::at("status.phase")].to_vec().into(),
        columns: COLUMNS.into(),
        ..Resource::of::<Namespace>()
    }
}
