//! The node's heartbeat: its Lease in `kube-node-lease`, renewed every quarter of its duration (upstream: `component-helpers/apimachinery/lease`).

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The namespace of node leases.
const NAMESPACE: &str = "kube-node-lease";

fn lease(name: &str, node_uid: &str, seconds: i32, now: Timestamp) -> Lease {
    let owner =
        OwnerReference { api_version: "v1".into(), kind: "Node".into(), name: name.into(), uid: node_uid.into(), ..Default::default() };
    Lease {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some(NAMESPACE.into()),
            owner_references: Some(vec![owner]),
            ..Default::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.into()),
            lease_duration_seconds: Some(seconds),
            renew_time: Some(MicroTime(now)),
            ..Default::default()
        }),
    }
}

/// Keeps the lease until told to stop.
pub async fn keep(client: Client, name: String, node_uid: String, seconds: i32, stop: CancellationToken) {
    let leases: Api<Lease> = Api::namespaced(client, NAMESPACE);
    let period = Duration::from_secs(u64::try_from(seconds).unwrap_or(40)) / 4;
    loop {
        let wait = match renew(&leases, &name, &node_uid, seconds).await {
            Ok(()) => period,
            Err(error) => {
                tracing::warn!(node = %name, %error, "the lease could not be renewed");
                Duration::from_secs(1).min(period)
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn renew(leases: &Api<Lease>, name: &str, node_uid: &str, seconds: i32) -> kube::Result<()> {
    let fresh = lease(name, node_uid, seconds, Timestamp::now());
    let renewed = fresh.spec.as_ref().and_then(|s| s.renew_time.clone());
    let patch = json!({"spec": {"renewTime": renewed, "holderIdentity": name, "leaseDurationSeconds": seconds}});
    match leases.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => leases.create(&PostParams::default(), &fresh).await.map(drop),
        other => other.map(drop),
    }
}
