//! The pods that wait for a node (upstream: `pkg/scheduler/backend/queue`).
//!
//! A pod is active (ready to be tried, the most urgent first, of equals the one that failed or came longest ago), backing off (it failed and something has since changed that may cure it, but it has to
//! let others go first), unschedulable (it failed, and nothing has changed), or in flight. An event moves out of the unschedulable only
//! the pods of which a plugin that refused them says that it could help. Events that come while a pod is in flight are kept, because they may cure what it
//! is about to be refused for.
//!
//! If no pod is active, those that back off are tried early, unless an error put them there. Backoffs end with a whole second, so that of those that end
//! in the same one the most urgent pod goes first (KEP-5142). Pods are held for as long as they exist, so the API bounds this.

use crate::extenders::EXTENDER;
use crate::framework::{ClusterEvent, Plugin, Point};
use crate::informers::nominated;
use crate::metrics::Metrics;
use crate::pod_info::PodInfo;
use crate::profiles::Profiles;
use crate::stopwatch;
use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// An unschedulable pod is tried again after this long, should an event have been missed (upstream: 5 minutes).
const LEFT_OVER: Duration = Duration::from_secs(5 * 60);
/// Backoffs end together in windows of this length.
const WINDOW: Duration = Duration::from_secs(1);
/// Of an event whose effect is measured, it is on so many pods: there may be thousands.
const MEASURED: usize = 10;
/// Events kept for the pods in flight. If there were more, a pod is taken to be cured, and tried again.
const EVENTS: usize = 1000;

/// How long failed pods let others go first.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// After the first failure (`podInitialBackoffSeconds`).
    pub initial: Duration,
    /// At most (`podMaxBackoffSeconds`); none at all if this is 0.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: Duration::from_secs(1), max: Duration::from_secs(10) }
    }
}

impl Backoff {
    fn after(self, failures: u32) -> Duration {
        let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.initial.saturating_mul(factor).min(self.max)
    }
}

/// A pod on its way.
#[derive(Clone, Debug)]
pub struct QueuedPod {
    /// The pod.
    pub pod: Arc<PodInfo>,
    /// How often it was tried.
    pub attempts: u32,
    /// When it first was ready to be tried.
    pub entered: Instant,
    /// How often it was refused.
    refusals: u32,
    /// How often in a row something else went wrong since.
    errors: u32,
    /// When it failed last, or came.
    since: Instant,
    /// The plugins that refused it last.
    refused_by: BTreeSet<&'static str>,
    /// A plugin does not let it into the queue.
    gated: bool,
    /// Something has to be over before anything brings it back.
    held: bool,
    /// It is tried because it has waited for long, not because something has happened.
    pub late: bool,
}

/// How a try ended that found no node.
#[derive(Clone, Debug)]
pub enum Failed {
    /// These plugins refused.
    Unschedulable(BTreeSet<&'static str>),
    /// Something else went wrong; it is tried again after its backoff, whatever happens.
    Error,
}

/// How many pods are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Ready to be tried.
    pub active: usize,
    /// Backing off.
    pub backoff: usize,
    /// Waiting for an event.
    pub unschedulable: usize,
    /// Not let in.
    pub gated: usize,
    /// Being tried or bound.
    pub in_flight: usize,
}

type ActiveKey = (Reverse<i32>, Instant, u64);
/// The window in which the backoff ends, counted from the queue's beginning; within it as if active.
type BackoffKey = (u64, ActiveKey);

#[derive(Clone, Copy, Debug)]
enum Place {
    Active(ActiveKey),
    Backoff(BackoffKey),
    ErrorBackoff(BackoffKey),
    Unschedulable,
    /// See [`State::aside`].
    Aside,
    /// With the number of events seen when it was taken.
    InFlight(u64),
}

