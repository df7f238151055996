//! The scheduler against an apiserver in the same process: pods that find their node, that wait for one, and that make room.

mod extenders;

use anyhow::{Context, Result};
use apiserver::assembly::{Running, Server};
use client::connection::from_config;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
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
    schedulers: Vec<JoinHandle<Result<()>>>,
    pods: Api<Pod>,
    nodes: Api<Node>,
    client: Client,
    config: Config,
    _certificates: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Result<Self> {
        Self::start_with(Configuration::alone()).await
    }

    async fn start_with(configuration: Configuration) -> Result<Self> {
        let mut cluster = Self::without_scheduler().await?;
        cluster.add_scheduler(configuration);
        Ok(cluster)
    }

    fn add_scheduler(&mut self, configuration: Configuration) {
        let options = scheduler::Options { client: self.client.clone(), configuration, address: None };
        self.schedulers.push(tokio::spawn(scheduler::run(options, self.stop.clone())));
    }

    async fn without_scheduler() -> Result<Self> {
        let certificates = tempfile::tempdir()?;
        let options = apiserver::options::Options { cert_dir: Some(certificates.path().to_owned()), ..Default::default() };
        let server = Server::builder().options(options).in_memory()?.token("secret", "tester", &["system:masters"]).start().await?;
        let mut config = Config::new(format!("https://{}", server.address()).parse()?);
        config.root_cert = Some(vec![pem(&server.authority()?)?]);
        config.auth_info = AuthInfo { token: Some("secret".to_owned().into()), ..AuthInfo::default() };
        let client = from_config(config.clone(), "test")?;
        let stop = CancellationToken::new();
        let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": "default"}}))?;
        until(
            "the namespace",
            async || Ok(Api::<k8s_openapi::api::core::v1::Namespace>::all(client.clone()).get_opt("default").await?),
            Option::is_some,
        )
        .await?;
        Api::namespaced(client.clone(), "default").create(&PostParams::default(), &account).await?;
        let (pods, nodes) = (Api::namespaced(client.clone(), "default"), Api::all(client.clone()));
        Ok(Self { server, stop, schedulers: Vec::new(), pods, nodes, client, config, _certificates: certificates })
    }

    async fn stop(self) -> Result<()> {
        self.stop.cancel();
        for scheduler in self.schedulers {
            scheduler.await??;
        }
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

    /// Where the pod is to go, as long as it is not there.
    async fn nominated(&self, name: &str) -> Result<Option<String>> {
        Ok(self.pods.get(name).await?.status.and_then(|status| status.nominated_node_name))
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
    cluster.add_pod("first", json!({"terminationGracePeriodSeconds": 3600}), "4").await?;
    until("the only node", async || cluster.node_of("first").await, |node| node.is_some()).await?;
    until(
        "the class known",
        async || Ok(cluster.add_pod("urgent", json!({"priorityClassName": "urgent"}), "3").await.is_ok()),
        |made| *made,
    )
    .await?;
    let victim =
        until("the first one deleted", async || Ok(cluster.pods.get("first").await?), |pod| pod.metadata.deletion_timestamp.is_some())
            .await?;
    let conditions = victim.status.and_then(|status| status.conditions).unwrap_or_default();
    let told = conditions.iter().find(|condition| condition.type_ == "DisruptionTarget").context("it is told why")?;
    assert_eq!((told.status.as_str(), told.reason.as_deref()), ("True", Some("PreemptionByScheduler")));
    assert_eq!(told.message.as_deref(), Some("default-scheduler: preempting to accommodate a higher priority pod"));
    let urgent = cluster.pods.get("urgent").await?.metadata.uid.context("every object has one")?;
    let events: Api<Event> = Api::namespaced(cluster.client.clone(), "default");
    let preempted = async || {
        let events = events.list(&ListParams::default()).await?;
        Ok(events.into_iter().find(|event| event.reason.as_deref() == Some("Preempted")))
    };
    let event = until("the event", preempted, Option::is_some).await?.context("it is there")?;
    assert_eq!(event.regarding.and_then(|about| about.name).as_deref(), Some("first"));
    assert_eq!(event.related.and_then(|related| related.name).as_deref(), Some("urgent"));
    assert_eq!(event.note, Some(format!("Preempted by pod {urgent} on node n1")));
    assert_eq!((cluster.nominated("urgent").await?.as_deref(), cluster.node_of("urgent").await?), (Some("n1"), None), "it has to wait");
    // There is no kubelet to say that it has ended.
    cluster.pods.delete("first", &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await?;
    until("its place", async || cluster.node_of("urgent").await, |node| node.as_deref() == Some("n1")).await?;
    assert_eq!(cluster.nominated("urgent").await?, None, "it is there");
    cluster.stop().await
}

/// What a controller does: completes the binding of a claim and a volume.
async fn complete(cluster: &Cluster, claim: &str, volume: &str) -> Result<()> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(cluster.client.clone(), "default");
    let bound = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": volume}});
    claims.patch(claim, &PatchParams::default(), &Patch::Merge(bound)).await?;
    claims.patch_status(claim, &PatchParams::default(), &Patch::Merge(json!({"status": {"phase": "Bound"}}))).await?;
    Ok(())
}

async fn add_volume(cluster: &Cluster, name: &str, class: &str, node: &str) -> Result<()> {
    let on_node =
        json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]});
    let volume: PersistentVolume = serde_json::from_value(json!({"metadata": {"name": name}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": class, "local": {"path": "/x"}, "nodeAffinity": {"required": on_node},
    }}))?;
    let volumes: Api<PersistentVolume> = Api::all(cluster.client.clone());
    volumes.create(&PostParams::default(), &volume).await?;
    volumes.patch_status(name, &PatchParams::default(), &Patch::Merge(json!({"status": {"phase": "Available"}}))).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_are_bound_before_their_pod() -> Result<()> {
    let cluster = Cluster::start().await?;
    for name in ["n1", "n2"] {
        cluster.add_node(name).await?;
        let label = json!({"metadata": {"labels": {"kubernetes.io/hostname": name}}});
        cluster.nodes.patch(name, &PatchParams::default(), &Patch::Merge(label)).await?;
    }
    let classes: Api<StorageClass> = Api::all(cluster.client.clone());
    for (name, provisioner) in [("by-hand", "kubernetes.io/no-provisioner"), ("made", "example.com/maker")] {
        let class = json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"});
        classes.create(&PostParams::default(), &serde_json::from_value(class)?).await?;
    }
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(cluster.client.clone(), "default");
    for (name, class) in [("ready", "by-hand"), ("wanted", "made")] {
        let claim = json!({"metadata": {"name": name}, "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        claims.create(&PostParams::default(), &serde_json::from_value(claim)?).await?;
    }
    let using = |claim: &str| json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]});

    cluster.add_pod("static", using("ready"), "1").await?;
    let told = until("why not", async || cluster.told("static").await, Option::is_some).await?;
    assert!(told.is_some_and(|told| told.contains("2 node(s) didn't find available persistent volumes to bind")));
    add_volume(&cluster, "v2", "by-hand", "n2").await?;
    let volumes: Api<PersistentVolume> = Api::all(cluster.client.clone());
    let reserved = async || Ok(volumes.get("v2").await?.spec.and_then(|spec| spec.claim_ref).and_then(|reference| reference.name));
    until("the volume reserved", reserved, |claim| claim.as_deref() == Some("ready")).await?;
    assert_eq!(cluster.node_of("static").await?, None, "not before its volume");
    assert_eq!(cluster.nominated("static").await?.as_deref(), Some("n2"), "but where it will go is known");
    complete(&cluster, "ready", "v2").await?;
    until("its volume's node", async || cluster.node_of("static").await, |node| node.as_deref() == Some("n2")).await?;
    assert_eq!(cluster.nominated("static").await?, None);

    cluster.add_pod("dynamic", using("wanted"), "1").await?;
    let chosen = async || {
        let annotations = claims.get("wanted").await?.metadata.annotations.unwrap_or_default();
        Ok(annotations.get("volume.kubernetes.io/selected-node").cloned())
    };
    let node = until("a node chosen", chosen, Option::is_some).await?.context("a node")?;
    add_volume(&cluster, "made", "made", &node).await?;
    complete(&cluster, "wanted", "made").await?;
    until("the node chosen", async || cluster.node_of("dynamic").await, |bound| bound.as_ref() == Some(&node)).await?;
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn profiles_place_their_own_pods_in_their_own_way() -> Result<()> {
    let text = "
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection: {leaderElect: false}
profiles:
- schedulerName: default-scheduler
- schedulerName: packing
  plugins:
    multiPoint:
      disabled: [{name: NodeResourcesBalancedAllocation}, {name: PodTopologySpread}]
  pluginConfig:
  - name: NodeResourcesFit
    args: {scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 1}]}}
