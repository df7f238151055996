//! CustomResourceDefinition: a kind that a user adds to the API (upstream: `apiextensions-apiserver/pkg/apis/apiextensions`).
//!
//! What serves the kind is [`crate::custom`]; which names it gets, and the conditions that tell of it, are decided in [`conditions`].

pub mod conditions;
mod rules;
mod schema;
mod validation;

use crate::field::ErrorList;
use crate::kind::Kind;
use crate::printer;
use crate::resource::{Cells, PrintContext, Resource, Subresource, texts};
use crate::resources::defaulting::absent;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, CustomResourceDefinitionStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What keeps a definition until its objects are gone.
pub const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

const SUBRESOURCES: &[Subresource] = &[Subresource::status("CustomResourceDefinition")];

impl Kind for CustomResourceDefinition {
    fn set_defaults(&mut self) {
        let spec = &mut self.spec;
        if spec.names.singular.as_deref().is_none_or(str::is_empty) {
            spec.names.singular = Some(spec.names.kind.to_lowercase());
        }
        if spec.names.list_kind.as_deref().is_none_or(str::is_empty) && !spec.names.kind.is_empty() {
            spec.names.list_kind = Some(format!("{}List", spec.names.kind));
        }
        let conversion = spec.conversion.get_or_insert_default();
        if conversion.strategy.is_empty() {
            conversion.strategy = "None".into();
        }
        let client = conversion.webhook.as_mut().and_then(|w| w.client_config.as_mut());
        if let Some(service) = client.and_then(|c| c.service.as_mut()) {
            absent(&mut service.port, 443);
        }
    }

    fn prepare_for_create(&mut self) {
        let stored = self.spec.versions.iter().filter(|v| v.storage).map(|v| v.name.clone()).collect();
        self.status = Some(CustomResourceDefinitionStatus { stored_versions: Some(stored), ..CustomResourceDefinitionStatus::default() });
    }

    fn prepare_for_update(&mut self, old: &Self) {
        let mut status = old.status.clone().unwrap_or_default();
        let stored = status.stored_versions.get_or_insert_default();
        for version in self.spec.versions.iter().filter(|v| v.storage) {
            if !stored.contains(&version.name) {
                stored.push(version.name.clone());
            }
        }
        self.status = Some(status);
    }

    fn validate(&self, errors: &mut ErrorList) {
        validation::validate(self, None, errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        validation::validate(self, Some(old), errors);
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut ErrorList) {
        validation::stored_versions(self, errors);
    }

    fn cells(&self, _context: &PrintContext) -> Cells {
        printer::name_and_creation(&self.metadata)
    }
}

/// Marks a definition as being deleted: it stays until its objects are gone.
pub fn mark_deleted(definition: &mut CustomResourceDefinition, now: &Time) {
    definition.metadata.deletion_timestamp = Some(now.clone());
    let finalizers = definition.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|f| f == CLEANUP_FINALIZER) {
        finalizers.push(CLEANUP_FINALIZER.into());
    }
    let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    conditions::set(definition, conditions::TERMINATING, true, "InstanceDeletionPending", message, now);
}

/// The row.
pub fn row() -> Resource {
    Resource {
        short_names: texts(&["crd", "crds"]),
        categories: texts(&["api-extensions"]),
        subresources: SUBRESOURCES.into(),
        generation: true,
        hashed_version: Some("v1beta1".into()),
        ..Resource::of::<CustomResourceDefinition>()
    }
}

#[cfg(test)]
mod tests;
