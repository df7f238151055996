//! The port that every component besides the apiserver has: `/healthz`, `/livez`, `/readyz`, `/metrics`, `/configz`, `/statusz` and `/flagz` over TLS.
//!
//! The certificate is made at the start and signed by itself, as upstream does when it is given none. Metrics are not protected by a
//! token review yet: they carry counts, no names of objects. Nor are the pages about the process, which
//! carry no secrets.

use anyhow::Context;
use api::zpages::{self, Component};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Connections at a time: a handful of probes and scrapers.
const CONNECTIONS: usize = 64;
/// What is served.
const PATHS: &[&str] = &["/configz", "/flagz", "/healthz", "/livez", "/metrics", "/readyz", "/statusz"];
const TEXT: &str = "text/plain; charset=utf-8";
/// How long the TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What a component shows of itself.
pub trait Observable: Send + Sync + 'static {
    /// Upstream's name of it.
    fn name(&self) -> &'static str;
    /// Its configuration under the name that upstream shows it with, if it has a file of one.
    fn configuration(&self) -> Option<(&'static str, Value)> {
        None
    }
    /// Why it is not healthy, one line each; none if it is.
    fn problems(&self) -> Vec<String>;
    /// Its metrics in Prometheus's text format.
    fn metrics(&self) -> String;
}

/// The component of that name in this process, which begins to serve these paths now.
pub fn component(name: &'static str, paths: &[&'static str]) -> Component {
    let flags = crate::command_line::flags();
    Component { name, version: ::api::VERSION, started: Timestamp::now(), paths: paths.to_vec(), flags }
}

/// Serves until cancelled, in tasks of its own; the address bound is returned (the port may have been 0).
pub async fn serve(address: SocketAddr, observed: Arc<dyn Observable>, stop: CancellationToken) -> anyhow::Result<SocketAddr> {
    crate::connection::install_crypto();
    let certificate = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), address.ip().to_string()])
        .context("making the serving certificate")?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certificate.signing_key.serialize_der()));
    let mut tls = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key)
        .context("using the serving certificate")?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
    let bound = listener.local_addr().context("reading the address bound")?;
    let component = Arc::new(component(observed.name(), PATHS));
    tokio::spawn(async move {
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            let Ok((stream, _)) = accepted else { continue };
            let Ok(permit) = permits.clone().try_acquire_owned() else { continue };
            let (acceptor, observed, component, stop) = (acceptor.clone(), observed.clone(), component.clone(), stop.clone());
            tokio::spawn(async move {
                let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
                let service = hyper::service::service_fn(|request| {
                    let response = answer(&request, &component, observed.as_ref());
                    async { Ok::<_, Infallible>(response) }
                });
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                // How a scraper ends its connection is its own business.
                let _ = stop.run_until_cancelled(server.serve_connection(TokioIo::new(stream), service)).await;
                drop(permit);
            });
        }
    });
    Ok(bound)
}

fn answer(request: &Request<Incoming>, component: &Component, observed: &dyn Observable) -> Response<String> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/statusz") => statusz(component, request.headers()),
        (&Method::GET, "/flagz") => flagz(component, request.headers()),
        (method, path) => {
            let (status, content_type, body) = route(method, path, observed);
            respond(status, content_type, body)
        }
    }
}

fn route(method: &Method, path: &str, observed: &dyn Observable) -> (StatusCode, &'static str, String) {
    if method != Method::GET {
        return (StatusCode::METHOD_NOT_ALLOWED, TEXT, "method not allowed\n".to_owned());
    }
    match path {
        "/healthz" | "/livez" | "/readyz" => {
            let problems = observed.problems();
            if problems.is_empty() {
                return (StatusCode::OK, TEXT, "ok".to_owned());
            }
            let lines: String = problems.iter().map(|problem| format!("[-]{problem}\n")).collect();
            (StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{lines}{} check failed\n", path.trim_start_matches('/')))
        }
        "/metrics" => (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", observed.metrics()),
        "/configz" => {
            let shown: serde_json::Map<String, Value> =
                observed.configuration().into_iter().map(|(name, fields)| (name.to_owned(), fields)).collect();
            (StatusCode::OK, "application/json", json!(shown).to_string())
        }
        _ => (StatusCode::NOT_FOUND, TEXT, "404 page not found\n".to_owned()),
    }
}

/// `/statusz`.
pub fn statusz(component: &Component, headers: &HeaderMap) -> Response<String> {
    page(component.statusz(accept(headers), Timestamp::now()))
}

/// `/flagz`.
pub fn flagz(component: &Component, headers: &HeaderMap) -> Response<String> {
    page(component.flagz(accept(headers)))
}

fn accept(headers: &HeaderMap) -> &str {
    headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn page(page: Option<zpages::Page>) -> Response<String> {
    match page {
        Some((content_type, body)) => respond(StatusCode::OK, content_type, body),
        None => respond(StatusCode::NOT_ACCEPTABLE, TEXT, format!("{}\n", zpages::NOT_ACCEPTABLE)),
    }
}

fn respond(status: StatusCode, content_type: &str, body: String) -> Response<String> {
    let response =
        Response::builder().status(status).header(header::CONTENT_TYPE, content_type).header("x-content-type-options", "nosniff");
    response.body(body).expect("constant headers are valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Component(Vec<String>);

    impl Observable for Component {
        fn name(&self) -> &'static str {
            "kube-scheduler"
        }
        fn configuration(&self) -> Option<(&'static str, Value)> {
            Some(("kubescheduler.config.k8s.io", json!({"parallelism": 16})))
        }
        fn problems(&self) -> Vec<String> {
            self.0.clone()
        }
        fn metrics(&self) -> String {
            "up 1\n".to_owned()
        }
    }

    #[test]
    fn routes() {
        let (well, ill) = (Component(vec![]), Component(vec!["caches: Pod".to_owned()]));
        for (component, method, path, status, body) in [
            (&well, Method::GET, "/healthz", 200, "ok"),
            (&ill, Method::GET, "/readyz", 500, "[-]caches: Pod\nreadyz check failed\n"),
            (&ill, Method::GET, "/metrics", 200, "up 1\n"),
            (&well, Method::GET, "/configz", 200, r#"{"kubescheduler.config.k8s.io":{"parallelism":16}}"#),
            (&well, Method::POST, "/healthz", 405, "method not allowed\n"),
            (&well, Method::GET, "/", 404, "404 page not found\n"),
        ] {
            let (got, _, text) = route(&method, path, component);
            assert_eq!((got.as_u16(), text.as_str()), (status, body), "{method} {path}");
        }
    }
    #[test]
    fn a_page_is_text_or_what_was_asked_for() {
        let about = super::component("kube-scheduler", PATHS);
        type Of = fn(&super::Component, &HeaderMap) -> Response<String>;
        for (page, accept, status, begins) in [
            (statusz as Of, "", 200, "\nkube-scheduler statusz\n"),
            (flagz as Of, "*/*", 200, "\nkube-scheduler flags\n"),
            (flagz as Of, "application/json;g=config.k8s.io;v=v1alpha1;as=Flagz", 200, "{"),
            (statusz as Of, "application/json", 406, "media type"),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().expect("a header"))]);
            let response = page(&about, &headers);
            assert_eq!(response.status(), status, "{accept}");
            assert!(response.body().starts_with(begins), "{}", response.body());
        }
    }
}
