//! The node's status: a pure function of what the node is, what its runtime says and what it is short of, sent when it changes and every five minutes
//! (upstream: `pkg/kubelet/nodestatus/setters.go`).
//!
//! Left out: addresses that a cloud provider knows.

use super::{Node as NodeParts, eviction::signal::Pressure, machine::Machine};
use crate::{
    container::resources::Amounts,
    recorder::{About, Recorder},
};
use client::ObjectKey;
use jiff::Timestamp;
use k8s_cri::v1::{Image, RuntimeStatus, StatusResponse};
use k8s_openapi::{
    api::core::v1::{
        ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures, NodeRuntimeHandler,
        NodeRuntimeHandlerFeatures, NodeStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// How often until the node is ready for the first time.
const FIRST_LOOK: Duration = Duration::from_millis(200);
/// How often images are listed where none was pulled or removed by the kubelet: somebody else may have done so.
const IMAGES: Duration = Duration::from_secs(300);
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
    /// How many images are listed at most; without a number, all.
    pub max_images: Option<usize>,
    /// Whether containers have CPUs for themselves.
    pub pinned: bool,
}

/// What is seen when a status is made.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    /// The runtime's name and version.
    pub version: &'a str,
    /// What the runtime says of itself, or why it says nothing.
    pub runtime: Result<&'a StatusResponse, &'a str>,
    /// Its images.
    pub images: &'a [Image],
    /// What the node is short of.
    pub pressures: &'a [Pressure],
    /// What it has of what device plugins give out, and what of it is healthy.
    pub devices: (&'a Amounts, &'a Amounts),
    /// The volumes that must not be detached.
    pub volumes: &'a [String],
    /// Whether the machine is about to shut down.
    pub shutting_down: bool,
}

/// The conditions of shortages: the type, then reason and message without and with it.
type Words = (&'static str, &'static str);
const PRESSURES: [(Pressure, Words, Words); 3] = [
    (
        Pressure::MemoryPressure,
        ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
    ),
    (
        Pressure::DiskPressure,
        ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("KubeletHasDiskPressure", "kubelet has disk pressure"),
    ),
    (
        Pressure::PIDPressure,
        ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
    ),
];

/// What this kubelet can do that not every kubelet can, sorted: schedulers keep pods that need it from other nodes, and the server refuses a change of the
/// CPUs of a Guaranteed pod elsewhere (KEP-5328).
const DECLARED: [&str; 2] = [CPU_RESIZE, "RestartAllContainersOnContainerExits"];
const CPU_RESIZE: &str = "GuaranteedQoSPodCPUResize";

/// The features that a node declares. CPUs of a container's own do not grow.
fn declared(pinned: bool) -> Vec<String> {
    DECLARED.into_iter().filter(|feature| !pinned || *feature != CPU_RESIZE).map(str::to_owned).collect()
}

/// The status. `before` holds the conditions as they were told last: they keep their transition times.
pub fn node_status(facts: &StatusFacts, seen: Seen<'_>, before: &[NodeCondition], now: Timestamp) -> NodeStatus {
    let mut conditions: Vec<NodeCondition> = PRESSURES
        .iter()
        .map(|(pressure, fine, short)| {
            let (status, (reason, message)) = if seen.pressures.contains(pressure) { ("True", short) } else { ("False", fine) };
            condition(pressure.as_str(), status, reason, message, before, now)
        })
        .collect();
    let runtime = seen.runtime.map(|r| r.status.as_ref().unwrap_or(&NO_STATUS));
    let (ready, message) = readiness(runtime, seen.shutting_down);
    let (status, reason) = if ready { ("True", "KubeletReady") } else { ("False", "KubeletNotReady") };
    conditions.push(condition("Ready", status, reason, &message, before, now));
    let mut addresses: Vec<_> = facts.addresses.iter().map(|a| NodeAddress { type_: "InternalIP".into(), address: a.clone() }).collect();
    addresses.push(NodeAddress { type_: "Hostname".into(), address: facts.host_name.clone() });
    let mut info = facts.machine.info.clone();
    seen.version.clone_into(&mut info.container_runtime_version);
    let (handlers, features) = seen.runtime.map(abilities).unwrap_or_default();
    NodeStatus {
        addresses: Some(addresses),
        allocatable: Some(with(&facts.allocatable, seen.devices.1)),
        capacity: Some(with(&facts.capacity, seen.devices.0)),
        conditions: Some(conditions),
        declared_features: Some(declared(facts.pinned)),
        daemon_endpoints: Some(NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: facts.port }) }),
        features,
        images: Some(image_list(seen.images, facts.max_images)),
        node_info: Some(info),
        runtime_handlers: handlers,
        volumes_in_use: Some(seen.volumes.to_vec()).filter(|names| !names.is_empty()),
        ..Default::default()
    }
}

