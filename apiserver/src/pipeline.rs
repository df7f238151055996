//! The way of every request, in upstream's order: request info, authentication, impersonation, authorisation, handler
//! (upstream: `apiserver/pkg/server/config.go`, `DefaultBuildHandlerChain`).
//!
//! A refusal on the way is an answer like any other. A panic in a handler ends that request with 500 and nothing else.

use crate::authentication::{self, Credentials, Outcome, UserInfo, impersonation};
use crate::authorization::{self, Attributes, Authorizer, Decision, forbidden};
use crate::handlers::{Api, Call};
use crate::metrics::Metrics;
use crate::negotiation::{Format, Offer, negotiate};
use crate::request::{Query, RequestInfo};
use crate::respond::{self, Response};
use api::StatusError;
use axum::body::Body;
use futures::FutureExt;
use http::{HeaderMap, Method, Request, header};
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use tokio::sync::Semaphore;

/// A client's connection.
pub struct Connection {
    peer: SocketAddr,
    certificates: Vec<Vec<u8>>,
}

impl Connection {
    /// A connection on which the client presented these certificates (DER, leaf first).
    pub fn new(peer: SocketAddr, certificates: Vec<Vec<u8>>) -> Self {
        Connection { peer, certificates }
    }

    /// The client's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }
}

/// What requests pass through.
pub struct Pipeline {
    /// Who asks.
    pub authentication: Arc<authentication::Chain>,
    /// Whether they may.
    pub authorization: Arc<authorization::Chain>,
    /// The handlers.
    pub api: Arc<Api>,
    /// Reads that are worked on at a time; others wait their turn.
    pub reads: Semaphore,
    /// Writes that are worked on at a time.
    pub writes: Semaphore,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl Pipeline {
    /// Answers one request.
    pub async fn handle(&self, connection: &Connection, request: Request<Body>) -> Response {
        let started = Instant::now();
        let (head, body) = request.into_parts();
        let query = Query::parse(head.uri.query().unwrap_or(""));
        let info = RequestInfo::new(&head.method, head.uri.path(), &query);
        let label = self.metrics.begin(&info);
        let request = Request::from_parts(head, body);
        let answer = AssertUnwindSafe(self.answer(connection, request, info, query)).catch_unwind().await;
        let response = answer.unwrap_or_else(|_| {
            let message = "This request caused apiserver to panic. Look in the logs for details.";
            respond::status(&StatusError::new(500, "InternalError", message), Format::JSON)
        });
        self.metrics.end(label, response.status().as_u16(), started.elapsed());
        response
    }

    async fn answer(&self, connection: &Connection, request: Request<Body>, info: RequestInfo, query: Query) -> Response {
        let format = negotiate(request.headers(), query.get("pretty"), Offer::Plain).unwrap_or(Format::JSON);
        match self.authorized(connection, request.headers(), &info, &query).await {
            Ok(user) => {
                let _turn = match info.long_running() {
                    true => None,
                    false => self.turn(request.method()).acquire().await.ok(),
                };
                self.api.serve(Call::new(request, info, query, user, Arc::default())).await
            }
            Err(refusal) => respond::status(&refusal, format),
        }
    }

    fn turn(&self, method: &Method) -> &Semaphore {
        if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) { &self.reads } else { &self.writes }
    }

    /// Who asks, if they may.
    async fn authorized(
        &self,
        connection: &Connection,
        headers: &HeaderMap,
        info: &RequestInfo,
        query: &Query,
    ) -> Result<UserInfo, StatusError> {
        let user = self.authenticate(connection, headers).await?;
        let mut attributes = attributes(user, info, query);
        if let Some(wanted) = impersonation::wanted(headers)? {
            attributes.user = impersonation::impersonate(wanted, &attributes, &*self.authorization)?;
        }
        match self.authorization.authorize(&attributes) {
            Decision::Allow(_) => Ok(attributes.user),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => Err(forbidden(&attributes, &reason)),
        }
    }

    async fn authenticate(&self, connection: &Connection, headers: &HeaderMap) -> Result<UserInfo, StatusError> {
        let credentials = Credentials { certificates: connection.certificates.clone(), bearer: bearer(headers) };
        match self.authentication.authenticate(&credentials, SystemTime::now()).await {
            Outcome::User(user) => Ok(user),
            Outcome::Refused(reasons) => {
                tracing::info!(peer = %connection.peer, ?reasons, "authentication failed");
                Err(StatusError::unauthorized())
            }
        }
    }
}

/// The token of an `Authorization: Bearer` header, or of the WebSocket subprotocol that browsers have to use instead.
fn bearer(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.trim().split_once(' ')?;
        let token = token.trim();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned());
    }
    let protocols = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    let encoded = protocols.flat_map(|p| p.split(',')).find_map(|p| p.trim().strip_prefix("base64url.bearer.authorization.k8s.io."))?;
    use base64::Engine;
    let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded.trim_end_matches('=')).ok()?;
    String::from_utf8(token).ok()
}

fn attributes(user: UserInfo, info: &RequestInfo, query: &Query) -> Attributes {
    let selects = matches!(info.verb.as_ref(), "list" | "watch" | "deletecollection");
    Attributes {
        user,
        verb: info.verb.to_string(),
        resource_request: info.resource_request,
        group: info.group.clone(),
        version: info.version.clone(),
        resource: info.resource.clone(),
        subresource: info.subresource.clone(),
        namespace: info.namespace.clone(),
        name: info.name.clone(),
        path: info.path.clone(),
        field_selector: if selects { query.get("fieldSelector").unwrap_or("").to_owned() } else { String::new() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_tokens_are_found_where_clients_put_them() {
        let of = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(http::HeaderName::from_static(name), value.parse().unwrap());
            bearer(&headers)
        };
        assert_eq!(of("authorization", "Bearer abc").as_deref(), Some("abc"));
        assert_eq!(of("authorization", "bearer  abc ").as_deref(), Some("abc"));
        assert_eq!(of("authorization", "Basic abc"), None);
        assert_eq!(of("authorization", "Bearer "), None);
        let protocols = "base64url.bearer.authorization.k8s.io.YWJj, v4.channel.k8s.io";
        assert_eq!(of("sec-websocket-protocol", protocols).as_deref(), Some("abc"));
    }
}