struct State {
    active: BTreeMap<ActiveKey, QueuedPod>,
    backoff: BTreeMap<BackoffKey, QueuedPod>,
    /// After an error; nobody of them is tried early.
    error_backoff: BTreeMap<BackoffKey, QueuedPod>,
    unschedulable: HashMap<String, QueuedPod>,
    /// Unschedulable pods that are held, and something has happened meanwhile that could help: of more events they need not be asked.
    aside: HashMap<String, QueuedPod>,
    /// No unschedulable pod has waited for [`LEFT_OVER`] before.
    late_at: Option<Instant>,
    places: HashMap<String, Place>,
    sequence: u64,
    events: VecDeque<ClusterEvent>,
    /// How many events came in all; the last of `events` is the one before.
    events_seen: u64,
    /// How many pods in flight were taken after how many events.
    in_flight: BTreeMap<u64, usize>,
    closed: bool,
}

/// See the module's description.
pub struct SchedulingQueue {
    profiles: Arc<Profiles>,
    metrics: Arc<Metrics>,
    backoff: Backoff,
    begun: Instant,
    state: Mutex<State>,
    wake: Notify,
}

impl SchedulingQueue {
    /// An empty queue.
    pub fn new(profiles: Arc<Profiles>, backoff: Backoff, metrics: Arc<Metrics>) -> Self {
        let state = State {
            active: BTreeMap::new(),
            backoff: BTreeMap::new(),
            error_backoff: BTreeMap::new(),
            unschedulable: HashMap::new(),
            aside: HashMap::new(),
            late_at: None,
            places: HashMap::new(),
            sequence: 0,
            events: VecDeque::new(),
            events_seen: 0,
            in_flight: BTreeMap::new(),
            closed: false,
        };
        Self { profiles, metrics, backoff, begun: Instant::now(), state: Mutex::new(state), wake: Notify::new() }
    }

    /// A pod without a node has come, or one that is here has changed.
    pub fn update(&self, pod: Arc<PodInfo>) {
        let mut state = self.state.lock();
        let uid = pod.uid().to_owned();
        match state.places.get(&uid).copied() {
            None => {
                let now = Instant::now();
                let queued = QueuedPod {
                    pod,
                    attempts: 0,
                    entered: now,
                    refusals: 0,
                    errors: 0,
                    since: now,
                    refused_by: BTreeSet::new(),
                    gated: false,
                    held: false,
                    late: false,
                };
                self.admit(&mut state, queued);
            }
            // What comes of it meanwhile is told by `failed`, with the pod as it is then.
            Some(Place::InFlight(_)) => {}
            Some(place) => {
                let Some(mut queued) = state.take(&uid, place) else { return };
                let old = std::mem::replace(&mut queued.pod, pod);
                match place {
                    Place::Active(_) => state.activate(queued),
                    Place::Backoff((window, _)) => state.back_off(queued, window),
                    Place::ErrorBackoff((window, _)) => state.back_off_after_error(queued, window),
                    Place::Unschedulable if queued.gated => self.admit(&mut state, queued),
                    Place::Unschedulable if self.is_cured_by_itself(&queued, &old) => {
                        self.requeue(&mut state, queued, "UnschedulablePodUpdate")
                    }
                    Place::Aside => state.set_aside(queued),
                    _ => state.wait(queued),
                }
            }
        }
        drop(state);
        self.wake.notify_one();
    }

    /// A pod is gone, bound, or no business of ours any more.
    pub fn remove(&self, uid: &str) {
        let mut state = self.state.lock();
        if let Some(place) = state.places.get(uid).copied() {
            state.take(uid, place);
        }
    }

    /// What a pod was held for is done, see [`SchedulingQueue::failed_and_held`]. Whether something has happened meanwhile that could help.
    pub fn release(&self, uid: &str) -> bool {
        let mut state = self.state.lock();
        let place = state.places.get(uid).copied();
        let Some(place @ (Place::Unschedulable | Place::Aside)) = place else { return false };
        if let Some(queued) = state.take(uid, place) {
            state.wait(QueuedPod { held: false, ..queued });
        }
        matches!(place, Place::Aside)
    }

