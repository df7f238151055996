//! Puts the parts together and runs them until told to stop.

use crate::forward::{Forwarder, Source};
use crate::metrics::Metrics;
use crate::publish::{Published, publish as publish_slices};
use crate::resolver::Resolver;
use crate::server::Serving;
use crate::watch;
use crate::zone::Zone;
use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::routing::get;
use client::{ObjectKey, SharedCaches};
use hickory_proto::rr::Name;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What the server runs with.
pub struct Options {
    /// The connection to the apiserver.
    pub client: kube::Client,
    /// Where queries are answered.
    pub addresses: Vec<SocketAddr>,
    /// Where health, readiness and metrics are told; nowhere if not given.
    pub http_address: Option<SocketAddr>,
    /// The cluster's zone.
    pub domain: Name,
    /// How long clients may keep an answer, in seconds.
    pub ttl: u32,
    /// Whether names of pods are answered.
    pub pods: bool,
    /// Who is asked about other names.
    pub forward: Source,
    /// The Service whose endpoint this server makes itself, and the machine's name; if it is one.
    pub publish: Option<(ObjectKey, String)>,
}

/// Runs until stopped.
pub async fn run(options: Options, stop: CancellationToken) -> anyhow::Result<()> {
    let Options { client, addresses, http_address, domain, ttl, pods, forward, publish } = options;
    let metrics = Arc::new(Metrics::default());
    let servers = addresses.iter().map(SocketAddr::ip).filter(|address| !address.is_unspecified()).collect();
    let zone = Zone { domain: domain.to_lowercase(), ttl, pods, servers };
    let forwarder = Forwarder::new(forward, addresses.clone(), metrics.clone());
    let resolver = Arc::new(Resolver::new(zone, Arc::new(forwarder)));
    let serving = Arc::new(Serving { resolver: resolver.clone(), metrics });
    for address in &addresses {
        serving.listen(*address, &stop).await?;
    }
    if let Some(address) = http_address {
        serve_http(address, serving.clone(), stop.clone()).await?;
    }
    let caches = SharedCaches::new(client.clone());
    watch::follow(&caches, &resolver);
    if stop.run_until_cancelled(caches.wait_until_synced()).await.is_some() {
        resolver.ready.store(true, Ordering::Release);
        tracing::info!(domain = %resolver.zone.domain, "caches are filled");
        if let Some((service, host)) = publish {
            let published = Published { service, host, addresses, http_port: http_address.map(|address| address.port()) };
            stop.run_until_cancelled(publish_slices(client, &published)).await;
        }
        stop.cancelled().await;
    }
    Ok(())
}

/// `/ready` once everything is known, `/health` as long as the process answers, `/metrics`; and the first two also under the names of other components.
async fn serve_http(address: SocketAddr, serving: Arc<Serving>, stop: CancellationToken) -> anyhow::Result<()> {
    let health = || get(|| async { "OK" });
    let ready = || {
        get(|State(serving): State<Arc<Serving>>| async move {
            match serving.resolver.ready.load(Ordering::Acquire) {
                true => (StatusCode::OK, "OK"),
                false => (StatusCode::SERVICE_UNAVAILABLE, "kubernetes"),
            }
        })
    };
    let metrics = get(|State(serving): State<Arc<Serving>>| async move {
        let text = serving.metrics.text(&serving.resolver.zone.domain.to_ascii());
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
    });
    let router = Router::new()
        .route("/health", health())
        .route("/healthz", health())
        .route("/livez", health())
        .route("/ready", ready())
        .route("/readyz", ready())
        .route("/metrics", metrics)
        .with_state(serving);
    let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
    tokio::spawn(async move {
        // Its listener cannot fail; it ends when it is told to.
        let _ = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
    });
    Ok(())
}
