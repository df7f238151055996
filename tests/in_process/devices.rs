//! Claims of devices on simulated nodes: from a template to a pod on the node that has the device, and back.

use super::until;
use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skiff_testing::ControlPlane;

fn object<K: DeserializeOwned>(value: Value) -> Result<K> {
    Ok(serde_json::from_value(value)?)
}

/// A class of devices, and one device on a node.
async fn one_device(client: &Client, node: &str) -> Result<()> {
    let (classes, slices): (Api<DeviceClass>, Api<ResourceSlice>) = (Api::all(client.clone()), Api::all(client.clone()));
    let selectors =
        json!([{"cel": {"expression": "device.driver == 'd.example.com' && device.attributes['d.example.com'].kind == 'gpu'"}}]);
    let class = json!({"metadata": {"name": "gpu"}, "spec": {"selectors": selectors}});
    classes.create(&PostParams::default(), &object(class)?).await?;
    let devices =
        json!([{"name": "nic-0", "attributes": {"kind": {"string": "nic"}}}, {"name": "gpu-0", "attributes": {"kind": {"string": "gpu"}}}]);
    let pool = json!({"name": node, "generation": 1, "resourceSliceCount": 1});
    let slice =
        json!({"metadata": {"name": "slice"}, "spec": {"driver": "d.example.com", "nodeName": node, "pool": pool, "devices": devices}});
    slices.create(&PostParams::default(), &object(slice)?).await?;
    Ok(())
}

fn pod(name: &str, claim: Value) -> Result<Pod> {
    let mut entry = json!({"name": "gpu"});
    entry.as_object_mut().expect("an object").extend(claim.as_object().expect("an object").clone());
    let container = json!({"name": "c", "image": "nginx", "resources": {"claims": [{"name": "gpu"}]}});
    let spec = json!({"terminationGracePeriodSeconds": 0, "resourceClaims": [entry], "containers": [container]});
    object(json!({"metadata": {"name": name}, "spec": spec}))
}

/// The message of the pod's `PodScheduled`, if it is not scheduled.
fn waits_for(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False").and_then(|c| c.message.clone())
}

fn is_running(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

/// Proves SCH-02 for devices: a pod gets a claim of its own, runs where its device is, and leaves the device to the next.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_goes_from_pod_to_pod() -> Result<()> {
    let cluster = ControlPlane::builder().nodes(3).start().await?;
    one_device(&cluster.client(), "hollow-node-1").await?;
    let templates: Api<ResourceClaimTemplate> = Api::default_namespaced(cluster.client());
    let claims: Api<ResourceClaim> = Api::default_namespaced(cluster.client());
    let pods: Api<Pod> = Api::default_namespaced(cluster.client());
    let new = PostParams::default();
    let requests = json!([{"name": "r", "exactly": {"deviceClassName": "gpu"}}]);
    let template = json!({"metadata": {"name": "t"}, "spec": {"metadata": {"labels": {"made": "from-t"}}, "spec": {"devices": {"requests": requests}}}});
    templates.create(&new, &object(template)?).await?;
    let from_template = || json!({"resourceClaimTemplateName": "t"});
    pods.create(&new, &pod("first", from_template())?).await?;
    let first = until("the first runs", async || Ok(pods.get("first").await?), is_running).await?;
    assert_eq!(first.spec.as_ref().and_then(|s| s.node_name.as_deref()), Some("hollow-node-1"));
    let made = first.status.and_then(|s| s.resource_claim_statuses).unwrap_or_default().remove(0).resource_claim_name.unwrap_or_default();
    assert!(made.starts_with("first-gpu-"), "{made}");

    let claim = claims.get(&made).await?;
    assert_eq!(claim.metadata.labels.as_ref().and_then(|l| l.get("made")).map(String::as_str), Some("from-t"));
    assert_eq!(claim.metadata.finalizers, Some(vec!["resource.kubernetes.io/delete-protection".to_owned()]));
    let status = claim.status.unwrap_or_default();
    let consumers: Vec<_> = status.reserved_for.iter().flatten().map(|c| c.name.as_str()).collect();
    let results = status.allocation.and_then(|a| a.devices).and_then(|d| d.results).unwrap_or_default();
    let given: Vec<_> = results.iter().map(|r| (r.request.as_str(), r.driver.as_str(), r.device.as_str())).collect();
    assert_eq!((consumers, given), (vec!["first"], vec![("r", "d.example.com", "gpu-0")]));

    pods.create(&new, &pod("second", from_template())?).await?;
    let told = "0/3 nodes are available: 3 cannot allocate all claims.";
    let why = async || Ok(waits_for(&pods.get("second").await?));
    until("the second is told why it waits", why, |why| why.as_deref().is_some_and(|why| why.starts_with(told))).await?;
    pods.delete("first", &DeleteParams::default()).await?;
    until("the second runs", async || Ok(pods.get("second").await?), is_running).await?;
    until("the first's claim is gone", async || Ok(claims.get_opt(&made).await?.is_none()), |gone| *gone).await?;
    assert_eq!(claims.list(&ListParams::default()).await?.items.len(), 1);
    Ok(())
}