    /// Brings an unschedulable pod back, since what it waits for has happened.
    pub fn bring_back(&self, uid: &str) {
        let mut state = self.state.lock();
        if !state.unschedulable.contains_key(uid) {
            return;
        }
        if let Some(queued) = state.take(uid, Place::Unschedulable) {
            self.requeue(&mut state, queued, "ScheduleAttemptFailure");
        }
        drop(state);
        self.wake.notify_one();
    }

    /// The next pod to try, as soon as there is one; `None` once the queue is closed. [`SchedulingQueue::failed`] or [`SchedulingQueue::remove`] has to follow.
    pub async fn pop(&self) -> Option<QueuedPod> {
        loop {
            let notified = self.wake.notified();
            let next = {
                let mut state = self.state.lock();
                if state.closed {
                    return None;
                }
                let now = Instant::now();
                self.flush(&mut state, now);
                if let Some(mut queued) = state.next() {
                    queued.attempts += 1;
                    let seen = state.events_seen;
                    state.places.insert(queued.pod.uid().to_owned(), Place::InFlight(seen));
                    *state.in_flight.entry(seen).or_default() += 1;
                    return Some(queued);
                }
                self.next_time(&state)
            };
            match next {
                Some(at) => tokio::select! {
                    () = tokio::time::sleep_until(at) => {}
                    () = notified => {}
                },
                None => notified.await,
            }
        }
    }

    /// A pod that was popped has found no node. `pod` is its present state.
    pub fn failed(&self, queued: QueuedPod, pod: Arc<PodInfo>, how: Failed) {
        self.landed(queued, pod, how, false);
    }

    /// The same, and what came of its try is being written, or room made for it: until [`SchedulingQueue::release`] nothing brings it back but its
    /// backoff after an error (upstream waits with the former, and has DefaultPreemption's `PreEnqueue` for the latter).
    pub fn failed_and_held(&self, queued: QueuedPod, pod: Arc<PodInfo>, how: Failed) {
        self.landed(queued, pod, how, true);
    }

    fn landed(&self, queued: QueuedPod, pod: Arc<PodInfo>, how: Failed, held: bool) {
        let mut state = self.state.lock();
        // Removed while it was tried: gone, or bound by somebody else.
        let Some(Place::InFlight(since)) = state.places.get(pod.uid()).copied() else { return };
        state.landed(since);
        let old = queued.pod.clone();
        let mut queued = QueuedPod { pod, since: Instant::now(), held, late: false, ..queued };
        match how {
            Failed::Error => {
                queued.errors += 1;
                self.try_again(&mut state, queued, "ScheduleAttemptFailure", State::back_off_after_error);
            }
            Failed::Unschedulable(refused_by) => {
                (queued.refusals, queued.errors) = (queued.refusals + 1, 0);
                queued.refused_by = refused_by;
                let missed = state.events_seen - since;
                let kept = state.events.len();
                let cured = match usize::try_from(missed) {
                    Ok(missed) if missed <= kept => state.events.range(kept - missed..).any(|event| self.could_help(&queued, event)),
                    _ => true,
                };
                if cured || self.is_cured_by_itself(&queued, &old) {
                    self.requeue(&mut state, queued, "ScheduleAttemptFailure");
                } else {
                    self.metrics.incoming.add(&["unschedulable", "ScheduleAttemptFailure"]);
                    state.wait(queued);
                }
            }
        }
        drop(state);
        self.wake.notify_one();
    }

