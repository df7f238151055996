//! The command line: upstream's names for what upstream has, and `--hollow-nodes`, `--hollow-prefix`, `--hollow-behaviour` of our own. A flag that is given wins over the file.

use crate::reset::Reset;
use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// The node agent: runs the pods that are bound to this node.
#[derive(Clone, Debug, Parser)]
#[command(name = "kubelet", version, args_conflicts_with_subcommands = true)]
pub struct Flags {
    /// Something else than being a node.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Kubeconfig of the API server. Without one only static pods run.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Kubeconfig to join with: its token may ask for a certificate, and the kubeconfig of the node is made of it.
    #[arg(long)]
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// Renews the client certificate before it ends.
    #[arg(long)]
    pub rotate_certificates: bool,
    /// Has the cluster sign the serving certificate, and renews it before it ends.
    #[arg(long)]
    pub rotate_server_certificates: bool,
    /// KubeletConfiguration file.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Directory of `*.conf` files that are read over the configuration, in the order of their names.
    #[arg(long)]
    pub config_dir: Option<PathBuf>,
    /// CRI socket.
    #[arg(long)]
    pub container_runtime_endpoint: Option<String>,
    /// Address of the node; by default the one of the default route.
    #[arg(long)]
    pub node_ip: Option<String>,
    /// Name of the node; by default the machine's.
    #[arg(long)]
    pub hostname_override: Option<String>,
    /// Where pods' volumes and the like are kept.
    #[arg(long, default_value = "/var/lib/kubelet")]
    pub root_dir: PathBuf,
    /// Where pods' logs are kept.
    #[arg(long)]
    pub pod_logs_dir: Option<String>,
    /// Port of the server (0 for any).
    #[arg(long)]
    pub port: Option<u16>,
    /// Address of the server.
    #[arg(long)]
    pub address: Option<String>,
    /// Where the serving certificate is kept; made when missing. By default `pki` below the root directory.
    #[arg(long)]
    pub cert_dir: Option<PathBuf>,
    /// The CA that clients' certificates are of; by default the kubeconfig's.
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    /// Labels the node registers with.
    #[arg(long, value_delimiter = ',')]
    pub node_labels: Vec<String>,
    /// Taints the node registers with: `key=value:effect`.
    #[arg(long, value_delimiter = ',')]
    pub register_with_taints: Vec<String>,
    /// The cgroup that all pods are below.
    #[arg(long)]
    pub cgroup_root: Option<String>,
    /// `cgroupfs` or `systemd`.
    #[arg(long)]
    pub cgroup_driver: Option<String>,
    /// Does not run on a machine that swaps.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub fail_swap_on: Option<bool>,
    /// Directory of static pods' manifests.
    #[arg(long)]
    pub pod_manifest_path: Option<String>,
    /// Name servers of the cluster.
    #[arg(long, value_delimiter = ',')]
    pub cluster_dns: Vec<String>,
    /// Domain of the cluster.
    #[arg(long)]
    pub cluster_domain: Option<String>,
    /// How many pods fit on the node.
    #[arg(long)]
    pub max_pods: Option<i64>,
    /// The sandbox image, which garbage collection would spare; the runtime's own configuration says what runs.
    #[arg(long)]
    pub pod_infra_container_image: Option<String>,
    /// Runs that many simulated nodes in this process instead of a real one.
    #[arg(long, default_value_t = 0)]
    pub hollow_nodes: u32,
    /// What simulated nodes are called, before their number.
    #[arg(long, default_value = "hollow-node-")]
    pub hollow_prefix: String,
    /// How simulated nodes behave: `sandbox=300ms,pull=2s,start=100ms,stop=1s,failures=0.01,seed=7`, each part optional. Times are those of
    /// the calls to the runtime, `stop` that of a process after SIGTERM; `failures` is the share of sandboxes, pulls and starts that fail.
    #[arg(long, default_value = "")]
    pub hollow_behaviour: String,
    /// How many words to log: 0 (the default) to 10.
    #[arg(short = 'v', long, default_value_t = 0)]
    pub v: u8,
}

/// What the program does besides running as a node's agent.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Ends all pods of the runtime.
    Reset(Reset),
}
