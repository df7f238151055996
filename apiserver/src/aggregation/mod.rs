//! API aggregation: groups and versions that another server answers for, named by APIService objects with a service
//! (upstream: `kube-aggregator`).
//!
//! Requests are authenticated and authorised here and passed on with the caller's identity in `X-Remote-*` headers, proven by the front-proxy client
//! certificate. [`availability`] keeps the objects' conditions and what the servers say they serve; [`discovery`] puts that into this server's own documents.
//!
//! Left out: the definitions of aggregated kinds in the OpenAPI document of version 2; version 3 names their documents and passes requests for them on.

pub mod availability;
pub mod discovery;
pub mod local;

use crate::authentication::UserInfo;
use crate::connect::transport::{self, DialError, Unverified};
use crate::objects::{Change, Collection, Feed, Objects, decode};
use crate::outbound::{ServiceTarget, connect_service};
use crate::respond::{self, Response};
use axum::body::Body;
use http::{HeaderName, HeaderValue, Request};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::TlsConnector;

/// The kind that names them.
pub const API_SERVICES: Collection = Collection::of("apiregistration.k8s.io", "apiservices");
/// How long a TLS handshake with another server may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Another server, as one APIService has it.
pub struct Backend {
    /// `v1.example.com`.
    pub name: String,
    /// The API group.
    pub group: String,
    /// The version.
    pub version: String,
    /// How far up the group stands in discovery, and the version in the group: the higher the earlier.
    pub priority: (i32, i32),
    /// Whether the condition `Available` is true.
    pub available: bool,
    /// The service behind which it is.
    pub service: ServiceTarget,
    tls: Result<Arc<ClientConfig>, String>,
}

/// What this server shows others so that they believe whom it names.
#[derive(Debug)]
pub struct ProxyIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl ProxyIdentity {
    /// From PEM texts.
    pub fn new(certificate: &[u8], key: &[u8]) -> Result<Self, String> {
        let chain = rustls_pemfile::certs(&mut &*certificate).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
        let key = rustls_pemfile::private_key(&mut &*key).map_err(|e| e.to_string())?;
        Ok(ProxyIdentity { chain, key: key.ok_or("there is no private key")? })
    }

    fn config(&self, authorities: Option<&[u8]>) -> Result<ClientConfig, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
        let verified = match authorities {
            None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified::new(provider))),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                let found: Result<Vec<_>, _> = rustls_pemfile::certs(&mut &*pem).collect();
                roots.add_parsable_certificates(found.map_err(|e| e.to_string())?);
                builder.with_root_certificates(roots)
            }
        };
        verified.with_client_auth_cert(self.chain.clone(), self.key.clone_key()).map_err(|e| e.to_string())
    }
}

struct Index {
    feed: Box<dyn Feed>,
    by_name: BTreeMap<String, Arc<Backend>>,
    all: Arc<Vec<Arc<Backend>>>,
}

/// All other servers.
pub struct Aggregator {
    objects: Arc<dyn Objects>,
    identity: ProxyIdentity,
    index: Mutex<Index>,
    /// What each says it serves: an `APIResourceList`, by the APIService's name.
    discovered: Mutex<BTreeMap<String, Value>>,
}

impl Aggregator {
    /// Follows the APIServices among these objects.
    pub fn new(objects: Arc<dyn Objects>, identity: ProxyIdentity) -> Self {
        let index = Index { feed: objects.feed(API_SERVICES), by_name: BTreeMap::new(), all: Arc::default() };
        Aggregator { objects, identity, index: Mutex::new(index), discovered: Mutex::default() }
    }

    /// All of them now, by name.
    pub fn backends(&self) -> Arc<Vec<Arc<Backend>>> {
        let mut index = self.index.lock();
        let Index { feed, by_name, all } = &mut *index;
        let mut changed = false;
        feed.drain(&mut |change| {
            changed = true;
            match change {
                Change::Reset => by_name.clear(),
                Change::Put { name, object, .. } => match decode(&object).and_then(|service| self.backend(&name, service)) {
                    Some(backend) => drop(by_name.insert(name, Arc::new(backend))),
                    None => drop(by_name.remove(&name)),
                },
                Change::Gone { name, .. } => drop(by_name.remove(&name)),
            }
        });
        if changed {
            *all = Arc::new(by_name.values().cloned().collect());
            self.discovered.lock().retain(|name, _| by_name.contains_key(name));
        }
        all.clone()
    }

