//! The status a pod reports: a pure function of its spec, what the runtime has, what its probes found and why its last starts failed
//! (upstream: `kubelet_pods.go`, `generateAPIPodStatus` and `convertToAPIContainerStatuses`).

use super::{
    observed::{Instance, Observed, timestamp},
    phase::{self, ConditionInput, RESTARTING_ALL},
    restart::{self, is_sidecar},
    worker::Failure,
};
use crate::{
    container::{identity, resources},
    probe::results::{Outcome, Outcomes, ProbeKind},
};
use jiff::Timestamp;
use k8s_cri::v1::ContainerState as RuntimeState;
use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, ContainerUser,
        HostIP, LinuxContainerUser, Pod, PodIP, PodSpec, PodStatus, Probe, ResourceRequirements, VolumeMount, VolumeMountStatus,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::Time},
};
use std::collections::{BTreeMap, HashMap};

/// Why a container does not run, as its waiting state says it: reason and message.
pub type Reasons = HashMap<String, (String, String)>;

/// Everything a status depends on.
pub struct StatusInput<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// What was reported last, or what the API has.
    pub before: &'a PodStatus,
    /// What the runtime has.
    pub observed: &'a Observed,
    /// What the probes found.
    pub probes: &'a Outcomes,
    /// Why containers could not be started.
    pub reasons: &'a Reasons,
    /// The node's addresses.
    pub host_ips: &'a [String],
    /// Whether the pod's containers have ended and will not run again.
    pub terminal: bool,
    /// Whether all containers are being ended to be started anew; `None` where the pod has no rule for that.
    pub restarting_all: Option<bool>,
    /// What makes the whole pod Failed: a missed deadline, an eviction, a refusal.
    pub failure: Option<&'a Failure>,
    /// The time.
    pub now: Timestamp,
}

/// The status.
pub fn generate(input: &StatusInput<'_>) -> PodStatus {
    let none = PodSpec::default();
    let spec = input.pod.spec.as_ref().unwrap_or(&none);
    let has_init = spec.init_containers.iter().flatten().next().is_some();
    let default_reason = if has_init { "PodInitializing" } else { "ContainerCreating" };
    let mut init: Vec<_> = spec.init_containers.iter().flatten().map(|c| container_status(input, c, true, default_reason)).collect();
    let mut apps: Vec<_> = spec.containers.iter().map(|c| container_status(input, c, false, default_reason)).collect();
    if input.terminal {
        end_unknown(spec, &mut init, &mut apps);
    }
    // A pod that failed as a whole says so once its processes have ended, and not before.
    let failure = input.failure.filter(|_| !input.observed.any_running());
    let phase = match failure {
        Some(_) => "Failed",
        None => phase::phase(input.pod, &init, &apps, input.terminal),
    };
    // A phase once final stays: a status must not bring the pod back.
    let phase = match input.before.phase.as_deref() {
        Some("Succeeded") => "Succeeded",
        Some("Failed") => "Failed",
        _ => phase,
    };
    let before_conditions = input.before.conditions.clone().unwrap_or_default();
    let conditions = phase::conditions(&ConditionInput {
        pod: input.pod,
        phase,
        init: &init,
        apps: &apps,
        sandbox_ready: sandbox_ready(spec, input.observed),
        // Once nothing is left of them they are started as in a new pod.
        restarting_all: input.restarting_all.map(|restarting| restarting && restart::any_left(input.pod, input.observed)),
        before: &before_conditions,
        now: input.now,
    });
    apps.sort_by(|a, b| a.name.cmp(&b.name));
    let ephemeral = ephemeral_statuses(input, spec);
    // A pod that was refused before anything of it was made has no containers to speak of.
    let refused = input.failure.is_some() && input.before.container_statuses.is_none() && input.observed.instances.is_empty();
    let ips = pod_ips(input, spec);
    let total = pod_requests(spec);
    let limits = if input.observed.ready_sandbox().is_some() { pod_limits(spec) } else { BTreeMap::new() };
    let filled = |list: BTreeMap<_, _>| (!list.is_empty()).then_some(list);
    PodStatus {
        phase: Some(phase.into()),
        conditions: Some(conditions),
        reason: failure.map(|f| f.reason.clone()).or_else(|| input.before.reason.clone()),
        message: failure.map(|f| f.message.clone()).or_else(|| input.before.message.clone()),
        host_ip: input.host_ips.first().cloned(),
        host_ips: Some(input.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect()),
        start_time: Some(input.before.start_time.clone().unwrap_or(Time(input.now))),
        init_container_statuses: (!init.is_empty() && !refused).then_some(init),
        container_statuses: (!refused).then_some(apps),
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
        qos_class: Some(resources::qos(input.pod).as_str().into()),
        observed_generation: input.pod.metadata.generation,
        allocated_resources: filled(total.clone()),
        resources: Some(ResourceRequirements { requests: filled(total), limits: filled(limits), ..Default::default() }),
        ..input.before.clone()
    }
}

