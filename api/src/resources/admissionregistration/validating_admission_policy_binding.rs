//! ValidatingAdmissionPolicyBinding: where a validating policy applies, and with what parameters.

use super::matching::match_resources;
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource, texts};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use serde_json::json;

const COLUMNS: &[Column] = &[NAME, shown("PolicyName", "string"), shown("ParamRef", "string"), AGE];

impl Kind for ValidatingAdmissionPolicyBinding {
    fn set_defaults(&mut self) {
        if let Some(resources) = &mut self.spec.match_resources {
            match_resources(resources);
        }
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let spec = self.spec.clone();
        let parameters = spec.param_ref.map_or(printer::UNSET.into(), |p| match (p.namespace, p.name) {
            (_, None) => "*".into(),
            (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
            (None, Some(name)) => format!("*/{name}"),
        });
        vec![printer::name(&self.metadata), json!(spec.policy_name), json!(parameters), printer::age(&self.metadata, context)]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource {
        categories: texts(&["api-extensions"]),
        generation: true,
        columns: COLUMNS.into(),
        ..Resource::of::<ValidatingAdmissionPolicyBinding>()
    }
}
