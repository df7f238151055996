//! What the proxy answers over HTTP: its own health, its metrics, and for load balancers which Services have endpoints on this node
//! (upstream: `pkg/proxy/healthcheck`).
//!
//! As upstream's, these servers speak plain HTTP: they are asked by probes and load balancers, and tell no secrets.

use crate::metrics::Metrics;
use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use client::{ObjectKey, serving};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What the servers tell.
#[derive(Default)]
pub struct Health {
    state: Mutex<Inner>,
    /// Counters.
    pub metrics: Metrics,
}

#[derive(Default)]
struct Inner {
    /// When the kernel last had all that is wanted, and why it has not now.
    synced: Option<Timestamp>,
    problem: Option<String>,
    /// Whether load balancers may send to this node: not when it is being deleted.
    leaving: bool,
}

impl Health {
    /// The kernel has what is wanted, or why not.
    pub fn synced(&self, result: Result<Timestamp, String>) {
        let mut state = self.state.lock();
        match result {
            Ok(at) => (state.synced, state.problem) = (Some(at), None),
            Err(problem) => state.problem = Some(problem),
        }
    }

    /// The node is being deleted, or is not.
    pub fn node(&self, leaving: bool) {
        self.state.lock().leaving = leaving;
    }

    fn healthy(&self) -> bool {
        let state = self.state.lock();
        state.synced.is_some() && state.problem.is_none()
    }

    /// `/healthz` says whether traffic may come here, `/livez` only whether the proxy works.
    fn answer(&self, now: Timestamp, regards_node: bool) -> (StatusCode, Value) {
        let (healthy, state) = (self.healthy(), self.state.lock());
        let good = healthy && !(regards_node && state.leaving);
        let mut body = json!({"lastUpdated": state.synced.unwrap_or(now).to_string(), "currentTime": now.to_string()});
        if regards_node {
            body["nodeEligible"] = (!state.leaving).into();
        }
        (if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body)
    }

    /// Serves `/healthz` and `/livez`.
    pub async fn serve_health(self: &Arc<Self>, address: SocketAddr, stop: &CancellationToken) -> anyhow::Result<()> {
        let answer = |regards_node: bool| {
            get(move |State(health): State<Arc<Health>>| async move {
                let (status, body) = health.answer(Timestamp::now(), regards_node);
                json_answer(status, &body)
            })
        };
        let router = Router::new().route("/healthz", answer(true)).route("/livez", answer(false));
        serve(address, router.with_state(self.clone()), stop.clone()).await
    }

    /// Serves `/metrics`, `/healthz`, `/proxyMode`, `/configz`, `/statusz` and `/flagz`.
    pub async fn serve_metrics(self: &Arc<Self>, address: SocketAddr, config: Value, stop: &CancellationToken) -> anyhow::Result<()> {
        let component = Arc::new(serving::component("kube-proxy", PATHS));
        let of = component.clone();
        let router = Router::new()
            .route("/statusz", get(move |headers: HeaderMap| async move { serving::statusz(&of, &headers) }))
            .route("/flagz", get(move |headers: HeaderMap| async move { serving::flagz(&component, &headers) }))
            .route(
                "/metrics",
                get(|State(health): State<Arc<Health>>| async move { text("text/plain; version=0.0.4", health.metrics.text()) }),
            )
            .route("/healthz", get(|| async { text("text/plain", "ok".into()) }))
            .route("/proxyMode", get(|| async { text("text/plain", "nftables".into()) }))
            .route("/configz", get(move || async move { json_answer(StatusCode::OK, &json!({"kubeproxy.config.k8s.io": config})) }));
        serve(address, router.with_state(self.clone()), stop.clone()).await
    }
}

/// What the metrics' port serves.
const PATHS: &[&str] = &["/configz", "/flagz", "/healthz", "/metrics", "/proxyMode", "/statusz"];

fn text(content_type: &'static str, body: String) -> Response {
    ([(header::CONTENT_TYPE, content_type), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")], body).into_response()
}

fn json_answer(status: StatusCode, body: &Value) -> Response {
    (status, text("application/json", body.to_string())).into_response()
}

async fn serve(address: SocketAddr, router: Router, stop: CancellationToken) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
    tokio::spawn(async move {
        let stopped = async move { stop.cancelled().await };
        // Its listener cannot fail; it ends when it is told to.
        let _ = axum::serve(listener, router).with_graceful_shutdown(stopped).await;
    });
    Ok(())
}

/// The servers of `healthCheckNodePort`s, one for each Service with external traffic policy Local behind a load balancer.
pub struct ServiceChecks {
    health: Arc<Health>,
    /// Where they listen.
    addresses: Vec<IpAddr>,
    servers: HashMap<ObjectKey, (u16, DropGuard)>,
    /// How many endpoints each has on this node.
    counts: Arc<Mutex<BTreeMap<ObjectKey, usize>>>,
}

impl ServiceChecks {
    /// None yet.
    pub fn new(health: Arc<Health>, addresses: Vec<IpAddr>) -> Self {
        Self { health, addresses, servers: HashMap::new(), counts: Arc::default() }
    }

    /// What a Service wants: a port with so many endpoints behind it, or none.
    pub async fn set(&mut self, key: &ObjectKey, wanted: Option<(u16, usize)>) {
        let Some((port, endpoints)) = wanted else {
            self.servers.remove(key);
            self.counts.lock().remove(key);
            return;
        };
        self.counts.lock().insert(key.clone(), endpoints);
        if self.servers.get(key).is_some_and(|(known, _)| *known == port) {
            return;
        }
        self.servers.remove(key);
        let stop = CancellationToken::new();
        for address in &self.addresses {
            let (health, counts, of) = (self.health.clone(), self.counts.clone(), key.clone());
            let answer = move || {
                let endpoints = counts.lock().get(&of).copied().unwrap_or(0);
                let response = check(&of, endpoints, health.healthy());
                async move { response }
            };
            if let Err(error) = serve(SocketAddr::new(*address, port), Router::new().fallback(answer), stop.clone()).await {
                tracing::warn!(service = %key, "health check port: {error:#}");
            }
        }
        self.servers.insert(key.clone(), (port, stop.drop_guard()));
    }
}

fn check(service: &ObjectKey, endpoints: usize, healthy: bool) -> Response {
    let status = if endpoints > 0 && healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "service": {"namespace": service.namespace, "name": service.name},
        "localEndpoints": endpoints,
        "serviceProxyHealthy": healthy,
    });
    ([("X-Load-Balancing-Endpoint-Weight", endpoints.to_string())], json_answer(status, &body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_follows_the_kernel_and_the_node() {
        let health = Health::default();
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let both = |health: &Health| (health.answer(now, true).0.as_u16(), health.answer(now, false).0.as_u16());
        assert_eq!(both(&health), (503, 503), "nothing applied yet");
        health.synced(Ok(now));
        assert_eq!(both(&health), (200, 200));
        health.node(true);
        assert_eq!(both(&health), (503, 200), "a node that is being deleted still works");
        health.node(false);
        health.synced(Err("refused".into()));
        assert_eq!(both(&health), (503, 503));
    }

    #[test]
    fn a_service_without_endpoints_here_is_not_available() {
        let key = ObjectKey::new("ns", "svc");
        for (endpoints, healthy, status) in [(2, true, 200), (0, true, 503), (2, false, 503)] {
            let response = check(&key, endpoints, healthy);
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(response.headers()["X-Load-Balancing-Endpoint-Weight"], endpoints.to_string());
        }
    }
}