    /// An unschedulable pod has to be tried again after its backoff, whatever happens: what it waited for has gone wrong.
    pub fn retry(&self, uid: &str) {
        let mut state = self.state.lock();
        let Some(place @ (Place::Unschedulable | Place::Aside)) = state.places.get(uid).copied() else { return };
        if let Some(queued) = state.take(uid, place) {
            if queued.gated {
                state.wait(queued);
            } else {
                self.try_again(&mut state, queued, "ScheduleAttemptFailure", State::back_off_after_error);
            }
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Something has changed that may help pods that fitted nowhere.
    pub fn event(&self, event: &ClusterEvent) {
        let mut state = self.state.lock();
        state.events_seen += 1;
        // Only pods in flight may have missed it; of what is kept, they need what came since the first of them was taken.
        if state.in_flight.is_empty() {
            state.events.clear();
        } else {
            state.events.push_back(event.clone());
            let oldest = state.in_flight.first_key_value().map_or(state.events_seen, |(seen, _)| *seen);
            let needed = usize::try_from(state.events_seen - oldest).unwrap_or(EVENTS).min(EVENTS);
            while state.events.len() > needed {
                state.events.pop_front();
            }
        }
        // Of some events, how long the first pods take to be asked.
        let mut to_measure = if state.events_seen.is_multiple_of(u64::from(stopwatch::ONE_IN)) { MEASURED } else { 0 };
        let waiting = state.unschedulable.iter().filter(|(_, queued)| !queued.gated);
        let helped = waiting.filter(|(_, queued)| {
            let measured = to_measure > 0;
            to_measure -= usize::from(measured);
            self.asked(queued, event, measured)
        });
        let helped: Vec<String> = helped.map(|(uid, _)| uid.clone()).collect();
        for uid in &helped {
            if let Some(queued) = state.take(uid, Place::Unschedulable) {
                self.requeue(&mut state, queued, event.label());
            }
        }
        drop(state);
        if !helped.is_empty() {
            self.wake.notify_one();
        }
    }

    /// Ends [`SchedulingQueue::pop`].
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_waiters();
        self.wake.notify_one();
    }

    /// How many pods are where.
    pub fn pending(&self) -> Pending {
        let state = self.state.lock();
        let gated = state.unschedulable.values().filter(|queued| queued.gated).count();
        Pending {
            active: state.active.len(),
            backoff: state.backoff.len() + state.error_backoff.len(),
            unschedulable: state.unschedulable.len() + state.aside.len() - gated,
            gated,
            in_flight: state.in_flight.values().sum(),
        }
    }

    /// Whether a pod is in one of the queues, or in flight.
    pub fn contains(&self, uid: &str) -> bool {
        self.state.lock().places.contains_key(uid)
    }

    /// How many events are kept for pods in flight, by name.
    pub fn kept_events(&self) -> BTreeMap<&'static str, usize> {
        let mut kept = BTreeMap::new();
        self.state.lock().events.iter().for_each(|event| *kept.entry(event.label()).or_insert(0) += 1);
        kept
    }

    /// How many pods each plugin has refused or not let in, by plugin and profile.
    pub fn refused(&self) -> BTreeMap<(&'static str, String), usize> {
        let (state, mut refused) = (self.state.lock(), BTreeMap::new());
        for queued in state.unschedulable.values().chain(state.aside.values()) {
            let profile = self.profiles.of(&queued.pod).map(|profile| profile.name.clone()).unwrap_or_default();
            for plugin in &queued.refused_by {
                *refused.entry((*plugin, profile.clone())).or_insert(0) += 1;
            }
        }
        refused
    }

    fn admit(&self, state: &mut State, mut queued: QueuedPod) {
        let profile = self.profiles.of(&queued.pod);
        let gate =
            profile.and_then(|profile| profile.plugins.at(Point::PreEnqueue).find(|plugin| plugin.pre_enqueue(&queued.pod).is_err()));
        queued.gated = gate.is_some();
        if let Some(gate) = gate {
            queued.refused_by = BTreeSet::from([gate.name()]);
            self.metrics.incoming.add(&["gated", "UnschedulablePodAdd"]);
            state.wait(queued);
        } else {
            queued.entered = Instant::now();
            self.metrics.incoming.add(&["active", "UnschedulablePodAdd"]);
            state.activate(queued);
        }
    }

