//! What the controllers hold of the objects of which there are many: of a pod what some controller reads. Everything else is thrown away before it is
//! stored ([`SharedCaches::trim`]), since of thousands of pods it is most of the process's memory.
//!
//! Whoever reads another field adds it here; the fixtures of the controllers' own tests go through [`held`], so that a decision on what is not held
//! fails its test. What is held in part is never written back whole: [`crate::ops::Whole`] says which kinds may be.

use client::SharedCaches;
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, Pod,
    PodCondition, PodSpec, PodStatus, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The annotations that are read.
const ANNOTATIONS: &[&str] = &[
    crate::pods::DELETION_COST,
    crate::controllers::job::INDEX,
    crate::controllers::job::FAILURES,
    crate::controllers::job::IGNORED_FAILURES,
    crate::controllers::volumes::local::REMOVES,
];

/// Says so of every kind.
pub fn all_kinds(caches: &SharedCaches) {
    caches.trim::<Pod>(pod);
}

/// Leaves of a pod what is read.
pub fn pod(pod: &mut Pod) {
    let meta = std::mem::take(&mut pod.metadata);
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.retain(|name, _| ANNOTATIONS.contains(&name.as_str()));
    pod.metadata = ObjectMeta {
        annotations: (!annotations.is_empty()).then_some(annotations),
        generate_name: None,
        managed_fields: None,
        self_link: None,
        ..meta
    };
    pod.spec = pod.spec.take().map(spec);
    let is_going = pod.metadata.deletion_timestamp.is_some();
    pod.status = pod.status.take().map(|status| self::status(status, is_going));
}

fn spec(spec: PodSpec) -> PodSpec {
    PodSpec {
        active_deadline_seconds: spec.active_deadline_seconds,
        affinity: spec.affinity,
        containers: spec.containers.into_iter().map(container).collect(),
        hostname: spec.hostname,
        image_pull_secrets: spec.image_pull_secrets,
        init_containers: spec.init_containers.map(|containers| containers.into_iter().map(container).collect()),
        node_name: spec.node_name,
        overhead: spec.overhead,
        priority_class_name: spec.priority_class_name,
        resource_claims: spec.resource_claims,
        resources: spec.resources,
        subdomain: spec.subdomain,
        tolerations: spec.tolerations,
        volumes: filled(spec.volumes, |volume| volume_is_read(&volume).then_some(volume)),
        ..PodSpec::default()
    }
}

/// What `keep` leaves of a list; no list if that is nothing.
fn filled<T>(list: Option<Vec<T>>, keep: impl Fn(T) -> Option<T>) -> Option<Vec<T>> {
    Some(list?.into_iter().filter_map(keep).collect::<Vec<_>>()).filter(|kept| !kept.is_empty())
}

fn container(container: Container) -> Container {
    // A port without a name is only found by its number, which is the Service's own.
    let named = |port: ContainerPort| port.name.is_some().then_some(ContainerPort { host_ip: None, host_port: None, ..port });
    Container {
        env: filled(container.env, |value| {
            let names_secret = value.value_from.as_ref().is_some_and(|from| from.secret_key_ref.is_some());
            names_secret.then_some(value)
        }),
        env_from: filled(container.env_from, |source| source.secret_ref.is_some().then_some(source)),
        name: container.name,
        ports: filled(container.ports, named),
        resources: container.resources.filter(|resources| resources.requests.is_some() || resources.limits.is_some()),
        restart_policy: container.restart_policy,
        ..Container::default()
    }
}

/// Volumes behind which there is another object that a controller looks after.
fn volume_is_read(volume: &Volume) -> bool {
    let projects_secret = || {
        let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        sources.into_iter().any(|source| source.secret.is_some())
    };
    volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() || volume.secret.is_some() || projects_secret()
}

fn status(status: PodStatus, is_going: bool) -> PodStatus {
    // As long as nothing has ended, been restarted or is being ended, containers have nothing to say.
    let says_something =
        |status: &ContainerStatus| status.restart_count > 0 || status.state.as_ref().is_some_and(|state| state.terminated.is_some());
    let all = || [&status.container_statuses, &status.init_container_statuses].into_iter().flatten().flatten();
    let are_read = is_going || all().any(says_something);
    let read = |statuses: Option<Vec<ContainerStatus>>| filled(statuses.filter(|_| are_read), container_status);
    PodStatus {
        conditions: filled(status.conditions, |condition| Some(PodCondition { last_probe_time: None, message: None, ..condition })),
        container_statuses: read(status.container_statuses),
        extended_resource_claim_status: status.extended_resource_claim_status,
        init_container_statuses: read(status.init_container_statuses),
        message: status.message,
        phase: status.phase,
        pod_ip: status.pod_ip,
        pod_ips: status.pod_ips,
        reason: status.reason,
        resource_claim_statuses: status.resource_claim_statuses,
        start_time: status.start_time,
        ..PodStatus::default()
    }
}

/// Of a container's status: how often it was restarted, and in which state it is.
fn container_status(status: ContainerStatus) -> Option<ContainerStatus> {
    let terminated = |terminated: ContainerStateTerminated| ContainerStateTerminated {
        exit_code: terminated.exit_code,
        finished_at: terminated.finished_at,
        ..ContainerStateTerminated::default()
    };
    let state = status.state.map(|state| ContainerState {
        running: state.running.map(|_| ContainerStateRunning::default()),
        terminated: state.terminated.map(terminated),
        waiting: state.waiting.map(|_| ContainerStateWaiting::default()),
    });
    Some(ContainerStatus { name: status.name, restart_count: status.restart_count, state, ..ContainerStatus::default() })
}

