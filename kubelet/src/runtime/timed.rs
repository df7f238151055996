//! A connection to a runtime that times each call, under the names that upstream's metrics have for them (`pkg/kubelet/kuberuntime/instrumented_services.go`).

use crate::metrics::Metrics;
use futures::future::BoxFuture;
use http::{Request, Response};
use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};
use tonic::{body::Body, transport::Channel};
use tower::Service;

/// See the module.
#[derive(Clone)]
pub struct Timed {
    /// The connection.
    pub channel: Channel,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
}

/// What upstream calls a method of CRI; nothing for those that it does not count.
fn operation(path: &str) -> Option<&'static str> {
    Some(match path.rsplit('/').next()? {
        "Version" => "version",
        "Status" => "status",
        "RunPodSandbox" => "run_podsandbox",
        "StopPodSandbox" => "stop_podsandbox",
        "RemovePodSandbox" => "remove_podsandbox",
        "PodSandboxStatus" => "podsandbox_status",
        "ListPodSandbox" => "list_podsandbox",
        "CreateContainer" => "create_container",
        "StartContainer" => "start_container",
        "StopContainer" => "stop_container",
        "RemoveContainer" => "remove_container",
        "ListContainers" => "list_containers",
        "ContainerStatus" => "container_status",
        "UpdateContainerResources" => "update_container",
        "ReopenContainerLog" => "reopen_container_log",
        "ExecSync" => "exec_sync",
        "Exec" => "exec",
        "Attach" => "attach",
        "PortForward" => "port_forward",
        "ListContainerStats" => "list_container_stats",
        "RuntimeConfig" => "runtime_config",
        "ListImages" => "list_images",
        "ImageStatus" => "image_status",
        "PullImage" => "pull_image",
        "RemoveImage" => "remove_image",
        "ImageFsInfo" => "image_fs_info",
        _ => return None,
    })
}

impl Service<Request<Body>> for Timed {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let operation = operation(request.uri().path());
        let (begun, metrics) = (Instant::now(), self.metrics.clone());
        let answer = self.channel.call(request);
        Box::pin(async move {
            let answer = answer.await;
            if let Some(operation) = operation {
                // A call that failed has nothing but its status, which then stands in the head of the answer.
                let failed = answer.as_ref().map_or(true, |a| a.headers().get("grpc-status").is_some_and(|status| status != "0"));
                metrics.operation(operation, begun.elapsed(), failed);
            }
            answer
        })
    }
}
