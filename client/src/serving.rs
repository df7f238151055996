//! The port that every component besides the apiserver has: `/healthz`, `/livez`, `/readyz` and `/metrics` over TLS.
//!
//! The certificate is made at the start and signed by itself, as upstream does when it is given none. Metrics are not protected by a
//! token review yet: they carry counts, no names of objects.

use anyhow::Context;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Connections at a time: a handful of probes and scrapers.
const CONNECTIONS: usize = 64;
/// How long the TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What a component shows of itself.
pub trait Observable: Send + Sync + 'static {
    /// Why it is not healthy, one line each; none if it is.
    fn problems(&self) -> Vec<String>;
    /// Its metrics in Prometheus's text format.
    fn metrics(&self) -> String;
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
    tokio::spawn(async move {
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            let Ok((stream, _)) = accepted else { continue };
            let Ok(permit) = permits.clone().try_acquire_owned() else { continue };
            let (acceptor, observed, stop) = (acceptor.clone(), observed.clone(), stop.clone());
            tokio::spawn(async move {
                let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
                let service = hyper::service::service_fn(|request| {
                    let response = answer(&request, observed.as_ref());
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

fn answer(request: &Request<Incoming>, observed: &dyn Observable) -> Response<Full<Bytes>> {
    let (status, content_type, body) = route(request.method(), request.uri().path(), observed);
    let response =
        Response::builder().status(status).header(header::CONTENT_TYPE, content_type).header("x-content-type-options", "nosniff");
    response.body(Full::new(Bytes::from(body))).expect("constant headers are valid")
}

fn route(method: &Method, path: &str, observed: &dyn Observable) -> (StatusCode, &'static str, String) {
    const TEXT: &str = "text/plain; charset=utf-8";
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
        _ => (StatusCode::NOT_FOUND, TEXT, "404 page not found\n".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Component(Vec<String>);

    impl Observable for Component {
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
            (&well, Method::POST, "/healthz", 405, "method not allowed\n"),
            (&well, Method::GET, "/", 404, "404 page not found\n"),
        ] {
            let (got, _, text) = route(&method, path, component);
            assert_eq!((got.as_u16(), text.as_str()), (status, body), "{method} {path}");
        }
    }
}
