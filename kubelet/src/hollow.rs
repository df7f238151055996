//! `--hollow-nodes N`: many simulated nodes in one process, for tests of scale and of schedulers and controllers without machines.
//!
//! Each is a real node agent (workers, statuses, lease, node status) over a simulated runtime; they share one client and one watch of all
//! bound pods. They keep nothing on disk, mount nothing, and run no server: there is nothing to log or to exec in.

use crate::{
    agent,
    clock::Clock,
    container::{network, security},
    flags::Flags,
    image::Images,
    lookup::Lookup,
    node::{
        self, Node, NodeFacts,
        eviction::threshold,
        machine::{self, Machine, Shares},
        registration::Registration,
        status::{self, StatusFacts},
    },
    pod::workers::Workers,
    recorder::Recorder,
    runtime::{
        Runtime,
        simulated::{Simulated, behaviour::Behaviour},
    },
    source::api,
    status_manager::StatusManager,
    topology_manager::TopologyManager,
};
use anyhow::Context;
use client::{Change, SharedCaches};
use k8s_openapi::api::core::v1::{Node as NodeObject, NodeSystemInfo, Pod};
use kube::{Api, Client, runtime::watcher};
use std::{collections::HashMap, sync::Arc};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// What a simulated node has: a machine of 32 CPUs and 256 GiB, as upstream's scheduling tests assume of large nodes.
const CPUS: i64 = 32;
const MEMORY: i64 = 256 << 30;
const DISK: i64 = 1 << 40;
/// The port its status names. Nobody listens there.
const PORT: i32 = 10250;
/// How many nodes register at once.
const REGISTERING: usize = 32;

/// Runs them until told to stop.
pub async fn run(flags: Flags, stop: CancellationToken) -> anyhow::Result<()> {
    let settings = agent::settings(&flags)?;
    let path = flags.kubeconfig.clone().context("--hollow-nodes needs --kubeconfig")?;
    let client = client::connect(&path, "kubelet").await?;
    let statuses = StatusManager::new(Some(client.clone()));
    let caches = SharedCaches::new(client.clone());
    let behaviour: Behaviour = flags.hollow_behaviour.parse().context("--hollow-behaviour")?;
    let mut tasks = JoinSet::new();
    let mut by_name: HashMap<String, Arc<Workers>> = HashMap::new();
    let (_ready, ready) = watch::channel(false);
    let slots = Arc::new(tokio::sync::Semaphore::new(REGISTERING));
    let thresholds = threshold::parse(&settings).map_err(anyhow::Error::msg)?;
    let shares = Shares::of(&settings, &thresholds, CPUS).map_err(anyhow::Error::msg)?;
    for index in 0..flags.hollow_nodes {
        let name = format!("{}{index}", flags.hollow_prefix);
        let machine = machine();
        let facts = NodeFacts {
            name: name.clone(),
            host_ips: vec![address(index)],
            capacity: machine::capacity(&machine, shares.pods),
            allocatable: machine::allocatable(&machine, &shares),
            memory: machine.memory,
            ..Default::default()
        };
        let runtime: Arc<dyn Runtime> = Arc::new(Simulated::new(index, Clock::Wall, behaviour.clone()));
        let node = Arc::new(Node {
            clock: Clock::Wall,
            facts: facts.clone(),
            runtime: runtime.clone(),
            // Upstream's hollow nodes write events; at thousands of nodes they are most of the load, and nobody reads them.
            events: Recorder::default(),
            lookup: Lookup::new(None),
            services: None,
            images: Images::new(usize::MAX >> 4),
            longest_backoff: crate::pod::backoff::MAX,
            admission: Default::default(),
            devices: None,
            claims: None,
            pinning: None,
            memory: None,
            resources: TopologyManager::default(),
            csi: None,
            itself: None,
            cgroups: None,
            places: None,
            resolver: network::Resolver::default(),
            users: Default::default(),
            security: security::Settings::default(),
            statuses: statuses.clone(),
            vitals: Default::default(),
        });
        let workers = Workers::new(node.clone());
        tasks.spawn(workers.clone().follow_runtime(ready.clone(), stop.clone()));
        by_name.insert(name.clone(), workers);
        let status_facts = StatusFacts {
            host_name: name.clone(),
            name: name.clone(),
            addresses: facts.host_ips.clone(),
            machine,
            capacity: facts.capacity,
            allocatable: facts.allocatable,
            port: PORT,
            max_images: usize::try_from(settings.node_status_max_images).ok(),
            pinned: false,
        };
        let labels = agent::parse_labels(&flags.node_labels)?;
        let taints =
            flags.register_with_taints.iter().filter(|t| !t.is_empty()).map(|t| agent::parse_taint(t)).collect::<Result<_, _>>()?;
        let registration =
            Registration { name, labels, taints, pod_cidr: None, provider_id: None, register: true, status: Default::default() };
        let seconds = settings.node_lease_duration_seconds;
        let frequency =
            status::Frequency { look: settings.node_status_update_frequency.get(), report: settings.node_status_report_frequency.get() };
        tasks.spawn(live(client.clone(), registration, status_facts, node, seconds, frequency, slots.clone(), stop.clone()));
    }
    // Only bound pods: a field selector of the scheduler's kind, without a node's name in it.
    let pods = caches.selected::<Pod>(watcher::Config::default().fields("spec.nodeName!="));
    pods.subscribe(move |change: &Change<Pod>| {
        let node = change.object().spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
        if let Some(workers) = by_name.get(node) {
            api::route(change, workers, &statuses, None);
        }
    });
    tracing::info!(nodes = flags.hollow_nodes, "simulated nodes are running");
    stop.cancelled().await;
    tasks.shutdown().await;
    Ok(())
}

/// Registers one simulated node and keeps its lease and status.
#[allow(clippy::too_many_arguments)] // The parts of a node's life in the API, as for a real node.
async fn live(
    client: Client,
    mut registration: Registration,
    facts: StatusFacts,
    node: Arc<Node>,
    seconds: i32,
    frequency: status::Frequency,
    slots: Arc<tokio::sync::Semaphore>,
    stop: CancellationToken,
) {
    registration.status = status::first(&facts, &node).await;
    let nodes: Api<NodeObject> = Api::all(client.clone());
    let registered = {
        // The semaphore is never closed.
        let _slot = slots.acquire().await;
        node::registration::register(&nodes, &registration, &stop).await
    };
    let Some(registered) = registered else { return };
    let lease = node::lease::keep(client, registration.name.clone(), registered.metadata.uid.unwrap_or_default(), seconds, stop.clone());
    let status = status::keep(nodes, facts, node, frequency, stop.clone());
    tokio::join!(lease, status);
}

fn machine() -> Machine {
    let info = NodeSystemInfo {
        architecture: "amd64".into(),
        operating_system: "linux".into(),
        os_image: "simulated".into(),
        kubelet_version: crate::VERSION.into(),
        ..Default::default()
    };
    Machine { cpus: CPUS, memory: MEMORY, disk: DISK, info, ..Default::default() }
}

/// An address of the range for benchmarks (RFC 2544), which no machine has.
fn address(index: u32) -> String {
    format!("198.18.{}.{}", (index >> 8) & 255, index & 255)
}
