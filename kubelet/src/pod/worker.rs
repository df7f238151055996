//! The task of one pod: it goes from syncing to terminating to terminated and never back (upstream: `pkg/kubelet/pod_workers.go`).
//!
//! It is fed by a latest-wins channel with the pod as it is wanted, and woken by a [`Notify`] when something happened to it: a container
//! ended, a probe changed its mind, a config map changed. Every turn looks at what is, plans ([`super::actions`]), does, and reports.

use super::{
    actions::{self, Plan, Role},
    backoff::Backoff,
    kill,
    observed::{self, Observed},
    phase,
    resize::{self, Resize},
    restart,
    start::{self, PodContext},
    status::{self, Reasons, StatusInput},
};
use crate::{
    container::{
        identity,
        resources::{self, Qos},
    },
    image::NotStarted,
    node::{
        Node,
        admission::{self, Unfit},
    },
    probe::manager::Probes,
    recorder::{About, Recorder},
    runtime::{self, Runtime},
    volume::{VolumeContext, image, setup},
};
use anyhow::Context;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Container, Pod, PodCondition, PodSpec, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};
use std::{collections::HashMap, pin::pin, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// How soon what failed for a reason that time may cure is tried again (upstream's pod workers back off as long).
const RETRY: Duration = Duration::from_secs(10);
/// How soon a pod is looked at again after a turn whose result it has not reported yet.
const SOON: Duration = Duration::from_secs(1);
/// The longest time between tries to set up volumes (upstream: 2 min 2 s).
const VOLUME_RETRY_MAX: Duration = Duration::from_secs(122);
/// How long a pod waits for its volumes before that is told (upstream: 2 min 3 s).
const VOLUME_PATIENCE: Duration = Duration::from_secs(123);
/// The first time between them.
const VOLUME_RETRY_MIN: Duration = Duration::from_millis(500);
/// The conditions that are the kubelet's; all others belong to others.
const OWN_CONDITIONS: &[&str] =
    &["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled", phase::ALL_RESTARTING];

/// Where statuses go.
pub trait StatusSink: Send + Sync {
    /// The pod's status now. Whoever takes it compares it with the last one.
    fn report(&self, pod: &Arc<Pod>, status: Arc<PodStatus>);
    /// Nothing of the pod is left on the node: a pod that was to be deleted can go.
    fn ended(&self, pod: &Arc<Pod>);
    /// The pod is gone from where it came from.
    fn forget(&self, uid: &str);
}

/// What is wanted of a pod.
#[derive(Clone, Debug)]
pub struct Update {
    /// The pod, newest version.
    pub pod: Arc<Pod>,
    /// It is gone from its source: from the API, or its manifest from the directory.
    pub removed: bool,
    /// It was evicted, or has to go for another reason of the node's.
    pub failure: Option<Failure>,
}

/// Why a pod fails as a whole, whatever its containers do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Failure {
    /// The reason of its status: `Evicted`, `DeadlineExceeded`.
    pub reason: String,
    /// The words.
    pub message: String,
    /// How long its containers get in seconds, where it is not what the pod says.
    pub grace: Option<u64>,
    /// A condition that its status gets: that it was disrupted.
    pub condition: Option<PodCondition>,
}

impl Failure {
    /// One that gives the pod the time it has by itself.
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Failure { reason: reason.into(), message: message.into(), ..Default::default() }
    }
}

impl Update {
    /// Whether it is to end.
    fn ends(&self) -> bool {
        self.removed || self.failure.is_some() || self.pod.metadata.deletion_timestamp.is_some()
    }

