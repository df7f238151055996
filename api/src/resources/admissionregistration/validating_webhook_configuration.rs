//! ValidatingWebhookConfiguration: servers that are asked whether an object may be written.

use super::matching::{TIMEOUT_SECONDS, service_port};
use super::validation::{self, Webhook};
use crate::field::ErrorList;
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource, texts};
use crate::resources::defaulting::{absent, items};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use serde_json::json;

const COLUMNS: &[Column] = &[NAME, shown("Webhooks", "integer"), AGE];

impl Kind for ValidatingWebhookConfiguration {
    fn set_defaults(&mut self) {
        for webhook in self.webhooks.iter_mut().flatten() {
            absent(&mut webhook.failure_policy, "Fail".into());
            absent(&mut webhook.match_policy, "Equivalent".into());
            webhook.namespace_selector.get_or_insert_default();
            webhook.object_selector.get_or_insert_default();
            absent(&mut webhook.timeout_seconds, TIMEOUT_SECONDS);
            service_port(&mut webhook.client_config);
            webhook.rules.iter_mut().flatten().for_each(|rule| absent(&mut rule.scope, "*".into()));
        }
    }

    fn validate(&self, errors: &mut ErrorList) {
        let webhooks: Vec<Webhook<'_>> = items(&self.webhooks)
            .iter()
            .map(|w| Webhook {
                name: &w.name,
                client: &w.client_config,
                rules: items(&w.rules),
                failure_policy: w.failure_policy.as_deref(),
                match_policy: w.match_policy.as_deref(),
                side_effects: &w.side_effects,
                timeout: w.timeout_seconds,
                namespace_selector: w.namespace_selector.as_ref(),
                object_selector: w.object_selector.as_ref(),
                versions: &w.admission_review_versions,
                conditions: items(&w.match_conditions),
                reinvocation: None,
            })
            .collect();
        validation::webhooks(errors, &webhooks);
    }

    fn validate_update(&self, _old: &Self, errors: &mut ErrorList) {
        Kind::validate(self, errors);
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        vec![printer::name(&self.metadata), json!(self.webhooks.as_ref().map_or(0, |w| w.len())), printer::age(&self.metadata, context)]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource {
        categories: texts(&["api-extensions"]),
        generation: true,
        columns: COLUMNS.into(),
        ..Resource::of::<ValidatingWebhookConfiguration>()
    }
}
