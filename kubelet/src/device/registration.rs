//! The kubelet's socket, where plugins say that they are there (`v1beta1.Registration`).

use super::protocol::{Empty, RegisterRequest, VERSION};
use crate::plugin::serving;
use std::{
    io,
    path::{Component, Path},
    sync::Arc,
};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tonic::Status;

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
    verify_name(&request.resource_name)?;
    let mut parts = Path::new(&request.endpoint).components();
    if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
        return Err(Status::unknown(format!("the endpoint {:?} is no name of a socket", request.endpoint)));
    }
    Ok(())
}

/// Why a resource cannot be given out under its name.
pub fn verify_name(name: &str) -> Result<(), Status> {
    let domain = name.split_once('/').map(|(domain, _)| domain);
    if domain.is_none_or(|d| d.is_empty() || d == "kubernetes.io" || d.ends_with(".kubernetes.io")) || name.starts_with("requests.") {
        return Err(Status::unknown(format!("the ResourceName {name:?} is invalid")));
    }
    Ok(())
}

/// Serves registrations until told to stop. `register` is told of those that are in order.
pub async fn serve(dir: &Path, register: Arc<dyn Fn(RegisterRequest) + Send + Sync>, stop: CancellationToken) -> io::Result<()> {
    let answer = move |call: serving::Call| {
        let register = register.clone();
        async move {
            if call.uri().path() != "/v1beta1.Registration/Register" {
                return serving::unimplemented(&call);
            }
            let registered = move |request: RegisterRequest| {
                let verdict = verify(&request);
                match &verdict {
                    Ok(()) => register(request),
                    Err(refusal) => {
                        tracing::warn!(resource = %request.resource_name, refusal = refusal.message(), "a device plugin was refused")
                    }
                }
                std::future::ready(verdict.map(|()| Empty {}))
            };
            serving::unary(call, registered).await
        }
    };
    serving::serve(UnixListener::bind(dir.join(SOCKET))?, stop, answer).await
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
