//! What users do; [`super::ends`] says how it has to end.

use super::ends;
use super::nodes::path;
use super::world::{KINDS as SERVED, NAMESPACE, World, text};
use rand::Rng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};
use std::time::Duration;

/// The workloads of a run, each of its kind at most once.
pub struct Scenario {
    kinds: Vec<&'static str>,
    /// Whether users only ever roll out new versions, so that what serves must go on serving.
    gentle: bool,
    versions: u32,
    nodes: u32,
    /// Whether the first of the workloads is scaled by what it uses.
    autoscaled: bool,
    /// Whether the namespace has been deleted, and all that is in it.
    going: bool,
}

const KINDS: [&str; 7] = ["deployments", "replicasets", "replicationcontrollers", "statefulsets", "daemonsets", "jobs", "cronjobs"];
/// Those that can be scaled.
const SCALED: [&str; 4] = ["deployments", "replicasets", "replicationcontrollers", "statefulsets"];

const AUTOSCALERS: &str = "horizontalpodautoscalers";
const AUTOSCALER: &str = "autoscaler";
const QUOTAS: &str = "resourcequotas";
const QUOTA: &str = "quota";

fn api_path(plural: &str) -> String {
    path(plural, "").trim_end_matches('/').to_owned()
}

fn create(world: &World, plural: &str, object: Value) {
    let (code, answer) = world.request("POST", &api_path(plural), "", object);
    assert!(code < 300, "{answer}");
}

impl Scenario {
    /// Makes nodes and workloads.
    pub fn begin(world: &World, rng: &mut SmallRng) -> Self {
        let first = rng.random_range(0..KINDS.len());
        let second = (first + rng.random_range(1..KINDS.len())) % KINDS.len();
        let mut scenario = Self {
            kinds: vec![KINDS[first], KINDS[second]],
            gentle: rng.random_range(0..2) == 0,
            versions: 1,
            nodes: 0,
            autoscaled: SCALED.contains(&KINDS[first]) && rng.random_range(0..3) == 0,
            going: false,
        };
        create(world, "namespaces", json!({"metadata": {"name": NAMESPACE}, "spec": {"finalizers": ["kubernetes"]}}));
        if scenario.autoscaled {
            create(world, AUTOSCALERS, autoscaler(KINDS[first], rng));
        }
        if rng.random_range(0..4) == 0 {
            create(world, QUOTAS, quota(rng.random_range(3..15)));
        }
        for _ in 0..rng.random_range(1..5) {
            scenario.add_node(world);
        }
        for kind in scenario.kinds.clone() {
            create(world, kind, workload(kind, rng));
            create(world, "services", service(kind));
            create(world, "poddisruptionbudgets", budget(kind, rng));
        }
        scenario
    }

    fn add_node(&mut self, world: &World) {
        self.nodes += 1;
        create(world, "nodes", json!({"metadata": {"name": format!("node-{}", self.nodes)}, "spec": {}}));
    }

