//! `scheduler`: reads flags and hands over to the library.

use anyhow::{Context, anyhow};
use clap::Parser;
use scheduler::config::{self, Configuration, LeaderElection};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Assigns pods to nodes.
#[derive(Parser)]
#[command(name = "scheduler", version)]
struct Flags {
    /// The kubeconfig with the apiserver's address and the scheduler's identity; without one, the pod's that this process runs in.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// A KubeSchedulerConfiguration. The kubeconfig that it names counts before --kubeconfig.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Write the configuration with its defaults to this file, and end.
    #[arg(long)]
    write_config_to: Option<PathBuf>,
    /// name=true or name=false, of features. The scheduler has none that can be switched.
    #[arg(long, value_delimiter = ',')]
    feature_gates: Vec<String>,
    /// Wait for a Lease before scheduling, so that several replicas can run.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    leader_elect: Option<bool>,
    /// How long the leader's record is respected.
    #[arg(long)]
    leader_elect_lease_duration: Option<kube::core::Duration>,
    /// How long the leader tries to renew its record before it stops.
    #[arg(long)]
    leader_elect_renew_deadline: Option<kube::core::Duration>,
    /// The time between tries to take or renew the record.
    #[arg(long)]
    leader_elect_retry_period: Option<kube::core::Duration>,
    /// The kind of object that the record is in; only leases.
    #[arg(long, value_parser = ["leases"])]
    leader_elect_resource_lock: Option<String>,
    /// The Lease's name.
    #[arg(long)]
    leader_elect_resource_name: Option<String>,
    /// The Lease's namespace.
    #[arg(long)]
    leader_elect_resource_namespace: Option<String>,
    /// The address on which health and metrics are served.
    #[arg(long, default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// The port on which health and metrics are served over TLS; 0 serves none.
    #[arg(long, default_value_t = 10259)]
    secure_port: u16,
    /// Accepted for upstream's manifests: health and metrics are served without asking who reads them.
    #[arg(long)]
    authentication_kubeconfig: Option<PathBuf>,
    /// Accepted for upstream's manifests, like --authentication-kubeconfig.
    #[arg(long)]
    authorization_kubeconfig: Option<PathBuf>,
    /// Accepted for upstream's manifests: the process is not profiled.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    profiling: Option<bool>,
    /// Accepted for upstream's manifests, like --profiling.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    contention_profiling: Option<bool>,
    /// Accepted for upstream's manifests: requests and answers are JSON.
    #[arg(long)]
    kube_api_content_type: Option<String>,
    /// Accepted for upstream's manifests: the server's priority and fairness is the only rate limit.
    #[arg(long)]
    kube_api_qps: Option<f32>,
    /// Accepted for upstream's manifests, like --kube-api-qps.
    #[arg(long)]
    kube_api_burst: Option<i32>,
    /// How much to log: 0 is normal, 4 is for debugging.
    #[arg(short, long, default_value_t = 0)]
    v: u8,
}

impl Flags {
    /// What the flags say over the file.
    fn override_election(&self, election: &mut LeaderElection) {
        let span = |flag: &Option<kube::core::Duration>, value: &mut Duration| {
            if let Some(given) = flag {
                *value = (*given).into();
            }
        };
        span(&self.leader_elect_lease_duration, &mut election.lease_duration);
        span(&self.leader_elect_renew_deadline, &mut election.renew_deadline);
        span(&self.leader_elect_retry_period, &mut election.retry_period);
        election.elect = self.leader_elect.unwrap_or(election.elect);
        election.name.clone_from(self.leader_elect_resource_name.as_ref().unwrap_or(&election.name.clone()));
        election.namespace.clone_from(self.leader_elect_resource_namespace.as_ref().unwrap_or(&election.namespace.clone()));
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags: Flags = client::command_line::parse(std::env::args_os());
    let level = if flags.v >= 4 { "debug" } else { "info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();

    let mut configuration = flags.config.as_ref().map_or_else(|| Ok(Configuration::default()), |path| config::load(path))?;
    flags.override_election(&mut configuration.leader_election);
    api::features::Gates::parse(&flags.feature_gates).map_err(|why| anyhow!("invalid argument for \"--feature-gates\" flag: {why}"))?;
    if let Some(path) = &flags.write_config_to {
        let text = serde_yaml::to_string(&configuration.shown).context("the configuration as YAML")?;
        return std::fs::write(path, text).with_context(|| format!("writing {}", path.display()));
    }
    let client = match configuration.kubeconfig.clone().map(PathBuf::from).or(flags.kubeconfig) {
        Some(kubeconfig) => client::connect(&kubeconfig, "kube-scheduler").await?,
        None => client::connection::connect_in_cluster("kube-scheduler")?,
    };
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stopper = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        stopper.cancel();
    });
    let address = (flags.secure_port != 0).then(|| SocketAddr::new(flags.bind_address, flags.secure_port));
    scheduler::run(scheduler::Options { client, configuration, address }, stop).await
}