/// The status of a pod that the node did not let in: why, and nothing else that is the kubelet's to say.
pub fn rejected(pod: &Pod, why: Option<&Failure>) -> PodStatus {
    PodStatus {
        phase: Some("Failed".into()),
        reason: why.map(|f| f.reason.clone()),
        message: why.map(|f| f.message.clone()),
        qos_class: Some(resources::qos(pod).as_str().into()),
        observed_generation: pod.metadata.generation,
        conditions: pod.status.as_ref().and_then(|s| s.conditions.clone()),
        ..Default::default()
    }
}

fn sandbox_ready(spec: &PodSpec, observed: &Observed) -> bool {
    observed.ready_sandbox().is_some() && (spec.host_network == Some(true) || !observed.ips().is_empty())
}

/// The addresses: the sandbox's, the node's for pods on its network, or those reported before once the sandbox is gone.
fn pod_ips(input: &StatusInput<'_>, spec: &PodSpec) -> Vec<String> {
    if spec.host_network == Some(true) {
        return if input.observed.sandboxes.is_empty() { before_ips(input.before) } else { input.host_ips.to_vec() };
    }
    match input.observed.ips() {
        ips if ips.is_empty() => before_ips(input.before),
        ips => ips,
    }
}

fn before_ips(before: &PodStatus) -> Vec<String> {
    before.pod_ips.iter().flatten().map(|p| p.ip.clone()).collect()
}

/// What the pod asks for as a whole, or its containers together, as far as it is said.
fn pod_requests(spec: &PodSpec) -> BTreeMap<String, Quantity> {
    let mut out = BTreeMap::new();
    for name in ["cpu", "memory", "ephemeral-storage"] {
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let mut requesting = containers.filter_map(|c| requests_of(c.resources.as_ref()).get(name).cloned());
        let whole = spec.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|r| r.get(name));
        let overhead = spec.overhead.as_ref().is_some_and(|o| o.contains_key(name));
        // A request that stands alone is repeated as it was written; a sum is written plainly.
        match (whole.cloned().or_else(|| requesting.next()), requesting.next().filter(|_| whole.is_none())) {
            (Some(only), None) if !overhead => drop(out.insert(name.to_owned(), only)),
            (None, None) if !overhead => {}
            _ => drop(out.insert(name.to_owned(), written(name, resources::pod_total(spec, name, false)))),
        }
    }
    out
}

/// What the pod's own cgroup limits it to: what its containers may use together, where all of them are limited.
fn pod_limits(spec: &PodSpec) -> BTreeMap<String, Quantity> {
    let limited = ["cpu", "memory"].into_iter().filter(|name| resources::all_limited(spec, name));
    limited.map(|name| (name.to_owned(), written(name, resources::pod_total(spec, name, true)))).collect()
}

/// Thousandths as a quantity in canonical form.
fn written(name: &str, milli: i64) -> Quantity {
    use api::quantity::{Format, Quantity as Amount};
    let amount = if name == "cpu" { Amount::from_milli(milli) } else { Amount::new(milli / 1000, Format::BinarySi) };
    Quantity(amount.to_string())
}

