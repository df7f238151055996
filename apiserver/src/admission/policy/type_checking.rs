//! What of a ValidatingAdmissionPolicy's expressions cannot be right for the kinds it is about, told in its status
//! (upstream: `policy/validating/typechecking.go` and the controller manager's `validatingadmissionpolicystatus`).
//!
//! Only rules that name group, version and resource are looked at; parameters count as of any type.

use crate::cache::{Filter, Start, WatchOptions};
use crate::objects::{Collection, Objects, decoded_list};
use crate::registry::{Endpoint, Registry};
use api::cel::types::Type as CelType;
use api::resources::admissionregistration::expressions::Environments;
use api::schema::{Root, Schema, Type};
use api::structural;
use k8s_openapi::api::admissionregistration::v1::{ExpressionWarning, ValidatingAdmissionPolicy};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

const POLICIES: Collection = Collection::of("admissionregistration.k8s.io", "validatingadmissionpolicies");
/// How many kinds a policy is checked for (upstream's).
const KINDS: usize = 10;
/// How deep the type of an object goes; below that nothing is known. Schemas may contain themselves.
const DEPTH: usize = 12;

/// The type that expressions see of a schema's.
fn cel_type(schema: &Schema, ty: &Type, depth: usize) -> CelType {
    match ty {
        _ if depth == 0 => CelType::DYN,
        Type::String | Type::Quantity => CelType::STRING,
        Type::Bool => CelType::Bool,
        Type::Int32 | Type::Int64 => CelType::Int,
        Type::Float64 => CelType::Double,
        Type::Bytes => CelType::BYTES,
        Type::Time | Type::MicroTime => CelType::TIMESTAMP,
        Type::IntOrString | Type::Raw | Type::Json | Type::Untyped => CelType::DYN,
        Type::List(item) => CelType::list(cel_type(schema, item, depth - 1)),
        Type::Map(value) => CelType::map(CelType::STRING, cel_type(schema, value, depth - 1)),
        Type::Struct(id) => {
            let definition = schema.get(*id);
            if definition.fields.is_empty() {
                return CelType::DYN;
            }
            let fields = definition.fields.iter().map(|f| (f.name.to_string(), cel_type(schema, &f.ty, depth - 1)));
            CelType::object(&definition.name, fields)
        }
    }
}

/// A kind that a policy is about: `apps/v1, Kind=Deployment`, and the type of its objects.
type Subject = (String, CelType);

fn subject(endpoint: &Endpoint) -> Option<Subject> {
    let object = match &endpoint.row.custom {
        Some(version) => structural::cel_type(version.schema.as_deref()?, true)?,
        None => whole(endpoint.schema()?),
    };
    Some((format!("{}, Kind={}", endpoint.api_version, endpoint.row.kind), object))
}

fn whole(root: Root<'_>) -> CelType {
    cel_type(root.schema, &root.ty(), DEPTH)
}

/// What is wrong with the expressions of a policy for these kinds.
fn warnings(policy: &ValidatingAdmissionPolicy, subjects: &[Subject]) -> Vec<ExpressionWarning> {
    let spec = policy.spec.clone().unwrap_or_default();
    let parameters = spec.param_kind.is_some();
    let environments: Vec<(&str, Environments)> = subjects
        .iter()
        .map(|(name, object)| {
            let mut environments = Environments::typed(object.clone(), parameters.then_some(CelType::DYN));
            for variable in spec.variables.iter().flatten() {
                let compiled = environments.compile(&variable.expression);
                environments.declare(&variable.name, &compiled);
            }
            (name.as_str(), environments)
        })
        .collect();
    let check = |expression: &str| -> Option<String> {
        let wrong = environments.iter().filter_map(|(name, e)| Some(format!("{name}: {}", e.compile(expression).err()?)));
        let wrong: Vec<String> = wrong.collect();
        (!wrong.is_empty()).then(|| wrong.join("\n"))
    };
    let mut out = Vec::new();
    for (index, validation) in spec.validations.iter().flatten().enumerate() {
        let message = validation.message_expression.as_deref().filter(|e| !e.is_empty());
        for (field, expression) in [("expression", Some(validation.expression.as_str())), ("messageExpression", message)] {
            if let Some(warning) = expression.and_then(check) {
                out.push(ExpressionWarning { field_ref: format!("spec.validations[{index}].{field}"), warning });
            }
        }
    }
    out
}

