//! The runtime's calls on the pretended state.

use super::{
    super::{ExecOutput, Result, Runtime, RuntimeError, RuntimeEvent},
    Container, Simulated,
    behaviour::{Call, Command, Process},
    name_of, running,
};
use crate::node::cgroups::Driver;
use async_trait::async_trait;
use k8s_cri::v1 as api;
use std::{collections::HashMap, time::Duration};
use tokio::sync::{mpsc, watch};

fn matches(labels: &HashMap<String, String>, wanted: &[(&str, &str)]) -> bool {
    wanted.iter().all(|(k, v)| labels.get(*k).is_some_and(|have| have == v))
}

fn no_container(id: &str) -> RuntimeError {
    RuntimeError::NotFound(format!("no container {id}"))
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

    async fn cgroup_driver(&self) -> Result<Driver> {
        Err(RuntimeError::Unimplemented("a simulated runtime has no cgroups".into()))
    }

    async fn sandbox_image(&self) -> Result<String> {
        Ok(String::new())
    }

    async fn status(&self) -> Result<api::StatusResponse> {
        let ready = |kind: &str| api::RuntimeCondition { r#type: kind.into(), status: true, ..Default::default() };
        let status = api::RuntimeStatus { conditions: vec![ready("RuntimeReady"), ready("NetworkReady")] };
        let features = api::RuntimeHandlerFeatures { user_namespaces: true, ..Default::default() };
        let able = self.0.script.lock().user_namespaces;
        let runtime_handlers = able.then(|| api::RuntimeHandler { name: String::new(), features: Some(features) }).into_iter().collect();
        Ok(api::StatusResponse { status: Some(status), runtime_handlers, ..Default::default() })
    }

    async fn run_sandbox(&self, config: api::PodSandboxConfig, _handler: &str) -> Result<String> {
        self.tell(|| format!("sandbox {}", config.metadata.as_ref().map_or("", |m| m.name.as_str())));
        self.enter(Call::RunSandbox, self.0.behaviour.sandbox).await?;
        self.made_with(config.linux.and_then(|linux| linux.security_context?.namespace_options));
        let (n, id, created_at) = self.id();
        // A node's addresses come round after 65,000 sandboxes; nobody talks to them.
        let ip = format!("10.{}.{}.{}", 128 + self.0.node % 128, (n >> 8) & 255, n & 255);
        let status = api::PodSandboxStatus {
            id: id.clone(),
            metadata: config.metadata,
            state: api::PodSandboxState::SandboxReady as i32,
            created_at,
            network: Some(api::PodSandboxNetworkStatus { ip, ..Default::default() }),
            labels: config.labels,
            annotations: config.annotations,
            ..Default::default()
        };
        self.0.sandboxes.lock().insert(id.clone(), status);
        Ok(self.distorted(id, |d| d.made))
    }

    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        self.enter(Call::StopSandbox, Duration::ZERO).await?;
        if let Some(sandbox) = self.0.sandboxes.lock().get_mut(id) {
            sandbox.state = api::PodSandboxState::SandboxNotready as i32;
        }
        let inside: Vec<String> =
            self.0.containers.lock().values().filter(|c| c.sandbox == id && running(c)).map(|c| c.status.id.clone()).collect();
        inside.iter().for_each(|id| self.end(id, 137));
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        self.enter(Call::RemoveSandbox, Duration::ZERO).await?;
        self.0.sandboxes.lock().remove(id);
        self.0.containers.lock().retain(|_, c| c.sandbox != id);
        Ok(())
    }

    async fn sandbox_status(&self, id: &str) -> Result<api::PodSandboxStatus> {
        let found = self.0.sandboxes.lock().get(id).cloned();
        let status = found.ok_or_else(|| RuntimeError::NotFound(format!("no sandbox {id}")))?;
        Ok(self.distorted(status, |d| d.sandbox))
    }

    async fn list_sandboxes(&self, labels: &[(&str, &str)]) -> Result<Vec<api::PodSandbox>> {
        self.enter(Call::List, Duration::ZERO).await?;
        let sandboxes = self.0.sandboxes.lock();
        let wanted = sandboxes.values().filter(|s| matches(&s.labels, labels));
        let listed = wanted
            .map(|s| api::PodSandbox {
                id: s.id.clone(),
                metadata: s.metadata.clone(),
                state: s.state,
                created_at: s.created_at,
                labels: s.labels.clone(),
                annotations: s.annotations.clone(),
                ..Default::default()
            })
            .collect();
        Ok(self.distorted(listed, |d| d.sandboxes))
    }

    async fn create_container(&self, sandbox: &str, config: api::ContainerConfig, _: api::PodSandboxConfig) -> Result<String> {
        self.enter(Call::Create, Duration::ZERO).await?;
        self.made_with(config.linux.and_then(|linux| linux.security_context?.namespace_options));
        let (_, id, created_at) = self.id();
        let image = config.image.unwrap_or_default();
        let status = api::ContainerStatus {
            id: id.clone(),
            metadata: config.metadata,
            state: api::ContainerState::ContainerCreated as i32,
            created_at,
            image_ref: image.image.clone(),
            image: Some(image),
            labels: config.labels,
            annotations: config.annotations,
            ..Default::default()
        };
        let (ended, _) = watch::channel(false);
        let container = Container { sandbox: sandbox.into(), status, process: Process::slow(0), asked: false, ended };
        self.tell(|| format!("create {}", name_of(&container)));
        self.0.containers.lock().insert(id.clone(), container);
        Ok(self.distorted(id, |d| d.made))
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        if let Err(error) = self.enter(Call::Start, self.0.behaviour.start).await {
            // As containerd has it: the task is over before it began.
            if let Some(container) = self.0.containers.lock().get_mut(id) {
                let (created, now) = (container.status.created_at, self.nanos());
                let status = api::ContainerStatus { started_at: created, finished_at: now, ..container.status.clone() };
                container.status = api::ContainerStatus {
                    state: api::ContainerState::ContainerExited as i32,
                    exit_code: 128,
                    reason: "StartError".into(),
                    message: error.to_string(),
                    ..status
                };
            }
            return Err(error);
        }
        let started_at = self.nanos();
        let run = {
            let mut containers = self.0.containers.lock();
            let container = containers.get_mut(id).ok_or_else(|| no_container(id))?;
            container.status.state = api::ContainerState::ContainerRunning as i32;
            container.status.started_at = started_at;
            let name = name_of(container).to_owned();
            let mut script = self.0.script.lock();
            let usual = || Process { heeds: Some(self.0.behaviour.stop), ..Process::steady() };
            container.process = script.processes.get(&name).cloned().unwrap_or_else(usual);
            self.tell(|| format!("start {name}"));
            let scripted = !container.process.runs.is_empty();
            scripted.then(|| script.runs.entry(name).and_modify(|n| *n += 1).or_insert(0)).and_then(|n| container.process.run(*n))
        };
        if let Some((lasts, code)) = run {
            self.end_after(id, lasts, code);
        }
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        self.enter(Call::Stop, Duration::ZERO).await?;
        let (heeds, name, mut ended) = {
            let mut containers = self.0.containers.lock();
            let Some(container) = containers.get_mut(id).filter(|c| running(c)) else { return Ok(()) };
            let first = !grace.is_zero() && !std::mem::replace(&mut container.asked, true);
            let heeds = container.process.heeds.filter(|_| first);
            if first {
                self.tell(|| format!("term {}", name_of(container)));
            }
            (heeds, name_of(container).to_owned(), container.ended.subscribe())
        };
        if let Some(wait) = heeds {
            self.end_after(id, wait, 0);
        }
        if tokio::time::timeout(grace, ended.wait_for(|ended| *ended)).await.is_err() {
            self.tell(|| format!("kill {name}"));
            self.end(id, 137);
        }
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        self.0.containers.lock().remove(id);
        Ok(())
    }

    async fn container_status(&self, id: &str) -> Result<api::ContainerStatus> {
        let found = self.0.containers.lock().get(id).map(|c| c.status.clone());
        Ok(self.distorted(found.ok_or_else(|| no_container(id))?, |d| d.container))
    }

    async fn list_containers(&self, labels: &[(&str, &str)]) -> Result<Vec<api::Container>> {
        let containers = self.0.containers.lock();
        let wanted = containers.values().filter(|c| matches(&c.status.labels, labels));
        let listed = wanted
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
            .collect();
        Ok(self.distorted(listed, |d| d.containers))
    }

    async fn update_resources(&self, _: &str, _: api::LinuxContainerResources) -> Result<()> {
        Ok(())
    }

    async fn container_stats(&self) -> Result<Vec<api::ContainerStats>> {
        Ok(Vec::new())
    }

    async fn reopen_log(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput> {
        let line = command.join(" ");
        {
            let containers = self.0.containers.lock();
            let container = containers.get(id).filter(|c| running(c)).ok_or_else(|| no_container(id))?;
            self.tell(|| format!("exec {} {line}", name_of(container)));
        }
        let Command { takes, code, output } = self.0.script.lock().commands.get(&line).cloned().unwrap_or_default();
        if !timeout.is_zero() && takes > timeout {
            tokio::time::sleep(timeout).await;
            return Err(RuntimeError::DeadlineExceeded(format!("command {line:?} timed out")));
        }
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        Ok(ExecOutput { stdout: output.into_bytes(), stderr: Vec::new(), exit_code: code })
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
        let there = !self.0.script.lock().missing.contains(image);
        Ok(there.then(|| api::Image { id: image.into(), repo_tags: vec![image.into()], ..Default::default() }))
    }

    async fn pull_image(&self, image: &str, _: Option<api::AuthConfig>, _: api::PodSandboxConfig) -> Result<String> {
        self.tell(|| format!("pull {image}"));
        self.enter(Call::Pull, self.0.behaviour.pull).await?;
        if self.0.script.lock().missing.contains(image) {
            return Err(RuntimeError::NotFound(format!("failed to resolve reference {image:?}: not found")));
        }
        Ok(image.into())
    }

    async fn remove_image(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn list_images(&self) -> Result<Vec<api::Image>> {
        Ok(Vec::new())
    }

    async fn image_fs_info(&self) -> Result<api::ImageFsInfoResponse> {
        Ok(api::ImageFsInfoResponse::default())
    }

    async fn events(&self, sender: mpsc::Sender<RuntimeEvent>) -> Result<()> {
        *self.0.events.lock() = Some(sender.clone());
        sender.closed().await;
        Ok(())
    }
}