    /// The grace period that is in force now, in seconds, where the spec's is not: the shorter of the deletion's and the failure's.
    fn grace(&self) -> Option<u64> {
        let deletion = self.pod.metadata.deletion_grace_period_seconds.and_then(|s| u64::try_from(s).ok());
        deletion.into_iter().chain(self.failure.as_ref().and_then(|f| f.grace)).min()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Sync,
    Terminating,
    Terminated,
}

/// What came of a plan.
#[derive(Clone, Copy, Default)]
struct Done {
    /// The runtime has something new.
    acted: bool,
    /// A call failed that nothing else will have tried again.
    failed: bool,
    /// A sidecar has started.
    sidecar: bool,
}

impl Done {
    fn failed(self) -> Self {
        Done { acted: true, failed: true, ..self }
    }
}

/// The state of one pod's task.
pub struct Worker {
    node: Arc<Node>,
    uid: String,
    waker: Arc<Notify>,
    probes: Probes,
    observed: Arc<Observed>,
    reasons: Reasons,
    backoff: Backoff,
    /// The last status; at first the API's.
    status: Arc<PodStatus>,
    failure: Option<Failure>,
    /// It was refused: nothing of it was ever made.
    rejected: bool,
    resize: Resize,
    volume_retry: Duration,
    /// When it was first seen, until it runs.
    seen: Option<Instant>,
    /// Since when it waits for volumes.
    volumes_awaited: Option<Instant>,
    /// Cancelled once nothing of the pod runs any more.
    ended: CancellationToken,
}

impl Worker {
    /// A worker for the pod. `waker` is notified when something happens to it; `ended` is cancelled once nothing of it runs any more.
    pub fn new(node: Arc<Node>, pod: &Pod, waker: Arc<Notify>, ended: CancellationToken) -> Self {
        let uid = identity::uid(pod).to_owned();
        node.lookup.register(&uid, waker.clone());
        Worker {
            probes: Probes::new(node.clone(), pod, waker.clone()),
            backoff: Backoff::up_to(node.longest_backoff),
            node,
            uid,
            waker,
            observed: Arc::default(),
            reasons: Reasons::new(),
            status: Arc::new(pod.status.clone().unwrap_or_default()),
            failure: None,
            rejected: false,
            resize: Resize::of(pod),
            volume_retry: VOLUME_RETRY_MIN,
            seen: pod.status.as_ref().is_none_or(|s| s.phase.as_deref() == Some("Pending")).then(Instant::now),
            volumes_awaited: None,
            ended,
        }
    }

    /// Runs until nothing is left of the pod and it is gone from its source. What it does in a turn is boxed, so that a pod that waits, as most do
    /// mostly, does not hold the memory for it.
    pub async fn run(mut self, mut updates: watch::Receiver<Update>) {
        let mut stage = Stage::Sync;
        let first = updates.borrow().clone();
        if !first.ends() && !self.is_over() {
            Box::pin(self.admit(&first.pod)).await;
        }
        loop {
            let update = updates.borrow_and_update().clone();
            if self.failure.is_none() {
                self.failure = update.failure.clone();
            }
            let wake = match stage {
                Stage::Sync if update.ends() || self.is_over() => {
                    stage = Stage::Terminating;
                    continue;
                }
                Stage::Sync => {
                    let mut end = updates.clone();
                    tokio::select! {
                        biased;
                        _ = end.wait_for(Update::ends) => continue,
                        wake = Box::pin(self.sync(&update.pod)).instrument(tracing::debug_span!("turn", pod = %identity::described(&update.pod))) => wake,
                    }
                }
                Stage::Terminating => match Box::pin(self.terminate(&update, &updates)).await {
                    Ok(()) => {
                        stage = Stage::Terminated;
                        continue;
                    }
                    Err(error) => {
                        tracing::warn!(pod = %identity::described(&update.pod), %error, "the pod could not be ended; trying again");
                        Some(SOON)
                    }
                },
                Stage::Terminated => match Box::pin(self.clean_up(&update)).await {
                    Ok(()) if update.removed => {
                        self.node.statuses.forget(&self.uid);
                        return;
                    }
                    Ok(()) => None,
                    Err(error) => {
                        tracing::warn!(pod = %identity::described(&update.pod), %error, "the pod could not be cleaned up; trying again");
                        Some(RETRY)
                    }
                },
            };
            if stage == Stage::Sync && self.is_over() {
                continue;
            }
            tokio::select! {
                changed = updates.changed() => if changed.is_err() { return },
                () = self.waker.notified() => {}
                () = sleep(wake) => {}
            }
        }
    }

