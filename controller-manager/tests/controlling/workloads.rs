//! Jobs, CronJobs and sets of pods against an apiserver. There is no kubelet: the tests say what becomes of pods.

use super::{Cluster, count, until};
use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

/// Ends every pod that is there as if it had run.
async fn end_pods(pods: &Api<Pod>, phase: &str) -> Result<()> {
    for pod in pods.list(&ListParams::default()).await?.items {
        let name = pod.metadata.name.context("pods have names")?;
        if pod.status.and_then(|status| status.phase).as_deref() == Some("Pending") {
            pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(json!({"status": {"phase": phase}}))).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_counts_its_pods_once() -> Result<()> {
    let cluster = Cluster::start().await?;
    let (jobs, pods) = (cluster.api::<Job>("default"), cluster.api::<Pod>("default"));
    until("the account that pods need", async || Ok(cluster.api::<ServiceAccount>("default").get_opt("default").await?), Option::is_some)
        .await?;
    let container = json!({"name": "c", "image": "i"});
    let template = json!({"spec": {"restartPolicy": "Never", "containers": [container]}});
    let spec = json!({"completions": 5, "parallelism": 2, "completionMode": "Indexed", "template": template});
    jobs.create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": "j"}, "spec": spec}))?).await?;
    let status = until(
        "completion",
        async || {
            end_pods(&pods, "Succeeded").await?;
            Ok(jobs.get("j").await?.status)
        },
        |status| status.as_ref().is_some_and(|status| status.completion_time.is_some()),
    )
    .await?
    .context("there is a status")?;
    assert_eq!((status.succeeded, status.completed_indexes.as_deref()), (Some(5), Some("0-4")));
    let left = pods.list(&ListParams::default()).await?.items;
    assert_eq!(left.len(), 5);
    assert!(left.iter().all(|pod| pod.metadata.finalizers.iter().flatten().next().is_none()), "all are counted");

    let failing = json!({"backoffLimit": 0, "template": template});
    jobs.create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": "f"}, "spec": failing}))?).await?;
    let status = until(
        "failure",
        async || {
            end_pods(&pods, "Failed").await?;
            Ok(jobs.get("f").await?.status)
        },
        |status| status.as_ref().is_some_and(|s| s.conditions.iter().flatten().any(|c| c.type_ == "Failed")),
    )
    .await?
    .context("there is a status")?;
    assert_eq!((status.failed, status.succeeded), (Some(1), None));
    jobs.delete("f", &DeleteParams::background()).await?;
    until("its pod gone", async || count(&pods).await, |left| *left == 5).await?;
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_set_takes_what_is_there() -> Result<()> {
    let cluster = Cluster::start().await?;
    let (sets, pods) = (cluster.api::<ReplicaSet>("default"), cluster.api::<Pod>("default"));
    until("the account that pods need", async || Ok(cluster.api::<ServiceAccount>("default").get_opt("default").await?), Option::is_some)
        .await?;
    let spec = json!({"containers": [{"name": "c", "image": "i"}]});
    let pod = json!({"metadata": {"name": "first", "labels": {"app": "web"}}, "spec": spec});
    pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": spec});
    let set =
        json!({"metadata": {"name": "rs"}, "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template}});
    sets.create(&PostParams::default(), &serde_json::from_value(set)?).await?;
    let told = async || Ok(sets.get("rs").await?.status.map_or(0, |status| status.replicas));
    until("three", told, |replicas| *replicas == 3).await?;
    assert_eq!(count(&pods).await?, 3);
    assert!(pods.get("first").await?.metadata.owner_references.is_some_and(|owners| owners[0].name == "rs"));
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_is_being_deleted_is_not_filled_again() -> Result<()> {
    let cluster = Cluster::start().await?;
    let (namespaces, sets, pods) =
        (Api::<Namespace>::all(cluster.client.clone()), cluster.api::<ReplicaSet>("going"), cluster.api::<Pod>("going"));
    namespaces.create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": "going"}}))?).await?;
    until("the account that pods need", async || Ok(cluster.api::<ServiceAccount>("going").get_opt("default").await?), Option::is_some)
        .await?;
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"replicas": 100, "selector": {"matchLabels": {"app": "web"}}, "template": template});
    sets.create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": "rs"}, "spec": spec}))?).await?;
    until("pods", async || count(&pods).await, |count| *count == 100).await?;
    let refused = async || -> Result<f64> {
        let metrics = cluster.client.request_text(http::Request::get("/metrics").body(Vec::new())?).await?;
        let labels = [r#"code="403""#, r#"resource="pods""#, r#"verb="POST""#];
        let is_meant = |line: &&str| line.starts_with("apiserver_request_total{") && labels.iter().all(|label| line.contains(label));
        Ok(metrics.lines().filter(is_meant).filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
    };
    let before = refused().await?;
    namespaces.delete("going", &DeleteParams::default()).await?;
    until("the namespace gone", async || Ok(namespaces.get_opt("going").await?), Option::is_none).await?;
    let more = refused().await? - before;
    assert!(more <= 1.0, "{more} pods were asked for in vain");
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_that_cannot_be_worked_out_says_why_and_allows_nothing() -> Result<()> {
    let cluster = Cluster::start().await?;
    let (budgets, pods) = (cluster.api::<PodDisruptionBudget>("default"), cluster.api::<Pod>("default"));
    until("the account that pods need", async || Ok(cluster.api::<ServiceAccount>("default").get_opt("default").await?), Option::is_some)
        .await?;
    let owner = json!({"apiVersion": "example.com/v1", "kind": "Thing", "name": "t", "uid": "t", "controller": true});
    let metadata = json!({"name": "p", "labels": {"app": "web"}, "ownerReferences": [owner]});
    let pod = json!({"metadata": metadata, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
    let spec = json!({"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}});
    let budget = json!({"metadata": {"name": "b"}, "spec": spec});
    budgets.create(&PostParams::default(), &serde_json::from_value(budget)?).await?;
    let told = async || {
        let conditions = budgets.get("b").await?.status.and_then(|status| status.conditions).unwrap_or_default();
        Ok(conditions.into_iter().next().map(|condition| (condition.status, condition.reason, condition.message)))
    };
    let why = "no matches for kind \"Thing\" in version \"example.com/v1\"";
    let expected = ("False".to_owned(), "SyncFailed".to_owned(), why.to_owned());
    until("why", told, |told| told.as_ref() == Some(&expected)).await?;
    cluster.stop().await
}
