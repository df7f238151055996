//! The table row of a pod. STATUS is not the phase: it is the first thing that keeps the pod from simply running
//! (upstream: `printPod` in `pkg/printers/internalversion`).

use crate::printer::{self, AGE, NAME, shown, wide};
use crate::resource::{Cells, Column, PrintContext};
use crate::resources::defaulting::{items, str};
use k8s_openapi::api::core::v1::{Container, ContainerState, ContainerStatus, Pod, PodSpec, PodStatus};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use std::collections::BTreeMap;

/// The columns of pods.
pub const COLUMNS: &[Column] = &[
    NAME,
    shown("Ready", "string"),
    shown("Status", "string"),
    shown("Restarts", "string"),
    AGE,
    wide("IP", "string"),
    wide("Node", "string"),
    wide("Nominated Node", "string"),
    wide("Readiness Gates", "string"),
];

/// What the containers of a pod add up to.
#[derive(Debug, PartialEq, Eq)]
struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

/// The cells for [`COLUMNS`].
pub fn cells(pod: &Pod, context: &PrintContext) -> Cells {
    let (no_spec, no_status) = (PodSpec::default(), PodStatus::default());
    let spec = pod.spec.as_ref().unwrap_or(&no_spec);
    let status = pod.status.as_ref().unwrap_or(&no_status);
    let s = summary(pod, spec, status);
    let restarts = match s.last_restart {
        Some(at) if s.restarts != 0 => format!("{} ({} ago)", s.restarts, printer::since_timestamp(at, context)),
        _ => s.restarts.to_string(),
    };
    let or_none = |text: &str| json!(if text.is_empty() { printer::NONE } else { text });
    let ip = items(&status.pod_ips).first().map_or(str(&status.pod_ip), |ip| ip.ip.as_str());
    vec![
        printer::name(&pod.metadata),
        json!(format!("{}/{}", s.ready, s.total)),
        json!(s.reason),
        json!(restarts),
        printer::age(&pod.metadata, context),
        or_none(ip),
        or_none(str(&spec.node_name)),
        or_none(str(&status.nominated_node_name)),
        json!(readiness_gates(spec, status)),
    ]
}

/// How many of the readiness gates are open: `1/2`.
fn readiness_gates(spec: &PodSpec, status: &PodStatus) -> String {
    let gates = items(&spec.readiness_gates);
    if gates.is_empty() {
        return printer::NONE.into();
    }
    let open = |kind: &str| items(&status.conditions).iter().any(|c| c.type_ == kind && c.status == "True");
    let opened = gates.iter().filter(|g| open(&g.condition_type)).count();
    format!("{opened}/{}", gates.len())
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn condition<'a>(status: &'a PodStatus, kind: &str) -> Option<&'a k8s_openapi::api::core::v1::PodCondition> {
    items(&status.conditions).iter().find(|c| c.type_ == kind)
}

fn last_end(state: Option<&ContainerState>) -> Option<Timestamp> {
    state.and_then(|s| s.terminated.as_ref()).and_then(|t| t.finished_at.as_ref()).map(|t| t.0)
}

/// `Signal:9` or `ExitCode:1`, for a container that ended and gave no reason.
fn end_text(signal: Option<i32>, exit_code: i32) -> String {
    match signal {
        Some(signal) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{exit_code}"),
    }
}