    /// Has the node let the pod in, or refuses it in the node's words.
    async fn admit(&mut self, pod: &Arc<Pod>) {
        let refusal = match self.node.admit(pod).await {
            Ok(()) => start::unsupported(&self.node, pod).await,
            Err(refusal) => Some(refusal),
        };
        let Some(refusal) = refusal else { return };
        self.node.events.warning(&About::pod(pod), &refusal.reason, refusal.message.clone());
        self.failure = Some(Failure::new(refusal.reason, format!("Pod was rejected: {}", refusal.message)));
        self.rejected = true;
    }

    /// Whether the pod has run its course, by its own status.
    fn is_over(&self) -> bool {
        self.failure.is_some() || matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"))
    }

    async fn observe(&self) -> runtime::Result<Observed> {
        Observed::fetch(self.node.runtime.as_ref(), &self.uid).instrument(tracing::debug_span!("observe")).await
    }

    /// One turn. Answers when to look again if nothing happens before.
    async fn sync(&mut self, pod: &Arc<Pod>) -> Option<Duration> {
        match self.observe().await {
            Ok(observed) => self.saw(observed),
            Err(error) => {
                tracing::warn!(pod = %identity::described(pod), %error, "the runtime does not answer");
                return Some(SOON);
            }
        }
        let pod = &self.allocate(pod).await;
        if let Some(failure) = past_deadline(pod, &self.status, self.node.clock.now()) {
            self.node.events.normal(&About::pod(pod), "DeadlineExceeded", failure.message.clone());
            self.failure = Some(failure);
            return None;
        }
        self.report(pod, false);
        if self.is_over() {
            return None;
        }
        if restart::all_due(pod, &self.observed) {
            return Some(match self.restart_all(pod).await {
                Ok(()) => Duration::ZERO,
                Err(error) => {
                    tracing::warn!(pod = %identity::described(pod), %error, "not all containers could be taken away");
                    SOON
                }
            });
        }
        self.probes.ensure(pod);
        if let Err(error) = self.node.ensure_cgroup(pod).await {
            tracing::warn!(pod = %identity::described(pod), %error, "the pod's cgroup could not be made");
        }
        let volumes = match self.set_up_volumes(pod).await {
            Ok(volumes) => volumes,
            Err(wait) => return Some(wait),
        };
        let mut plan = actions::compute_pod_actions(pod, &self.observed, &self.probes.outcomes());
        resize::restart(&mut plan, pod, &self.resize.due(pod, &self.observed));
        let before = self.reasons.clone();
        let Done { acted, failed, sidecar } = self.carry_out(pod, &volumes, plan).await;
        let changed = before != self.reasons;
        let only_waits = changed && !acted && self.only_waits(&before);
        if acted || (changed && !only_waits) {
            match self.observe().await {
                Ok(observed) => self.saw(observed),
                Err(_) => return Some(SOON),
            }
            self.report(pod, false);
            start::remove_old_instances(&self.node, &self.observed).await;
        }
        let look = self.next_look(pod, (acted || self.has_new_reason(&before)) && !only_waits);
        if sidecar {
            // Whoever waited for it can go on; the runtime has no event for a start.
            return Some(Duration::ZERO);
        }
        if failed { Some(look.unwrap_or(RETRY).min(RETRY)) } else { look }
    }

    /// Ends all containers at once, without hooks, and takes them away, so that the pod starts again from its first init container, in the sandbox it has.
    /// Whoever caused it goes last: a kubelet that dies on the way finds it and goes on.
    async fn restart_all(&mut self, pod: &Arc<Pod>) -> runtime::Result<()> {
        let own = |name: &str| kill::definition(pod, name).filter(|(role, _)| *role != Role::Ephemeral);
        let running = self.observed.instances.iter().filter(|i| i.running() && own(i.name()).is_some());
        let killed = running.map(|instance| kill::kill_container(&self.node, pod, instance, "", None, Some(0)));
        futures::future::join_all(killed).await.into_iter().collect::<runtime::Result<()>>()?;
        let observed = self.observe().await?;
        self.saw(observed);
        let caused = |name: &str| own(name).is_some_and(|(_, container)| restart::wants_all(&container, &self.observed));
        let taken = self.observed.instances.iter().filter(|i| own(i.name()).is_some());
        let (last, first): (Vec<_>, Vec<_>) = taken.partition(|instance| caused(instance.name()));
        for instance in first.into_iter().chain(last) {
            self.node.runtime.remove_container(&instance.status.id).await?;
        }
        self.reasons.clear();
        let observed = self.observe().await?;
        self.saw(observed);
        self.report(pod, false);
        Ok(())
    }

