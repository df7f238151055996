//! `pod-network`: reads flags and hands over to the library.

use anyhow::Context;
use clap::Parser;
use pod_network::cni::Bridge;
use pod_network::node::Connecting;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Holds a node's pods to their network policies, and connects them with those of other nodes.
#[derive(Parser)]
#[command(name = "pod-network", version)]
struct Flags {
    /// The kubeconfig with the apiserver's address and an identity.
    #[arg(long, required_unless_present = "cleanup")]
    kubeconfig: Option<PathBuf>,
    /// This node's name; the host's name when not given.
    #[arg(long)]
    hostname_override: Option<String>,
    /// What the names of the tables begin with, for several clusters on one host.
    #[arg(long, default_value = "pod-network")]
    nftables_table: String,
    /// Where /healthz, /livez, /readyz and /metrics answer.
    #[arg(long, default_value = "127.0.0.1")]
    bind_address: IpAddr,
    /// On which port; 0 says nowhere.
    #[arg(long, default_value_t = 10261)]
    secure_port: u16,
    /// Where the container runtime looks for CNI configurations: one is written there, and the node gets routes to the others. Nothing of that when not given.
    #[arg(long, requires = "cluster_cidr")]
    cni_conf_dir: Option<PathBuf>,
    /// Routes to the nodes' pods, and nothing else: for a machine that is no node and reaches pods all the same, as an apiserver does.
    #[arg(long, conflicts_with = "cni_conf_dir")]
    routes_only: bool,
    /// The name of the pods' bridge.
    #[arg(long, default_value = "cni0")]
    bridge: String,
    /// The size of pods' packets; the kernel's choice when not given.
    #[arg(long)]
    mtu: Option<u32>,
    /// Where pods' addresses come from, so that what goes elsewhere is masqueraded; one for each family.
    #[arg(long, value_delimiter = ',')]
    cluster_cidr: Vec<String>,
    /// Remove all rules and exit.
    #[arg(long)]
    cleanup: bool,
    /// How much to log: 0 is normal, 4 is for debugging.
    #[arg(short, long, default_value_t = 0)]
    v: u8,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Flags {
        kubeconfig,
        hostname_override,
        nftables_table,
        bind_address,
        secure_port,
        cni_conf_dir,
        routes_only,
        bridge,
        mtu,
        cluster_cidr,
        cleanup,
        v,
    } = client::command_line::parse(std::env::args_os());
    let level = if v >= 4 { "debug" } else { "info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    if cleanup {
        return pod_network::cleanup(&nftables_table).await;
    }
    let kubeconfig = kubeconfig.context("--kubeconfig is needed")?;
    let node = match hostname_override {
        Some(name) => name,
        None => std::fs::read_to_string("/proc/sys/kernel/hostname").context("reading the host's name")?.trim().to_lowercase(),
    };
    let options = pod_network::Options {
        client: client::connect(&kubeconfig, "pod-network").await?,
        node,
        table: nftables_table,
        policies: !routes_only,
        connecting: (routes_only || cni_conf_dir.is_some()).then_some(Connecting {
            directory: cni_conf_dir,
            bridge: Bridge { name: bridge, mtu },
            cluster_cidrs: cluster_cidr,
        }),
        address: (secure_port != 0).then(|| SocketAddr::new(bind_address, secure_port)),
    };
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stopper = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        stopper.cancel();
    });
    pod_network::run(options, stop).await
}
