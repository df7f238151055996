//! Copies a request to where it goes, and what comes back to the client: headers, body, and after an upgrade the bare bytes both ways.
//!
//! Every request has a connection of its own: they are few and long. What identifies the client to this server (its token, whom
//! it impersonates) is never passed on.

use super::Target;
use crate::outbound::go_text;
use api::status::{Result, StatusError};
use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// How long connecting may take.
const DIAL: Duration = Duration::from_secs(10);
/// How much of an error's text is passed on to the client (upstream's `maxReadLength`).
const ERROR_TEXT: usize = 50_000;

/// How to talk to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TLS with our client certificate, to a kubelet.
    Kubelet,
    /// TLS to a pod or service, whose certificate nobody can verify.
    Tls,
    /// Without TLS.
    Plain,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The peer is not there or refuses.
    #[error("dial tcp {address}: {}", go_text(.source))]
    Connect {
        /// `host:port`.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The peer does not answer in time.
    #[error("dial tcp {0}: i/o timeout")]
    Timeout(String),
    /// TLS failed.
    #[error("tls: {0}")]
    Tls(io::Error),
    /// HTTP failed.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// The target is no valid host or path.
    #[error("invalid target: {0}")]
    Target(String),
}

/// Why the certificates for kubelets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The text is not what it should be.
    #[error("kubelet client certificate: {0}")]
    Pem(String),
    /// Certificate, key or authority are refused.
    #[error("kubelet client certificate: {0}")]
    Rustls(#[from] rustls::Error),
}

/// TLS towards kubelets and towards everybody else.
pub struct KubeletTls {
    kubelet: Arc<ClientConfig>,
    other: Arc<ClientConfig>,
}

/// Accepts every certificate: kubelets sign their own unless the cluster says otherwise, and so do pods, as upstream.
#[derive(Debug)]
pub struct Unverified(Arc<CryptoProvider>);

impl Unverified {
    /// Signatures are still checked, with this provider.
    pub fn new(provider: Arc<CryptoProvider>) -> Self {
        Unverified(provider)
    }
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl KubeletTls {
    /// Shows kubelets this certificate, and verifies them with `authority` if there is one (all PEM).
    pub fn new(certificate: &[u8], key: &[u8], authority: Option<&[u8]>) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let read = |pem: &[u8]| -> Result<Vec<CertificateDer<'static>>, TlsError> {
            rustls_pemfile::certs(&mut &*pem).collect::<Result<_, _>>().map_err(|e| TlsError::Pem(e.to_string()))
        };
        let key = rustls_pemfile::private_key(&mut &*key).map_err(|e| TlsError::Pem(e.to_string()))?;
        let key: PrivateKeyDer<'static> = key.ok_or_else(|| TlsError::Pem("there is no private key".into()))?;
        let builder = || ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let unverified = || Arc::new(Unverified(provider.clone()));
        let verifier: Arc<dyn ServerCertVerifier> = match authority {
            None => unverified(),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for certificate in read(pem)? {
                    roots.add(certificate)?;
                }
                let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
                built.map_err(|e| TlsError::Pem(e.to_string()))?
            }
        };
        let kubelet = builder()?.dangerous().with_custom_certificate_verifier(verifier).with_client_auth_cert(read(certificate)?, key)?;
        let other = builder()?.dangerous().with_custom_certificate_verifier(unverified()).with_no_client_auth();
        Ok(KubeletTls { kubelet: Arc::new(kubelet), other: Arc::new(other) })
    }

    /// Passes the request on. If the answer is an upgrade, bytes are copied both ways until either side ends.
    pub async fn forward(&self, target: &Target, request: Request<Body>) -> Result<Response<Body>, DialError> {
        let stream = self.dial(target).await?;
        pass(stream, &target.authority(), &target.path, &[], request).await
    }

    async fn dial(&self, target: &Target) -> Result<Box<dyn Stream>, DialError> {
        let host = target.host.trim_start_matches('[').trim_end_matches(']');
        let address = if host.contains(':') { format!("[{host}]:{}", target.port) } else { format!("{host}:{}", target.port) };
        let connected = tokio::time::timeout(DIAL, TcpStream::connect((host, target.port))).await;
        let tcp = match connected {
            Err(_) => return Err(DialError::Timeout(address)),
            Ok(result) => result.map_err(|source| DialError::Connect { address: address.clone(), source })?,
        };
        tcp.set_nodelay(true).map_err(|source| DialError::Connect { address: address.clone(), source })?;
        let config = match target.transport {
            Transport::Plain => return Ok(Box::new(tcp)),
            Transport::Kubelet => &self.kubelet,
            Transport::Tls => &self.other,
        };
        let name = ServerName::try_from(host.to_owned()).map_err(|e| DialError::Target(e.to_string()))?;
        let tls = tokio::time::timeout(DIAL, TlsConnector::from(config.clone()).connect(name, tcp)).await;
        Ok(Box::new(tls.map_err(|_| DialError::Timeout(address))?.map_err(DialError::Tls)?))
    }
}

