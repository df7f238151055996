//! The other side of [`super::socket`]: answering calls on a Unix socket. The kubelet takes registrations of device plugins so, and tests have plugins to try.

use hyper::{Request, body::Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use std::{convert::Infallible, io};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status, body::Body, server::Grpc};
use tonic_prost::ProstCodec;

/// A call, not read yet. Its path says what is asked.
pub type Call = Request<Incoming>;
/// What is sent back.
pub type Answer = http::Response<Body>;

/// Answers all calls until told to stop.
pub async fn serve<F>(
    listener: UnixListener,
    stop: CancellationToken,
    answer: impl Fn(Call) -> F + Clone + Send + 'static,
) -> io::Result<()>
where
    F: Future<Output = Answer> + Send + 'static,
{
    loop {
        let (stream, _) = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted?,
        };
        let (answer, stop) = (answer.clone(), stop.clone());
        let service = hyper::service::service_fn(move |call| {
            let answered = answer(call);
            async move { Ok::<_, Infallible>(answered.await) }
        });
        tokio::spawn(async move {
            let builder = Builder::new(TokioExecutor::new());
            tokio::select! {
                () = stop.cancelled() => {}
                served = builder.serve_connection(TokioIo::new(stream), service) => if let Err(error) = served {
                    tracing::debug!(%error, "a connection ended");
                },
            }
        });
    }
}

/// Answers one call: one message in, one out.
pub async fn unary<Q, A, F>(call: Call, answer: impl Fn(Q) -> F + Clone + Send + Sync + 'static) -> Answer
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + 'static,
    F: Future<Output = Result<A, Status>> + Send + 'static,
{
    let service = tower::service_fn(move |request: tonic::Request<Q>| {
        let answered = answer(request.into_inner());
        async move { answered.await.map(Response::new) }
    });
    Grpc::new(ProstCodec::<A, Q>::default()).unary(service, call).await
}

/// The answer to what is not served.
pub fn unimplemented(call: &Call) -> Answer {
    Status::unimplemented(call.uri().path().to_owned()).into_http()
}
