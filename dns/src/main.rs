//! `dns`: reads flags and hands over to the library.

use anyhow::Context;
use clap::{Parser, ValueEnum};
use client::ObjectKey;
use dns::forward::Source;
use dns::resolv_conf;
use hickory_proto::rr::Name;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Whether pods have names.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Pods {
    /// They have none.
    Disabled,
    /// A pod's name is its address; that there is such a pod is not checked.
    Insecure,
}

/// Resolves the cluster's names, and asks others for the rest.
#[derive(Parser)]
#[command(name = "dns", version)]
struct Flags {
    /// The kubeconfig with the apiserver's address and the server's identity.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Where to answer. With 0.0.0.0 answers leave by the address that the kernel chooses, which on a machine with several may not be the one that was asked.
    #[arg(long, value_delimiter = ',', default_value = "0.0.0.0")]
    bind_address: Vec<IpAddr>,
    /// The port, over UDP and TCP.
    #[arg(long, default_value_t = 53)]
    port: u16,
    /// Where /health, /ready and /metrics answer; port 0 says nowhere.
    #[arg(long, default_value = "0.0.0.0:9153")]
    http_bind_address: SocketAddr,
    /// The cluster's zone.
    #[arg(long, default_value = "cluster.local", value_parser = domain)]
    cluster_domain: Name,
    /// How many seconds clients may keep an answer.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(..=3600))]
    ttl: u32,
    /// Whether pods have names.
    #[arg(long, value_enum, default_value = "insecure")]
    pods: Pods,
    /// The file that names the servers to ask about other names.
    #[arg(long, default_value = "/etc/resolv.conf")]
    resolv_conf: PathBuf,
    /// Servers to ask instead, ADDRESS or ADDRESS:PORT.
    #[arg(long, value_delimiter = ',', value_parser = forward_to, conflicts_with = "resolv_conf")]
    forward: Vec<SocketAddr>,
    /// The Service whose endpoint this server makes itself, NAMESPACE/NAME: where no pod runs it.
    #[arg(long, value_parser = service)]
    publish: Option<ObjectKey>,
    /// How much to log: 0 is normal, 4 is for debugging.
    #[arg(short, long, default_value_t = 0)]
    v: u8,
}

fn domain(text: &str) -> Result<Name, String> {
    let mut name = Name::from_ascii(text).map_err(|error| error.to_string())?;
    name.set_fqdn(true);
    Ok(name)
}

fn forward_to(text: &str) -> Result<SocketAddr, String> {
    resolv_conf::server(text).ok_or_else(|| format!("{text} is not an address"))
}

fn service(text: &str) -> Result<ObjectKey, String> {
    let (namespace, name) = text.split_once('/').ok_or_else(|| format!("{text} is not NAMESPACE/NAME"))?;
    Ok(ObjectKey::new(namespace, name))
}

fn host_name() -> anyhow::Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").context("reading the host's name")?;
    Ok(name.trim().to_lowercase())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Flags { kubeconfig, bind_address, port, http_bind_address, cluster_domain, ttl, pods, resolv_conf, forward, publish, v } =
        Flags::parse();
    let level = if v >= 4 { "debug" } else { "info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let options = dns::Options {
        client: client::connect(&kubeconfig, "coredns").await?,
        addresses: bind_address.into_iter().map(|address| SocketAddr::new(address, port)).collect(),
        http_address: (http_bind_address.port() != 0).then_some(http_bind_address),
        domain: cluster_domain,
        ttl,
        pods: pods == Pods::Insecure,
        forward: if forward.is_empty() { Source::File(resolv_conf) } else { Source::Given(forward) },
        publish: publish.map(|service| host_name().map(|host| (service, host))).transpose()?,
    };
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stopper = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        stopper.cancel();
    });
    dns::run(options, stop).await.context("serving")
}