/// Proves SCH-02 for claims that pods share: all of them run where its device is, and it has one for as long as one of them is there.
#[tokio::test(flavor = "multi_thread")]
async fn pods_share_a_claim() -> Result<()> {
    let cluster = ControlPlane::builder().nodes(2).start().await?;
    let claims: Api<ResourceClaim> = Api::default_namespaced(cluster.client());
    let pods: Api<Pod> = Api::default_namespaced(cluster.client());
    let new = PostParams::default();
    let by_name = || json!({"resourceClaimName": "shared"});
    pods.create(&new, &pod("a", by_name())?).await?;
    let requests = json!([{"name": "r", "exactly": {"deviceClassName": "gpu"}}]);
    claims.create(&new, &object(json!({"metadata": {"name": "shared"}, "spec": {"devices": {"requests": requests}}}))?).await?;
    let told = "0/2 nodes are available: request r: device class gpu does not exist.";
    let why = async || Ok(waits_for(&pods.get("a").await?));
    until("it is told what is missing", why, |why| why.as_deref().is_some_and(|why| why.starts_with(told))).await?;
    one_device(&cluster.client(), "hollow-node-0").await?;
    pods.create(&new, &pod("b", by_name())?).await?;
    for name in ["a", "b"] {
        let running = until("both run", async || Ok(pods.get(name).await?), is_running).await?;
        assert_eq!(running.spec.and_then(|s| s.node_name).as_deref(), Some("hollow-node-0"));
    }
    let status = async || Ok(claims.get("shared").await?.status.unwrap_or_default());
    pods.delete("a", &DeleteParams::default()).await?;
    let consumers = until("one uses it", status, |s| s.reserved_for.iter().flatten().count() == 1).await?;
    assert!(consumers.allocation.is_some(), "while one uses it, it keeps its device");
    pods.delete("b", &DeleteParams::default()).await?;
    until("it has none", status, |s| s.reserved_for.is_none() && s.allocation.is_none()).await?;
    let finalizers = async || Ok(claims.get("shared").await?.metadata.finalizers);
    until("and may be deleted", finalizers, Option::is_none).await?;
    Ok(())
}

/// Proves SCH-02 for devices that fail: pods whose claims do not tolerate it leave, and the condition says why.
#[tokio::test(flavor = "multi_thread")]
async fn pods_leave_a_tainted_device() -> Result<()> {
    let cluster = ControlPlane::builder().nodes(1).start().await?;
    one_device(&cluster.client(), "hollow-node-0").await?;
    let claims: Api<ResourceClaim> = Api::default_namespaced(cluster.client());
    let pods: Api<Pod> = Api::default_namespaced(cluster.client());
    let slices: Api<ResourceSlice> = Api::all(cluster.client());
    let new = PostParams::default();
    let requests = json!([{"name": "r", "exactly": {"deviceClassName": "gpu"}}]);
    claims.create(&new, &object(json!({"metadata": {"name": "c"}, "spec": {"devices": {"requests": requests}}}))?).await?;
    let mut held = pod("held", json!({"resourceClaimName": "c"}))?;
    held.metadata.finalizers = Some(vec!["example.com/held".to_owned()]);
    pods.create(&new, &held).await?;
    until("it runs", async || Ok(pods.get("held").await?), is_running).await?;
    let mut slice = slices.get("slice").await?;
    for device in slice.spec.devices.iter_mut().flatten().filter(|device| device.name == "gpu-0") {
        device.taints = Some(vec![object(json!({"key": "example.com/broken", "effect": "NoExecute"}))?]);
    }
    slices.replace("slice", &new, &slice).await?;
    let disrupted = async || {
        let conditions = pods.get("held").await?.status.and_then(|status| status.conditions).unwrap_or_default();
        Ok(conditions.into_iter().find(|c| c.type_ == "DisruptionTarget").and_then(|c| c.reason))
    };
    until("it is told why it goes", disrupted, |reason| reason.as_deref() == Some("DeletionByDeviceTaintManager")).await?;
    until("it goes", async || Ok(pods.get("held").await?.metadata.deletion_timestamp), Option::is_some).await?;
    Ok(())
}
