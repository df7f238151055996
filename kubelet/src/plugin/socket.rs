//! Calls to a plugin over its socket.

use hyper_util::rt::TokioIo;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::net::UnixStream;
use tonic::{
    Request, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint, Uri},
};
use tonic_prost::ProstCodec;

/// How long a plugin may take to be connected to (upstream: 10 s).
const CONNECT: Duration = Duration::from_secs(10);

/// Connects to a socket.
pub async fn connect(socket: &Path) -> Result<Channel, Status> {
    let path: PathBuf = socket.to_owned();
    let dial = move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    };
    // The address is not used, but there has to be one.
    let endpoint = Endpoint::from_static("http://localhost").connect_timeout(CONNECT);
    let connected = endpoint.connect_with_connector(tower::service_fn(dial)).await;
    connected.map_err(|e| Status::unavailable(format!("{}: {e}", socket.display())))
}

/// One call, which may take as long as `limit`.
pub async fn call<Q, A>(channel: &Channel, path: &'static str, message: Q, limit: Duration) -> Result<A, Status>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let mut client = Grpc::new(channel.clone());
    client.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
    let mut request = Request::new(message);
    request.set_timeout(limit);
    Ok(client.unary(request, PathAndQuery::from_static(path), ProstCodec::<Q, A>::default()).await?.into_inner())
}
