//! A runtime behind a CRI v1 socket (containerd, CRI-O): the thin shell from [`Runtime`]'s calls to gRPC.
//!
//! Every call has a deadline, so that a runtime that hangs stops one pod's worker for minutes at most; the exceptions are the calls that
//! take as long as somebody else says (stopping with a grace period, pulling, a command with its own timeout).

use super::{ExecOutput, Result, Runtime, RuntimeError, RuntimeEvent, containerd_events, timed::Timed};
use crate::{metrics::Metrics, node::cgroups::Driver};
use async_trait::async_trait;
use hyper_util::rt::TokioIo;
use k8s_cri::v1::{self as api, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient};
use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};
use tokio::{net::UnixStream, sync::mpsc};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint, Uri},
};

/// How long an ordinary call may take (upstream: `runtimeRequestTimeout`, 2 minutes; a sandbox gets twice that).
const CALL: Duration = Duration::from_secs(120);
/// How long a pull may take before it is given up. Upstream cancels on a lack of progress, which CRI does not show.
const PULL: Duration = Duration::from_secs(30 * 60);
/// CRI lists of a full node are larger than gRPC's 4 MB (upstream: 16 MB).
const MAX_MESSAGE: usize = 16 << 20;

/// A connection to a CRI v1 socket. It connects on the first call and again whenever the socket went away.
#[derive(Clone)]
pub struct Cri {
    runtime: RuntimeServiceClient<Timed>,
    images: ImageServiceClient<Timed>,
    channel: Channel,
}

impl From<Status> for RuntimeError {
    fn from(status: Status) -> Self {
        let message = strip_rpc_noise(status.message());
        match status.code() {
            Code::NotFound => RuntimeError::NotFound(message),
            Code::DeadlineExceeded => RuntimeError::DeadlineExceeded(message),
            Code::Unimplemented => RuntimeError::Unimplemented(message),
            Code::Unavailable => RuntimeError::Unavailable(message),
            _ => RuntimeError::Failed(message),
        }
    }
}

/// containerd repeats the gRPC code inside its messages (`rpc error: code = Unknown desc = `), which upstream's kubelet takes off before
/// it shows them.
fn strip_rpc_noise(message: &str) -> String {
    match message.find("desc = ") {
        Some(at) if message.starts_with("rpc error: code = ") => message[at + "desc = ".len()..].to_owned(),
        _ => message.to_owned(),
    }
}

