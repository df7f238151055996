//! From an authorised request to its answer: finds the resource and the verb, and hands over to the verb's handler
//! (upstream: `apiserver/pkg/endpoints/installer.go` makes these routes; here they are looked up in the rows).

pub mod parameters;
pub(crate) use write::target;
mod read;
mod watch;
mod write;

use crate::aggregation::{Aggregator, Backend};
use crate::authentication::UserInfo;
use crate::connect::{Connections, Wanted};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::negotiation::{Format, Offer, negotiate};
use crate::notes::Notes;
use crate::registry::{Endpoint, Registry};
use crate::request::{Query, RequestInfo};
use crate::respond::{self, Response};
use crate::reviews::Reviews;
use api::resource::Verb;
use api::{StatusError, status::Result};
use axum::body::Body;
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parameters::ListParameters;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The largest body that is read (upstream: `MaxRequestBodyBytes`).
pub const MAX_BODY: usize = 3 * 1024 * 1024;

/// One authorised request.
pub struct Call {
    /// The request as it came, its body unread; what a proxied connection is upgraded from.
    pub request: Request<Body>,
    /// What it asks for.
    pub info: RequestInfo,
    /// Its query.
    pub query: Query,
    /// Who asks.
    pub user: UserInfo,
    /// What is noted on the way.
    pub notes: Arc<Notes>,
}

impl Call {
    /// A request by somebody who may make it.
    pub fn new(request: Request<Body>, info: RequestInfo, query: Query, user: UserInfo, notes: Arc<Notes>) -> Self {
        Call { request, info, query, user, notes }
    }

    /// The form to answer in.
    pub fn format(&self, offer: Offer) -> Result<Format> {
        negotiate(self.request.headers(), self.query.get("pretty"), offer)
    }

    /// The client's program: the user agent up to its version (upstream: `prefixFromUserAgent`).
    pub fn program(&self) -> String {
        let agent = self.request.headers().get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
        api::managed_fields::manager_of_user_agent(agent)
    }

    /// Reads the body, within the limit.
    pub async fn body(&mut self) -> Result<Bytes> {
        let body = std::mem::take(self.request.body_mut());
        match Limited::new(body, MAX_BODY).collect().await {
            Ok(collected) => {
                let bytes = collected.to_bytes();
                self.notes.keep_body(&bytes);
                Ok(bytes)
            }
            Err(error) if error.is::<LengthLimitError>() => {
                Err(StatusError::too_large(format!("Request entity too large: limit is {MAX_BODY}")))
            }
            Err(error) => Err(StatusError::bad_request(format!("unable to read the request body: {error}"))),
        }
    }
}

/// The subresources whose requests are passed on to a kubelet, a pod or a service.
const CONNECTED: [&str; 5] = ["attach", "exec", "log", "portforward", "proxy"];

