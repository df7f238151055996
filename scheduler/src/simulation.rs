//! The whole scheduler on an API that is made up, on a paused clock, from a seed: pods and nodes come, change and go in between, bindings fail or
//! get lost, watches lag and break. Whatever happens, no node has more than it can hold, no pod is forgotten, and when all is quiet, only
//! pods wait that fit nowhere.

use crate::config::{self, ProfileConfiguration};
use crate::cycle::{Search, schedule};
use crate::fixtures;
use crate::framework::{Context, CycleState};
use crate::informers::Informers;
use crate::metrics::Metrics;
use crate::pod_info::PodInfo;
use crate::profiles::Profiles;
use crate::queue::{Backoff, SchedulingQueue};
use crate::resources::{self, Resources};
use crate::scheduler::Scheduler;
use crate::snapshot::Snapshot;
use client::{Cache, EventRecorder, ObjectKey, SharedCaches};
use http::{Method, Request, Response};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::client::Body;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// More of them with `SIMULATION_SEEDS`.
const SEEDS: u64 = 4;
const STEPS: usize = 100;
const NODES: usize = 5;

/// What a watcher is still to be told: the object, or the last state of one that is gone.
enum Told {
    Pod(Pod),
    PodGone(Pod),
    Node(Node),
    NodeGone(Node),
}

struct World {
    rng: StdRng,
    version: u64,
    pods: BTreeMap<String, Pod>,
    nodes: BTreeMap<String, Node>,
    told: VecDeque<Told>,
    /// Nothing fails any more.
    calm: bool,
}

impl World {
    fn put_pod(&mut self, mut pod: Pod) {
        self.version += 1;
        pod.metadata.resource_version = Some(self.version.to_string());
        self.pods.insert(pod.metadata.name.clone().unwrap(), pod.clone());
        self.told.push_back(Told::Pod(pod));
    }

    fn remove_pod(&mut self, name: &str) {
        if let Some(pod) = self.pods.remove(name) {
            self.told.push_back(Told::PodGone(pod));
        }
    }

