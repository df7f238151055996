//! What users do, and how it has to end.

use super::invariants::of_kind;
use super::nodes::path;
use super::world::{Objects, World, controller, text};
use rand::Rng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

/// The workloads of a run, each of its kind at most once.
pub struct Scenario {
    kinds: Vec<&'static str>,
    /// Whether users only ever roll out new versions, so that what serves must go on serving.
    gentle: bool,
    versions: u32,
    nodes: u32,
}

const KINDS: [&str; 6] = ["deployments", "replicasets", "replicationcontrollers", "statefulsets", "daemonsets", "jobs"];

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
        let mut scenario = Self { kinds: vec![KINDS[first], KINDS[second]], gentle: rng.random_range(0..2) == 0, versions: 1, nodes: 0 };
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
        let kind = self.kinds[rng.random_range(0..self.kinds.len())];
        if world.get(kind, kind).is_none() {
            return;
        }
        if kind != "jobs" && (self.gentle || rng.random_range(0..3) == 0) {
            if kind == "replicasets" || kind == "replicationcontrollers" {
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
            7 if rng.random_range(0..10) == 0 => {
                world.note(format!("a user deletes {kind}"));
                world.request("DELETE", &path(kind, kind), "", json!({}));
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
            ("jobs", _) => object["spec"]["suspend"] = json!(count % 2 == 0),
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
    }

    /// What is not yet as it should be at the end.
    pub fn unfinished(&self, world: &World) -> Vec<String> {
        let job = world.look(|objects| objects.get(&("jobs", "jobs".to_owned())).map(|job| text(job, "/metadata/uid").to_owned()));
        let unanswered = world.unanswered(&job.unwrap_or_default());
        world.look(|objects| self.unfinished_of(objects, unanswered))
    }

    fn unfinished_of(&self, objects: &Objects, unanswered: i64) -> Vec<String> {
        let mut open = Vec::new();
        for pod in of_kind(objects, "pods") {
            let name = text(pod, "/metadata/name");
            // One that has ended is adopted by nobody, and stays for whoever wants to look at it.
            let has_ended = matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") && controller(pod).is_none();
            if !has_ended && !controller(pod).is_some_and(|uid| objects.values().any(|object| text(object, "/metadata/uid") == uid)) {
                open.push(format!("pod {name} is nobody's"));
            }
            if !text(pod, "/metadata/deletionTimestamp").is_empty() {
                open.push(format!("pod {name} is still going"));
            }
        }
        for kind in &self.kinds {
            if let Some(object) = objects.get(&(*kind, (*kind).to_owned())) {
                end_of(kind, object, objects, unanswered, &mut open);
            }
            served(kind, objects, &mut open);
            budgeted(kind, objects, &mut open);
        }
        open
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
    let has_scale = !["daemonsets", "jobs"].contains(&kind);
    let what = if has_scale && rng.random_range(0..2) == 0 { "maxUnavailable" } else { "minAvailable" };
    json!({"metadata": {"name": kind}, "spec": {"selector": {"matchLabels": {"app": kind}}, what: 1}})
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
    let mut template = json!({"metadata": {"labels": selector}, "spec": {"containers": [{"name": "c", "image": "v1"}]}});
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
        "replicationcontrollers" => json!({"replicas": replicas, "selector": selector, "template": template}),
        _ => json!({"replicas": replicas, "selector": {"matchLabels": selector}, "template": template}),
    };
    json!({"metadata": {"name": kind}, "spec": spec})
}

fn selected<'a>(kind: &'a str, objects: &'a Objects) -> impl Iterator<Item = &'a Value> {
    of_kind(objects, "pods").filter(move |pod| text(pod, "/metadata/labels/app") == kind)
}

fn is_ready(pod: &Value) -> bool {
    text(pod, "/status/conditions/0/status") == "True"
}

/// Slices and Endpoints list every pod that runs, once, and as ready as it is.
fn served(kind: &str, objects: &Objects, open: &mut Vec<String>) {
    let running = selected(kind, objects).filter(|pod| text(pod, "/status/phase") == "Running");
    let mut wanted: Vec<(&str, bool)> = running.map(|pod| (text(pod, "/status/podIP"), is_ready(pod))).collect();
    wanted.sort_unstable();
    let slices = of_kind(objects, "endpointslices").filter(|slice| text(slice, "/metadata/labels/kubernetes.io~1service-name") == kind);
    let all = slices.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    let mut listed: Vec<(&str, bool)> =
        all.map(|endpoint| (text(endpoint, "/addresses/0"), endpoint.pointer("/conditions/ready") == Some(&json!(true)))).collect();
    listed.sort_unstable();
    if listed != wanted {
        open.push(format!("{kind}: slices list {listed:?} of {wanted:?}"));
    }
    let subsets = objects.get(&("endpoints", kind.to_owned())).and_then(|endpoints| endpoints["subsets"].as_array());
    let mut listed = Vec::new();
    for subset in subsets.into_iter().flatten() {
        for (list, is_ready) in [("addresses", true), ("notReadyAddresses", false)] {
            listed.extend(subset[list].as_array().into_iter().flatten().map(|address| (text(address, "/ip"), is_ready)));
        }
    }
    listed.sort_unstable();
    if listed != wanted {
        open.push(format!("{kind}: Endpoints list {listed:?} of {wanted:?}"));
    }
}

/// The budget counts the pods that serve, and allows what they are above what is promised.
fn budgeted(kind: &str, objects: &Objects, open: &mut Vec<String>) {
    let Some(budget) = objects.get(&("poddisruptionbudgets", kind.to_owned())) else { return };
    let status = |field: &str| budget.pointer(&format!("/status/{field}")).and_then(Value::as_i64).unwrap_or(-1);
    let healthy = i64::try_from(selected(kind, objects).filter(|pod| is_ready(pod)).count()).unwrap_or(i64::MAX);
    let (expected, desired) = (status("expectedPods"), status("desiredHealthy"));
    let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
    if (status("currentHealthy"), status("disruptionsAllowed")) != (healthy, allowed) {
        open.push(format!("{kind}: {healthy} pods serve, and the budget says {}", budget["status"]));
    }
}

/// `unanswered`: so many pods of a Job may have been created once more, since nobody was told of the first.
fn end_of(kind: &str, object: &Value, objects: &Objects, unanswered: i64, open: &mut Vec<String>) {
    let mut expect = |holds: bool, what: &str| {
        if !holds {
            open.push(format!("{kind}: {what}"));
        }
    };
    let status = |field: &str| object.pointer(&format!("/status/{field}")).and_then(Value::as_i64).unwrap_or(0);
    let spec = |field: &str| object.pointer(&format!("/spec/{field}")).and_then(Value::as_i64).unwrap_or(0);
    let uid = text(object, "/metadata/uid");
    let image = |of: &Value| of.pointer("/spec/containers/0/image").cloned();
    let version = object.pointer("/spec/template/spec/containers/0/image").cloned();
    let owners: Vec<&str> = match kind {
        "deployments" => {
            of_kind(objects, "replicasets").filter(|set| controller(set) == Some(uid)).map(|set| text(set, "/metadata/uid")).collect()
        }
        _ => vec![uid],
    };
    let pods: Vec<&Value> = of_kind(objects, "pods").filter(|pod| controller(pod).is_some_and(|of| owners.contains(&of))).collect();
    let active: Vec<&&Value> = pods.iter().filter(|pod| !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")).collect();
    let ready = active.iter().filter(|pod| is_ready(pod)).count();
    let is = |count: usize, wanted: i64| i64::try_from(count) == Ok(wanted);
    if kind != "jobs" {
        expect(status("observedGeneration") == object["metadata"]["generation"].as_i64().unwrap_or(0), "its spec has not been seen");
        let rolled = kind == "replicasets" || kind == "replicationcontrollers" || active.iter().all(|pod| image(pod) == version);
        expect(rolled, "pods of an older version");
    }
    match kind {
        "jobs" => {
            let done = object.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
            expect(done.clone().any(|condition| condition["type"] == "Complete" && condition["status"] == "True"), "not complete");
            // Of an index it is counted once that it succeeded.
            let most = spec("completions") + if text(object, "/spec/completionMode") == "Indexed" { 0 } else { unanswered };
            expect((spec("completions")..=most).contains(&status("succeeded")), "not as many successes as were asked for");
            expect(active.is_empty() && status("active") == 0, "pods are still active");
            expect(pods.iter().all(|pod| pod.pointer("/metadata/finalizers/0").is_none()), "pods are still tracked");
            let succeeded = pods.iter().filter(|pod| text(pod, "/status/phase") == "Succeeded").count();
            expect(
                i64::try_from(succeeded).is_ok_and(|there| there <= spec("completions") + unanswered),
                "more successes than were asked for",
            );
        }
        "daemonsets" => {
            let nodes = of_kind(objects, "nodes").filter(|node| node.pointer("/spec/taints/0").is_none()).count();
            expect(ready == nodes && active.len() == nodes, "not one pod on every node");
            expect(is(nodes, status("desiredNumberScheduled")) && is(nodes, status("numberAvailable")), "its status is wrong");
            expect(is(nodes, status("updatedNumberScheduled")), "its status does not know the update");
        }
        _ => {
            expect(is(ready, spec("replicas")) && is(active.len(), spec("replicas")), "not as many pods as asked for");
            for count in ["replicas", "readyReplicas", "availableReplicas"] {
                expect(status(count) == spec("replicas"), "its status is wrong");
            }
        }
    }
    match kind {
        "deployments" => {
            let left = of_kind(objects, "replicasets").filter(|set| controller(set) == Some(uid) && set["spec"]["replicas"] != 0).count();
            expect(left <= 1 && status("updatedReplicas") == spec("replicas"), "old ReplicaSets have pods");
        }
        "statefulsets" => {
            let start = spec("ordinals/start");
            let mut names: Vec<String> = (start..start + spec("replicas")).map(|ordinal| format!("{kind}-{ordinal}")).collect();
            names.sort();
            expect(
                active.iter().map(|pod| text(pod, "/metadata/name")).eq(names.iter().map(String::as_str)),
                "other ordinals than asked for",
            );
            expect(text(object, "/status/currentRevision") == text(object, "/status/updateRevision"), "the rollout is not over");
        }
        _ => {}
    }
}