fn requests_of(set: Option<&ResourceRequirements>) -> BTreeMap<String, Quantity> {
    let mut requests = set.and_then(|r| r.requests.clone()).unwrap_or_default();
    for (name, limit) in set.and_then(|r| r.limits.as_ref()).into_iter().flatten() {
        requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
    requests
}

fn container_status(input: &StatusInput<'_>, container: &Container, init: bool, default_reason: &str) -> ContainerStatus {
    let name = &container.name;
    let mut instances = input.observed.of(name);
    let Some(latest) = instances.next() else { return unmade(input, container, default_reason) };
    let last = instances.find(|i| i.exited());
    let mut status = from_instance(latest, last);
    if let (None, Some(before)) = (last, told(input.before, name).filter(|before| is_restarting_all(before.last_state.as_ref()))) {
        status.last_state = before.last_state.clone();
    }
    status.resources = Some(told_resources(container.resources.as_ref()));
    let requests = requests_of(container.resources.as_ref());
    status.allocated_resources = (!requests.is_empty()).then_some(requests);
    status.volume_mounts = mount_statuses(container.volume_mounts.as_deref(), Some(latest));
    let exit = status.state.as_ref().and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code);
    if let Some(code) = exit {
        let again = match init && !is_sidecar(container) {
            true => restart::init_after_exit(input.pod, container, code),
            false => restart::after_exit(input.pod, container, code),
        };
        if let Some((reason, message)) = input.reasons.get(name).filter(|_| again && !input.terminal) {
            status.last_state = status.state.take();
            status.state = Some(waiting(reason, message));
        }
    }
    settle_readiness(&mut status, container, init, latest, input.probes);
    status
}

/// A container the runtime has nothing of: it waits, or it ran once and was lost.
fn unmade(input: &StatusInput<'_>, container: &Container, default_reason: &str) -> ContainerStatus {
    let before = told(input.before, &container.name);
    let (reason, message) = input.reasons.get(&container.name).map_or((default_reason, ""), |(r, m)| (r, m));
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(waiting(reason, message)),
        last_state: Some(ContainerState::default()),
        started: Some(false),
        volume_mounts: mount_statuses(container.volume_mounts.as_deref(), None),
        ..Default::default()
    };
    let Some(before) = before else { return status };
    let state = before.state.clone().unwrap_or_default();
    status.restart_count = before.restart_count;
    if input.restarting_all == Some(true) && !input.terminal && (state.running.is_some() || state.terminated.is_some()) {
        // It was taken away, however it stood, to run anew with all others.
        status.state = Some(waiting(RESTARTING_ALL, REMOVED));
        status.last_state = Some(ended(RESTARTING_ALL, REMOVED));
        status.restart_count += 1;
        return status;
    }
    if is_restarting_all(before.last_state.as_ref()) {
        status.last_state = before.last_state.clone();
        return status;
    }
    if state.terminated.is_some() && (input.terminal || state.terminated.as_ref().is_some_and(|t| t.exit_code == 0)) {
        return before.clone(); // What ended stays as it was told.
    }
    if state.running.is_some() {
        let lost = lost();
        if input.terminal {
            status.state = Some(lost);
        } else {
            status.last_state = Some(lost);
            status.restart_count += 1;
        }
    }
    status
}

/// What was reported of a container last.
fn told<'a>(before: &'a PodStatus, name: &str) -> Option<&'a ContainerStatus> {
    let lists = [&before.container_statuses, &before.init_container_statuses];
    lists.into_iter().flatten().flatten().find(|s| s.name == name)
}

/// How often a container has been restarted by what was reported of it: what goes on counting where the runtime has nothing of it any more.
pub fn told_restarts(before: &PodStatus, name: &str) -> u32 {
    told(before, name).and_then(|s| u32::try_from(s.restart_count).ok()).unwrap_or(0)
}