    fn put_node(&mut self, mut node: Node) {
        self.version += 1;
        node.metadata.resource_version = Some(self.version.to_string());
        self.nodes.insert(node.metadata.name.clone().unwrap(), node.clone());
        self.told.push_back(Told::Node(node));
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    /// The API's answer to a request of the scheduler.
    fn answer(&mut self, method: &Method, path: &str, body: &Value) -> (u16, Value) {
        let failure = |code: u16, reason: &str| {
            (code, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason, "code": code}))
        };
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let ["api", "v1", "namespaces", _, "pods", name, rest @ ..] = parts.as_slice() else { return (201, body.clone()) };
        let fails = !self.calm && self.chance(15);
        if fails && self.chance(50) {
            return failure(500, "InternalError");
        }
        let Some(mut pod) = self.pods.get(*name).cloned() else { return failure(404, "NotFound") };
        match (method, rest) {
            (&Method::GET, []) => return (200, serde_json::to_value(pod).unwrap()),
            (&Method::POST, ["binding"]) => {
                let spec = pod.spec.as_mut().unwrap();
                if spec.node_name.is_some() || body["metadata"]["uid"].as_str() != pod.metadata.uid.as_deref() {
                    return failure(409, "Conflict");
                }
                spec.node_name = body["target"]["name"].as_str().map(str::to_owned);
                self.put_pod(pod);
            }
            (&Method::PATCH, ["status"]) => {
                let mut status = serde_json::to_value(&pod.status).unwrap();
                fixtures::merge(&mut status, body["status"].clone());
                pod.status = serde_json::from_value(status).unwrap();
                self.put_pod(pod);
            }
            (&Method::DELETE, []) if self.chance(50) => {
                pod.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
                self.put_pod(pod);
            }
            (&Method::DELETE, []) => self.remove_pod(name),
            _ => return failure(405, "MethodNotAllowed"),
        }
        // Done, but the scheduler does not hear of it.
        if fails { failure(504, "Timeout") } else { (201, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})) }
    }

    fn random_pod(&mut self, number: usize) -> Pod {
        let priority = [0, 0, 0, 10][self.rng.random_range(0..4)];
        let cpu = format!("{}", self.rng.random_range(1..4));
        let app = ["web", "db"][self.rng.random_range(0..2)];
        let mut spec =
            json!({"priority": priority, "schedulerName": config::DEFAULT_NAME, "containers": [{"resources": {"requests": {"cpu": cpu}}}]});
        let selector = json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": "kubernetes.io/hostname"});
        match self.rng.random_range(0..6) {
            0 => spec["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [selector]}}),
            1 => {
                let mut constraint = selector;
                fixtures::merge(&mut constraint, json!({"maxSkew": 2, "whenUnsatisfiable": "DoNotSchedule"}));
                spec["topologySpreadConstraints"] = json!([constraint]);
            }
            2 => spec["nodeSelector"] = json!({"disk": "ssd"}),
            _ => {}
        }
        (*fixtures::labelled_pod(&format!("p{number}"), json!({"app": app}), spec).pod).clone()
    }

    fn random_node(&mut self) -> Node {
        let name = format!("n{}", self.rng.random_range(0..NODES));
        let labels = if self.chance(50) { json!({"disk": "ssd"}) } else { json!({}) };
        let cordoned = self.chance(20);
        (*fixtures::node(&name, json!({"metadata": {"labels": labels}, "spec": {"unschedulable": cordoned}}))).clone()
    }

    /// Something happens that the scheduler has no part in.
    fn happen(&mut self, step: usize) {
        let names: Vec<String> = self.pods.keys().cloned().collect();
        let some = |rng: &mut StdRng| (!names.is_empty()).then(|| names[rng.random_range(0..names.len())].clone());
        match self.rng.random_range(0..12) {
            0..=3 => {
                let pod = self.random_pod(step);
                self.put_pod(pod);
            }
            4..=6 => {
                if let Some(name) = some(&mut self.rng) {
                    self.remove_pod(&name);
                }
            }
            7 => {
                let placed = some(&mut self.rng)
                    .and_then(|name| self.pods.get(&name).cloned())
                    .filter(|pod| pod.spec.as_ref().unwrap().node_name.is_some());
                if let Some(mut pod) = placed {
                    pod.status.get_or_insert_default().phase = Some("Succeeded".to_owned());
                    self.put_pod(pod);
                }
            }
            8 => {
                // Kubelets finish what was deleted.
                let gone: Vec<String> = self
                    .pods
                    .values()
                    .filter(|pod| pod.metadata.deletion_timestamp.is_some())
                    .map(|pod| pod.metadata.name.clone().unwrap())
                    .collect();
                gone.iter().for_each(|name| self.remove_pod(name));
            }
            9 if self.chance(30) => {
                let name = format!("n{}", self.rng.random_range(0..NODES));
                if let Some(node) = self.nodes.remove(&name) {
                    self.told.push_back(Told::NodeGone(node));
                }
            }
            _ => {
                let node = self.random_node();
                self.put_node(node);
            }
        }
    }

    /// No node holds more than it can.
    fn check(&self, when: &str) {
        let mut used: BTreeMap<&str, Resources> = BTreeMap::new();
        for pod in self.pods.values() {
            let ended = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Succeeded");
            if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|_| !ended) {
                used.entry(node).or_default().add(&resources::pod_requests(pod));
            }
        }
        for (node, used) in used {
            assert!(used.milli_cpu <= 4000, "{when}: {node} has to hold {} of 4000", used.milli_cpu);
        }
    }
}

