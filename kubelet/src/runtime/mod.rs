//! The container runtime as the kubelet sees it: one trait with the calls it uses, in the messages of CRI v1.
//!
//! The messages are the interface's own (`k8s_cri::v1`), so nothing is converted on the way to a real runtime; the calls are only those
//! the kubelet makes, and none of them is containerd's alone. What differs between runtimes (how one learns of exits) is behind
//! [`Runtime::events`]. Two implementations: [`cri`] over a socket, and [`simulated`] for `--hollow-nodes` and tests.

pub mod containerd_events;
pub mod cri;
pub mod simulated;
pub mod timed;

use crate::node::cgroups::Driver;
use async_trait::async_trait;
use k8s_cri::v1 as api;
use std::time::Duration;
use tokio::sync::mpsc;

/// What a runtime call can end in.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The thing named does not exist (any more).
    #[error("{0}")]
    NotFound(String),
    /// The call took longer than allowed. For `exec_sync`: the command ran out of its time.
    #[error("{0}")]
    DeadlineExceeded(String),
    /// The runtime does not have this call.
    #[error("{0}")]
    Unimplemented(String),
    /// Nobody answers on the socket.
    #[error("{0}")]
    Unavailable(String),
    /// Anything else, with the runtime's own words: they go into events and states as they are.
    #[error("{0}")]
    Failed(String),
}

/// What a runtime call answers.
pub type Result<T> = std::result::Result<T, RuntimeError>;

/// Something happened to a container, seen by the runtime. The receiver asks for the status; the event only says when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeEvent {
    /// The container's id, or the sandbox's: the kubelet knows whose it is.
    pub container_id: String,
}

/// How many runtime events may wait. A full channel costs nothing but the wait for the next relist.
pub const EVENT_QUEUE: usize = 1024;

/// What a command that ran to its end left behind.
#[derive(Clone, Debug, Default)]
pub struct ExecOutput {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Exit code.
    pub exit_code: i32,
}

/// What pods may ask for and not every runtime has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// `recursiveReadOnly`.
    pub recursive_read_only: bool,
    /// `supplementalGroupsPolicy: Strict`.
    pub supplemental_groups_policy: bool,
}

impl Features {
    /// What a runtime says of itself and of one of its handlers; the default one has no name.
    pub fn of(said: &api::StatusResponse, handler: &str) -> Self {
        let own = said.runtime_handlers.iter().find(|h| h.name == handler).and_then(|h| h.features).unwrap_or_default();
        Features {
            recursive_read_only: own.recursive_read_only_mounts,
            supplemental_groups_policy: said.features.unwrap_or_default().supplemental_groups_policy,
        }
    }
}

/// The calls the kubelet makes. All of them can be repeated: stopping what is stopped and removing what is gone succeed.
#[async_trait]
pub trait Runtime: Send + Sync {
    /// Name and version of the runtime.
    async fn version(&self) -> Result<api::VersionResponse>;
    /// Whether runtime and network are ready, and what the runtime can do.
    async fn status(&self) -> Result<api::StatusResponse>;
    /// How the runtime makes cgroups, where it tells.
    async fn cgroup_driver(&self) -> Result<Driver>;
    /// The image that sandboxes are made of, where the runtime tells.
    async fn sandbox_image(&self) -> Result<String>;

    /// Makes and starts a sandbox; its network is up when this returns its id. `handler` is a RuntimeClass's, empty for the default.
    async fn run_sandbox(&self, config: api::PodSandboxConfig, handler: &str) -> Result<String>;
    /// Kills all that is in the sandbox and takes its network away.
    async fn stop_sandbox(&self, id: &str) -> Result<()>;
    /// Removes a stopped sandbox and its containers.
    async fn remove_sandbox(&self, id: &str) -> Result<()>;
    /// One sandbox's state and addresses.
    async fn sandbox_status(&self, id: &str) -> Result<api::PodSandboxStatus>;
    /// The sandboxes with these labels.
    async fn list_sandboxes(&self, labels: &[(&str, &str)]) -> Result<Vec<api::PodSandbox>>;

    /// Makes a container in a sandbox, without starting it.
    async fn create_container(&self, sandbox: &str, config: api::ContainerConfig, sandbox_config: api::PodSandboxConfig) -> Result<String>;
    /// Starts a container that was made.
    async fn start_container(&self, id: &str) -> Result<()>;
    /// Sends the stop signal, and SIGKILL when `grace` is over; returns when the container has ended.
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()>;
    /// Removes an ended container and its log.
    async fn remove_container(&self, id: &str) -> Result<()>;
    /// Changes the limits of a container that runs.
    async fn update_resources(&self, id: &str, resources: api::LinuxContainerResources) -> Result<()>;
    /// One container's state.
    async fn container_status(&self, id: &str) -> Result<api::ContainerStatus>;
    /// The containers with these labels.
    async fn list_containers(&self, labels: &[(&str, &str)]) -> Result<Vec<api::Container>>;
    /// Resource use of the containers that run.
    async fn container_stats(&self) -> Result<Vec<api::ContainerStats>>;
    /// Has the runtime open the log file again after it was moved away.
    async fn reopen_log(&self, id: &str) -> Result<()>;

    /// Runs a command in a container to its end. No limit when `timeout` is zero.
    async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput>;
    /// Where to connect for an interactive command: an `http://` URL of the runtime's streaming server.
    async fn exec(&self, request: api::ExecRequest) -> Result<String>;
    /// The same for the container's own process.
    async fn attach(&self, request: api::AttachRequest) -> Result<String>;
    /// The same for ports of a sandbox.
    async fn port_forward(&self, request: api::PortForwardRequest) -> Result<String>;

    /// The image a reference stands for, if it is there.
    async fn image_status(&self, image: &str) -> Result<Option<api::Image>>;
    /// Pulls an image and answers with its reference.
    async fn pull_image(&self, image: &str, auth: Option<api::AuthConfig>, sandbox_config: api::PodSandboxConfig) -> Result<String>;
    /// Removes an image, under all of its names.
    async fn remove_image(&self, image: &str) -> Result<()>;
    /// All images.
    async fn list_images(&self) -> Result<Vec<api::Image>>;
    /// How much room images take, and where.
    async fn image_fs_info(&self) -> Result<api::ImageFsInfoResponse>;

    /// Sends an event to `sender` whenever a container or sandbox ends, once its status tells so; returns when the stream breaks.
    /// A runtime without events answers [`RuntimeError::Unimplemented`], and the kubelet relists more often.
    async fn events(&self, sender: mpsc::Sender<RuntimeEvent>) -> Result<()>;
}