    /// The server of a group and version, if it is another one.
    pub fn find(&self, group: &str, version: &str) -> Option<Arc<Backend>> {
        self.backends().iter().find(|b| b.group == group && b.version == version).cloned()
    }

    fn backend(&self, name: &str, service: APIService) -> Option<Backend> {
        let (spec, status) = (service.spec?, service.status);
        let target = spec.service?;
        let conditions = status.and_then(|s| s.conditions).unwrap_or_default();
        let authorities = match spec.insecure_skip_tls_verify {
            Some(true) => None,
            _ => Some(spec.ca_bundle.map(|b| b.0).unwrap_or_default()),
        };
        Some(Backend {
            name: name.to_owned(),
            group: spec.group.unwrap_or_default(),
            version: spec.version.unwrap_or_default(),
            priority: (spec.group_priority_minimum, spec.version_priority),
            available: conditions.iter().any(|c| c.type_ == "Available" && c.status == "True"),
            service: ServiceTarget {
                namespace: target.namespace.unwrap_or_default(),
                name: target.name.unwrap_or_default(),
                port: target.port.and_then(|p| u16::try_from(p).ok()).unwrap_or(443),
                path: String::new(),
            },
            tls: self.identity.config(authorities.as_deref()).map(Arc::new),
        })
    }

    /// Passes a request on, by whoever `user` is.
    pub async fn proxy(&self, backend: &Backend, request: Request<Body>, user: &UserInfo) -> Response {
        if !backend.available {
            return respond::text(503, "service unavailable\n");
        }
        let path = request.uri().path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        match self.send(backend, &path, request, user).await {
            Ok(response) => response,
            Err(error) => respond::text(503, format!("error trying to reach service: {error}\n")),
        }
    }

    /// Sends a request for a path of the other server.
    async fn send(&self, backend: &Backend, path: &str, request: Request<Body>, user: &UserInfo) -> Result<Response, DialError> {
        let ServiceTarget { namespace, name, port, .. } = &backend.service;
        let tcp = connect_service(&*self.objects, &backend.service).await.map_err(|e| DialError::Target(e.to_string()))?;
        let host = format!("{name}.{namespace}.svc");
        let config = backend.tls.clone().map_err(DialError::Target)?;
        let server = ServerName::try_from(host.clone()).map_err(|e| DialError::Target(e.to_string()))?;
        let connecting = tokio::time::timeout(HANDSHAKE, TlsConnector::from(config).connect(server, tcp));
        let stream = connecting.await.map_err(|_| DialError::Timeout(format!("{host}:{port}")))?.map_err(DialError::Tls)?;
        transport::pass(Box::new(stream), &format!("{host}:{port}"), path, &identity_headers(user), request).await
    }
}

/// What may stand in a header's name besides letters and digits.
const HEADER: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Who the caller is, as another server reads it.
fn identity_headers(user: &UserInfo) -> Vec<(HeaderName, HeaderValue)> {
    let mut out = Vec::new();
    let mut put = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name.to_lowercase()), HeaderValue::try_from(value)) {
            out.push((name, value));
        }
    };
    put("x-remote-user", &user.name);
    if !user.uid.is_empty() {
        put("x-remote-uid", &user.uid);
    }
    user.groups.iter().for_each(|group| put("x-remote-group", group));
    for (key, values) in &user.extra {
        let name = format!("x-remote-extra-{}", utf8_percent_encode(key, HEADER));
        values.iter().for_each(|value| put(&name, value));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_is_named_in_headers() {
        let user = UserInfo {
            name: "amy".into(),
            groups: vec!["a".into(), "b".into()],
            extra: [("example.com/x y".to_owned(), vec!["1".to_owned()])].into(),
            ..Default::default()
        };
        let shown: Vec<String> = identity_headers(&user).iter().map(|(n, v)| format!("{n}={}", v.to_str().unwrap())).collect();
        assert_eq!(shown, ["x-remote-user=amy", "x-remote-group=a", "x-remote-group=b", "x-remote-extra-example.com%2fx%20y=1"]);
    }
}
