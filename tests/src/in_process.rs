//! A control plane inside the test's process: the real apiserver on a store in memory, the real controllers and scheduler, and any number of
//! simulated nodes (the real kubelet on a runtime that pretends). For tests of operators and controllers, many at a time: each has a port, keys, a
//! directory and threads of its own, and nothing is left of it once it is dropped.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! let cluster = skiff_testing::ControlPlane::builder().nodes(2).start().await?;
//! let pods: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::default_namespaced(cluster.client());
//! # Ok(()) }
//! ```
//!
//! What components say goes to whatever `tracing` subscriber the test has installed.

use anyhow::{Context, Result};
use apiserver::assembly::{Running, Server};
use base64::Engine;
use clap::Parser;
use client::connection::from_config;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::config::{AuthInfo, Config};
use kube::{Api, Client};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// The token of the administrator. The server listens on loopback only, for as long as the test runs.
const TOKEN: &str = "in-process";
/// How many threads a control plane works on: requests and controllers get in each other's way on one.
const THREADS: usize = 2;
/// How long the start may take: a hundred times what it takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a control plane is to consist of.
#[derive(Clone, Debug)]
pub struct Builder {
    nodes: u32,
    controllers: Vec<String>,
    scheduler: bool,
    behaviour: Option<String>,
}

/// A control plane that runs until it is dropped.
pub struct ControlPlane {
    client: Client,
    url: String,
    kubeconfig: PathBuf,
    stop: CancellationToken,
    runtime: Option<Runtime>,
    _directory: tempfile::TempDir,
}

impl ControlPlane {
    /// The apiserver, all controllers and the scheduler, without nodes.
    pub fn builder() -> Builder {
        Builder { nodes: 0, controllers: vec!["*".into()], scheduler: true, behaviour: None }
    }

    /// A client with all rights, whose default namespace is `default`.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Where the apiserver listens: `https://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The administrator's kubeconfig, for programs.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(runtime) = self.runtime.take() {
            // A runtime may not be waited for inside another one, where most tests run.
            runtime.shutdown_background();
        }
    }
}

impl Builder {
    /// With this many simulated nodes, `hollow-node-0` and so on.
    pub fn nodes(mut self, count: u32) -> Self {
        self.nodes = count;
        self
    }

    /// How long things take on the simulated nodes and what fails there, in the words of the kubelet's `--hollow-behaviour`.
    pub fn behaviour(mut self, text: &str) -> Self {
        self.behaviour = Some(text.to_owned());
        self
    }

    /// Only these controllers, in the words of the controller-manager's `--controllers`; none for a bare apiserver.
    pub fn controllers(mut self, names: &[&str]) -> Self {
        self.controllers = names.iter().map(|n| (*n).to_owned()).collect();
        self
    }

    /// Without a scheduler: pods stay unbound unless the test binds them.
    pub fn without_scheduler(mut self) -> Self {
        self.scheduler = false;
        self
    }

