//! The next steps of a StatefulSet (upstream: `stateful_set_control.go`).
//!
//! In order (`OrderedReady`) a set moves one pod at a time: what comes first has to be available before anything is done about the next. In parallel all
//! missing pods are made and all surplus ones deleted at once. Only then, with every place taken, pods of another revision are replaced, from the highest
//! ordinal down to the partition, as many at a time as may be unavailable.

use super::claims::{self, Find, Work};
use super::identity::{self, in_range, new_pod, ordinal, replicas, revision, spec, start};
use super::status::{count, is_available, is_running_and_ready, is_unavailable};
use crate::pods::{self, Availability};
use crate::revisions;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

/// What is looked at.
#[derive(Clone, Copy)]
pub struct Look<'a> {
    /// The set.
    pub set: &'a StatefulSet,
    /// Its pods.
    pub pods: &'a [Arc<Pod>],
    /// Its claims, and others of its namespace.
    pub claims: Find<'a>,
    /// The revision that it comes from.
    pub current: &'a ControllerRevision,
    /// The revision that it is to get to.
    pub update: &'a ControllerRevision,
    /// For the names of further revisions.
    pub collisions: i32,
    /// The time.
    pub now: Timestamp,
}

/// What is done to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It is created, its claims before it.
    Create,
    /// It, or a claim, is brought in line with the set.
    Update,
    /// It is deleted.
    Delete,
    /// Only its claims are seen to.
    Claims,
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What is done.
    pub act: Act,
    /// To which pod.
    pub pod: Arc<Pod>,
    /// Its claims, which are seen to first.
    pub claims: Work,
}

/// What to do and what to tell.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The steps; in parallel they do not wait for each other.
    pub steps: Vec<Step>,
    /// The status.
    pub status: StatefulSetStatus,
    /// When a pod that is ready will have been for long enough.
    pub soon: Option<Duration>,
}

/// Whether all pods are made and deleted at once.
pub fn is_parallel(set: &StatefulSet) -> bool {
    set.spec.as_ref().and_then(|spec| spec.pod_management_policy.as_deref()) == Some("Parallel")
}

fn is_rolling(set: &StatefulSet) -> bool {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete")
}

/// Places below this one, counted from the first, keep the revision that they have.
fn partition(set: &StatefulSet) -> Option<i32> {
    set.spec.as_ref()?.update_strategy.as_ref()?.rolling_update.as_ref().map(|rolling| rolling.partition.unwrap_or(0))
}

/// How many may be unavailable during a rollout.
fn max_unavailable(set: &StatefulSet) -> usize {
    let rolling = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref()?.rolling_update.as_ref()?.max_unavailable.clone());
    let scaled = rolling.map_or(1, |value| crate::amounts::scaled(Some(&value), replicas(set), false));
    usize::try_from(scaled).unwrap_or(0).max(1)
}

struct Planner<'a> {
    look: Look<'a>,
    update_template: PodTemplateSpec,
    in_order: bool,
    steps: Vec<Step>,
}

/// Decides.
pub fn plan(look: Look<'_>) -> Plan {
    let set = look.set;
    let template = |revision| revisions::template(revision).unwrap_or_else(|| spec(set).template);
    let mut planner = Planner { look, update_template: template(look.update), in_order: !is_parallel(set), steps: Vec::new() };
    let mut status = count(&look);
    let current_template = template(look.current);
    let places: Vec<Arc<Pod>> = (start(set)..start(set) + i64::from(replicas(set)))
        .map(|place| {
            look.pods.iter().find(|pod| ordinal(pod) == Some(place)).cloned().unwrap_or_else(|| planner.missing(&current_template, place))
        })
        .collect();
    let mut condemned: Vec<Arc<Pod>> =
        look.pods.iter().filter(|pod| ordinal(pod).is_some_and(|ordinal| !in_range(set, ordinal))).cloned().collect();
    condemned.sort_by_key(|pod| Reverse(ordinal(pod)));
    if set.metadata.deletion_timestamp.is_none() && planner.fill(&places) && planner.shrink(&places, &condemned) && is_rolling(set) {
        status.current_replicas = status.current_replicas.map(|count| count - planner.roll(&places));
    }
    let wait = |pod: &Arc<Pod>| match pods::availability(pod, spec(set).min_ready_seconds.unwrap_or(0), look.now) {
        Availability::In(left) => Duration::try_from(left).ok(),
        _ => None,
    };
    Plan { steps: planner.steps, status, soon: look.pods.iter().filter_map(wait).min() }
}