/// What a container says that was taken away to run anew with all others.
const REMOVED: &str = "The container is removed because RestartAllContainers in place";

fn is_restarting_all(state: Option<&ContainerState>) -> bool {
    state.and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.reason.as_deref() == Some(RESTARTING_ALL))
}

/// The state of a container that was killed and of whose end the runtime tells nothing.
fn ended(reason: &str, message: &str) -> ContainerState {
    let ended =
        ContainerStateTerminated { exit_code: 137, reason: Some(reason.into()), message: Some(message.into()), ..Default::default() };
    ContainerState { terminated: Some(ended), ..Default::default() }
}

/// The state of a container of which nobody knows how it ended.
fn lost() -> ContainerState {
    ended("ContainerStatusUnknown", "The container could not be located when the pod was terminated")
}

/// At a pod's end nothing waits any more: what has no end of its own counts as failed, so that a pod that never ran is no success. Where the
/// pod was not initialized, only the init containers that had their turn do (upstream: `TerminatePod`).
fn end_unknown(spec: &PodSpec, init: &mut [ContainerStatus], apps: &mut [ContainerStatus]) {
    let waits = |status: &ContainerStatus| status.state.as_ref().is_none_or(|s| s.terminated.is_none());
    let last_exit = |status: &ContainerStatus| {
        let states = [status.state.as_ref(), status.last_state.as_ref()];
        states.into_iter().flatten().any(|s| s.terminated.as_ref().is_some_and(|t| t.exit_code == 0))
    };
    let began = |status: &ContainerStatus| {
        status.state.as_ref().is_some_and(|s| s.waiting.is_none()) || status.last_state.as_ref().is_some_and(|s| s.terminated.is_some())
    };
    let last_sidecar = spec.init_containers.iter().flatten().last().is_some_and(is_sidecar);
    let last_done = init.last().is_none_or(|last| if last_sidecar { last.started == Some(true) } else { last_exit(last) });
    if last_done || apps.iter().any(began) {
        apps.iter_mut().filter(|s| waits(s)).for_each(|s| s.state = Some(lost()));
    }
    // Those after the last that began never had their turn; the first always had.
    let turns = init.iter().rposition(began).map_or(1, |at| at + 1).min(init.len());
    init[..turns].iter_mut().filter(|s| waits(s)).for_each(|s| s.state = Some(lost()));
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    let message = (!message.is_empty()).then(|| message.to_owned());
    ContainerState { waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }), ..Default::default() }
}

/// The runtime's account of a run, in the API's words.
fn state_of(instance: &Instance) -> ContainerState {
    let status = &instance.status;
    let mut state = ContainerState::default();
    match status.state() {
        RuntimeState::ContainerRunning => {
            state.running = Some(ContainerStateRunning { started_at: Some(Time(timestamp(status.started_at))) })
        }
        RuntimeState::ContainerExited => {
            state.terminated = Some(ContainerStateTerminated {
                exit_code: status.exit_code,
                reason: Some(status.reason.clone()).filter(|r| !r.is_empty()),
                message: Some(status.message.clone()).filter(|m| !m.is_empty()),
                started_at: Some(Time(timestamp(status.started_at))),
                finished_at: Some(Time(timestamp(status.finished_at))),
                container_id: Some(container_id(instance)),
                signal: None,
            });
        }
        RuntimeState::ContainerCreated => return waiting("ContainerCreating", ""),
        RuntimeState::ContainerUnknown => return waiting("", ""),
    }
    state
}

/// `containerd://ID`: the runtime's scheme is that of the only kind we have met; CRI does not tell it per container.
fn container_id(instance: &Instance) -> String {
    format!("containerd://{}", instance.status.id)
}

