//! A runtime that only pretends: sandboxes and containers are entries in a map that change state as asked. It stands behind
//! `--hollow-nodes` and behind tests of everything above the runtime, and is never chosen without being asked for.
//!
//! Containers run until they are stopped, images are always there once pulled, commands succeed. Tests make a container end with
//! [`Simulated::exit`]. Stopping takes no time: a simulated process always heeds SIGTERM.

use super::{ExecOutput, Result, Runtime, RuntimeError, RuntimeEvent};
use async_trait::async_trait;
use jiff::Timestamp;
use k8s_cri::v1 as api;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};
use tokio::sync::mpsc;

/// The state of one simulated node's runtime.
#[derive(Default)]
pub struct Simulated {
    node: u32,
    next: AtomicU64,
    sandboxes: Mutex<HashMap<String, Sandbox>>,
    containers: Mutex<HashMap<String, Container>>,
    events: Mutex<Option<mpsc::Sender<RuntimeEvent>>>,
    /// How many more removals of a sandbox are refused, as a runtime refuses while it is still starting a container.
    refused_removals: AtomicU32,
}

struct Sandbox {
    status: api::PodSandboxStatus,
}

struct Container {
    sandbox: String,
    status: api::ContainerStatus,
}

fn nanos() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

fn matches(labels: &HashMap<String, String>, wanted: &[(&str, &str)]) -> bool {
    wanted.iter().all(|(k, v)| labels.get(*k).is_some_and(|have| have == v))
}

impl Simulated {
    /// `node` numbers the simulated nodes of a process, so that their pods' addresses differ.
    pub fn new(node: u32) -> Self {
        Simulated { node, ..Default::default() }
    }

    /// Refuses the next `count` removals of a sandbox.
    pub fn refuse_removals(&self, count: u32) {
        self.refused_removals.store(count, Ordering::Relaxed);
    }

    fn id(&self) -> (u64, String) {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        (n, format!("{:016x}{:016x}{:032x}", self.node, n, 0))
    }

    /// Lets the container of that name end by itself with an exit code, as its process would.
    pub async fn exit(&self, name: &str, exit_code: i32) {
        let ended = self.containers.lock().values_mut().find(|c| running(c) && metadata_name(c) == name).map(|c| {
            end(&mut c.status, exit_code);
            c.status.id.clone()
        });
        let sender = self.events.lock().clone();
        if let (Some(container_id), Some(sender)) = (ended, sender) {
            // A closed channel means that the kubelet under test is gone.
            drop(sender.send(RuntimeEvent { container_id }).await);
        }
    }
}

fn running(container: &Container) -> bool {
    container.status.state == api::ContainerState::ContainerRunning as i32
}

fn metadata_name(container: &Container) -> &str {
    container.status.metadata.as_ref().map_or("", |m| m.name.as_str())
}

fn end(status: &mut api::ContainerStatus, exit_code: i32) {
    status.state = api::ContainerState::ContainerExited as i32;
    status.exit_code = exit_code;
    status.finished_at = nanos();
    status.reason = if exit_code == 0 { "Completed" } else { "Error" }.into();
}

