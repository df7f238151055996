//! Admission by servers of the user's own: what MutatingWebhookConfiguration and ValidatingWebhookConfiguration name is called with an
//! `AdmissionReview` (upstream: `apiserver/pkg/admission/plugin/webhook`).
//!
//! Mutating webhooks are called one after the other, configurations by name and webhooks in their order, each with what the one before left; validating
//! ones all at once. Configurations of admission are never sent to a webhook, so that a broken one can be taken away.

mod hooks;
mod matching;
mod mutating;
mod review;
mod validating;
mod wire;

pub use mutating::Mutating;
pub use validating::Validating;

pub(super) use matching::{Labels, Rule, Subject, exempt, is_empty};
pub(super) use review::asked;
pub(super) use wire::Wire;

use super::{Request, Sources, policy};
use crate::authorization::Authorizer;
use crate::notes::Notes;
use crate::objects::{Collection, Objects, decoded};
use crate::outbound::{CallError, Caller};
use crate::registry::{Endpoint, Registry};
use api::{StatusError, status::Result};
use hooks::{Hook, Hooks};
use k8s_openapi::api::core::v1::Namespace;
use review::Verdict;
use serde_json::Value;
use std::sync::Arc;

/// What both kinds of webhooks are called with.
struct Calls {
    hooks: Hooks,
    objects: Arc<dyn Objects>,
    registry: Arc<Registry>,
    caller: Arc<Caller>,
    authorizer: Arc<dyn Authorizer>,
}

/// A webhook that is to be called, and the version of the object that it wants to see.
struct Invocation {
    hook: Arc<Hook>,
    endpoint: Arc<Endpoint>,
}

/// How a call ended.
enum Failure {
    /// The webhook could not be asked, or its answer not be understood.
    Call(StatusError),
    /// It said no, or may not be asked.
    Refusal(StatusError),
}

impl Calls {
    fn new(sources: &Sources, hooks: Hooks) -> Self {
        let Sources { objects, registry, caller, authorizer, .. } = sources;
        let (objects, registry, caller, authorizer) = (objects.clone(), registry.clone(), caller.clone(), authorizer.clone());
        Calls { hooks, objects, registry, caller, authorizer }
    }

    /// The webhooks that want to see this request, in order.
    fn wanted(&self, request: &Request<'_>, wire: &Wire<'_>) -> Result<Vec<Invocation>> {
        let hooks = self.hooks.all();
        if hooks.is_empty() || exempt(request) {
            return Ok(Vec::new());
        }
        let mut labels = Labels::new(wire);
        let mut found = Vec::new();
        for hook in hooks.iter() {
            if !self.in_namespace(hook, request, &mut labels)? || !labels.object_matches(&hook.object_selector) {
                continue;
            }
            if let Some(endpoint) = self.fitting(hook, request, wire)
                && self.conditions_hold(hook, request, wire, &endpoint)?
            {
                found.push(Invocation { hook: hook.clone(), endpoint });
            }
        }
        Ok(found)
    }

    /// Whether the webhook looks at the request's namespace. What belongs to the cluster is looked at by all.
    fn in_namespace(&self, hook: &Hook, request: &Request<'_>, labels: &mut Labels<'_>) -> Result<bool> {
        if matching::is_empty(&hook.namespace_selector) {
            return Ok(true);
        }
        if request.namespace.is_empty() {
            return Ok(true);
        }
        let of_namespace = labels.namespace(request, || {
            let found = decoded::<Namespace>(&*self.objects, Collection::core("namespaces"), "", request.namespace);
            found.map(|n| n.metadata.labels.unwrap_or_default())
        });
        match of_namespace {
            Some(labels) => Ok(api::validation::labels::matches(&hook.namespace_selector, Some(labels))),
            None => Err(StatusError::not_found("", "namespaces", request.namespace)),
        }
    }

