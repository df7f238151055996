//! Control planes inside this process, as those who test operators would use them.

mod devices;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use skiff_testing::ControlPlane;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const PATIENCE: Duration = Duration::from_secs(60);

async fn until<T: std::fmt::Debug>(what: &str, ask: impl AsyncFn() -> Result<T>, expected: impl Fn(&T) -> bool) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = ask().await?;
        if expected(&answer) {
            return Ok(answer);
        }
        ensure!(Instant::now() < deadline, "{what}: still {answer:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

fn deployment(replicas: i32) -> Result<Deployment> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "nginx"}]}}}
    }))?)
}

/// Proves DEP-04: controllers, scheduler and nodes are there, so what is declared comes true.
#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_runs_on_simulated_nodes() -> Result<()> {
    let cluster = ControlPlane::builder().nodes(3).start().await?;
    let deployments: Api<Deployment> = Api::default_namespaced(cluster.client());
    let pods: Api<Pod> = Api::default_namespaced(cluster.client());
    deployments.create(&PostParams::default(), &deployment(6)?).await?;
    let ready = async || Ok(deployments.get("web").await?.status.and_then(|s| s.ready_replicas));
    until("six are ready", ready, |n| *n == Some(6)).await?;
    let listed = pods.list(&ListParams::default()).await?;
    let mut nodes: Vec<_> = listed.iter().filter_map(|p| p.spec.as_ref()?.node_name.clone()).collect();
    nodes.sort();
    nodes.dedup();
    assert_eq!(nodes, ["hollow-node-0", "hollow-node-1", "hollow-node-2"]);

    deployments.patch("web", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 1}}))).await?;
    let count = async || Ok(pods.list(&ListParams::default()).await?.items.len());
    until("one is left", count, |n| *n == 1).await?;
    deployments.delete("web", &DeleteParams::background()).await?;
    until("its pods follow it", count, |n| *n == 0).await?;
    Ok(())
}

/// Proves OBJ-04 for the order in which things go: nothing else while pods are there.
#[tokio::test(flavor = "multi_thread")]
async fn the_pods_of_a_namespace_go_first() -> Result<()> {
    let cluster = ControlPlane::builder().nodes(1).start().await?;
    let namespaces: Api<Namespace> = Api::all(cluster.client());
    let (maps, pods): (Api<ConfigMap>, Api<Pod>) = (Api::namespaced(cluster.client(), "going"), Api::namespaced(cluster.client(), "going"));
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client(), "going");
    let new = PostParams::default();
    namespaces.create(&new, &serde_json::from_value(json!({"metadata": {"name": "going"}}))?).await?;
    until("its account is there", async || Ok(accounts.get_opt("default").await?.is_some()), |there| *there).await?;
    maps.create(&new, &serde_json::from_value(json!({"metadata": {"name": "stays"}}))?).await?;
    let held = json!({"metadata": {"name": "held", "finalizers": ["example.com/held"]}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}});
    pods.create(&new, &serde_json::from_value(held)?).await?;

    namespaces.delete("going", &DeleteParams::default()).await?;
    let remaining = async || {
        let status = namespaces.get("going").await?.status.unwrap_or_default();
        Ok(status.conditions.into_iter().flatten().find(|c| c.type_ == "NamespaceContentRemaining").and_then(|c| c.message))
    };
    let pods_remain = "Some resources are remaining: pods. has 1 resource instances";
    until("its pod is waited for", remaining, |message| message.as_deref() == Some(pods_remain)).await?;
    let map = maps.get("stays").await?;
    assert_eq!(map.metadata.deletion_timestamp, None, "it is not its turn yet");

    pods.patch("held", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"finalizers": null}}))).await?;
    until("all is gone", async || Ok(namespaces.get_opt("going").await?.is_none()), |gone| *gone).await?;
    Ok(())
}

