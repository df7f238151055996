//! `controller-manager`: reads flags and hands over to the library.

use anyhow::Context;
use clap::Parser;
use client::connection::TokenConnection;
use controller_manager::accounts::ServiceAccounts;
use controller_manager::controller::{Settings, Signing};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Makes what is asked for come true.
#[derive(Parser)]
#[command(name = "controller-manager", version)]
struct Flags {
    /// The kubeconfig with the apiserver's address and the controller-manager's identity.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Controllers to run: `*` for all, `NAME` for one, `-NAME` for not that one.
    #[arg(long, value_delimiter = ',', default_value = "*", allow_hyphen_values = true)]
    controllers: Vec<String>,
    /// Wait for a Lease before controlling, so that several replicas can run.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = clap::ArgAction::Set)]
    leader_elect: bool,
    /// Let every controller act as a service account of its own, whose rights are those that it needs. Unlike upstream's, on by default: the roles
    /// that every cluster starts with give the controller-manager's own user hardly any.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = clap::ArgAction::Set)]
    use_service_account_credentials: bool,
    /// The certificate authority that pods are to trust; the kubeconfig's by default.
    #[arg(long)]
    root_ca_file: Option<PathBuf>,
    /// The key that signs tokens of service accounts.
    #[arg(long)]
    service_account_private_key_file: Option<PathBuf>,
    /// The certificate of the authority that signs certificates that nodes and users ask for.
    #[arg(long, requires = "cluster_signing_key_file")]
    cluster_signing_cert_file: Option<PathBuf>,
    /// That authority's key.
    #[arg(long, requires = "cluster_signing_cert_file")]
    cluster_signing_key_file: Option<PathBuf>,
    /// How long such certificates last at most.
    #[arg(long, default_value = "8760h", value_parser = duration)]
    cluster_signing_duration: Duration,
    /// The address on which health and metrics are served.
    #[arg(long, default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// The port on which health and metrics are served over TLS; 0 serves none.
    #[arg(long, default_value_t = 10257)]
    secure_port: u16,
    /// How much to log: 0 is normal, 4 is for debugging.
    #[arg(short, long, default_value_t = 0)]
    v: u8,
}

/// `8760h`, `1h30m`.
fn duration(text: &str) -> anyhow::Result<Duration> {
    Ok(Duration::try_from(text.parse::<jiff::SignedDuration>()?)?)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Flags {
        kubeconfig,
        controllers,
        leader_elect,
        use_service_account_credentials,
        root_ca_file,
        service_account_private_key_file,
        cluster_signing_cert_file,
        cluster_signing_key_file,
        cluster_signing_duration,
        bind_address,
        secure_port,
        v,
    } = Flags::parse();
    let level = if v >= 4 { "debug" } else { "info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();

    let read = |path: PathBuf| std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()));
    let root_ca = match root_ca_file {
        Some(path) => Some(read(path)?),
        None => client::connection::certificate_authority(&kubeconfig)?,
    };
    let signing = match (cluster_signing_cert_file, cluster_signing_key_file) {
        (Some(certificate), Some(key)) => {
            Some(Signing { certificate: read(certificate)?, key: read(key)?, duration: cluster_signing_duration })
        }
        _ => None,
    };
    let settings = Settings { root_ca, service_account_key: service_account_private_key_file.map(read).transpose()?, signing };
    let client = client::connect(&kubeconfig, "kube-controller-manager").await?;
    let accounts = match use_service_account_credentials {
        true => Some(ServiceAccounts::new(client.clone(), TokenConnection::new(&kubeconfig).await?)),
        false => None,
    };
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stopper = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        stopper.cancel();
    });
    let address = (secure_port != 0).then(|| SocketAddr::new(bind_address, secure_port));
    controller_manager::run(controller_manager::Options { client, accounts, controllers, settings, leader_elect, address }, stop).await
}
