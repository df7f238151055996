//! What the names in expressions of policies and match conditions stand for in a request
//! (upstream: `admission/plugin/cel/{compile,filter}.go`).

use crate::admission::Request;
use crate::authentication::{AUTHENTICATED, SERVICE_ACCOUNT_PREFIX, UserInfo};
use crate::authorization::{Attributes, Authorizer, Decision};
use api::cel::types::Type;
use api::cel::value::{Key, Map, Opaque};
use api::cel::{Activation, EvalError, PER_CALL_LIMIT, RUNTIME_BUDGET, Val};
use api::resources::admissionregistration::expressions::{Compiled, namespace_type, request_type};
use indexmap::IndexMap;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the names stand for in one request.
pub(in crate::admission) struct Scene {
    object: Value,
    old: Value,
    request: Value,
    namespace: Value,
    authorizer: Arc<dyn Opaque>,
    resource_check: Arc<dyn Opaque>,
    types: [Type; 2],
    spent: AtomicU64,
}

/// The values of the policy's own variables, and which of them cannot be worked out.
#[derive(Default)]
pub(in crate::admission) struct Variables<'a> {
    values: IndexMap<Key, Val<'a>>,
    failed: Vec<(String, String)>,
}

struct Names<'a, 'r> {
    scene: &'a Scene,
    parameters: &'a Value,
    variables: &'r Variables<'a>,
}

impl<'a> Activation<'a> for Names<'a, '_> {
    fn resolve(&self, name: &str) -> Option<Result<Val<'a>, EvalError>> {
        let scene = self.scene;
        Some(Ok(match name {
            "object" => Val::json(&scene.object),
            "oldObject" => Val::json(&scene.old),
            "params" => Val::json(self.parameters),
            "request" => Val::typed(&scene.request, &scene.types[0]),
            "namespaceObject" => Val::typed(&scene.namespace, &scene.types[1]),
            "authorizer" => Val::Opaque(scene.authorizer.clone()),
            "authorizer.requestResource" => Val::Opaque(scene.resource_check.clone()),
            "variables" => Val::Map(Map::Made(Arc::new(self.variables.values.clone()), None)),
            _ => return None,
        }))
    }
}

impl Scene {
    /// One with these objects.
    pub fn new(object: Value, old: Value, request: Value, namespace: Value, authorizer: [Arc<dyn Opaque>; 2]) -> Self {
        let [authorizer, resource_check] = authorizer;
        let types = [request_type(), namespace_type()];
        Scene { object, old, request, namespace, authorizer, resource_check, types, spent: AtomicU64::new(0) }
    }

    /// The object as the expressions see it.
    pub fn object(&self) -> &Value {
        &self.object
    }

    /// Evaluates an expression. All evaluations for a policy together are bounded.
    pub fn evaluate<'a>(&'a self, compiled: &'a Compiled, parameters: &'a Value, variables: &Variables<'a>) -> Result<Val<'a>, String> {
        let program = compiled.as_ref().map_err(|why| format!("compilation failed: {why}"))?;
        let left = RUNTIME_BUDGET.saturating_sub(self.spent.load(Ordering::Relaxed));
        if left == 0 {
            return Err("validation failed due to running out of cost budget, no further validation rules will be run".into());
        }
        let names = Names { scene: self, parameters, variables };
        let (outcome, cost) = program.evaluate(&names, left.min(PER_CALL_LIMIT));
        self.spent.fetch_add(cost, Ordering::Relaxed);
        outcome.map_err(|error| {
            let text = error.to_string();
            let failed = variables.failed.iter().find(|(name, _)| text == format!("no such key: {name}"));
            failed.map_or(text, |(name, why)| format!("composited variable {name:?} fails to evaluate: {why}"))
        })
    }

    /// Works out the policy's variables, each with those before it.
    pub fn variables<'a>(&'a self, all: &'a [(String, Compiled)], parameters: &'a Value) -> Variables<'a> {
        let mut out = Variables::default();
        for (name, compiled) in all {
            match self.evaluate(compiled, parameters, &out) {
                Ok(value) => {
                    out.values.insert(Key::String(name.as_str().into()), value);
                }
                Err(why) => out.failed.push((name.clone(), why)),
            }
        }
        out
    }
}

/// The first of the conditions that does not hold: `Ok(Some(name))`; an error if none is false but one cannot be told.
pub(in crate::admission) fn failed_condition(
    scene: &Scene,
    conditions: &[(String, Compiled)],
    parameters: &Value,
) -> Result<Option<String>, String> {
    let mut errors = Vec::new();
    for (name, compiled) in conditions {
        match scene.evaluate(compiled, parameters, &Variables::default()) {
            Ok(Val::Bool(true)) => {}
            Ok(_) => return Ok(Some(name.clone())),
            Err(why) => errors.push(why),
        }
    }
    match errors.as_slice() {
        [] => Ok(None),
        [one] => Err(one.clone()),
        all => Err(format!("[{}]", all.join(", "))),
    }
}