    /// Active, but for what is left of its backoff and while it is not held.
    fn requeue(&self, state: &mut State, queued: QueuedPod, why: &'static str) {
        if queued.held {
            return state.set_aside(queued);
        }
        self.try_again(state, queued, why, State::back_off);
    }

    /// Active, but for what is left of its backoff.
    fn try_again(&self, state: &mut State, queued: QueuedPod, why: &'static str, back_off: fn(&mut State, QueuedPod, u64)) {
        let failures = if queued.errors > 0 { queued.errors } else { queued.refusals };
        let window = self.window(queued.since + self.backoff.after(failures));
        if self.backoff.max.is_zero() || window < self.window(Instant::now()) {
            self.metrics.incoming.add(&["active", why]);
            state.activate(queued);
        } else {
            self.metrics.incoming.add(&["backoff", why]);
            back_off(state, queued, window);
        }
    }

    fn window(&self, at: Instant) -> u64 {
        at.duration_since(self.begun).as_secs() / WINDOW.as_secs()
    }

    /// Whether a pod that was refused when it was as `old` could be accepted as it is now.
    fn is_cured_by_itself(&self, queued: &QueuedPod, old: &Arc<PodInfo>) -> bool {
        let new = &queued.pod;
        let promised = |pod: &PodInfo| nominated(&pod.pod).is_some();
        // A pod whose promise is taken back has to look again.
        (promised(old) && !promised(new))
            || (changed_for_scheduling(old, new) && self.could_help(queued, &ClusterEvent::Itself { old: old.clone(), new: new.clone() }))
    }

    fn could_help(&self, queued: &QueuedPod, event: &ClusterEvent) -> bool {
        self.asked(queued, event, false)
    }

    fn asked(&self, queued: &QueuedPod, event: &ClusterEvent, measured: bool) -> bool {
        let Some(profile) = self.profiles.of(&queued.pod) else { return false };
        let plugins = &profile.plugins;
        let cures = |plugin: &dyn Plugin| {
            if !measured {
                return plugin.cures(&queued.pod, event);
            }
            let begun = Instant::now();
            let cures = plugin.cures(&queued.pod, event);
            let labels = [plugin.name(), event.label(), if cures { "Queue" } else { "QueueSkip" }];
            self.metrics.hints.observe(&labels, begun.elapsed().as_secs_f64());
            cures
        };
        // Refused by nobody (there was no node at all), or by who cannot be asked: anything may help.
        queued.refused_by.is_empty()
            || queued.refused_by.contains(EXTENDER)
            || queued.refused_by.iter().filter_map(|name| plugins.named(name)).any(cures)
    }

    fn flush(&self, state: &mut State, now: Instant) {
        let window = self.window(now);
        while let Some(queued) = state.next_after_backoff(window) {
            self.metrics.incoming.add(&["active", "BackoffComplete"]);
            state.activate(queued);
        }
        if state.late_at.is_none_or(|at| now < at) {
            return;
        }
        let waiting = || state.unschedulable.iter().chain(&state.aside).filter(|(_, queued)| !queued.gated);
        let late: Vec<String> = waiting().filter(|(_, queued)| queued.since + LEFT_OVER <= now).map(|(uid, _)| uid.clone()).collect();
        state.late_at = waiting().map(|(_, queued)| queued.since + LEFT_OVER).filter(|at| *at > now).min();
        for uid in late {
            let place = state.places.get(&uid).copied();
            if let Some(queued) = place.and_then(|place| state.take(&uid, place)) {
                self.metrics.incoming.add(&["active", "UnschedulableTimeout"]);
                state.activate(QueuedPod { late: true, ..queued });
            }
        }
    }

    /// When the next pod is ready without anything happening.
    fn next_time(&self, state: &State) -> Option<Instant> {
        let windows = [&state.backoff, &state.error_backoff].into_iter().filter_map(|backoff| backoff.first_key_value());
        let backoff = windows.map(|((window, _), _)| self.begun + WINDOW.saturating_mul(u32::try_from(window + 1).unwrap_or(u32::MAX)));
        backoff.chain(state.late_at).min()
    }
}

