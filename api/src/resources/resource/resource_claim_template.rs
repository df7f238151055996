//! ResourceClaimTemplate: a claim to be made for each pod.

use super::resource_claim::claim_spec;
use super::validation;
use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME};
use crate::resource::{Cells, Column, PrintContext, Resource};
use crate::validation::{IMMUTABLE, labels};
use k8s_openapi::api::resource::v1::ResourceClaimTemplate;
use serde_json::json;

const COLUMNS: &[Column] = &[NAME, AGE];

impl Kind for ResourceClaimTemplate {
    fn set_defaults(&mut self) {
        claim_spec(&mut self.spec.spec);
    }

    fn validate(&self, errors: &mut ErrorList) {
        let path = Path::new("spec");
        if let Some(metadata) = &self.spec.metadata {
            labels::annotations(errors, &path.child("metadata").child("annotations"), metadata.annotations.as_ref());
            labels::labels(errors, &path.child("metadata").child("labels"), metadata.labels.as_ref());
        }
        validation::claims::claim_spec(errors, &path.child("spec"), &self.spec.spec);
    }

    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        if self.spec != old.spec {
            errors.invalid(&Path::new("spec"), json!(self.spec), IMMUTABLE);
        }
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        vec![printer::name(&self.metadata), printer::age(&self.metadata, context)]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource { columns: COLUMNS.into(), ..Resource::of::<ResourceClaimTemplate>() }
}
