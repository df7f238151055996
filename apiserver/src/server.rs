//! The listening side: accepts connections, does TLS and HTTP on them, and ends them in order when told to stop.
//!
//! Everything about a request is [`crate::pipeline`]'s; here are only sockets and their limits.

use crate::pipeline::{Connection, Pipeline};
use crate::respond::Response;
use anyhow::{Context, Result};
use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How many connections may be open: each node has a handful, each client one or two. Further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 20_000;
/// How long a handshake, and a request's head, may take (upstream: 10 s for TLS, 32 s for the head).
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_TIMEOUT: Duration = Duration::from_secs(32);
/// Requests in flight on one HTTP/2 connection (upstream: `--http2-max-streams-per-connection`, 100 by default, of which controllers with
/// a watch per kind use half).
const MAX_STREAMS: u32 = 250;
/// What a client may send on a stream before it is read (upstream: 256 KiB, ten times a large object).
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// How long requests that are running when the server is told to stop may go on (upstream: `--shutdown-delay-duration` and 60 s).
const DRAIN: Duration = Duration::from_secs(10);

/// A listening socket with what serves it.
pub struct Listener {
    socket: TcpListener,
    tls: Arc<ServerConfig>,
    pipeline: Arc<Pipeline>,
}

impl Listener {
    /// Takes the address.
    pub async fn bind(address: SocketAddr, tls: Arc<ServerConfig>, pipeline: Arc<Pipeline>) -> Result<Self> {
        let socket = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        Ok(Listener { socket, tls, pipeline })
    }

    /// The address taken.
    pub fn address(&self) -> Result<SocketAddr> {
        self.socket.local_addr().context("the socket has no address")
    }

    /// Serves until `stop`, then lets what is running finish, for a while.
    pub async fn serve(self, stop: CancellationToken) {
        let acceptor = TlsAcceptor::from(self.tls);
        let connections = TaskTracker::new();
        let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let permit = free.clone().acquire_owned().await.expect("the semaphore is never closed");
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let (acceptor, pipeline, stop) = (acceptor.clone(), self.pipeline.clone(), stop.clone());
                    connections.spawn(async move {
                        if let Err(error) = serve_connection(stream, peer, acceptor, pipeline, stop).await {
                            tracing::debug!(%peer, %error, "connection ended");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, as a rule: connections that end will free some.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        connections.close();
        if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
            tracing::warn!(connections = connections.len(), "stopping with requests still running");
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    pipeline: Arc<Pipeline>,
    stop: CancellationToken,
) -> Result<()> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await.context("TLS handshake timed out")??;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default().iter().map(|c| c.as_ref().to_vec()).collect();
    let connection = Arc::new(Connection::new(peer, certificates));
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (pipeline, connection) = (pipeline.clone(), connection.clone());
        async move { Ok::<Response, Infallible>(pipeline.handle(&connection, request.map(Body::new)).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(512 * 1024)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(15));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    result.map_err(|error| anyhow::anyhow!("{error}"))
}
