//! The way of every request, in upstream's order: request info, authentication, impersonation, authorisation, handler
//! (upstream: `apiserver/pkg/server/config.go`, `DefaultBuildHandlerChain`).
//!
//! A refusal on the way is an answer like any other. A panic in a handler ends that request with 500 and nothing else.

use crate::audit::{Audit, Origin, Record};
use crate::authentication::{self, Credentials, Outcome, UserInfo, impersonation};
use crate::authorization::{self, Attributes, Authorizer, Decision, forbidden};
use crate::flow_control::{Classifier, Flow};
use crate::handlers::{Api, Call};
use crate::metrics::Metrics;
use crate::negotiation::{Format, Offer, negotiate};
use crate::notes::Notes;
use crate::request::{Query, RequestInfo};
use crate::respond::{self, Response};
use api::StatusError;
use axum::body::Body;
use futures::FutureExt;
use http::{HeaderMap, Method, Request, header};
use http_body_util::BodyExt;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Semaphore, SemaphorePermit};

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
    /// Which flow and priority level a request belongs to.
    pub flows: Classifier,
    /// Reads that are worked on at a time; others wait their turn.
    pub reads: Turns,
    /// Writes that are worked on at a time.
    pub writes: Turns,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Who records what is asked for, where that is wanted.
    pub audit: Option<Audit>,
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
        let limit = limit(&info, &query);
        let answer = AssertUnwindSafe(async {
            match limit {
                Err(refusal) => respond::status(&refusal, Format::JSON),
                Ok(None) => self.answer(connection, request, info, query).await,
                Ok(Some(limit)) => {
                    tokio::time::timeout(limit, self.answer(connection, request, info, query)).await.unwrap_or_else(|_| too_long())
                }
            }
        });
        let response = answer.catch_unwind().await.unwrap_or_else(|_| {
            let message = "This request caused apiserver to panic. Look in the logs for details.";
            respond::status(&StatusError::new(500, "InternalError", message), Format::JSON)
        });
        self.metrics.end(label, response.status().as_u16(), started.elapsed());
        response
    }

    async fn answer(&self, connection: &Connection, request: Request<Body>, info: RequestInfo, query: Query) -> Response {
        let format = negotiate(request.headers(), query.get("pretty"), Offer::Plain).unwrap_or(Format::JSON);
        let id = audit_id(request.headers());
        let authorized = self.authorized(connection, request.headers(), &info, &query).await;
        let notes = Arc::new(Notes::default());
        let record = match &self.audit {
            Some(audit) => self.record(audit, connection, (request.uri(), request.headers()), &id, &authorized, &notes).await,
            None => None,
        };
        let long = info.long_running();
        let response = match authorized.decision {
            Ok(()) => self.admitted(request, info, query, authorized.attributes, notes.clone()).await,
            Err(refusal) => respond::status(&refusal, format),
        };
        let mut response = match record {
            Some(record) => recorded(record, response, notes, long).await,
            None => response,
        };
        if let Ok(id) = http::HeaderValue::from_str(&id) {
            response.headers_mut().insert("audit-id", id);
        }
        response
    }

    /// Answers somebody who may ask, when it is their turn.
    async fn admitted(
        &self,
        request: Request<Body>,
        info: RequestInfo,
        query: Query,
        attributes: Attributes,
        notes: Arc<Notes>,
    ) -> Response {
        let flow = self.flows.classify(&attributes).unwrap_or_default();
        let _turn = match info.long_running() || flow.exempt {
            true => None,
            false => match self.turn(request.method()).wait().await {
                Some(turn) => Some(turn),
                None => return too_many(),
            },
        };
        let mut response = self.api.serve(Call::new(request, info, query, attributes.user, notes)).await;
        tell(&mut response, &flow);
        response
    }

    /// Begins the record of a request.
    async fn record(
        &self,
        audit: &Audit,
        connection: &Connection,
        (uri, headers): (&http::Uri, &HeaderMap),
        id: &str,
        authorized: &Authorized,
        notes: &Notes,
    ) -> Option<Record> {
        let uri = uri.path_and_query().map_or("/", |p| p.as_str());
        let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
        let origin = Origin { id, uri, peer: connection.peer.ip(), agent, impersonator: authorized.impersonator.as_ref() };
        let mut record = audit.record(&authorized.attributes, &origin)?;
        record.decided(notes, authorized.decision.as_ref().err());
        if record.wants_bodies().0 {
            notes.want_body();
        }
        record.stage("RequestReceived", None, notes).await;
        Some(record)
    }

    fn turn(&self, method: &Method) -> &Turns {
        if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) { &self.reads } else { &self.writes }
    }

    /// Who asks, and whether they may.
    async fn authorized(&self, connection: &Connection, headers: &HeaderMap, info: &RequestInfo, query: &Query) -> Authorized {
        let user = match self.authenticate(connection, headers).await {
            Ok(user) => user,
            Err(refusal) => {
                let attributes = attributes(UserInfo::default(), info, query);
                return Authorized { attributes, impersonator: None, decision: Err(refusal) };
            }
        };
        let mut attributes = attributes(user, info, query);
        let mut impersonator = None;
        let wanted = match impersonation::wanted(headers) {
            Ok(Some(wanted)) => impersonation::impersonate(wanted, &attributes, &*self.authorization).map(Some),
            Ok(None) => Ok(None),
            Err(refusal) => Err(refusal),
        };
        match wanted {
            Ok(Some(user)) => impersonator = Some(std::mem::replace(&mut attributes.user, user)),
            Ok(None) => {}
            Err(refusal) => return Authorized { attributes, impersonator: None, decision: Err(refusal) },
        }
        let mut decision = self.decide(&attributes);
        if let (Ok(()), Some(opened)) = (&decision, opened(&attributes, headers)) {
            decision = self.decide(&opened);
        }
        Authorized { attributes, impersonator, decision }
    }

    fn decide(&self, attributes: &Attributes) -> Result<(), StatusError> {
        match self.authorization.authorize(attributes) {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => Err(forbidden(attributes, &reason)),
        }
    }

    async fn authenticate(&self, connection: &Connection, headers: &HeaderMap) -> Result<UserInfo, StatusError> {
        let bearer = bearer(headers);
        // Headers name somebody only on connections with a certificate; others need not carry them on.
        let headers = if connection.certificates.is_empty() { HeaderMap::new() } else { headers.clone() };
        let credentials = Credentials { certificates: connection.certificates.clone(), bearer, headers };
        match self.authentication.authenticate(&credentials, SystemTime::now()).await {
            Outcome::User(user) => Ok(user),
            Outcome::Refused(reasons) => {
                tracing::info!(peer = %connection.peer, ?reasons, "authentication failed");
                Err(StatusError::unauthorized())
            }
        }
    }
}