impl State {
    fn activate(&mut self, queued: QueuedPod) {
        let key = self.key(&queued);
        self.places.insert(queued.pod.uid().to_owned(), Place::Active(key));
        self.active.insert(key, queued);
    }

    fn back_off(&mut self, queued: QueuedPod, window: u64) {
        let key = (window, self.key(&queued));
        self.places.insert(queued.pod.uid().to_owned(), Place::Backoff(key));
        self.backoff.insert(key, queued);
    }

    fn back_off_after_error(&mut self, queued: QueuedPod, window: u64) {
        let key = (window, self.key(&queued));
        self.places.insert(queued.pod.uid().to_owned(), Place::ErrorBackoff(key));
        self.error_backoff.insert(key, queued);
    }

    fn wait(&mut self, queued: QueuedPod) {
        let late_at = queued.since + LEFT_OVER;
        self.late_at = Some(self.late_at.map_or(late_at, |at| at.min(late_at)));
        self.places.insert(queued.pod.uid().to_owned(), Place::Unschedulable);
        self.unschedulable.insert(queued.pod.uid().to_owned(), queued);
    }

    fn set_aside(&mut self, queued: QueuedPod) {
        self.places.insert(queued.pod.uid().to_owned(), Place::Aside);
        self.aside.insert(queued.pod.uid().to_owned(), queued);
    }

    /// Its place among active pods.
    fn key(&mut self, queued: &QueuedPod) -> ActiveKey {
        self.sequence += 1;
        (Reverse(queued.pod.priority()), queued.since, self.sequence)
    }

    fn take(&mut self, uid: &str, place: Place) -> Option<QueuedPod> {
        self.places.remove(uid);
        match place {
            Place::Active(key) => self.active.remove(&key),
            Place::Backoff(key) => self.backoff.remove(&key),
            Place::ErrorBackoff(key) => self.error_backoff.remove(&key),
            Place::Unschedulable => self.unschedulable.remove(uid),
            Place::Aside => self.aside.remove(uid),
            Place::InFlight(since) => {
                self.landed(since);
                None
            }
        }
    }

    fn landed(&mut self, since: u64) {
        if let Some(count) = self.in_flight.get_mut(&since) {
            *count -= 1;
            if *count == 0 {
                self.in_flight.remove(&since);
            }
        }
    }

    /// A pod whose backoff ended before this window.
    fn next_after_backoff(&mut self, window: u64) -> Option<QueuedPod> {
        let ended = |backoff: &mut BTreeMap<BackoffKey, QueuedPod>| {
            let first = backoff.first_entry().filter(|first| first.key().0 < window)?;
            Some(first.remove())
        };
        ended(&mut self.backoff).or_else(|| ended(&mut self.error_backoff))
    }

    fn next(&mut self) -> Option<QueuedPod> {
        let active = self.active.pop_first().map(|(_, queued)| queued);
        active.or_else(|| self.backoff.pop_first().map(|(_, queued)| queued))
    }
}