    /// Gives the pod what it asks for, if there is room, and brings its containers to it. Answers with the pod as it is to be run.
    async fn allocate(&mut self, pod: &Arc<Pod>) -> Arc<Pod> {
        let (node, uid, waker) = (self.node.clone(), &self.uid, &self.waker);
        let fits = |spec: &PodSpec| {
            // Its CPUs and memory, or those of others, would have to be chosen anew.
            let managed = [(node.pinning.is_some(), "CPU Manager"), (node.memory.is_some(), "Memory Manager")];
            let manager = managed.into_iter().find(|(holds, _)| *holds && resources::qos(pod) == Qos::Guaranteed);
            if let Some((_, manager)) = manager {
                return Err(Unfit::Never(format!("Resize is infeasible for Guaranteed Pods alongside {manager} static policy")));
            }
            node.admission.resize(uid, admission::Ask::of(spec, waker), &node.facts.allocatable)
        };
        self.resize.meet(pod, &self.observed);
        let pod = self.resize.allocate(pod, fits);
        let due: Vec<_> = self.resize.due(&pod, &self.observed).into_iter().filter(|(_, _, restart)| !restart).collect();
        if due.is_empty() {
            return pod;
        }
        // The pod's own limits grow before its containers' and shrink after them.
        let cgroups = async |when: &str| {
            node.ensure_cgroup(&pod).await.unwrap_or_else(
                |error| tracing::debug!(pod = %identity::described(&pod), when, %error, "the pod's limits could not be set"),
            );
        };
        cgroups("before").await;
        let usage = if self.resize.shrinks_memory(&due) { memory_usage(node.runtime.as_ref()).await } else { HashMap::new() };
        for (id, container, _) in &due {
            if let Err(error) = self.resize.room(id, container, usage.get(id).copied()) {
                self.resize.failed(&pod, error);
                continue;
            }
            let limits = resources::linux_resources(&pod, container, node.facts.memory, &node.facts.swap);
            match node.runtime.update_resources(id, limits).await {
                Ok(()) => self.resize.applied(id, container),
                Err(error) => self.resize.failed(&pod, error.to_string()),
            }
        }
        cgroups("after").await;
        pod
    }

    /// Whether a container has another reason not to run than before; the same one in other words, with another id in them say, is no news.
    fn has_new_reason(&self, before: &Reasons) -> bool {
        let reason = |reasons: &Reasons, name: &str| reasons.get(name).map(|(reason, _)| reason.clone());
        before.keys().chain(self.reasons.keys()).any(|name| reason(before, name) != reason(&self.reasons, name))
    }

    /// Whether all that changed is that containers now wait for a back-off to end. That is told at the next look, so that watchers see how the container
    /// ended or why it did not start first, and for as long as with upstream.
    fn only_waits(&self, before: &Reasons) -> bool {
        let news = self.reasons.iter().filter(|(name, reason)| before.get(*name) != Some(*reason));
        let waits = |reason: &str| matches!(reason, "CrashLoopBackOff" | "ImagePullBackOff");
        news.into_iter().all(|(_, (reason, _))| waits(reason)) && before.keys().all(|name| self.reasons.contains_key(name))
    }

    fn saw(&mut self, observed: Observed) {
        self.observed = Arc::new(with_messages(observed));
        self.probes.observe(self.observed.clone());
    }