/// A pod as the controllers get to see it, for tests.
#[cfg(test)]
pub fn held(whole: serde_json::Value) -> Pod {
    let mut pod: Pod = serde_json::from_value(whole).unwrap();
    self::pod(&mut pod);
    pod
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_quota_counts_what_is_held_as_it_counts_the_whole() {
        let term = json!({"topologyKey": "t", "namespaces": ["other"]});
        let container = |name: &str, restarts: Value| {
            let resources = json!({"requests": {"cpu": "1", "example.com/gpu": "2"}, "limits": {"memory": "1Gi"}});
            json!({"name": name, "image": "i", "restartPolicy": restarts, "resources": resources})
        };
        let whole = json!({
            "metadata": {"namespace": "ns", "name": "p"},
            "spec": {
                "containers": [container("c", json!(null)), {"name": "d"}],
                "initContainers": [container("i", json!(null)), container("s", json!("Always"))],
                "overhead": {"cpu": "10m"}, "resources": {"requests": {"memory": "2Gi"}},
                "activeDeadlineSeconds": 5, "priorityClassName": "high",
                "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}},
            },
            "status": {"phase": "Running"},
        });
        let (less, whole) = (held(whole.clone()), serde_json::from_value::<Pod>(whole).unwrap());
        assert_eq!(api::quota::pod_usage(&less), api::quota::pod_usage(&whole));
        for scope in ["Terminating", "NotTerminating", "BestEffort", "NotBestEffort", "CrossNamespacePodAffinity", "PriorityClass"] {
            let quota = serde_json::from_value(json!({"metadata": {"namespace": "ns"}, "spec": {"scopes": [scope]}})).unwrap();
            let counts = |pod| api::quota::in_scope(&quota, api::quota::Counted::Pod(pod));
            assert_eq!(counts(&less), counts(&whole), "{scope}");
        }
    }

    #[test]
    fn what_is_left_of_a_pod() {
        let at = "2026-01-01T00:00:00Z";
        let state = |state: Value, restarts: i32| json!({"name": "c", "image": "i", "imageID": "i", "ready": true, "restartCount": restarts, "state": state, "lastState": {"running": {}}});
        let left = |state: Value, restarts: i32| json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": restarts, "state": state});
        for (whole, expected) in [
            (
                json!({"metadata": {"name": "p", "generateName": "p-", "finalizers": ["f"], "annotations": {"a": "b"}, "labels": {"a": "b"}}}),
                json!({"metadata": {"name": "p", "finalizers": ["f"], "labels": {"a": "b"}}}),
            ),
            (
                json!({"metadata": {"annotations": {"a": "b", "batch.kubernetes.io/job-completion-index": "1"}}}),
                json!({"metadata": {"annotations": {"batch.kubernetes.io/job-completion-index": "1"}}}),
            ),
            (
                json!({"spec": {"containers": [{"name": "c", "image": "i", "env": [{"name": "A"}], "resources": {},
                    "ports": [{"containerPort": 1}, {"name": "web", "containerPort": 80, "hostPort": 80}]}], "restartPolicy": "Never", "nodeName": "n"}}),
                json!({"spec": {"containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 80}]}], "nodeName": "n"}}),
            ),
            (
                json!({"spec": {"containers": [], "volumes": [{"name": "t", "projected": {}}, {"name": "s", "secret": {"secretName": "s"}}]}}),
                json!({"spec": {"containers": [], "volumes": [{"name": "s", "secret": {"secretName": "s"}}]}}),
            ),
            (json!({"spec": {"containers": [], "volumes": [{"name": "t", "projected": {}}]}}), json!({"spec": {"containers": []}})),
            (
                json!({"status": {"phase": "Running", "hostIP": "10.0.0.1", "podIP": "10.0.0.2", "conditions": [
                    {"type": "Ready", "status": "False", "reason": "R", "message": "m", "lastTransitionTime": at, "lastProbeTime": at}]}}),
                json!({"status": {"phase": "Running", "podIP": "10.0.0.2", "conditions": [
                    {"type": "Ready", "status": "False", "reason": "R", "lastTransitionTime": at}]}}),
            ),
            (
                json!({"status": {"containerStatuses": [state(json!({"running": {"startedAt": at}}), 2), state(json!({"waiting": {"reason": "r"}}), 0)]}}),
                json!({"status": {"containerStatuses": [left(json!({"running": {}}), 2), left(json!({"waiting": {}}), 0)]}}),
            ),
            (json!({"status": {"containerStatuses": [state(json!({"running": {"startedAt": at}}), 0)]}}), json!({"status": {}})),
            (
                json!({"metadata": {"deletionTimestamp": at}, "status": {"containerStatuses": [state(json!({"running": {}}), 0)]}}),
                json!({"metadata": {"deletionTimestamp": at}, "status": {"containerStatuses": [left(json!({"running": {}}), 0)]}}),
            ),
            (
                json!({"status": {"initContainerStatuses": [state(json!({"terminated": {"exitCode": 3, "finishedAt": at, "message": "m"}}), 0)]}}),
                json!({"status": {"initContainerStatuses": [left(json!({"terminated": {"exitCode": 3, "finishedAt": at}}), 0)]}}),
            ),
        ] {
            let expected: Pod = serde_json::from_value(expected).unwrap();
            assert_eq!(held(whole.clone()), expected, "{whole}");
        }
    }
}
