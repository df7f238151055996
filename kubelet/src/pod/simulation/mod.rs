//! Whole pods on the simulated runtime and tokio's paused clock: minutes of back-off and grace pass in milliseconds, and every run is the same.
//!
//! What is real: workers, probes, hooks, images, statuses, events. What is not: the runtime, the time, volumes (a simulated node has none), and
//! the API, whose part [`World`] plays: it hands pods in, takes their statuses, and drops a pod once the kubelet says that nothing is left.

mod adopting;
mod ending;
mod faults;
mod hooks;
mod init;
mod probes;
mod restarts;
mod users;

use super::{worker::StatusSink, workers::Workers};
use crate::{
    clock::Clock,
    container::{identity, network, security},
    image::Images,
    lookup::Lookup,
    node::{Node, NodeFacts},
    recorder::Recorder,
    runtime::simulated::Simulated,
    topology_manager::TopologyManager,
};
use client::{EventRecorder, events::Report};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodStatus};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// How long, in simulated time, a test waits for what it waits for.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The calendar at the start of every simulation.
fn start() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().expect("a time")
}

/// The API's side: the statuses that were reported, and whether nothing is left.
struct Statuses {
    clock: Clock,
    reported: Mutex<Vec<(Timestamp, PodStatus)>>,
    newest: watch::Sender<(PodStatus, bool)>,
}

impl StatusSink for Statuses {
    fn report(&self, _: &Arc<Pod>, status: Arc<PodStatus>) {
        self.reported.lock().push((self.clock.now(), PodStatus::clone(&status)));
        self.newest.send_modify(|newest| newest.0 = PodStatus::clone(&status));
    }

    fn ended(&self, _: &Arc<Pod>) {
        self.newest.send_modify(|newest| newest.1 = true);
    }

    fn forget(&self, _: &str) {}
}

/// One node with one pod.
struct World {
    clock: Clock,
    runtime: Simulated,
    workers: Arc<Workers>,
    statuses: Arc<Statuses>,
    events: mpsc::Receiver<Report>,
    /// Whether all sources of pods have been heard.
    sources: watch::Sender<bool>,
    stop: CancellationToken,
    pod: Pod,
}

impl World {
    /// A node whose runtime is ready to be told how to behave, and a pod that is not there yet. `spec` is the pod's.
    fn new(spec: Value) -> Self {
        let clock = Clock::simulated(start());
        Self::on(Simulated::recorded(clock), clock, spec)
    }

