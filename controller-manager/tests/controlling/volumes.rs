//! Claims and volumes against an apiserver. There is neither a scheduler nor a kubelet: the tests say what those would.

use super::{Cluster, until};
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

fn phase(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.status.as_ref()?.phase.as_deref()
}

async fn phase_of(volumes: &Api<PersistentVolume>, name: &str) -> Result<Option<String>> {
    Ok(volumes.get_opt(name).await?.and_then(|volume| volume.status?.phase))
}

fn claim(name: &str, class: &str) -> Result<PersistentVolumeClaim> {
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": class});
    Ok(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?)
}

fn volume(name: &str, size: &str) -> Result<PersistentVolume> {
    let spec =
        json!({"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "manual", "hostPath": {"path": "/x"}});
    Ok(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?)
}

async fn account(client: &Client) -> Result<()> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    until("the account that pods need", async || Ok(accounts.get_opt("default").await?), Option::is_some).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_are_bound_each_to_a_volume_of_its_own() -> Result<()> {
    let cluster = Cluster::start().await?;
    let post = PostParams::default();
    let (claims, volumes) = (cluster.api::<PersistentVolumeClaim>("default"), Api::<PersistentVolume>::all(cluster.client.clone()));
    // Claims first: the volumes wake them.
    for i in 0..10 {
        claims.create(&post, &claim(&format!("c{i}"), "manual")?).await?;
    }
    for i in 0..10 {
        volumes.create(&post, &volume(&format!("v{i}"), &format!("{}Gi", i + 1))?).await?;
    }
    let bound = until(
        "all bound",
        async || Ok(claims.list(&Default::default()).await?.items),
        |claims| claims.len() == 10 && claims.iter().all(|claim| phase(claim) == Some("Bound")),
    )
    .await?;
    let mut names: Vec<_> = bound.iter().filter_map(|claim| claim.spec.as_ref()?.volume_name.clone()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 10, "no volume has two claims");

    let name = bound[0].spec.as_ref().and_then(|spec| spec.volume_name.clone()).context("it is bound")?;
    let claim_name = bound[0].metadata.name.clone().context("claims have names")?;
    volumes.delete(&name, &DeleteParams::default()).await?;
    assert!(volumes.get(&name).await?.metadata.deletion_timestamp.is_some(), "a bound volume stays");
    claims.delete(&claim_name, &DeleteParams::default()).await?;
    until("the volume gone with its claim", async || phase_of(&volumes, &name).await, Option::is_none).await?;

    let kept = bound[1].spec.as_ref().and_then(|spec| spec.volume_name.clone()).context("it is bound")?;
    claims.delete(bound[1].metadata.name.as_deref().context("claims have names")?, &DeleteParams::default()).await?;
    until("the volume released", async || phase_of(&volumes, &kept).await, |phase| phase.as_deref() == Some("Released")).await?;
    // Who wants to use it again strikes out whose it was.
    volumes.patch(&kept, &PatchParams::default(), &Patch::Merge(json!({"spec": {"claimRef": null}}))).await?;
    until("the volume free again", async || phase_of(&volumes, &kept).await, |phase| phase.as_deref() == Some("Available")).await?;
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_stays_as_long_as_a_pod_uses_it() -> Result<()> {
    let cluster = Cluster::start().await?;
    account(&cluster.client).await?;
    let post = PostParams::default();
    Api::<Node>::all(cluster.client.clone()).create(&post, &serde_json::from_value(json!({"metadata": {"name": "n"}}))?).await?;
    let (claims, pods) = (cluster.api::<PersistentVolumeClaim>("default"), cluster.api::<Pod>("default"));
    let template = json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let volumes = json!([{"name": "v", "ephemeral": {"volumeClaimTemplate": template}}]);
    let spec = json!({"nodeName": "n", "containers": [{"name": "c", "image": "i"}], "volumes": volumes});
    pods.create(&post, &serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec}))?).await?;
    let made = until("the pod's claim", async || Ok(claims.get_opt("p-v").await?), Option::is_some).await?.context("it is there")?;
    assert_eq!(made.metadata.owner_references.as_ref().map(Vec::len), Some(1));
    claims.delete("p-v", &DeleteParams::default()).await?;
    assert!(claims.get("p-v").await?.metadata.deletion_timestamp.is_some(), "it waits for the pod");
    pods.delete("p", &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await?;
    until("the claim gone", async || Ok(claims.get_opt("p-v").await?), Option::is_none).await?;
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_built_in_provisioner_makes_and_removes_volumes() -> Result<()> {
    let cluster = Cluster::start().await?;
    let post = PostParams::default();
    let (claims, volumes) = (cluster.api::<PersistentVolumeClaim>("default"), Api::<PersistentVolume>::all(cluster.client.clone()));
    let (classes, nodes) = (Api::<StorageClass>::all(cluster.client.clone()), Api::<Node>::all(cluster.client.clone()));
    let class = json!({"metadata": {"name": "standard"}, "provisioner": "skiff.dev/local", "volumeBindingMode": "WaitForFirstConsumer"});
    classes.create(&post, &serde_json::from_value(class)?).await?;
    nodes.create(&post, &serde_json::from_value(json!({"metadata": {"name": "n"}}))?).await?;
    claims.create(&post, &claim("c", "standard")?).await?;
    until("pending", async || Ok(claims.get("c").await?), |claim| phase(claim) == Some("Pending")).await?;
    // The scheduler's part.
    let choose = |node: &str| Patch::Merge(json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": node}}}));
    claims.patch("c", &PatchParams::default(), &choose("gone")).await?;
    until(
        "a node that is not there to be taken back",
        async || Ok(claims.get("c").await?.metadata.annotations.unwrap_or_default()),
        |annotations| {
            !annotations.contains_key("volume.kubernetes.io/selected-node")
                && annotations.contains_key("volume.kubernetes.io/storage-provisioner")
        },
    )
    .await?;
    claims.patch("c", &PatchParams::default(), &choose("n")).await?;
    let bound = until("bound", async || Ok(claims.get("c").await?), |claim| phase(claim) == Some("Bound")).await?;
    let name = format!("pvc-{}", bound.metadata.uid.context("it has a UID")?);
    assert_eq!(bound.spec.and_then(|spec| spec.volume_name).as_deref(), Some(name.as_str()));
    claims.delete("c", &DeleteParams::default()).await?;
    // There is a node, so a pod on it is to remove the directory first.
    let pods = cluster.api::<Pod>("kube-system");
    let remover = format!("remove-{name}");
    until("the pod that removes the directory", async || Ok(pods.get_opt(&remover).await?), Option::is_some).await?;
    pods.patch_status(&remover, &PatchParams::default(), &Patch::Merge(json!({"status": {"phase": "Succeeded"}}))).await?;
    until("the volume gone", async || phase_of(&volumes, &name).await, Option::is_none).await?;
    until(
        "and the pod",
        async || Ok(pods.get_opt(&remover).await?.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some())),
        |gone| *gone,
    )
    .await?;
    cluster.stop().await
}
