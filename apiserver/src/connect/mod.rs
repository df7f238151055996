//! Requests that are passed on to kubelets, pods and services: logs, exec, attach, port-forward, proxy
//! (upstream: `pkg/registry/core/{pod,node,service}/{rest,strategy.go,storage}`, `kubelet/client`).
//!
//! Where a request goes is decided by pure functions over the pod, node and service; the bytes are then copied both ways without looking at them, WebSocket
//! and SPDY upgrades included; only links of proxied pages are changed (`page`). Translating between protocols is left out: the kubelet understands what clients speak; only a log that is asked for by WebSocket
//! is put into messages here.

mod location;
mod options;
mod page;
mod proxy;
pub mod transport;
mod websocket;

pub use transport::{KubeletTls, TlsError};

use crate::objects::{Collection, Objects, decoded};
use api::status::{Result, StatusError};
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use k8s_openapi::api::core::v1::Pod;
use page::Place;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;
use transport::Transport;

/// How long another component may take to say how it is (upstream).
const PROBE: Duration = Duration::from_secs(20);
/// The most it may say (upstream).
const PROBE_ANSWER: usize = 10 << 10;

/// What is to be connected to: the parts of the request's path and its query.
#[derive(Clone, Debug, Default)]
pub struct Wanted<'a> {
    /// `pods`, `nodes` or `services`.
    pub plural: &'a str,
    /// `log`, `exec`, `attach`, `portforward` or `proxy`.
    pub subresource: &'a str,
    /// Namespace, or empty.
    pub namespace: &'a str,
    /// The object's name; for proxies `[SCHEME:]NAME[:PORT]`.
    pub name: &'a str,
    /// What of the path follows `proxy`, `/` at its start; empty if there is nothing, not even a slash.
    pub rest: &'a str,
    /// The query, decoded, in order.
    pub query: &'a [(String, String)],
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Whether over TLS, and whether the kubelet's client certificate is shown.
    pub transport: Transport,
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query.
    pub path: String,
}

impl Target {
    /// `host:port`, as a URL has it.
    fn authority(&self) -> String {
        if self.host.contains(':') { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) }
    }
}

/// Passes requests on.
pub struct Connections {
    objects: Arc<dyn Objects>,
    tls: KubeletTls,
}

impl Connections {
    /// Looks things up in these objects and shows kubelets this certificate.
    pub fn new(objects: Arc<dyn Objects>, tls: KubeletTls) -> Self {
        Connections { objects, tls }
    }

    /// Passes the request on and answers with what comes back.
    pub async fn connect(&self, wanted: &Wanted<'_>, request: Request<Body>) -> Result<Response<Body>> {
        match wanted.subresource {
            "log" => self.log(wanted, request).await,
            "proxy" if wanted.rest.is_empty() && matches!(*request.method(), Method::GET | Method::HEAD) => Ok(slash_added(&request)),
            "proxy" => self.proxy(wanted, request).await,
            _ => {
                let target = self.stream(wanted)?;
                self.tls.forward(&target, request).await.map_err(|e| StatusError::internal(format!("error dialing backend: {e}")))
            }
        }
    }