#[async_trait]
impl Runtime for Simulated {
    async fn version(&self) -> Result<api::VersionResponse> {
        Ok(api::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "simulated".into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            runtime_api_version: "v1".into(),
        })
    }

    async fn status(&self) -> Result<api::RuntimeStatus> {
        let ready = |kind: &str| api::RuntimeCondition { r#type: kind.into(), status: true, ..Default::default() };
        Ok(api::RuntimeStatus { conditions: vec![ready("RuntimeReady"), ready("NetworkReady")] })
    }

    async fn run_sandbox(&self, config: api::PodSandboxConfig) -> Result<String> {
        let (n, id) = self.id();
        // A node's addresses come round after 65,000 sandboxes; nobody talks to them.
        let ip = format!("10.{}.{}.{}", 128 + self.node % 128, (n >> 8) & 255, n & 255);
        let status = api::PodSandboxStatus {
            id: id.clone(),
            metadata: config.metadata,
            state: api::PodSandboxState::SandboxReady as i32,
            created_at: nanos(),
            network: Some(api::PodSandboxNetworkStatus { ip, ..Default::default() }),
            labels: config.labels,
            annotations: config.annotations,
            ..Default::default()
        };
        self.sandboxes.lock().insert(id.clone(), Sandbox { status });
        Ok(id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        if let Some(sandbox) = self.sandboxes.lock().get_mut(id) {
            sandbox.status.state = api::PodSandboxState::SandboxNotready as i32;
        }
        for container in self.containers.lock().values_mut().filter(|c| c.sandbox == id && running(c)) {
            end(&mut container.status, 137);
        }
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        if self.refused_removals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
            return Err(RuntimeError::Failed(format!("container of sandbox {id} is in starting state, can't be removed")));
        }
        self.sandboxes.lock().remove(id);
        self.containers.lock().retain(|_, c| c.sandbox != id);
        Ok(())
    }

    async fn sandbox_status(&self, id: &str) -> Result<api::PodSandboxStatus> {
        let found = self.sandboxes.lock().get(id).map(|s| s.status.clone());
        found.ok_or_else(|| RuntimeError::NotFound(format!("no sandbox {id}")))
    }

    async fn list_sandboxes(&self, labels: &[(&str, &str)]) -> Result<Vec<api::PodSandbox>> {
        let sandboxes = self.sandboxes.lock();
        let wanted = sandboxes.values().map(|s| &s.status).filter(|s| matches(&s.labels, labels));
        Ok(wanted
            .map(|s| api::PodSandbox {
                id: s.id.clone(),
                metadata: s.metadata.clone(),
                state: s.state,
                created_at: s.created_at,
                labels: s.labels.clone(),
                annotations: s.annotations.clone(),
                ..Default::default()
            })
            .collect())
    }

    async fn create_container(&self, sandbox: &str, config: api::ContainerConfig, _: api::PodSandboxConfig) -> Result<String> {
        let (_, id) = self.id();
        let image = config.image.unwrap_or_default();
        let status = api::ContainerStatus {
            id: id.clone(),
            metadata: config.metadata,
            state: api::ContainerState::ContainerCreated as i32,
            created_at: nanos(),
            image_ref: image.image.clone(),
            image: Some(image),
            labels: config.labels,
            annotations: config.annotations,
            ..Default::default()
        };
        self.containers.lock().insert(id.clone(), Container { sandbox: sandbox.into(), status });
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let mut containers = self.containers.lock();
        let container = containers.get_mut(id).ok_or_else(|| RuntimeError::NotFound(format!("no container {id}")))?;
        container.status.state = api::ContainerState::ContainerRunning as i32;
        container.status.started_at = nanos();
        Ok(())
    }

    async fn stop_container(&self, id: &str, _: Duration) -> Result<()> {
        if let Some(container) = self.containers.lock().get_mut(id).filter(|c| running(c)) {
            end(&mut container.status, 0);
        }
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        self.containers.lock().remove(id);
        Ok(())
    }

    async fn container_status(&self, id: &str) -> Result<api::ContainerStatus> {
        let found = self.containers.lock().get(id).map(|c| c.status.clone());
        found.ok_or_else(|| RuntimeError::NotFound(format!("no container {id}")))
    }

    async fn list_containers(&self, labels: &[(&str, &str)]) -> Result<Vec<api::Container>> {
        let containers = self.containers.lock();
        let wanted = containers.values().filter(|c| matches(&c.status.labels, labels));
        Ok(wanted
            .map(|c| api::Container {
                id: c.status.id.clone(),
                pod_sandbox_id: c.sandbox.clone(),
                metadata: c.status.metadata.clone(),
                state: c.status.state,
                created_at: c.status.created_at,
                labels: c.status.labels.clone(),
                annotations: c.status.annotations.clone(),
                ..Default::default()
            })
            .collect())
    }

    async fn container_stats(&self) -> Result<Vec<api::ContainerStats>> {
        Ok(Vec::new())
    }

    async fn reopen_log(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn exec_sync(&self, _: &str, _: &[String], _: Duration) -> Result<ExecOutput> {
        Ok(ExecOutput::default())
    }

    async fn exec(&self, _: api::ExecRequest) -> Result<String> {
        Err(RuntimeError::Unimplemented("a simulated container has no processes".into()))
    }

    async fn attach(&self, _: api::AttachRequest) -> Result<String> {
        Err(RuntimeError::Unimplemented("a simulated container has no processes".into()))
    }

    async fn port_forward(&self, _: api::PortForwardRequest) -> Result<String> {
        Err(RuntimeError::Unimplemented("a simulated pod has no network".into()))
    }

    async fn image_status(&self, image: &str) -> Result<Option<api::Image>> {
        Ok(Some(api::Image { id: image.into(), repo_tags: vec![image.into()], ..Default::default() }))
    }

    async fn pull_image(&self, image: &str, _: Option<api::AuthConfig>, _: api::PodSandboxConfig) -> Result<String> {
        Ok(image.into())
    }

    async fn list_images(&self) -> Result<Vec<api::Image>> {
        Ok(Vec::new())
    }

    async fn image_fs_info(&self) -> Result<api::ImageFsInfoResponse> {
        Ok(api::ImageFsInfoResponse::default())
    }

    async fn events(&self, sender: mpsc::Sender<RuntimeEvent>) -> Result<()> {
        *self.events.lock() = Some(sender.clone());
        sender.closed().await;
        Ok(())
    }
}
