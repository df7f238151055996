//! A server that has a say in decisions, over HTTPS, for tests: what it answers is a function of the verb and the question.

use anyhow::{Context, Result};
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// Answers a question; an error is a status code.
pub type Answer = dyn Fn(String, Value) -> BoxFuture<'static, Result<Value, u16>> + Send + Sync;

/// See the module's description.
pub struct Extender {
    pub address: SocketAddr,
    /// Its certificate, which is its own authority, in PEM.
    pub authority: String,
    serving: JoinHandle<()>,
}

impl Extender {
    /// Begins to answer, as `name`.
    pub async fn start(name: &str, answer: Arc<Answer>) -> Result<Self> {
        client::connection::install_crypto();
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).context("a certificate")?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let tls = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key)?;
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, answer) = (acceptor.clone(), answer.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| serve(answer.clone(), request));
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    // A client that goes away is none of the test's business.
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Self { address, authority: made.cert.pem(), serving })
    }

    /// Ends it and its connections: nobody listens any more.
    pub async fn stop(self) {
        self.serving.abort();
        let _ = self.serving.await;
    }
}

async fn serve(answer: Arc<Answer>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
    let verb = request.uri().path().trim_start_matches('/').to_owned();
    let question = serde_json::from_slice(&request.into_body().collect().await?.to_bytes())?;
    let response = match answer(verb, question).await {
        Ok(answer) => Response::new(answer.to_string().into()),
        Err(code) => Response::builder().status(code).body(Full::default())?,
    };
    Ok(response)
}