fn endpoints(registry: &Registry, policy: &ValidatingAdmissionPolicy) -> Vec<Arc<Endpoint>> {
    let rules = policy.spec.iter().filter_map(|s| s.match_constraints.as_ref()).flat_map(|m| m.resource_rules.iter().flatten());
    let mut found: Vec<Arc<Endpoint>> = Vec::new();
    for rule in rules {
        for group in rule.api_groups.iter().flatten() {
            for version in rule.api_versions.iter().flatten() {
                for resource in rule.resources.iter().flatten() {
                    let endpoint = registry.endpoint(group, version, resource);
                    found.extend(endpoint.filter(|e| !found.iter().any(|f| Arc::ptr_eq(&f.row, &e.row))));
                }
            }
        }
    }
    found.truncate(KINDS);
    found
}

/// The status of a policy whose present generation has not been looked at.
fn status(registry: &Registry, policy: &ValidatingAdmissionPolicy) -> Option<Value> {
    let generation = policy.metadata.generation?;
    if policy.status.as_ref().and_then(|s| s.observed_generation) == Some(generation) {
        return None;
    }
    let endpoints = endpoints(registry, policy);
    let subjects: Vec<Subject> = endpoints.iter().filter_map(|e| subject(e)).collect();
    let warnings = warnings(policy, &subjects);
    let checking = if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) };
    Some(json!({"observedGeneration": generation, "typeChecking": checking}))
}

/// Keeps the status of policies until `stop`.
pub async fn run(registry: Arc<Registry>, stop: CancellationToken) {
    loop {
        let Some(endpoint) = registry.stored_endpoint(POLICIES.group, POLICIES.plural) else { return };
        let options = WatchOptions { start: Start::Initial { end_bookmark: false }, bookmarks: false, deadline: None };
        let Some(Ok(mut watcher)) = endpoint.cache.as_ref().map(|cache| cache.watch(Filter::all(), options)) else { return };
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                events = watcher.next() => if events.is_none() { break },
            }
            pass(&registry).await;
        }
    }
}

async fn pass(registry: &Registry) {
    let objects: &dyn Objects = registry;
    for policy in decoded_list::<ValidatingAdmissionPolicy>(objects, POLICIES, "") {
        let Some(status) = status(registry, &policy) else { continue };
        let mut object = serde_json::to_value(&policy).unwrap_or_default();
        object["status"] = status;
        if let Err(error) = objects.update(POLICIES, "", "status", object).await
            && !matches!(error.code(), 404 | 409)
        {
            tracing::warn!(policy = policy.metadata.name, %error, "cannot write what a policy's expressions were checked for");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_that_cannot_be_right_are_told() {
        let policy: ValidatingAdmissionPolicy = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "variables": [{"name": "r", "expression": "object.spec.replicas"}],
            "validations": [
                {"expression": "object.spec.replicas > 1", "messageExpression": "'wants more than ' + string(variables.r)"},
                {"expression": "object.spec.replicas > '1'", "messageExpression": "'got ' + variables.r"},
                {"expression": "object.spec.nope == 1"}]}}))
        .unwrap();
        let deployment = whole(api::schema::of_kind("apps/v1", "Deployment").unwrap());
        let found = warnings(&policy, &[("apps/v1, Kind=Deployment".to_owned(), deployment)]);
        let shown: Vec<(&str, bool)> =
            found.iter().map(|w| (w.field_ref.as_str(), w.warning.starts_with("apps/v1, Kind=Deployment: "))).collect();
        assert_eq!(
            shown,
            [
                ("spec.validations[1].expression", true),
                ("spec.validations[1].messageExpression", true),
                ("spec.validations[2].expression", true)
            ]
        );
        assert!(found[0].warning.contains("found no matching overload for '_>_' applied to '(int, string)'"), "{}", found[0].warning);
        assert!(found[2].warning.contains("undefined field 'nope'"));
    }

    #[test]
    fn custom_kinds_have_the_types_of_their_schemas() {
        let props = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"replicas": {"type": "integer"}}}}});
        let schema = structural::Structural::new(&serde_json::from_value(props).unwrap());
        let policy: ValidatingAdmissionPolicy = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"validations": [
            {"expression": "object.spec.replicas > 1 && object.metadata.name != ''"},
            {"expression": "object.spec.replicas > '1'"}]}}))
        .unwrap();
        let found = warnings(&policy, &[("x.io/v1, Kind=CronTab".to_owned(), structural::cel_type(&schema, true).unwrap())]);
        assert_eq!(found.iter().map(|w| w.field_ref.as_str()).collect::<Vec<_>>(), ["spec.validations[1].expression"]);
    }
}
