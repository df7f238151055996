//! Cluster roles that are the sum of others: fills in their rules (upstream: `pkg/controller/clusterroleaggregation`). `admin`, `edit` and `view` are such roles.

use crate::controller::{Context, Controller, Keys};
use crate::ops::{Op, PatchKind, Request};
use api::selector::LabelSelector;
use client::{Cache, ObjectKey};
use futures::future::BoxFuture;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// Keys are cluster roles with an aggregation rule.
pub struct ClusterRoleAggregation {
    context: Context,
    roles: Arc<Cache<ClusterRole>>,
}

impl ClusterRoleAggregation {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        Self { roles: context.caches.of(), context }
    }
}

/// The rules of all that its selectors pick, selector by selector and by name, each rule once.
fn sum(role: &ClusterRole, roles: &[Arc<ClusterRole>]) -> anyhow::Result<Vec<PolicyRule>> {
    let mut sum: Vec<PolicyRule> = Vec::new();
    let selectors = role.aggregation_rule.iter().flat_map(|rule| rule.cluster_role_selectors.iter().flatten());
    for selector in selectors {
        let selector = LabelSelector::of(Some(selector))?;
        let picked =
            roles.iter().filter(|other| other.metadata.name != role.metadata.name && selector.matches(other.metadata.labels.as_ref()));
        for rule in picked.flat_map(|other| other.rules.iter().flatten()) {
            if !sum.contains(rule) {
                sum.push(rule.clone());
            }
        }
    }
    Ok(sum)
}

fn plan(role: &ClusterRole, roles: &[Arc<ClusterRole>]) -> anyhow::Result<Vec<Op>> {
    if role.aggregation_rule.is_none() {
        return Ok(Vec::new());
    }
    let rules = sum(role, roles)?;
    if role.rules.as_deref().unwrap_or_default() == rules {
        return Ok(Vec::new());
    }
    let patch = json!({"metadata": {"resourceVersion": role.metadata.resource_version}, "rules": rules});
    Ok(vec![Op::send(Request::patch::<ClusterRole>(&ObjectKey::of(role), "", PatchKind::Merge, patch).tolerating(&[404]))])
}

impl Controller for ClusterRoleAggregation {
    fn watch(self: Arc<Self>, keys: &Keys) {
        let (queue, roles) = (keys.clone(), self.roles.clone());
        self.roles.subscribe(move |_| {
            for role in roles.list().into_iter().filter(|role| role.aggregation_rule.is_some()) {
                queue.add(ObjectKey::of(role.as_ref()));
            }
        });
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(async move {
            let Some(role) = self.roles.get(key) else { return Ok(None) };
            Ok(self.context.executor.apply(plan(&role, &self.roles.list())?).await?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn role(name: &str, label: &str, rules: Value, selects: Option<&str>) -> Arc<ClusterRole> {
        let mut role = json!({"metadata": {"name": name, "labels": {label: "true"}}, "rules": rules});
        if let Some(selected) = selects {
            role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {selected: "true"}}]});
        }
        Arc::new(serde_json::from_value(role).unwrap())
    }

    #[test]
    fn rules_are_summed_once_each() {
        let rule = |resource: &str| json!({"apiGroups": [""], "resources": [resource], "verbs": ["get"]});
        let sum = role("sum", "x", json!(null), Some("a"));
        let mut roles = vec![
            role("one", "a", json!([rule("pods"), rule("nodes")]), None),
            role("other", "b", json!([rule("secrets")]), None),
            role("two", "a", json!([rule("nodes"), rule("services")]), None),
            sum.clone(),
        ];
        let [Op::Send(request)] = &plan(&sum, &roles).unwrap()[..] else { panic!("one request") };
        assert_eq!(request.body["rules"], json!([rule("pods"), rule("nodes"), rule("services")]));
        let summed = role("sum", "x", request.body["rules"].clone(), Some("a"));
        roles[3] = summed.clone();
        assert!(plan(&summed, &roles).unwrap().is_empty());
        assert!(plan(&roles[0], &roles).unwrap().is_empty(), "not a sum");
    }
}