    fn on(runtime: Simulated, clock: Clock, spec: Value) -> Self {
        let (recorder, events) = EventRecorder::captured();
        let (newest, _) = watch::channel(Default::default());
        let statuses = Arc::new(Statuses { clock, reported: Mutex::default(), newest });
        let node = Arc::new(Node {
            clock,
            facts: NodeFacts { name: "n".into(), host_ips: vec!["192.0.2.1".into()], memory: 1 << 30, ..Default::default() },
            runtime: Arc::new(runtime.clone()),
            events: Recorder(Some(recorder)),
            lookup: Lookup::new(None),
            services: None,
            images: Images::new(1),
            longest_backoff: crate::pod::backoff::MAX,
            admission: Default::default(),
            devices: None,
            claims: None,
            pinning: None,
            memory: None,
            resources: TopologyManager::default(),
            csi: None,
            itself: None,
            cgroups: None,
            places: None,
            resolver: network::Resolver::default(),
            users: Default::default(),
            security: security::Settings::default(),
            statuses: statuses.clone(),
            vitals: Default::default(),
        });
        let workers = Workers::new(node);
        let (sources, ready) = watch::channel(false);
        let stop = CancellationToken::new();
        tokio::spawn(workers.clone().follow_runtime(ready, stop.clone()));
        let pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 1}, "spec": spec}));
        World { clock, runtime, workers, statuses, events, sources, stop, pod: pod.expect("a pod") }
    }

    /// The pod is bound to the node.
    fn apply(&self) {
        self.workers.update(Arc::new(self.pod.clone()));
    }

    /// The pod is to be deleted within so many seconds.
    fn delete(&mut self, grace: i64) {
        self.pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.clock.now()));
        self.pod.metadata.deletion_grace_period_seconds = Some(grace);
        self.apply();
    }

    /// This kubelet is killed, and another starts on the same runtime, knowing of the pod what the API has.
    fn restart_kubelet(self) -> World {
        let World { clock, runtime, workers, statuses, stop, mut pod, .. } = self;
        stop.cancel();
        workers.abandon();
        pod.status = Some(statuses.newest.borrow().0.clone());
        let mut next = World::on(runtime, clock, json!({"containers": []}));
        next.pod = pod;
        next
    }

    /// Seconds since the start of the simulation.
    fn now(&self) -> i64 {
        self.clock.now().duration_since(start()).as_secs()
    }

    /// Lets time pass.
    async fn pass(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    /// Waits until the status is as wanted; answers with the second in which it became so.
    async fn until(&self, what: &str, wanted: impl Fn(&PodStatus) -> bool) -> i64 {
        let mut newest = self.statuses.newest.subscribe();
        let found = tokio::time::timeout(PATIENCE, newest.wait_for(|(status, _)| wanted(status))).await.is_ok_and(|seen| seen.is_ok());
        assert!(found, "never {what}; the calls were {:#?}, the status is {:#?}", self.told(), self.status());
        self.now()
    }

    /// Waits until a container is in a state: `running`, `exit CODE`, or a reason to wait.
    async fn until_state(&self, container: &str, state: &str) -> i64 {
        self.until(&format!("{container} {state}"), |status| self::state(status, container) == state).await
    }

    /// Waits until nothing is left of the pod, and drops it, as the API does then.
    async fn until_gone(&self) -> i64 {
        let mut newest = self.statuses.newest.subscribe();
        let found = tokio::time::timeout(PATIENCE, newest.wait_for(|(_, ended)| *ended)).await.is_ok_and(|seen| seen.is_ok());
        assert!(found, "it never ended; the calls were {:#?}", self.told());
        self.workers.remove("u");
        self.now()
    }

    /// Waits until the runtime has nothing any more, though the API has no pod.
    async fn until_swept(&self) {
        self.sources.send_replace(true);
        let swept = async {
            while self.runtime.held() != (0, 0) {
                self.pass(1).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, swept).await.is_ok(), "the runtime still has {:?}", self.runtime.held());
    }

    /// The newest status.
    fn status(&self) -> PodStatus {
        self.statuses.newest.borrow().0.clone()
    }

    /// What the runtime was asked for, with the seconds.
    fn told(&self) -> Vec<String> {
        self.runtime.told().into_iter().map(|(at, what)| format!("{} {what}", at.duration_since(start()).as_secs())).collect()
    }

    /// Of that, what begins with one of the words, without the seconds.
    fn told_of(&self, words: &[&str]) -> Vec<String> {
        let told = self.runtime.told().into_iter().map(|(_, what)| what);
        told.filter(|what| words.iter().any(|w| what.starts_with(w))).collect()
    }

    /// The seconds in which something was asked for.
    fn when(&self, what: &str) -> Vec<i64> {
        let told = self.runtime.told();
        told.into_iter().filter(|(_, told)| told == what).map(|(at, _)| at.duration_since(start()).as_secs()).collect()
    }

    /// The states that a container went through, as they were reported.
    fn states(&self, container: &str) -> Vec<String> {
        let mut out: Vec<String> = self.statuses.reported.lock().iter().map(|(_, status)| state(status, container)).collect();
        out.dedup();
        out
    }

    /// The events so far, `Reason message`.
    fn events(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        while let Ok(report) = self.events.try_recv() {
            out.push(format!("{} {}", report.reason, report.message));
        }
        out
    }
}

/// The status of a container, of whatever list.
fn find<'a>(status: &'a PodStatus, container: &str) -> Option<&'a ContainerStatus> {
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|c| c.name == container)
}

/// The state of a container in one word or two.
fn state(status: &PodStatus, container: &str) -> String {
    let state = find(status, container).and_then(|c| c.state.clone()).unwrap_or_default();
    match state {
        ContainerState { running: Some(_), .. } => "running".into(),
        ContainerState { terminated: Some(ended), .. } => format!("exit {}", ended.exit_code),
        ContainerState { waiting: Some(waiting), .. } => waiting.reason.unwrap_or_default(),
        _ => String::new(),
    }
}

/// Whether a container is ready.
fn ready(status: &PodStatus, container: &str) -> bool {
    find(status, container).is_some_and(|c| c.ready)
}

/// How often a container was restarted.
fn restarts(status: &PodStatus, container: &str) -> i32 {
    find(status, container).map_or(0, |c| c.restart_count)
}

/// A pod of one container `c`, with what is given besides.
fn one(extra: Value) -> Value {
    let mut container = json!({"name": "c", "image": "i:1"});
    container.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
    json!({"containers": [container], "terminationGracePeriodSeconds": 30, "restartPolicy": "Always"})
}

#[tokio::test(start_paused = true)]
async fn a_pod_runs_and_is_deleted_without_a_trace() {
    let mut world = World::new(one(json!({})));
    world.apply();
    world.until("Running", |s| s.phase.as_deref() == Some("Running")).await;
    assert_eq!(world.told_of(&[""]), ["sandbox p", "create c", "start c"]);
    world.delete(30);
    world.until_gone().await;
    assert_eq!(world.runtime.held(), (0, 0));
    assert_eq!(world.status().phase.as_deref(), Some("Succeeded"), "it ended by itself, with code 0");
    let identity = identity::described(&world.pod);
    assert_eq!(identity, "p_ns(u)");
    assert_eq!(
        world.events(),
        [
            "Pulled Container image \"i:1\" already present on machine and can be accessed by the pod",
            "Created Container created",
            "Started Container started",
            "Killing Stopping container c"
        ]
    );
}