struct Simulation {
    world: Arc<Mutex<World>>,
    scheduler: Arc<Scheduler>,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        let world = World { rng, version: 1, pods: BTreeMap::new(), nodes: BTreeMap::new(), told: VecDeque::new(), calm: false };
        let world = Arc::new(Mutex::new(world));
        let api = world.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                let delay = api.lock().rng.random_range(0..50);
                tokio::time::sleep(Duration::from_millis(delay)).await;
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.map_err(std::io::Error::other)?;
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let (code, answer) = api.lock().answer(&parts.method, parts.uri.path(), &body);
                Ok::<_, std::io::Error>(Response::builder().status(code).body(Body::from(answer.to_string().into_bytes())).unwrap())
            }
        });
        let client = kube::Client::new(service, "default");
        let profiles = Arc::new(Profiles::new(&[ProfileConfiguration::named(config::DEFAULT_NAME)]));
        let metrics = Arc::new(Metrics::default());
        let queue = SchedulingQueue::new(profiles.clone(), Backoff::default(), metrics.clone());
        let informers = Informers::unwatched(SharedCaches::new(client.clone()));
        let (pods, nodes) = (informers.pods.clone(), informers.nodes.clone());
        let (recorder, mut reports) = EventRecorder::captured();
        tokio::spawn(async move { while reports.recv().await.is_some() {} });
        let scheduler = Arc::new(Scheduler::new(client, profiles, Arc::default(), informers, queue, recorder, metrics));
        Informers::subscribe(&scheduler);
        Self { world, scheduler, pods, nodes }
    }

    /// Tells the scheduler the next thing that a watch has to tell.
    fn tell(&self) -> bool {
        let Some(told) = self.world.lock().told.pop_front() else { return false };
        match told {
            // The scheduler's watch leaves out pods that have ended: to it they are gone.
            Told::Pod(pod) if pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Succeeded") => {
                self.pods.delete(&ObjectKey::of(&pod), Some(pod));
            }
            Told::Pod(pod) => self.pods.apply(pod),
            Told::PodGone(pod) => self.pods.delete(&ObjectKey::of(&pod), Some(pod)),
            Told::Node(node) => self.nodes.apply(node),
            Told::NodeGone(node) => self.nodes.delete(&ObjectKey::of(&node), Some(node)),
        }
        true
    }

    /// The watch breaks: what it had still to tell is lost, and a list takes its place.
    fn relist(&self) {
        let (pods, nodes) = {
            let mut world = self.world.lock();
            world.told.clear();
            (world.pods.clone(), world.nodes.clone())
        };
        let ended = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Succeeded");
        for pod in self.pods.list() {
            let name = pod.metadata.name.as_deref().unwrap();
            if pods.get(name).is_none_or(ended) {
                self.pods.delete(&ObjectKey::of(pod.as_ref()), None);
            }
        }
        for node in self.nodes.list().into_iter().filter(|node| !nodes.contains_key(node.metadata.name.as_deref().unwrap())) {
            self.nodes.delete(&ObjectKey::of(node.as_ref()), None);
        }
        pods.into_values().filter(|pod| !ended(pod)).for_each(|pod| self.pods.apply(pod));
        nodes.into_values().for_each(|node| self.nodes.apply(node));
    }

    /// Every pod that the scheduler knows to wait is somewhere in its queue, or on its way to a node.
    fn check_none_lost(&self, when: &str) {
        for pod in self.pods.list() {
            let waits = pod.spec.as_ref().unwrap().node_name.is_none() && pod.metadata.deletion_timestamp.is_none();
            let uid = pod.metadata.uid.as_deref().unwrap();
            // Bound in the API, and not seen yet.
            let assumed = self.scheduler.state.lock().is_assumed(uid);
            assert!(!waits || assumed || self.scheduler.queue.contains(uid), "{when}: {uid} is lost");
        }
    }

    /// Pods that wait at the end fit nowhere.
    fn check_nothing_left(&self, when: &str) {
        let mut snapshot = Snapshot::default();
        for node in self.nodes.list() {
            let name = node.metadata.name.clone().unwrap();
            let pods = self.pods.list().into_iter().filter(|pod| pod.spec.as_ref().unwrap().node_name.as_deref() == Some(&name));
            let mut info = crate::node_info::NodeInfo::new(node, pods.map(|pod| Arc::new(PodInfo::new(pod))));
            // Room that is promised to others is not there.
            info.nominated = self.scheduler.state.lock().nominated_below(&name, i32::MAX);
            snapshot.set(&name, Some(Arc::new(info)));
        }
        snapshot.arrange();
        let context = Context { snapshot: &snapshot, listers: &crate::listers::Nothing };
        let profile = Profiles::default();
        for pod in self.pods.list().into_iter().map(PodInfo::new) {
            if pod.node_name().is_some() || pod.is_terminating() {
                continue;
            }
            let plugins = &profile.of(&pod).unwrap().plugins;
            let mut search = Search::default();
            let placed = schedule(plugins, &mut CycleState::default(), &pod, &context, &mut search, &mut StdRng::seed_from_u64(1));
            let refused = self.scheduler.queue.refused();
            assert!(placed.is_err(), "{when}: {} waits, and would fit on {placed:?}: {:?}, refused {refused:?}", pod.uid(), pod.spec());
        }
    }

    async fn run(&self, seed: u64) {
        let decider = self.scheduler.clone();
        let deciding = tokio::spawn(async move { decider.decide().await });
        for step in 0..STEPS {
            let when = format!("seed {seed}, step {step}");
            let choice = {
                let mut world = self.world.lock();
                world.happen(step);
                world.rng.random_range(0..20)
            };
            match choice {
                0 => self.relist(),
                1..=9 => while self.tell() {},
                10..=15 => drop(self.tell()),
                _ => {}
            }
            let wait = self.world.lock().rng.random_range(0..200);
            tokio::time::sleep(Duration::from_millis(wait)).await;
            self.world.lock().check(&when);
            self.check_none_lost(&when);
        }
        self.world.lock().calm = true;
        let when = format!("seed {seed}, at the end");
        // Long enough for every backoff and for kubelets; short enough that no pod is tried just because it has waited for long.
        for _ in 0..100 {
            while self.tell() {}
            tokio::time::sleep(Duration::from_secs(1)).await;
            let gone: Vec<String> = {
                let world = self.world.lock();
                let terminating = world.pods.values().filter(|pod| pod.metadata.deletion_timestamp.is_some());
                terminating.map(|pod| pod.metadata.name.clone().unwrap()).collect()
            };
            gone.iter().for_each(|name| self.world.lock().remove_pod(name));
        }
        while self.tell() {}
        self.world.lock().check(&when);
        self.check_none_lost(&when);
        self.check_nothing_left(&when);
        assert_eq!(self.scheduler.state.lock().size().assumed, 0, "{when}: pods are still assumed");
        self.scheduler.queue.close();
        deciding.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_and_nothing_is_too_full() {
    let seeds = std::env::var("SIMULATION_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    for seed in 0..seeds {
        Simulation::new(seed).run(seed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_happens_is_measured() {
    let simulation = Simulation::new(1);
    let decider = simulation.scheduler.clone();
    tokio::spawn(async move { decider.decide().await });
    let settle = async || {
        for _ in 0..5 {
            while simulation.tell() {}
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let memory = |memory: &str| json!({"status": {"allocatable": {"memory": memory}}});
    let asking = |name: &str, cpu: &str| {
        let containers = json!([{"resources": {"requests": {"cpu": cpu}}}]);
        (*fixtures::pod(name, json!({"schedulerName": config::DEFAULT_NAME, "containers": containers})).pod).clone()
    };
    let change = |change: &dyn Fn(&mut World)| change(&mut simulation.world.lock());
    change(&|world| {
        world.calm = true;
        ["n0", "n1"].into_iter().for_each(|name| world.put_node((*fixtures::node(name, json!({}))).clone()));
        world.put_pod(asking("fits", "1"));
    });
    settle().await;
    change(&|world| world.put_pod(asking("does-not", "100")));
    settle().await;
    // As many events as it takes for one of them to be measured.
    for size in 0..crate::stopwatch::ONE_IN {
        change(&|world| world.put_node((*fixtures::node("n0", memory(&format!("{}Gi", size + 10)))).clone()));
    }
    settle().await;
    let text = simulation.scheduler.metrics.text(&simulation.scheduler.gauges());
    let point = |point: &str, status: &str| {
        format!(
            "scheduler_framework_extension_point_duration_seconds_count{{extension_point=\"{point}\",status=\"{status}\",profile=\"default-scheduler\"}}"
        )
    };
    let plugin = |plugin: &str, point: &str, status: &str| {
        format!("scheduler_plugin_execution_duration_seconds_count{{plugin=\"{plugin}\",extension_point=\"{point}\",status=\"{status}\"}}")
    };
    let evaluations = |plugin: &str, point: &str| {
        format!("scheduler_plugin_evaluation_total{{plugin=\"{plugin}\",extension_point=\"{point}\",profile=\"default-scheduler\"}}")
    };
    let points = ["PreFilter", "Filter", "PreScore", "Score", "Reserve", "Permit", "PreBind", "Bind", "PostBind"];
    let mut expected: Vec<String> = points.iter().map(|name| point(name, "Success")).collect();
    expected.extend([
        point("PreBindPreFlight", "Skip"),
        point("PostFilter", "Unschedulable"),
        plugin("NodePorts", "PreFilter", "Skip"),
        plugin("NodeResourcesFit", "Filter", "Success"),
        plugin("NodeResourcesFit", "Score", "Success"),
        plugin("NodeResourcesFit", "ScoreExtensionNormalize", "Success"),
        plugin("DefaultBinder", "Bind", "Success"),
        evaluations("NodeAffinity", "PreFilter"),
        evaluations("NodeResourcesFit", "Filter"),
        evaluations("NodeResourcesFit", "Score"),
        evaluations("NodeAffinity", "PreScore"),
    ]);
    expected.extend(
        [
            "scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"scheduled\"}",
            "scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"unschedulable\"}",
            "scheduler_scheduling_algorithm_duration_seconds_count",
            "scheduler_pod_scheduling_sli_duration_seconds_count{attempts=\"1\"}",
            "scheduler_pod_scheduling_attempts_count",
            "scheduler_preemption_attempts_total",
            "scheduler_queue_incoming_pods_total{queue=\"active\",event=\"UnschedulablePodAdd\"}",
            "scheduler_queue_incoming_pods_total{queue=\"unschedulable\",event=\"ScheduleAttemptFailure\"}",
            "scheduler_queueing_hint_execution_duration_seconds_count{plugin=\"NodeResourcesFit\",event=\"NodeUpdate\",hint=\"QueueSkip\"}",
            "scheduler_event_handling_duration_seconds_count{event=\"NodeAdd\"}",
            "scheduler_event_handling_duration_seconds_count{event=\"AssignedPodUpdate\"}",
            "scheduler_event_handling_duration_seconds_count{event=\"UnschedulablePodAdd\"}",
            "scheduler_async_api_call_execution_total{call_type=\"pod_binding\",result=\"success\"}",
            "scheduler_async_api_call_execution_duration_seconds_count{call_type=\"pod_status_patch\",result=\"success\"}",
            "scheduler_cache_size{type=\"nodes\"}",
        ]
        .map(str::to_owned),
    );
    let counted =
        |line: &str, name: &str| line.strip_prefix(name).and_then(|rest| rest.trim().parse::<u64>().ok()).is_some_and(|count| count > 0);
    for name in expected {
        assert!(text.lines().any(|line| counted(line, &name)), "{name} is not in\n{text}");
    }
    for name in [
        "scheduler_goroutines{operation=\"binding\"}",
        "scheduler_inflight_events{event=\"PodPopped\"}",
        "scheduler_pod_scheduled_after_flush_total",
    ] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name} is not in\n{text}");
    }
}