/// What came of the question who asks and whether they may.
struct Authorized {
    attributes: Attributes,
    /// Whose credentials they were, where the request counts for somebody else.
    impersonator: Option<UserInfo>,
    decision: Result<(), StatusError>,
}

/// The id of a request in the audit log: the client's, if it gave one.
fn audit_id(headers: &HeaderMap) -> String {
    const LONGEST: usize = 64;
    let given = headers.get("audit-id").and_then(|v| v.to_str().ok()).filter(|id| !id.is_empty() && id.len() <= LONGEST);
    given.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned)
}

/// Ends the record of a request with its answer; that of a stream when the stream ends.
async fn recorded(mut record: Record, response: Response, notes: Arc<Notes>, long: bool) -> Response {
    if let Some(body) = notes.body() {
        record.request(&body);
    }
    let code = response.status().as_u16();
    if long {
        record.stage("ResponseStarted", Some(code), &notes).await;
        let end = record.at_end(code, notes);
        let (head, body) = response.into_parts();
        let body = body.map_frame(move |frame| {
            let _kept = &end;
            frame
        });
        return Response::from_parts(head, Body::new(body));
    }
    let mut response = response;
    if record.wants_bodies().1 {
        let (head, body) = response.into_parts();
        // An answer that breaks off is recorded without its body.
        let bytes = body.collect().await.map(|c| c.to_bytes()).unwrap_or_default();
        record.response(&bytes);
        response = Response::from_parts(head, Body::from(bytes));
    }
    record.stage("ResponseComplete", Some(code), &notes).await;
    response
}

/// A bound on what is worked on at a time, with one on what waits for that.
pub struct Turns {
    free: Semaphore,
    waiting: Semaphore,
    patience: Duration,
}

/// How many may wait for each that is worked on, and for how long (upstream lets them wait a quarter of a request's minute).
const WAITING: usize = 8;
const PATIENCE: Duration = Duration::from_secs(15);

impl Turns {
    /// So many at a time.
    pub fn new(at_a_time: usize) -> Self {
        Turns { free: Semaphore::new(at_a_time), waiting: Semaphore::new(at_a_time.saturating_mul(WAITING)), patience: PATIENCE }
    }

    /// Waits for a turn; `None` if too many do, or for too long.
    async fn wait(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(turn) = self.free.try_acquire() {
            return Some(turn);
        }
        let _place = self.waiting.try_acquire().ok()?;
        tokio::time::timeout(self.patience, self.free.acquire()).await.ok()?.ok()
    }
}

