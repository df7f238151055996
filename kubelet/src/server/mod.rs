//! The kubelet's server: what the API server asks of a node on behalf of users, and what monitoring reads.
//!
//! TLS with a certificate of its own making unless it is given one. Callers show a certificate of the cluster's CA or a token that the API
//! server reviews; what they may do the API server decides, too.

pub mod authorize;
pub mod cadvisor;
pub mod exposition;
pub mod files;
pub mod logs;
pub mod metrics;
pub mod stats;
pub mod streams;
pub mod tls;

use crate::{config::KubeletConfiguration, container::identity, pod::workers::Workers};
use ::api::zpages;
use anyhow::Context;
use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use client::serving;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use k8s_cri::v1::{Container, ContainerState, PodSandbox, PodSandboxState};
use kube::Client;
use std::{collections::HashMap, future::Future, net::SocketAddr, path::PathBuf, pin::Pin, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::Service;

/// What `/statusz` names besides itself.
const PATHS: &[&str] = &["/configz", "/flagz", "/healthz", "/metrics", "/pods", "/stats/summary"];
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
    /// The process, for `/statusz` and `/flagz`.
    pub component: Arc<zpages::Component>,
    /// Whether the machine's own logs are shown.
    pub system_logs: bool,
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
        component: Arc::new(serving::component("kubelet", PATHS)),
        system_logs: settings.enable_system_log_handler,
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
        .route("/statusz", get(statusz))
        .route("/flagz", get(flagz))
        .route("/pods", get(pods))
        .route("/runningpods/", get(running_pods))
        .route("/checkpoint/{namespace}/{pod}/{container}", post(checkpoint))
        .route("/logs/", get(files::top))
        .route("/logs/{*path}", get(files::below))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs::serve))
        .route("/exec/{namespace}/{pod}/{container}", get(streams::exec).post(streams::exec))
        .route("/attach/{namespace}/{pod}/{container}", get(streams::attach).post(streams::attach))
        .route("/portForward/{namespace}/{pod}", get(streams::port_forward).post(streams::port_forward))
        .route("/run/{namespace}/{pod}/{container}", post(streams::run))
        .route("/stats/summary", get(stats::summary))
        .route("/metrics/resource", get(stats::resource_metrics))
        .route("/metrics/cadvisor", get(cadvisor::serve))
        .route("/metrics/probes", get(metrics::probes))
        .route("/metrics", get(metrics::serve))
        .route("/healthz", get(healthz))
        .route("/healthz/{check}", get(health_check))
        .layer(middleware::from_fn_with_state(shared.clone(), authorize::guard));
    guarded.with_state(shared)
}

async fn statusz(State(shared): State<Shared>, headers: HeaderMap) -> http::Response<String> {
    serving::statusz(&shared.component, &headers)
}

async fn flagz(State(shared): State<Shared>, headers: HeaderMap) -> http::Response<String> {
    serving::flagz(&shared.component, &headers)
}

async fn healthz() -> impl IntoResponse {
    "ok"
}

/// What `/healthz` is made of. All of it holds while somebody is there to answer.
const HEALTH_CHECKS: [&str; 3] = ["ping", "log", "syncloop"];

