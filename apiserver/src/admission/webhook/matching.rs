//! Whether a webhook or a policy looks at a request: rules over operation, group, version, resource and scope, and selectors over labels
//! (upstream: `admission/plugin/webhook/predicates`). Pure.

use super::Wire;
use crate::admission::{Operation, Request};
use api::Resource;
use k8s_openapi::api::admissionregistration::v1::{NamedRuleWithOperations, RuleWithOperations};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;
use std::collections::BTreeMap;

/// The kinds that configure admission: no webhook and no policy looks at them, else nobody could mend a broken one.
const EXEMPT: [&str; 6] = [
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
    "mutatingwebhookconfigurations",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "validatingwebhookconfigurations",
];

/// Whether the request concerns the configuration of admission itself.
pub(in crate::admission) fn exempt(request: &Request<'_>) -> bool {
    request.resource.group == "admissionregistration.k8s.io" && EXEMPT.contains(&request.resource.plural.as_ref())
}

/// An operation by its name in rules.
pub(in crate::admission) fn operation_name(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

/// What rules are held against.
#[derive(Clone, Copy, Debug)]
pub(in crate::admission) struct Subject<'a> {
    pub operation: Operation,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
}

impl<'a> Subject<'a> {
    /// The request as one for this row.
    pub fn of(request: &Request<'a>, row: &'a Resource) -> Self {
        Subject {
            operation: request.operation,
            group: &row.group,
            version: &row.version,
            resource: &row.plural,
            subresource: request.subresource,
            namespace: request.namespace,
            name: request.name,
        }
    }
}

/// A rule of a webhook or policy.
#[derive(Clone, Debug, Default)]
pub(in crate::admission) struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: Option<String>,
    names: Vec<String>,
}

impl From<RuleWithOperations> for Rule {
    fn from(rule: RuleWithOperations) -> Self {
        Rule {
            operations: rule.operations.unwrap_or_default(),
            groups: rule.api_groups.unwrap_or_default(),
            versions: rule.api_versions.unwrap_or_default(),
            resources: rule.resources.unwrap_or_default(),
            scope: rule.scope,
            names: Vec::new(),
        }
    }
}

impl From<NamedRuleWithOperations> for Rule {
    fn from(rule: NamedRuleWithOperations) -> Self {
        Rule {
            operations: rule.operations.unwrap_or_default(),
            groups: rule.api_groups.unwrap_or_default(),
            versions: rule.api_versions.unwrap_or_default(),
            resources: rule.resources.unwrap_or_default(),
            scope: rule.scope,
            names: rule.resource_names.unwrap_or_default(),
        }
    }
}

fn any_or(list: &[String], wanted: &str) -> bool {
    list.iter().any(|entry| entry == "*" || entry == wanted)
}

impl Rule {
    /// Whether the rule is for this.
    pub fn fits(&self, subject: &Subject<'_>) -> bool {
        any_or(&self.operations, operation_name(subject.operation))
            && any_or(&self.groups, subject.group)
            && any_or(&self.versions, subject.version)
            && self.fits_scope(subject)
            && self.resources.iter().any(|entry| {
                let (resource, subresource) = entry.split_once('/').unwrap_or((entry, ""));
                (resource == "*" || resource == subject.resource) && (subresource == "*" || subresource == subject.subresource)
            })
            && (self.names.is_empty() || self.names.iter().any(|name| name == subject.name))
    }

    /// Namespaces belong to the cluster, though their requests have a namespace.
    fn fits_scope(&self, subject: &Subject<'_>) -> bool {
        let of_cluster = subject.namespace.is_empty() || subject.resource == "namespaces";
        match self.scope.as_deref() {
            Some("Namespaced") => !of_cluster,
            Some("Cluster") => of_cluster,
            _ => true,
        }
    }
}

/// Whether the selector says nothing.
pub(in crate::admission) fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty) && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

type Map = BTreeMap<String, String>;