    /// When to look again: soon after a failure that has not been told, when a back-off ends, when a deadline or a token runs out.
    fn next_look(&self, pod: &Pod, fresh: bool) -> Option<Duration> {
        let now = self.node.clock.now();
        let until = |at: Timestamp| Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO);
        let mut looks: Vec<Duration> = Vec::new();
        if !self.reasons.is_empty() {
            let waits = self
                .observed
                .instances
                .iter()
                .filter(|i| i.exited())
                .filter_map(|i| self.backoff.remaining(&backoff_key_of(pod, i.name())?, i.finished_at(), now));
            let first = waits.min().and_then(|w| Duration::try_from(w).ok());
            looks.push(if fresh { SOON } else { first.unwrap_or(RETRY).min(RETRY).max(Duration::from_millis(10)) });
        }
        looks.extend(deadline(pod, &self.status).map(until));
        looks.extend(self.node.lookup.next_refresh(&self.uid).map(until));
        looks.extend(self.node.csi.as_ref().and_then(|csi| csi.next_look(&self.uid)));
        looks.into_iter().min()
    }

    async fn set_up_volumes(&mut self, pod: &Arc<Pod>) -> Result<setup::Paths, Duration> {
        let Some(places) = &self.node.places else { return Ok(setup::Paths::new()) };
        let ips = self.observed.ips();
        let context = VolumeContext {
            pod,
            lookup: &self.node.lookup,
            node: &self.node.facts,
            csi: self.node.csi.as_ref(),
            events: &self.node.events,
            pod_ips: &ips,
        };
        match setup::set_up(&places.root, &context).instrument(tracing::debug_span!("volumes")).await {
            Ok(paths) => {
                self.volume_retry = VOLUME_RETRY_MIN;
                self.volumes_awaited = None;
                Ok(paths)
            }
            Err(failed) => {
                let about = About::pod(pod);
                let mut missing: Vec<_> = failed.iter().map(|failure| failure.volume.as_str()).collect();
                missing.sort_unstable();
                if self.volumes_awaited.get_or_insert_with(Instant::now).elapsed() >= VOLUME_PATIENCE {
                    self.volumes_awaited = None;
                    let names = missing.join(" ");
                    let message = format!(
                        "Unable to attach or mount volumes: unmounted volumes=[{names}], unattached volumes=[], failed to process volumes=[]: context deadline exceeded"
                    );
                    self.node.events.warning(&about, "FailedMount", message);
                }
                for (reason, message) in failed.into_iter().filter_map(|failure| failure.event) {
                    self.node.events.warning(&about, reason, message);
                }
                let wait = self.volume_retry;
                self.volume_retry = (wait * 2).min(VOLUME_RETRY_MAX);
                Err(wait)
            }
        }
    }

    /// Does what the plan says.
    async fn carry_out(&mut self, pod: &Arc<Pod>, volumes: &setup::Paths, plan: Plan) -> Done {
        let node = self.node.clone();
        let mut done = Done::default();
        if plan.kill_pod && !(self.observed.sandboxes.is_empty() && self.observed.instances.is_empty()) {
            done.acted = true;
            if let Err(error) = kill::kill_pod(&node, pod, &self.observed, None).await {
                tracing::warn!(pod = %identity::described(pod), %error, "the pod's containers could not be stopped");
                return done.failed();
            }
        }
        if plan.create_sandbox.is_none() && plan.start.is_empty() && plan.kill.is_empty() {
            return done;
        }
        if let (Some(claims), true) = (&node.claims, plan.create_sandbox.is_some())
            && let Err(error) = claims.prepare(pod).await
        {
            node.events.warning(&About::pod(pod), "FailedPrepareDynamicResources", format!("Failed to prepare dynamic resources: {error}"));
            return done.failed();
        }
        let sandbox = match self.sandbox(pod, &plan).await {
            Ok(sandbox) => sandbox,
            Err(error) => {
                tracing::warn!(pod = %identity::described(pod), %error, "no sandbox");
                return done.failed();
            }
        };
        let Some((id, config, ips)) = sandbox else { return done };
        done.acted |= plan.create_sandbox.is_some();
        for kill in &plan.kill {
            done.acted = true;
            let Some(instance) = self.observed.instances.iter().find(|i| i.status.id == kill.id) else { continue };
            if let Err(error) = kill::kill_container(&node, pod, instance, &kill.message, Some(kill.reason), None).await {
                tracing::warn!(pod = %identity::described(pod), container = %kill.name, %error, "the container could not be stopped");
                return done.failed();
            }
        }
        let (volumes, missing) = match plan.start.is_empty() {
            true => Default::default(),
            false => image::fetch(&node, pod, &config, volumes).await,
        };
        let context = PodContext {
            node: &node,
            pod,
            told: &self.status.clone(),
            volumes: &volumes,
            missing: &missing,
            sandbox: &id,
            sandbox_config: &config,
            ips: &ips,
        };
        for (role, index) in plan.start {
            let Some(container) = nth(pod, role, index) else { continue };
            let started = self.try_start(&context, role, &container).await;
            // After these a container was made, whatever became of it.
            let made = |reason: &str| matches!(reason, "RunContainerError" | "PostStartHookError");
            done.acted |= started.as_ref().err().is_none_or(|error| made(error.reason));
            match started {
                Ok(()) => {
                    done.sidecar |= role == Role::Init && super::restart::is_sidecar(&container);
                    self.reasons.remove(&container.name);
                }
                Err(error) => {
                    self.reasons.insert(container.name.clone(), (error.reason.to_owned(), error.message));
                    if role == Role::Init && !super::restart::is_sidecar(&container) {
                        break;
                    }
                }
            }
        }
        done
    }