async fn health_check(Path(check): Path<String>) -> Response {
    if HEALTH_CHECKS.contains(&check.as_str()) {
        "ok".into_response()
    } else {
        (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
    }
}

async fn pods(State(shared): State<Shared>) -> impl IntoResponse {
    let items: Vec<_> = shared.workers.pods().iter().map(|p| serde_json::to_value(p.as_ref()).unwrap_or_default()).collect();
    axum::Json(serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

/// What runs, as the runtime knows it: names, UIDs, containers and their images.
async fn running_pods(State(shared): State<Shared>) -> Response {
    let node = shared.workers.node();
    let listed = tokio::try_join!(node.runtime.list_sandboxes(&[]), node.runtime.list_containers(&[]));
    match listed {
        Ok((sandboxes, containers)) => axum::Json(running(&sandboxes, &containers)).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn running(sandboxes: &[PodSandbox], containers: &[Container]) -> serde_json::Value {
    let label = |labels: &HashMap<String, String>, key: &str| labels.get(key).cloned().unwrap_or_default();
    let ready = sandboxes.iter().filter(|s| s.state == PodSandboxState::SandboxReady as i32);
    let items: Vec<_> = ready
        .map(|sandbox| {
            let own = containers.iter().filter(|c| c.pod_sandbox_id == sandbox.id && c.state == ContainerState::ContainerRunning as i32);
            let own: Vec<_> = own
                .map(|c| {
                    let image = c.image.as_ref().map(|i| i.image.clone()).unwrap_or_default();
                    serde_json::json!({"name": label(&c.labels, identity::CONTAINER_NAME), "image": image, "resources": {}})
                })
                .collect();
            serde_json::json!({
                "metadata": {
                    "name": label(&sandbox.labels, identity::POD_NAME),
                    "namespace": label(&sandbox.labels, identity::POD_NAMESPACE),
                    "uid": label(&sandbox.labels, identity::POD_UID),
                },
                "spec": {"containers": own},
                "status": {},
            })
        })
        .collect();
    serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}

/// Freezing a container into a file: no runtime behind the trait does it yet, and the answer is what upstream gives for such a runtime.
async fn checkpoint(State(shared): State<Shared>, Path((namespace, pod, container)): Path<(String, String, String)>) -> Response {
    let Some(found) = shared.workers.pod(&namespace, &pod) else {
        return (StatusCode::NOT_FOUND, "pod does not exist").into_response();
    };
    let named = found.spec.iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten())).any(|c| c.name == container);
    if !named {
        return (StatusCode::NOT_FOUND, format!("container {container} does not exist")).into_response();
    }
    let why = "rpc error: code = Unimplemented desc = method CheckpointContainer not implemented";
    (StatusCode::INTERNAL_SERVER_ERROR, format!("checkpointing of {namespace}/{pod}/{container} failed ({why})")).into_response()
}

/// Serves `/healthz` in the clear for whoever watches over the process (`healthzPort`). A port that is taken is no reason not to be a node.
pub async fn healthz_in_the_clear(address: String, port: u16, stop: CancellationToken) {
    let listener = match TcpListener::bind((address.as_str(), port)).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%address, port, %error, "no server for /healthz");
            return;
        }
    };
    let router = Router::new().route("/healthz", get(healthz)).route("/healthz/{check}", get(health_check));
    let served = axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await }).await;
    if let Err(error) = served {
        tracing::warn!(%error, "the server for /healthz ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_pods_are_the_runtimes() {
        let labels = |name: &str| {
            HashMap::from([(identity::POD_NAME.to_owned(), "p".to_owned()), (identity::CONTAINER_NAME.to_owned(), name.to_owned())])
        };
        let sandbox =
            |id: &str, state: PodSandboxState| PodSandbox { id: id.into(), state: state as i32, labels: labels(""), ..Default::default() };
        let container = |name: &str, sandbox: &str, state: ContainerState| Container {
            pod_sandbox_id: sandbox.into(),
            state: state as i32,
            labels: labels(name),
            ..Default::default()
        };
        let list = running(
            &[sandbox("a", PodSandboxState::SandboxReady), sandbox("b", PodSandboxState::SandboxNotready)],
            &[container("c", "a", ContainerState::ContainerRunning), container("d", "a", ContainerState::ContainerExited)],
        );
        assert_eq!(list["items"].as_array().map(Vec::len), Some(1));
        assert_eq!((&list["items"][0]["metadata"]["name"], &list["items"][0]["spec"]["containers"][0]["name"]), (&"p".into(), &"c".into()));
        assert_eq!(list["items"][0]["spec"]["containers"].as_array().map(Vec::len), Some(1));
    }
}
