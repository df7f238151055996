//! ValidatingWebhookConfiguration: servers that are asked whether an object may be written.

use super::matching::{TIMEOUT_SECONDS, service_port};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource, texts};
use crate::resources::defaulting::absent;
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