fn from_instance(latest: &Instance, last: Option<&Instance>) -> ContainerStatus {
    ContainerStatus {
        name: latest.name().to_owned(),
        container_id: Some(container_id(latest)),
        image: latest.status.image.as_ref().map(|i| i.image.clone()).unwrap_or_default(),
        image_id: latest.status.image_ref.clone(),
        restart_count: i32::try_from(identity::restart_count(&latest.status)).unwrap_or(i32::MAX),
        state: Some(state_of(latest)),
        last_state: Some(last.map(state_of).unwrap_or_default()),
        user: latest.status.user.as_ref().and_then(|u| u.linux.as_ref()).map(|linux| ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: linux.uid,
                gid: linux.gid,
                supplemental_groups: Some(linux.supplemental_groups.clone()).filter(|g| !g.is_empty()),
            }),
        }),
        ..Default::default()
    }
}

/// What a container's status says of the resources that it has.
pub fn told_resources(set: Option<&ResourceRequirements>) -> ResourceRequirements {
    let requests = requests_of(set);
    let limits = set.and_then(|r| r.limits.clone());
    ResourceRequirements { limits, requests: (!requests.is_empty()).then_some(requests), ..Default::default() }
}

/// The mounts of a container, of which `instance` is the newest there is.
fn mount_statuses(mounts: Option<&[VolumeMount]>, instance: Option<&Instance>) -> Option<Vec<VolumeMountStatus>> {
    let mounts = mounts.filter(|m| !m.is_empty())?;
    // Where it was asked for if possible, only what was made tells.
    let made = |mount: &VolumeMount| {
        instance.into_iter().flat_map(|i| &i.status.mounts).any(|m| m.container_path == mount.mount_path && m.recursive_read_only)
    };
    let recursive = |mount: &VolumeMount| match mount.recursive_read_only.as_deref() {
        Some("IfPossible") => made(mount),
        asked => asked == Some("Enabled"),
    };
    let one = |mount: &VolumeMount| {
        let read_only = mount.read_only == Some(true);
        VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: read_only.then_some(true),
            recursive_read_only: read_only.then(|| if recursive(mount) { "Enabled" } else { "Disabled" }.to_owned()),
            volume_status: None,
        }
    };
    Some(mounts.iter().map(one).collect())
}

/// `started` and `ready`, from the state and the probes (upstream: the prober manager's `UpdatePodStatus`).
fn settle_readiness(status: &mut ContainerStatus, container: &Container, init: bool, instance: &Instance, probes: &Outcomes) {
    let running = status.state.as_ref().is_some_and(|s| s.running.is_some());
    let passed =
        |probe: Option<&Probe>, kind| probe.is_none() || probes.of(&container.name, kind, &instance.status.id) == Some(Outcome::Success);
    if init && !is_sidecar(container) {
        status.started = Some(running);
        status.ready = status.state.as_ref().and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code == 0);
        return;
    }
    let started = running && passed(container.startup_probe.as_ref(), ProbeKind::Startup);
    status.started = Some(started);
    status.ready = started && passed(container.readiness_probe.as_ref(), ProbeKind::Readiness);
}

fn ephemeral_statuses(input: &StatusInput<'_>, spec: &PodSpec) -> Vec<ContainerStatus> {
    let one = |c: &k8s_openapi::api::core::v1::EphemeralContainer| {
        let mut instances = input.observed.of(&c.name);
        let volume_mounts = mount_statuses(c.volume_mounts.as_deref(), input.observed.latest(&c.name));
        match instances.next() {
            Some(latest) => {
                let resources = Some(ResourceRequirements::default());
                ContainerStatus { resources, volume_mounts, ..from_instance(latest, None) }
            }
            None => {
                let (reason, message) = input.reasons.get(&c.name).map_or(("ContainerCreating", ""), |(r, m)| (r, m));
                ContainerStatus {
                    name: c.name.clone(),
                    image: c.image.clone().unwrap_or_default(),
                    state: Some(waiting(reason, message)),
                    last_state: Some(ContainerState::default()),
                    volume_mounts,
                    ..Default::default()
                }
            }
        }
    };
    spec.ephemeral_containers.iter().flatten().map(one).collect()
}
