//! How long decisions take without an API around them: 5,000 nodes, pods of one kind each, at the start and after thousands of them.
//!
//! `cargo run --release -p scheduler --example decisions [KIND]` prints microseconds; run under a profiler it shows where they go.

use k8s_openapi::api::core::v1::{Node, Pod};
use rand::SeedableRng;
use rand::rngs::StdRng;
use scheduler::cycle::{Outcome, Search, post_filter, schedule};
use scheduler::framework::{Context, CycleState};
use scheduler::listers::Nothing;
use scheduler::pod_info::PodInfo;
use scheduler::profiles::Profiles;
use scheduler::snapshot::Snapshot;
use scheduler::state::ClusterState;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

const NODES: usize = 5000;
const PODS: usize = 4000;
const STEP: usize = 1000;

fn pod(name: &str, cpu: &str, priority: i32, more: &Value) -> Arc<PodInfo> {
    let mut spec = json!({"priority": priority, "schedulerName": "default-scheduler", "containers": [
        {"name": "c", "image": "pause:3", "resources": {"requests": {"cpu": cpu, "memory": "500Mi"}}}]});
    spec.as_object_mut().expect("it is one").extend(more.as_object().cloned().unwrap_or_default());
    let object = json!({"metadata": {"namespace": "default", "name": name, "uid": name, "labels": {"color": "blue"}}, "spec": spec});
    let pod: Pod = serde_json::from_value(object).expect("it is a pod");
    Arc::new(PodInfo::new(Arc::new(pod)))
}

fn cluster() -> ClusterState {
    let mut state = ClusterState::default();
    for number in 0..NODES {
        let name = format!("node-{number}");
        let labels = json!({"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-{}", number % 3)});
        let status = json!({"allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"}});
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "status": status})).expect("it is a node");
        state.set_node(Arc::new(node));
    }
    state
}

fn main() {
    let selector = json!({"matchLabels": {"color": "blue"}});
    let term = |key: &str| json!({"requiredDuringSchedulingIgnoredDuringExecution": [{"labelSelector": selector, "topologyKey": key}]});
    let zone = json!({"matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["zone-0"]}]});
    let spread = json!([{"maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector}]);
    let kinds = [
        ("basic", json!({})),
        (
            "node-affinity",
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [zone]}}}}),
        ),
        ("spread", json!({ "topologySpreadConstraints": spread })),
        ("anti-affinity", json!({"affinity": {"podAntiAffinity": term("kubernetes.io/hostname")}})),
        ("affinity", json!({"affinity": {"podAffinity": term("topology.kubernetes.io/zone")}})),
    ];
    let wanted = std::env::args().nth(1);
    for (kind, more) in kinds {
        if wanted.as_ref().is_none_or(|wanted| wanted == kind) {
            placing(kind, &more);
        }
    }
    if wanted.is_none_or(|wanted| wanted == "preemption") {
        preempting();
    }
}

fn placing(kind: &str, more: &Value) {
    let (profiles, mut state, mut snapshot) = (Profiles::default(), cluster(), Snapshot::default());
    let (mut search, mut rng) = (Search::default(), StdRng::seed_from_u64(1));
    let pods: Vec<_> = (0..PODS).map(|number| pod(&format!("pod-{number}"), "100m", 0, more)).collect();
    state.update(&mut snapshot);
    let mut begun = Instant::now();
    let mut shown = Vec::new();
    for (number, pod) in pods.iter().enumerate() {
        state.update(&mut snapshot);
        let plugins = &profiles.of(pod).expect("the default profile").plugins;
        let mut cycle = CycleState::default();
        let decision = schedule(plugins, &mut cycle, pod, &Context { snapshot: &snapshot, listers: &Nothing }, &mut search, &mut rng);
        drop(cycle);
        state.assume(pod.clone(), &decision.expect("there is room").node);
        if (number + 1) % STEP == 0 {
            shown.push(format!("{:.0}", begun.elapsed().as_secs_f64() * 1e6 / STEP as f64));
            begun = Instant::now();
        }
    }
    println!("{kind}: {} us a pod, by thousands", shown.join(", "));
}

fn preempting() {
    let (profiles, mut state, mut snapshot) = (Profiles::default(), cluster(), Snapshot::default());
    let (mut search, mut rng) = (Search::default(), StdRng::seed_from_u64(1));
    for number in 0..NODES {
        for place in 0..4 {
            state.assume(pod(&format!("low-{number}-{place}"), "900m", 0, &json!({})), &format!("node-{number}"));
        }
    }
    state.update(&mut snapshot);
    let begun = Instant::now();
    for number in 0..STEP {
        let pod = pod(&format!("high-{number}"), "3", 10, &json!({}));
        state.update(&mut snapshot);
        let plugins = &profiles.of(&pod).expect("the default profile").plugins;
        let context = Context { snapshot: &snapshot, listers: &Nothing };
        let refused = schedule(plugins, &mut CycleState::default(), &pod, &context, &mut search, &mut rng);
        let mut error = refused.expect_err("all nodes are full");
        let Outcome::Nominated(candidate) = post_filter(plugins, &pod, &context, &mut search, &mut rng, &mut error) else {
            panic!("preemption helps")
        };
        state.nominate(pod.clone(), &candidate.node);
    }
    println!("preemption: {:.0} us a pod", begun.elapsed().as_secs_f64() * 1e6 / STEP as f64);
}