/// Passes a request on over a connection, to `path` of `host`, with these headers besides the client's own. If the answer is an upgrade, bytes are copied both
/// ways until either side ends.
pub async fn pass(
    stream: Box<dyn Stream>,
    host: &str,
    path: &str,
    headers: &[(HeaderName, HeaderValue)],
    mut request: Request<Body>,
) -> Result<Response<Body>, DialError> {
    let upgrade = upgrade_of(request.headers());
    let client = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let onward = onward(host, path, headers, request, upgrade.as_ref())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a passed on connection ended");
        }
    });
    let mut answer = sender.send_request(onward).await?;
    if let (Some(client), StatusCode::SWITCHING_PROTOCOLS) = (client, answer.status()) {
        let server = hyper::upgrade::on(&mut answer);
        tokio::spawn(async move {
            match tokio::try_join!(client, server) {
                Ok((client, server)) => {
                    // Either side may go away at any time; there is nobody left to tell.
                    let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(server)).await;
                }
                Err(error) => tracing::debug!(%error, "an upgrade failed"),
            }
        });
        let (mut head, _) = answer.into_parts();
        head.extensions = http::Extensions::new();
        return Ok(Response::from_parts(head, Body::empty()));
    }
    let (mut head, body) = answer.into_parts();
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, HeaderName::from_static("keep-alive")] {
        head.headers.remove(name);
    }
    head.version = http::Version::HTTP_11;
    Ok(Response::from_parts(head, Body::new(body)))
}

/// A connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The protocol that the client wants to change to.
fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let tokens = headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    let wanted = tokens.flat_map(|v| v.split(',')).any(|t| t.trim().eq_ignore_ascii_case("upgrade"));
    headers.get(header::UPGRADE).filter(|_| wanted).cloned()
}