    /// The sandbox to start containers in: a new one, or the one that is there.
    async fn sandbox(
        &mut self,
        pod: &Arc<Pod>,
        plan: &Plan,
    ) -> runtime::Result<Option<(String, k8s_cri::v1::PodSandboxConfig, Vec<String>)>> {
        let host_network = pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
        let (id, config, mut ips) = match (plan.create_sandbox, self.observed.ready_sandbox()) {
            (Some(attempt), _) => {
                let made = start::create_sandbox(&self.node, pod, attempt).instrument(tracing::debug_span!("sandbox"));
                let (id, config) = made.await.inspect_err(|error| {
                    tracing::debug!(%error, "sandbox");
                })?;
                let status = self.node.runtime.sandbox_status(&id).await?;
                (id, config, observed::addresses(&status))
            }
            (None, Some(ready)) => {
                let attempt = ready.metadata.as_ref().map_or(0, |m| m.attempt);
                (ready.id.clone(), start::sandbox_for(&self.node, pod, attempt).await?, observed::addresses(ready))
            }
            (None, None) => return Ok(None),
        };
        if host_network {
            ips = self.node.facts.host_ips.clone();
        }
        Ok(Some((id, config, ips)))
    }

    async fn try_start(&mut self, context: &PodContext<'_>, role: Role, container: &Container) -> Result<(), NotStarted> {
        let observed = self.observed.clone();
        let key = backoff_key(container);
        let ended = observed.of(&container.name).find(|i| i.exited()).map(|i| i.finished_at());
        if let Some(ended) = ended {
            let now = self.node.clock.now();
            if self.backoff.remaining(&key, ended, now).is_some() {
                let described = identity::described(context.pod);
                let about = kill::about(context.pod, role, &container.name);
                let text = format!("Back-off restarting failed container {} in pod {described}", container.name);
                self.node.events.warning(&about, "BackOff", text);
                let wait = go_duration(self.backoff.wait(&key).as_secs());
                let message = format!("back-off {wait} restarting failed container={} pod={described}", container.name);
                return Err(NotStarted::new("CrashLoopBackOff", message));
            }
            self.backoff.next(&key, ended, now);
        }
        start::start_container(context, role, container, &observed).await
    }