    /// One thing that a user, or bad luck on a node, does.
    pub fn act(&mut self, world: &World, rng: &mut SmallRng) {
        if self.going {
            return;
        }
        let kind = self.kinds[rng.random_range(0..self.kinds.len())];
        if world.get(kind, kind).is_none() {
            // What pods another has left are this one's now; those of a Job would be counted.
            if kind != "jobs" {
                world.note(format!("a user makes {kind} anew"));
                world.interfered();
                create(world, kind, workload(kind, rng));
            }
            return;
        }
        match rng.random_range(0..16) {
            0 => return world.change(AUTOSCALERS, AUTOSCALER, |object| object["metadata"]["annotations"]["load"] = json!(load(rng))),
            1 => return world.change(QUOTAS, QUOTA, |object| object["spec"]["hard"]["pods"] = json!(rng.random_range(3..15).to_string())),
            2 if !self.gentle && rng.random_range(0..8) == 0 => {
                world.note("a user deletes the namespace");
                world.interfered();
                world.request("DELETE", &path("namespaces", NAMESPACE), "", json!({}));
                self.going = true;
                return;
            }
            _ => {}
        }
        if kind != "jobs" && (self.gentle || rng.random_range(0..3) == 0) {
            if ["replicasets", "replicationcontrollers", "cronjobs"].contains(&kind) {
                return;
            }
            self.versions += 1;
            let image = format!("v{}", if rng.random_range(0..4) == 0 { rng.random_range(1..=self.versions) } else { self.versions });
            world.note(format!("a user updates {kind} to {image}"));
            return world.change(kind, kind, |object| object["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image));
        }
        if self.gentle {
            return;
        }
        let what = rng.random_range(0..8);
        if !(3..7).contains(&what) {
            world.interfered();
        }
        match what {
            0..3 => self.change_one(world, rng, kind),
            3 => pod(world, rng, "deletes", |name| drop(world.request("DELETE", &path("pods", name), "", json!({})))),
            4 => pod(world, rng, "sees the end of", |name| world.change("pods", name, |pod| pod["status"] = json!({"phase": "Failed"}))),
            5 => pod(world, rng, "makes unready", |name| {
                world.change("pods", name, |pod| {
                    if pod["status"]["phase"] == "Running" {
                        pod["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]);
                    }
                });
            }),
            6 if kind != "jobs" => pod(world, rng, "takes from its owner", |name| {
                world.change("pods", name, |pod| {
                    let of_job = pod.pointer("/metadata/labels/batch.kubernetes.io~1job-name").is_some();
                    if !of_job && text(pod, "/metadata/deletionTimestamp").is_empty() {
                        pod["metadata"]["ownerReferences"] = json!(null);
                    }
                });
            }),
            7 if rng.random_range(0..3) == 0 => {
                let propagation = ["Background", "Foreground", "Orphan"][rng.random_range(0..3)];
                world.note(format!("a user deletes {kind}: {propagation}"));
                world.request("DELETE", &path(kind, kind), "", json!({"propagationPolicy": propagation}));
            }
            _ => {
                world.interfered();
                self.change_nodes(world, rng);
            }
        }
    }

    fn change_one(&self, world: &World, rng: &mut SmallRng, kind: &'static str) {
        let (count, other) = (rng.random_range(0..7), rng.random_range(0..3));
        world.note(format!("a user changes {kind}: {count} {other}"));
        world.change(kind, kind, |object| match (kind, other) {
            ("daemonsets", _) => object["spec"]["updateStrategy"] = update(count % 2, 1 - count % 2),
            ("deployments", 1) => object["spec"]["paused"] = json!(count % 2 == 0),
            ("deployments", 2) => object["spec"]["strategy"]["rollingUpdate"] = rolling(count % 3, count % 2),
            ("statefulsets", 1) => object["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = json!(count / 2),
            ("statefulsets", 2) => object["spec"]["ordinals"] = json!({"start": count / 3}),
            ("jobs", 1) => object["spec"]["parallelism"] = json!(1 + count / 2),
            ("jobs" | "cronjobs", _) => object["spec"]["suspend"] = json!(count % 2 == 0),
            _ => object["spec"]["replicas"] = json!(count),
        });
    }

    fn change_nodes(&mut self, world: &World, rng: &mut SmallRng) {
        let name = format!("node-{}", rng.random_range(1..=self.nodes));
        match rng.random_range(0..3) {
            0 if self.nodes < 6 => self.add_node(world),
            1 if world.list("nodes").0.len() > 1 => drop(world.request("DELETE", &path("nodes", &name), "", json!({}))),
            _ => world.change("nodes", &name, |node| {
                let tainted = node.pointer("/spec/taints/0").is_some();
                node["spec"]["taints"] = if tainted { json!(null) } else { json!([{"key": "k", "effect": "NoExecute"}]) };
            }),
        }
    }

    /// What holds a workload back is taken away, so that there is one end that all of it has to come to.
    pub fn settle(&self, world: &World) {
        world.interfered();
        world.change("deployments", "deployments", |object| object["spec"]["paused"] = json!(null));
        world.change("statefulsets", "statefulsets", |object| object["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = json!(0));
        world.change("jobs", "jobs", |object| object["spec"]["suspend"] = json!(false));
        world.change("cronjobs", "cronjobs", |object| object["spec"]["suspend"] = json!(true));
        world.change(QUOTAS, QUOTA, |object| object["spec"]["hard"]["pods"] = json!("1000"));
    }

    /// What is not yet as it should be at the end.
    pub fn unfinished(&self, world: &World) -> Vec<String> {
        let unanswered = world.unanswered();
        world.look(|objects| if self.going { ends::of_namespace(objects) } else { ends::of(&self.kinds, objects, &unanswered) })
    }

    /// The longest step, in milliseconds: where something happens every minute, a run has to last some.
    pub fn pace(&self) -> u64 {
        if self.kinds.contains(&"cronjobs") { 2000 } else { 400 }
    }

    /// How long what is under way takes to come to rest: autoscalers remember for five minutes what they have proposed.
    pub fn rest(&self) -> Duration {
        Duration::from_secs(if self.autoscaled { 660 } else { 30 })
    }
}

fn pod(world: &World, rng: &mut SmallRng, what: &str, act: impl FnOnce(&str)) {
    let pods = world.list("pods").0;
    if !pods.is_empty() {
        let pod = &pods[rng.random_range(0..pods.len())];
        let name = text(pod, "/metadata/name").to_owned();
        world.dies(pod);
        world.note(format!("somebody {what} pod {name}"));
        act(&name);
    }
}

/// What leads to the pods of a workload.
fn service(kind: &str) -> Value {
    let spec =
        json!({"selector": {"app": kind}, "clusterIP": "10.96.0.1", "ipFamilies": ["IPv4"], "ports": [{"port": 80, "protocol": "TCP"}]});
    json!({"metadata": {"name": kind}, "spec": spec})
}

/// What may be taken of the pods of a workload. Of some kinds nobody here knows how many there should be.
fn budget(kind: &str, rng: &mut SmallRng) -> Value {
    let what = if SCALED.contains(&kind) && rng.random_range(0..2) == 0 { "maxUnavailable" } else { "minAvailable" };
    json!({"metadata": {"name": kind}, "spec": {"selector": {"matchLabels": {"app": kind}}, what: 1}})
}

/// How many thousandths of a CPU the pods of an autoscaled workload use together: each asks for 100, and is to use half of that.
fn load(rng: &mut SmallRng) -> String {
    rng.random_range(0..400).to_string()
}

fn autoscaler(kind: &str, rng: &mut SmallRng) -> Value {
    let (_, api_version, scaled) = SERVED.iter().find(|(plural, ..)| *plural == kind).expect("every workload is served");
    let target = json!({"apiVersion": api_version, "kind": scaled, "name": kind});
    let metric = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
    json!({
        "metadata": {"name": AUTOSCALER, "annotations": {"load": load(rng)}},
        "spec": {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 6, "metrics": [metric]}})
}

fn quota(pods: i32) -> Value {
    json!({"metadata": {"name": QUOTA}, "spec": {"hard": {"pods": pods.to_string()}}})
}

fn rolling(surge: i64, unavailable: i64) -> Value {
    let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
    json!({"maxSurge": surge, "maxUnavailable": unavailable})
}

fn update(surge: i64, unavailable: i64) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": rolling(surge, unavailable)})
}

fn workload(kind: &str, rng: &mut SmallRng) -> Value {
    let selector = json!({"app": kind});
    let container = json!({"name": "c", "image": "v1", "resources": {"requests": {"cpu": "100m"}}});
    let mut template = json!({"metadata": {"labels": selector}, "spec": {"containers": [container]}});
    let (replicas, a, b) = (rng.random_range(1..7), rng.random_range(0..3), rng.random_range(0..3));
    let spec = match kind {
        "deployments" => {
            let recreate = rng.random_range(0..6) == 0;
            let strategy =
                if recreate { json!({"type": "Recreate"}) } else { json!({"type": "RollingUpdate", "rollingUpdate": rolling(a, b)}) };
            json!({
                "replicas": replicas, "selector": {"matchLabels": selector}, "template": template, "strategy": strategy,
                "revisionHistoryLimit": 2, "progressDeadlineSeconds": 600})
        }
        "statefulsets" => json!({
            "replicas": replicas, "selector": {"matchLabels": selector}, "template": template, "revisionHistoryLimit": 2,
            "podManagementPolicy": if a == 0 { "Parallel" } else { "OrderedReady" },
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": 1 + b / 2}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}],
            "persistentVolumeClaimRetentionPolicy": {"whenScaled": if b == 0 { "Delete" } else { "Retain" }, "whenDeleted": "Delete"}}),
        "daemonsets" => json!({
            "selector": {"matchLabels": selector}, "template": template, "revisionHistoryLimit": 2,
            "updateStrategy": if a == 0 { update(1, 0) } else { update(0, 1) }}),
        "jobs" => {
            let labels = json!({"app": kind, "batch.kubernetes.io/job-name": kind, "batch.kubernetes.io/controller-uid": "jobs"});
            template["metadata"]["labels"] = labels;
            template["spec"]["restartPolicy"] = json!("Never");
            json!({
                "completions": replicas, "parallelism": 1 + a, "completionMode": if b == 0 { "Indexed" } else { "NonIndexed" },
                "backoffLimit": 1000, "suspend": false, "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": "jobs"}},
                "template": template, "podReplacementPolicy": "TerminatingOrFailed"})
        }
        "cronjobs" => {
            template["spec"]["restartPolicy"] = json!("Never");
            let job = json!({
                "completions": 1 + a, "parallelism": 1 + b, "completionMode": "NonIndexed", "backoffLimit": 1000, "suspend": false,
                "template": template});
            let policy = ["Allow", "Forbid", "Replace"][rng.random_range(0..3)];
            json!({
                "schedule": "* * * * *", "concurrencyPolicy": policy, "suspend": false,
                "successfulJobsHistoryLimit": b, "failedJobsHistoryLimit": 1, "jobTemplate": {"spec": job}})
        }
        "replicationcontrollers" => json!({"replicas": replicas, "selector": selector, "template": template}),
        _ => json!({"replicas": replicas, "selector": {"matchLabels": selector}, "template": template}),
    };
    json!({"metadata": {"name": kind}, "spec": spec})
}
