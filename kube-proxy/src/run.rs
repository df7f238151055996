//! The loop: what the watches tell makes Services dirty, dirty Services are planned anew, and the difference goes to the kernel.

use crate::config::KubeProxyConfiguration;
use crate::conntrack;
use crate::endpoint::Place;
use crate::family::Family;
use crate::health::{Health, ServiceChecks};
use crate::plan::{Context as PlanContext, plan};
use crate::rules::Rules;
use crate::ruleset::{Changes, Ruleset};
use crate::skeleton::Skeleton;
use crate::{config, nft, service};
use anyhow::Context;
use client::{Cache, ObjectKey, SharedCaches};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How long changes are gathered once one has come. A rollout changes several slices within milliseconds; a client should not notice the wait.
const BATCH: Duration = Duration::from_millis(5);
/// How long to wait after the kernel refused: doubled each time, up to the latter (upstream: `syncPeriod`).
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// The index of slices by the Service they belong to.
const BY_SERVICE: &str = "service";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const ZONE: &str = "topology.kubernetes.io/zone";

/// What the proxy runs with.
pub struct Options {
    /// The connection to the apiserver.
    pub client: kube::Client,
    /// The configuration, checked.
    pub configuration: KubeProxyConfiguration,
    /// This node's name.
    pub node: String,
    /// The name of its tables.
    pub table: String,
}

/// Removes what a proxy left.
pub async fn cleanup(table: &str) -> anyhow::Result<()> {
    for family in nft::families(table).await {
        nft::remove(family, table).await.with_context(|| format!("removing the table {table}"))?;
    }
    Ok(())
}

/// Runs until stopped. What is in the kernel then stays, so that Services go on working while the proxy is replaced.
pub async fn run(options: Options, stop: CancellationToken) -> anyhow::Result<()> {
    let Options { client, configuration, node, table } = options;
    let health = Arc::new(Health::default());
    if let Some(address) = config::bind_address(&configuration.healthz_bind_address, 10256)? {
        health.serve_health(address, &stop).await?;
    }
    if let Some(address) = config::bind_address(&configuration.metrics_bind_address, 10249)? {
        let shown = serde_json::to_value(&configuration).context("showing the configuration")?;
        health.serve_metrics(address, shown, &stop).await?;
    }
    let families = nft::families(&table).await;
    anyhow::ensure!(!families.is_empty(), "nft does not work here: see above");

    let caches = SharedCaches::new(client);
    let dirty = Arc::new(Dirty::default());
    let watched = Watched::new(&caches, &dirty, &health, &node);
    let skeleton = Skeleton {
        table,
        masquerade_bit: configuration.nftables.masquerade_bit,
        // Known with the node.
        node_port_addresses: Vec::new(),
    };
    let checks = ServiceChecks::new(health.clone(), vec![configuration.bind_address]);
    let mut proxy =
        Proxy { watched, dirty, health, skeleton, checks, configuration, node, tables: families.into_iter().map(|f| (f, None)).collect() };

    // Before everything is known, what an earlier proxy left is better than what could be planned.
    if stop.run_until_cancelled(caches.wait_until_synced()).await.is_none() {
        return Ok(());
    }
    tracing::info!(node = proxy.node, table = proxy.skeleton.table, "caches are filled");
    let mut retry = RETRY.0;
    loop {
        match proxy.sync().await {
            Ok(()) => retry = RETRY.0,
            Err(error) => {
                tracing::error!("{error:#}; trying again in {retry:?}");
                proxy.health.metrics.failures.fetch_add(1, Ordering::Relaxed);
                proxy.health.synced(Err(format!("{error:#}")));
                if stop.run_until_cancelled(tokio::time::sleep(retry)).await.is_none() {
                    return Ok(());
                }
                retry = (retry * 2).min(RETRY.1);
                continue;
            }
        }
        if stop.run_until_cancelled(proxy.dirty.wait()).await.is_none() {
            return Ok(());
        }
    }
}

/// The Services to plan anew.
#[derive(Default)]
struct Dirty {
    keys: Mutex<BTreeSet<ObjectKey>>,
    /// Everything, because of what concerns this node.
    all: Mutex<bool>,
    woken: Notify,
}

impl Dirty {
    fn mark(&self, key: ObjectKey) {
        self.keys.lock().insert(key);
        self.woken.notify_one();
    }

    fn mark_all(&self) {
        *self.all.lock() = true;
        self.woken.notify_one();
    }

    /// Waits for a change, and a little longer for those that come with it.
    async fn wait(&self) {
        self.woken.notified().await;
        tokio::time::sleep(BATCH).await;
    }

    fn take(&self) -> (BTreeSet<ObjectKey>, bool) {
        (std::mem::take(&mut *self.keys.lock()), std::mem::take(&mut *self.all.lock()))
    }
}

/// The caches.
struct Watched {
    services: Arc<Cache<Service>>,
    slices: Arc<Cache<EndpointSlice>>,
    nodes: Arc<Cache<Node>>,
}

fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(ObjectKey::new(slice.metadata.namespace.as_deref().unwrap_or_default(), name))
}