fn with(own: &Amounts, devices: &Amounts) -> Amounts {
    own.iter().chain(devices).map(|(name, amount)| (name.clone(), amount.clone())).collect()
}

/// What a runtime without a status says.
static NO_STATUS: RuntimeStatus = RuntimeStatus { conditions: Vec::new() };

/// What the runtime can do, by handler and as a whole; nothing where it does not tell.
fn abilities(runtime: &StatusResponse) -> (Option<Vec<NodeRuntimeHandler>>, Option<NodeFeatures>) {
    let mut handlers: Vec<NodeRuntimeHandler> = runtime
        .runtime_handlers
        .iter()
        .map(|handler| NodeRuntimeHandler {
            name: Some(handler.name.clone()),
            features: handler.features.as_ref().map(|f| NodeRuntimeHandlerFeatures {
                recursive_read_only_mounts: Some(f.recursive_read_only_mounts),
                user_namespaces: Some(f.user_namespaces),
            }),
        })
        .collect();
    handlers.sort_by(|a, b| a.name.cmp(&b.name));
    let features = runtime.features.as_ref().map(|f| NodeFeatures { supplemental_groups_policy: Some(f.supplemental_groups_policy) });
    ((!handlers.is_empty()).then_some(handlers), features)
}

/// What a runtime has to say of itself, and the words for where it does not.
const RUNTIME_CONDITIONS: &[(&str, &str)] =
    &[("RuntimeReady", "container runtime not ready"), ("NetworkReady", "container runtime network not ready")];

