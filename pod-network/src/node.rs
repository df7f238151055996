//! A node's place among the others: its CNI configuration, the routes to the others' pods, and masquerading of what leaves the cluster.

use crate::cni::{self, Bridge};
use crate::health::Shown;
use crate::policy::table::{Chain, Table, transition};
use crate::routes::{self, routes};
use client::{Cache, Change, ObjectKey, SharedCaches};
use k8s_openapi::api::core::v1::Node;
use kube_proxy::family::Family;
use kube_proxy::nft;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How long to wait after something failed: doubled each time, up to the latter.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// How pods are connected.
#[derive(Clone, Debug)]
pub struct Connecting {
    /// Where the runtime looks for CNI configurations; without, this machine is no node and only gets routes to them.
    pub directory: Option<PathBuf>,
    /// The bridge.
    pub bridge: Bridge,
    /// Where pods' addresses come from, one for each family: what goes elsewhere is masqueraded.
    pub cluster_cidrs: Vec<String>,
}

/// Keeps a node connected.
pub struct Connector {
    connecting: Connecting,
    nodes: Arc<Cache<Node>>,
    stale: Arc<Notify>,
    node: String,
    table: String,
    applied: Vec<(Family, Option<Table>)>,
    shown: Arc<Shown>,
}

impl Connector {
    /// For a node, with tables of that name.
    pub fn new(connecting: Connecting, caches: &SharedCaches, node: &str, table: &str, families: &[Family], shown: Arc<Shown>) -> Self {
        let (nodes, stale) = (caches.of::<Node>(), Arc::new(Notify::new()));
        let waker = stale.clone();
        // A node's heartbeats change nothing that matters here.
        nodes.subscribe(move |change| match change {
            Change::Updated { old, new } if routes::facts(old) == routes::facts(new) => {}
            _ => waker.notify_one(),
        });
        let applied = families.iter().map(|family| (*family, None)).collect();
        Self { connecting, nodes, stale, node: node.to_owned(), table: table.to_owned(), applied, shown }
    }

    /// Runs until stopped. All of it then stays.
    pub async fn run(mut self, stop: CancellationToken) {
        // Routes go with the link that they lead over, and nobody but the kernel knows when it is back.
        let family = self.applied.first().map_or(Family::V4, |(family, _)| *family);
        tokio::spawn(stop.clone().run_until_cancelled_owned(routes::watch(family, self.stale.clone())));
        let mut retry = RETRY.0;
        loop {
            let Some(result) = stop.run_until_cancelled(self.sync()).await else { return };
            self.shown.told("node", result.as_ref().err());
            let again = async {
                match result {
                    Ok(()) => {
                        retry = RETRY.0;
                        self.stale.notified().await;
                    }
                    Err(error) => {
                        tracing::error!("{error:#}; trying again in {retry:?}");
                        // What happens meanwhile may be what was missing.
                        drop(tokio::time::timeout(retry, self.stale.notified()).await);
                        retry = (retry * 2).min(RETRY.1);
                    }
                }
            };
            if stop.run_until_cancelled(again).await.is_none() {
                return;
            }
        }
    }

    async fn sync(&mut self) -> anyhow::Result<()> {
        let nodes = self.nodes.list();
        for (family, _) in &self.applied {
            routes::apply(*family, &routes(nodes.iter().map(Arc::as_ref), &self.node, *family)).await?;
        }
        let Some(directory) = &self.connecting.directory else { return Ok(()) };
        let own = self.nodes.get(&ObjectKey::new("", &self.node));
        let cidrs = own.map(|node| routes::pod_cidrs(&node)).unwrap_or_default();
        if cidrs.is_empty() {
            anyhow::bail!("node {} has no podCIDR yet", self.node);
        }
        for (family, applied) in &mut self.applied {
            let wanted = masquerading(*family, &cidrs, &self.connecting.cluster_cidrs);
            let text = transition(*family, &self.table, applied.as_ref(), &wanted);
            if !text.is_empty() {
                nft::apply(&text).await?;
            }
            *applied = Some(wanted);
        }
        // Last, since the runtime starts pods as soon as it is there.
        cni::write(directory, &cni::conflist(&self.connecting.bridge, &cidrs)).await
    }
}

/// What a pod of this node sends to where no pod can be comes from the node as far as others can tell.
fn masquerading(family: Family, own: &[String], cluster: &[String]) -> Table {
    let ip = family.keyword();
    let own = own.iter().filter(|cidr| family.owns_cidr(cidr));
    let inside: String = cluster.iter().filter(|cidr| family.owns_cidr(cidr)).map(|cidr| format!("{ip} daddr != {cidr} ")).collect();
    let multicast = if family == Family::V4 { "224.0.0.0/4" } else { "ff00::/8" };
    let rules = own.map(|cidr| format!("{ip} saddr {cidr} {inside}{ip} daddr != {multicast} masquerade fully-random"));
    // Behind the node proxy's, which has reasons of its own.
    let hook = Some("type nat hook postrouting priority 110".to_owned());
    let chain = Chain { hook, rules: rules.collect() };
    Table { chains: [("masquerading".to_owned(), chain)].into(), sets: Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_leaves_the_cluster_is_masqueraded() {
        let cidrs = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        let rules = |family, cluster: &str| {
            masquerading(family, &cidrs("10.244.1.0/24,fd00:1::/64"), &cidrs(cluster)).chains["masquerading"].rules.join("\n")
        };
        let four = "ip saddr 10.244.1.0/24 ip daddr != 10.244.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random";
        assert_eq!(rules(Family::V4, "10.244.0.0/16"), four);
        assert_eq!(rules(Family::V6, "10.244.0.0/16"), "ip6 saddr fd00:1::/64 ip6 daddr != ff00::/8 masquerade fully-random");
    }
}
