//! MutatingAdmissionPolicyBinding: where a mutating policy applies, and with what parameters.

use super::matching::match_resources;
use super::validation;
use crate::field::ErrorList;
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource, texts};
use k8s_openapi::api::admissionregistration::v1::MutatingAdmissionPolicyBinding;
use serde_json::json;

const COLUMNS: &[Column] = &[NAME, shown("PolicyName", "string"), shown("ParamRef", "string"), AGE];

impl Kind for MutatingAdmissionPolicyBinding {
    fn set_defaults(&mut self) {
        if let Some(resources) = self.spec.as_mut().and_then(|s| s.match_resources.as_mut()) {
            match_resources(resources);
        }
    }

    fn validate(&self, errors: &mut ErrorList) {
        let spec = self.spec.clone().unwrap_or_default();
        let policy = spec.policy_name.as_deref().unwrap_or("");
        validation::binding(errors, policy, spec.param_ref.as_ref(), spec.match_resources.as_ref());
    }

    fn validate_update(&self, _old: &Self, errors: &mut ErrorList) {
        Kind::validate(self, errors);
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let spec = self.spec.clone().unwrap_or_default();
        let parameters = spec.param_ref.map_or(printer::UNSET.into(), |p| match (p.namespace, p.name) {
            (_, None) => "*".into(),
            (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
            (None, Some(name)) => format!("*/{name}"),
        });
        vec![
            printer::name(&self.metadata),
            json!(spec.policy_name.unwrap_or_default()),
            json!(parameters),
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
        ..Resource::of::<MutatingAdmissionPolicyBinding>()
    }
}
