//! What the runtime has of one pod: its sandboxes and every instance of its containers, newest first.
//!
//! Fetching is the IO; everything that decides works on the [`Observed`] value.

use crate::{
    container::identity::{self, POD_UID},
    runtime::{Result, Runtime, RuntimeError},
};
use jiff::Timestamp;
use k8s_cri::v1::{ContainerState, ContainerStatus, PodSandboxState, PodSandboxStatus};

/// One run of a container, in the sandbox it was made in.
#[derive(Clone, Debug)]
pub struct Instance {
    /// The sandbox's id.
    pub sandbox: String,
    /// The runtime's account of it.
    pub status: ContainerStatus,
}

impl Instance {
    /// The container's name in the pod.
    pub fn name(&self) -> &str {
        identity::container_name(&self.status)
    }

    /// Its state.
    pub fn state(&self) -> ContainerState {
        self.status.state()
    }

    /// Whether its process runs.
    pub fn running(&self) -> bool {
        self.state() == ContainerState::ContainerRunning
    }

    /// Whether its process has ended.
    pub fn exited(&self) -> bool {
        self.state() == ContainerState::ContainerExited
    }

    /// When it ended.
    pub fn finished_at(&self) -> Timestamp {
        Timestamp::from_nanosecond(i128::from(self.status.finished_at)).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

/// A time of the runtime, in nanoseconds; the API has whole seconds.
pub fn timestamp(nanoseconds: i64) -> Timestamp {
    Timestamp::from_second(nanoseconds.div_euclid(1_000_000_000)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// All that the runtime has of one pod.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Its sandboxes, newest first.
    pub sandboxes: Vec<PodSandboxStatus>,
    /// Its container instances, newest first.
    pub instances: Vec<Instance>,
}

impl Observed {
    /// Asks the runtime. What disappears between listing and asking is left out.
    pub async fn fetch(runtime: &dyn Runtime, uid: &str) -> Result<Self> {
        let labels = [(POD_UID, uid)];
        let (sandboxes, containers) = tokio::try_join!(runtime.list_sandboxes(&labels), runtime.list_containers(&labels))?;
        let sandboxes = sandboxes.iter().map(|s| runtime.sandbox_status(&s.id));
        let containers = containers.iter().map(|c| async move {
            let status = runtime.container_status(&c.id).await?;
            Ok(Instance { sandbox: c.pod_sandbox_id.clone(), status })
        });
        let (sandboxes, instances) = tokio::join!(futures::future::join_all(sandboxes), futures::future::join_all(containers));
        let mut observed = Observed { sandboxes: present(sandboxes)?, instances: present(instances)? };
        observed.sandboxes.sort_by_key(|s| std::cmp::Reverse(s.created_at));
        observed.instances.sort_by_key(|i| std::cmp::Reverse(i.status.created_at));
        Ok(observed)
    }

    /// The newest instance of a container.
    pub fn latest(&self, name: &str) -> Option<&Instance> {
        self.instances.iter().find(|i| i.name() == name)
    }

    /// All instances of a container, newest first.
    pub fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Instance> {
        self.instances.iter().filter(move |i| i.name() == name)
    }

    /// The newest sandbox, if it is ready.
    pub fn ready_sandbox(&self) -> Option<&PodSandboxStatus> {
        self.sandboxes.first().filter(|s| s.state == PodSandboxState::SandboxReady as i32)
    }

    /// The addresses of the newest sandbox, if it is ready.
    pub fn ips(&self) -> Vec<String> {
        self.ready_sandbox().map(addresses).unwrap_or_default()
    }

    /// Whether any process of the pod runs.
    pub fn any_running(&self) -> bool {
        self.instances.iter().any(Instance::running)
    }
}

/// A sandbox's addresses, the main one first.
pub fn addresses(sandbox: &PodSandboxStatus) -> Vec<String> {
    let network = sandbox.network.clone().unwrap_or_default();
    let additional = network.additional_ips.into_iter().map(|a| a.ip);
    std::iter::once(network.ip).chain(additional).filter(|ip| !ip.is_empty()).collect()
}

fn present<T>(results: Vec<Result<T>>) -> Result<Vec<T>> {
    results.into_iter().filter(|r| !matches!(r, Err(RuntimeError::NotFound(_)))).collect()
}