    /// Starts it. When this returns, the apiserver is ready, the nodes are registered, and pods can be made in the namespace `default`.
    pub async fn start(self) -> Result<ControlPlane> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("control-plane")
            .enable_all()
            .build()
            .context("starting threads")?;
        let stop = CancellationToken::new();
        let directory = tempfile::tempdir().context("a directory for keys")?;
        let (path, stopper) = (directory.path().to_owned(), stop.clone());
        let started = runtime.spawn(async move { tokio::time::timeout(PATIENCE, self.assemble(path, stopper)).await });
        // From here on the runtime ends with the value, whatever comes.
        let mut cluster = Starting { runtime: Some(runtime), stop };
        let (client, url, kubeconfig) = started.await?.context("the control plane did not start in time")??;
        let (runtime, stop) = (cluster.runtime.take(), cluster.stop.clone());
        Ok(ControlPlane { client, url, kubeconfig, stop, runtime, _directory: directory })
    }

    /// Runs inside the control plane's own runtime, so that every task it starts, those of the client too, is there.
    async fn assemble(self, directory: PathBuf, stop: CancellationToken) -> Result<(Client, String, PathBuf)> {
        let options = apiserver::Options {
            cert_dir: Some(directory.join("pki")),
            allow_privileged: true,
            check_policy_types: true,
            ..Default::default()
        };
        let server = Server::builder().options(options).in_memory()?.token(TOKEN, "admin", &["system:masters"]).start().await?;
        let (url, authority) = (format!("https://{}", server.address()), server.authority()?);
        let client = connect(&url, &authority)?;
        let kubeconfig = directory.join("kubeconfig");
        std::fs::write(&kubeconfig, kubeconfig_text(&url, &authority)).context("writing the kubeconfig")?;

        let controlled = !self.controllers.is_empty();
        if controlled {
            let settings = controller_manager::controller::Settings { root_ca: Some(authority.clone()), ..Default::default() };
            let options = controller_manager::Options {
                client: connect(&url, &authority)?,
                accounts: None,
                controllers: self.controllers,
                settings,
                candidate: None,
                address: None,
            };
            tokio::spawn(report("controller-manager", controller_manager::run(options, stop.clone())));
        }
        if self.scheduler {
            let options = scheduler::Options {
                client: connect(&url, &authority)?,
                configuration: scheduler::config::Configuration::alone(),
                address: None,
            };
            tokio::spawn(report("scheduler", scheduler::run(options, stop.clone())));
        }
        if self.nodes > 0 {
            let mut words =
                vec!["kubelet".to_owned(), format!("--kubeconfig={}", kubeconfig.display()), format!("--hollow-nodes={}", self.nodes)];
            words.push(format!("--root-dir={}", directory.join("kubelet").display()));
            words.extend(self.behaviour.map(|text| format!("--hollow-behaviour={text}")));
            let flags = kubelet::flags::Flags::try_parse_from(words).context("flags of the simulated nodes")?;
            tokio::spawn(report("kubelet", kubelet::hollow::run(flags, stop.clone())));
        }
        ready(&client, self.nodes, controlled).await?;
        tokio::spawn(end(server, stop));
        Ok((client, url, kubeconfig))
    }
}

/// What must not outlive a start that failed.
struct Starting {
    runtime: Option<Runtime>,
    stop: CancellationToken,
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            self.stop.cancel();
            runtime.shutdown_background();
        }
    }
}

async fn report(component: &str, run: impl Future<Output = Result<()>>) {
    if let Err(error) = run.await {
        tracing::error!(component, error = format!("{error:#}"), "a component of the control plane has ended");
    }
}

async fn end(server: Running, stop: CancellationToken) {
    stop.cancelled().await;
    if let Err(error) = server.stop().await {
        tracing::warn!(error = format!("{error:#}"), "the apiserver did not end cleanly");
    }
}

fn connect(url: &str, authority: &str) -> Result<Client> {
    let mut config = Config::new(url.parse()?);
    let body: String = authority.lines().filter(|line| !line.starts_with("-----")).collect();
    let certificate = base64::engine::general_purpose::STANDARD.decode(body).context("the authority is PEM")?;
    config.root_cert = Some(vec![certificate]);
    config.auth_info = AuthInfo { token: Some(TOKEN.to_owned().into()), ..AuthInfo::default() };
    from_config(config, "skiff-testing")
}

fn kubeconfig_text(url: &str, authority: &str) -> String {
    let authority = base64::engine::general_purpose::STANDARD.encode(authority);
    // JSON is YAML.
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "in-process",
        "clusters": [{"name": "in-process", "cluster": {"server": url, "certificate-authority-data": authority}}],
        "users": [{"name": "admin", "user": {"token": TOKEN}}],
        "contexts": [{"name": "in-process", "context": {"cluster": "in-process", "user": "admin"}}],
    })
    .to_string()
}

/// Waits until the server calls itself ready, the nodes are Ready and, where controllers run, a pod would be admitted.
async fn ready(client: &Client, nodes: u32, controlled: bool) -> Result<()> {
    const BETWEEN: Duration = Duration::from_millis(2);
    let healthy = || async {
        let request = http::Request::get("/readyz").body(Vec::new()).context("a path")?;
        Ok::<_, anyhow::Error>(client.request_text(request).await.is_ok())
    };
    while !healthy().await? {
        tokio::time::sleep(BETWEEN).await;
    }
    let accounts: Api<ServiceAccount> = Api::default_namespaced(client.clone());
    while controlled && accounts.get_opt("default").await?.is_none() {
        tokio::time::sleep(BETWEEN).await;
    }
    let all: Api<k8s_openapi::api::core::v1::Node> = Api::all(client.clone());
    let is_ready = |node: &k8s_openapi::api::core::v1::Node| {
        let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
    };
    while (all.list(&Default::default()).await?.items.iter().filter(|n| is_ready(n)).count() as u32) < nodes {
        tokio::time::sleep(BETWEEN).await;
    }
    Ok(())
}
