//! Whether they may. Each authorizer is a file and a row; the first that does not abstain decides.
//!
//! All of them answer from memory, and from what the caches hold at that moment: a role that was acknowledged counts from the next
//! request on. The webhook mode and structured configuration files come with later issues.

pub mod escalation;
pub mod node;
mod node_graph;
pub mod rbac;
pub mod rule;

use crate::{
    authentication::{MASTERS, UserInfo},
    objects::Objects,
};
use api::StatusError;
use std::sync::Arc;

/// What is asked for (upstream: `authorizer.Attributes`).
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    /// Who.
    pub user: UserInfo,
    /// `get`, `list`, `create`, ...; for a path that is no resource the lower-case HTTP method.
    pub verb: String,
    /// Whether the request is for a resource; else only `path` counts.
    pub resource_request: bool,
    /// API group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural name.
    pub resource: String,
    /// `status`, `log`, ...
    pub subresource: String,
    /// Namespace, empty for cluster scope or all.
    pub namespace: String,
    /// Object name, empty for collections.
    pub name: String,
    /// The URL path.
    pub path: String,
    /// The field selector of a list, watch or deletecollection, as given.
    pub field_selector: String,
}

/// An authorizer's answer, with the reason it gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Allow(String),
    /// No, whatever others say.
    Deny(String),
    /// Not mine to say.
    NoOpinion(String),
}

/// One way to tell whether they may. Answers from memory: it is on every request's path.
pub trait Authorizer: Send + Sync + 'static {
    /// Whether the request may go on.
    fn authorize(&self, attributes: &Attributes) -> Decision;
}

/// The 403 for what was not allowed, in upstream's words.
pub fn forbidden(attributes: &Attributes, reason: &str) -> StatusError {
    let a = attributes;
    let mut why = format!("User {:?} cannot {} ", a.user.name, a.verb);
    if a.resource_request {
        let resource = if a.subresource.is_empty() { a.resource.clone() } else { format!("{}/{}", a.resource, a.subresource) };
        why += &format!("resource {resource:?} in API group {:?} ", a.group);
        why += &if a.namespace.is_empty() { "at the cluster scope".to_owned() } else { format!("in the namespace {:?}", a.namespace) };
    } else {
        why += &format!("path {:?}", a.path);
    }
    if !reason.is_empty() {
        why += &format!(": {reason}");
    }
    if a.resource_request { StatusError::forbidden(&a.group, &a.resource, &a.name, &why) } else { StatusError::forbidden("", "", "", &why) }
}

/// A value of `--authorization-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Kubelets may read what the pods of their node need.
    #[value(name = "Node")]
    Node,
    /// Roles and bindings.
    #[value(name = "RBAC")]
    Rbac,
    /// Everything is allowed.
    #[value(name = "AlwaysAllow")]
    AlwaysAllow,
    /// Nothing is allowed, but to the superusers.
    #[value(name = "AlwaysDeny")]
    AlwaysDeny,
}

/// Allows everything.
struct AlwaysAllow;

impl Authorizer for AlwaysAllow {
    fn authorize(&self, _: &Attributes) -> Decision {
        Decision::Allow(String::new())
    }
}

/// Has no opinion on anything, which in the end is a no.
struct AlwaysDeny;

impl Authorizer for AlwaysDeny {
    fn authorize(&self, _: &Attributes) -> Decision {
        Decision::NoOpinion("Everything is forbidden.".to_owned())
    }
}

/// All ways, in order, behind the rule that `system:masters` may do everything.
pub struct Chain(Vec<Arc<dyn Authorizer>>);

impl Chain {
    /// The authorizers of these modes. `rbac` is given because roles and bindings are also checked for escalation, whatever the modes.
    pub fn new(modes: &[Mode], rbac: &Arc<rbac::Rbac>, objects: &Arc<dyn Objects>) -> Self {
        let row = |mode: &Mode| -> Arc<dyn Authorizer> {
            match mode {
                Mode::Node => Arc::new(node::NodeAuthorizer::new(&**objects)),
                Mode::Rbac => rbac.clone(),
                Mode::AlwaysAllow => Arc::new(AlwaysAllow),
                Mode::AlwaysDeny => Arc::new(AlwaysDeny),
            }
        };
        Chain(modes.iter().map(row).collect())
    }
}

impl Authorizer for Chain {
    fn authorize(&self, attributes: &Attributes) -> Decision {
        if attributes.user.in_group(MASTERS) {
            return Decision::Allow(String::new());
        }
        let mut reasons = Vec::new();
        for authorizer in &self.0 {
            match authorizer.authorize(attributes) {
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
                decided => return decided,
            }
        }
        Decision::NoOpinion(reasons.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Fixed;

    pub(super) fn user(name: &str, groups: &[&str]) -> UserInfo {
        UserInfo { name: name.into(), groups: groups.iter().map(|g| g.to_string()).collect(), ..UserInfo::default() }
    }

    fn chain(modes: &[Mode]) -> Chain {
        let objects: Arc<dyn Objects> = Arc::new(Fixed::default());
        Chain::new(modes, &Arc::new(rbac::Rbac::new(&*objects)), &objects)
    }

    #[test]
    fn superusers_pass_every_mode_and_others_the_first_that_allows() {
        let ask = |modes: &[Mode], groups: &[&str]| {
            let attributes = Attributes { user: user("amy", groups), ..Attributes::default() };
            matches!(chain(modes).authorize(&attributes), Decision::Allow(_))
        };
        assert!(ask(&[Mode::AlwaysDeny], &["system:masters"]));
        assert!(!ask(&[Mode::AlwaysDeny], &[]));
        assert!(!ask(&[Mode::Node, Mode::Rbac], &[]));
        assert!(ask(&[Mode::Rbac, Mode::AlwaysAllow], &[]));
    }

    #[test]
    fn refusals_read_as_upstreams() {
        let pods = Attributes {
            user: user("bob", &[]),
            verb: "get".into(),
            resource_request: true,
            resource: "pods".into(),
            ..Attributes::default()
        };
        let log = Attributes { subresource: "log".into(), name: "x".into(), namespace: "ns".into(), ..pods.clone() };
        let path = Attributes { user: user("bob", &[]), verb: "get".into(), path: "/metrics".into(), ..Attributes::default() };
        for (attributes, reason, want) in [
            (&pods, "", r#"pods is forbidden: User "bob" cannot get resource "pods" in API group "" at the cluster scope"#),
            (&log, "", r#"pods "x" is forbidden: User "bob" cannot get resource "pods/log" in API group "" in the namespace "ns""#),
            (&path, "", r#"forbidden: User "bob" cannot get path "/metrics""#),
            (&path, "RBAC: x", r#"forbidden: User "bob" cannot get path "/metrics": RBAC: x"#),
        ] {
            assert_eq!(forbidden(attributes, reason).to_string(), want);
        }
    }
}