fn selector(labels: &[(&str, &str)]) -> HashMap<String, String> {
    labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn timed<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

/// A success for calls whose object need not exist.
fn gone_is_fine(result: std::result::Result<(), Status>) -> Result<()> {
    match result {
        Err(status) if status.code() == Code::NotFound => Ok(()),
        other => other.map_err(Into::into),
    }
}

impl Cri {
    /// `endpoint` is upstream's: `unix:///run/containerd/containerd.sock`, or the bare path. What it is asked is counted in `metrics`.
    pub fn new(endpoint: &str, metrics: Arc<Metrics>) -> Self {
        let path = PathBuf::from(endpoint.strip_prefix("unix://").unwrap_or(endpoint));
        // The URI is never resolved: the connector goes to the socket whatever it says.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }));
        let timed = Timed { channel: channel.clone(), metrics };
        Cri {
            runtime: RuntimeServiceClient::new(timed.clone()).max_decoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::new(timed).max_decoding_message_size(MAX_MESSAGE),
            channel,
        }
    }
}

#[async_trait]
impl Runtime for Cri {
    async fn version(&self) -> Result<api::VersionResponse> {
        let request = timed(api::VersionRequest { version: "0.1.0".into() }, CALL);
        Ok(self.runtime.clone().version(request).await?.into_inner())
    }

    async fn status(&self) -> Result<api::StatusResponse> {
        Ok(self.runtime.clone().status(timed(api::StatusRequest { verbose: false }, CALL)).await?.into_inner())
    }

    async fn cgroup_driver(&self) -> Result<Driver> {
        let response = self.runtime.clone().runtime_config(timed(api::RuntimeConfigRequest {}, CALL)).await?.into_inner();
        match response.linux.map(|linux| linux.cgroup_driver()) {
            Some(api::CgroupDriver::Systemd) => Ok(Driver::Systemd),
            Some(api::CgroupDriver::Cgroupfs) => Ok(Driver::Cgroupfs),
            None => Err(RuntimeError::Unimplemented("the runtime does not tell how it makes cgroups".into())),
        }
    }

    async fn sandbox_image(&self) -> Result<String> {
        let response = self.runtime.clone().status(timed(api::StatusRequest { verbose: true }, CALL)).await?.into_inner();
        // The verbose part is the runtime's own; containerd's is its configuration. Newer runtimes pin the image instead.
        let config = response.info.get("config").and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
        Ok(config.and_then(|c| c.get("sandboxImage")?.as_str().map(str::to_owned)).unwrap_or_default())
    }

    async fn run_sandbox(&self, config: api::PodSandboxConfig, handler: &str) -> Result<String> {
        let request = api::RunPodSandboxRequest { config: Some(config), runtime_handler: handler.into() };
        Ok(self.runtime.clone().run_pod_sandbox(timed(request, CALL * 2)).await?.into_inner().pod_sandbox_id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let request = api::StopPodSandboxRequest { pod_sandbox_id: id.into() };
        gone_is_fine(self.runtime.clone().stop_pod_sandbox(timed(request, CALL)).await.map(drop))
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let request = api::RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        gone_is_fine(self.runtime.clone().remove_pod_sandbox(timed(request, CALL)).await.map(drop))
    }

    async fn sandbox_status(&self, id: &str) -> Result<api::PodSandboxStatus> {
        let request = api::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        let response = self.runtime.clone().pod_sandbox_status(timed(request, CALL)).await?.into_inner();
        response.status.ok_or_else(|| RuntimeError::NotFound(format!("sandbox {id} has no status")))
    }

    async fn list_sandboxes(&self, labels: &[(&str, &str)]) -> Result<Vec<api::PodSandbox>> {
        let filter = api::PodSandboxFilter { label_selector: selector(labels), ..Default::default() };
        let request = api::ListPodSandboxRequest { filter: Some(filter) };
        Ok(self.runtime.clone().list_pod_sandbox(timed(request, CALL)).await?.into_inner().items)
    }

    async fn create_container(&self, sandbox: &str, config: api::ContainerConfig, sandbox_config: api::PodSandboxConfig) -> Result<String> {
        let request =
            api::CreateContainerRequest { pod_sandbox_id: sandbox.into(), config: Some(config), sandbox_config: Some(sandbox_config) };
        Ok(self.runtime.clone().create_container(timed(request, CALL)).await?.into_inner().container_id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let request = api::StartContainerRequest { container_id: id.into() };
        self.runtime.clone().start_container(timed(request, CALL)).await?;
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let seconds = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = api::StopContainerRequest { container_id: id.into(), timeout: seconds };
        gone_is_fine(self.runtime.clone().stop_container(timed(request, CALL.saturating_add(grace))).await.map(drop))
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        let request = api::RemoveContainerRequest { container_id: id.into() };
        gone_is_fine(self.runtime.clone().remove_container(timed(request, CALL)).await.map(drop))
    }

    async fn container_status(&self, id: &str) -> Result<api::ContainerStatus> {
        let request = api::ContainerStatusRequest { container_id: id.into(), verbose: false };
        let response = self.runtime.clone().container_status(timed(request, CALL)).await?.into_inner();
        response.status.ok_or_else(|| RuntimeError::NotFound(format!("container {id} has no status")))
    }

    async fn list_containers(&self, labels: &[(&str, &str)]) -> Result<Vec<api::Container>> {
        let filter = api::ContainerFilter { label_selector: selector(labels), ..Default::default() };
        let request = api::ListContainersRequest { filter: Some(filter) };
        Ok(self.runtime.clone().list_containers(timed(request, CALL)).await?.into_inner().containers)
    }

    async fn update_resources(&self, id: &str, resources: api::LinuxContainerResources) -> Result<()> {
        let request = api::UpdateContainerResourcesRequest { container_id: id.into(), linux: Some(resources), ..Default::default() };
        self.runtime.clone().update_container_resources(timed(request, CALL)).await?;
        Ok(())
    }

    async fn container_stats(&self) -> Result<Vec<api::ContainerStats>> {
        let request = api::ListContainerStatsRequest::default();
        Ok(self.runtime.clone().list_container_stats(timed(request, CALL)).await?.into_inner().stats)
    }

    async fn reopen_log(&self, id: &str) -> Result<()> {
        let request = api::ReopenContainerLogRequest { container_id: id.into() };
        self.runtime.clone().reopen_container_log(timed(request, CALL)).await?;
        Ok(())
    }

    async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput> {
        let seconds = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
        let message = api::ExecSyncRequest { container_id: id.into(), cmd: command.to_vec(), timeout: seconds };
        // Without a limit of its own the command may take as long as it likes; the caller drops the call when it has waited enough.
        let request = if timeout.is_zero() { Request::new(message) } else { timed(message, CALL.saturating_add(timeout)) };
        let response = self.runtime.clone().exec_sync(request).await?.into_inner();
        Ok(ExecOutput { stdout: response.stdout, stderr: response.stderr, exit_code: response.exit_code })
    }

    async fn exec(&self, request: api::ExecRequest) -> Result<String> {
        Ok(self.runtime.clone().exec(timed(request, CALL)).await?.into_inner().url)
    }

    async fn attach(&self, request: api::AttachRequest) -> Result<String> {
        Ok(self.runtime.clone().attach(timed(request, CALL)).await?.into_inner().url)
    }

    async fn port_forward(&self, request: api::PortForwardRequest) -> Result<String> {
        Ok(self.runtime.clone().port_forward(timed(request, CALL)).await?.into_inner().url)
    }

    async fn image_status(&self, image: &str) -> Result<Option<api::Image>> {
        let spec = api::ImageSpec { image: image.into(), ..Default::default() };
        let request = api::ImageStatusRequest { image: Some(spec), verbose: false };
        Ok(self.images.clone().image_status(timed(request, CALL)).await?.into_inner().image)
    }

    async fn pull_image(&self, image: &str, auth: Option<api::AuthConfig>, sandbox_config: api::PodSandboxConfig) -> Result<String> {
        let spec = api::ImageSpec { image: image.into(), ..Default::default() };
        let request = api::PullImageRequest { image: Some(spec), auth, sandbox_config: Some(sandbox_config) };
        Ok(self.images.clone().pull_image(timed(request, PULL)).await?.into_inner().image_ref)
    }

    async fn remove_image(&self, image: &str) -> Result<()> {
        let spec = api::ImageSpec { image: image.into(), ..Default::default() };
        let request = api::RemoveImageRequest { image: Some(spec) };
        gone_is_fine(self.images.clone().remove_image(timed(request, CALL)).await.map(drop))
    }

    async fn list_images(&self) -> Result<Vec<api::Image>> {
        Ok(self.images.clone().list_images(timed(api::ListImagesRequest::default(), CALL)).await?.into_inner().images)
    }

    async fn image_fs_info(&self) -> Result<api::ImageFsInfoResponse> {
        Ok(self.images.clone().image_fs_info(timed(api::ImageFsInfoRequest {}, CALL)).await?.into_inner())
    }

    async fn events(&self, sender: mpsc::Sender<RuntimeEvent>) -> Result<()> {
        containerd_events::follow(self.channel.clone(), self.clone(), sender).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_lose_the_nested_rpc_prefix() {
        for (given, want) in [
            ("rpc error: code = Unknown desc = failed to pull", "failed to pull"),
            ("failed to create containerd task: no such file", "failed to create containerd task: no such file"),
            ("the desc = of something", "the desc = of something"),
        ] {
            assert_eq!(strip_rpc_noise(given), want);
        }
    }
}
