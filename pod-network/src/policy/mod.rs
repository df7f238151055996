//! NetworkPolicy: what the watches tell makes the [`plan`] stale, and the difference to the new one goes to the kernel.
//!
//! As long as there is no policy in the cluster, pods are not even watched. A pod is held to its policies from when its address stands in its status:
//! between its start and then it is open, and whoever is allowed to reach others by its labels is not let through yet.

pub mod plan;
pub mod table;
pub mod world;

use crate::health::Shown;
use client::{Cache, Change, SharedCaches};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube_proxy::family::Family;
use kube_proxy::nft;
use plan::{World, plan};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use table::{Table, transition};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use world::peer;

/// How long changes are gathered once one has come; and if a plan takes long, so much longer than it that planning leaves the machine alone.
const BATCH: Duration = Duration::from_millis(5);
const REST: u32 = 4;
/// How long to wait after the kernel refused: doubled each time, up to the latter.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// Whom policies are about.
struct Others {
    pods: Arc<Cache<Pod>>,
    namespaces: Arc<Cache<Namespace>>,
}

/// Keeps a node's table as the policies want it.
pub struct Enforcer {
    caches: Arc<SharedCaches>,
    policies: Arc<Cache<NetworkPolicy>>,
    /// Watched from when there is a policy.
    others: Option<Others>,
    stale: Arc<Notify>,
    node: String,
    table: String,
    /// What the kernel has; nothing is known at the start and after it refused.
    applied: Vec<(Family, Option<Table>)>,
    shown: Arc<Shown>,
}

impl Enforcer {
    /// For a node, on tables of that name.
    pub fn new(caches: Arc<SharedCaches>, node: &str, table: &str, families: &[Family], shown: Arc<Shown>) -> Self {
        let stale = Arc::new(Notify::new());
        let policies = caches.of::<NetworkPolicy>();
        let waker = stale.clone();
        policies.subscribe(move |_| waker.notify_one());
        let applied = families.iter().map(|family| (*family, None)).collect();
        Self { caches, policies, others: None, stale, node: node.to_owned(), table: table.to_owned(), applied, shown }
    }

    /// Runs until stopped. What is in the kernel then stays, so that policies hold while this is replaced.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut retry = RETRY.0;
        loop {
            let started = Instant::now();
            let Some(result) = stop.run_until_cancelled(self.sync()).await else { return };
            self.shown.told("policies", result.as_ref().err());
            let pause = match result {
                Ok(()) => {
                    retry = RETRY.0;
                    let took = started.elapsed();
                    if stop.run_until_cancelled(self.stale.notified()).await.is_none() {
                        return;
                    }
                    BATCH.max(took * REST)
                }
                Err(error) => {
                    tracing::error!("{error:#}; trying again in {retry:?}");
                    let pause = retry;
                    retry = (retry * 2).min(RETRY.1);
                    pause
                }
            };
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    async fn sync(&mut self) -> anyhow::Result<()> {
        let world = self.world().await;
        for index in 0..self.applied.len() {
            let (family, applied) = &self.applied[index];
            let wanted = plan(&world, &self.node, *family);
            let text = transition(*family, &self.table, applied.as_ref(), &wanted);
            if !text.is_empty() {
                if let Err(error) = nft::apply(&text).await {
                    let family = *family;
                    self.applied[index].1 = None;
                    return Err(error.context(format!("changing the {} table {}", family.keyword(), self.table)));
                }
                self.shown.transactions.fetch_add(1, Ordering::Relaxed);
            }
            // An empty table that was never made has to be made when there is something for it.
            let known = applied.is_some() || wanted != Table::default();
            self.applied[index].1 = known.then_some(wanted);
        }
        Ok(())
    }

    async fn world(&mut self) -> World {
        let policies = self.policies.list();
        if policies.is_empty() && self.others.is_none() {
            return World::default();
        }
        if self.others.is_none() {
            self.others = Some(self.watch_others());
            self.caches.wait_until_synced().await;
        }
        let Some(Others { pods, namespaces }) = &self.others else { return World::default() };
        let labels = |namespace: &Arc<Namespace>| {
            (namespace.metadata.name.clone().unwrap_or_default(), namespace.metadata.labels.clone().unwrap_or_default())
        };
        World {
            pods: pods.list().iter().filter_map(|pod| peer(pod)).map(Arc::new).collect(),
            namespaces: namespaces.list().iter().map(labels).collect(),
            policies,
        }
    }

    fn watch_others(&self) -> Others {
        let (pods, namespaces) = (self.caches.of::<Pod>(), self.caches.of::<Namespace>());
        let waker = self.stale.clone();
        // Most changes of a pod are of its status, and none of ours.
        pods.subscribe(move |change| match change {
            Change::Updated { old, new } if peer(old) == peer(new) => {}
            _ => waker.notify_one(),
        });
        let waker = self.stale.clone();
        namespaces.subscribe(move |change| match change {
            Change::Updated { old, new } if old.metadata.labels == new.metadata.labels => {}
            _ => waker.notify_one(),
        });
        Others { pods, namespaces }
    }
}
