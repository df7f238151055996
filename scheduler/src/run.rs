//! The scheduler at work: watches feed state and queue, one task decides, and bindings, events and status updates go out beside it.

use crate::config::Configuration;
use crate::config::args::PluginArgs;
use crate::cycle::{self, Decision, Search};
use crate::framework::{Changed, ClusterEvent, Context as CycleContext, CycleState, Effect, Handle, Point};
use crate::listers::Listers;
use crate::metrics::Metrics;
use crate::node_info::NodeInfo;
use crate::plugins::{self, PluginSet};
use crate::pod_info::PodInfo;
use crate::preemption::Candidate;
use crate::queue::{Failed, QueuedPod, SchedulingQueue};
use crate::snapshot::Snapshot;
use crate::state::ClusterState;
use anyhow::Context;
use client::election::{self, Candidate as Replica, host_name};
use client::events::{EventType, reference};
use client::serving::{self, Observable};
use client::{Cache, Change, EventRecorder, ObjectKey, SharedCaches};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Binding, Namespace, Node, ObjectReference, Pod, PodCondition, ReplicationController, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client};
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Bindings and status updates under way at a time: enough to keep the connection busy, few enough not to pile up behind a slow server.
const REQUESTS: usize = 128;

/// How to run.
pub struct Options {
    /// The apiserver, as the scheduler's user.
    pub client: Client,
    /// `--config`, or the defaults.
    pub configuration: Configuration,
    /// Whether to wait until this replica is elected.
    pub leader_elect: bool,
    /// Where to serve health and metrics, if anywhere.
    pub address: Option<SocketAddr>,
}

struct Scheduler {
    client: Client,
    configuration: Configuration,
    plugins: Arc<PluginSet>,
    caches: Arc<SharedCaches>,
    pods: Arc<Cache<Pod>>,
    namespaces: Arc<Cache<Namespace>>,
    budgets: Arc<Cache<PodDisruptionBudget>>,
    services: Arc<Cache<Service>>,
    replication_controllers: Arc<Cache<ReplicationController>>,
    replica_sets: Arc<Cache<ReplicaSet>>,
    stateful_sets: Arc<Cache<StatefulSet>>,
    queue: SchedulingQueue,
    state: Mutex<ClusterState>,
    recorder: EventRecorder,
    requests: Arc<Semaphore>,
    metrics: Metrics,
}

/// Schedules until `stop` is cancelled, or fails when this replica is no longer the leader.
pub async fn run(options: Options, stop: CancellationToken) -> anyhow::Result<()> {
    let Options { client, configuration, leader_elect, address } = options;
    let mut lists = plugins::default_lists();
    lists.iter_mut().for_each(|list| list.retain(|plugin| !configuration.disabled.contains(&plugin.name)));
    let plugins = Arc::new(PluginSet::new(&PluginArgs::default(), &lists));
    let caches = SharedCaches::new(client.clone());
    let unfinished = watcher::Config::default().any_semantic().fields("status.phase!=Succeeded,status.phase!=Failed");
    let scheduler = Arc::new(Scheduler {
        pods: caches.selected(unfinished),
        namespaces: caches.of(),
        budgets: caches.of(),
        services: caches.of(),
        replication_controllers: caches.of(),
        replica_sets: caches.of(),
        stateful_sets: caches.of(),
        queue: SchedulingQueue::new(plugins.clone(), configuration.backoff),
        state: Mutex::default(),
        recorder: EventRecorder::series(client.clone(), crate::config::DEFAULT_NAME, &host_name()?),
        requests: Arc::new(Semaphore::new(REQUESTS)),
        metrics: Metrics::default(),
        client: client.clone(),
        configuration,
        plugins,
        caches: caches.clone(),
    });
    if let Some(address) = address {
        let bound = serving::serve(address, Arc::new(Health(scheduler.clone())), stop.clone()).await?;
        tracing::info!(address = %bound, "serving health and metrics");
    }
    let leading = if leader_elect {
        match election::lead(client, Replica::new("kube-scheduler")?, stop.clone()).await {
            Some(leading) => leading,
            None => return Ok(()),
        }
    } else {
        stop.child_token()
    };
    scheduler.subscribe(caches.of::<Node>().as_ref());
    caches.wait_until_synced().await;
    tracing::info!("caches are filled, scheduling");
    leading.run_until_cancelled(scheduler.decide()).await;
    scheduler.queue.close();
    caches.stop();
    anyhow::ensure!(stop.is_cancelled(), "lost the lease");
    Ok(())
}

