//! The kubelet's server: what the API server asks of a node on behalf of users, and what monitoring reads.
//!
//! TLS with a certificate of its own making unless it is given one. Callers show a certificate of the cluster's CA or a token that the API
//! server reviews; what they may do the API server decides, too. Only `/healthz` is open to all.

pub mod authorize;
pub mod logs;
pub mod spdy;
pub mod stats;
pub mod streams;
pub mod tls;

use crate::{config::KubeletConfiguration, pod::workers::Workers};
use anyhow::Context;
use axum::{
    Router,
    extract::State,
    middleware,
    response::IntoResponse,
    routing::{get, post},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use kube::Client;
use std::{future::Future, net::SocketAddr, path::PathBuf, pin::Pin, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::Service;

/// How long a handshake may take before the connection is dropped.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What the server is made from.
pub struct Options<'a> {
    /// The kubelet's configuration.
    pub settings: &'a KubeletConfiguration,
    /// The pods.
    pub workers: Arc<Workers>,
    /// The API server, which decides who may do what; without one only certificates count.
    pub client: Option<Client>,
    /// Where the cluster's CA is, if no file is named for it.
    pub kubeconfig: Option<PathBuf>,
    /// What it serves with.
    pub serving: Arc<tls::Serving>,
    /// When to stop.
    pub stop: CancellationToken,
}

/// What requests share.
#[derive(Clone)]
pub struct Shared {
    /// The pods.
    pub workers: Arc<Workers>,
    /// Who may do what.
    pub authorizer: Arc<authorize::Authorizer>,
    /// The configuration, for `/configz`.
    pub configz: Arc<serde_json::Value>,
}

/// Binds the port and answers with it and the task that serves.
pub async fn start(options: Options<'_>) -> anyhow::Result<(u16, Pin<Box<dyn Future<Output = ()> + Send>>)> {
    let settings = options.settings;
    let address: SocketAddr = SocketAddr::new(settings.address.parse().context("the server's address")?, settings.port);
    let tls = tls::server_config(settings, options.kubeconfig.as_deref(), options.serving)?;
    let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
    let port = listener.local_addr()?.port();
    let shared = Shared {
        workers: options.workers,
        authorizer: Arc::new(authorize::Authorizer::new(options.client, settings)),
        configz: Arc::new(serde_json::json!({"kubeletconfig": settings.shown()})),
    };
    let router = router(shared);
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let stop = options.stop;
    let serving = async move {
        loop {
            let (stream, peer) = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of file descriptors, as a rule: waiting lets some be closed.
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let (acceptor, router, stop) = (acceptor.clone(), router.clone(), stop.clone());
            tokio::spawn(async move {
                let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else {
                    tracing::debug!(%peer, "TLS handshake failed");
                    return;
                };
                let caller = tls::certificate_identity(&stream);
                let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
                    request.extensions_mut().insert(caller.clone());
                    router.clone().call(request)
                });
                let builder = auto::Builder::new(TokioExecutor::new());
                let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
                tokio::select! {
                    () = stop.cancelled() => {}
                    served = connection => if let Err(error) = served { tracing::debug!(%peer, %error, "connection ended") },
                }
            });
        }
    };
    Ok((port, Box::pin(serving)))
}

fn router(shared: Shared) -> Router {
    let guarded = Router::new()
        .route("/configz", get(|State(shared): State<Shared>| async move { axum::Json(shared.configz.as_ref().clone()) }))
        .route("/pods", get(pods))
        .route("/runningpods/", get(pods))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs::serve))
        .route("/exec/{namespace}/{pod}/{container}", get(streams::exec).post(streams::exec))
        .route("/attach/{namespace}/{pod}/{container}", get(streams::attach).post(streams::attach))
        .route("/portForward/{namespace}/{pod}", get(streams::port_forward).post(streams::port_forward))
        .route("/run/{namespace}/{pod}/{container}", post(streams::run))
        .route("/stats/summary", get(stats::summary))
        .route("/metrics/resource", get(stats::resource_metrics))
        .route("/metrics", get(stats::metrics))
        .layer(middleware::from_fn_with_state(shared.clone(), authorize::guard));
    let open = Router::new().route("/healthz", get(healthz)).route("/healthz/ping", get(healthz));
    open.merge(guarded).with_state(shared)
}

async fn healthz() -> impl IntoResponse {
    "ok"
}

async fn pods(State(shared): State<Shared>) -> impl IntoResponse {
    let items: Vec<_> = shared.workers.pods().iter().map(|p| serde_json::to_value(p.as_ref()).unwrap_or_default()).collect();
    axum::Json(serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}
