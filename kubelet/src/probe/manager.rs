//! The probe tasks of one pod: one per container and probe, alive as long as the container is in the spec. They write into [`Outcomes`] and
//! wake the pod's worker when something changes; the worker decides what follows (upstream: `pkg/kubelet/prober`).

use super::{
    check::{self, Finding},
    counts::{Counted, Whose},
    results::{Outcome, Outcomes, ProbeKind},
};
use crate::{node::Node, pod::observed::Observed, pod::restart::is_sidecar, recorder::About};
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior},
};

/// How often a probe is tried again at once before a failure counts (upstream: `maxProbeRetries`), for errors of the asking itself.
const DEFAULT_PERIOD: i32 = 10;

/// The probes of one pod.
pub struct Probes {
    node: Arc<Node>,
    outcomes: Arc<watch::Sender<Outcomes>>,
    observed: watch::Sender<Arc<Observed>>,
    waker: Arc<Notify>,
    tasks: HashMap<(String, ProbeKind), JoinHandle<()>>,
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Probes {
    /// No tasks yet. `waker` is notified when an outcome changes. What the pod's status says of instances that run holds until they are asked:
    /// a kubelet that starts makes nothing unready.
    pub fn new(node: Arc<Node>, pod: &Pod, waker: Arc<Notify>) -> Self {
        let (observed, _) = watch::channel(Arc::default());
        let outcomes = Arc::new(watch::Sender::new(known(pod)));
        Probes { node, outcomes, observed, waker, tasks: HashMap::new() }
    }

    /// What was found so far.
    pub fn outcomes(&self) -> Outcomes {
        self.outcomes.borrow().clone()
    }

    /// Tells the tasks what runs now.
    pub fn observe(&self, observed: Arc<Observed>) {
        self.observed.send_replace(observed);
    }

    /// Has one task for every probe of the spec.
    pub fn ensure(&mut self, pod: &Pod) {
        let Some(spec) = &pod.spec else { return };
        let sidecars = spec.init_containers.iter().flatten().filter(|c| is_sidecar(c)).map(|c| (c, "initContainers"));
        for (container, list) in spec.containers.iter().map(|c| (c, "containers")).chain(sidecars) {
            let probes = [
                (ProbeKind::Startup, &container.startup_probe),
                (ProbeKind::Liveness, &container.liveness_probe),
                (ProbeKind::Readiness, &container.readiness_probe),
            ];
            for (kind, probe) in probes {
                let Some(probe) = probe else { continue };
                self.tasks.entry((container.name.clone(), kind)).or_insert_with(|| {
                    let task = Task {
                        node: self.node.clone(),
                        about: About::container(pod, list, &container.name),
                        container: container.clone(),
                        probe: probe.clone(),
                        kind,
                        host_network: spec.host_network == Some(true),
                        outcomes: self.outcomes.clone(),
                        observed: self.observed.subscribe(),
                        waker: self.waker.clone(),
                        counted: Counted::new(self.node.vitals.probes.clone(), Whose::new(pod, &container.name, kind)),
                    };
                    tokio::spawn(task.run())
                });
            }
        }
    }

    /// Ends liveness and startup probes: a pod that is ending is not restarted. Readiness goes on, so that a service sees it leave.
    pub fn stop_killing(&mut self) {
        self.tasks.retain(|(_, kind), task| {
            let keep = *kind == ProbeKind::Readiness;
            if !keep {
                task.abort();
            }
            keep
        });
    }

    /// Ends all tasks.
    pub fn stop(&mut self) {
        for (_, task) in self.tasks.drain() {
            task.abort();
        }
    }
}

/// The outcomes that the pod's status was made of.
fn known(pod: &Pod) -> Outcomes {
    let mut outcomes = Outcomes::default();
    let status = pod.status.iter();
    for container in status.flat_map(|s| s.container_statuses.iter().flatten().chain(s.init_container_statuses.iter().flatten())) {
        let Some((_, id)) = container.container_id.as_deref().and_then(|id| id.split_once("://")) else { continue };
        if container.started == Some(true) {
            outcomes.set(&container.name, ProbeKind::Startup, id, Outcome::Success);
        }
        if container.ready {
            outcomes.set(&container.name, ProbeKind::Readiness, id, Outcome::Success);
        }
    }
    outcomes
}

fn has_started(outcomes: &Outcomes, container: &str, id: &str) -> bool {
    outcomes.of(container, ProbeKind::Startup, id) == Some(Outcome::Success)
}

/// The running instance of a container.
fn running_id(observed: &Observed, container: &str) -> Option<String> {
    observed.latest(container).filter(|i| i.running()).map(|i| i.status.id.clone())
}

struct Task {
    node: Arc<Node>,
    about: About,
    container: Container,
    probe: Probe,
    kind: ProbeKind,
    host_network: bool,
    outcomes: Arc<watch::Sender<Outcomes>>,
    observed: watch::Receiver<Arc<Observed>>,
    waker: Arc<Notify>,
    counted: Counted,
}

/// Counts results of one kind in a row, for one instance.
#[derive(Default)]
struct Streak {
    id: String,
    last: Option<bool>,
    length: i32,
    /// Failed for good: nothing more is asked until the next instance.
    held: bool,
}

impl Streak {
    /// Counts a result; answers with the outcome once the threshold is reached.
    fn count(&mut self, well: bool, probe: &Probe) -> Option<Outcome> {
        self.length = if self.last == Some(well) { self.length.saturating_add(1) } else { 1 };
        self.last = Some(well);
        let threshold = if well { probe.success_threshold.unwrap_or(1) } else { probe.failure_threshold.unwrap_or(3) };
        (self.length >= threshold.max(1)).then_some(if well { Outcome::Success } else { Outcome::Failure })
    }
}

fn seconds(value: Option<i32>, default: i32) -> Duration {
    Duration::from_secs(u64::try_from(value.filter(|v| *v > 0).unwrap_or(default)).unwrap_or(1))
}

impl Task {
    async fn run(mut self) {
        let period = seconds(self.probe.period_seconds, DEFAULT_PERIOD);
        let mut streak = Streak::default();
        let mut ticks = tokio::time::interval_at(Instant::now(), period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let Some((id, started)) = self.running().await else { return };
            if streak.id != id {
                streak = Streak { id: id.clone(), ..Default::default() };
                self.initial(&id);
                let delay = seconds(self.probe.initial_delay_seconds, 0);
                let due = (started + delay).max(Instant::now());
                ticks = tokio::time::interval_at(due, period);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            }
            ticks.tick().await;
            if self.kind == ProbeKind::Readiness && !self.gate(&id) {
                // What has started is ready at once if it is, and not only at the probe's next turn.
                self.start(&id).await;
                ticks.reset();
            }
            if streak.held || !self.gate(&id) {
                continue;
            }
            // The instance may have ended while we waited.
            if self.current().as_deref() != Some(id.as_str()) {
                continue;
            }
            self.ask(&id, &mut streak).await;
        }
    }

