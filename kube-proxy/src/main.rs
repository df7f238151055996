//! `kube-proxy`: reads flags and hands over to the library.

use anyhow::Context;
use clap::Parser;
use kube_proxy::config::{self, KubeProxyConfiguration};
use std::net::IpAddr;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Makes Services work on a node.
#[derive(Parser)]
#[command(name = "kube-proxy", version)]
struct Flags {
    /// The kubeconfig with the apiserver's address and the proxy's identity.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// A KubeProxyConfiguration; other flags change what it says.
    #[arg(long)]
    config: Option<PathBuf>,
    /// This node's name; the host's name when not given.
    #[arg(long)]
    hostname_override: Option<String>,
    /// The address on which health check ports of Services answer.
    #[arg(long)]
    bind_address: Option<IpAddr>,
    /// Where /healthz and /livez answer; port 0 says nowhere.
    #[arg(long)]
    healthz_bind_address: Option<String>,
    /// Where /metrics answers; port 0 says nowhere.
    #[arg(long)]
    metrics_bind_address: Option<String>,
    /// The mode: nftables is the only one.
    #[arg(long)]
    proxy_mode: Option<String>,
    /// Where pods' addresses come from, so that traffic from elsewhere is masqueraded; one for each family.
    #[arg(long)]
    cluster_cidr: Option<String>,
    /// How traffic from pods is told: ClusterCIDR is the only way.
    #[arg(long)]
    detect_local_mode: Option<String>,
    /// The networks of this node on which NodePorts answer, or `primary` for the addresses that its Node says; all but loopback when not given.
    #[arg(long, value_delimiter = ',')]
    nodeport_addresses: Option<Vec<String>>,
    /// Masquerade all traffic to Services.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    masquerade_all: Option<bool>,
    /// The bit of the packet mark that says "masquerade".
    #[arg(long)]
    iptables_masquerade_bit: Option<u8>,
    /// The name of the tables, for several clusters on one host.
    #[arg(long, default_value = "kube-proxy", value_parser = table_name)]
    nftables_table: String,
    /// Remove all rules and exit.
    #[arg(long)]
    cleanup: bool,
    /// How much to log: 0 is normal, 4 is for debugging.
    #[arg(short, long, default_value_t = 0)]
    v: u8,
}

fn table_name(text: &str) -> Result<String, String> {
    let good = text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if good { Ok(text.to_owned()) } else { Err("letters, digits and dashes, beginning with a letter".to_owned()) }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Flags {
        kubeconfig,
        config,
        hostname_override,
        bind_address,
        healthz_bind_address,
        metrics_bind_address,
        proxy_mode,
        cluster_cidr,
        detect_local_mode,
        nodeport_addresses,
        masquerade_all,
        iptables_masquerade_bit,
        nftables_table,
        cleanup,
        v,
    } = client::command_line::parse(std::env::args_os());
    let level = if v >= 4 { "debug" } else { "info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    if cleanup {
        return kube_proxy::cleanup(&nftables_table).await;
    }

    let mut configuration = config.map_or_else(|| Ok(KubeProxyConfiguration::default()), |path| config::load(&path))?;
    set(&mut configuration.client_connection.kubeconfig, kubeconfig.map(|path| path.display().to_string()));
    set(&mut configuration.hostname_override, hostname_override);
    set(&mut configuration.bind_address, bind_address);
    set(&mut configuration.healthz_bind_address, healthz_bind_address);
    set(&mut configuration.metrics_bind_address, metrics_bind_address);
    set(&mut configuration.mode, proxy_mode);
    set(&mut configuration.cluster_cidr, cluster_cidr);
    set(&mut configuration.detect_local_mode, detect_local_mode);
    set(&mut configuration.node_port_addresses, nodeport_addresses);
    set(&mut configuration.nftables.masquerade_all, masquerade_all);
    set(&mut configuration.nftables.masquerade_bit, iptables_masquerade_bit);
    configuration.check()?;
    anyhow::ensure!(!configuration.client_connection.kubeconfig.is_empty(), "--kubeconfig is needed");

    let node = match configuration.hostname_override.as_str() {
        "" => std::fs::read_to_string("/proc/sys/kernel/hostname").context("reading the host's name")?.trim().to_lowercase(),
        name => name.to_owned(),
    };
    let client = client::connect(configuration.client_connection.kubeconfig.as_ref(), "kube-proxy").await?;
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stopper = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        stopper.cancel();
    });
    kube_proxy::run(kube_proxy::Options { client, configuration, node, table: nftables_table }, stop).await
}

fn set<T>(field: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *field = given;
    }
}