    /// Ends all containers and the sandbox. A shorter grace period that comes meanwhile takes effect at once.
    async fn terminate(&mut self, update: &Update, updates: &watch::Receiver<Update>) -> runtime::Result<()> {
        let pod = &self.resize.given(&update.pod);
        self.probes.stop_killing();
        let observed = self.observe().await?;
        self.saw(observed);
        self.report(pod, false);
        let mut grace = update.grace();
        let mut newest = updates.clone();
        let (node, waker) = (self.node.clone(), self.waker.clone());
        'ending: loop {
            let current = grace;
            let mut shorter = pin!(async {
                let change = newest.wait_for(|u| u.grace().is_some_and(|new| current.is_none_or(|old| new < old)));
                match change.await.map(|update| update.grace()) {
                    Ok(grace) => grace,
                    Err(_) => std::future::pending().await, // Nobody is left to change his mind.
                }
            });
            // A pod that was given its grace period with the deletion has it in its metadata; only a failure's own or a change of mind overrides it.
            let own = update.failure.as_ref().is_none_or(|f| f.grace.is_none());
            let over = if own && grace == update.grace() { None } else { grace };
            let observed = self.observed.clone();
            let mut killed = pin!(kill::kill_pod(&node, pod, &observed, over));
            loop {
                tokio::select! {
                    killed = &mut killed => {
                        killed?;
                        break 'ending;
                    }
                    new = &mut shorter => {
                        grace = new;
                        break;
                    }
                    // Who has ended, and what readiness probes find, is told while others still run.
                    () = waker.notified() => if let Ok(observed) = self.observe().await {
                        self.saw(observed);
                        if self.observed.any_running() {
                            self.report(pod, false);
                        }
                    },
                }
            }
        }
        let observed = self.observe().await?;
        self.saw(observed);
        if self.observed.any_running() {
            return Err(runtime::RuntimeError::Failed("containers still run".into()));
        }
        self.probes.stop();
        if let Some(claims) = &self.node.claims {
            claims.unprepare(&self.uid).await.map_err(runtime::RuntimeError::Failed)?;
        }
        self.report(pod, true);
        Ok(())
    }

    /// Takes away what the pod had on the node. Its containers and logs stay while the API has it and nobody deletes it.
    async fn clean_up(&mut self, update: &Update) -> anyhow::Result<()> {
        let pod = &update.pod;
        self.node.lookup.release(&self.uid);
        self.node.images.release(&self.uid);
        self.node.release(&self.uid);
        self.ended.cancel();
        if let Some(cgroups) = &self.node.cgroups {
            cgroups.remove_pod(pod).await?;
        }
        let deleted = update.removed || pod.metadata.deletion_timestamp.is_some();
        if deleted {
            for instance in &self.observed.instances {
                self.node.runtime.remove_container(&instance.status.id).await?;
            }
            for sandbox in &self.observed.sandboxes {
                self.node.runtime.remove_sandbox(&sandbox.id).await?;
            }
        }
        if let Some(places) = &self.node.places {
            if let Some(csi) = &self.node.csi {
                csi.tear_down(&self.uid).await.context("taking down the volumes of drivers")?;
            }
            setup::tear_down(&places.root, &self.uid)?;
            self.node.lookup.vacate(&self.uid);
            let logs = places.logs.join(identity::log_directory(identity::namespace(pod), identity::name(pod), &self.uid));
            if deleted && logs.exists() {
                std::fs::remove_dir_all(logs)?;
            }
        }
        if deleted {
            self.node.statuses.ended(pod);
        }
        Ok(())
    }

    /// Whether all containers are being taken away, if the pod knows such a thing: one has asked for it, or that was told and nothing is left.
    fn restarting_all(&self, pod: &Pod, told: &PodStatus) -> Option<bool> {
        restart::may_restart_all(pod).then(|| {
            let mut conditions = told.conditions.iter().flatten();
            restart::all_due(pod, &self.observed)
                || !restart::any_left(pod, &self.observed) && conditions.any(|c| c.type_ == phase::ALL_RESTARTING && c.status == "True")
        })
    }

    fn report(&mut self, pod: &Arc<Pod>, terminal: bool) {
        if self.rejected {
            self.status = Arc::new(status::rejected(pod, self.failure.as_ref()));
            self.node.statuses.report(pod, self.status.clone());
            return;
        }
        let mut before = PodStatus::clone(&self.status);
        let api = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        let own = |c: &PodCondition| OWN_CONDITIONS.contains(&c.type_.as_str());
        let told = before.conditions.take().unwrap_or_default();
        let now = self.node.clock.second();
        self.resize.settle(pod, &self.observed);
        for news in self.resize.news() {
            let record = if news.warning { Recorder::warning } else { Recorder::normal };
            record(&self.node.events, &About::pod(pod), news.reason, news.message);
        }
        let resizes = self.resize.conditions(pod, &self.observed, &told, now);
        let mut conditions: Vec<_> = told.into_iter().filter(own).collect();
        conditions.extend(api.into_iter().filter(|c| !own(c) && !resize::CONDITIONS.contains(&c.type_.as_str())));
        before.conditions = Some(conditions);
        let outcomes = self.probes.outcomes();
        let mut status = status::generate(&StatusInput {
            pod,
            before: &before,
            observed: &self.observed,
            probes: &outcomes,
            reasons: &self.reasons,
            host_ips: &self.node.facts.host_ips,
            terminal,
            restarting_all: self.restarting_all(pod, &before),
            failure: self.failure.as_ref(),
            now,
        });
        self.resize.tell(&mut status);
        let conditions = status.conditions.get_or_insert_default();
        conditions.extend(resizes);
        if let Some(condition) = self.failure.as_ref().and_then(|f| f.condition.clone()) {
            with_condition(conditions, condition, now);
        }
        self.status = Arc::new(status);
        if self.status.phase.as_deref() == Some("Running")
            && let Some(seen) = self.seen.take()
        {
            self.node.vitals.metrics.pod_runs(seen.elapsed());
        }
        self.node.statuses.report(pod, self.status.clone());
    }
}