    /// The running instance and when it started; waits for one. `None` when the worker is gone.
    async fn running(&mut self) -> Option<(String, Instant)> {
        let name = self.container.name.clone();
        let observed = self.observed.wait_for(|o| o.latest(&name).is_some_and(|i| i.running())).await.ok()?.clone();
        let instance = observed.latest(&name)?;
        let age = self.node.clock.now().as_nanosecond() - i128::from(instance.status.started_at);
        let age = Duration::from_nanos(u64::try_from(age).unwrap_or(0));
        Some((instance.status.id.clone(), Instant::now().checked_sub(age).unwrap_or_else(Instant::now)))
    }

    fn current(&self) -> Option<String> {
        running_id(&self.observed.borrow(), &self.container.name)
    }

    /// A new instance counts as alive, not ready, and not started until the probes say otherwise.
    fn initial(&self, id: &str) {
        let outcome = match self.kind {
            ProbeKind::Liveness => Outcome::Success,
            ProbeKind::Readiness => Outcome::Failure,
            ProbeKind::Startup => Outcome::Unknown,
        };
        let name = &self.container.name;
        self.outcomes.send_if_modified(|known| known.of(name, self.kind, id).is_none() && known.set(name, self.kind, id, outcome));
    }

    /// Whether this probe's turn has come: the startup probe until it succeeded, the others after it.
    fn gate(&self, id: &str) -> bool {
        let started = self.container.startup_probe.is_none() || has_started(&self.outcomes.borrow(), &self.container.name, id);
        started != (self.kind == ProbeKind::Startup)
    }

    /// Waits until the startup probe of this instance has succeeded, or it does not run any more.
    async fn start(&self, id: &str) {
        let name = &self.container.name;
        let (mut outcomes, mut observed) = (self.outcomes.subscribe(), self.observed.clone());
        tokio::select! {
            _ = outcomes.wait_for(|known| has_started(known, name, id)) => {}
            _ = observed.wait_for(|o| running_id(o, name).as_deref() != Some(id)) => {}
        }
    }

    async fn ask(&self, id: &str, streak: &mut Streak) {
        let ip = {
            let observed = self.observed.borrow();
            let ips = if self.host_network { self.node.facts.host_ips.clone() } else { observed.ips() };
            ips.first().cloned().unwrap_or_default()
        };
        let finding = check::check(self.node.runtime.as_ref(), &self.probe, &self.container, id, &ip).await;
        if self.current().as_deref() != Some(id) {
            return; // It ended while it was asked: what it said does not count.
        }
        self.counted.count(&finding);
        let kind = self.kind.as_str();
        match &finding {
            Finding::Success => {}
            Finding::Warning(what) => self.node.events.warning(&self.about, "ProbeWarning", format!("{kind} probe warning: {what}")),
            Finding::Failure(why) => self.node.events.warning(&self.about, "Unhealthy", format!("{kind} probe failed: {why}")),
            Finding::Unknown(why) => {
                let text = format!("{kind} probe errored and resulted in unknown state: {why}");
                self.node.events.warning(&self.about, "Unhealthy", text);
                return;
            }
        }
        let Some(outcome) = streak.count(!matches!(finding, Finding::Failure(_)), &self.probe) else { return };
        // A container that is to be killed is not asked again, and one that has started needs no startup probe.
        streak.held = self.kind == ProbeKind::Liveness && outcome == Outcome::Failure || self.kind == ProbeKind::Startup;
        if self.outcomes.send_if_modified(|known| known.set(&self.container.name, self.kind, id, outcome)) {
            self.waker.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_results_in_a_row() {
        let probe = Probe { failure_threshold: Some(3), success_threshold: Some(2), ..Default::default() };
        let mut streak = Streak::default();
        let results = [false, false, true, false, false, false, true, true];
        let outcomes: Vec<_> = results.iter().map(|well| streak.count(*well, &probe)).collect();
        let (f, s) = (Some(Outcome::Failure), Some(Outcome::Success));
        assert_eq!(outcomes, [None, None, None, None, None, f, None, s]);
    }
}
