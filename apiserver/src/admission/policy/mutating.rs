//! MutatingAdmissionPolicy (upstream: `policy/mutating/{dispatcher,plugin}.go` and its patchers).

use super::definitions::{Definition, Definitions, Mutation};
use super::{Policies, Wanted, failed_condition};
use crate::admission::webhook::Wire;
use crate::admission::{Admission, Request, Sources};
use crate::handlers::target;
use crate::registry::{Endpoint, metadata};
use api::cel::Val;
use api::managed_fields::{self, Writer};
use api::{Object, StatusError, status::Result};
use futures::future::BoxFuture;
use serde_json::{Map, Value};

/// What the rounds of admission know the plugin by.
const PLUGIN: &str = "MutatingAdmissionPolicy";

/// The plugin.
pub struct Mutating(Policies);

impl Mutating {
    /// Follows the policies.
    pub fn new(sources: &Sources) -> Self {
        Mutating(Policies::new(sources, Definitions::mutating(&*sources.objects)))
    }

    async fn change(&self, request: &Request<'_>, object: Option<&mut dyn Object>) -> Result<()> {
        // There is nothing to change where nothing is written.
        let Some(object) = object.filter(|_| request.writes()) else { return Ok(()) };
        if self.0.definitions.all().is_empty() {
            return Ok(());
        }
        let mut wire = Wire::new(&self.0.registry, request, Some(&*object))?;
        let rounds = &request.context.rounds;
        rounds.enter(PLUGIN, wire.object());
        for Wanted { definition, endpoint, bindings } in self.0.wanted(request, &wire)? {
            for binding in bindings {
                let hook = format!("{}/{}", definition.name, binding.name);
                if !rounds.due(PLUGIN, &hook) {
                    continue;
                }
                let before = wire.object().clone();
                let outcome = self.0.parameters(&definition, &binding, request).await.and_then(|all| {
                    all.iter().try_for_each(|parameters| self.apply(&definition, parameters, request, &endpoint, &mut wire, &mut *object))
                });
                if let Err(why) = outcome
                    && !definition.ignore_failure
                {
                    let message = format!("policy '{}' with binding '{}' denied request: {why}", definition.name, binding.name);
                    let mut error = request.forbidden(&message);
                    error.0.reason = Some("Invalid".into());
                    error.0.code = Some(422);
                    return Err(error);
                }
                rounds.called(PLUGIN, &hook, *wire.object() != before, definition.reinvoked);
            }
        }
        rounds.leave(PLUGIN, wire.object());
        Ok(())
    }

    /// Applies the mutations of a policy, one after the other.
    fn apply(
        &self,
        definition: &Definition,
        parameters: &Value,
        request: &Request<'_>,
        endpoint: &Endpoint,
        wire: &mut Wire<'_>,
        object: &mut dyn Object,
    ) -> Result<(), String> {
        let text = |e: StatusError| e.to_string();
        let scene = self.0.scene(request, wire, endpoint).map_err(text)?;
        if failed_condition(&scene, &definition.conditions, parameters)?.is_some() {
            return Ok(());
        }
        for mutation in &definition.mutations {
            // Each sees what the one before it made, the variables too.
            let scene = self.0.scene(request, wire, endpoint).map_err(text)?;
            let variables = scene.variables(&definition.variables, parameters);
            let made = match mutation {
                Mutation::Apply(compiled) => {
                    merged(endpoint, request, scene.object(), scene.evaluate(compiled, parameters, &variables)?.to_json())
                }
                Mutation::Patch(compiled) => patched(scene.object(), &scene.evaluate(compiled, parameters, &variables)?),
            }?;
            wire.take(endpoint, made, object).map_err(text)?;
        }
        Ok(())
    }
}

/// The object with what an expression made applied to it.
fn merged(endpoint: &Endpoint, request: &Request<'_>, object: &Value, mut made: Value) -> Result<Value, String> {
    if !made.is_object() {
        return Err("unexpected evaluation result: an apply configuration has to be an object".into());
    }
    made["apiVersion"] = object["apiVersion"].clone();
    made["kind"] = object["kind"].clone();
    let target = target(endpoint, request.subresource).map_err(|e| e.to_string())?;
    let mut live = object.clone();
    let managed = metadata::take_managed_fields(&mut live);
    for field in ["name", "namespace"] {
        let own = metadata::text(&live, field).to_owned();
        if !own.is_empty() {
            metadata::of(&mut made).insert(field.into(), own.into());
        }
    }
    let writer = Writer {
        manager: "mutating-admission-policy",
        subresource: "",
        api_version: &endpoint.api_version,
        time: "1970-01-01T00:00:00Z",
        reset: managed_fields::reset_fields(false, ""),
    };
    let applied = managed_fields::apply(target.root, &live, &made, &Value::Null, &writer, true).map_err(|e| e.to_string())?;
    let mut out = applied.object;
    metadata::put_managed_fields(&mut out, managed);
    Ok(out)
}

/// The object after the operations that an expression came to.
fn patched(object: &Value, operations: &Val<'_>) -> Result<Value, String> {
    let Value::Array(operations) = operations.to_json() else {
        return Err("unexpected evaluation result: a JSON patch has to be a list".into());
    };
    let whole = |operation: Value| match operation {
        // An operation that adds nothing in particular adds null.
        Value::Object(mut map) => {
            let adds = matches!(map.get("op").and_then(Value::as_str), Some("add" | "replace" | "test"));
            if adds && !map.contains_key("value") {
                map.insert("value".into(), Value::Null);
            }
            Value::Object(map)
        }
        _ => Value::Object(Map::new()),
    };
    let operations: Value = operations.into_iter().map(whole).collect();
    let patch: json_patch::Patch = serde_json::from_value(operations).map_err(|e| e.to_string())?;
    let mut out = object.clone();
    json_patch::patch(&mut out, &patch).map_err(|e| format!("JSON Patch: {e}"))?;
    Ok(out)
}

impl Admission for Mutating {
    fn admit<'a>(&'a self, request: &'a Request<'a>, object: Option<&'a mut dyn Object>) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.change(request, object))
    }
}
