//! How a connection to a server is made: straight to the host of a URL, or to one of the endpoints of a service.

use super::{ServiceTarget, service};
use crate::objects::Objects;
use futures::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tower::Service;

/// How long one address may take, so that there is time for the next.
const CONNECT: Duration = Duration::from_secs(5);
/// How many endpoints of a service are tried.
const ATTEMPTS: usize = 3;

/// Connects. It is given to the HTTP client, which keeps what it made.
#[derive(Clone)]
pub(super) struct Dial {
    /// The service to connect to, whatever host the URL names.
    pub service: Option<ServiceTarget>,
    /// Where services are looked up.
    pub objects: Arc<dyn Objects>,
}

/// Why there is no connection, in Go's words.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The address does not answer in time.
    #[error("dial tcp {0}: i/o timeout")]
    Timeout(String),
    /// The address refuses, or there is no way to it.
    #[error("dial tcp {address}: {}", go_text(.source))]
    Refused {
        /// `host:port`.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The service leads nowhere.
    #[error("{0}")]
    Service(String),
}

/// Why a connection came to nothing, in Go's words.
pub fn go_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".into(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".into(),
        _ => error.to_string(),
    }
}

/// Connects to a host and port.
async fn connect(host: &str, port: u16) -> Result<TcpStream, DialError> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    match tokio::time::timeout(CONNECT, TcpStream::connect((host, port))).await {
        Err(_) => Err(DialError::Timeout(address)),
        Ok(Err(source)) => Err(DialError::Refused { address, source }),
        Ok(Ok(stream)) => {
            // Only a matter of speed.
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
    }
}

impl Dial {
    async fn dial(self, uri: Uri) -> Result<TcpStream, DialError> {
        let Some(target) = &self.service else {
            let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
            return connect(uri.host().unwrap_or_default(), port).await;
        };
        connect_service(&*self.objects, target).await
    }
}

/// Connects to one of the endpoints of a service.
pub async fn connect_service(objects: &dyn Objects, target: &ServiceTarget) -> Result<TcpStream, DialError> {
    let addresses = service::addresses(objects, &target.namespace, &target.name, target.port).map_err(DialError::Service)?;
    let mut last = DialError::Service(format!("no endpoints available for service {:?}", target.name));
    for (host, port) in addresses.iter().take(ATTEMPTS) {
        match connect(host, *port).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = DialError;
    type Future = BoxFuture<'static, Result<Self::Response, DialError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dial = self.clone();
        Box::pin(async move { dial.dial(uri).await.map(TokioIo::new) })
    }
}