/// A path outside the API that another part answers, as a whole document: the token issuer's.
pub type Document = Box<dyn Fn() -> (u16, &'static str, Bytes) + Send + Sync>;

/// All handlers and what they need.
pub struct Api {
    /// Every resource.
    pub registry: Arc<Registry>,
    /// What is answered rather than stored.
    pub reviews: Reviews,
    /// What passes requests on to kubelets, pods and services.
    pub connections: Arc<Connections>,
    /// How other components are.
    pub components: crate::component_status::Components,
    /// What nodes and pods use.
    pub usage: crate::usage::Usage,
    /// What other servers answer for.
    pub aggregator: Arc<Aggregator>,
    /// Documents by their path.
    pub documents: Vec<(&'static str, Document)>,
    /// OpenAPI documents that were asked for.
    pub openapi: crate::openapi::Documents,
    /// Checks.
    pub health: Health,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// `host:port` under which the server is reached from inside the cluster.
    pub server_address: String,
    /// How long a watch without a timeout lasts at least.
    pub min_watch_timeout: Duration,
    /// Cancelled when the server is told to stop: watches end then, so that their clients go on elsewhere.
    pub stop: CancellationToken,
}

impl Api {
    /// Answers a request.
    pub async fn serve(&self, call: Call) -> Response {
        let format = call.format(Offer::Plain).unwrap_or(Format::JSON);
        let notes = call.notes.clone();
        if let Some(backend) = self.backend(&call.info) {
            return self.aggregator.proxy(&backend, call.request, &call.user).await;
        }
        let answer = match call.info.resource_request {
            true => self.resource(call).await,
            false => crate::paths::answer(self, call).await,
        };
        let mut response = answer.unwrap_or_else(|error| respond::status(&error, format));
        respond::warn(&mut response, &notes.warnings());
        response
    }

    /// The other server that a path belongs to: everything below a group and version that is not ours.
    fn backend(&self, info: &RequestInfo) -> Option<Arc<Backend>> {
        if info.resource_request {
            return if info.group.is_empty() { None } else { self.aggregator.find(&info.group, &info.version) };
        }
        let mut parts = info.path.trim_matches('/').split('/');
        match (parts.next()?, parts.next()?, parts.next(), parts.next()) {
            ("apis", group, Some(version), None) => self.aggregator.find(group, version),
            ("openapi", "v3", Some("apis"), Some(group)) => self.aggregator.find(group, parts.next()?),
            _ => None,
        }
    }

    /// All resources that are served, those of the registry and what is measured, as discovery has them.
    pub fn rows<'a>(&self, served: &'a [Arc<api::Resource>]) -> Vec<&'a api::Resource> {
        let mut rows: Vec<&api::Resource> = served.iter().map(|r| &**r).collect();
        rows.extend(self.usage.rows());
        rows
    }

    async fn resource(&self, call: Call) -> Result<Response> {
        let info = &call.info;
        if info.group == crate::usage::GROUP {
            return self.usage.answer(call).await;
        }
        let Some(endpoint) = self.registry.endpoint(&info.group, &info.version, &info.resource) else {
            // Under a group that is served the router knows the path; elsewhere nobody does.
            let routed = info.group.is_empty() || self.registry.has_group(&info.group);
            return if routed { Err(respond::generic(404)) } else { Ok(respond::page_not_found()) };
        };
        let row = endpoint.row.clone();
        if row.deprecation.is_some() && (info.subresource.is_empty() || row.subresource(&info.subresource).is_some()) {
            call.notes.warn_all(row.deprecation.as_deref().map(str::to_owned));
        }
        let is_namespace = row.group.is_empty() && row.plural == "namespaces";
        if !row.namespaced() && !info.namespace.is_empty() && !is_namespace {
            return Err(respond::generic(404));
        }
        if !info.subresource.is_empty() {
            let subresource = row.subresource(&info.subresource).ok_or_else(|| respond::generic(404))?;
            // OPTIONS is no verb of ours, but what a proxy leads to may know it.
            let options = info.subresource == "proxy" && call.request.method() == Method::OPTIONS;
            if !options && !subresource.verbs.iter().any(|v| fits(*v, call.request.method(), &info.verb)) {
                return Err(respond::generic(405));
            }
            return self.subresource(call, endpoint).await;
        }
        if !row.verbs.iter().any(|v| crate::discovery::verb_name(*v) == info.verb) || !named_as_the_verb_needs(&call, row.namespaced()) {
            return Err(respond::generic(405));
        }
        if row.group.is_empty() && row.plural == crate::component_status::PLURAL {
            return self.component_statuses(call, &endpoint).await;
        }
        match info.verb.as_ref() {
            "get" => read::get(self, call, &endpoint).await,
            "list" => read::list(self, call, &endpoint).await,
            "watch" => watch::watch(self, call, endpoint).await,
            "create" => write::create(self, call, &endpoint).await,
            "update" => write::update(self, call, &endpoint).await,
            "patch" => write::patch(self, call, &endpoint).await,
            "delete" => write::delete(self, call, &endpoint).await,
            "deletecollection" => write::delete_collection(self, call, &endpoint).await,
            _ => Err(respond::generic(405)),
        }
    }

    async fn component_statuses(&self, call: Call, endpoint: &Endpoint) -> Result<Response> {
        let format = call.format(Offer::Resource)?;
        if call.info.verb == "get" {
            let found = self.components.get(&call.info.name, &self.health).await?;
            return read::shown(endpoint, found, format, &call);
        }
        let picks = ListParameters::parse(&call.query, false)?.picks()?;
        let mut found = self.components.list(&self.health).await;
        found.retain(|object| picks(&ObjectMeta { name: object["metadata"]["name"].as_str().map(str::to_owned), ..Default::default() }));
        read::listed(endpoint, json!({}), found, format, call.query.get("includeObject"))
    }

    async fn subresource(&self, call: Call, endpoint: Arc<Endpoint>) -> Result<Response> {
        if CONNECTED.contains(&call.info.subresource.as_str()) {
            return self.connect(call, &endpoint).await;
        }
        match call.info.verb.as_ref() {
            "get" => read::get(self, call, &endpoint).await,
            "create" => write::create(self, call, &endpoint).await,
            "update" => write::update(self, call, &endpoint).await,
            "patch" => write::patch(self, call, &endpoint).await,
            _ => Err(respond::generic(405)),
        }
    }
}

