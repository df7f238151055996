//! MutatingAdmissionPolicy: expressions that change objects as they are written.

use super::matching::match_resources;
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource, texts};
use crate::resources::defaulting::absent;
use k8s_openapi::api::admissionregistration::v1::MutatingAdmissionPolicy;
use serde_json::json;

const COLUMNS: &[Column] = &[NAME, shown("Mutations", "integer"), shown("ParamKind", "string"), AGE];

impl Kind for MutatingAdmissionPolicy {
    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        absent(&mut spec.failure_policy, "Fail".into());
        if let Some(resources) = &mut spec.match_constraints {
            match_resources(resources);
        }
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let spec = self.spec.clone().unwrap_or_default();
        let kind = spec
            .param_kind
            .map_or(printer::UNSET.into(), |k| format!("{}/{}", k.api_version.unwrap_or_default(), k.kind.unwrap_or_default()));
        vec![
            printer::name(&self.metadata),
            json!(spec.mutations.map_or(0, |m| m.len())),
            json!(kind),
            printer::age(&self.metadata, context),
        ]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource {
        categories: texts(&["api-extensions"]),
        generation: true,
        hashed_version: Some("v1beta1".into()),
        columns: COLUMNS.into(),
        ..Resource::of::<MutatingAdmissionPolicy>()
    }
}
