//! Calls to servers that objects of the cluster name: webhooks for admission, conversion, authentication and authorisation
//! (upstream: `apiserver/pkg/util/webhook`). A server is named by URL, or as a Service, whose endpoints are then looked up here, so that a call does
//! not depend on the cluster's DNS or on a proxy on this machine.
//!
//! Connections are kept and used again, by server and authority. Errors read as a Go client's, for they end up in answers that people search for.
//! Left out: proxies from the environment, and client certificates from a kubeconfig of the admission configuration file.

mod dial;
pub mod service;

pub use dial::{DialError, connect_service, go_text};

use crate::objects::Objects;
use bytes::Bytes;
use dial::Dial;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// The largest answer that is read: an admission review with an object and its patch.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// How many servers connections are kept to; with more, all are dropped and made anew.
const MAX_CLIENTS: usize = 512;
/// How long an idle connection is kept (upstream's transport).
const IDLE: Duration = Duration::from_secs(90);

/// A service and the path to call on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceTarget {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: u16,
    /// The path, with its slash, or empty.
    pub path: String,
}

/// A server to call, as a webhook's `clientConfig` has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// Where: a URL, or a service.
    pub place: Place,
    /// The authorities its certificate must be of, PEM; the system's where empty.
    pub authorities: Vec<u8>,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// At this address.
    Url(String),
    /// Behind this service.
    Service(ServiceTarget),
}

impl Server {
    /// The URL to call, without a query.
    pub fn url(&self) -> String {
        match &self.place {
            Place::Url(url) => url.clone(),
            Place::Service(ServiceTarget { namespace, name, port, path }) => {
                let slash = if path.is_empty() || path.starts_with('/') { "" } else { "/" };
                format!("https://{name}.{namespace}.svc:{port}{slash}{path}")
            }
        }
    }
}

/// Why a call came to nothing. The texts are Go's.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No answer came.
    #[error("{method} {url:?}: {why}")]
    Failed {
        /// `Post` or `Get`.
        method: &'static str,
        /// What was called.
        url: String,
        /// Why.
        why: String,
    },
    /// The answer is an error.
    #[error("{message}")]
    Status {
        /// Its code.
        code: u16,
        /// What a Go client makes of it.
        message: String,
    },
}

type HttpClient = Client<HttpsConnector<Dial>, Full<Bytes>>;

/// What connections are told apart by: the service, if it is one, and the authorities.
type Key = (Option<ServiceTarget>, Vec<u8>);

/// Who makes the calls.
pub struct Caller {
    objects: Arc<dyn Objects>,
    clients: Mutex<HashMap<Key, HttpClient>>,
}

impl Caller {
    /// Services are looked up in these objects.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        Caller { objects, clients: Mutex::default() }
    }

    /// Posts JSON and returns the body of the answer, which was no error. `query` comes behind the URL's own; all of it ends after `timeout`.
    pub async fn post(&self, server: &Server, query: &str, body: Bytes, timeout: Duration) -> Result<Bytes, CallError> {
        let mut url = server.url();
        if !query.is_empty() {
            url += if url.contains('?') { "&" } else { "?" };
            url += query;
        }
        let request =
            Request::post(&url).header(header::CONTENT_TYPE, "application/json").header(header::USER_AGENT, "kube-apiserver-admission");
        self.send("Post", url, server, request.body(Full::new(body)), timeout).await
    }

    /// Reads a document.
    pub async fn get(&self, server: &Server, timeout: Duration) -> Result<Bytes, CallError> {
        let url = server.url();
        let request = Request::get(&url).header(header::USER_AGENT, "kube-apiserver");
        self.send("Get", url, server, request.body(Full::default()), timeout).await
    }

    async fn send(
        &self,
        method: &'static str,
        url: String,
        server: &Server,
        request: http::Result<Request<Full<Bytes>>>,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let failed = |why: String| CallError::Failed { method, url: url.clone(), why };
        let mut request = request.map_err(|e| failed(e.to_string()))?;
        request.headers_mut().insert(header::ACCEPT, http::HeaderValue::from_static("application/json"));
        let client = self.client(server).map_err(failed)?;
        let call = async {
            let answer = client.request(request).await.map_err(|e| failed(cause(&e)))?;
            let code = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|e| failed(e.to_string()))?;
            answered(code, body.to_bytes())
        };
        match tokio::time::timeout(timeout, call).await {
            Ok(answer) => answer,
            Err(_) => Err(failed("context deadline exceeded".into())),
        }
    }

    fn client(&self, server: &Server) -> Result<HttpClient, String> {
        let service = match &server.place {
            Place::Service(target) => Some(ServiceTarget { path: String::new(), ..target.clone() }),
            Place::Url(_) => None,
        };
        let mut clients = self.clients.lock();
        let key = (service.clone(), server.authorities.clone());
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let tls = config(&server.authorities)?;
        let connector = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_all_versions();
        let connector = connector.wrap_connector(Dial { service, objects: self.objects.clone() });
        let mut builder = Client::builder(TokioExecutor::new());
        let client = builder.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE).build(connector);
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}

