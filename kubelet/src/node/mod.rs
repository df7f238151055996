//! The node: what all of its pods share ([`Node`]), what it is ([`NodeFacts`], [`machine`]), what it tells the API of itself ([`registration`], [`status`],
//! [`lease`]), what is used of it ([`usage`]), whose ids pods' users have ([`user_namespaces`]), and how it keeps that in bounds ([`admission`], [`cgroups`], [`eviction`], [`gc`]), and its end ([`shutdown`]).

pub mod admission;
pub mod cgroups;
pub mod eviction;
pub mod gc;
pub mod lease;
pub mod machine;
pub mod registration;
pub mod shutdown;
pub mod status;
pub mod usage;
pub mod user_namespaces;
pub mod vitals;

use crate::{
    clock::Clock,
    container::{
        identity,
        network::Resolver,
        resources::{self, Amounts, Qos, milli},
        security,
        swap::Swap,
    },
    csi::Csi,
    device::Devices,
    dynamic_resources::Claims,
    image::Images,
    lookup::Lookup,
    memory_manager::MemoryManager,
    pinning::Pinning,
    pod::worker::StatusSink,
    recorder::Recorder,
    runtime::Runtime,
    topology_manager::TopologyManager,
};
use admission::Refusal;
use client::Cache;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod, Service};
use kube::Api;
use std::{io, path::PathBuf, sync::Arc};
use tokio_util::sync::CancellationToken;

/// What is known of the node from the start and does not change while it runs.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// Its name in the API.
    pub name: String,
    /// Its addresses, the main one first.
    pub host_ips: Vec<String>,
    /// What it has.
    pub capacity: Amounts,
    /// What of it is for pods.
    pub allocatable: Amounts,
    /// Its memory in bytes.
    pub memory: i64,
    /// What it does about swap.
    pub swap: Swap,
}

/// Where a node keeps things. A simulated node keeps nothing.
#[derive(Clone, Debug)]
pub struct Places {
    /// `--root-dir`.
    pub root: PathBuf,
    /// The root of pods' log directories.
    pub logs: PathBuf,
}

/// The node's own object: as the watch shows it, and a way to ask for the newest.
pub struct Itself {
    /// What the watch shows.
    pub cache: Arc<Cache<NodeObject>>,
    /// Asks.
    pub api: Api<NodeObject>,
}

impl Node {
    /// Lets a pod in or says why not. Labels that were set just before the pod was bound may not have been seen yet, so a refusal for their sake is
    /// made sure of.
    pub async fn admit(&self, pod: &Pod) -> Result<(), Refusal> {
        let uid = identity::uid(pod);
        if pod.status.as_ref().is_none_or(|s| s.start_time.is_none()) {
            let best_effort = resources::qos(pod) == Qos::BestEffort;
            if let Some(message) = eviction::keeper::refuses(pod, best_effort, &self.vitals.pressures.borrow()) {
                return Err(Refusal { reason: "Evicted".into(), message });
            }
        }
        let known = self.itself.as_ref().and_then(|i| i.cache.list().first().cloned());
        let mut verdict = self.admission.admit(uid, pod, known.as_deref(), &self.facts.allocatable);
        if let (Some(itself), true) = (&self.itself, verdict.as_ref().is_err_and(Refusal::is_of_the_node))
            && let Ok(newest) = itself.api.get(&self.facts.name).await
        {
            verdict = self.admission.admit(uid, pod, Some(&newest), &self.facts.allocatable);
        }
        if verdict.is_ok() {
            verdict = self.resources.admit(pod).await.inspect_err(|_| self.release(uid));
        }
        verdict
    }

    /// Nothing of the pod runs any more: what it held is free.
    pub fn release(&self, uid: &str) {
        self.admission.release(uid);
        self.users.release(uid);
        self.resources.release(uid);
    }

    /// Makes the pod's cgroup with its limits, or brings them up to date.
    pub async fn ensure_cgroup(&self, pod: &Pod) -> io::Result<()> {
        let Some(cgroups) = &self.cgroups else { return Ok(()) };
        // Whoever has CPUs for itself may use all of them.
        let own = self.pinning.as_ref().is_some_and(|pinning| pinning.holds(identity::uid(pod)));
        cgroups.ensure_pod(pod, !own).await
    }

    /// Keeps the classes' parts of the CPUs up to date with what pods ask for, until told to stop.
    pub async fn share_cpus(self: Arc<Self>, stop: CancellationToken) {
        let (Some(cgroups), cpus) = (&self.cgroups, self.facts.allocatable.get("cpu").and_then(milli).unwrap_or(0)) else { return };
        let mut asked = self.admission.changes();
        while !stop.is_cancelled() {
            asked.mark_unchanged();
            if let Err(error) = cgroups.share(cpus, self.admission.requested("cpu", Qos::Burstable)).await {
                tracing::warn!(%error, "the CPUs could not be shared out");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = asked.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// What the pods of one node share.
pub struct Node {
    /// Its clock.
    pub clock: Clock,
    /// What it is.
    pub facts: NodeFacts,
    /// Its runtime.
    pub runtime: Arc<dyn Runtime>,
    /// Its events.
    pub events: Recorder,
    /// API objects.
    pub lookup: Lookup,
    /// All services, for environments; absent without an API server and on simulated nodes.
    pub services: Option<Arc<Cache<Service>>>,
    /// Images.
    pub images: Images,
    /// How long a container that fails again and again waits at most.
    pub longest_backoff: SignedDuration,
    /// What was let in, and what it holds.
    pub admission: admission::Admission,
    /// Devices that plugins give out; absent on simulated nodes.
    pub devices: Option<Arc<Devices>>,
    /// Claims of dynamic resources; absent on simulated nodes.
    pub claims: Option<Arc<Claims>>,
    /// CPUs that containers have for themselves; absent where none are given and on simulated nodes.
    pub pinning: Option<Arc<Pinning>>,
    /// Memory that containers have for themselves; absent where none is given and on simulated nodes.
    pub memory: Option<Arc<MemoryManager>>,
    /// What gives out devices, CPUs and memory together; nothing on simulated nodes.
    pub resources: TopologyManager,
    /// Volumes of drivers; absent without an API server and on simulated nodes.
    pub csi: Option<Arc<Csi>>,
    /// The node as the API has it; absent without an API server and on simulated nodes.
    pub itself: Option<Itself>,
    /// Cgroups of pods; absent on simulated nodes.
    pub cgroups: Option<cgroups::Cgroups>,
    /// Where volumes and logs are; absent on simulated nodes.
    pub places: Option<Places>,
    /// Where names are resolved.
    pub resolver: Resolver,
    /// Who has users of its own.
    pub users: user_namespaces::UserNamespaces,
    /// Settings of security contexts.
    pub security: security::Settings,
    /// Where statuses go.
    pub statuses: Arc<dyn StatusSink>,
    /// How the node is, and what is counted of it.
    pub vitals: vitals::Vitals,
}
