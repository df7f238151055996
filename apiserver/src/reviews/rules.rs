//! Everything that the asker may do in a namespace: SelfSubjectRulesReview.

use super::{Asked, Review, part};
use crate::authorization::{rbac::Rbac, rule::list};
use api::status::{Result, StatusError};
use futures::future::BoxFuture;
use k8s_openapi::api::authorization::v1::SelfSubjectRulesReviewSpec;
use serde_json::{Value, json};
use std::sync::Arc;

/// Answers with the asker's rules.
pub struct RulesReview {
    /// Who holds which.
    pub rbac: Arc<Rbac>,
}

impl RulesReview {
    fn status(&self, asked: &Asked<'_>) -> Result<Value> {
        let spec: SelfSubjectRulesReviewSpec = part(&asked.object, "spec")?;
        let namespace = spec.namespace.unwrap_or_default();
        if namespace.is_empty() {
            return Err(StatusError::bad_request("no namespace on request"));
        }
        let (rules, errors) = self.rbac.rules_for(asked.user, &namespace);
        let (mut resource, mut other) = (Vec::new(), Vec::new());
        for rule in &rules {
            if !list(&rule.resources).is_empty() {
                let mut shown = json!({"verbs": rule.verbs, "apiGroups": list(&rule.api_groups), "resources": list(&rule.resources)});
                if !list(&rule.resource_names).is_empty() {
                    shown["resourceNames"] = json!(rule.resource_names);
                }
                resource.push(shown);
            }
            if !list(&rule.non_resource_urls).is_empty() {
                other.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}));
            }
        }
        // What the node authorizer allows a kubelet depends on its pods and cannot be listed.
        let incomplete = asked.user.node().is_some() || !errors.is_empty();
        let mut status = json!({"resourceRules": resource, "nonResourceRules": other, "incomplete": incomplete});
        if !errors.is_empty() {
            status["evaluationError"] = errors.join(", ").into();
        }
        Ok(status)
    }
}

impl Review for RulesReview {
    fn answer<'a>(&'a self, mut asked: Asked<'a>) -> BoxFuture<'a, Result<Value>> {
        let answer = self.status(&asked).map(|status| {
            asked.object["status"] = status;
            asked.object
        });
        Box::pin(async move { answer })
    }
}
