//! Everybody else: a scheduler that binds, kubelets that start and end pods. Each step takes them a little further, in an order and with an outcome that the
//! seed decides.

use super::world::{World, text};
use rand::Rng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

/// How one step goes.
#[derive(Clone, Copy)]
pub struct Mood {
    /// Whether pods of Jobs fail sometimes.
    pub failures: bool,
    /// How many of a hundred pods get on in a step.
    pub speed: u32,
}

fn ready(status: &str, world: &World) -> Value {
    json!([{"type": "Ready", "status": status, "lastTransitionTime": world.now().to_string()}])
}

/// The node that a DaemonSet's pod is meant for.
fn meant_for(pod: &Value) -> Option<String> {
    let path = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
    pod.pointer(path)?.as_str().map(str::to_owned)
}

/// Where a pod is or will be.
pub fn node_of(pod: &Value) -> Option<String> {
    Some(text(pod, "/spec/nodeName").to_owned()).filter(|name| !name.is_empty()).or_else(|| meant_for(pod))
}

/// One step of everybody.
pub fn step(world: &World, rng: &mut SmallRng, mood: Mood) {
    let nodes: Vec<String> = world.list("nodes").0.iter().map(|node| text(node, "/metadata/name").to_owned()).collect();
    for pod in world.list("pods").0 {
        if rng.random_range(0..100) < mood.speed {
            pod_step(world, rng, mood, &nodes, &pod);
        }
    }
}

/// The path of an object; the group makes no difference here.
pub fn path(plural: &str, name: &str) -> String {
    format!("/apis/any/v1/namespaces/sim/{plural}/{name}")
}

/// A pod's own address.
fn address(pod: &Value) -> String {
    let number: u32 = text(pod, "/metadata/uid").trim_start_matches("uid-").parse().unwrap_or(0);
    format!("10.1.{}.{}", number / 250 % 250, number % 250 + 1)
}

fn pod_step(world: &World, rng: &mut SmallRng, mood: Mood, nodes: &[String], pod: &Value) {
    let name = text(pod, "/metadata/name");
    let (phase, node) = (text(pod, "/status/phase"), text(pod, "/spec/nodeName"));
    let is_over = matches!(phase, "Succeeded" | "Failed");
    if !node.is_empty() && !nodes.iter().any(|known| known == node) {
        world.request("DELETE", &path("pods", name), "", json!({"gracePeriodSeconds": 0}));
        return;
    }
    if !text(pod, "/metadata/deletionTimestamp").is_empty() {
        if is_over || node.is_empty() || pod.pointer("/metadata/finalizers").is_none() {
            world.request("DELETE", &path("pods", name), "", json!({"gracePeriodSeconds": 0}));
        } else {
            world.change("pods", name, |pod| pod["status"] = json!({"phase": "Failed", "conditions": ready("False", world)}));
        }
        return;
    }
    if node.is_empty() {
        let chosen = match meant_for(pod) {
            Some(node) => nodes.contains(&node).then_some(node),
            None => nodes.get(rng.random_range(0..nodes.len().max(1))).cloned(),
        };
        if let Some(node) = chosen {
            world.change("pods", name, |pod| pod["spec"]["nodeName"] = json!(node));
        }
        return;
    }
    let is_ready = text(pod, "/status/conditions/0/status") == "True";
    let of_job = pod.pointer("/metadata/labels/batch.kubernetes.io~1job-name").is_some();
    let ip = address(pod);
    let since = &pod["metadata"]["creationTimestamp"];
    let running = |is_ready: &str| {
        let conditions = ready(is_ready, world);
        json!({"phase": "Running", "conditions": conditions, "podIP": ip, "podIPs": [{"ip": ip}], "startTime": since})
    };
    let status = match phase {
        "Pending" => running("False"),
        "Running" if of_job && is_ready => {
            let outcome = if mood.failures && rng.random_range(0..4) == 0 { "Failed" } else { "Succeeded" };
            json!({"phase": outcome, "conditions": ready("False", world)})
        }
        "Running" if !is_ready => running("True"),
        _ => return,
    };
    world.change("pods", name, |pod| pod["status"] = status);
}