/// How many requests of each verb and resource the apiserver has answered.
async fn answered(client: &Client) -> Result<BTreeMap<String, u64>> {
    let text = client.request_text(http::Request::get("/metrics").body(Vec::new())?).await?;
    let label = |series: &str, name: &str| {
        let (_, rest) = series.split_once(&format!("{name}=\""))?;
        Some(rest.split('"').next().unwrap_or_default().to_owned())
    };
    let mut counts = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
        let (series, count) = line.rsplit_once(' ').context("a series has a value")?;
        let (verb, resource) = (label(series, "verb").context("a verb")?, label(series, "resource").context("a resource")?);
        *counts.entry(format!("{verb} {resource}")).or_default() += count.parse::<u64>()?;
    }
    Ok(counts)
}

/// A cluster to which nothing happens sends nothing but heartbeats.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_cluster_sends_nothing_but_heartbeats() -> Result<()> {
    let cluster = ControlPlane::builder().nodes(2).start().await?;
    let client = cluster.client();
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    deployments.create(&PostParams::default(), &deployment(4)?).await?;
    let ready = async || Ok(deployments.get("web").await?.status.and_then(|s| s.ready_replicas));
    until("four are ready", ready, |n| *n == Some(4)).await?;
    // What they still have to say to each other is said when nothing but heartbeats came for some seconds. A look is itself one request for no resource.
    let quiet = Duration::from_secs(12);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let before = answered(&client).await?;
        sleep(quiet).await;
        let mut sent = answered(&client).await?;
        sent.retain(|what, count| {
            *count -= before.get(what).copied().unwrap_or_default();
            *count > 0
        });
        // Each node renews its lease every ten seconds.
        let expected = |what: &str| BTreeMap::from([("PATCH leases", 4), ("GET ", 1)]).get(what).copied().unwrap_or_default();
        if sent.iter().all(|(what, count)| *count <= expected(what)) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "still sent within {quiet:?}: {sent:?}");
    }
}

/// Proves DEP-04: many side by side, and none sees another.
#[tokio::test(flavor = "multi_thread")]
async fn a_dozen_stand_side_by_side() -> Result<()> {
    let started = futures::future::join_all((0..12).map(|_| ControlPlane::builder().nodes(1).start())).await;
    let clusters = started.into_iter().collect::<Result<Vec<_>>>()?;
    let maps = |client: Client| Api::<ConfigMap>::default_namespaced(client);
    for (i, cluster) in clusters.iter().enumerate() {
        let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "mine"}, "data": {"i": i.to_string()}}))?;
        maps(cluster.client()).create(&PostParams::default(), &map).await?;
    }
    for (i, cluster) in clusters.iter().enumerate() {
        let found = maps(cluster.client()).get("mine").await?;
        assert_eq!(found.data.and_then(|d| d.get("i").cloned()), Some(i.to_string()));
    }
    Ok(())
}

/// Proves DEP-04: a bare apiserver, for those who bring the controllers that they test; and it is gone when it is dropped.
#[tokio::test(flavor = "multi_thread")]
async fn a_bare_apiserver_changes_nothing_by_itself_and_goes_when_dropped() -> Result<()> {
    let cluster = ControlPlane::builder().controllers(&[]).without_scheduler().start().await?;
    let deployments: Api<Deployment> = Api::default_namespaced(cluster.client());
    deployments.create(&PostParams::default(), &deployment(1)?).await?;
    let found = deployments.get("web").await?;
    assert_eq!(found.status.and_then(|s| s.observed_generation), None, "nobody works here");

    let kubeconfig = std::fs::read_to_string(cluster.kubeconfig())?;
    assert!(kubeconfig.contains(cluster.url()), "{kubeconfig}");
    let address = cluster.url().trim_start_matches("https://").to_owned();
    tokio::net::TcpStream::connect(&address).await?;
    drop(cluster);
    let closed = async || Ok(tokio::net::TcpStream::connect(&address).await.is_err());
    until("the port is closed", closed, |closed| *closed).await?;
    Ok(())
}
