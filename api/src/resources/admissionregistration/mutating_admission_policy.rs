//! MutatingAdmissionPolicy: expressions that change objects as they are written.

use super::matching::match_resources;
use super::validation::{self, Policy};
use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource, texts};
use crate::resources::defaulting::{absent, items};
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
        let mutations = items(&spec.mutations);
        if mutations.is_empty() {
            errors.required(&path.child("mutations"), "mutations must contain at least one item");
        }
        for (i, mutation) in mutations.iter().enumerate() {
            let at = path.child("mutations").index(i);
            let (apply, patch) = (mutation.apply_configuration.as_ref(), mutation.json_patch.as_ref());
            match mutation.patch_type.as_str() {
                "ApplyConfiguration" => match apply {
                    None => errors.required(&at.child("applyConfiguration"), "must be specified when patchType is ApplyConfiguration"),
                    Some(given) => {
                        let text = given.expression.as_deref().unwrap_or("");
                        validation::mutation_expression(errors, &at.child("applyConfiguration").child("expression"), text, &environments);
                    }
                },
                "JSONPatch" => match patch {
                    None => errors.required(&at.child("jsonPatch"), "must be specified when patchType is JSONPatch"),
                    Some(given) => {
                        let text = given.expression.as_deref().unwrap_or("");
                        validation::mutation_expression(errors, &at.child("jsonPatch").child("expression"), text, &environments);
                    }
                },
                "" => errors.required(&at.child("patchType"), ""),
                other => errors.not_supported(&at.child("patchType"), other, &["ApplyConfiguration", "JSONPatch"]),
            }
        }
        let reinvocation = spec.reinvocation_policy.as_deref().unwrap_or("");
        match reinvocation {
            "" => errors.required(&path.child("reinvocationPolicy"), ""),
            "Never" | "IfNeeded" => {}
            other => errors.not_supported(&path.child("reinvocationPolicy"), other, &["IfNeeded", "Never"]),
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