/// Whether anything has changed that a plugin may look at: all but status and bookkeeping.
fn changed_for_scheduling(old: &PodInfo, new: &PodInfo) -> bool {
    old.pod.spec != new.pod.spec
        || old.status().resource_claim_statuses != new.status().resource_claim_statuses
        || old.pod.metadata.labels != new.pod.metadata.labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{labelled_pod, node, pod};
    use crate::framework::Changed;
    use serde_json::json;

    fn queue() -> SchedulingQueue {
        SchedulingQueue::new(Arc::default(), Backoff::default(), Arc::default())
    }

    fn waiting(priority: i32, name: &str) -> Arc<PodInfo> {
        pod(name, json!({"priority": priority, "nodeSelector": {"disk": "ssd"}}))
    }

    async fn pop(queue: &SchedulingQueue) -> QueuedPod {
        queue.pop().await.unwrap()
    }

    fn refuse(queue: &SchedulingQueue, queued: QueuedPod) {
        refuse_by(queue, queued, "NodeAffinity");
    }

    fn refuse_by(queue: &SchedulingQueue, queued: QueuedPod, plugin: &'static str) {
        let pod = queued.pod.clone();
        queue.failed(queued, pod, Failed::Unschedulable(BTreeSet::from([plugin])));
    }

    fn node_event(labels: serde_json::Value) -> ClusterEvent {
        ClusterEvent::Node(Changed { old: None, new: node("n1", json!({"metadata": {"labels": labels}})) })
    }

    #[tokio::test(start_paused = true)]
    async fn the_most_urgent_first_then_in_order() {
        let queue = queue();
        for (priority, name) in [(0, "a"), (0, "b"), (5, "c")] {
            queue.update(waiting(priority, name));
        }
        for expected in ["c", "a", "b"] {
            assert_eq!(pop(&queue).await.pod.uid(), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_failed_before_others_came_goes_first() {
        let queue = queue();
        queue.update(waiting(0, "a"));
        let queued = pop(&queue).await;
        refuse(&queue, queued);
        tokio::time::advance(Duration::from_secs(2)).await;
        queue.update(waiting(0, "b"));
        queue.event(&node_event(json!({"disk": "ssd"})));
        assert_eq!((pop(&queue).await.pod.uid(), pop(&queue).await.pod.uid()), ("a", "b"));
    }

    #[tokio::test(start_paused = true)]
    async fn of_backoffs_that_end_in_the_same_second_the_most_urgent_is_first() {
        let queue = queue();
        for (priority, name, wait) in [(0, "early", 700), (0, "a", 100), (9, "urgent", 100)] {
            queue.update(waiting(priority, name));
            let queued = pop(&queue).await;
            refuse(&queue, queued);
            tokio::time::advance(Duration::from_millis(wait)).await;
        }
        tokio::time::advance(Duration::from_millis(150)).await;
        queue.update(waiting(0, "last"));
        let queued = pop(&queue).await;
        refuse(&queue, queued);
        queue.event(&node_event(json!({"disk": "ssd"})));
        assert_eq!(queue.pending().backoff, 4);
        for expected in ["urgent", "early", "a", "last"] {
            assert_eq!(pop(&queue).await.pod.uid(), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_event_that_could_help_brings_a_pod_back() {
        let queue = queue();
        queue.update(waiting(0, "a"));
        let queued = pop(&queue).await;
        refuse(&queue, queued);
        assert_eq!(queue.pending().unschedulable, 1);
        queue.event(&node_event(json!({"disk": "hdd"})));
        assert_eq!(queue.pending().unschedulable, 1);
        queue.event(&node_event(json!({"disk": "ssd"})));
        assert_eq!(queue.pending(), Pending { backoff: 1, ..Pending::default() });
        let start = Instant::now();
        assert_eq!(pop(&queue).await.attempts, 2, "nothing else to do: no need to back off");
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_during_the_try_counts() {
        let queue = queue();
        queue.update(waiting(0, "a"));
        let queued = pop(&queue).await;
        queue.event(&node_event(json!({"disk": "ssd"})));
        refuse(&queue, queued);
        assert_eq!(queue.pending().backoff, 1);
        let again = pop(&queue).await;
        refuse(&queue, again);
        assert_eq!(queue.pending().unschedulable, 1, "the event was before this try");
    }

    #[tokio::test(start_paused = true)]
    async fn after_an_error_the_backoff_holds_and_grows() {
        let queue = queue();
        queue.update(waiting(0, "a"));
        // And the rest of the window in which it ends.
        for seconds in [2, 3, 5, 9, 11, 11] {
            let queued = pop(&queue).await;
            let (pod, start) = (queued.pod.clone(), Instant::now());
            queue.failed(queued, pod, Failed::Error);
            let queued = pop(&queue).await;
            assert_eq!(start.elapsed().as_secs(), seconds);
            // Back as it was, to fail again.
            queue.state.lock().activate(QueuedPod { attempts: queued.attempts - 1, ..queued });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_nothing_helped_is_tried_after_five_minutes() {
        let queue = queue();
        queue.update(waiting(0, "a"));
        let queued = pop(&queue).await;
        refuse(&queue, queued);
        let start = Instant::now();
        pop(&queue).await;
        assert_eq!(start.elapsed(), LEFT_OVER);
    }

    #[tokio::test(start_paused = true)]
    async fn gates_are_looked_at_again_when_the_pod_changes() {
        let queue = queue();
        queue.update(pod("a", json!({"schedulingGates": [{"name": "x"}]})));
        assert_eq!(queue.pending(), Pending { gated: 1, ..Pending::default() });
        queue.event(&node_event(json!({})));
        assert_eq!(queue.pending().gated, 1);
        queue.update(pod("a", json!({})));
        assert_eq!(pop(&queue).await.pod.uid(), "a");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_the_pod_brings_it_back_if_it_cures_what_it_was_refused_for() {
        let asking = |cpu: &str| pod("a", json!({"containers": [{"resources": {"requests": {"cpu": cpu}}}]}));
        let labelled = |app: &str| labelled_pod("a", json!({"app": app}), json!({}));
        let tolerating = |key: &str| pod("a", json!({"tolerations": [{"key": key, "operator": "Exists"}]}));
        let cordon = "node.kubernetes.io/unschedulable";
        for (plugin, before, after, expected) in [
            ("NodeAffinity", waiting(0, "a"), waiting(0, "a"), false),
            ("NodeAffinity", labelled("x"), labelled("y"), false),
            ("NodeResourcesFit", asking("2"), asking("1"), true),
            ("NodeResourcesFit", asking("1"), asking("2"), false),
            ("NodeResourcesFit", labelled("x"), labelled("y"), false),
            ("InterPodAffinity", labelled("x"), labelled("y"), true),
            ("InterPodAffinity", asking("2"), asking("1"), false),
            ("PodTopologySpread", labelled("x"), labelled("y"), true),
            ("TaintToleration", tolerating("x"), tolerating("y"), true),
            ("TaintToleration", labelled("x"), labelled("y"), false),
            ("NodeUnschedulable", tolerating("x"), tolerating(cordon), true),
            ("NodeUnschedulable", tolerating("x"), tolerating("y"), false),
        ] {
            let queue = queue();
            queue.update(before.clone());
            let queued = pop(&queue).await;
            refuse_by(&queue, queued, plugin);
            queue.update(after.clone());
            let at_rest = queue.pending().unschedulable == 0;
            assert_eq!(at_rest, expected, "{plugin}: {:?} to {:?}", before.pod, after.pod);
            queue.remove("a");
            assert_eq!(queue.pending(), Pending::default());

            queue.update(before);
            let queued = pop(&queue).await;
            queue.failed(queued, after, Failed::Unschedulable(BTreeSet::from([plugin])));
            assert_eq!(queue.pending().backoff == 1, expected, "{plugin}, while it is tried");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_is_held_is_tried_once_it_is_released() {
        for woken in [true, false] {
            let queue = queue();
            queue.update(waiting(0, "a"));
            let queued = pop(&queue).await;
            let pod = queued.pod.clone();
            queue.failed_and_held(queued, pod, Failed::Unschedulable(BTreeSet::from(["NodeAffinity"])));
            let help = || queue.event(&node_event(json!({"disk": "ssd"})));
            if woken {
                help();
            }
            assert_eq!(queue.pending().unschedulable, 1);
            assert_eq!(queue.release("a"), woken);
            help();
            assert_eq!(pop(&queue).await.attempts, 2);
        }
    }
}