";
    let cluster = Cluster::start_with(scheduler::config::parse(text)?).await?;
    for name in ["n1", "n2"] {
        cluster.add_node(name).await?;
    }
    cluster.add_pod("first", json!({}), "1").await?;
    let first = until("a node", async || cluster.node_of("first").await, Option::is_some).await?;
    cluster.add_pod("packed", json!({"schedulerName": "packing"}), "1").await?;
    until("beside the first", async || cluster.node_of("packed").await, |node| *node == first).await?;
    cluster.add_pod("spread", json!({}), "1").await?;
    until("away from both", async || cluster.node_of("spread").await, |node| node.is_some() && *node != first).await?;
    cluster.add_pod("foreign", json!({"schedulerName": "somebody-else"}), "1").await?;
    cluster.add_pod("last", json!({}), "1").await?;
    until("a node", async || cluster.node_of("last").await, Option::is_some).await?;
    assert_eq!((cluster.node_of("foreign").await?, cluster.told("foreign").await?), (None, None), "others' pods are left alone");
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_is_told_in_events() -> Result<()> {
    let cluster = Cluster::start().await?;
    cluster.add_pod("p", json!({}), "1").await?;
    let events: Api<Event> = Api::namespaced(cluster.client.clone(), "default");
    let reported = async |reason: &str| {
        let all = events.list(&Default::default()).await?.items;
        Ok(all.into_iter().find(|event| event.reason.as_deref() == Some(reason)))
    };
    let failed = until("why not", async || reported("FailedScheduling").await, Option::is_some).await?.context("an event")?;
    assert_eq!(failed.note.as_deref(), Some("no nodes available to schedule pods"));
    assert_eq!((failed.type_.as_deref(), failed.action.as_deref()), (Some("Warning"), Some("Scheduling")));
    assert_eq!(failed.reporting_controller.as_deref(), Some("default-scheduler"));
    cluster.add_node("n1").await?;
    let scheduled = until("where", async || reported("Scheduled").await, Option::is_some).await?.context("an event")?;
    assert_eq!(scheduled.note.as_deref(), Some("Successfully assigned default/p to n1"));
    assert_eq!((scheduled.type_.as_deref(), scheduled.action.as_deref()), (Some("Normal"), Some("Binding")));
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn extended_resources_can_be_devices_of_a_class() -> Result<()> {
    let cluster = Cluster::start().await?;
    for name in ["n1", "n2"] {
        cluster.add_node(name).await?;
    }
    let class = json!({"metadata": {"name": "gpus"}, "spec": {"extendedResourceName": "example.com/gpu"}});
    let classes: Api<DeviceClass> = Api::all(cluster.client.clone());
    classes.create(&PostParams::default(), &serde_json::from_value(class)?).await?;
    let pool = json!({"name": "n2", "generation": 1, "resourceSliceCount": 1});
    let slice = json!({"metadata": {"name": "n2"}, "spec": {"driver": "example.com", "nodeName": "n2", "pool": pool, "devices": [{"name": "gpu0"}]}});
    let slices: Api<ResourceSlice> = Api::all(cluster.client.clone());
    slices.create(&PostParams::default(), &serde_json::from_value(slice)?).await?;
    let add = async |name: &str| {
        let amounts = json!({"example.com/gpu": "1"});
        let containers = json!([{"name": "c", "image": "i", "resources": {"requests": amounts, "limits": amounts}}]);
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"containers": containers}}))?;
        cluster.pods.create(&PostParams::default(), &pod).await?;
        anyhow::Ok(())
    };
    add("first").await?;
    until("the node with the device", async || cluster.node_of("first").await, |node| node.as_deref() == Some("n2")).await?;
    let status = cluster.pods.get("first").await?.status.and_then(|status| status.extended_resource_claim_status);
    let status = status.context("the pod is told of its claim")?;
    let mapped: Vec<_> = status.request_mappings.iter().map(|m| (m.container_name.as_str(), m.resource_name.as_str())).collect();
    assert_eq!(mapped, [("c", "example.com/gpu")]);
    let claims: Api<ResourceClaim> = Api::namespaced(cluster.client.clone(), "default");
    let claim = claims.get(&status.resource_claim_name).await?;
    assert!(status.resource_claim_name.starts_with("first-extended-resources-"), "{}", status.resource_claim_name);
    let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref()).and_then(|allocation| allocation.devices.as_ref());
    let results = allocation.and_then(|devices| devices.results.as_deref()).unwrap_or_default();
    let given: Vec<_> = results.iter().map(|result| (result.request.as_str(), result.device.as_str())).collect();
    assert_eq!(given, [(status.request_mappings[0].request_name.as_str(), "gpu0")]);
    let reserved = claim.status.and_then(|status| status.reserved_for).unwrap_or_default();
    assert_eq!(reserved.iter().map(|consumer| consumer.name.as_str()).collect::<Vec<_>>(), ["first"]);

    add("second").await?;
    let told = until("why not", async || cluster.told("second").await, Option::is_some).await?;
    assert!(told.as_ref().is_some_and(|told| told.contains("2 cannot allocate all claims")), "{told:?}");
    // What a controller does once the first pod is gone.
    claims.patch(&status.resource_claim_name, &PatchParams::default(), &Patch::Merge(json!({"metadata": {"finalizers": null}}))).await?;
    claims.delete(&status.resource_claim_name, &DeleteParams::default()).await?;
    until("the device", async || cluster.node_of("second").await, |node| node.as_deref() == Some("n2")).await?;
    cluster.stop().await
}

