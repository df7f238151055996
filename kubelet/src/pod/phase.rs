//! A pod's phase and conditions from its containers' states (upstream: `kubelet_pods.go`, `getPhase`; `pkg/kubelet/status/generate.go`).

use super::restart::{self, is_sidecar};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Container, ContainerState, ContainerStatus, Pod, PodCondition, PodSpec},
    apimachinery::pkg::apis::meta::v1::Time,
};

/// The condition of a pod all of whose containers are started anew (KEP-5532).
pub const ALL_RESTARTING: &str = "AllContainersRestarting";
/// Why its containers ended, and what they wait for.
pub const RESTARTING_ALL: &str = "RestartingAllContainers";

#[derive(Default)]
struct Counts {
    unknown: usize,
    running: usize,
    waiting: usize,
    stopped: usize,
    succeeded: usize,
}

fn find<'a>(statuses: &'a [ContainerStatus], name: &str) -> Option<&'a ContainerStatus> {
    statuses.iter().find(|s| s.name == name)
}

fn terminated_code(status: &ContainerStatus) -> Option<i32> {
    status.state.as_ref()?.terminated.as_ref().map(|t| t.exit_code)
}

fn last_code(status: &ContainerStatus) -> Option<i32> {
    status.last_state.as_ref()?.terminated.as_ref().map(|t| t.exit_code)
}

fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|s| s.running.is_some())
}

fn is_waiting(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|s| s.waiting.is_some())
}

/// How the init containers stand.
#[derive(Default)]
struct InitProgress {
    /// Some have not finished.
    pending: bool,
    /// Some have failed.
    failed: bool,
    /// One of those is not tried again.
    for_good: bool,
}

fn init_progress(pod: &Pod, spec: &PodSpec, statuses: &[ContainerStatus]) -> InitProgress {
    let mut progress = InitProgress::default();
    for container in spec.init_containers.iter().flatten() {
        let Some(status) = find(statuses, &container.name) else {
            progress.pending = true;
            continue;
        };
        if is_sidecar(container) {
            // A sidecar that has started once does not hold the pod back any more, wherever it is in a restart.
            progress.pending |= !(status.started == Some(true) || terminated_code(status).is_some() || last_code(status).is_some());
            continue;
        }
        match (terminated_code(status), is_waiting(status), last_code(status)) {
            (Some(0), _, _) => {}
            (Some(code), _, _) | (None, true, Some(code)) if code != 0 && !restarts_with_all(status) => {
                progress.failed = true;
                progress.for_good |= !restart::init_after_exit(pod, container, code);
            }
            _ => progress.pending = true,
        }
    }
    progress
}

/// Whether the container was ended so that all of the pod is started anew.
fn restarts_with_all(status: &ContainerStatus) -> bool {
    let ended = |state: Option<&ContainerState>| {
        state.and_then(|s| s.terminated.as_ref()).and_then(|t| t.reason.as_deref()) == Some(RESTARTING_ALL)
    };
    ended(status.state.as_ref()) || is_waiting(status) && ended(status.last_state.as_ref())
}

