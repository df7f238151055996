//! The scheduler at work: one task decides, one pod after the other, and what follows from a decision goes out beside it.

use crate::cycle::{self, Decision, FitError, Outcome, Search};
use crate::devices::DeviceStore;
use crate::extenders::Extenders;
use crate::framework::{ClusterEvent, Context as CycleContext, CycleState, Effect, Handle, Plugin, Point, Verdict};
use crate::informers::{Informers, nominated};
use crate::listers::Listers;
use crate::metrics::{Gauges, Metrics};
use crate::node_info::NodeInfo;
use crate::plugins;
use crate::pod_info::PodInfo;
use crate::preemption::Candidate;
use crate::profiles::{Profile, Profiles};
use crate::queue::{Failed, QueuedPod, SchedulingQueue};
use crate::snapshot::Snapshot;
use crate::state::ClusterState;
use crate::status;
use crate::stopwatch::{self, Stopwatch};
use crate::volumes::VolumeStore;
use anyhow::Context;
use client::events::{EventType, reference};
use client::{EventRecorder, ObjectKey};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Bindings and status updates under way at a time: enough to keep the connection busy, few enough not to pile up behind a slow server.
const REQUESTS: usize = 128;

/// Victims of one preemption that are deleted at a time.
const DELETIONS: usize = 16;

/// Of so many tries, metrics do not say how many there were.
const MANY: u32 = 15;

/// How many seconds to wait after each question what has become of a binding.
const QUESTIONS: [u64; 6] = [1, 1, 2, 4, 8, 8];

/// Whether the API has said no, and so nothing has changed.
fn is_refusal(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if (400..500).contains(&status.code))
}

/// Requests about the pods of a pod's namespace.
fn pods(pod: &PodInfo) -> kube::core::Request {
    kube::core::Request::new(Pod::url_path(&(), Some(pod.namespace())))
}

fn name(pod: &PodInfo) -> &str {
    pod.pod.metadata.name.as_deref().unwrap_or_default()
}

/// See the module's description.
pub struct Scheduler {
    pub(crate) client: Client,
    pub(crate) profiles: Arc<Profiles>,
    extenders: Arc<Extenders>,
    pub(crate) informers: Informers,
    pub(crate) queue: SchedulingQueue,
    pub(crate) state: Mutex<ClusterState>,
    pub(crate) recorder: EventRecorder,
    pub(crate) metrics: Arc<Metrics>,
    requests: Semaphore,
}