    /// The version of the resource that a rule of the webhook fits: the request's own if one does, else an equivalent one unless it wants exact matches only.
    fn fitting(&self, hook: &Hook, request: &Request<'_>, wire: &Wire<'_>) -> Option<Arc<Endpoint>> {
        let own = wire.endpoint();
        let fits = |endpoint: &Endpoint| {
            let subject = Subject::of(request, &endpoint.row);
            hook.rules.iter().any(|rule| rule.fits(&subject))
        };
        if fits(own) {
            return Some(own.clone());
        }
        if hook.exact {
            return None;
        }
        self.registry.equivalents(&own.row).into_iter().find(|endpoint| fits(endpoint))
    }

    /// Whether the webhook's match conditions hold. One that cannot be told counts as the webhook's failure.
    fn conditions_hold(&self, hook: &Hook, request: &Request<'_>, wire: &Wire<'_>, endpoint: &Endpoint) -> Result<bool> {
        if hook.conditions.is_empty() {
            return Ok(true);
        }
        let [object, old] = wire.in_version(endpoint)?;
        let authorizer = policy::authorizer(self.authorizer.clone(), request);
        let scene = policy::Scene::new(object, old, asked("", request, endpoint), Value::Null, authorizer);
        match policy::failed_condition(&scene, &hook.conditions, &Value::Null) {
            Ok(failed) => Ok(failed.is_none()),
            Err(_) if hook.ignore_failure => Ok(false),
            Err(why) => Err(request.forbidden(&why)),
        }
    }

    /// Calls the webhook and reads its answer.
    async fn call(&self, invocation: &Invocation, request: &Request<'_>, wire: &Wire<'_>) -> Result<Verdict, Failure> {
        let Invocation { hook, endpoint } = invocation;
        let calling = |why: String| Failure::Call(StatusError::internal(format!("failed calling webhook {:?}: {why}", hook.name)));
        if request.dry_run && !hook.harmless {
            let why = format!("admission webhook {:?} does not support dry run", hook.name);
            return Err(Failure::Refusal(StatusError::bad_request(why)));
        }
        let Some(version) = hook.review_version else {
            return Err(calling("could not get REST client: unsupported AdmissionReview version".into()));
        };
        let uid = uuid::Uuid::new_v4().to_string();
        let review = review::request(version, &uid, request, wire, endpoint).map_err(|e| calling(e.to_string()))?;
        let query = format!("timeout={}s", hook.timeout.as_secs());
        let server = hook.server.as_ref().map_err(|why| calling(why.clone()))?;
        let answer = self.caller.post(server, &query, review.into(), hook.timeout).await;
        let answer = answer.map_err(|e: CallError| calling(format!("failed to call webhook: {e}")))?;
        let verdict = review::verdict(&answer, version, &uid, hook.mutating);
        let verdict = verdict.map_err(|why| calling(format!("received invalid webhook response: {why}")))?;
        note(&verdict, hook, &request.context.notes);
        match &verdict.refusal {
            Some(status) => Err(Failure::Refusal(review::denied(&hook.name, status))),
            None => Ok(verdict),
        }
    }
}

fn note(verdict: &Verdict, hook: &Hook, notes: &Notes) {
    for (key, value) in &verdict.annotations {
        notes.annotate(format!("{}/{key}", hook.name), value.clone());
    }
    notes.warn_all(verdict.warnings.iter().cloned());
}

/// Whether a failed call ends the request, and with what.
fn failed(hook: &Hook, failure: Failure) -> Result<()> {
    match failure {
        Failure::Refusal(status) => Err(status),
        Failure::Call(status) if hook.ignore_failure => {
            tracing::warn!(webhook = hook.name, configuration = hook.configuration, %status, "failed calling a webhook, failing open");
            Ok(())
        }
        Failure::Call(status) => {
            tracing::warn!(webhook = hook.name, configuration = hook.configuration, %status, "failed calling a webhook, failing closed");
            Err(status)
        }
    }
}

/// The object after a JSON patch.
fn patched(object: &Value, patch: &[u8]) -> Result<Value, String> {
    let patch: json_patch::Patch = serde_json::from_slice(patch).map_err(|e| e.to_string())?;
    let mut object = object.clone();
    json_patch::patch(&mut object, &patch).map_err(|e| e.to_string())?;
    Ok(object)
}