/// The phase. `terminal` says that the pod's containers have ended for good, whatever its restart policy would want.
pub fn phase(pod: &Pod, init: &[ContainerStatus], apps: &[ContainerStatus], terminal: bool) -> &'static str {
    let none = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&none);
    let mut counts = Counts::default();
    let sidecars = spec.init_containers.iter().flatten().filter(|c| is_sidecar(c));
    counts.running += sidecars.filter(|c| find(init, &c.name).is_some_and(is_running)).count();
    let init = init_progress(pod, spec, init);
    for container in &spec.containers {
        match find(apps, &container.name) {
            Some(status) if is_running(status) => counts.running += 1,
            Some(status) => match (terminated_code(status), is_waiting(status), last_code(status)) {
                (Some(code), _, _) => {
                    counts.stopped += 1;
                    counts.succeeded += usize::from(code == 0);
                }
                (None, true, Some(_)) => counts.stopped += 1,
                (None, true, None) => counts.waiting += 1,
                _ => counts.unknown += 1,
            },
            None => counts.unknown += 1,
        }
    }
    // Nothing is over while a sidecar still runs.
    if init.for_good && counts.running == 0 {
        return "Failed";
    }
    if terminal && counts.running == 0 && counts.waiting == 0 && counts.unknown == 0 && !init.failed && !init.pending {
        return if counts.stopped == counts.succeeded { "Succeeded" } else { "Failed" };
    }
    if terminal && counts.running == 0 {
        return "Failed"; // It ended before all of it had run.
    }
    if init.pending || init.failed || counts.waiting > 0 {
        return "Pending";
    }
    if counts.running > 0 && counts.unknown == 0 {
        return "Running";
    }
    if counts.stopped > 0 && counts.unknown == 0 {
        let again = spec
            .containers
            .iter()
            .any(|c| find(apps, &c.name).and_then(terminated_code).is_none_or(|code| restart::after_exit(pod, c, code)));
        return match (again, counts.stopped == counts.succeeded) {
            (true, _) => "Running",
            (false, true) => "Succeeded",
            (false, false) => "Failed",
        };
    }
    "Pending"
}

fn condition(kind: &str, status: bool, reason: Option<&str>, message: Option<String>) -> PodCondition {
    PodCondition {
        type_: kind.into(),
        status: if status { "True" } else { "False" }.into(),
        reason: reason.map(str::to_owned),
        message,
        ..Default::default()
    }
}

fn ready_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().filter(|c| is_sidecar(c)).chain(&spec.containers)
}

/// What the API calls a list of names in a message.
fn listed(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

/// Everything the conditions depend on.
pub struct ConditionInput<'a> {
    /// The pod, with the conditions that others set.
    pub pod: &'a Pod,
    /// Its phase.
    pub phase: &'a str,
    /// Its init containers' statuses.
    pub init: &'a [ContainerStatus],
    /// Its app containers' statuses.
    pub apps: &'a [ContainerStatus],
    /// Whether its sandbox and network are there.
    pub sandbox_ready: bool,
    /// Whether all of it is being started anew; `None` where none of its containers can cause that.
    pub restarting_all: Option<bool>,
    /// The conditions reported before: a condition keeps its transition time while its status stays.
    pub before: &'a [PodCondition],
    /// The time of a transition now.
    pub now: Timestamp,
}

/// The conditions, in the order in which upstream's kubelet writes them; those of others come last, as they were.
pub fn conditions(input: &ConditionInput<'_>) -> Vec<PodCondition> {
    let none = PodSpec::default();
    let spec = input.pod.spec.as_ref().unwrap_or(&none);
    let containers_ready = containers_ready(spec, input);
    let mut ready = PodCondition { type_: "Ready".into(), ..containers_ready.clone() };
    if ready.status == "True" {
        let gates = gates_missing(spec, input.before);
        if !gates.is_empty() {
            ready = condition("Ready", false, Some("ReadinessGatesNotReady"), Some(gates));
        }
    }
    let mut own = vec![
        condition("PodReadyToStartContainers", input.sandbox_ready, None, None),
        initialized(spec, input),
        ready,
        containers_ready,
        condition("PodScheduled", true, None, None),
    ];
    own.extend(input.restarting_all.map(|restarting| all_restarting(restarting, input.phase)));
    let others = input.before.iter().filter(|c| !own.iter().any(|o| o.type_ == c.type_)).cloned();
    let mut all: Vec<PodCondition> = own.iter().cloned().chain(others).collect();
    let generation = input.pod.metadata.generation;
    for condition in all.iter_mut().take(own.len()) {
        let before = input.before.iter().find(|c| c.type_ == condition.type_);
        let kept = before.filter(|c| c.status == condition.status).and_then(|c| c.last_transition_time.clone());
        condition.last_transition_time = Some(kept.unwrap_or(Time(input.now)));
        condition.observed_generation = generation;
    }
    all
}

