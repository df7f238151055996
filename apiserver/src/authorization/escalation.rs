//! Nobody may give away rights that they do not hold, by writing a role or binding one, unless told so expressly with the verbs
//! `escalate` and `bind` (upstream: `pkg/registry/rbac/{role,clusterrole,rolebinding,clusterrolebinding}/policybased`).

use super::{Attributes, Authorizer, Decision, rbac, rbac::Rbac, rule};
use crate::{
    admission::{Admission, Operation, Request},
    authentication::{MASTERS, UserInfo},
};
use api::{
    Object,
    status::{Result, StatusError},
};
use futures::future::BoxFuture;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef};
use std::sync::Arc;

/// Checks writes of roles and bindings.
pub struct Escalation {
    /// What everybody holds.
    pub rbac: Arc<Rbac>,
    /// Who holds `escalate` and `bind`.
    pub authorizer: Arc<dyn Authorizer>,
}

/// What a write would give away.
enum Gift {
    Rules { rules: Vec<PolicyRule>, aggregated: bool },
    Role(RoleRef),
}

fn gift(object: &dyn Object) -> Option<Gift> {
    if let Some(role) = object.downcast_ref::<Role>() {
        return Some(Gift::Rules { rules: role.rules.clone().unwrap_or_default(), aggregated: false });
    }
    if let Some(role) = object.downcast_ref::<ClusterRole>() {
        return Some(Gift::Rules { rules: role.rules.clone().unwrap_or_default(), aggregated: role.aggregation_rule.is_some() });
    }
    if let Some(binding) = object.downcast_ref::<RoleBinding>() {
        return Some(Gift::Role(binding.role_ref.clone()));
    }
    object.downcast_ref::<ClusterRoleBinding>().map(|binding| Gift::Role(binding.role_ref.clone()))
}

/// What counts of an object: everything but the metadata that garbage collection needs to change.
fn substance(object: &dyn Object) -> serde_json::Value {
    let mut copy = object.boxed_clone();
    let metadata = copy.metadata_mut();
    metadata.owner_references = None;
    metadata.finalizers = None;
    metadata.resource_version = None;
    metadata.managed_fields = None;
    copy.to_value()
}

fn everything() -> Vec<PolicyRule> {
    let all = || vec!["*".to_owned()];
    vec![
        PolicyRule { verbs: all(), api_groups: Some(all()), resources: Some(all()), ..PolicyRule::default() },
        PolicyRule { verbs: all(), non_resource_urls: Some(all()), ..PolicyRule::default() },
    ]
}

impl Escalation {
    fn holds(&self, user: &UserInfo, verb: &str, plural: &str, namespace: &str, name: &str) -> bool {
        let attributes = Attributes {
            user: user.clone(),
            verb: verb.into(),
            resource_request: true,
            group: rbac::GROUP.into(),
            version: "v1".into(),
            resource: plural.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Attributes::default()
        };
        matches!(self.authorizer.authorize(&attributes), Decision::Allow(_))
    }

    /// The reason why these rules may not be given away.
    fn confirm(&self, user: &UserInfo, namespace: &str, rules: &[PolicyRule]) -> Result<(), String> {
        let (held, errors) = self.rbac.rules_for(user, namespace);
        let missing = rule::uncovered(&held, rules);
        if missing.is_empty() {
            return Ok(());
        }
        let mut lines: Vec<String> = missing.iter().map(rule::line).collect();
        lines.sort();
        let mut message = format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            user.name,
            rule::quoted(&user.groups),
            lines.join("\n")
        );
        if !errors.is_empty() {
            message += &format!("; resolution errors: {}", rule::quoted(&errors));
        }
        Err(message)
    }

    fn check(&self, request: &Request<'_>, object: &dyn Object) -> Result<()> {
        if request.user.in_group(MASTERS) || request.old.is_some_and(|old| substance(old) == substance(object)) {
            return Ok(());
        }
        let Some(gift) = gift(object) else { return Ok(()) };
        let name = object.metadata().name.as_deref().unwrap_or_default();
        let refuse = |why: &str| Err(StatusError::forbidden(rbac::GROUP, &request.resource.plural, name, why));
        let rules = match gift {
            Gift::Rules { rules, aggregated } => {
                if self.holds(request.user, "escalate", &request.resource.plural, request.namespace, name) {
                    return Ok(());
                }
                if aggregated && self.confirm(request.user, request.namespace, &everything()).is_err() {
                    return refuse("must have cluster-admin privileges to use an aggregationRule");
                }
                rules
            }
            Gift::Role(reference) => {
                let (plural, namespace) = if reference.kind == "Role" { ("roles", request.namespace) } else { ("clusterroles", "") };
                if self.holds(request.user, "bind", plural, request.namespace, &reference.name) {
                    return Ok(());
                }
                match self.rbac.role_rules(&reference, namespace) {
                    Some(rules) => rules,
                    None => return Err(StatusError::not_found(rbac::GROUP, plural.trim_end_matches('s'), &reference.name)),
                }
            }
        };
        self.confirm(request.user, request.namespace, &rules).or_else(|why| refuse(&why))
    }
}

impl Admission for Escalation {
    fn validate<'a>(&'a self, request: &'a Request<'a>, object: Option<&'a dyn Object>) -> BoxFuture<'a, Result<()>> {
        let applies = request.resource.group == rbac::GROUP && matches!(request.operation, Operation::Create | Operation::Update);
        let answer = object.filter(|_| applies).map_or(Ok(()), |object| self.check(request, object));
        Box::pin(async move { answer })
    }
}