impl Scheduler {
    /// With everything that it needs, and nothing done yet.
    pub fn new(
        client: Client,
        profiles: Arc<Profiles>,
        extenders: Arc<Extenders>,
        informers: Informers,
        queue: SchedulingQueue,
        recorder: EventRecorder,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            client,
            profiles,
            extenders,
            informers,
            queue,
            state: Mutex::default(),
            recorder,
            metrics,
            requests: Semaphore::new(REQUESTS),
        }
    }

    /// What is counted when asked for.
    pub fn gauges(&self) -> Gauges {
        Gauges {
            pending: self.queue.pending(),
            size: self.state.lock().size(),
            refused: self.queue.refused(),
            events: self.queue.kept_events(),
            evaluations: self.profiles.evaluations(),
        }
    }

    /// One decision after the other, for as long as the queue is open.
    pub async fn decide(self: &Arc<Self>) {
        let mut search = Search { extenders: self.extenders.clone(), ..Search::default() };
        let (mut rng, mut snapshot) = (StdRng::from_os_rng(), Snapshot::default());
        while let Some(queued) = self.queue.pop().await {
            self.decide_one(queued, &mut search, &mut rng, &mut snapshot);
            // Deciding never waits but for extenders; the watches and bindings need their turn.
            tokio::task::yield_now().await;
        }
    }

    fn decide_one(self: &Arc<Self>, queued: QueuedPod, search: &mut Search, rng: &mut StdRng, snapshot: &mut Snapshot) {
        let (begun, pod) = (Instant::now(), queued.pod.clone());
        let Some(profile) = self.profiles.of(&pod) else { return self.queue.remove(pod.uid()) };
        let mut cycle = CycleState::default();
        self.state.lock().update(snapshot);
        search.percentage = profile.percentage_of_nodes_to_score;
        search.stopwatch = Stopwatch::new(self.metrics.clone(), &profile.name, search.decisions.is_multiple_of(stopwatch::ONE_IN));
        search.decisions = search.decisions.wrapping_add(1);
        let context = CycleContext { snapshot, listers: &self.informers };
        let decided = cycle::schedule(&profile.plugins, &mut cycle, &pod, &context, search, rng);
        self.metrics.algorithm.observe(&[], begun.elapsed().as_secs_f64());
        match decided {
            Ok(decision) => {
                cycle.end_decision();
                let node = snapshot.get(&decision.node).cloned().expect("the decision is one of this snapshot's nodes");
                self.place(queued, cycle, decision, node, begun, search.stopwatch.clone());
            }
            Err(error) if error.failure.is_some() => {
                self.metrics.attempt(&profile.name, "error", begun.elapsed());
                let message = error.message();
                tracing::warn!(pod = %pod.key(), error = message, "could not decide");
                self.give_back(queued, Failed::Error, "SchedulerError", message, Outcome::Hopeless);
            }
            Err(mut error) => {
                let looking = search.stopwatch.begin();
                let outcome = cycle::post_filter(&profile.plugins, &pod, &context, search, rng, &mut error);
                search.stopwatch.end("PostFilter", looking, &outcome);
                if error.nodes > 0 && profile.plugins.has(Point::PostFilter, "DefaultPreemption") {
                    self.metrics.preemptions.fetch_add(1, Ordering::Relaxed);
                }
                self.metrics.attempt(&profile.name, "unschedulable", begun.elapsed());
                let message = error.message();
                tracing::debug!(pod = %pod.key(), message, "no node");
                if let Outcome::Nominated(candidate) = &outcome {
                    self.state.lock().nominate(pod.clone(), &candidate.node);
                }
                self.give_back(queued, Failed::Unschedulable(error.plugins()), "Unschedulable", message, outcome);
            }
        }
    }

    /// Assumes the pod on its node and binds it there, beside the next decision.
    fn place(
        self: &Arc<Self>,
        queued: QueuedPod,
        mut cycle: CycleState,
        decision: Decision,
        node: Arc<NodeInfo>,
        begun: Instant,
        stopwatch: Stopwatch,
    ) {
        let pod = queued.pod.clone();
        let Some(profile) = self.profiles.of(&pod) else { return self.queue.remove(pod.uid()) };
        {
            let mut state = self.state.lock();
            state.denominate(pod.uid());
            state.assume(pod.clone(), &decision.node);
        }
        let plugins = &profile.plugins;
        let asked = |point, name, ask: &mut dyn FnMut(&dyn Plugin) -> Verdict| {
            stopwatch.point(name, || {
                plugins.called_at(point).iter().try_for_each(|called| {
                    let answer = stopwatch.plugin(called, name, || ask(called.plugin.as_ref()));
                    answer.map_err(|rejection| rejection.by(called.plugin.name()))
                })
            })
        };
        let reserved = asked(Point::Reserve, "Reserve", &mut |plugin| plugin.reserve(&mut cycle, &pod, &node, self.as_ref()));
        let permitted = reserved.and_then(|()| asked(Point::Permit, "Permit", &mut |plugin| plugin.permit(&cycle, &pod, &decision.node)));
        if let Err(rejection) = permitted {
            let plugin = rejection.plugin;
            self.take_back(profile, &cycle, &pod, &stopwatch);
            self.metrics.attempt(&profile.name, "unschedulable", begun.elapsed());
            let error = FitError { nodes: 1, rejected: vec![(0, rejection)], ..FitError::default() };
            return self.give_back(queued, Failed::Unschedulable([plugin].into()), "Unschedulable", error.message(), Outcome::Unchanged);
        }
        let scheduler = self.clone();
        tokio::spawn(async move {
            let Some(profile) = scheduler.profiles.of(&pod) else { return };
            match scheduler.bind_to(profile, &cycle, &pod, &node, &stopwatch).await {
                Ok(()) => {
                    stopwatch.point("PostBind", || ());
                    scheduler.bound(profile, &queued, &decision, begun);
                }
                Err(error) => {
                    scheduler.metrics.attempt(&profile.name, "error", begun.elapsed());
                    scheduler.take_back(profile, &cycle, &pod, &stopwatch);
                    let message = format!("{error:#}");
                    tracing::warn!(pod = %pod.key(), node = decision.node, error = message, "could not bind");
                    scheduler.give_back(queued, Failed::Error, "SchedulerError", message, Outcome::Unchanged);
                }
            }
        });
    }

    async fn bind_to<'a>(
        &'a self,
        profile: &'a Profile,
        cycle: &'a CycleState,
        pod: &'a PodInfo,
        node: &'a NodeInfo,
        stopwatch: &Stopwatch,
    ) -> anyhow::Result<()> {
        let prepare = |plugin: &'a dyn Plugin| Some((plugin.name(), plugin.pre_bind(cycle, pod, node, self)?));
        let begun = stopwatch.begin();
        let preparations: Vec<_> = profile.plugins.at(Point::PreBind).filter_map(prepare).collect();
        stopwatch.end("PreBindPreFlight", begun, &!preparations.is_empty());
        if !preparations.is_empty() {
            self.announce(pod, node.name()).await;
        }
        let begun = stopwatch.begin();
        let prepared = self.prepare(preparations, stopwatch).await;
        stopwatch.end("PreBind", begun, &prepared);
        prepared?;
        let _permit = self.requests.acquire().await.context("the semaphore is never closed")?;
        match self.bind_by_any(profile, pod, node.name(), stopwatch).await {
            Err(error) if !is_refusal(&error) && self.is_bound_after_all(pod, node.name()).await => Ok(()),
            bound => bound,
        }
    }

    /// Does what plugins have to do before a binding.
    async fn prepare(&self, preparations: Vec<(&'static str, Effect<'_>)>, stopwatch: &Stopwatch) -> anyhow::Result<()> {
        for (plugin, effect) in preparations {
            let begun = stopwatch.begin();
            let prepared = effect.await;
            stopwatch.end_plugin(plugin, "PreBind", begun, &prepared);
            prepared.with_context(|| format!("running PreBind plugin {plugin:?}"))?;
        }
        Ok(())
    }

    /// Lets the first bind that does: extenders before plugins.
    async fn bind_by_any(&self, profile: &Profile, pod: &PodInfo, node: &str, stopwatch: &Stopwatch) -> anyhow::Result<()> {
        if let Some(bound) = self.extenders.bind(pod, node).await {
            return bound.map_err(anyhow::Error::msg);
        }
        for plugin in profile.plugins.at(Point::Bind) {
            if let Some(binding) = plugin.bind(self, pod, node) {
                let begun = stopwatch.begin();
                let bound = binding.await;
                stopwatch.end_plugin(plugin.name(), "Bind", begun, &bound);
                stopwatch.end("Bind", begun, &bound);
                return bound.with_context(|| format!("running Bind plugin {:?}", plugin.name()));
            }
        }
        anyhow::bail!("no plugin binds")
    }

    /// Tells others where a pod will go whose binding takes its time (upstream: `NominatedNodeNameForExpectation`).
    async fn announce(&self, pod: &PodInfo, node: &str) {
        if let Some(patch) = status::nominated(pod, node)
            && let Err(error) = self.patch_status(pod, &patch).await
        {
            tracing::debug!(pod = %pod.key(), %error, "could not tell where the pod will go");
        }
    }

    /// Whether a binding has come true whose answer got lost. Until that is known the pod keeps its room: given to another, there would be too little.
    async fn is_bound_after_all(&self, pod: &PodInfo, node: &str) -> bool {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), pod.namespace());
        for wait in QUESTIONS.map(Duration::from_secs) {
            match api.get_opt(name(pod)).await {
                Ok(found) => {
                    return found.is_some_and(|found| {
                        let bound = found.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
                        found.metadata.uid.as_deref() == Some(pod.uid()) && bound == Some(node)
                    });
                }
                Err(_) => tokio::time::sleep(wait).await,
            }
        }
        false
    }

    fn bound(&self, profile: &Profile, queued: &QueuedPod, decision: &Decision, begun: Instant) {
        let pod = &queued.pod;
        self.queue.remove(pod.uid());
        self.metrics.attempt(&profile.name, "scheduled", begun.elapsed());
        self.metrics.tries.observe(&[], f64::from(queued.attempts));
        let attempts = if queued.attempts < MANY { queued.attempts.to_string() } else { format!("{MANY}+") };
        self.metrics.sli.observe(&[&attempts], queued.entered.elapsed().as_secs_f64());
        self.metrics.after_flush.fetch_add(u64::from(queued.late), Ordering::Relaxed);
        let Decision { node, evaluated, feasible } = decision;
        tracing::debug!(pod = %pod.key(), node, evaluated, feasible, "bound");
        let message = format!("Successfully assigned {} to {node}", pod.key());
        self.recorder.record(reference(pod.pod.as_ref(), None), EventType::Normal, "Scheduled", message, "Binding");
    }

    /// The pod does not go where it was assumed to go.
    fn take_back(&self, profile: &Profile, cycle: &CycleState, pod: &Arc<PodInfo>, stopwatch: &Stopwatch) {
        stopwatch.point("Unreserve", || {
            for called in profile.plugins.called_at(Point::Reserve) {
                stopwatch.plugin(called, "Unreserve", || called.plugin.unreserve(cycle, pod, self));
            }
        });
        self.state.lock().forget(pod.uid());
        self.queue.event(&ClusterEvent::PodGone(pod.clone()));
    }

    /// Back into the queue, and tells users why.
    fn give_back(self: &Arc<Self>, queued: QueuedPod, how: Failed, reason: &'static str, message: String, outcome: Outcome) {
        let current = self.informers.pods.get(&queued.pod.key()).filter(|pod| pod.metadata.uid.as_deref() == Some(queued.pod.uid()));
        let Some(current) = current else {
            // Gone while it was tried: what it has just been promised is nobody's.
            self.state.lock().denominate(queued.pod.uid());
            return self.queue.remove(queued.pod.uid());
        };
        let pod = Arc::new(PodInfo::new(current));
        let note = status::shortened(&message);
        self.recorder.record(reference(queued.pod.pod.as_ref(), None), EventType::Warning, "FailedScheduling", note, "Scheduling");
        match (&outcome, nominated(&pod.pod)) {
            (Outcome::Hopeless, _) => drop(self.state.lock().denominate(pod.uid())),
            // It was assumed to be there already; now it is only to go there.
            (Outcome::Unchanged | Outcome::Deallocated(_), Some(node)) => self.state.lock().nominate(pod.clone(), node),
            (Outcome::Nominated(_), _) | (_, None) => {}
        }
        let patch = status::unscheduled(&pod, reason, &message, &outcome, Timestamp::now());
        let (mut candidate, mut claim) = (None, None);
        match outcome {
            Outcome::Nominated(chosen) => candidate = Some(chosen),
            Outcome::Deallocated(key) => claim = self.informers.seen(&key.namespace, &key.name),
            Outcome::Hopeless | Outcome::Unchanged => {}
        }
        if patch.is_none() && candidate.is_none() && claim.is_none() {
            return self.queue.failed(queued, pod, how);
        }
        self.queue.failed_and_held(queued, pod.clone(), how);
        let scheduler = self.clone();
        tokio::spawn(async move {
            scheduler.follow_up(&pod, patch, candidate.as_ref(), claim).await;
            let something_happened = scheduler.queue.release(pod.uid());
            // Only from here on a victim's end brings it back; before, it would be tried while others are still there.
            let is_time = candidate.map_or(something_happened, |candidate| scheduler.state.lock().are_gone(&candidate.victims));
            if is_time {
                scheduler.queue.bring_back(pod.uid());
            }
        });
    }

    /// Writes what came of a try. Until that is done there is no other: what it writes would come after what this one has, and of a room that is half
    /// made it would make another.
    async fn follow_up(&self, pod: &PodInfo, patch: Option<Value>, candidate: Option<&Candidate>, claim: Option<Arc<ResourceClaim>>) {
        let Ok(_permit) = self.requests.acquire().await else { return };
        if let Some(patch) = patch
            && let Err(error) = self.patch_status(pod, &patch).await
        {
            tracing::debug!(pod = %pod.key(), %error, "could not update the status");
        }
        if let Some(candidate) = candidate {
            self.make_room(pod, candidate).await;
        }
        if let Some(claim) = claim {
            let (key, uid) = (ObjectKey::of(claim.as_ref()), claim.metadata.uid.as_deref().unwrap_or_default());
            if let Err(error) = plugins::give_back(&key, uid, pod, &self.informers).await {
                tracing::debug!(pod = %pod.key(), claim = %key, %error, "could not deallocate");
            }
        }
    }

    /// Takes room back that was promised there to less important pods, so that they look for another place soon, and deletes the victims.
    async fn make_room(&self, pod: &PodInfo, candidate: &Candidate) {
        let displaced = self.state.lock().nominated_below(&candidate.node, pod.priority());
        for other in displaced {
            self.state.lock().denominate(other.uid());
            if let Err(error) = self.patch_status(&other, &status::without_nomination(&other)).await {
                tracing::debug!(pod = %other.key(), %error, "could not take the nomination back");
            }
        }
        if candidate.victims.iter().all(|victim| victim.is_terminating()) {
            return;
        }
        let begun = Instant::now();
        #[allow(clippy::cast_precision_loss)] // A count of pods on a node.
        self.metrics.victims.observe(&[], candidate.victims.len() as f64);
        let preempt = async |victim: &Arc<PodInfo>| {
            let preempted = self.preempt(pod, victim).await;
            if let Err(error) = &preempted {
                tracing::warn!(pod = %pod.key(), victim = %victim.key(), %error, "could not preempt");
            }
            preempted.is_err()
        };
        let Some((last, others)) = candidate.victims.split_last() else { return };
        let preempted = stream::iter(others).map(&preempt).buffer_unordered(DELETIONS);
        // Where one of them stays there will be no room, and the last need not go.
        let failed = preempted.fold(false, async |any, failed| any || failed).await || preempt(last).await;
        self.metrics.making_room.observe(&[if failed { "error" } else { "success" }], begun.elapsed().as_secs_f64());
        if failed {
            // No victim's end will wake it.
            self.queue.retry(pod.uid());
        }
    }

    async fn patch_status(&self, pod: &PodInfo, patch: &Value) -> kube::Result<()> {
        let request = pods(pod).patch_subresource("status", name(pod), &PatchParams::default(), &Patch::Strategic(patch));
        let begun = Instant::now();
        let sent = self.send(request).await.map(|_| ());
        self.metrics.call("pod_status_patch", &sent, begun.elapsed());
        sent
    }

    /// Whether there is still what the request is about. What the server makes of it is not read: the watch tells.
    async fn send(&self, request: Result<http::Request<Vec<u8>>, kube::core::request::Error>) -> kube::Result<bool> {
        match self.client.request_text(request.map_err(kube::Error::BuildRequest)?).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            sent => sent.map(|_| true),
        }
    }

    /// Deletes a pod to make room for another.
    async fn preempt(&self, preemptor: &PodInfo, victim: &PodInfo) -> kube::Result<()> {
        if victim.is_terminating() {
            return Ok(());
        }
        self.patch_status(victim, &status::preempted(victim, preemptor, Timestamp::now())).await?;
        if !self.send(pods(victim).delete(name(victim), &DeleteParams::default())).await? {
            return Ok(());
        }
        let node = victim.node_name().unwrap_or_default();
        let message = format!("Preempted by pod {} on node {node}", preemptor.uid());
        let (about, related) = (reference(victim.pod.as_ref(), None), reference(preemptor.pod.as_ref(), None));
        self.recorder.record_related(about, Some(related), EventType::Normal, "Preempted", message, "Preempting");
        Ok(())
    }
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
            let begun = Instant::now();
            let bound: kube::Result<Value> = api.create_subresource("binding", name, &PostParams::default(), &binding).await;
            self.metrics.call("pod_binding", &bound, begun.elapsed());
            bound?;
            Ok(())
        })
    }

    fn listers(&self) -> &dyn Listers {
        &self.informers
    }

    fn volumes(&self) -> &dyn VolumeStore {
        &self.informers
    }

    fn devices(&self) -> &dyn DeviceStore {
        &self.informers
    }
}