impl Planner<'_> {
    /// The pod that a place lacks. Below the partition it is of the revision that the set comes from.
    fn missing(&self, current_template: &PodTemplateSpec, place: i64) -> Arc<Pod> {
        let set = self.look.set;
        let kept = i64::from(partition(set).unwrap_or_else(|| set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0)));
        let (template, revision) = if is_rolling(set) && place < start(set) + kept {
            (current_template, self.look.current)
        } else {
            (&self.update_template, self.look.update)
        };
        Arc::new(new_pod(set, template, revision.metadata.name.as_deref().unwrap_or_default(), place))
    }

    fn step(&mut self, act: Act, pod: &Arc<Pod>, claims: Work) {
        self.steps.push(Step { act, pod: pod.clone(), claims });
    }

    fn is_available(&self, pod: &Pod) -> bool {
        is_available(self.look.set, pod, self.look.now)
    }

    fn is_unavailable(&self, pod: &Pod) -> bool {
        is_unavailable(self.look.set, pod, self.look.now)
    }

    /// Sees to every place. Whether everything is as it should be, so far as the set does not work in parallel.
    fn fill(&mut self, places: &[Arc<Pod>]) -> bool {
        places.iter().all(|pod| self.see_to(pod) || !self.in_order)
    }

    /// Sees to one place. Whether it may be gone on from there.
    fn see_to(&mut self, pod: &Arc<Pod>) -> bool {
        let (set, find) = (self.look.set, self.look.claims);
        if pods::is_finished(pod) {
            // Evicted, or its node went down: how it ended says nothing about whether the place is still wanted.
            if !pods::is_terminating(pod) {
                self.step(Act::Delete, pod, Work::default());
            }
            return false;
        }
        if pod.metadata.uid.is_none() {
            if !claims::is_stale(set, pod, find) {
                self.step(Act::Create, pod, claims::work(set, pod, find));
            }
            return false;
        }
        if pods::phase(pod) == "Pending" {
            let work = claims::work(set, pod, find);
            if !work.create.is_empty() || !work.replace.is_empty() {
                self.step(Act::Claims, pod, work);
            }
        }
        if self.in_order && (pods::is_terminating(pod) || !self.is_available(pod)) {
            return false;
        }
        let misowned = claims::misowned(set, pod, find);
        let repaired = repaired(set, pod);
        if let Some(repaired) = repaired {
            self.step(Act::Update, &Arc::new(repaired), claims::work(set, pod, find));
        } else if !misowned.is_empty() {
            self.step(Act::Claims, pod, Work { replace: misowned, ..Work::default() });
        }
        true
    }

    /// Deletes what is too much, the highest ordinal first. Whether nothing is left to delete, so far as the set does not work in parallel.
    fn shrink(&mut self, places: &[Arc<Pod>], condemned: &[Arc<Pod>]) -> bool {
        for pod in condemned {
            let misowned = claims::misowned(self.look.set, pod, self.look.claims);
            if !misowned.is_empty() {
                self.step(Act::Claims, pod, Work { replace: misowned, ..Work::default() });
            }
        }
        let first_unavailable = places.iter().chain(condemned.iter().rev()).find(|pod| self.is_unavailable(pod)).cloned();
        for pod in condemned {
            if !pods::is_terminating(pod) {
                let waits_for_another = !(is_running_and_ready(pod) && self.is_available(pod)) && first_unavailable.as_ref() != Some(pod);
                if self.in_order && waits_for_another {
                    return false;
                }
                self.step(Act::Delete, pod, Work::default());
            }
            if self.in_order {
                return false;
            }
        }
        true
    }

    /// Deletes pods of another revision. How many. Those that do not serve anyway cost nothing.
    fn roll(&mut self, places: &[Arc<Pod>]) -> i32 {
        let unavailable = places.iter().filter(|pod| self.is_unavailable(pod)).count();
        let mut room = max_unavailable(self.look.set).saturating_sub(unavailable);
        let kept = usize::try_from(partition(self.look.set).unwrap_or(0)).unwrap_or(0);
        let update = self.look.update.metadata.name.as_deref();
        let mut gone = 0;
        for pod in places.iter().skip(kept).rev() {
            if revision(pod) == update || pods::is_terminating(pod) || pod.metadata.uid.is_none() || pods::is_finished(pod) {
                continue;
            }
            if !self.is_unavailable(pod) {
                let Some(less) = room.checked_sub(1) else { continue };
                room = less;
            }
            self.step(Act::Delete, pod, Work::default());
            gone += 1;
        }
        gone
    }
}

/// The pod with the identity and the storage that it should have, if it has another.
fn repaired(set: &StatefulSet, pod: &Pod) -> Option<Pod> {
    if identity::matches(set, pod) && claims::are_mounted(set, pod) {
        return None;
    }
    let mut repaired = pod.clone();
    identity::label(&mut repaired);
    if !claims::are_mounted(set, pod) {
        claims::mount(set, &mut repaired);
    }
    Some(repaired)
}
