//! ValidatingAdmissionPolicyBinding: where a validating policy applies, and with what parameters.

use super::matching::match_resources;
use super::validation;
use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource, texts};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use serde_json::json;

const COLUMNS: &[Column] = &[NAME, shown("PolicyName", "string"), shown("ParamRef", "string"), AGE];

/// What may be done with what a policy has against a request.
const ACTIONS: &[&str] = &["Audit", "Deny", "Warn"];

impl Kind for ValidatingAdmissionPolicyBinding {
    fn set_defaults(&mut self) {
        if let Some(resources) = &mut self.spec.match_resources {
            match_resources(resources);
        }
    }

    fn validate(&self, errors: &mut ErrorList) {
        let spec = &self.spec;
        validation::binding(errors, &spec.policy_name, spec.param_ref.as_ref(), spec.match_resources.as_ref());
        let path = Path::new("spec").child("validationActions");
        if spec.validation_actions.is_empty() {
            errors.required(&path, "at least one validation action is required");
        }
        for (i, action) in spec.validation_actions.iter().enumerate() {
            if !ACTIONS.contains(&action.as_str()) {
                errors.not_supported(&path.index(i), action.as_str(), ACTIONS);
            }
            if spec.validation_actions[..i].contains(action) {
                errors.duplicate(&path.index(i), action.as_str());
            }
        }
        let has = |wanted: &str| spec.validation_actions.iter().any(|a| a == wanted);
        if has("Deny") && has("Warn") {
            errors.invalid(&path, json!(spec.validation_actions), "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)");
        }
    }

    fn validate_update(&self, _old: &Self, errors: &mut ErrorList) {
        Kind::validate(self, errors);
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
