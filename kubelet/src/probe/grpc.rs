//! The gRPC health check (`grpc.health.v1.Health/Check`): two messages of one field each, written out here.

use std::time::Duration;
use tonic::{Code, Request, client::Grpc, codegen::http::uri::PathAndQuery, transport::Endpoint};

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    /// 1 is SERVING.
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;

/// Asks the service at `address`; the error is what the event says.
pub async fn check(address: &str, service: &str, timeout: Duration) -> Result<(), String> {
    let late = || format!("timeout: failed to connect service {address:?} within {}s: context deadline exceeded", timeout.as_secs());
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| e.to_string())?;
    let asked = async {
        // A refused connection is tried again until the time is over, as upstream's dialer does.
        let channel = loop {
            match endpoint.connect().await {
                Ok(channel) => break channel,
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        };
        let mut client = Grpc::new(channel);
        client.ready().await.map_err(|e| e.to_string())?;
        let codec: tonic_prost::ProstCodec<HealthCheckRequest, HealthCheckResponse> = tonic_prost::ProstCodec::default();
        let request = Request::new(HealthCheckRequest { service: service.to_owned() });
        let answer = client.unary(request, PathAndQuery::from_static("/grpc.health.v1.Health/Check"), codec).await;
        match answer {
            Ok(response) if response.get_ref().status == SERVING => Ok(()),
            Ok(response) => Err(format!("service unhealthy (responded with {:?})", status_name(response.get_ref().status))),
            Err(status) if status.code() == Code::Unimplemented => {
                Err("error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".into())
            }
            Err(status) => Err(format!("error: health rpc probe failed: {}", status.message())),
        }
    };
    tokio::time::timeout(timeout, asked).await.unwrap_or_else(|_| Err(late()))
}

fn status_name(status: i32) -> &'static str {
    match status {
        1 => "SERVING",
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};
    use hyper_util::{
        rt::{TokioExecutor, TokioIo},
        server::conn::auto::Builder,
    };
    use std::convert::Infallible;

    /// A health service that answers every check alike: with a status, or that it has no such call.
    async fn serve(answer: Option<u8>) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = hyper::service::service_fn(move |_: hyper::Request<hyper::body::Incoming>| async move {
                    // One frame, not compressed, with field 1 of the response.
                    let frame = answer.map(|status| Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status])).unwrap_or_default();
                    let code = if answer.is_some() { "0" } else { "12" };
                    let trailers =
                        http::HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), http::HeaderValue::from_static(code))]);
                    let body = Full::new(frame).with_trailers(async move { Some(Ok(trailers)) });
                    Ok::<_, Infallible>(hyper::Response::builder().header("content-type", "application/grpc").body(body).expect("valid"))
                });
                tokio::spawn(async move {
                    // The client closes when it has its answer.
                    drop(Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        address
    }

    /// Proves PRB-01, grpc.
    #[tokio::test]
    async fn only_serving_is_success() {
        let limit = Duration::from_secs(5);
        for (answer, want) in [
            (Some(1), Ok(())),
            (Some(2), Err("service unhealthy (responded with \"NOT_SERVING\")".to_owned())),
            (None, Err("error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_owned())),
        ] {
            assert_eq!(check(&serve(answer).await, "", limit).await, want, "{answer:?}");
        }
        let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address").to_string();
        let late = check(&nobody, "", Duration::from_secs(1)).await.expect_err("nobody is there");
        assert_eq!(late, format!("timeout: failed to connect service {nobody:?} within 1s: context deadline exceeded"));
    }
}