fn all_restarting(restarting: bool, phase: &str) -> PodCondition {
    match phase {
        "Succeeded" => condition(ALL_RESTARTING, false, Some("PodCompleted"), None),
        "Failed" => condition(ALL_RESTARTING, false, Some("PodFailed"), None),
        _ if restarting => {
            let why = "container exited with restart policy rule".to_owned();
            condition(ALL_RESTARTING, true, Some("RestartAllContainersStarted"), Some(why))
        }
        _ => condition(ALL_RESTARTING, false, None, None),
    }
}

fn gates_missing(spec: &PodSpec, before: &[PodCondition]) -> String {
    let gates = spec.readiness_gates.iter().flatten();
    let messages: Vec<String> = gates
        .filter_map(|gate| match before.iter().find(|c| c.type_ == gate.condition_type) {
            None => Some(format!("corresponding condition of pod readiness gate \"{}\" does not exist.", gate.condition_type)),
            Some(c) if c.status != "True" => {
                Some(format!("the status of pod readiness gate \"{}\" is not \"True\", but {}", gate.condition_type, c.status))
            }
            Some(_) => None,
        })
        .collect();
    messages.join(", ")
}

fn containers_ready(spec: &PodSpec, input: &ConditionInput<'_>) -> PodCondition {
    let kind = "ContainersReady";
    match input.phase {
        "Succeeded" => return condition(kind, false, Some("PodCompleted"), None),
        "Failed" => return condition(kind, false, Some("PodFailed"), None),
        _ => {}
    }
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    for container in ready_containers(spec) {
        let statuses = if is_sidecar(container) && find(input.apps, &container.name).is_none() { input.init } else { input.apps };
        match find(statuses, &container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) if !status.ready => unready.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    let mut messages = Vec::new();
    if !unknown.is_empty() {
        messages.push(format!("containers with unknown status: {}", listed(&unknown)));
    }
    if !unready.is_empty() {
        messages.push(format!("containers with unready status: {}", listed(&unready)));
    }
    if messages.is_empty() {
        condition(kind, true, None, None)
    } else {
        condition(kind, false, Some("ContainersNotReady"), Some(messages.join(", ")))
    }
}

fn initialized(spec: &PodSpec, input: &ConditionInput<'_>) -> PodCondition {
    let kind = "Initialized";
    let (mut unknown, mut incomplete) = (Vec::new(), Vec::new());
    for container in spec.init_containers.iter().flatten() {
        match find(input.init, &container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) if is_sidecar(container) && status.started == Some(true) => {}
            Some(status) if !is_sidecar(container) && status.ready => {}
            Some(_) => incomplete.push(container.name.as_str()),
        }
    }
    if input.phase == "Succeeded" {
        return condition(kind, true, Some("PodCompleted"), None);
    }
    // Once an app container ran, initialisation is over for good, also while a sidecar restarts.
    let app_started = input.apps.iter().any(|s| is_running(s) || terminated_code(s).is_some() || last_code(s).is_some());
    if app_started || (unknown.is_empty() && incomplete.is_empty()) {
        return condition(kind, true, None, None);
    }
    let mut messages = Vec::new();
    if !unknown.is_empty() {
        messages.push(format!("containers with unknown status: {}", listed(&unknown)));
    }
    if !incomplete.is_empty() {
        messages.push(format!("containers with incomplete status: {}", listed(&incomplete)));
    }
    condition(kind, false, Some("ContainersNotInitialized"), Some(messages.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn statuses(states: &[(&str, &str)]) -> Vec<ContainerStatus> {
        let one = |(name, state): &(&str, &str)| {
            let state = match *state {
                "running" => json!({"state": {"running": {}}, "ready": true, "started": true}),
                "waiting" => json!({"state": {"waiting": {"reason": "ContainerCreating"}}, "ready": false}),
                "crashed" => {
                    json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 1}}, "ready": false})
                }
                code => json!({"state": {"terminated": {"exitCode": code.parse::<i32>().expect("a code")}}, "ready": code == "0"}),
            };
            let mut value = json!({"name": name, "image": "", "imageID": "", "restartCount": 0});
            value.as_object_mut().expect("an object").extend(state.as_object().expect("an object").clone());
            serde_json::from_value(value).expect("a status")
        };
        states.iter().map(one).collect()
    }

    #[test]
    fn the_phase_follows_from_the_containers() {
        type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [(&'a str, &'a str)], bool, &'a str);
        #[rustfmt::skip]
        let cases: &[Case<'_>] = &[
            ("Always", &[], &[("a", "waiting")], false, "Pending"),
            ("Always", &[], &[("a", "running")], false, "Running"),
            ("Always", &[], &[("a", "running"), ("b", "waiting")], false, "Pending"),
            ("Always", &[], &[("a", "1")], false, "Running"),
            ("Always", &[], &[("a", "crashed")], false, "Running"),
            ("OnFailure", &[], &[("a", "0")], false, "Succeeded"),
            ("OnFailure", &[], &[("a", "1")], false, "Running"),
            ("Never", &[], &[("a", "4"), ("b", "0")], false, "Failed"),
            ("Never", &[], &[("a", "4"), ("b", "running")], false, "Running"),
            ("Always", &[("i", "running")], &[("a", "waiting")], false, "Pending"),
            ("Always", &[("i", "2")], &[("a", "waiting")], false, "Pending"),
            ("Never", &[("i", "2")], &[("a", "waiting")], false, "Failed"),
            ("Always", &[("no", "2")], &[("a", "waiting")], false, "Failed"),
            ("Never", &[("tries", "2")], &[("a", "waiting")], false, "Pending"),
            ("Never", &[("side", "running")], &[("a", "0")], false, "Running"),
            ("Never", &[("side", "3")], &[("a", "0")], false, "Succeeded"),
            ("Never", &[("side", "running"), ("i", "2")], &[("a", "waiting")], false, "Pending"),
            ("Always", &[], &[("a", "0")], true, "Succeeded"),
            ("Always", &[], &[("a", "137")], true, "Failed"),
            ("Always", &[], &[("a", "waiting")], true, "Failed"),
        ];
        for (policy, init, apps, terminal, want) in cases {
            // Some have a policy of their own, whatever the pod's is.
            let own = |name: &str| match name {
                "no" => json!("Never"),
                "tries" => json!("OnFailure"),
                "side" => json!("Always"),
                _ => json!(null),
            };
            let names = |list: &[(&str, &str)]| list.iter().map(|(n, _)| json!({"name": n, "restartPolicy": own(n)})).collect::<Vec<_>>();
            let pod: Pod = serde_json::from_value(
                json!({"spec": {"restartPolicy": policy, "initContainers": names(init), "containers": names(apps)}}),
            )
            .expect("a pod");
            assert_eq!(phase(&pod, &statuses(init), &statuses(apps), *terminal), *want, "{policy} {init:?} {apps:?}");
        }
    }

    #[test]
    fn conditions_name_what_is_not_ready_and_keep_their_times() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"generation": 2}, "spec": {"containers": [{"name": "x"}, {"name": "a"}]}}))
                .expect("a pod");
        let apps = statuses(&[("a", "waiting"), ("x", "waiting")]);
        let then = Timestamp::from_second(5).expect("a time");
        let before = vec![
            PodCondition {
                type_: "PodScheduled".into(),
                status: "True".into(),
                last_transition_time: Some(Time(then)),
                ..Default::default()
            },
            PodCondition { type_: "example.com/own".into(), status: "True".into(), ..Default::default() },
        ];
        let input = ConditionInput {
            pod: &pod,
            phase: "Pending",
            init: &[],
            apps: &apps,
            sandbox_ready: false,
            restarting_all: None,
            before: &before,
            now: Timestamp::from_second(9).expect("a time"),
        };
        let got = conditions(&input);
        let types: Vec<&str> = got.iter().map(|c| c.type_.as_str()).collect();
        assert_eq!(types, ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled", "example.com/own"]);
        assert_eq!(got[2].message.as_deref(), Some("containers with unready status: [x a]"));
        assert_eq!(got[4].last_transition_time, Some(Time(then)));
        assert_eq!(got[0].observed_generation, Some(2));
    }
}