impl Api {
    /// Passes the request on.
    async fn connect(&self, call: Call, endpoint: &Endpoint) -> Result<Response> {
        if call.info.subresource != "log" {
            self.registry.admit_connection(&write::connection(&call, endpoint, &write::connect_options(&call))).await?;
        }
        let Call { request, info, query, .. } = call;
        let path = request.uri().path().to_owned();
        // What follows the subresource goes on as it was written, its escapes included.
        let rest = following(&path, info.path.trim_matches('/').split('/').count() - info.rest.len());
        let wanted = Wanted {
            plural: &info.resource,
            subresource: &info.subresource,
            namespace: &info.namespace,
            name: &info.name,
            rest,
            query: query.pairs(),
        };
        self.connections.connect(&wanted, request).await
    }
}

/// What of a path follows so many of its segments, with the slash between; empty if there is not even that.
fn following(path: &str, segments: usize) -> &str {
    let path = path.trim_start_matches('/');
    path.match_indices('/').nth(segments.saturating_sub(1)).map_or("", |(at, _)| &path[at..])
}

/// Whether a subresource's verb covers the request. Streams are opened with GET or POST.
fn fits(verb: Verb, method: &Method, asked: &str) -> bool {
    let name = crate::discovery::verb_name(verb);
    name == asked || (asked == "proxy" && matches!((verb, method.as_str()), (Verb::Get, "GET") | (Verb::Create, "POST")))
}

/// Whether the path has a name where the verb needs one, and none where it must not; and a namespace where something is made in one.
fn named_as_the_verb_needs(call: &Call, namespaced: bool) -> bool {
    let info = &call.info;
    // A list of one name, found in its field selector, is still a list.
    let named = info.path.trim_end_matches('/').rsplit('/').next().is_some_and(|last| last == info.name) && !info.name.is_empty();
    match info.verb.as_ref() {
        "create" => !named && (!namespaced || !info.namespace.is_empty()),
        "deletecollection" => !namespaced || !info.namespace.is_empty(),
        "get" | "update" | "patch" | "delete" => named,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::following;

    #[test]
    fn what_follows_a_subresource_is_found_whatever_things_are_called() {
        for (path, rest) in [
            ("/api/v1/namespaces/proxy/pods/proxy-x:80/proxy", ""),
            ("/api/v1/namespaces/proxy/pods/proxy-x:80/proxy/", "/"),
            ("/api/v1/namespaces/pods/pods/p/proxy/a%2Fb//proxy/c/", "/a%2Fb//proxy/c/"),
        ] {
            assert_eq!(following(path, 7), rest, "{path}");
        }
    }
}