/// Whether the node can run pods, and the words for it.
fn readiness(runtime: Result<&RuntimeStatus, &str>, shutting_down: bool) -> (bool, String) {
    let mut problems = Vec::new();
    let status = runtime.unwrap_or_else(|error| {
        problems.push(format!("container runtime is down: {error}"));
        &NO_STATUS
    });
    let kinds = if runtime.is_ok() { RUNTIME_CONDITIONS } else { &[] };
    for (kind, words) in kinds {
        match status.conditions.iter().find(|c| c.r#type == *kind) {
            Some(c) if c.status => {}
            Some(c) => problems.push(format!("{words}: {kind}=false reason:{} message:{}", c.reason, c.message)),
            None => problems.push(format!("{words}: the runtime does not report {kind}")),
        }
    }
    if shutting_down {
        problems.push("node is shutting down".into());
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
fn image_list(images: &[Image], most: Option<usize>) -> Vec<ContainerImage> {
    let mut sorted: Vec<&Image> = images.iter().collect();
    sorted.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let one = |image: &&Image| ContainerImage {
        names: Some(image.repo_digests.iter().chain(&image.repo_tags).take(MAX_NAMES).cloned().collect()),
        size_bytes: i64::try_from(image.size).ok(),
    };
    sorted.iter().take(most.unwrap_or(usize::MAX)).map(one).collect()
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

/// The version of an object, as a number.
fn version_of(node: &Node) -> u64 {
    node.metadata.resource_version.as_ref().and_then(|version| version.parse().ok()).unwrap_or_default()
}

/// Whether somebody has since written over a condition that was told in version `at`: a node that could not be heard is said to be unknown, and has to speak up
/// when it can again.
fn overwritten(told: &NodeStatus, at: u64, held: &Node) -> bool {
    let status_of = |condition: &NodeCondition| {
        let all = held.status.iter().flat_map(|status| status.conditions.iter().flatten());
        all.filter(|other| other.type_ == condition.type_).map(|other| other.status.clone()).next()
    };
    version_of(held) > at && told.conditions.iter().flatten().any(|condition| status_of(condition).as_ref() != Some(&condition.status))
}

/// The patch that tells a status: conditions and addresses are merged with what others wrote, images and the like replaced.
fn patch(old: Option<&NodeStatus>, new: &NodeStatus) -> serde_json::Value {
    let new = serde_json::to_value(new).unwrap_or_default();
    let mut body = new.clone();
    if let (Some(old), Some(fields)) = (old, body.as_object_mut()) {
        let before = serde_json::to_value(old).unwrap_or_default();
        fields.retain(|name, value| name == "conditions" || before.get(name) != Some(value));
        // What there is none of any more has to be said, too.
        let gone = before.as_object().into_iter().flatten().filter(|(name, _)| new[name.as_str()].is_null());
        fields.extend(gone.map(|(name, _)| (name.clone(), serde_json::Value::Null)));
    }
    json!({"status": body})
}

/// How often to look, and to tell.
#[derive(Clone, Copy, Debug)]
pub struct Frequency {
    /// How often the status is made anew to see whether it changed.
    pub look: Duration,
    /// How often it is told where it does not.
    pub report: Duration,
}

/// The time as conditions have it.
fn now() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The status a node registers with: as it is, so that it is ready as soon as it is there.
pub async fn first(facts: &StatusFacts, node: &NodeParts) -> NodeStatus {
    let version = version(node).await.unwrap_or_default();
    let runtime = node.runtime.status().await.map_err(|e| e.to_string());
    let runtime = runtime.as_ref().map_err(String::as_str);
    let (all, healthy) = node.devices.as_ref().map(|d| d.amounts()).unwrap_or_default();
    let volumes = node.csi.as_ref().map(|csi| csi.in_use()).unwrap_or_default();
    let seen = Seen {
        version: &version,
        runtime,
        images: &[],
        pressures: &[],
        devices: (&all, &healthy),
        volumes: &volumes,
        shutting_down: false,
    };
    node_status(facts, seen, &[], now())
}

async fn version(node: &NodeParts) -> Option<String> {
    node.runtime.version().await.ok().map(|v| format!("{}://{}", v.runtime_name, v.runtime_version))
}

/// Keeps the status until told to stop.
pub async fn keep(nodes: Api<Node>, facts: StatusFacts, node: Arc<NodeParts>, frequency: Frequency, stop: CancellationToken) {
    let about = About::node(&facts.name);
    let mut told: Option<(NodeStatus, tokio::time::Instant)> = None;
    let mut told_in = 0;
    let held = || node.itself.as_ref()?.cache.get(&ObjectKey::new("", &facts.name));
    let written = Arc::new(Notify::new());
    if let Some(itself) = &node.itself {
        let written = written.clone();
        itself.cache.subscribe(move |_| written.notify_one());
    }
    let mut runtime_version = String::new();
    let (mut pressures, mut shutting_down) = (node.vitals.pressures.subscribe(), node.vitals.shutting_down.subscribe());
    let mut image_changes = node.images.changes();
    let mut device_changes = node.devices.as_ref().map(|d| d.changes());
    let mut volume_changes = node.csi.as_ref().map(|csi| csi.changes());
    let mut images: Option<(Vec<Image>, tokio::time::Instant)> = None;
    loop {
        if runtime_version.is_empty() {
            runtime_version = version(&node).await.unwrap_or_default();
        }
        let runtime = node.runtime.status().await.map_err(|e| e.to_string());
        let stale = image_changes.has_changed().unwrap_or(false) || images.as_ref().is_none_or(|(_, at)| at.elapsed() >= IMAGES);
        if stale {
            image_changes.mark_unchanged();
            // A list that fails leaves the images as they were told.
            if let Ok(list) = node.runtime.list_images().await {
                images = Some((list, tokio::time::Instant::now()));
            }
        }
        let before = told.as_ref().and_then(|(s, _)| s.conditions.clone()).unwrap_or_default();
        let short_of = pressures.borrow_and_update().clone();
        let (all, healthy) = node.devices.as_ref().map(|d| d.amounts()).unwrap_or_default();
        let volumes = node.csi.as_ref().map(|csi| csi.in_use()).unwrap_or_default();
        let seen = Seen {
            version: &runtime_version,
            runtime: runtime.as_ref().map_err(String::as_str),
            images: images.as_ref().map(|(list, _)| list.as_slice()).unwrap_or_default(),
            pressures: &short_of,
            devices: (&all, &healthy),
            volumes: &volumes,
            shutting_down: *shutting_down.borrow_and_update(),
        };
        let new = node_status(&facts, seen, &before, now());
        let due = told.as_ref().is_none_or(|(old, at)| {
            changed(old, &new) || at.elapsed() >= frequency.report || held().is_some_and(|held| overwritten(old, told_in, &held))
        });
        if due {
            let body = patch(told.as_ref().map(|(s, _)| s), &new);
            match nodes.patch_status(&facts.name, &PatchParams::default(), &Patch::Strategic(body)).await {
                Ok(answer) => {
                    told_in = version_of(&answer);
                    tell_events(&node.events, &about, &facts.name, &before, &new);
                    told = Some((new, tokio::time::Instant::now()));
                }
                Err(error) => tracing::warn!(node = %facts.name, %error, "the node's status could not be sent"),
            }
        }
        let ready = told
            .as_ref()
            .and_then(|(s, _)| s.conditions.as_ref())
            .is_some_and(|c| c.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
        let wait = if ready || *shutting_down.borrow() { frequency.look } else { FIRST_LOOK };
        tokio::select! {
            () = stop.cancelled() => return,
            Ok(()) = pressures.changed() => {}
            Ok(()) = shutting_down.changed() => {}
            () = news(&mut device_changes) => {}
            () = news(&mut volume_changes) => {}
            () = written.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Waits until there are more or fewer of them; for good where there are none.
async fn news(changes: &mut Option<watch::Receiver<()>>) {
    let changed = match changes {
        Some(changes) => changes.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending().await
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
            ("MemoryPressure", "True") => "NodeHasInsufficientMemory",
            ("DiskPressure", "False") => "NodeHasNoDiskPressure",
            ("DiskPressure", "True") => "NodeHasDiskPressure",
            ("PIDPressure", "False") => "NodeHasSufficientPID",
            ("PIDPressure", "True") => "NodeHasInsufficientPID",
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
    use k8s_cri::v1::{RuntimeCondition, RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures};

    fn facts() -> StatusFacts {
        StatusFacts {
            name: "n".into(),
            host_name: "n".into(),
            addresses: vec!["192.0.2.2".into()],
            machine: Machine::default(),
            capacity: Amounts::new(),
            allocatable: Amounts::new(),
            port: 10250,
            max_images: Some(50),
            pinned: false,
        }
    }

    fn runtime(network: bool) -> StatusResponse {
        let condition =
            |kind: &str, status, reason: &str| RuntimeCondition { r#type: kind.into(), status, reason: reason.into(), message: "m".into() };
        let conditions = vec![condition("RuntimeReady", true, ""), condition("NetworkReady", network, "NetworkPluginNotReady")];
        StatusResponse { status: Some(RuntimeStatus { conditions }), ..Default::default() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn seen(runtime: &StatusResponse) -> Seen<'_> {
        let none = const { &Amounts::new() };
        Seen {
            version: "containerd://1",
            runtime: Ok(runtime),
            images: &[],
            pressures: &[],
            devices: (none, none),
            volumes: &[],
            shutting_down: false,
        }
    }

    #[test]
    fn readiness_is_the_runtimes_and_its_networks() {
        let (good, bad) = (runtime(true), runtime(false));
        let ready = node_status(&facts(), seen(&good), &[], at(1));
        let conditions = ready.conditions.clone().expect("conditions");
        assert_eq!((conditions[3].status.as_str(), conditions[3].message.as_deref()), ("True", Some("kubelet is posting ready status")));
        let later = node_status(&facts(), seen(&good), &conditions, at(9));
        assert_eq!(later.conditions.as_ref().expect("conditions")[3].last_transition_time, Some(Time(at(1))));
        assert!(!changed(&ready, &later));
        let without = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:m";
        let down = Seen { runtime: Err("no socket"), ..seen(&good) };
        for (seen, want) in [
            (seen(&bad), without.to_owned()),
            (down, "container runtime is down: no socket".into()),
            (Seen { shutting_down: true, ..seen(&good) }, "node is shutting down".into()),
            (Seen { shutting_down: true, ..seen(&bad) }, format!("[{without}, node is shutting down]")),
        ] {
            let status = node_status(&facts(), seen, &conditions, at(9));
            let last = &status.conditions.as_ref().expect("conditions")[3];
            assert_eq!(
                (last.status.as_str(), last.reason.as_deref(), last.message.as_deref()),
                ("False", Some("KubeletNotReady"), Some(want.as_str()))
            );
            assert!(changed(&ready, &status));
        }
    }

    #[test]
    fn what_others_wrote_over_a_condition_is_told_again() {
        let told: NodeStatus = serde_json::from_value(json!({"conditions": [{"type": "Ready", "status": "True"}]})).expect("a status");
        for (version, ready, again) in [("7", "Unknown", true), ("7", "True", false), ("5", "Unknown", false)] {
            let conditions = json!([{"type": "Ready", "status": ready}, {"type": "Foreign", "status": "False"}]);
            let held = json!({"metadata": {"resourceVersion": version}, "status": {"conditions": conditions}});
            assert_eq!(overwritten(&told, 5, &serde_json::from_value(held).expect("a node")), again, "{version} {ready}");
        }
    }

    #[test]
    fn shortages_are_conditions_in_upstreams_words() {
        let good = runtime(true);
        let short = Seen { pressures: &[Pressure::DiskPressure], ..seen(&good) };
        let conditions = node_status(&facts(), short, &[], at(1)).conditions.expect("conditions");
        let told =
            conditions.iter().map(|c| format!("{}={} {}", c.type_, c.status, c.reason.as_deref().unwrap_or_default())).collect::<Vec<_>>();
        let want = [
            "MemoryPressure=False KubeletHasSufficientMemory",
            "DiskPressure=True KubeletHasDiskPressure",
            "PIDPressure=False KubeletHasSufficientPID",
            "Ready=True KubeletReady",
        ];
        assert_eq!(told, want);
    }

    #[test]
    fn what_the_runtime_can_do_and_its_largest_images_are_told() {
        let mut able = runtime(true);
        let features = RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: false };
        able.runtime_handlers = ["runc", ""].map(|name| RuntimeHandler { name: name.into(), features: Some(features) }).to_vec();
        able.features = Some(RuntimeFeatures { supplemental_groups_policy: true });
        let images: Vec<Image> =
            (0..60).map(|n| Image { id: n.to_string(), size: n, repo_tags: vec![format!("i:{n}")], ..Default::default() }).collect();
        let status = node_status(&facts(), Seen { images: &images, ..seen(&able) }, &[], at(1));
        let handlers = status.runtime_handlers.expect("handlers");
        assert_eq!(handlers.iter().map(|h| h.name.as_deref().unwrap_or_default()).collect::<Vec<_>>(), ["", "runc"]);
        assert_eq!(handlers[1].features.as_ref().and_then(|f| f.recursive_read_only_mounts), Some(true));
        assert_eq!(declared(true), ["RestartAllContainersOnContainerExits"]);
        assert_eq!(status.features.and_then(|f| f.supplemental_groups_policy), Some(true));
        let images = status.images.expect("images");
        assert_eq!((images.len(), images[0].size_bytes), (50, Some(59)));
    }
}
