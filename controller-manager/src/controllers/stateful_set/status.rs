//! A StatefulSet's status: how many pods there are, of which revision, and how many of them serve.

use super::identity::{replicas, revision};
use super::plan::Look;
use crate::pods::{self, Availability};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;

/// Whether a pod runs and is ready.
pub fn is_running_and_ready(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod)
}

/// Whether it has been for as long as the set asks for.
pub fn is_available(set: &StatefulSet, pod: &Pod, now: Timestamp) -> bool {
    let min_ready = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    is_running_and_ready(pod) && pods::availability(pod, min_ready, now) == Availability::Available
}

/// Whether a place is not served: its pod is missing, going, or not available.
pub fn is_unavailable(set: &StatefulSet, pod: &Pod, now: Timestamp) -> bool {
    pods::is_terminating(pod) || !is_available(set, pod, now)
}

/// The status that follows from the pods.
pub fn count(look: &Look<'_>) -> StatefulSetStatus {
    let counted = |counted: &dyn Fn(&Pod) -> bool| i32::try_from(look.pods.iter().filter(|pod| counted(pod)).count()).unwrap_or(i32::MAX);
    let (current, update) = (look.current.metadata.name.as_deref(), look.update.metadata.name.as_deref());
    StatefulSetStatus {
        observed_generation: look.set.metadata.generation,
        replicas: counted(&|_| true),
        ready_replicas: Some(counted(&is_running_and_ready)),
        available_replicas: Some(counted(&|pod| is_available(look.set, pod, look.now))),
        current_replicas: Some(counted(&|pod| !pods::is_terminating(pod) && revision(pod) == current)),
        updated_replicas: Some(counted(&|pod| !pods::is_terminating(pod) && revision(pod) == update)),
        current_revision: current.map(str::to_owned),
        update_revision: update.map(str::to_owned),
        collision_count: Some(look.collisions),
        conditions: look.set.status.as_ref().and_then(|status| status.conditions.clone()),
    }
}

/// The status as it is told: a rollout that has got everywhere is over, and what is zero is left out where upstream leaves it out.
pub fn told(set: &StatefulSet, mut status: StatefulSetStatus) -> StatefulSetStatus {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref()?.type_.as_deref());
    let all = Some(replicas(set));
    if strategy == Some("RollingUpdate") && status.updated_replicas == all && status.ready_replicas == all && Some(status.replicas) == all {
        status.current_replicas = status.updated_replicas;
        status.current_revision = status.update_revision.clone();
    }
    for field in [&mut status.ready_replicas, &mut status.current_replicas, &mut status.updated_replicas] {
        *field = field.filter(|count| *count != 0);
    }
    status
}

/// Whether a status says what the set's says already.
pub fn is_told(set: &StatefulSet, status: &StatefulSetStatus) -> bool {
    set.status.as_ref().is_some_and(|old| {
        let counts = |of: &StatefulSetStatus| {
            [of.ready_replicas, of.available_replicas, of.current_replicas, of.updated_replicas].map(|count| count.unwrap_or(0))
        };
        counts(old) == counts(status)
            && old.replicas == status.replicas
            && old.observed_generation == status.observed_generation
            && old.current_revision == status.current_revision
            && old.update_revision == status.update_revision
            && old.collision_count.unwrap_or(0) == status.collision_count.unwrap_or(0)
    })
}
