//! The controllers against an apiserver in the same process: what a user does, and what becomes of it. There is no kubelet, so pods never run.

#[path = "controlling/simulation/mod.rs"]
mod simulation;
#[path = "controlling/volumes.rs"]
mod volumes;
#[path = "controlling/workloads.rs"]
mod workloads;

use anyhow::{Context, Result};
use apiserver::assembly::{Running, Server};
use client::connection::from_config;
use controller_manager::controller::Settings;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::config::{AuthInfo, Config};
use kube::{Api, Client};
use serde_json::json;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long anything here may take, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

struct Cluster {
    client: Client,
    server: Running,
    stop: CancellationToken,
    controllers: JoinHandle<Result<()>>,
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
        let options = controller_manager::Options {
            client: client.clone(),
            accounts: None,
            controllers: vec!["*".to_owned()],
            settings: Settings { root_ca: Some("PEM".to_owned()), ..Settings::default() },
            candidate: None,
            address: None,
        };
        let controllers = tokio::spawn(controller_manager::run(options, stop.clone()));
        Ok(Self { client, server, stop, controllers, _certificates: certificates })
    }

    async fn stop(self) -> Result<()> {
        self.stop.cancel();
        self.controllers.await??;
        self.server.stop().await
    }

    fn api<K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
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

async fn count<K>(api: &Api<K>) -> Result<usize>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    Ok(api.list(&ListParams::default()).await?.items.len())
}