impl Watched {
    fn new(caches: &SharedCaches, dirty: &Arc<Dirty>, health: &Arc<Health>, node: &str) -> Self {
        let (services, slices) = (caches.of::<Service>(), caches.of::<EndpointSlice>());
        let nodes = caches.selected::<Node>(watcher::Config::default().any_semantic().fields(&format!("metadata.name={node}")));
        slices.add_index(BY_SERVICE, |slice| service_of(slice).iter().map(ObjectKey::to_string).collect());
        let (marks, counted) = (dirty.clone(), health.clone());
        services.subscribe(move |change| {
            counted.metrics.service_changes.fetch_add(1, Ordering::Relaxed);
            marks.mark(ObjectKey::of(change.object().as_ref()));
        });
        let (marks, counted) = (dirty.clone(), health.clone());
        slices.subscribe(move |change| {
            counted.metrics.endpoint_changes.fetch_add(1, Ordering::Relaxed);
            // The label can move from one Service to another.
            let both = change.old().into_iter().chain([change.object()]);
            both.filter_map(|slice| service_of(slice)).for_each(|key| marks.mark(key));
        });
        let marks = dirty.clone();
        // A node's heartbeats change nothing that matters here.
        nodes.subscribe(move |change| match (change.old(), change.object()) {
            (Some(old), new) if facts(old) == facts(new) && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp => {}
            _ => marks.mark_all(),
        });
        Self { services, slices, nodes }
    }
}

/// What of a node matters: its zone and its addresses.
fn facts(node: &Node) -> (String, Vec<IpAddr>) {
    let zone = node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE)).cloned().unwrap_or_default();
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    (zone, addresses.filter_map(|address| address.address.parse().ok()).collect())
}

struct Proxy {
    watched: Watched,
    dirty: Arc<Dirty>,
    health: Arc<Health>,
    skeleton: Skeleton,
    checks: ServiceChecks,
    configuration: KubeProxyConfiguration,
    node: String,
    /// What the kernel has; nothing is known at the start and after it refused.
    tables: Vec<(Family, Option<Ruleset>)>,
}

impl Proxy {
    /// Brings the kernel what changed.
    async fn sync(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        let (mut keys, all) = self.dirty.take();
        let node = self.watched.nodes.get(&ObjectKey::new("", &self.node));
        self.health.node(node.as_ref().is_some_and(|node| node.metadata.deletion_timestamp.is_some()));
        let (zone, node_ips) = node.map(|node| facts(&node)).unwrap_or_default();
        let node_ports = self.configuration.node_port_networks(&node_ips);
        if node_ports != self.skeleton.node_port_addresses {
            // The table's fixed part changes: it is made anew, in one transaction as ever.
            self.skeleton.node_port_addresses = node_ports;
            self.tables.iter_mut().for_each(|(_, table)| *table = None);
        }
        if all || self.tables.iter().any(|(_, table)| table.is_none()) {
            keys.extend(self.watched.services.list().iter().map(|service| ObjectKey::of(service.as_ref())));
            let known = self.tables.iter().filter_map(|(_, table)| table.as_ref());
            keys.extend(known.flat_map(Ruleset::keys).cloned());
        }
        let context = PlanContext {
            place: Place { node: self.node.clone(), zone },
            node_ips,
            cluster_cidrs: self.configuration.cluster_cidrs(),
            masquerade_all: self.configuration.nftables.masquerade_all,
        };
        for index in 0..self.tables.len() {
            if let Err(error) = self.sync_table(index, &keys, &context).await {
                // What the kernel has is uncertain; the next try begins from what it lists.
                self.tables.iter_mut().for_each(|(_, table)| *table = None);
                return Err(error);
            }
        }
        for key in &keys {
            self.checks.set(key, self.check_of(key, &context)).await;
        }
        let now = Timestamp::now();
        self.health.metrics.synced(started.elapsed(), now.as_millisecond() as f64 / 1000.0);
        self.health.synced(Ok(now));
        tracing::debug!(services = keys.len(), took = ?started.elapsed(), "applied");
        Ok(())
    }

    async fn sync_table(&mut self, index: usize, keys: &BTreeSet<ObjectKey>, context: &PlanContext) -> anyhow::Result<()> {
        let family = self.tables[index].0;
        let changes: Changes = keys.iter().map(|key| (key.clone(), self.plan(key, family, context))).collect();
        let none = Rules::default();
        let stale = |known: Option<&Ruleset>| -> Vec<conntrack::Flows> {
            let of = |(key, wanted): &(ObjectKey, Option<Rules>)| {
                conntrack::stale(known.and_then(|table| table.get(key)).map(Arc::as_ref), wanted.as_ref().unwrap_or(&none))
            };
            changes.iter().flat_map(of).collect()
        };
        let flows = stale(self.tables[index].1.as_ref());
        let transaction = match &mut self.tables[index].1 {
            Some(table) => table.apply(changes),
            unknown => {
                let found = nft::found(family, &self.skeleton.table).await?;
                let (table, text) = Ruleset::take_over(&self.skeleton, family, &found, changes);
                *unknown = Some(table);
                text
            }
        };
        if !transaction.is_empty() {
            nft::apply(&transaction).await.with_context(|| format!("changing the {} table {}", family.keyword(), self.skeleton.table))?;
        }
        conntrack::forget(family, &flows).await;
        Ok(())
    }

    fn slices(&self, key: &ObjectKey) -> Vec<Arc<EndpointSlice>> {
        self.watched.slices.by_index(BY_SERVICE, &key.to_string())
    }

    fn plan(&self, key: &ObjectKey, family: Family, context: &PlanContext) -> Option<Rules> {
        let service = self.watched.services.get(key)?;
        Some(plan(&service, &self.slices(key), family, context))
    }

    /// The health check port of a Service, and how many endpoints are here.
    fn check_of(&self, key: &ObjectKey, context: &PlanContext) -> Option<(u16, usize)> {
        let found = self.watched.services.get(key)?;
        let spec = found.spec.as_ref()?;
        let port = spec.health_check_node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)?;
        let local = spec.type_.as_deref() == Some("LoadBalancer") && spec.external_traffic_policy.as_deref() == Some("Local");
        if !local || !service::is_proxied(&found) {
            return None;
        }
        Some((port, crate::endpoint::ready_here(&self.slices(key), &context.place)))
    }
}
