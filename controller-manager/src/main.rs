//! `controller-manager`: reads flags and hands over to the library.

use anyhow::{Context, anyhow};
use client::connection::TokenConnection;
use controller_manager::accounts::ServiceAccounts;
use controller_manager::controller::{Settings, Signing};
use controller_manager::controllers::legacy_tokens::Period;
use controller_manager::flags::Flags;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags: Flags = client::command_line::parse(std::env::args_os());
    let (controllers, candidate, endpoints) = (flags.controllers(), flags.election.candidate()?, flags.endpoints());
    api::features::Gates::parse(&flags.feature_gates).map_err(|why| anyhow!("--feature-gates: {why}"))?;
    let (node_networks, node_health, load_balancers) = (flags.node_networks()?, flags.node_health(), flags.load_balancers());
    let autoscaling = flags.autoscaling();
    let read = |path: &Path| std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()));
    let mut signing = BTreeMap::new();
    for (signer, certificate, key) in flags.signing_files() {
        signing.insert(signer, Signing { certificate: read(certificate)?, key: read(key)?, duration: flags.cluster_signing_duration });
    }
    let Flags {
        kubeconfig,
        workers,
        unused,
        enable_dynamic_provisioning,
        disable_force_detach_on_timeout,
        use_service_account_credentials,
        root_ca_file,
        service_account_private_key_file,
        terminated_pod_gc_threshold,
        legacy_service_account_token_clean_up_period,
        bind_address,
        secure_port,
        v,
        ..
    } = flags;
    let level = if v >= 4 { "debug" } else { "info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    if !unused.0.is_empty() {
        tracing::info!(flags = unused.0.join(" "), "these flags change nothing here");
    }

    let root_ca = match root_ca_file {
        Some(path) => Some(read(&path)?),
        None => client::connection::certificate_authority(&kubeconfig)?,
    };
    let settings = Settings {
        root_ca,
        service_account_key: service_account_private_key_file.as_deref().map(read).transpose()?,
        signing,
        node_networks,
        load_balancers,
        autoscaling,
        unused_tokens: Period(legacy_service_account_token_clean_up_period),
        finished_pods_kept: usize::try_from(terminated_pod_gc_threshold).unwrap_or(0),
        node_health,
        endpoints,
        provisions_nothing: !enable_dynamic_provisioning,
        detaches_only_what_is_free: disable_force_detach_on_timeout,
        workers: workers.0,
    };
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
    controller_manager::run(controller_manager::Options { client, accounts, controllers, settings, candidate, address }, stop).await
}