fn summary(pod: &Pod, spec: &PodSpec, status: &PodStatus) -> Summary {
    let mut reason = match str(&status.reason) {
        "" => str(&status.phase).to_owned(),
        reason => reason.to_owned(),
    };
    if condition(status, "PodScheduled").is_some_and(|c| c.reason.as_deref() == Some("SchedulingGated")) {
        reason = "SchedulingGated".into();
    }

    let by_name: BTreeMap<&str, &Container> = items(&spec.init_containers).iter().map(|c| (c.name.as_str(), c)).collect();
    let is_sidecar = |s: &ContainerStatus| by_name.get(s.name.as_str()).is_some_and(|c| is_sidecar(c));
    let sidecars = by_name.values().filter(|c| self::is_sidecar(c)).count();
    let total = spec.containers.len() + sidecars;
    let (mut ready, mut restarts, mut sidecar_restarts) = (0, 0, 0);
    let (mut last_restart, mut last_sidecar_restart): (Option<Timestamp>, Option<Timestamp>) = (None, None);

    let mut initializing = false;
    for (i, s) in items(&status.init_container_statuses).iter().enumerate() {
        restarts += i64::from(s.restart_count);
        last_restart = last_restart.max(last_end(s.last_state.as_ref()));
        if is_sidecar(s) {
            sidecar_restarts += i64::from(s.restart_count);
            last_sidecar_restart = last_sidecar_restart.max(last_end(s.last_state.as_ref()));
        }
        let state = s.state.as_ref();
        let ended = state.and_then(|st| st.terminated.as_ref());
        let waiting = state.and_then(|st| st.waiting.as_ref());
        match (ended, waiting) {
            (Some(end), _) if end.exit_code == 0 => continue,
            _ if is_sidecar(s) && s.started == Some(true) => {
                ready += usize::from(s.ready);
                continue;
            }
            (Some(end), _) if str(&end.reason).is_empty() => reason = format!("Init:{}", end_text(end.signal, end.exit_code)),
            (Some(end), _) => reason = format!("Init:{}", str(&end.reason)),
            (None, Some(w)) if !str(&w.reason).is_empty() && str(&w.reason) != "PodInitializing" => {
                reason = format!("Init:{}", str(&w.reason));
            }
            _ => reason = format!("Init:{i}/{}", items(&spec.init_containers).len()),
        }
        initializing = true;
        break;
    }

    if !initializing || condition(status, "Initialized").is_some_and(|c| c.status == "True") {
        restarts = sidecar_restarts;
        last_restart = last_sidecar_restart;
        let mut has_running = false;
        for s in items(&status.container_statuses).iter().rev() {
            restarts += i64::from(s.restart_count);
            last_restart = last_restart.max(last_end(s.last_state.as_ref()));
            let state = s.state.as_ref();
            let waiting = state.and_then(|st| st.waiting.as_ref());
            let ended = state.and_then(|st| st.terminated.as_ref());
            match (waiting, ended) {
                (Some(w), _) if !str(&w.reason).is_empty() => reason = str(&w.reason).into(),
                (_, Some(end)) if !str(&end.reason).is_empty() => reason = str(&end.reason).into(),
                (_, Some(end)) => reason = end_text(end.signal, end.exit_code),
                _ if s.ready && state.is_some_and(|st| st.running.is_some()) => {
                    has_running = true;
                    ready += 1;
                }
                _ => {}
            }
        }
        // One container is done and another still runs: the pod as a whole has not completed.
        if reason == "Completed" && has_running {
            let is_ready = condition(status, "Ready").is_some_and(|c| c.status == "True");
            reason = if is_ready { "Running" } else { "NotReady" }.into();
        }
    }

    if pod.metadata.deletion_timestamp.is_some() {
        if status.reason.as_deref() == Some("NodeLost") {
            reason = "Unknown".into();
        } else if !matches!(str(&status.phase), "Failed" | "Succeeded") {
            reason = "Terminating".into();
        }
    }
    Summary { ready, total, reason, restarts, last_restart }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn row(pod: Value) -> (String, String, String) {
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let cells = cells(&pod, &PrintContext { now });
        let text = |i: usize| cells[i].as_str().unwrap().to_owned();
        (text(1), text(2), text(3))
    }

    fn pod(status: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}, "status": status})
    }

    fn container(name: &str, ready: bool, restarts: i32, state: Value, last: Value) -> Value {
        json!({"name": name, "ready": ready, "restartCount": restarts, "image": "", "imageID": "", "state": state, "lastState": last})
    }

    #[test]
    fn status_is_what_keeps_the_pod_from_running() {
        let running = json!({"running": {}});
        let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
        let ended =
            |code: i32, reason: &str| json!({"terminated": {"exitCode": code, "reason": reason, "finishedAt": "2026-01-01T00:00:31Z"}});
        let none = json!({});
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let cases = [
            (json!({"phase": "Pending"}), ("0/2", "Pending", "0")),
            (
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
                ("0/2", "SchedulingGated", "0"),
            ),
            (
                json!({"phase": "Pending", "containerStatuses": [container("a", false, 0, waiting("ContainerCreating"), none.clone())]}),
                ("0/2", "ContainerCreating", "0"),
            ),
            (
                json!({"phase": "Running", "containerStatuses": [container("a", true, 0, running.clone(), none.clone()), container("b", true, 0, running.clone(), none.clone())]}),
                ("2/2", "Running", "0"),
            ),
            (
                json!({"phase": "Running", "containerStatuses": [container("a", true, 0, running.clone(), none.clone()), container("b", false, 3, waiting("CrashLoopBackOff"), ended(1, "Error"))]}),
                ("1/2", "CrashLoopBackOff", "3 (29s ago)"),
            ),
            (
                json!({"phase": "Running", "conditions": ready, "containerStatuses": [container("a", false, 0, ended(0, "Completed"), none.clone()), container("b", true, 0, running.clone(), none.clone())]}),
                ("1/2", "Running", "0"),
            ),
            (
                json!({"phase": "Running", "containerStatuses": [container("a", false, 0, ended(0, "Completed"), none.clone()), container("b", true, 0, running.clone(), none.clone())]}),
                ("1/2", "NotReady", "0"),
            ),
            (
                json!({"phase": "Failed", "containerStatuses": [container("a", false, 0, json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}), none.clone())]}),
                ("0/2", "OOMKilled", "0"),
            ),
            (
                json!({"phase": "Failed", "containerStatuses": [container("a", false, 0, json!({"terminated": {"exitCode": 3}}), none.clone())]}),
                ("0/2", "ExitCode:3", "0"),
            ),
            (json!({"phase": "Failed", "reason": "Evicted"}), ("0/2", "Evicted", "0")),
        ];
        for (status, (ready, text, restarts)) in cases {
            assert_eq!(row(pod(status.clone())), (ready.into(), text.into(), restarts.into()), "{status}");
        }
    }

    #[test]
    fn init_containers_come_first() {
        let base = |statuses: Value| {
            json!({"metadata": {"name": "p"}, "status": {"phase": "Pending", "initContainerStatuses": statuses},
                "spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]}})
        };
        let done = container("i", true, 0, json!({"terminated": {"exitCode": 0}}), json!({}));
        let wait = |name: &str, reason: &str| container(name, false, 0, json!({"waiting": {"reason": reason}}), json!({}));
        let failed = container("i", false, 1, json!({"terminated": {"exitCode": 1, "reason": "Error"}}), json!({}));
        for (statuses, want) in [
            (json!([wait("i", "PodInitializing")]), ("0/2", "Init:0/2", "0")),
            (json!([done.clone(), wait("s", "PodInitializing")]), ("0/2", "Init:1/2", "0")),
            (json!([wait("i", "CrashLoopBackOff")]), ("0/2", "Init:CrashLoopBackOff", "0")),
            (json!([failed]), ("0/2", "Init:Error", "1")),
        ] {
            assert_eq!(row(base(statuses)), (want.0.into(), want.1.into(), want.2.into()));
        }
        let mut sidecar = container("s", true, 0, json!({"running": {}}), json!({}));
        sidecar["started"] = json!(true);
        let mut all = base(json!([done, sidecar]));
        all["status"]["phase"] = json!("Running");
        all["status"]["containerStatuses"] = json!([container("a", true, 0, json!({"running": {}}), json!({}))]);
        assert_eq!(row(all.clone()), ("2/2".into(), "Running".into(), "0".into()));
        all["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(row(all).1, "Terminating");
    }
}