/// `authorizer` and `authorizer.requestResource` of a request.
pub(in crate::admission) fn authorizer(authorizer: Arc<dyn Authorizer>, request: &Request<'_>) -> [Arc<dyn Opaque>; 2] {
    let row = request.resource;
    let asks = Asks { authorizer, user: request.user.clone() };
    let check = Check {
        asks: asks.clone(),
        attributes: Attributes {
            user: request.user.clone(),
            resource_request: true,
            group: row.group.to_string(),
            version: row.version.to_string(),
            resource: row.plural.to_string(),
            subresource: request.subresource.to_owned(),
            namespace: request.namespace.to_owned(),
            name: request.name.to_owned(),
            ..Default::default()
        },
        kind: "kubernetes.authorization.ResourceCheck",
    };
    [Arc::new(asks), Arc::new(check)]
}

fn text<'v>(arguments: &'v [Val<'_>], at: usize) -> Option<&'v str> {
    match arguments.get(at) {
        Some(Val::String(text)) => Some(text),
        _ => None,
    }
}

/// An authorizer that is asked on somebody's behalf.
#[derive(Clone)]
struct Asks {
    authorizer: Arc<dyn Authorizer>,
    user: UserInfo,
}

impl Opaque for Asks {
    fn type_name(&self) -> &'static str {
        "kubernetes.authorization.Authorizer"
    }

    fn call(&self, function: &str, arguments: &[Val<'_>]) -> Option<Result<Val<'static>, EvalError>> {
        let attributes = Attributes { user: self.user.clone(), ..Default::default() };
        let made: Arc<dyn Opaque> = match (function, text(arguments, 0)?, text(arguments, 1)) {
            ("path", path, _) => {
                let attributes = Attributes { path: path.to_owned(), ..attributes };
                Arc::new(Check { asks: self.clone(), attributes, kind: "kubernetes.authorization.PathCheck" })
            }
            ("group", group, _) => {
                let attributes = Attributes { group: group.to_owned(), resource_request: true, version: "*".into(), ..attributes };
                Arc::new(Check { asks: self.clone(), attributes, kind: "kubernetes.authorization.GroupCheck" })
            }
            ("serviceAccount", namespace, Some(name)) => {
                let groups = [AUTHENTICATED, "system:serviceaccounts"].map(str::to_owned);
                let mut groups = groups.to_vec();
                groups.push(format!("system:serviceaccounts:{namespace}"));
                let user = UserInfo { name: format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"), groups, ..Default::default() };
                Arc::new(Asks { user, ..self.clone() })
            }
            _ => return None,
        };
        Some(Ok(Val::Opaque(made)))
    }
}

/// A question for an authorizer, in the making.
#[derive(Clone)]
struct Check {
    asks: Asks,
    attributes: Attributes,
    kind: &'static str,
}

impl Opaque for Check {
    fn type_name(&self) -> &'static str {
        self.kind
    }

    fn call(&self, function: &str, arguments: &[Val<'_>]) -> Option<Result<Val<'static>, EvalError>> {
        let given = text(arguments, 0)?.to_owned();
        let mut next = self.clone();
        match function {
            "check" => {
                next.attributes.verb = given;
                let decision = self.asks.authorizer.authorize(&next.attributes);
                return Some(Ok(Val::Opaque(Arc::new(Decided(decision)))));
            }
            "resource" => {
                next.attributes.resource = given;
                next.kind = "kubernetes.authorization.ResourceCheck";
            }
            "subresource" => next.attributes.subresource = given,
            "namespace" => next.attributes.namespace = given,
            "name" => next.attributes.name = given,
            "fieldSelector" => next.attributes.field_selector = given,
            // Labels do not take part in any authorizer's decision here.
            "labelSelector" => {}
            _ => return None,
        }
        Some(Ok(Val::Opaque(Arc::new(next))))
    }
}

/// An authorizer's answer.
struct Decided(Decision);

impl Opaque for Decided {
    fn type_name(&self) -> &'static str {
        "kubernetes.authorization.Decision"
    }

    fn call(&self, function: &str, _: &[Val<'_>]) -> Option<Result<Val<'static>, EvalError>> {
        let (Decision::Allow(reason) | Decision::Deny(reason) | Decision::NoOpinion(reason)) = &self.0;
        Some(Ok(match function {
            "allowed" => Val::Bool(matches!(self.0, Decision::Allow(_))),
            "reason" => Val::text(reason.as_str()),
            "errored" => Val::Bool(false),
            "error" => Val::text(""),
            _ => return None,
        }))
    }
}