/// What an extender answers that leaves a pod only the nodes that its annotation names, likes one best, and binds through the API.
async fn answer(client: Client, verb: String, question: Value) -> Result<Value, u16> {
    match verb.as_str() {
        "filter" => {
            let wanted = question["Pod"]["metadata"]["annotations"]["on"].as_str().unwrap_or_default().to_owned();
            let nodes = question["Nodes"]["items"].as_array().cloned().unwrap_or_default();
            let (left, failed): (Vec<Value>, Vec<Value>) =
                nodes.into_iter().partition(|node| wanted.contains(node["metadata"]["name"].as_str().unwrap_or_default()));
            let failed: serde_json::Map<String, Value> =
                failed.iter().filter_map(|node| Some((node["metadata"]["name"].as_str()?.to_owned(), json!("not on its list")))).collect();
            Ok(json!({"Nodes": {"items": left}, "FailedNodes": failed}))
        }
        "prioritize" => Ok(json!([{"Host": "n1", "Score": 10}, {"Host": "n2", "Score": 3}])),
        "bind" => {
            let text = |field: &str| question[field].as_str().unwrap_or_default();
            let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": text("PodName"), "uid": text("PodUID"), "annotations": {"bound-by": "extender"}},
                "target": {"kind": "Node", "name": text("Node")}});
            let pods: Api<Pod> = Api::namespaced(client, text("PodNamespace"));
            let bound: kube::Result<Value> = pods.create_subresource("binding", text("PodName"), &PostParams::default(), &binding).await;
            Ok(json!({"Error": bound.err().map(|error| error.to_string()).unwrap_or_default()}))
        }
        _ => Err(404),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn extenders_filter_score_and_bind() -> Result<()> {
    use base64::Engine;
    let mut cluster = Cluster::without_scheduler().await?;
    let client = cluster.client.clone();
    let answer = move |verb, question| -> futures::future::BoxFuture<'static, _> { Box::pin(answer(client.clone(), verb, question)) };
    let extender = extenders::Extender::start("extender.example", std::sync::Arc::new(answer)).await?;
    let authority = base64::engine::general_purpose::STANDARD.encode(&extender.authority);
    let address = extender.address;
    // The second is a port at which nobody listens, which is no harm: it may fail. The third has no such verb.
    let text = format!(
        "
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection: {{leaderElect: false}}
extenders:
- urlPrefix: https://{address}/
  enableHTTPS: true
  tlsConfig: {{caData: {authority}, serverName: extender.example}}
  filterVerb: filter
  prioritizeVerb: prioritize
  weight: 10
  bindVerb: bind
- urlPrefix: http://127.0.0.1:1
  filterVerb: filter
  ignorable: true
- urlPrefix: https://{address}
  enableHTTPS: true
  filterVerb: nonsense
  managedResources: [{{name: example.com/foo, ignoredByScheduler: true}}]
"
    );
    cluster.add_scheduler(scheduler::config::parse(&text)?);
    for name in ["n1", "n2", "n3"] {
        cluster.add_node(name).await?;
    }
    let add = async |name: &str, on: &str, request: Value| {
        let spec = json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": request, "limits": request}}]});
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name, "annotations": {"on": on}}, "spec": spec}))?;
        cluster.pods.create(&PostParams::default(), &pod).await?;
        anyhow::Ok(())
    };
    // The last node that was added: when it is there for the scheduler, so are the others.
    add("only", "n3", json!({})).await?;
    until("the only node", async || cluster.node_of("only").await, |node| node.as_deref() == Some("n3")).await?;
    let annotations = cluster.pods.get("only").await?.metadata.annotations.unwrap_or_default();
    assert_eq!(annotations.get("bound-by").map(String::as_str), Some("extender"));
    add("best", "n1,n2,n3", json!({})).await?;
    until("the best node", async || cluster.node_of("best").await, |node| node.as_deref() == Some("n1")).await?;

    add("nowhere", "n4", json!({})).await?;
    let told = until("why not", async || cluster.told("nowhere").await, Option::is_some).await?;
    assert!(told.as_ref().is_some_and(|told| told.starts_with("0/3 nodes are available: 3 not on its list.")), "{told:?}");
    cluster.add_node("n4").await?;
    until("its node", async || cluster.node_of("nowhere").await, |node| node.as_deref() == Some("n4")).await?;

    add("managed", "n1", json!({"example.com/foo": "1"})).await?;
    let told = until("why not", async || cluster.told("managed").await, Option::is_some).await?;
    assert_eq!(told, Some(format!("failed nonsense with extender at URL https://{address}/nonsense, code 404")));

    extender.stop().await;
    add("late", "n1", json!({})).await?;
    let refused = format!("Post \"https://{address}/filter\": dial tcp {address}: connect: connection refused");
    // A connection that was in use may have broken first.
    until("nobody there", async || cluster.told("late").await, |told| told.as_ref() == Some(&refused)).await?;
    let conditions = cluster.pods.get("late").await?.status.and_then(|status| status.conditions).unwrap_or_default();
    let reason = conditions.into_iter().find(|condition| condition.type_ == "PodScheduled").and_then(|condition| condition.reason);
    assert_eq!(reason.as_deref(), Some("SchedulerError"));
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_takes_over_from_one_that_is_killed() -> Result<()> {
    let mut cluster = Cluster::without_scheduler().await?;
    let quick = || {
        let mut configuration = Configuration::default();
        configuration.leader_election.lease_duration = Duration::from_secs(2);
        configuration.leader_election.renew_deadline = Duration::from_secs(1);
        configuration.leader_election.retry_period = Duration::from_millis(100);
        configuration
    };
    // All its tasks die with its threads, and nothing is released.
    let first = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let config = cluster.config.clone();
    first.spawn(async move {
        let options = scheduler::Options { client: from_config(config, "first")?, configuration: quick(), address: None };
        scheduler::run(options, CancellationToken::new()).await
    });
    cluster.add_node("n1").await?;
    cluster.add_pod("a", json!({}), "1").await?;
    until("a node", async || cluster.node_of("a").await, Option::is_some).await?;
    cluster.add_scheduler(quick());
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), "kube-system");
    let holder = async || anyhow::Ok(leases.get("kube-scheduler").await?.spec.and_then(|spec| spec.holder_identity));
    let leader = holder().await?;
    first.shutdown_background();
    cluster.add_pod("b", json!({}), "3").await?;
    until("a node, from the other", async || cluster.node_of("b").await, Option::is_some).await?;
    assert_ne!(holder().await?, leader);
    cluster.add_pod("c", json!({}), "1").await?;
    let told = until("what the first has placed counts", async || cluster.told("c").await, Option::is_some).await?;
    assert!(told.is_some_and(|told| told.contains("1 Insufficient cpu")));
    cluster.stop().await
}
