//! The node agent: it runs the pods that are bound to its node, over the container runtime interface, and tells the API how they and the node are.
//!
//! | module | what it is |
//! |---|---|
//! | [`runtime`] | the container runtime behind a trait: CRI over a socket, or simulated |
//! | [`container`] | what containers and sandboxes are made with: pure functions of the spec |
//! | [`pod`] | one task per pod: observe, plan, act, report |
//! | [`probe`], [`volume`], [`image`] | what pods have besides containers |
//! | [`csi`] | volumes of drivers, and the drivers |
//! | [`device`], [`dynamic_resources`] | devices, as device plugins and drivers of dynamic resources give them out |
//! | [`topology_manager`], [`pinning`], [`memory_manager`] | CPUs and memory of containers' own, all from the same NUMA nodes |
//! | [`checkpoint`] | the files in which those and [`device`] write down who has what |
//! | [`pod_resources`] | which containers have which devices, for programs on the node |
//! | [`plugin`] | plugins that register by a socket in the directory of all plugins |
//! | [`source`] | where pods come from: the API, and manifests on the node |
//! | [`status_manager`], [`lookup`], [`recorder`] | what goes to the API and comes from it |
//! | [`node`] | the node itself: what it is and has, status, lease, evictions, garbage, shutdown |
//! | [`systemd`] | what is said to systemd and logind: the cgroups of pods as slices, and the machine's end |
//! | [`certificate`] | how the node joins and renews its certificates |
//! | [`server`] | logs, exec and port-forward for the API server |
//! | [`clock`] | the time, as a parameter |
//! | [`hollow`] | many simulated nodes in one process |
//! | [`reset`] | the end of a node: no pod stays |
//!
//! Deliberately absent: checkpoints of what runs, which the runtime tells. Nothing here polls the API: watches and timers wake the work.

pub mod agent;
pub mod certificate;
pub mod checkpoint;
pub mod config;
pub mod container;
pub mod csi;
pub mod device;
pub mod dynamic_resources;
pub mod flags;
pub mod hollow;
pub mod image;
pub mod lookup;
pub mod memory_manager;
pub mod metrics;
pub mod node;
pub mod pinning;
pub mod plugin;
pub mod pod;
pub mod pod_resources;
pub mod probe;
pub mod recorder;
pub mod reset;
pub mod runtime;
pub mod server;
pub mod source;
pub mod status_manager;
pub mod systemd;
pub mod topology_manager;
pub mod volume;

pub use client::clock;

use flags::{Command, Flags};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{EnvFilter, fmt::format::FmtSpan};

/// The version the node reports: the API's.
pub const VERSION: &str = ::api::VERSION;

/// Runs the process: logging, signals, and what the flags say.
pub fn run_process(flags: Flags) -> anyhow::Result<()> {
    let default = if flags.v > 3 { "debug" } else { "info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    // How long each step of a pod's start took shows with the steps' ends.
    let spans = if flags.v > 3 { FmtSpan::CLOSE } else { FmtSpan::NONE };
    tracing_subscriber::fmt().with_env_filter(filter).with_span_events(spans).with_writer(std::io::stderr).init();
    client::connection::install_crypto();
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let Some(Command::Reset(options)) = &flags.command {
        return threads.block_on(reset::reset(options));
    }
    threads.block_on(async {
        let stop = CancellationToken::new();
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let told = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            told.cancel();
        });
        if flags.hollow_nodes > 0 { hollow::run(flags, stop).await } else { agent::run(flags, stop).await }
    })
}
