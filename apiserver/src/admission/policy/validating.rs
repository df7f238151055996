//! ValidatingAdmissionPolicy (upstream: `policy/validating/{dispatcher,validator}.go`).

use super::definitions::{Binding, Definition, Definitions, Validation};
use super::evaluation::Variables;
use super::{Misconfigured, Policies, Scene, Wanted, failed_condition};
use crate::admission::webhook::Wire;
use crate::admission::{Admission, Request, Sources};
use api::cel::Val;
use api::{Object, StatusError, status::Result};
use futures::future::BoxFuture;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause;
use serde_json::{Value, json};

/// How long a message made by an expression may be (upstream's).
const MESSAGE: usize = 5 * 1024;
/// How long the value of an annotation may be (upstream's).
const ANNOTATION: usize = 10 * 1024;

/// The plugin.
pub struct Validating(Policies);

/// Why a policy refuses.
#[derive(Debug)]
struct Denial {
    message: String,
    reason: Option<String>,
}

impl Validating {
    /// Follows the policies.
    pub fn new(sources: &Sources) -> Self {
        Validating(Policies::new(sources, Definitions::validating(&*sources.objects)))
    }

    async fn check(&self, request: &Request<'_>, object: Option<&dyn Object>) -> Result<()> {
        if self.0.definitions.all().is_empty() {
            return Ok(());
        }
        let wire = Wire::new(&self.0.registry, request, object)?;
        let mut refusal = None;
        for Wanted { definition, endpoint, bindings } in self.0.wanted(request, &wire)? {
            let mut given = Vec::with_capacity(bindings.len());
            for binding in &bindings {
                given.push(self.0.parameters(&definition, binding, request).await);
            }
            let scene = self.0.scene(request, &wire, &endpoint)?;
            for (binding, parameters) in bindings.iter().zip(given) {
                let denials = judge(&definition, parameters, request, &scene);
                for (index, denial) in denials.into_iter().enumerate() {
                    act(&definition, binding, request, index, denial, &mut refusal);
                }
            }
        }
        refusal.map_or(Ok(()), Err)
    }
}

/// What the policy has against the request, with the parameters of one of its bindings.
fn judge(definition: &Definition, parameters: Result<Vec<Value>, Misconfigured>, request: &Request<'_>, scene: &Scene) -> Vec<Denial> {
    let failed = |message: String| match definition.ignore_failure {
        true => Vec::new(),
        false => vec![Denial { message, reason: None }],
    };
    let parameters = match parameters {
        Ok(parameters) => parameters,
        Err(why) => return failed(why),
    };
    let mut denials = Vec::new();
    for parameters in &parameters {
        match failed_condition(scene, &definition.conditions, parameters) {
            Ok(None) => {}
            Ok(Some(_)) => continue,
            Err(why) => {
                denials.extend(failed(why));
                continue;
            }
        }
        let variables = scene.variables(&definition.variables, parameters);
        for validation in &definition.validations {
            denials.extend(validate(definition, validation, scene, parameters, &variables));
        }
        denials.extend(annotate(definition, request, scene, parameters, &variables));
    }
    denials
}

fn validate<'a>(
    definition: &Definition,
    validation: &'a Validation,
    scene: &'a Scene,
    parameters: &'a Value,
    variables: &Variables<'a>,
) -> Option<Denial> {
    let reason = validation.reason.clone();
    match scene.evaluate(&validation.expression, parameters, variables) {
        Ok(Val::Bool(true)) => None,
        Err(_) if definition.ignore_failure => None,
        Err(why) => Some(Denial { message: format!("expression '{}' resulted in error: {why}", validation.text), reason: None }),
        Ok(_) => {
            let made = validation.message_expression.as_ref().and_then(|e| scene.evaluate(e, parameters, variables).ok());
            let made = made.and_then(|value| match value {
                Val::String(text) => Some(text.trim().to_owned()),
                _ => None,
            });
            let usable = made.filter(|text| !text.is_empty() && text.len() <= MESSAGE && !text.contains('\n'));
            let given = validation.message.trim();
            let message = usable.unwrap_or_else(|| match given {
                "" => format!("failed expression: {}", validation.text.trim()),
                given => given.to_owned(),
            });
            Some(Denial { message, reason })
        }
    }
}

/// Writes the policy's annotations into the audit log; an expression that fails counts as the policy's failure.
fn annotate<'a>(
    definition: &'a Definition,
    request: &Request<'_>,
    scene: &'a Scene,
    parameters: &'a Value,
    variables: &Variables<'a>,
) -> Vec<Denial> {
    let mut denials = Vec::new();
    for (key, compiled) in &definition.annotations {
        match scene.evaluate(compiled, parameters, variables) {
            Ok(Val::String(text)) => {
                let text: String = text.trim().chars().take(ANNOTATION).collect();
                if !text.is_empty() {
                    request.context.notes.annotate(format!("{}/{key}", definition.name), text);
                }
            }
            Ok(_) => {}
            Err(_) if definition.ignore_failure => {}
            Err(why) => {
                denials.push(Denial { message: format!("audit annotation {key:?} resulted in error: {why}"), reason: None });
            }
        }
    }
    denials
}

/// Does with a denial what the binding says.
fn act(definition: &Definition, binding: &Binding, request: &Request<'_>, index: usize, denial: Denial, refusal: &mut Option<StatusError>) {
    let (policy, bound) = (&definition.name, &binding.name);
    let by = format!("ValidatingAdmissionPolicy '{policy}' with binding '{bound}'");
    for action in &binding.actions {
        match action.as_str() {
            "Deny" if refusal.is_none() => *refusal = Some(refuse(request, &format!("{by} denied request: {}", denial.message), &denial)),
            "Warn" => request.context.notes.warn(format!("Validation failed for {by}: {}", denial.message)),
            "Audit" => {
                let note = json!([{"message": denial.message, "policy": policy, "binding": bound, "expressionIndex": index, "validationActions": binding.actions}]);
                request.context.notes.annotate("validation.policy.admission.k8s.io/validation_failure", note.to_string());
            }
            _ => {}
        }
    }
}

fn refuse(request: &Request<'_>, message: &str, denial: &Denial) -> StatusError {
    let mut error = request.forbidden(message);
    let reason = denial.reason.as_deref().filter(|r| !r.is_empty()).unwrap_or("Invalid");
    error.0.reason = Some(reason.to_owned());
    error.0.code = Some(match reason {
        "Forbidden" => 403,
        "Unauthorized" => 401,
        "RequestEntityTooLarge" => 413,
        _ => 422,
    });
    let cause = StatusCause { message: Some(message.to_owned()), ..Default::default() };
    error.0.details.get_or_insert_default().causes = Some(vec![cause]);
    error
}

impl Admission for Validating {
    fn validate<'a>(&'a self, request: &'a Request<'a>, object: Option<&'a dyn Object>) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.check(request, object))
    }
}
