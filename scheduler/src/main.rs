//! `scheduler`: reads flags and hands over to the library.

use anyhow::Context;
use clap::Parser;
use scheduler::config::{self, Configuration};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Assigns pods to nodes.
#[derive(Parser)]
#[command(name = "scheduler", version)]
struct Flags {
    /// The kubeconfig with the apiserver's address and the scheduler's identity.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// A KubeSchedulerConfiguration.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Wait for a Lease before scheduling, so that several replicas can run.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    leader_elect: Option<bool>,
    /// The address on which health and metrics are served.
    #[arg(long, default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// The port on which health and metrics are served over TLS; 0 serves none.
    #[arg(long, default_value_t = 10259)]
    secure_port: u16,
    /// How much to log: 0 is normal, 4 is for debugging.
    #[arg(short, long, default_value_t = 0)]
    v: u8,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Flags { kubeconfig, config, leader_elect, bind_address, secure_port, v } = Flags::parse();
    let level = if v >= 4 { "debug" } else { "info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();

    let configuration = config.map_or_else(|| Ok(Configuration::default()), |path| config::load(&path))?;
    let kubeconfig = kubeconfig.or_else(|| configuration.kubeconfig.clone().map(PathBuf::from)).context("--kubeconfig is needed")?;
    let client = client::connect(&kubeconfig, "kube-scheduler").await?;
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stopper = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        stopper.cancel();
    });
    let leader_elect = leader_elect.or(configuration.leader_elect).unwrap_or(true);
    let address = (secure_port != 0).then(|| SocketAddr::new(bind_address, secure_port));
    scheduler::run(scheduler::Options { client, configuration, leader_elect, address }, stop).await
}
