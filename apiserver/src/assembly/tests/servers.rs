//! Servers outside, for tests: they answer over TLS on the loopback, under the name of a Service.

use crate::pki::{Authority, Leaf, Usage};
use base64::Engine;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::Value;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A server that is running for as long as the test's runtime.
pub struct Outside {
    /// Where on the loopback.
    pub port: u16,
    /// Its authority, as `caBundle` wants it.
    pub ca_bundle: String,
    /// How many connections were made to it.
    pub connections: Arc<AtomicUsize>,
}

/// What a server makes of a request: code and body.
pub type Answer = Arc<dyn Fn(&http::request::Parts, Value) -> (u16, Value) + Send + Sync>;

impl Outside {
    /// Starts one that bears these names.
    pub async fn start(names: &[&str], answer: Answer) -> Self {
        let now = SystemTime::now();
        let authority = Authority::new("outside", now).unwrap();
        let names = names.iter().map(|n| (*n).to_owned()).collect();
        let leaf = Leaf { common_name: "outside".into(), organization: String::new(), usage: Usage::Server(names) };
        let issued = authority.issue(&leaf, now).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = (directory.path().join("crt"), directory.path().join("key"));
        std::fs::write(&certificate, &issued.certificate).unwrap();
        std::fs::write(&key, &issued.key).unwrap();
        let acceptor = TlsAcceptor::from(crate::tls::server_config(&certificate, &key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let (acceptor, answer) = (acceptor.clone(), answer.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| serve(request, answer.clone()));
                    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        let ca_bundle = base64::engine::general_purpose::STANDARD.encode(&authority.pem().certificate);
        Outside { port, ca_bundle, connections }
    }
}

async fn serve(request: Request<Incoming>, answer: Answer) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    // An answer may take its time.
    let (code, value) = tokio::task::spawn_blocking(move || answer(&head, body)).await.unwrap();
    let text = if let Value::String(text) = &value { text.clone() } else { value.to_string() };
    Ok(Response::builder().status(code).header("content-type", "application/json").body(Full::new(text.into())).unwrap())
}