impl Scheduler {
    fn subscribe(self: &Arc<Self>, nodes: &Cache<Node>) {
        let scheduler = Arc::downgrade(self);
        nodes.subscribe(move |change| {
            if let Some(scheduler) = scheduler.upgrade() {
                scheduler.node_changed(change);
            }
        });
        let scheduler = Arc::downgrade(self);
        self.pods.subscribe(move |change| {
            if let Some(scheduler) = scheduler.upgrade() {
                scheduler.pod_changed(change);
            }
        });
    }

    fn node_changed(&self, change: &Change<Node>) {
        match change {
            Change::Deleted(node) => self.state.lock().remove_node(node.metadata.name.as_deref().unwrap_or_default()),
            Change::Added(new) => {
                self.state.lock().set_node(new.clone());
                self.queue.event(&ClusterEvent::Node(Changed { old: None, new: new.clone() }));
            }
            Change::Updated { old, new } => {
                self.state.lock().set_node(new.clone());
                if matters(old, new) {
                    self.queue.event(&ClusterEvent::Node(Changed { old: Some(old.clone()), new: new.clone() }));
                }
            }
        }
    }

    fn pod_changed(&self, change: &Change<Pod>) {
        let pod = Arc::new(PodInfo::new(change.object().clone()));
        if matches!(change, Change::Deleted(_)) || pod.is_finished() {
            self.queue.remove(pod.uid());
            let mut state = self.state.lock();
            let was_placed = state.remove_pod(pod.uid()).is_some();
            let was_promised = state.promised(pod.uid()).is_some();
            state.denominate(pod.uid());
            drop(state);
            // Room that was only promised is free as well.
            if was_placed || was_promised {
                self.queue.event(&ClusterEvent::PodGone(pod));
            }
        } else if pod.node_name().is_some() {
            self.queue.remove(pod.uid());
            let mut state = self.state.lock();
            state.denominate(pod.uid());
            let before = state.set_pod(pod.clone());
            drop(state);
            match before {
                None => self.queue.event(&ClusterEvent::PodBound(pod)),
                Some(old) if old.requests != pod.requests || !old.counts_like(&pod) => {
                    self.queue.event(&ClusterEvent::PodChanged { old, new: pod });
                }
                Some(_) => {}
            }
        } else if !self.is_ours(&pod) || pod.is_terminating() {
            self.queue.remove(pod.uid());
            self.state.lock().denominate(pod.uid());
        } else {
            let mut state = self.state.lock();
            let assumed = state.is_assumed(pod.uid());
            match pod.status().nominated_node_name.as_deref().filter(|node| !node.is_empty()) {
                Some(node) if !assumed => state.nominate(pod.clone(), node),
                _ => {}
            }
            drop(state);
            if !assumed {
                self.queue.update(pod);
            }
        }
    }

    fn is_ours(&self, pod: &PodInfo) -> bool {
        let name = pod.spec().scheduler_name.as_deref().unwrap_or(crate::config::DEFAULT_NAME);
        self.configuration.names.iter().any(|ours| ours == name)
    }

    /// One decision after the other, for as long as the queue is open.
    async fn decide(self: &Arc<Self>) {
        let mut search = Search { percentage: self.configuration.percentage_of_nodes_to_score, start: 0 };
        let (mut rng, mut snapshot) = (StdRng::from_os_rng(), Snapshot::default());
        while let Some(queued) = self.queue.pop().await {
            self.decide_one(queued, &mut search, &mut rng, &mut snapshot);
            // Deciding never waits; the watches and bindings need their turn.
            tokio::task::yield_now().await;
        }
    }

