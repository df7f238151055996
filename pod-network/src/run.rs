//! Puts the parts together and runs them until told to stop.

use crate::health::Shown;
use crate::node::{Connecting, Connector};
use crate::policy::Enforcer;
use anyhow::Context;
use client::SharedCaches;
use client::serving::serve;
use kube_proxy::family::Family;
use kube_proxy::nft;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What it runs with.
pub struct Options {
    /// The connection to the apiserver.
    pub client: kube::Client,
    /// This node's name.
    pub node: String,
    /// What the names of the tables begin with.
    pub table: String,
    /// Where health and metrics are told; nowhere if not given.
    pub address: Option<SocketAddr>,
    /// Whether there are pods here that policies hold.
    pub policies: bool,
    /// How pods are connected; not at all if somebody else does that.
    pub connecting: Option<Connecting>,
}

/// The tables.
fn tables(name: &str) -> [String; 2] {
    [format!("{name}-policy"), format!("{name}-node")]
}

/// Removes the rules that were left.
pub async fn cleanup(name: &str) -> anyhow::Result<()> {
    for table in tables(name) {
        for family in nft::families(&table).await {
            nft::remove(family, &table).await.with_context(|| format!("removing the table {table}"))?;
        }
    }
    Ok(())
}

/// Runs until stopped.
pub async fn run(options: Options, stop: CancellationToken) -> anyhow::Result<()> {
    let Options { client, node, table, address, policies, connecting } = options;
    let shown = Arc::new(Shown::default());
    if policies {
        shown.waits("policies");
    }
    if connecting.is_some() {
        shown.waits("node");
    }
    if let Some(address) = address {
        serve(address, shown.clone(), stop.clone()).await?;
    }
    let [policy, own] = tables(&table);
    // Who has no pods needs no packet rules, and may have no right to make any.
    let families = if policies { nft::families(&policy).await } else { Family::ALL.to_vec() };
    anyhow::ensure!(!families.is_empty(), "nft does not work here: see above");
    let caches = SharedCaches::new(client);
    let enforcer = policies.then(|| Enforcer::new(caches.clone(), &node, &policy, &families, shown.clone()));
    let connector = connecting.map(|connecting| Connector::new(connecting, &caches, &node, &own, &families, shown));
    // Before everything is known, what was left is better than what could be planned.
    if stop.run_until_cancelled(caches.wait_until_synced()).await.is_none() {
        return Ok(());
    }
    tracing::info!(node, table, "caches are filled");
    let connected = async {
        if let Some(connector) = connector {
            connector.run(stop.clone()).await;
        }
    };
    let enforced = async {
        if let Some(enforcer) = enforcer {
            enforcer.run(stop.clone()).await;
        }
    };
    tokio::join!(enforced, connected);
    Ok(())
}