/// Headers that concern one connection only, or tell this server who the client is.
fn stays_here(name: &HeaderName) -> bool {
    const NAMES: [&str; 9] =
        ["authorization", "connection", "host", "keep-alive", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade"];
    NAMES.contains(&name.as_str()) || name.as_str().starts_with("impersonate-") || name.as_str().starts_with("x-remote-")
}

/// The request as the target gets it.
fn onward(
    host: &str,
    path: &str,
    headers: &[(HeaderName, HeaderValue)],
    request: Request<Body>,
    upgrade: Option<&HeaderValue>,
) -> Result<Request<Body>, DialError> {
    let (head, body) = request.into_parts();
    let mut onward = Request::builder().method(head.method).uri(path).header(header::HOST, host);
    for (name, value) in &head.headers {
        if stays_here(name) {
            continue;
        }
        if name == header::SEC_WEBSOCKET_PROTOCOL {
            if let Some(value) = without_token(value) {
                onward = onward.header(name, value);
            }
            continue;
        }
        onward = onward.header(name, value);
    }
    for (name, value) in headers {
        onward = onward.header(name, value);
    }
    if let Some(protocol) = upgrade {
        onward = onward.header(header::CONNECTION, "Upgrade").header(header::UPGRADE, protocol);
    }
    onward.body(body).map_err(|e| DialError::Target(e.to_string()))
}

/// The WebSocket subprotocols but for the one that holds a token.
fn without_token(value: &HeaderValue) -> Option<HeaderValue> {
    let text = value.to_str().ok()?;
    let kept: Vec<&str> = text.split(',').map(str::trim).filter(|p| !p.starts_with("base64url.bearer.authorization.k8s.io.")).collect();
    if kept.is_empty() { None } else { HeaderValue::from_str(&kept.join(", ")).ok() }
}

/// The response, or its error as a `Status`.
pub async fn checked(response: Response<Body>, pod: &str) -> Result<Response<Body>> {
    let code = response.status();
    if code.is_success() {
        return Ok(response);
    }
    let text = match Limited::new(response.into_body(), ERROR_TEXT).collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).trim_end().to_owned(),
        Err(error) => format!("unable to read the error: {error}"),
    };
    Err(match code {
        StatusCode::BAD_REQUEST => StatusError::bad_request(text),
        StatusCode::INTERNAL_SERVER_ERROR => StatusError::internal(text),
        StatusCode::NOT_FOUND => {
            let message = format!("the server could not find the requested resource ( pods/log {pod})");
            StatusError::new(404, "NotFound", message)
        }
        StatusCode::FORBIDDEN => StatusError::new(403, "Forbidden", text),
        StatusCode::UNAUTHORIZED => {
            StatusError::new(401, "Unauthorized", "the server has asked for the client to provide credentials ( pods/log)")
        }
        code => StatusError::new(code.as_u16(), "", text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_identifies_the_client_is_not_passed_on() {
        let request = Request::builder()
            .header("Authorization", "Bearer secret")
            .header("Impersonate-User", "root")
            .header("Sec-WebSocket-Protocol", "base64url.bearer.authorization.k8s.io.c2VjcmV0, v4.channel.k8s.io")
            .header("Connection", "keep-alive, Upgrade")
            .header("Upgrade", "websocket")
            .header("X-Mine", "1")
            .body(Body::empty())
            .unwrap();
        let upgrade = upgrade_of(request.headers());
        let sent = onward("[fd00::1]:80", "/x?y=1", &[], request, upgrade.as_ref()).unwrap();
        let shown: Vec<String> = sent.headers().iter().map(|(k, v)| format!("{k}: {}", v.to_str().unwrap())).collect();
        assert_eq!(
            shown,
            ["host: [fd00::1]:80", "sec-websocket-protocol: v4.channel.k8s.io", "x-mine: 1", "connection: Upgrade", "upgrade: websocket"]
        );
        assert_eq!(sent.uri(), "/x?y=1");
    }

    fn tls() -> Arc<KubeletTls> {
        let now = std::time::SystemTime::now();
        let authority = crate::pki::Authority::new("kubernetes", now).unwrap();
        let client = authority.issue(&crate::pki::Leaf::client("kube-apiserver-kubelet-client", "system:masters"), now).unwrap();
        Arc::new(KubeletTls::new(client.certificate.as_bytes(), client.key.as_bytes(), None).unwrap())
    }

    /// A server that passes every request on to `port`, and a client connected to it.
    async fn client_of(port: u16) -> TcpStream {
        let front = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = front.local_addr().unwrap();
        let tls = tls();
        tokio::spawn(async move {
            let (stream, _) = front.accept().await.unwrap();
            let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                let tls = tls.clone();
                let target = Target { transport: Transport::Plain, host: "127.0.0.1".into(), port, path: "/exec".into() };
                async move { tls.forward(&target, request.map(Body::new)).await }
            });
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await.unwrap();
        });
        TcpStream::connect(address).await.unwrap()
    }

    async fn read_head(stream: &mut TcpStream) -> String {
        use tokio::io::AsyncReadExt;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    #[tokio::test]
    async fn after_an_upgrade_bytes_pass_both_ways() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let backend = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = backend.local_addr().unwrap().port();
        let kubelet = tokio::spawn(async move {
            let (mut stream, _) = backend.accept().await.unwrap();
            let head = read_head(&mut stream).await;
            assert!(head.starts_with("POST /exec HTTP/1.1\r\n") && head.contains("upgrade: SPDY/3.1"), "{head}");
            stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\nhello").await.unwrap();
            let mut got = [0; 4];
            stream.read_exact(&mut got).await.unwrap();
            got
        });
        let mut client = client_of(port).await;
        client.write_all(b"POST /api HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n").await.unwrap();
        let head = read_head(&mut client).await.to_lowercase();
        assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: spdy/3.1"), "{head}");
        let mut got = [0; 5];
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
        client.write_all(b"ping").await.unwrap();
        assert_eq!(&kubelet.await.unwrap(), b"ping");
    }

    #[tokio::test]
    async fn a_refused_upgrade_is_an_answer_like_any_other() {
        use tokio::io::AsyncWriteExt;
        let backend = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = backend.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = backend.accept().await.unwrap();
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
        });
        let mut client = client_of(port).await;
        client.write_all(b"GET /api HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await.unwrap();
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 404 Not Found\r\n"));
    }
}