fn deployment(replicas: i32) -> Result<Deployment> {
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}});
    let spec = json!({"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template});
    Ok(serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec}))?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_comes_and_goes() -> Result<()> {
    let cluster = Cluster::start().await?;
    let (deployments, sets, pods) =
        (cluster.api::<Deployment>("default"), cluster.api::<ReplicaSet>("default"), cluster.api::<Pod>("default"));
    until("the account that pods need", async || Ok(cluster.api::<ServiceAccount>("default").get_opt("default").await?), Option::is_some)
        .await?;

    deployments.create(&PostParams::default(), &deployment(3)?).await?;
    until("pods", async || count(&pods).await, |pods| *pods == 3).await?;
    let told =
        until("status", async || Ok(deployments.get("web").await?.status), |status| status.as_ref().is_some_and(|s| s.replicas == Some(3)))
            .await?;
    let progressing = told.and_then(|status| status.conditions).into_iter().flatten().find(|condition| condition.type_ == "Progressing");
    assert_eq!(progressing.and_then(|condition| condition.reason).as_deref(), Some("ReplicaSetUpdated"));

    let first = pods.list(&ListParams::default()).await?.items.remove(0).metadata.name.context("pods have names")?;
    pods.delete(&first, &DeleteParams::default()).await?;
    until(
        "a pod in place of the deleted one",
        async || Ok(pods.list(&ListParams::default()).await?.items),
        |pods| {
            pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none() && pod.metadata.name.as_ref() != Some(&first)).count() == 3
        },
    )
    .await?;

    let orphan = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    deployments.delete("web", &orphan).await?;
    until("the deployment gone", async || count(&deployments).await, |left| *left == 0).await?;
    let owners = until("an orphan", async || Ok(sets.list(&ListParams::default()).await?.items), |sets| sets.len() == 1).await?;
    assert_eq!(owners[0].metadata.owner_references.as_deref().unwrap_or_default(), []);

    deployments.create(&PostParams::default(), &deployment(3)?).await?;
    until(
        "the orphan adopted",
        async || Ok(sets.list(&ListParams::default()).await?.items),
        |sets| sets.len() == 1 && sets[0].metadata.owner_references.as_ref().is_some_and(|owners| owners.len() == 1),
    )
    .await?;
    deployments.delete("web", &DeleteParams::foreground()).await?;
    until(
        "everything gone",
        async || Ok((count(&deployments).await?, count(&sets).await?, count(&pods).await?)),
        |left| *left == (0, 0, 0),
    )
    .await?;
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_has_what_pods_need_and_takes_everything_with_it() -> Result<()> {
    let cluster = Cluster::start().await?;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    namespaces.create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": "x"}}))?).await?;
    let maps = cluster.api::<ConfigMap>("x");
    let authority = until("the certificate authority", async || Ok(maps.get_opt("kube-root-ca.crt").await?), Option::is_some).await?;
    assert_eq!(authority.and_then(|map| map.data).and_then(|mut data| data.remove("ca.crt")).as_deref(), Some("PEM"));
    until("the account", async || Ok(cluster.api::<ServiceAccount>("x").get_opt("default").await?), Option::is_some).await?;
    cluster.api::<Deployment>("x").create(&PostParams::default(), &deployment(5)?).await?;
    until("pods", async || count(&cluster.api::<Pod>("x")).await, |pods| *pods == 5).await?;
    namespaces.delete("x", &DeleteParams::default()).await?;
    until("the namespace gone", async || Ok(namespaces.get_opt("x").await?.and_then(|namespace| namespace.status)), Option::is_none)
        .await?;
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_lists_its_pods_and_a_mirror_those_of_others() -> Result<()> {
    let cluster = Cluster::start().await?;
    let post = PostParams::default();
    let (services, pods, slices) =
        (cluster.api::<Service>("default"), cluster.api::<Pod>("default"), cluster.api::<EndpointSlice>("default"));
    until("the account", async || Ok(cluster.api::<ServiceAccount>("default").get_opt("default").await?), Option::is_some).await?;
    Api::<Node>::all(cluster.client.clone()).create(&post, &serde_json::from_value(json!({"metadata": {"name": "n"}}))?).await?;
    let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}});
    services.create(&post, &serde_json::from_value(service)?).await?;
    let container = json!({"name": "c", "image": "nginx", "ports": [{"name": "http", "containerPort": 8080}]});
    let pod = json!({"metadata": {"name": "p", "labels": {"app": "web"}}, "spec": {"nodeName": "n", "containers": [container]}});
    pods.create(&post, &serde_json::from_value(pod)?).await?;
    let ready = |status: &str| {
        let conditions = json!([{"type": "Ready", "status": status}]);
        json!({"status": {"phase": "Running", "podIP": "10.1.0.7", "podIPs": [{"ip": "10.1.0.7"}], "conditions": conditions}})
    };
    let of = |name: &str| ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
    // (address, ready) of every endpoint, and the port.
    let shown = async |name: &str| {
        let mut shown = Vec::new();
        for slice in slices.list(&of(name)).await?.items {
            let port = slice.ports.iter().flatten().next().and_then(|port| port.port);
            for endpoint in slice.endpoints.into_iter().flatten() {
                shown.push((endpoint.addresses.join(","), endpoint.conditions.and_then(|conditions| conditions.ready), port));
            }
        }
        Ok(shown)
    };
    for status in ["False", "True", "False", "True"] {
        pods.patch_status("p", &PatchParams::default(), &Patch::Merge(ready(status))).await?;
        let expected = [("10.1.0.7".to_owned(), Some(status == "True"), Some(8080))];
        until(status, async || shown("web").await, |shown| *shown == expected).await?;
    }
    let endpoints = cluster.api::<Endpoints>("default");
    until(
        "endpoints",
        async || Ok(endpoints.get_opt("web").await?.and_then(|endpoints| endpoints.subsets)),
        |subsets| {
            subsets.as_ref().is_some_and(|subsets| {
                subsets.len() == 1 && subsets[0].addresses.iter().flatten().map(|address| address.ip.as_str()).eq(["10.1.0.7"])
            })
        },
    )
    .await?;

    let service = json!({"metadata": {"name": "outside"}, "spec": {"ports": [{"port": 80}]}});
    services.create(&post, &serde_json::from_value(service)?).await?;
    let outside = json!({"metadata": {"name": "outside"}, "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 81}]}]});
    endpoints.create(&post, &serde_json::from_value(outside)?).await?;
    until("a mirror", async || shown("outside").await, |shown| *shown == [("192.0.2.1".to_owned(), Some(true), Some(81))]).await?;

    for name in ["web", "outside"] {
        services.delete(name, &DeleteParams::default()).await?;
        let left = async || Ok((slices.list(&of(name)).await?.items.len(), endpoints.get_opt(name).await?.is_some()));
        until("nothing left", left, |left| *left == (0, false)).await?;
    }
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn view_edit_and_admin_are_the_sums_they_promise() -> Result<()> {
    let cluster = Cluster::start().await?;
    let roles: Api<ClusterRole> = Api::all(cluster.client.clone());
    let rules = async |name: &str| Ok(roles.get_opt(name).await?.and_then(|role| role.rules).map_or(0, |rules| rules.len()));
    let view = until("view", async || rules("view").await, |rules| *rules > 0).await?;
    let edit = until("edit", async || rules("edit").await, |rules| *rules > view).await?;
    until("admin", async || rules("admin").await, |rules| *rules > edit).await?;
    let more = json!({
        "metadata": {"name": "more", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
        "rules": [{"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["get"]}]});
    roles.create(&PostParams::default(), &serde_json::from_value(more)?).await?;
    until("one rule more", async || rules("view").await, |rules| *rules == view + 1).await?;
    until("all the way up", async || rules("admin").await, |rules| *rules > edit + 1).await?;
    cluster.stop().await
}