    async fn proxy(&self, wanted: &Wanted<'_>, mut request: Request<Body>) -> Result<Response<Body>> {
        let mut target = proxy::target(&*self.objects, wanted)?;
        let rest = if wanted.rest.is_empty() { "/" } else { wanted.rest };
        target.path = with_query(rest.to_owned(), request.uri().query().unwrap_or_default());
        let path = request.uri().path().to_owned();
        let asked =
            request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).or(request.uri().authority().map(|a| a.as_str()));
        let place = Place {
            prefix: path.strip_suffix(wanted.rest).unwrap_or(&path).to_owned(),
            target: target.authority(),
            asked: asked.unwrap_or_default().to_owned(),
        };
        if let Ok(path) = HeaderValue::from_str(&path) {
            request.headers_mut().insert("x-forwarded-uri", path);
        }
        let answer = self.tls.forward(&target, request).await.map_err(|e| unreachable(&e))?;
        Ok(place.answer(answer))
    }

    /// What a node's kubelet answers to a GET, up to `limit` bytes.
    pub async fn ask_kubelet(&self, node: &str, path: &str, limit: usize) -> Result<Bytes> {
        let target = location::kubelet(&*self.objects, node, path)?;
        let request = Request::get(path).body(Body::empty()).map_err(StatusError::internal)?;
        let response =
            self.tls.forward(&target, request).await.map_err(|e| StatusError::internal(format!("error dialing backend: {e}")))?;
        if response.status() != StatusCode::OK {
            return Err(StatusError::internal(format!("the kubelet of node {node} answers {}", response.status())));
        }
        let body = Limited::new(response.into_body(), limit).collect().await.map_err(StatusError::internal)?;
        Ok(body.to_bytes())
    }

    /// Whether a server on this machine answers well to a GET over TLS, whoever it is: its answer, or why not, in the words of upstream's probes.
    pub async fn probe_local(&self, port: u16, path: &str) -> std::result::Result<String, String> {
        let target = Target { host: "127.0.0.1".into(), port, path: path.to_owned(), transport: Transport::Tls };
        let failed = |why: &dyn Display| format!("Get \"https://127.0.0.1:{port}{path}\": {why}");
        let probe = async {
            let request = Request::get(path).body(Body::empty()).map_err(|e| failed(&e))?;
            let response = self.tls.forward(&target, request).await.map_err(|e| failed(&e))?;
            let code = response.status().as_u16();
            let body = Limited::new(response.into_body(), PROBE_ANSWER).collect().await.map_err(|e| failed(&e))?;
            match code {
                200..400 => Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned()),
                _ => Err(format!("HTTP probe failed with statuscode: {code}")),
            }
        };
        tokio::time::timeout(PROBE, probe).await.unwrap_or_else(|_| Err(failed(&"context deadline exceeded")))
    }

    fn pod(&self, wanted: &Wanted<'_>) -> Result<Pod> {
        let pod = decoded::<Pod>(&*self.objects, Collection::core("pods"), wanted.namespace, wanted.name);
        pod.ok_or_else(|| StatusError::not_found("", "pods", wanted.name))
    }

    async fn log(&self, wanted: &Wanted<'_>, mut request: Request<Body>) -> Result<Response<Body>> {
        let options = options::Log::parse(wanted.query)?;
        options.validate(wanted.name)?;
        let pod = self.pod(wanted)?;
        let container = location::container(&pod, &options.container)?;
        let Some(node) = location::node(&pod) else {
            // Nothing runs yet, so there is nothing to read.
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            return Ok(response);
        };
        let path = format!("/containerLogs/{}/{}/{container}", wanted.namespace, wanted.name);
        let target = location::kubelet(&*self.objects, node, &with_query(path, &options.query()))?;
        let url = format!("https://{}:{}{}", target.host, target.port, target.path);
        let socket = websocket::taken(&mut request);
        let answer = self.tls.forward(&target, request).await;
        let response = answer.map_err(|e| StatusError::new(500, "", format!("Get {url:?}: {e}")))?;
        let response = transport::checked(response, wanted.name).await?;
        Ok(match socket {
            Some(socket) => socket.answer(response.into_body()),
            None => response,
        })
    }

    /// Exec, attach and port-forward.
    fn stream(&self, wanted: &Wanted<'_>) -> Result<Target> {
        let pod = self.pod(wanted)?;
        let (verb, container, query) = match wanted.subresource {
            "exec" => {
                ("exec", Some(location::container(&pod, options::first(wanted.query, "container"))?), options::streams(wanted.query)?)
            }
            "attach" => {
                ("attach", Some(location::container(&pod, options::first(wanted.query, "container"))?), options::streams(wanted.query)?)
            }
            "portforward" => ("portForward", None, options::ports(wanted.query)?),
            other => return Err(StatusError::internal(format!("no connection is made for {other}"))),
        };
        let name = wanted.name;
        let node = location::node(&pod).ok_or_else(|| StatusError::bad_request(format!("pod {name} does not have a host assigned")))?;
        let mut path = format!("/{verb}/{}/{name}", wanted.namespace);
        if let Some(container) = container {
            path = format!("{path}/{container}");
        }
        location::kubelet(&*self.objects, node, &with_query(path, &query))
    }
}

fn with_query(path: String, query: &str) -> String {
    if query.is_empty() { path } else { format!("{path}?{query}") }
}

fn unreachable(error: &transport::DialError) -> StatusError {
    StatusError::new(503, "ServiceUnavailable", format!("error trying to reach service: {error}"))
}

/// A proxied path needs its slash, or relative links in pages would lead elsewhere.
fn slash_added(request: &Request<Body>) -> Response<Body> {
    let uri = request.uri();
    let query = uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = format!("{}/{query}", uri.path()).parse() {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}
