//! The kubelet's socket, where plugins say that they are there (`v1beta1.Registration`).

use super::protocol::{Empty, RegisterRequest, VERSION};
use hyper::{Request, body::Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use std::{
    io,
    path::{Component, Path},
    sync::Arc,
};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status, server::Grpc};
use tonic_prost::ProstCodec;

/// The socket's name in the plugins' directory.
pub const SOCKET: &str = "kubelet.sock";

/// Why a registration is refused, in upstream's words; an endpoint is a name in the directory and nothing else.
pub fn verify(request: &RegisterRequest) -> Result<(), Status> {
    if request.version != VERSION {
        let version = &request.version;
        return Err(Status::unknown(format!(
            "requested API version {version:?} is not supported by kubelet. Supported version is [\"{VERSION}\"]"
        )));
    }
    let name = &request.resource_name;
    let domain = name.split_once('/').map(|(domain, _)| domain);
    if domain.is_none_or(|d| d.is_empty() || d == "kubernetes.io" || d.ends_with(".kubernetes.io")) || name.starts_with("requests.") {
        return Err(Status::unknown(format!("the ResourceName {name:?} is invalid")));
    }
    let mut parts = Path::new(&request.endpoint).components();
    if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
        return Err(Status::unknown(format!("the endpoint {:?} is no name of a socket", request.endpoint)));
    }
    Ok(())
}

/// Serves registrations until told to stop. `register` is told of those that are in order.
pub async fn serve(dir: &Path, register: Arc<dyn Fn(RegisterRequest) + Send + Sync>, stop: CancellationToken) -> io::Result<()> {
    let listener = UnixListener::bind(dir.join(SOCKET))?;
    loop {
        let (stream, _) = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted?,
        };
        let register = register.clone();
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let register = register.clone();
            async move {
                if request.uri().path() != "/v1beta1.Registration/Register" {
                    return Ok::<_, std::convert::Infallible>(Status::unimplemented(request.uri().path().to_owned()).into_http());
                }
                let call = tower::service_fn(move |request: tonic::Request<RegisterRequest>| {
                    let request = request.into_inner();
                    let verdict = verify(&request);
                    match &verdict {
                        Ok(()) => register(request),
                        Err(refusal) => {
                            tracing::warn!(resource = %request.resource_name, refusal = refusal.message(), "a device plugin was refused")
                        }
                    }
                    std::future::ready(verdict.map(|()| Response::new(Empty {})))
                });
                Ok(Grpc::new(ProstCodec::<Empty, RegisterRequest>::default()).unary(call, request).await)
            }
        });
        let stop = stop.clone();
        tokio::spawn(async move {
            let builder = Builder::new(TokioExecutor::new());
            tokio::select! {
                () = stop.cancelled() => {}
                served = builder.serve_connection(TokioIo::new(stream), service) => if let Err(error) = served {
                    tracing::debug!(%error, "a device plugin's connection ended");
                },
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_of_other_versions_and_other_places_are_refused() {
        for (version, resource, endpoint, well) in [
            ("v1beta1", "example.com/d", "d.sock", true),
            ("v1alpha", "example.com/d", "d.sock", false),
            ("v1beta1", "cpu", "d.sock", false),
            ("v1beta1", "kubernetes.io/d", "d.sock", false),
            ("v1beta1", "example.com/d", "../d.sock", false),
            ("v1beta1", "example.com/d", "/run/d.sock", false),
        ] {
            let request =
                RegisterRequest { version: version.into(), endpoint: endpoint.into(), resource_name: resource.into(), options: None };
            assert_eq!(verify(&request).is_ok(), well, "{request:?}");
        }
    }
}
