//! The apiserver's command line: `apiserver` serves, `apiserver pki` makes keys and kubeconfigs.

use anyhow::Result;
use apiserver::{Options, Server, pki};
use clap::Parser;
use std::time::SystemTime;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The Kubernetes API server with its own store
#[derive(Parser)]
#[command(name = "apiserver", version, args_conflicts_with_subcommands = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Write the cluster's keys, certificates and kubeconfigs
    Pki(pki::Command),
}

fn log(verbosity: u8) {
    let level = match verbosity {
        0..=3 => "info",
        4..=5 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("warn,apiserver={level}")));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

fn main() -> Result<()> {
    let CommandLine { command, options } = CommandLine::parse();
    log(options.v);
    match command {
        Some(Command::Pki(command)) => Ok(command.run(SystemTime::now())?),
        None => serve(options),
    }
}

#[tokio::main]
async fn serve(options: Options) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let running = Server::builder().options(options).start().await?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    running.stop().await
}
