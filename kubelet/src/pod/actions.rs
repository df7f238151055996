//! What to do next for a pod: a pure function of its spec, of what the runtime has, and of what its probes found (upstream:
//! `kuberuntime_manager.go`, `computePodActions` and `computeInitContainerActions`).
//!
//! The plan says nothing about back-off: whether a start has to wait is asked when it is carried out, since a waiting container must
//! still report that it waits.

use super::{
    observed::{Instance, Observed},
    restart,
};
use crate::{
    container::identity,
    probe::results::{Outcome, Outcomes, ProbeKind},
};
use k8s_cri::v1::{ContainerState, NamespaceMode, PodSandboxState};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

/// Which list of the spec a container stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `initContainers`, sidecars included.
    Init,
    /// `containers`.
    App,
    /// `ephemeralContainers`.
    Ephemeral,
}

/// Why a container is killed, which decides its grace period and the event's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReason {
    /// The runtime does not know what state it is in.
    Unknown,
    /// Its definition changed.
    Changed,
    /// Its liveness probe failed.
    Liveness,
    /// Its startup probe failed.
    Startup,
}

/// A container to kill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    /// The runtime's id.
    pub id: String,
    /// The container's name.
    pub name: String,
    /// Why.
    pub reason: KillReason,
    /// What the `Killing` event says.
    pub message: String,
}

/// What to do, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Kill everything of the pod first, the sandbox included.
    pub kill_pod: bool,
    /// Make a new sandbox, as the n-th of this pod.
    pub create_sandbox: Option<u32>,
    /// Kill these.
    pub kill: Vec<Kill>,
    /// Then start these, in this order: list and place in it.
    pub start: Vec<(Role, usize)>,
}

/// Whether the sandbox has to be replaced: there is none, it ended, or it has another network than the spec asks for.
fn sandbox_changed(spec: &PodSpec, observed: &Observed) -> bool {
    let ready = observed.sandboxes.iter().filter(|s| s.state == PodSandboxState::SandboxReady as i32).count();
    let Some(sandbox) = observed.ready_sandbox() else { return true };
    let network = sandbox.linux.as_ref().and_then(|l| l.namespaces.as_ref()).and_then(|n| n.options.as_ref()).map(|o| o.network);
    let host_network = spec.host_network == Some(true);
    let differs = network.is_some_and(|mode| (mode == NamespaceMode::Node as i32) != host_network);
    ready > 1 || differs || (!host_network && super::observed::addresses(sandbox).is_empty())
}

/// The plan.
pub fn compute_pod_actions(pod: &Pod, observed: &Observed, probes: &Outcomes) -> Plan {
    let none = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&none);
    let never = restart::pod_policy(pod) == "Never";
    if sandbox_changed(spec, observed) {
        return for_new_sandbox(pod, spec, observed, never);
    }
    let mut plan = Plan::default();
    for (index, ephemeral) in spec.ephemeral_containers.iter().flatten().enumerate() {
        if observed.latest(&ephemeral.name).is_none() {
            plan.start.push((Role::Ephemeral, index));
        }
    }
    let init = init_actions(pod, spec, observed, probes);
    plan.kill.extend(init.kill);
    plan.start.extend(init.start.into_iter().map(|index| (Role::Init, index)));
    if init.failed {
        return Plan { kill_pod: true, ..Default::default() };
    }
    if !init.complete {
        return plan;
    }
    let mut keep = 0;
    let mut start = Vec::new();
    for (index, container) in spec.containers.iter().enumerate() {
        match app_action(pod, container, observed.latest(&container.name), probes) {
            Action::Keep => keep += 1,
            Action::Leave => {}
            Action::Start => start.push((Role::App, index)),
            Action::Kill { kill, restart } => {
                plan.kill.push(kill);
                if restart {
                    start.push((Role::App, index));
                }
            }
        }
    }
    if keep == 0 && start.is_empty() {
        // All app containers are done for good: what still runs (sidecars) ends with them.
        return Plan { kill_pod: true, ..Default::default() };
    }
    plan.start.extend(start);
    plan
}

