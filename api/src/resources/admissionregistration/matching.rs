//! What the webhooks and policies of admission have in common: how they are matched with requests, and where they are called.

use crate::resources::defaulting::absent;
use k8s_openapi::api::admissionregistration::v1::{MatchResources, WebhookClientConfig};

/// How long a webhook may take, where it does not say.
pub const TIMEOUT_SECONDS: i32 = 10;

/// A service is called on the port of HTTPS where none is named.
pub fn service_port(client: &mut WebhookClientConfig) {
    if let Some(service) = &mut client.service {
        absent(&mut service.port, 443);
    }
}

/// What a policy matches where it does not say.
pub fn match_resources(resources: &mut MatchResources) {
    absent(&mut resources.match_policy, "Equivalent".into());
    resources.namespace_selector.get_or_insert_default();
    resources.object_selector.get_or_insert_default();
    let rules = resources.resource_rules.iter_mut().flatten();
    rules.chain(resources.exclude_resource_rules.iter_mut().flatten()).for_each(|rule| absent(&mut rule.scope, "*".into()));
}
