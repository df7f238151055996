//! ResourceClaimTemplate: a claim to be made for each pod.

use super::resource_claim::claim_spec;
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME};
use crate::resource::{Cells, Column, PrintContext, Resource};
use k8s_openapi::api::resource::v1::ResourceClaimTemplate;

const COLUMNS: &[Column] = &[NAME, AGE];

impl Kind for ResourceClaimTemplate {
    fn set_defaults(&mut self) {
        claim_spec(&mut self.spec.spec);
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        vec![printer::name(&self.metadata), printer::age(&self.metadata, context)]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource { columns: COLUMNS.into(), ..Resource::of::<ResourceClaimTemplate>() }
}