/// The memory that containers use, by id.
async fn memory_usage(runtime: &dyn Runtime) -> HashMap<String, u64> {
    let stats = runtime.container_stats().await.unwrap_or_default();
    stats.into_iter().filter_map(|s| Some((s.attributes?.id, s.memory?.usage_bytes?.value))).collect()
}

async fn sleep(wake: Option<Duration>) {
    match wake {
        Some(wait) => tokio::time::sleep_until(Instant::now() + wait).await,
        None => std::future::pending().await,
    }
}

fn backoff_key(container: &Container) -> String {
    format!("{}_{}", container.name, identity::container_hash(container))
}

fn backoff_key_of(pod: &Pod, name: &str) -> Option<String> {
    kill::definition(pod, name).map(|(_, container)| backoff_key(&container))
}

fn nth(pod: &Pod, role: Role, index: usize) -> Option<Container> {
    let spec = pod.spec.as_ref()?;
    match role {
        Role::Init => spec.init_containers.as_ref()?.get(index).cloned(),
        Role::App => spec.containers.get(index).cloned(),
        Role::Ephemeral => spec.ephemeral_containers.as_ref()?.get(index).map(kill::ephemeral),
    }
}

fn deadline(pod: &Pod, status: &PodStatus) -> Option<Timestamp> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    Some(status.start_time.as_ref()?.0 + jiff::SignedDuration::from_secs(seconds))
}

fn past_deadline(pod: &Pod, status: &PodStatus, now: Timestamp) -> Option<Failure> {
    let over = deadline(pod, status).filter(|at| *at <= now)?;
    tracing::debug!(pod = %identity::described(pod), deadline = %over, "past its deadline");
    Some(Failure::new("DeadlineExceeded", "Pod was active on the node longer than the specified deadline"))
}

/// A pod's conditions with one more, or with that one brought up to date; it keeps the time it has had its value since.
fn with_condition(conditions: &mut Vec<PodCondition>, mut condition: PodCondition, now: Timestamp) {
    let before = conditions.iter().position(|c| c.type_ == condition.type_).map(|at| conditions.remove(at));
    let since = before.filter(|c| c.status == condition.status).and_then(|c| c.last_transition_time);
    condition.last_transition_time = Some(since.unwrap_or(Time(now)));
    conditions.push(condition);
}

/// Puts the last words of ended containers into their statuses, where they left any.
fn with_messages(mut observed: Observed) -> Observed {
    for instance in observed.instances.iter_mut().filter(|i| i.exited() && i.status.message.is_empty()) {
        instance.status.message = super::last_words::of(&instance.status).unwrap_or_default();
    }
    observed
}

/// A duration of whole seconds as Go prints it.
fn go_duration(seconds: i64) -> String {
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_upstreams() {
        assert_eq!([10, 80, 300].map(go_duration), ["10s", "1m20s", "5m0s"]);
    }
}