fn for_new_sandbox(pod: &Pod, spec: &PodSpec, observed: &Observed, never: bool) -> Plan {
    let attempt = observed.sandboxes.first().and_then(|s| s.metadata.as_ref()).map_or(0, |m| m.attempt + 1);
    let mut plan = Plan { kill_pod: true, ..Default::default() };
    if never && attempt != 0 && !observed.instances.is_empty() {
        return plan; // Its containers had their one run.
    }
    let start: Vec<(Role, usize)> = spec
        .containers
        .iter()
        .enumerate()
        .filter(|(_, c)| match observed.latest(&c.name) {
            Some(last) if last.exited() => restart::after_exit(pod, c, last.status.exit_code),
            _ => true,
        })
        .map(|(index, _)| (Role::App, index))
        .collect();
    if start.is_empty() {
        return plan;
    }
    plan.create_sandbox = Some(attempt);
    plan.start = if spec.init_containers.iter().flatten().next().is_some() { vec![(Role::Init, 0)] } else { start };
    plan
}

enum Action {
    Keep,
    Leave,
    Start,
    Kill { kill: Kill, restart: bool },
}

fn kill_of(instance: &Instance, reason: KillReason, message: String) -> Kill {
    Kill { id: instance.status.id.clone(), name: instance.name().to_owned(), reason, message }
}

fn app_action(pod: &Pod, container: &Container, latest: Option<&Instance>, probes: &Outcomes) -> Action {
    let Some(instance) = latest else { return Action::Start };
    match instance.state() {
        ContainerState::ContainerCreated => return Action::Start,
        ContainerState::ContainerExited => {
            let again = restart::after_exit(pod, container, instance.status.exit_code);
            return if again { Action::Start } else { Action::Leave };
        }
        ContainerState::ContainerUnknown => {
            let message = "Container is in unknown state".to_owned();
            return Action::Kill { kill: kill_of(instance, KillReason::Unknown, message), restart: true };
        }
        ContainerState::ContainerRunning => {}
    }
    let name = &container.name;
    let failed = |kind| probes.of(name, kind, &instance.status.id) == Some(Outcome::Failure);
    let (reason, message) = if identity::recorded_hash(&instance.status) != identity::container_hash(container) {
        (KillReason::Changed, format!("Container {name} definition changed"))
    } else if failed(ProbeKind::Liveness) {
        (KillReason::Liveness, format!("Container {name} failed liveness probe"))
    } else if failed(ProbeKind::Startup) {
        (KillReason::Startup, format!("Container {name} failed startup probe"))
    } else {
        return Action::Keep;
    };
    let restart = reason == KillReason::Changed || restart::policy(pod, container) != "Never";
    let message = if restart { format!("{message}, will be restarted") } else { message };
    Action::Kill { kill: kill_of(instance, reason, message), restart }
}

#[derive(Default)]
struct InitActions {
    /// All init containers have done their work and all sidecars have started.
    complete: bool,
    /// One failed and is not to be tried again.
    failed: bool,
    kill: Vec<Kill>,
    start: Vec<usize>,
}

/// Init containers run one after the other. The last one with an instance in this sandbox is the frontier: it decides what comes next; of those before
/// it only sidecars still matter, which are kept running.
fn init_actions(pod: &Pod, spec: &PodSpec, observed: &Observed, probes: &Outcomes) -> InitActions {
    let empty = Vec::new();
    let containers = spec.init_containers.as_ref().unwrap_or(&empty);
    let mut out = InitActions::default();
    if containers.is_empty() {
        out.complete = true;
        return out;
    }
    let sandbox = observed.ready_sandbox().map(|s| s.id.as_str());
    let here = |name: &str| observed.latest(name).filter(|i| Some(i.sandbox.as_str()) == sandbox);
    let initialized = spec.containers.iter().any(|c| here(&c.name).is_some());
    let frontier = containers.iter().rposition(|c| here(&c.name).is_some());
    let Some(frontier) = frontier else {
        if initialized {
            // Their instances were removed; only what is to stay is started again.
            out.complete = true;
            out.start = (0..containers.len()).filter(|i| restart::is_sidecar(&containers[*i])).collect();
        } else {
            out.start = vec![0];
        }
        return out;
    };
    out.complete = initialized;
    for (index, container) in containers.iter().enumerate() {
        let instance = here(&container.name);
        if restart::is_sidecar(container) {
            sidecar_actions(index, container, instance, index <= frontier || initialized, probes, &mut out);
        }
        if index != frontier || initialized {
            continue;
        }
        let Some(instance) = instance else { continue };
        let done = match (restart::is_sidecar(container), instance.state()) {
            (true, ContainerState::ContainerRunning) => sidecar_started(container, instance, probes),
            (false, ContainerState::ContainerExited) if instance.status.exit_code == 0 => true,
            (false, ContainerState::ContainerExited) => {
                if restart::init_after_exit(pod, container, instance.status.exit_code) {
                    out.start.push(index);
                } else {
                    out.failed = true;
                }
                false
            }
            (false, ContainerState::ContainerCreated) => {
                out.start.push(index);
                false
            }
            (false, ContainerState::ContainerUnknown) => {
                let message = format!("Init container is in {:?} state, try killing it before restart", "unknown");
                out.kill.push(kill_of(instance, KillReason::Unknown, message));
                out.start.push(index);
                false
            }
            _ => false,
        };
        if done && index + 1 < containers.len() {
            out.start.push(index + 1);
        } else if done {
            out.complete = true;
        }
    }
    out
}