/// How long a request may take: as long as its client says, and a minute at most (upstream: `--request-timeout`); streams as long as they like.
fn limit(info: &RequestInfo, query: &Query) -> Result<Option<Duration>, StatusError> {
    const MOST: Duration = Duration::from_secs(60);
    if info.long_running() {
        return Ok(None);
    }
    let Some(text) = query.get("timeout").filter(|text| !text.is_empty()) else { return Ok(Some(MOST)) };
    let Some(wanted) = api::duration::parse(text) else {
        let message = format!("invalid timeout specified in the request URL - time: invalid duration {text:?}");
        return Err(StatusError::bad_request(message));
    };
    // None at all, and more than there is, mean the most.
    Ok(Some(Duration::try_from(wanted).ok().filter(|wanted| !wanted.is_zero() && *wanted < MOST).unwrap_or(MOST)))
}

/// What a client is told whose request took longer.
fn too_long() -> Response {
    let message = "Timeout: request did not complete within the allotted timeout";
    respond::status(&StatusError::new(504, "Timeout", message), Format::JSON)
}

/// What a client is told that is to come back (upstream: `filters.tooManyRequests`).
fn too_many() -> Response {
    let mut response = respond::text(429, "Too many requests, please try again later.\n");
    response.headers_mut().insert(header::RETRY_AFTER, http::HeaderValue::from_static("1"));
    response
}

/// Tells which flow a request was taken for.
fn tell(response: &mut Response, flow: &Flow) {
    for (name, uid) in [("x-kubernetes-pf-flowschema-uid", &flow.schema), ("x-kubernetes-pf-prioritylevel-uid", &flow.level)] {
        if let Ok(value) = http::HeaderValue::from_str(uid)
            && !uid.is_empty()
        {
            response.headers_mut().insert(name, value);
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

/// What else a request asks for that opens a stream into a pod by WebSocket: such requests have to be GETs, but who may only read may not run commands
/// (upstream: `AuthorizePodWebsocketUpgradeCreatePermission`).
fn opened(attributes: &Attributes, headers: &HeaderMap) -> Option<Attributes> {
    let streams = attributes.group.is_empty() && attributes.resource == "pods" && STREAMS.contains(&attributes.subresource.as_str());
    let web_socket = headers.get(header::UPGRADE).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"));
    (streams && web_socket && attributes.verb == "get").then(|| Attributes { verb: "create".into(), ..attributes.clone() })
}

/// Subresources of pods through which things are done in them.
const STREAMS: [&str; 3] = ["attach", "exec", "portforward"];

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
    fn requests_take_as_long_as_their_clients_say_and_a_minute_at_most() {
        let limit = |path: &str, query: &str| {
            let query = Query::parse(query);
            limit(&RequestInfo::new(&Method::GET, path, &query), &query).map_err(|e| e.to_string())
        };
        let pods = "/api/v1/namespaces/a/pods";
        for (query, seconds) in [("", 60), ("timeout=", 60), ("timeout=5s", 5), ("timeout=0s", 60), ("timeout=3m", 60), ("timeout=-1s", 60)]
        {
            assert_eq!(limit(pods, query), Ok(Some(Duration::from_secs(seconds))), "{query}");
        }
        assert_eq!(limit(pods, "watch=true&timeout=5s"), Ok(None));
        let refused = "invalid timeout specified in the request URL - time: invalid duration \"soon\"";
        assert_eq!(limit(pods, "timeout=soon"), Err(refused.to_owned()));
    }

    #[tokio::test]
    async fn who_waits_too_long_or_with_too_many_is_sent_away() {
        let turns = Turns { patience: Duration::from_millis(20), ..Turns::new(1) };
        let first = turns.wait().await;
        assert!(first.is_some() && turns.wait().await.is_none(), "patience ends");
        let crowd = futures::future::join_all((0..=WAITING).map(|_| turns.wait()));
        let (crowd, ()) = tokio::join!(crowd, async { drop(first) });
        assert_eq!(crowd.iter().filter(|turn| turn.is_none()).count(), WAITING, "one went ahead and keeps its turn");
        assert_eq!(too_many().headers()[header::RETRY_AFTER], "1");
    }

    #[test]
    fn a_stream_into_a_pod_is_something_made() {
        for (verb, subresource, upgrade, want) in [
            ("get", "exec", "websocket", true),
            ("get", "attach", "WebSocket", true),
            ("get", "portforward", "websocket", true),
            ("get", "log", "websocket", false),
            ("get", "exec", "SPDY/3.1", false),
            ("create", "exec", "websocket", false),
        ] {
            let asked = Attributes {
                verb: verb.into(),
                resource: "pods".into(),
                subresource: subresource.into(),
                resource_request: true,
                ..Default::default()
            };
            let headers = HeaderMap::from_iter([(header::UPGRADE, http::HeaderValue::from_static(upgrade))]);
            let verb = opened(&asked, &headers).map(|opened| opened.verb);
            assert_eq!(verb.as_deref(), want.then_some("create"), "{verb:?} {subresource} {upgrade}");
        }
    }

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
