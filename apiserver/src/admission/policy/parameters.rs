//! The objects that a binding gives its policy as parameters (upstream: `policy/generic/policy_dispatcher.go`, `CollectParams`).

use super::definitions::{Binding, Definition};
use super::{Misconfigured, Policies};
use crate::admission::Request;
use crate::cache::Filter;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

impl Policies {
    /// One evaluation for each of these. `Null` where the policy takes none; nothing at all where parameters may be missing and are.
    pub(super) async fn parameters(
        &self,
        definition: &Definition,
        binding: &Binding,
        request: &Request<'_>,
    ) -> Result<Vec<Value>, Misconfigured> {
        let (Some(kind), Some(reference)) = (&definition.parameters, &binding.parameters) else { return Ok(vec![Value::Null]) };
        let (api_version, name_of_kind) = (kind.api_version.as_deref().unwrap_or(""), kind.kind.as_deref().unwrap_or(""));
        let rows = self.registry.rows();
        let row = rows.iter().find(|r| r.kind == name_of_kind && r.api_version() == api_version);
        let endpoint = row.and_then(|r| self.registry.endpoint(&r.group, &r.version, &r.plural)).ok_or_else(|| {
            format!("failed to configure policy: failed to find resource referenced by paramKind: '{api_version}, Kind={name_of_kind}'")
        })?;
        let binding_wrong = |why: &str| format!("failed to configure binding: {why}");
        let given = reference.namespace.as_deref().filter(|n| !n.is_empty());
        let namespace = match (endpoint.row.namespaced(), given) {
            (false, Some(_)) => return Err(binding_wrong("paramRef.namespace must not be provided for a cluster-scoped `paramKind`")),
            (false, None) => "",
            (true, Some(namespace)) => namespace,
            (true, None) if request.namespace.is_empty() || !request.resource.namespaced() => {
                return Err(binding_wrong("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"));
            }
            (true, None) => request.namespace,
        };
        let cache = endpoint.cache().map_err(|e| binding_wrong(&e.to_string()))?;
        let entries = cache.list(&Filter::all().in_namespace(namespace), &Default::default()).entries;
        let name = reference.name.as_deref().filter(|n| !n.is_empty());
        let texts: Vec<_> = entries.iter().filter(|e| name.is_none_or(|n| e.name() == n)).map(|e| e.bytes()).collect();
        let selector = match (name, &reference.selector) {
            (Some(_), _) => None,
            (None, Some(selector)) => Some(selector),
            (None, None) => return Err(binding_wrong("paramRef must have either name or selector set")),
        };
        let mut found = endpoint.served_values(texts.iter().map(|t| &t[..])).await.map_err(|e| binding_wrong(&e.to_string()))?;
        found.retain(|value| selector.is_none_or(|s| selects(s, value)));
        match (found.is_empty(), reference.parameter_not_found_action.as_deref()) {
            (true, Some("Allow")) => Ok(Vec::new()),
            (true, _) => Err(binding_wrong("no params found for policy binding with `Deny` parameterNotFoundAction")),
            (false, _) => Ok(found),
        }
    }
}

fn selects(selector: &LabelSelector, object: &Value) -> bool {
    let labels = serde_json::from_value(object["metadata"]["labels"].clone()).ok();
    api::validation::labels::matches(selector, labels.as_ref())
}
