//! The node's status: a pure function of what the node is and what its runtime says, sent when it changes and every five minutes (upstream:
//! `pkg/kubelet/nodestatus/setters.go`).

use super::machine::Machine;
use crate::{
    container::resources::Amounts,
    recorder::{About, Recorder},
    runtime::Runtime,
};
use jiff::Timestamp;
use k8s_cri::v1::{Image, RuntimeStatus};
use k8s_openapi::{
    api::core::v1::{ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// How often the status is made anew to see whether it changed (upstream: `nodeStatusUpdateFrequency`).
const LOOK: Duration = Duration::from_secs(10);
/// How often until the node is ready for the first time.
const FIRST_LOOK: Duration = Duration::from_millis(200);
/// How many images a status lists (upstream: `nodeStatusMaxImages`).
const MAX_IMAGES: usize = 50;
/// How many names of one image it lists (upstream: `MaxNamesPerImageInNodeStatus`).
const MAX_NAMES: usize = 5;

/// What of a status does not change while the kubelet runs.
#[derive(Clone, Debug)]
pub struct StatusFacts {
    /// The node's name.
    pub name: String,
    /// Its host name.
    pub host_name: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// The machine.
    pub machine: Machine,
    /// What it has.
    pub capacity: Amounts,
    /// What of it is for pods.
    pub allocatable: Amounts,
    /// The port of the kubelet's server.
    pub port: i32,
}

/// The status. `before` holds the conditions as they were told last: they keep their transition times.
pub fn node_status(
    facts: &StatusFacts,
    version: &str,
    runtime: Result<&RuntimeStatus, &str>,
    images: &[Image],
    before: &[NodeCondition],
    now: Timestamp,
) -> NodeStatus {
    let (ready, message) = readiness(runtime);
    let healthy = |kind: &str, reason: &str, message: &str| condition(kind, "False", reason, message, before, now);
    let conditions = vec![
        healthy("MemoryPressure", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        healthy("DiskPressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        healthy("PIDPressure", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        condition(
            "Ready",
            if ready { "True" } else { "False" },
            if ready { "KubeletReady" } else { "KubeletNotReady" },
            &message,
            before,
            now,
        ),
    ];
    let mut addresses: Vec<_> = facts.addresses.iter().map(|a| NodeAddress { type_: "InternalIP".into(), address: a.clone() }).collect();
    addresses.push(NodeAddress { type_: "Hostname".into(), address: facts.host_name.clone() });
    let mut info = facts.machine.info.clone();
    version.clone_into(&mut info.container_runtime_version);
    NodeStatus {
        addresses: Some(addresses),
        allocatable: Some(facts.allocatable.clone()),
        capacity: Some(facts.capacity.clone()),
        conditions: Some(conditions),
        daemon_endpoints: Some(NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: facts.port }) }),
        images: Some(image_list(images)),
        node_info: Some(info),
        ..Default::default()
    }
}

/// Whether the runtime can run pods, and the words for it.
fn readiness(runtime: Result<&RuntimeStatus, &str>) -> (bool, String) {
    let status = match runtime {
        Ok(status) => status,
        Err(error) => return (false, format!("container runtime is down: {error}")),
    };
    let mut problems = Vec::new();
    for (kind, words) in [("RuntimeReady", "container runtime not ready"), ("NetworkReady", "container runtime network not ready")] {
        match status.conditions.iter().find(|c| c.r#type == kind) {
            Some(c) if c.status => {}
            Some(c) => problems.push(format!("{words}: {kind}=false reason:{} message:{}", c.reason, c.message)),
            None => problems.push(format!("{words}: the runtime does not report {kind}")),
        }
    }
    match problems.as_slice() {
        [] => (true, "kubelet is posting ready status".into()),
        [one] => (false, one.clone()),
        many => (false, format!("[{}]", many.join(", "))),
    }
}

fn condition(kind: &str, status: &str, reason: &str, message: &str, before: &[NodeCondition], now: Timestamp) -> NodeCondition {
    let kept = before.iter().find(|c| c.type_ == kind && c.status == status).and_then(|c| c.last_transition_time.clone());
    NodeCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: Some(kept.unwrap_or(Time(now))),
    }
}

/// The largest images with their names, digests first.
fn image_list(images: &[Image]) -> Vec<ContainerImage> {
    let mut sorted: Vec<&Image> = images.iter().collect();
    sorted.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let one = |image: &&Image| ContainerImage {
        names: Some(image.repo_digests.iter().chain(&image.repo_tags).take(MAX_NAMES).cloned().collect()),
        size_bytes: i64::try_from(image.size).ok(),
    };
    sorted.iter().take(MAX_IMAGES).map(one).collect()
}

/// Whether two statuses differ in more than their heartbeats.
pub fn changed(old: &NodeStatus, new: &NodeStatus) -> bool {
    let plain = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    plain(old) != plain(new)
}

