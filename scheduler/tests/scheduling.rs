//! The scheduler against an apiserver in the same process: pods that find their node, that wait for one, and that make room.

use anyhow::{Context, Result};
use apiserver::assembly::{Running, Server};
use client::connection::from_config;
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{AuthInfo, Config};
use kube::{Api, Client};
use scheduler::config::Configuration;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long anything here may take, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

struct Cluster {
    server: Running,
    stop: CancellationToken,
    scheduler: JoinHandle<Result<()>>,
    pods: Api<Pod>,
    nodes: Api<Node>,
    client: Client,
    _certificates: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Result<Self> {
        let certificates = tempfile::tempdir()?;
        let options = apiserver::options::Options { cert_dir: Some(certificates.path().to_owned()), ..Default::default() };
        let server = Server::builder().options(options).in_memory()?.token("secret", "tester", &["system:masters"]).start().await?;
        let mut config = Config::new(format!("https://{}", server.address()).parse()?);
        config.root_cert = Some(vec![pem(&server.authority()?)?]);
        config.auth_info = AuthInfo { token: Some("secret".to_owned().into()), ..AuthInfo::default() };
        let client = from_config(config, "test")?;
        let stop = CancellationToken::new();
        let options =
            scheduler::Options { client: client.clone(), configuration: Configuration::default(), leader_elect: false, address: None };
        let scheduler = tokio::spawn(scheduler::run(options, stop.clone()));
        let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": "default"}}))?;
        until(
            "the namespace",
            async || Ok(Api::<k8s_openapi::api::core::v1::Namespace>::all(client.clone()).get_opt("default").await?),
            Option::is_some,
        )
        .await?;
        Api::namespaced(client.clone(), "default").create(&PostParams::default(), &account).await?;
        let (pods, nodes) = (Api::namespaced(client.clone(), "default"), Api::all(client.clone()));
        Ok(Self { server, stop, scheduler, pods, nodes, client, _certificates: certificates })
    }

    async fn stop(self) -> Result<()> {
        self.stop.cancel();
        self.scheduler.await??;
        self.server.stop().await
    }

    async fn add_node(&self, name: &str) -> Result<()> {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        self.nodes.create(&PostParams::default(), &node).await?;
        let resources = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
        let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let status = json!({"status": {"capacity": resources, "allocatable": resources, "conditions": [ready]}});
        self.nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await?;
        // What admission adds to a new node, a controller would take away.
        self.nodes.patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": {"taints": null}}))).await?;
        Ok(())
    }

    async fn add_pod(&self, name: &str, mut spec: Value, cpu: &str) -> Result<()> {
        spec["containers"] = json!([{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]);
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?;
        self.pods.create(&PostParams::default(), &pod).await?;
        Ok(())
    }

    async fn node_of(&self, name: &str) -> Result<Option<String>> {
        Ok(self.pods.get_opt(name).await?.and_then(|pod| pod.spec).and_then(|spec| spec.node_name))
    }

    /// What the condition PodScheduled says.
    async fn told(&self, name: &str) -> Result<Option<String>> {
        let conditions = self.pods.get(name).await?.status.and_then(|status| status.conditions).unwrap_or_default();
        Ok(conditions.into_iter().find(|condition| condition.type_ == "PodScheduled").and_then(|condition| condition.message))
    }
}

fn pem(text: &str) -> Result<Vec<u8>> {
    use base64::Engine;
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    base64::engine::general_purpose::STANDARD.decode(body).context("the authority is PEM")
}

/// Asks until the answer is as expected.
async fn until<T: std::fmt::Debug>(what: &str, ask: impl AsyncFn() -> Result<T>, expected: impl Fn(&T) -> bool) -> Result<T> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let answer = ask().await?;
        if expected(&answer) {
            return Ok(answer);
        }
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "{what}: still {answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_bound_when_and_where_they_fit() -> Result<()> {
    let cluster = Cluster::start().await?;
    cluster.add_pod("early", json!({}), "1").await?;
    let told = until("why not", async || cluster.told("early").await, Option::is_some).await?;
    assert_eq!(told.as_deref(), Some("no nodes available to schedule pods"));
    cluster.add_node("n1").await?;
    until("the first node", async || cluster.node_of("early").await, |node| node.as_deref() == Some("n1")).await?;

    cluster.add_pod("picky", json!({"nodeSelector": {"disk": "ssd"}}), "1").await?;
    let told = until("why not", async || cluster.told("picky").await, Option::is_some).await?;
    let expected = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    assert_eq!(told.as_deref(), Some(expected));
    cluster.nodes.patch("n1", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"labels": {"disk": "ssd"}}}))).await?;
    until("the label", async || cluster.node_of("picky").await, |node| node.as_deref() == Some("n1")).await?;

    cluster.add_pod("big", json!({}), "3").await?;
    until("why not", async || cluster.told("big").await, |told| told.as_ref().is_some_and(|told| told.contains("1 Insufficient cpu")))
        .await?;
    cluster.pods.delete("early", &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await?;
    until("room", async || cluster.node_of("big").await, |node| node.as_deref() == Some("n1")).await?;
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_urgent_pod_takes_the_place_of_another() -> Result<()> {
    let cluster = Cluster::start().await?;
    cluster.add_node("n1").await?;
    let class: PriorityClass = serde_json::from_value(json!({"metadata": {"name": "urgent"}, "value": 1000}))?;
    Api::all(cluster.client.clone()).create(&PostParams::default(), &class).await?;
    cluster.add_pod("first", json!({"terminationGracePeriodSeconds": 0}), "4").await?;
    until("the only node", async || cluster.node_of("first").await, |node| node.is_some()).await?;
    until(
        "the class known",
        async || Ok(cluster.add_pod("urgent", json!({"priorityClassName": "urgent"}), "3").await.is_ok()),
        |made| *made,
    )
    .await?;
    let marked = async || {
        let victim = cluster.pods.get_opt("first").await?;
        Ok(victim.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some()))
    };
    until("the first one deleted", marked, |deleted| *deleted).await?;
    // There is no kubelet to say that it has ended.
    if cluster.pods.get_opt("first").await?.is_some() {
        cluster.pods.delete("first", &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await?;
    }
    until("its place", async || cluster.node_of("urgent").await, |node| node.as_deref() == Some("n1")).await?;
    cluster.stop().await
}
