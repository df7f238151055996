//! ValidatingAdmissionPolicy: expressions that objects must satisfy to be written.

use super::matching::match_resources;
use super::validation::{self, Policy};
use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource, Subresource, texts};
use crate::resources::defaulting::{absent, items};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use serde_json::json;

const SUBRESOURCES: &[Subresource] = &[Subresource::status("ValidatingAdmissionPolicy")];

const COLUMNS: &[Column] = &[NAME, shown("Validations", "integer"), shown("ParamKind", "string"), AGE];

/// What a refusal may be called.
const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];

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

    fn validate(&self, errors: &mut ErrorList) {
        let spec = self.spec.clone().unwrap_or_default();
        let common = Policy {
            constraints: spec.match_constraints.as_ref(),
            parameters: spec.param_kind.as_ref(),
            failure_policy: spec.failure_policy.as_deref(),
            conditions: items(&spec.match_conditions),
            variables: items(&spec.variables),
        };
        let environments = validation::policy(errors, &common);
        let path = Path::new("spec");
        let (validations, annotations) = (items(&spec.validations), items(&spec.audit_annotations));
        if validations.is_empty() && annotations.is_empty() {
            for field in ["validations", "auditAnnotations"] {
                errors.required(&path.child(field), "validations or auditAnnotations must contain at least one item");
            }
        }
        for (i, rule) in validations.iter().enumerate() {
            let at = path.child("validations").index(i);
            validation::boolean_expression(errors, &at.child("expression"), &rule.expression, &environments);
            if let Some(text) = rule.message_expression.as_deref().filter(|t| !t.is_empty()) {
                match text.trim() {
                    "" => errors.invalid(&at.child("messageExpression"), text, "must be non-empty if specified"),
                    _ => validation::text_expression(errors, &at.child("messageExpression"), text, &environments, false),
                }
            }
            if let Some(message) = rule.message.as_deref().filter(|m| !m.is_empty()) {
                match message.trim() {
                    "" => errors.invalid(&at.child("message"), message, "message must be non-empty if specified"),
                    text if text.contains('\n') => errors.invalid(&at.child("message"), message, "message must not contain line breaks"),
                    _ => {}
                }
            }
            if let Some(reason) = rule.reason.as_deref().filter(|r| !REASONS.contains(r)) {
                errors.not_supported(&at.child("reason"), reason, REASONS);
            }
        }
        for (i, annotation) in annotations.iter().enumerate() {
            let at = path.child("auditAnnotations").index(i);
            if annotation.key.is_empty() {
                errors.required(&at.child("key"), "");
            }
            match annotation.value_expression.trim() {
                "" => errors.required(&at.child("valueExpression"), "valueExpression is not specified"),
                _ => validation::text_expression(errors, &at.child("valueExpression"), &annotation.value_expression, &environments, true),
            }
        }
    }

    fn validate_update(&self, _old: &Self, errors: &mut ErrorList) {
        Kind::validate(self, errors);
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
