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