/// The authorities that the system trusts.
static SYSTEM: LazyLock<RootCertStore> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
});

/// The authorities in this PEM text, or the system's where it is empty.
fn config(authorities: &[u8]) -> Result<ClientConfig, String> {
    let roots = if authorities.is_empty() {
        SYSTEM.clone()
    } else {
        let mut roots = RootCertStore::empty();
        let certificates: Result<Vec<CertificateDer<'static>>, _> = rustls_pemfile::certs(&mut &*authorities).collect();
        let (added, _) = roots.add_parsable_certificates(certificates.map_err(|e| e.to_string())?);
        if added == 0 {
            return Err("unable to load root certificates: unable to parse bytes as PEM block".into());
        }
        roots
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// What is at the bottom of a chain of errors, in Go's words where they are known.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
        if let Some(text) = deepest.downcast_ref::<dial::DialError>() {
            return text.to_string();
        }
    }
    tls_text(&deepest.to_string())
}

fn tls_text(text: &str) -> String {
    let unverified = |why: &str| format!("tls: failed to verify certificate: x509: {why}");
    if text.contains("UnknownIssuer") {
        return unverified("certificate signed by unknown authority");
    }
    if text.contains("Expired") {
        return unverified("certificate has expired or is not yet valid");
    }
    if text.contains("NotValidForName") || text.contains("not valid for name") {
        return unverified("certificate is not valid for the name that was asked for");
    }
    text.to_owned()
}

/// What a Go client makes of an answer (upstream: `client-go/rest`, `errors.NewGenericServerResponse`).
fn answered(code: StatusCode, body: Bytes) -> Result<Bytes, CallError> {
    if code.is_success() {
        return Ok(body);
    }
    let said = String::from_utf8_lossy(&body[..body.len().min(2048)]).trim().to_owned();
    let message = match code.as_u16() {
        400 => "the server rejected our request for an unknown reason".to_owned(),
        401 => "the server has asked for the client to provide credentials".into(),
        403 if said.is_empty() => "the server does not allow access to the requested resource".into(),
        403 => said,
        404 => "the server could not find the requested resource".into(),
        405 => "the server does not allow this method on the requested resource".into(),
        429 => "the server has received too many requests and has asked us to try again later".into(),
        503 => "the server is currently unable to handle the request".into(),
        504 => "the server was unable to return a response in the time allotted, but may still be processing the request".into(),
        500.. => format!("an error on the server ({:?}) has prevented the request from succeeding", or_unknown(&said)),
        code => format!("the server responded with the status code {code} but did not return more information"),
    };
    Err(CallError::Status { code: code.as_u16(), message })
}

fn or_unknown(text: &str) -> &str {
    if text.is_empty() { "unknown" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_called_by_their_names() {
        let target = |path: &str| Server {
            place: Place::Service(ServiceTarget { namespace: "ns".into(), name: "s".into(), port: 8443, path: path.into() }),
            authorities: Vec::new(),
        };
        assert_eq!(target("").url(), "https://s.ns.svc:8443");
        assert_eq!(target("a/b").url(), "https://s.ns.svc:8443/a/b");
        assert_eq!(target("/a").url(), "https://s.ns.svc:8443/a");
    }

    #[test]
    fn errors_read_as_a_go_clients() {
        let text = |code: u16, body: &'static str| answered(StatusCode::from_u16(code).unwrap(), body.into()).unwrap_err().to_string();
        assert_eq!(text(500, "oops\n"), "an error on the server (\"oops\") has prevented the request from succeeding");
        assert_eq!(text(404, "x"), "the server could not find the requested resource");
        assert_eq!(text(502, ""), "an error on the server (\"unknown\") has prevented the request from succeeding");
        assert!(config(b"nothing").is_err());
    }
}