    fn decide_one(self: &Arc<Self>, queued: QueuedPod, search: &mut Search, rng: &mut StdRng, snapshot: &mut Snapshot) {
        let pod = queued.pod.clone();
        let mut cycle = CycleState::default();
        self.state.lock().update(snapshot);
        let context = CycleContext { snapshot, listers: self.as_ref() };
        match cycle::schedule(&self.plugins, &mut cycle, &pod, &context, search, rng) {
            Ok(decision) => {
                cycle.end_decision();
                let Some(node) = snapshot.get(&decision.node).cloned() else { return };
                self.place(queued, cycle, decision, node);
            }
            Err(mut error) => {
                let candidate = cycle::post_filter(&self.plugins, &pod, &context, &mut error);
                self.metrics.unschedulable.fetch_add(1, Ordering::Relaxed);
                let message = error.message();
                tracing::debug!(pod = %pod.key(), message, "no node");
                if let Some(candidate) = &candidate {
                    self.state.lock().nominate(pod.clone(), &candidate.node);
                }
                self.give_back(queued, Failed::Unschedulable(error.plugins()), "Unschedulable", message, candidate);
            }
        }
    }

    /// Assumes the pod on its node and binds it there, beside the next decision.
    fn place(self: &Arc<Self>, queued: QueuedPod, mut cycle: CycleState, decision: Decision, node: Arc<NodeInfo>) {
        let pod = queued.pod.clone();
        {
            let mut state = self.state.lock();
            state.denominate(pod.uid());
            state.assume(pod.clone(), &decision.node);
        }
        let handle = self.as_ref();
        let reserved = self.plugins.at(Point::Reserve).try_for_each(|plugin| plugin.reserve(&mut cycle, &pod, &node, handle));
        let permitted =
            reserved.and_then(|()| self.plugins.at(Point::Permit).try_for_each(|plugin| plugin.permit(&cycle, &pod, &decision.node)));
        if let Err(rejection) = permitted {
            self.take_back(&cycle, &pod);
            let plugins = [rejection.plugin].into();
            return self.give_back(queued, Failed::Unschedulable(plugins), "Unschedulable", rejection.reasons.join(", "), None);
        }
        let scheduler = self.clone();
        tokio::spawn(async move {
            match scheduler.bind_to(&cycle, &pod, &node).await {
                Ok(()) => {
                    scheduler.queue.remove(pod.uid());
                    scheduler.metrics.scheduled.fetch_add(1, Ordering::Relaxed);
                    let message = format!("Successfully assigned {} to {}", pod.key(), decision.node);
                    tracing::debug!(pod = %pod.key(), node = decision.node, evaluated = decision.evaluated, feasible = decision.feasible, "bound");
                    scheduler.recorder.record(reference(pod.pod.as_ref(), None), EventType::Normal, "Scheduled", message, "Binding");
                }
                Err(error) => {
                    scheduler.metrics.errors.fetch_add(1, Ordering::Relaxed);
                    scheduler.take_back(&cycle, &pod);
                    tracing::warn!(pod = %pod.key(), node = decision.node, error = format!("{error:#}"), "could not bind");
                    scheduler.give_back(queued, Failed::Error, "SchedulerError", format!("{error:#}"), None);
                }
            }
        });
    }

    /// The pod does not go where it was assumed to go.
    fn take_back(&self, cycle: &CycleState, pod: &Arc<PodInfo>) {
        self.plugins.at(Point::Reserve).for_each(|plugin| plugin.unreserve(cycle, pod, self));
        self.state.lock().forget(pod.uid());
        self.queue.event(&ClusterEvent::PodGone(pod.clone()));
    }

    async fn bind_to(&self, cycle: &CycleState, pod: &PodInfo, node: &NodeInfo) -> anyhow::Result<()> {
        for plugin in self.plugins.at(Point::PreBind) {
            if let Some(effect) = plugin.pre_bind(cycle, pod, node, self) {
                effect.await.with_context(|| format!("running PreBind plugin \"{}\"", plugin.name()))?;
            }
        }
        let _permit = self.requests.acquire().await.context("the semaphore is never closed")?;
        for plugin in self.plugins.at(Point::Bind) {
            if let Some(binding) = plugin.bind(self, pod, node.name()) {
                return binding.await.with_context(|| format!("running Bind plugin \"{}\"", plugin.name()));
            }
        }
        anyhow::bail!("no plugin binds")
    }