/// The patch that tells a status: conditions and addresses are merged with what others wrote, images and the like replaced.
fn patch(old: Option<&NodeStatus>, new: &NodeStatus) -> serde_json::Value {
    let mut body = serde_json::to_value(new).unwrap_or_default();
    if let (Some(old), Some(fields)) = (old, body.as_object_mut()) {
        let before = serde_json::to_value(old).unwrap_or_default();
        fields.retain(|name, value| name == "conditions" || before.get(name) != Some(value));
    }
    json!({"status": body})
}

/// Keeps the status until told to stop.
pub async fn keep(
    nodes: Api<Node>,
    facts: StatusFacts,
    runtime: Arc<dyn Runtime>,
    frequency: Duration,
    events: Recorder,
    stop: CancellationToken,
) {
    let about = About::node(&facts.name);
    let mut told: Option<(NodeStatus, tokio::time::Instant)> = None;
    let mut version = String::new();
    loop {
        if version.is_empty()
            && let Ok(v) = runtime.version().await
        {
            version = format!("{}://{}", v.runtime_name, v.runtime_version);
        }
        let status = runtime.status().await.map_err(|e| e.to_string());
        // A list that fails leaves the images as they were told.
        let images = runtime.list_images().await.unwrap_or_default();
        let before = told.as_ref().and_then(|(s, _)| s.conditions.clone()).unwrap_or_default();
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or(Timestamp::UNIX_EPOCH);
        let new = node_status(&facts, &version, status.as_ref().map_err(String::as_str), &images, &before, now);
        let due = told.as_ref().is_none_or(|(old, at)| changed(old, &new) || at.elapsed() >= frequency);
        if due {
            let body = patch(told.as_ref().map(|(s, _)| s), &new);
            match nodes.patch_status(&facts.name, &PatchParams::default(), &Patch::Strategic(body)).await {
                Ok(_) => {
                    tell_events(&events, &about, &facts.name, &before, &new);
                    told = Some((new, tokio::time::Instant::now()));
                }
                Err(error) => tracing::warn!(node = %facts.name, %error, "the node's status could not be sent"),
            }
        }
        let ready = told
            .as_ref()
            .and_then(|(s, _)| s.conditions.as_ref())
            .is_some_and(|c| c.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(if ready { LOOK } else { FIRST_LOOK }) => {}
        }
    }
}

/// The events of conditions that changed.
fn tell_events(events: &Recorder, about: &About, name: &str, before: &[NodeCondition], new: &NodeStatus) {
    for condition in new.conditions.iter().flatten() {
        if before.iter().any(|b| b.type_ == condition.type_ && b.status == condition.status) {
            continue;
        }
        let reason = match (condition.type_.as_str(), condition.status.as_str()) {
            ("MemoryPressure", "False") => "NodeHasSufficientMemory",
            ("DiskPressure", "False") => "NodeHasNoDiskPressure",
            ("PIDPressure", "False") => "NodeHasSufficientPID",
            ("Ready", "True") => "NodeReady",
            ("Ready", _) => "NodeNotReady",
            _ => continue,
        };
        events.normal(about, reason, format!("Node {name} status is now: {reason}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_cri::v1::RuntimeCondition;

    fn facts() -> StatusFacts {
        StatusFacts {
            name: "n".into(),
            host_name: "n".into(),
            addresses: vec!["192.0.2.2".into()],
            machine: Machine::default(),
            capacity: Amounts::new(),
            allocatable: Amounts::new(),
            port: 10250,
        }
    }

    fn runtime(network: bool) -> RuntimeStatus {
        let condition =
            |kind: &str, status, reason: &str| RuntimeCondition { r#type: kind.into(), status, reason: reason.into(), message: "m".into() };
        RuntimeStatus { conditions: vec![condition("RuntimeReady", true, ""), condition("NetworkReady", network, "NetworkPluginNotReady")] }
    }

    #[test]
    fn readiness_is_the_runtimes_and_its_networks() {
        let at = |s| Timestamp::from_second(s).expect("a time");
        let ready = node_status(&facts(), "containerd://1", Ok(&runtime(true)), &[], &[], at(1));
        let conditions = ready.conditions.clone().expect("conditions");
        assert_eq!((conditions[3].status.as_str(), conditions[3].message.as_deref()), ("True", Some("kubelet is posting ready status")));
        let later = node_status(&facts(), "containerd://1", Ok(&runtime(true)), &[], &conditions, at(9));
        assert_eq!(later.conditions.as_ref().expect("conditions")[3].last_transition_time, Some(Time(at(1))));
        assert!(!changed(&ready, &later));
        let without = node_status(&facts(), "containerd://1", Ok(&runtime(false)), &[], &conditions, at(9));
        let last = &without.conditions.as_ref().expect("conditions")[3];
        let want = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:m";
        assert_eq!((last.status.as_str(), last.reason.as_deref(), last.message.as_deref()), ("False", Some("KubeletNotReady"), Some(want)));
        assert!(changed(&ready, &without));
    }
}