/// The labels that selectors look at, found when the first one asks.
pub(in crate::admission) struct Labels<'a> {
    wire: &'a Wire<'a>,
    namespace: Option<Option<Map>>,
    objects: Option<[Option<Map>; 2]>,
}

impl<'a> Labels<'a> {
    pub fn new(wire: &'a Wire<'a>) -> Self {
        Labels { wire, namespace: None, objects: None }
    }

    /// The labels of the request's namespace; those of the namespace that is written, where that is what the request does. `None`: there is no such namespace.
    pub fn namespace(&mut self, request: &Request<'_>, find: impl FnOnce() -> Option<Map>) -> Option<&Map> {
        let wire = self.wire;
        let found = self.namespace.get_or_insert_with(|| match request.is("", "namespaces", "") && request.writes() {
            true => Some(labels_of(wire.object()).unwrap_or_default()),
            false => find(),
        });
        found.as_ref()
    }

    /// Whether the selector takes the object as it is to be, or as it was.
    pub fn object_matches(&mut self, selector: &LabelSelector) -> bool {
        if is_empty(selector) {
            return true;
        }
        let wire = self.wire;
        let objects = self.objects.get_or_insert_with(|| [wire.object(), wire.old()].map(labels_of));
        objects.iter().flatten().any(|labels| api::validation::labels::matches(selector, Some(labels)))
    }
}

/// The labels of an object, if there is one that has metadata.
fn labels_of(object: &Value) -> Option<Map> {
    let metadata = object.get("metadata")?;
    let labels = metadata.get("labels").and_then(Value::as_object).into_iter().flatten();
    Some(labels.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(operations: &str, groups: &str, versions: &str, resources: &str, scope: &str) -> Rule {
        let list = |text: &str| text.split(',').map(str::to_owned).collect();
        Rule {
            operations: list(operations),
            groups: list(groups),
            versions: list(versions),
            resources: list(resources),
            scope: Some(scope.into()),
            names: Vec::new(),
        }
    }

    #[test]
    fn rules_fit_by_all_of_their_parts() {
        let pod = Subject {
            operation: Operation::Create,
            group: "",
            version: "v1",
            resource: "pods",
            subresource: "",
            namespace: "ns",
            name: "a",
        };
        let status = Subject { subresource: "status", operation: Operation::Update, ..pod };
        let namespace = Subject { resource: "namespaces", ..pod };
        let node = Subject { resource: "nodes", namespace: "", ..pod };
        for (rule, subject, want) in [
            (rule("*", "*", "*", "*", "*"), pod, true),
            (rule("*", "*", "*", "*", "*"), status, false),
            (rule("*", "*", "*", "*/*", "*"), status, true),
            (rule("*", "*", "*", "pods/*", "*"), status, true),
            (rule("*", "*", "*", "pods/status", "*"), status, true),
            (rule("*", "*", "*", "*/scale", "*"), status, false),
            (rule("UPDATE,DELETE", "", "v1", "pods", "*"), pod, false),
            (rule("CREATE", "", "v1", "pods", "*"), pod, true),
            (rule("CREATE", "apps", "v1", "pods", "*"), pod, false),
            (rule("CREATE", "", "v2", "pods", "*"), pod, false),
            (rule("*", "*", "*", "*", "Namespaced"), pod, true),
            (rule("*", "*", "*", "*", "Cluster"), pod, false),
            (rule("*", "*", "*", "*", "Cluster"), namespace, true),
            (rule("*", "*", "*", "*", "Namespaced"), namespace, false),
            (rule("*", "*", "*", "*", "Cluster"), node, true),
        ] {
            assert_eq!(rule.fits(&subject), want, "{rule:?} {subject:?}");
        }
        let named = Rule { names: vec!["b".into()], ..rule("*", "*", "*", "*", "*") };
        assert!(!named.fits(&pod) && named.fits(&Subject { name: "b", ..pod }));
    }
}