    /// Back into the queue, and tells users why.
    fn give_back(self: &Arc<Self>, queued: QueuedPod, how: Failed, reason: &'static str, message: String, candidate: Option<Candidate>) {
        let Some(current) = self.pods.get(&queued.pod.key()).filter(|pod| pod.metadata.uid.as_deref() == Some(queued.pod.uid())) else {
            return self.queue.remove(queued.pod.uid());
        };
        let pod = Arc::new(PodInfo::new(current));
        self.recorder.record(
            reference(queued.pod.pod.as_ref(), None),
            EventType::Warning,
            "FailedScheduling",
            message.clone(),
            "Scheduling",
        );
        let nominated = candidate.as_ref().map(|candidate| candidate.node.clone());
        let patch = status_patch(&pod, reason, &message, nominated.as_deref(), Timestamp::now());
        self.queue.failed(queued, pod.clone(), how);
        if patch.is_none() && candidate.is_none() {
            return;
        }
        let scheduler = self.clone();
        tokio::spawn(async move {
            let Ok(_permit) = scheduler.requests.acquire().await else { return };
            for victim in candidate.iter().flat_map(|candidate| &candidate.victims) {
                if let Err(error) = scheduler.preempt(&pod, victim).await {
                    tracing::warn!(pod = %pod.key(), victim = %victim.key(), %error, "could not preempt");
                }
            }
            if let Some(patch) = patch
                && let Err(error) = scheduler.patch_status(&pod, &patch).await
            {
                tracing::debug!(pod = %pod.key(), %error, "could not update the status");
            }
        });
    }

    async fn patch_status(&self, pod: &PodInfo, patch: &Value) -> kube::Result<()> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), pod.namespace());
        let name = pod.pod.metadata.name.as_deref().unwrap_or_default();
        match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Deletes a pod to make room for another.
    async fn preempt(&self, preemptor: &PodInfo, victim: &PodInfo) -> kube::Result<()> {
        if victim.is_terminating() {
            return Ok(());
        }
        let scheduler_name = preemptor.spec().scheduler_name.as_deref().unwrap_or_default();
        let condition = PodCondition {
            type_: "DisruptionTarget".to_owned(),
            status: "True".to_owned(),
            reason: Some("PreemptionByScheduler".to_owned()),
            message: Some(format!("{scheduler_name}: preempting to accommodate a higher priority pod")),
            last_transition_time: Some(Time(Timestamp::now())),
            observed_generation: victim.pod.metadata.generation,
            ..PodCondition::default()
        };
        self.patch_status(victim, &json!({"metadata": {"uid": victim.uid()}, "status": {"conditions": [condition]}})).await?;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), victim.namespace());
        match api.delete(victim.pod.metadata.name.as_deref().unwrap_or_default(), &DeleteParams::default()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(error) => return Err(error),
        }
        self.metrics.preemption_victims.fetch_add(1, Ordering::Relaxed);
        let node = victim.node_name().unwrap_or_default();
        let message = format!("Preempted by pod {} on node {node}", preemptor.uid());
        self.recorder.record(reference(victim.pod.as_ref(), None), EventType::Normal, "Preempted", message, "Preempting");
        Ok(())
    }
}

/// Whether a node's change can matter to a pod that did not fit; heartbeats do not.
fn matters(old: &Node, new: &Node) -> bool {
    let of = |node: &Node| {
        let spec = node.spec.clone().unwrap_or_default();
        (node.metadata.labels.clone(), node.status.as_ref().and_then(|status| status.allocatable.clone()), spec.taints, spec.unschedulable)
    };
    of(old) != of(new)
}

/// The patch that says in the pod's status why it is not scheduled; none if it says so already.
fn status_patch(pod: &PodInfo, reason: &str, message: &str, nominated: Option<&str>, now: Timestamp) -> Option<Value> {
    let old = pod.status().conditions.iter().flatten().find(|condition| condition.type_ == "PodScheduled");
    let same = old.is_some_and(|old| {
        old.status == "False"
            && old.reason.as_deref() == Some(reason)
            && old.message.as_deref() == Some(message)
            && old.observed_generation == pod.pod.metadata.generation
    });
    let nominated = nominated.filter(|node| pod.status().nominated_node_name.as_deref() != Some(node));
    if same && nominated.is_none() {
        return None;
    }
    let unchanged = old.filter(|old| old.status == "False").and_then(|old| old.last_transition_time.clone());
    let condition = json!({
        "type": "PodScheduled", "status": "False", "reason": reason, "message": message, "lastProbeTime": null,
        "lastTransitionTime": unchanged.unwrap_or(Time(now)), "observedGeneration": pod.pod.metadata.generation,
    });
    let mut status = json!({ "conditions": [condition] });
    if let Some(node) = nominated {
        status["nominatedNodeName"] = json!(node);
    }
    Some(json!({"metadata": {"uid": pod.uid()}, "status": status}))
}