fn sidecar_started(container: &Container, instance: &Instance, probes: &Outcomes) -> bool {
    container.startup_probe.is_none() || probes.of(&container.name, ProbeKind::Startup, &instance.status.id) == Some(Outcome::Success)
}

fn sidecar_actions(index: usize, container: &Container, instance: Option<&Instance>, due: bool, probes: &Outcomes, out: &mut InitActions) {
    let name = &container.name;
    let Some(instance) = instance else {
        if due {
            out.start.push(index);
        }
        return;
    };
    match instance.state() {
        ContainerState::ContainerRunning => {
            let failed = |kind| probes.of(name, kind, &instance.status.id) == Some(Outcome::Failure);
            let found = [(ProbeKind::Startup, KillReason::Startup, "startup"), (ProbeKind::Liveness, KillReason::Liveness, "liveness")]
                .into_iter()
                .find(|(kind, _, _)| failed(*kind));
            if let Some((_, reason, word)) = found {
                let message = format!("Init container {name} failed {word} probe");
                out.kill.push(kill_of(instance, reason, message));
                out.start.push(index);
            }
        }
        ContainerState::ContainerExited | ContainerState::ContainerCreated => out.start.push(index),
        ContainerState::ContainerUnknown => {
            out.kill.push(kill_of(
                instance,
                KillReason::Unknown,
                "Init container is in \"unknown\" state, try killing it before restart".into(),
            ));
            out.start.push(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_cri::v1::{ContainerStatus, PodSandboxMetadata, PodSandboxNetworkStatus, PodSandboxStatus};
    use serde_json::json;
    use std::collections::HashMap;

    fn pod(policy: &str, init: &[&str], app: &[&str]) -> Pod {
        let container = |name: &&str| match name.strip_prefix('*') {
            Some(sidecar) => json!({"name": sidecar, "image": "i", "restartPolicy": "Always"}),
            None => json!({"name": name, "image": "i"}),
        };
        let init: Vec<_> = init.iter().map(container).collect();
        let app: Vec<_> = app.iter().map(container).collect();
        serde_json::from_value(json!({"spec": {"restartPolicy": policy, "initContainers": init, "containers": app}})).expect("a pod")
    }

    fn sandbox(state: PodSandboxState) -> PodSandboxStatus {
        PodSandboxStatus {
            id: "s".into(),
            metadata: Some(PodSandboxMetadata::default()),
            state: state as i32,
            network: Some(PodSandboxNetworkStatus { ip: "10.0.0.2".into(), ..Default::default() }),
            ..Default::default()
        }
    }

    /// `states` are `name=running`, `name=exit0`, `name=exit3`, `name=unknown`, newest last.
    fn observed(pod: &Pod, states: &[&str]) -> Observed {
        let spec = pod.spec.as_ref().expect("a spec");
        let instances = states.iter().rev().map(|state| {
            let (name, what) = state.split_once('=').expect("name=state");
            let container = spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| c.name == name);
            let mut status = ContainerStatus {
                id: format!("id-{name}"),
                labels: HashMap::from([(identity::CONTAINER_NAME.to_owned(), name.to_owned())]),
                annotations: identity::container_annotations(pod, container.expect("a container of the pod"), 0),
                ..Default::default()
            };
            match what.strip_prefix("exit") {
                Some(code) => {
                    status.state = ContainerState::ContainerExited as i32;
                    status.exit_code = code.parse().expect("an exit code");
                }
                None if what == "running" => status.state = ContainerState::ContainerRunning as i32,
                None => status.state = ContainerState::ContainerUnknown as i32,
            }
            Instance { sandbox: "s".into(), status }
        });
        Observed { sandboxes: vec![sandbox(PodSandboxState::SandboxReady)], instances: instances.collect() }
    }

    fn starts(plan: &Plan) -> Vec<String> {
        plan.start.iter().map(|(role, index)| format!("{role:?}{index}")).collect()
    }

    #[test]
    fn what_is_started_follows_from_what_is_there() {
        // policy, init containers (* is a sidecar), app containers, their states, what is started, whether the pod is killed
        type Case<'a> = (&'a str, &'a [&'a str], &'a [&'a str], &'a [&'a str], &'a [&'a str], bool);
        #[rustfmt::skip]
        let cases: &[Case<'_>] = &[
            ("Always", &[], &["a", "b"], &[], &["App0", "App1"], false),
            ("Always", &[], &["a", "b"], &["a=running"], &["App1"], false),
            ("Always", &[], &["a", "b"], &["a=running", "b=exit0"], &["App1"], false),
            ("OnFailure", &[], &["a", "b"], &["a=exit0", "b=exit1"], &["App1"], false),
            ("Never", &[], &["a", "b"], &["a=exit1", "b=running"], &[], false),
            ("Never", &[], &["a"], &["a=exit1"], &[], true),
            ("OnFailure", &[], &["a"], &["a=exit0"], &[], true),
            ("Always", &["i", "j"], &["a"], &[], &["Init0"], false),
            ("Always", &["i", "j"], &["a"], &["i=running"], &[], false),
            ("Always", &["i", "j"], &["a"], &["i=exit0"], &["Init1"], false),
            ("Always", &["i", "j"], &["a"], &["i=exit2"], &["Init0"], false),
            ("Never", &["i", "j"], &["a"], &["i=exit2"], &[], true),
            ("Always", &["i", "j"], &["a"], &["i=exit0", "j=exit0"], &["App0"], false),
            ("Always", &["i", "*s", "j"], &["a"], &["i=exit0"], &["Init1"], false),
            ("Always", &["i", "*s", "j"], &["a"], &["i=exit0", "s=running"], &["Init2"], false),
            ("Always", &["i", "*s", "j"], &["a"], &["i=exit0", "s=exit1", "j=running"], &["Init1"], false),
            ("Always", &["i", "*s"], &["a"], &["i=exit0", "s=running"], &["App0"], false),
            ("Always", &["i", "*s"], &["a"], &["i=exit0", "s=exit0", "a=running"], &["Init1"], false),
            ("Never", &["*s"], &["a"], &["s=running", "a=exit0"], &[], true),
        ];
        for (policy, init, app, states, want, kill_pod) in cases {
            let pod = pod(policy, init, app);
            let plan = compute_pod_actions(&pod, &observed(&pod, states), &Outcomes::default());
            assert_eq!(
                (starts(&plan), plan.kill_pod),
                (want.iter().map(|s| (*s).to_owned()).collect(), *kill_pod),
                "{policy} {init:?} {states:?}"
            );
        }
    }

    #[test]
    fn a_missing_or_dead_sandbox_is_made_again_unless_the_pod_had_its_run() {
        let always = pod("Always", &[], &["a"]);
        let fresh = compute_pod_actions(&always, &Observed::default(), &Outcomes::default());
        assert_eq!((fresh.create_sandbox, starts(&fresh)), (Some(0), vec!["App0".to_owned()]));
        for (policy, state, attempt) in [("Always", "a=exit1", Some(1)), ("Never", "a=exit1", None), ("OnFailure", "a=exit0", None)] {
            let pod = pod(policy, &[], &["a"]);
            let mut observed = observed(&pod, &[state]);
            observed.sandboxes[0].state = PodSandboxState::SandboxNotready as i32;
            let plan = compute_pod_actions(&pod, &observed, &Outcomes::default());
            assert_eq!((plan.kill_pod, plan.create_sandbox), (true, attempt), "{policy}");
        }
    }

    #[test]
    fn a_failed_probe_kills_and_restarts_by_policy() {
        for (policy, restart) in [("Always", true), ("OnFailure", true), ("Never", false)] {
            let pod = pod(policy, &[], &["a"]);
            let mut probes = Outcomes::default();
            probes.set("a", ProbeKind::Liveness, "id-a", Outcome::Failure);
            let plan = compute_pod_actions(&pod, &observed(&pod, &["a=running"]), &probes);
            if restart {
                assert_eq!(plan.kill[0].message, "Container a failed liveness probe, will be restarted");
                assert_eq!(starts(&plan), ["App0"]);
            } else {
                assert!(plan.kill_pod, "nothing is left to run");
            }
        }
    }

    #[test]
    fn a_changed_image_replaces_the_container() {
        let before = pod("Always", &[], &["a"]);
        let mut after = before.clone();
        after.spec.as_mut().expect("a spec").containers[0].image = Some("other".into());
        let plan = compute_pod_actions(&after, &observed(&before, &["a=running"]), &Outcomes::default());
        assert_eq!(plan.kill[0].message, "Container a definition changed, will be restarted");
    }
}
