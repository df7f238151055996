//! Admission by expressions: ValidatingAdmissionPolicy and MutatingAdmissionPolicy with their bindings and parameters
//! (upstream: `apiserver/pkg/admission/plugin/policy`).
//!
//! A policy says what is looked at and what must hold or is to change; a binding puts it to use, for some of the requests and with some parameters. Expressions are
//! compiled once, when their policy changes. What configures admission itself is never looked at.

mod definitions;
mod evaluation;
mod mutating;
mod parameters;
pub mod type_checking;
mod validating;

pub use mutating::Mutating;
pub use validating::Validating;

use super::webhook::{Labels, Subject, Wire, exempt, is_empty};
use super::{Request, Sources};
use crate::authorization::Authorizer;
use crate::objects::{Collection, Objects, decoded};
use crate::registry::{Endpoint, Registry};
use api::{StatusError, status::Result};
use definitions::{Binding, Criteria, Definition, Definitions};
pub(super) use evaluation::{Scene, authorizer, failed_condition};
use serde_json::Value;
use std::sync::Arc;

/// What both kinds of policies are judged with.
struct Policies {
    definitions: Definitions,
    objects: Arc<dyn Objects>,
    registry: Arc<Registry>,
    authorizer: Arc<dyn Authorizer>,
}

/// Why a policy comes to nothing; its failure policy says whether that ends the request.
type Misconfigured = String;

impl Policies {
    fn new(sources: &Sources, definitions: Definitions) -> Self {
        let Sources { objects, registry, authorizer, .. } = sources;
        Policies { definitions, objects: objects.clone(), registry: registry.clone(), authorizer: authorizer.clone() }
    }

    /// Whether the criteria take the request, and in which version. Without rules they take every resource.
    fn takes(&self, criteria: &Criteria, request: &Request<'_>, wire: &Wire<'_>, labels: &mut Labels<'_>) -> Result<Option<Arc<Endpoint>>> {
        if !is_empty(&criteria.namespace_selector) && !request.namespace.is_empty() {
            let of_namespace = labels.namespace(request, || {
                let found = decoded::<k8s_openapi::api::core::v1::Namespace>(&*self.objects, NAMESPACES, "", request.namespace);
                found.map(|n| n.metadata.labels.unwrap_or_default())
            });
            let Some(of_namespace) = of_namespace else { return Err(StatusError::not_found("", "namespaces", request.namespace)) };
            if !api::validation::labels::matches(&criteria.namespace_selector, Some(of_namespace)) {
                return Ok(None);
            }
        }
        if !labels.object_matches(&criteria.object_selector) {
            return Ok(None);
        }
        let own = wire.endpoint();
        let subject = |endpoint: &Endpoint| criteria.excludes.iter().any(|rule| rule.fits(&Subject::of(request, &endpoint.row)));
        if subject(own) {
            return Ok(None);
        }
        if criteria.rules.is_empty() {
            return Ok(Some(own.clone()));
        }
        let fits = |endpoint: &Endpoint| criteria.rules.iter().any(|rule| rule.fits(&Subject::of(request, &endpoint.row)));
        if fits(own) {
            return Ok(Some(own.clone()));
        }
        if criteria.exact {
            return Ok(None);
        }
        Ok(self.registry.equivalents(&own.row).into_iter().find(|endpoint| fits(endpoint)))
    }

    /// The policies that take the request, each in its version and with its bindings that do so too.
    fn wanted(&self, request: &Request<'_>, wire: &Wire<'_>) -> Result<Vec<Wanted>> {
        let all = self.definitions.all();
        if all.is_empty() || exempt(request) {
            return Ok(Vec::new());
        }
        let mut labels = Labels::new(wire);
        let mut found = Vec::new();
        for (definition, bindings) in all.iter() {
            let Some(endpoint) = self.takes(&definition.criteria, request, wire, &mut labels)? else { continue };
            let mut chosen = Vec::new();
            for binding in bindings {
                let taken = match &binding.criteria {
                    None => true,
                    Some(criteria) => self.takes(criteria, request, wire, &mut labels)?.is_some(),
                };
                if taken {
                    chosen.push(binding.clone());
                }
            }
            if !chosen.is_empty() {
                found.push(Wanted { definition: definition.clone(), endpoint, bindings: chosen });
            }
        }
        Ok(found)
    }

    /// What the expressions of a policy see of the request, but for parameters.
    fn scene(&self, request: &Request<'_>, wire: &Wire<'_>, endpoint: &Endpoint) -> Result<Scene> {
        let [object, old] = wire.in_version(endpoint)?;
        // Namespaces are not in themselves; what is not in one sees none.
        let namespace = match request.namespace {
            "" => Value::Null,
            _ if request.is("", "namespaces", "") => Value::Null,
            name => self.objects.get(NAMESPACES, "", name).and_then(|n| serde_json::from_slice(&n).ok()).unwrap_or_default(),
        };
        let authorizer = evaluation::authorizer(self.authorizer.clone(), request);
        Ok(Scene::new(object, old, super::webhook::asked("", request, endpoint), namespace, authorizer))
    }
}

/// A policy to be applied.
struct Wanted {
    definition: Arc<Definition>,
    endpoint: Arc<Endpoint>,
    bindings: Vec<Arc<Binding>>,
}

const NAMESPACES: Collection = Collection::core("namespaces");
