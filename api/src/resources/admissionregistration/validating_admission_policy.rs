//! ValidatingAdmissionPolicy: expressions that objects must satisfy to be written.

use super::matching::match_resources;
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource, Subresource, texts};
use crate::resources::defaulting::absent;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use serde_json::json;

const SUBRESOURCES: &[Subresource] = &[Subresource::status("ValidatingAdmissionPolicy")];

const COLUMNS: &[Column] = &[NAME, shown("Validations", "integer"), shown("ParamKind", "string"), AGE];

impl Kind for ValidatingAdmissionPolicy {
    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        absent(&mut spec.failure_policy, "Fail".into());
        if let Some(resources) = &mut spec.match_constraints {
            match_resources(resources);
        }
    }

    fn prepare_for_create(&mut self) {
        self.status = None;
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let spec = self.spec.clone().unwrap_or_default();
        let kind = spec
            .param_kind
            .map_or(printer::UNSET.into(), |k| format!("{}/{}", k.api_version.unwrap_or_default(), k.kind.unwrap_or_default()));
        vec![
            printer::name(&self.metadata),
            json!(spec.validations.map_or(0, |v| v.len())),
            json!(kind),
            printer::age(&self.metadata, context),
        ]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource {
        categories: texts(&["api-extensions"]),
        subresources: SUBRESOURCES.into(),
        generation: true,
        columns: COLUMNS.into(),
        ..Resource::of::<ValidatingAdmissionPolicy>()
    }
}
