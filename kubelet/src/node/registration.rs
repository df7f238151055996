//! The node's object in the API: made when it is missing, brought up to date when it is there (upstream: `kubelet_node_status.go`,
//! `registerWithAPIServer`).

use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus, Taint};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use std::{collections::BTreeMap, time::Duration};
use tokio_util::sync::CancellationToken;

/// The longest time between tries (upstream: 7 s).
const RETRY_MAX: Duration = Duration::from_secs(7);

/// What the node registers with.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Its name.
    pub name: String,
    /// Labels given on the command line.
    pub labels: BTreeMap<String, String>,
    /// Taints it starts with.
    pub taints: Vec<Taint>,
    /// Its part of the pod network, where nobody else allocates it.
    pub pod_cidr: Option<String>,
    /// What a cloud calls the machine.
    pub provider_id: Option<String>,
    /// Whether the node makes its own object; else somebody else does.
    pub register: bool,
    /// Its first status.
    pub status: NodeStatus,
}

/// The labels that the kubelet itself is responsible for, and those it was given.
pub fn labels(registration: &Registration) -> BTreeMap<String, String> {
    let info = registration.status.node_info.clone().unwrap_or_default();
    let mut labels = registration.labels.clone();
    for prefix in ["kubernetes.io", "beta.kubernetes.io"] {
        labels.insert(format!("{prefix}/os"), info.operating_system.clone());
        labels.insert(format!("{prefix}/arch"), info.architecture.clone());
    }
    labels.insert("kubernetes.io/hostname".into(), registration.name.clone());
    labels
}

fn object(registration: &Registration) -> Node {
    let mut node = Node::default();
    node.metadata.name = Some(registration.name.clone());
    node.metadata.labels = Some(labels(registration));
    node.metadata.annotations = Some(BTreeMap::from([("volumes.kubernetes.io/controller-managed-attach-detach".into(), "true".into())]));
    node.spec = Some(NodeSpec {
        taints: (!registration.taints.is_empty()).then(|| registration.taints.clone()),
        pod_cidr: registration.pod_cidr.clone(),
        provider_id: registration.provider_id.clone(),
        pod_cidrs: registration.pod_cidr.clone().map(|cidr| vec![cidr]),
        ..Default::default()
    });
    node.status = Some(registration.status.clone());
    node
}

/// Registers, trying again until it works. Answers with the node, or `None` when told to stop before.
pub async fn register(nodes: &Api<Node>, registration: &Registration, stop: &CancellationToken) -> Option<Node> {
    let mut wait = Duration::from_millis(100);
    loop {
        match try_register(nodes, registration).await {
            Ok(node) => return Some(node),
            Err(error) => tracing::warn!(node = %registration.name, %error, "the node could not be registered; trying again"),
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(RETRY_MAX);
    }
}

async fn try_register(nodes: &Api<Node>, registration: &Registration) -> kube::Result<Node> {
    if registration.register {
        match nodes.create(&PostParams::default(), &object(registration)).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => return other,
        }
    }
    // What others wrote (labels, taints) stays; the status follows as a patch like any other.
    let patch = json!({"metadata": {"labels": labels(registration)}});
    nodes.patch(&registration.name, &PatchParams::default(), &Patch::Strategic(patch)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::NodeSystemInfo;

    #[test]
    fn a_node_says_what_it_is() {
        let info = NodeSystemInfo { operating_system: "linux".into(), architecture: "amd64".into(), ..Default::default() };
        let registration = Registration {
            name: "n1".into(),
            labels: BTreeMap::from([("a".into(), "b".into())]),
            taints: vec![Taint { key: "k".into(), effect: "NoSchedule".into(), ..Default::default() }],
            pod_cidr: None,
            provider_id: Some("cloud://1".into()),
            register: true,
            status: NodeStatus { node_info: Some(info), ..Default::default() },
        };
        let node = object(&registration);
        let labels = node.metadata.labels.expect("labels");
        assert_eq!(
            (labels["kubernetes.io/hostname"].as_str(), labels["kubernetes.io/arch"].as_str(), labels["a"].as_str()),
            ("n1", "amd64", "b")
        );
        let spec = node.spec.expect("a spec");
        assert_eq!((spec.taints.expect("taints")[0].key.as_str(), spec.provider_id.as_deref()), ("k", Some("cloud://1")));
    }
}