impl Handle for Scheduler {
    fn bind<'a>(&'a self, pod: &'a Pod, node: &'a str) -> Effect<'a> {
        Box::pin(async move {
            let (meta, name) = (&pod.metadata, pod.metadata.name.as_deref().unwrap_or_default());
            let binding = Binding {
                metadata: ObjectMeta {
                    name: meta.name.clone(),
                    namespace: meta.namespace.clone(),
                    uid: meta.uid.clone(),
                    ..ObjectMeta::default()
                },
                target: ObjectReference { kind: Some("Node".to_owned()), name: Some(node.to_owned()), ..ObjectReference::default() },
            };
            let api: Api<Pod> = Api::namespaced(self.client.clone(), meta.namespace.as_deref().unwrap_or_default());
            let _: Value = api.create_subresource("binding", name, &PostParams::default(), &binding).await?;
            Ok(())
        })
    }
}

impl Listers for Scheduler {
    fn namespace(&self, name: &str) -> Option<Arc<Namespace>> {
        self.namespaces.get(&ObjectKey::new("", name))
    }

    fn namespaces(&self) -> Vec<Arc<Namespace>> {
        self.namespaces.list()
    }

    fn services(&self, namespace: &str) -> Vec<Arc<Service>> {
        self.services.in_namespace(namespace)
    }

    fn replication_controller(&self, namespace: &str, name: &str) -> Option<Arc<ReplicationController>> {
        self.replication_controllers.get(&ObjectKey::new(namespace, name))
    }

    fn replica_set(&self, namespace: &str, name: &str) -> Option<Arc<ReplicaSet>> {
        self.replica_sets.get(&ObjectKey::new(namespace, name))
    }

    fn stateful_set(&self, namespace: &str, name: &str) -> Option<Arc<StatefulSet>> {
        self.stateful_sets.get(&ObjectKey::new(namespace, name))
    }

    fn budgets(&self, namespace: &str) -> Vec<Arc<PodDisruptionBudget>> {
        self.budgets.in_namespace(namespace)
    }
}

struct Health(Arc<Scheduler>);

impl Observable for Health {
    fn problems(&self) -> Vec<String> {
        self.0.caches.unsynced().into_iter().map(|kind| format!("informer-sync failed: {kind}")).collect()
    }

    fn metrics(&self) -> String {
        self.0.metrics.text(self.0.queue.pending())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{node, pod};

    #[test]
    fn the_status_is_written_only_when_it_says_something_new() {
        let now = Timestamp::from_second(0).unwrap();
        let fresh = pod("a", json!({}));
        let patch = status_patch(&fresh, "Unschedulable", "m", None, now).unwrap();
        assert_eq!(patch["status"]["conditions"][0]["message"], "m");
        assert_eq!(patch["status"].get("nominatedNodeName"), None);

        let mut told = (*fresh.pod).clone();
        told.status = Some(serde_json::from_value(patch["status"].clone()).unwrap());
        let told = PodInfo::new(Arc::new(told));
        assert_eq!(status_patch(&told, "Unschedulable", "m", None, Timestamp::from_second(9).unwrap()), None);
        let other = status_patch(&told, "Unschedulable", "other", Some("n1"), Timestamp::from_second(9).unwrap()).unwrap();
        assert_eq!(other["status"]["nominatedNodeName"], "n1");
        assert_eq!(other["status"]["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:00Z", "still not scheduled since then");
    }

    #[test]
    fn heartbeats_do_not_matter() {
        let plain = node("n", json!({}));
        let beat = node("n", json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}));
        assert!(!matters(&plain, &beat));
        for change in [
            json!({"metadata": {"labels": {"a": "b"}}}),
            json!({"spec": {"unschedulable": true}}),
            json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}),
            json!({"status": {"allocatable": {"cpu": "8"}}}),
        ] {
            assert!(matters(&plain, &node("n", change.clone())), "{change}");
        }
    }
}
