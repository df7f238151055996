//! In-place resize: what of the resources that a pod asks for it has been given, and bringing its containers to that (upstream:
//! `pkg/kubelet/allocation`, KEP-1287).
//!
//! A changed spec is *allocated* once the node has room for it; until then the pod goes on with what it had, and a condition says why. What is allocated
//! is *applied* by changing the limits of the running container, or by starting it anew where its `resizePolicy` says so. After a restart of the
//! kubelet what was applied is known from the status. What the pod may use as a whole is allocated with the rest; its cgroup follows at the next turn.

use super::{
    actions::{Kill, KillReason, Plan, Role},
    observed::Observed,
    restart::is_sidecar,
    status::told_resources,
};
use crate::node::admission::{Shortage, Unfit};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Container, Pod, PodCondition, PodSpec, PodStatus, ResourceRequirements},
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// The conditions that this module makes.
pub const CONDITIONS: &[&str] = &[PENDING, IN_PROGRESS];
const PENDING: &str = "PodResizePending";
const IN_PROGRESS: &str = "PodResizeInProgress";

/// The state of one pod's resources.
#[derive(Debug, Default)]
pub struct Resize {
    /// By container name.
    allocated: BTreeMap<String, ResourceRequirements>,
    /// By the runtime's id.
    applied: HashMap<String, ResourceRequirements>,
    /// Reason and message of a resize that was not allocated.
    pending: Option<(&'static str, String)>,
    /// What went wrong in applying one.
    error: Option<String>,
    /// What the pod as a whole was given.
    whole: ResourceRequirements,
    /// Something allocated has not been applied everywhere.
    in_progress: bool,
    /// What has to be told.
    news: Vec<News>,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Whether something is wrong.
    pub warning: bool,
    /// `ResizeStarted` and the like.
    pub reason: &'static str,
    /// What was wanted, container by container.
    pub message: String,
}

/// What an event tells of a resize, in upstream's order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    init_containers: Vec<Wanted<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    containers: Vec<Wanted<'a>>,
    generation: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
}

#[derive(Serialize)]
struct Wanted<'a> {
    name: &'a str,
    resources: ResourceRequirements,
}

fn news(pod: &Pod, reason: &'static str, what: &str, error: &str) -> News {
    fn wanted(list: &[Container]) -> Vec<Wanted<'_>> {
        list.iter().map(|c| Wanted { name: &c.name, resources: plain(c.resources.as_ref()) }).collect()
    }
    let spec = pod.spec.as_ref();
    let summary = Summary {
        init_containers: wanted(spec.and_then(|s| s.init_containers.as_deref()).unwrap_or_default()),
        containers: wanted(spec.map(|s| s.containers.as_slice()).unwrap_or_default()),
        generation: pod.metadata.generation.unwrap_or(0),
        error,
    };
    let message = match serde_json::to_string(&summary) {
        Ok(text) => format!("Pod resize {what}: {text}"),
        Err(_) => format!("Pod resize {what}"),
    };
    News { warning: !matches!(reason, "ResizeStarted" | "ResizeCompleted"), reason, message }
}

/// The containers whose resources can change, with their places.
fn containers(spec: &PodSpec) -> impl Iterator<Item = (Role, usize, &Container)> {
    let init = spec.init_containers.iter().flatten().enumerate().filter(|(_, c)| is_sidecar(c)).map(|(i, c)| (Role::Init, i, c));
    init.chain(spec.containers.iter().enumerate().map(|(i, c)| (Role::App, i, c)))
}

/// What the pod asks for as a whole, if it says so.
fn wanted_whole(pod: &Pod) -> Option<&ResourceRequirements> {
    pod.spec.as_ref()?.resources.as_ref()
}

/// The runtime's id in the one that a status tells, which says the runtime before it.
fn bare_id(told: &str) -> &str {
    told.rsplit('/').next().unwrap_or(told)
}

/// Requests and limits, without what is empty.
fn plain(set: Option<&ResourceRequirements>) -> ResourceRequirements {
    let kept = |list: Option<&BTreeMap<_, _>>| list.filter(|l: &&BTreeMap<_, _>| !l.is_empty()).cloned();
    ResourceRequirements {
        requests: kept(set.and_then(|s| s.requests.as_ref())),
        limits: kept(set.and_then(|s| s.limits.as_ref())),
        claims: None,
    }
}

impl Resize {
    /// What the pod has been given: what its status says, or all it asks for if it has never run here.
    pub fn of(pod: &Pod) -> Self {
        let mut resize = Resize::default();
        let status = pod.status.as_ref();
        let statuses: Vec<_> =
            status.iter().flat_map(|s| s.container_statuses.iter().chain(s.init_container_statuses.iter())).flatten().collect();
        for (_, _, container) in pod.spec.iter().flat_map(containers) {
            let told = statuses.iter().find(|s| s.name == container.name && s.container_id.is_some());
            let given = match told.and_then(|s| s.resources.as_ref()) {
                Some(resources) => plain(Some(resources)),
                None => plain(container.resources.as_ref()),
            };
            if let Some(id) = told.and_then(|s| s.container_id.as_deref()) {
                resize.applied.insert(bare_id(id).to_owned(), given.clone());
            }
            resize.allocated.insert(container.name.clone(), given);
        }
        resize.whole = plain(status.and_then(|s| s.resources.as_ref()).filter(|_| !statuses.is_empty()).or(wanted_whole(pod)));
        resize
    }

    /// What there is to tell since it was asked last.
    pub fn news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    fn is_given(&self, pod: &Pod, spec: &PodSpec) -> bool {
        let same_whole = wanted_whole(pod).is_none_or(|wanted| same(&self.whole, &plain(Some(wanted))));
        same_whole
            && containers(spec).all(|(_, _, c)| self.allocated.get(&c.name).is_none_or(|given| same(given, &plain(c.resources.as_ref()))))
    }

    /// Allocates what the pod asks for if `fits` books it. Answers with the pod as it is to be run.
    pub fn allocate(&mut self, pod: &Arc<Pod>, fits: impl FnOnce(&PodSpec) -> Result<(), Unfit>) -> Arc<Pod> {
        let Some(spec) = &pod.spec else { return pod.clone() };
        if self.is_given(pod, spec) {
            self.pending = None;
            return pod.clone();
        }
        match fits(spec) {
            Ok(()) => {
                self.pending = None;
                self.error = None;
                self.allocated = containers(spec).map(|(_, _, c)| (c.name.clone(), plain(c.resources.as_ref()))).collect();
                self.whole = plain(spec.resources.as_ref());
                self.in_progress = true;
                self.news.push(news(pod, "ResizeStarted", "started", ""));
                pod.clone()
            }
            Err(why) => {
                let (event, pending) = match why {
                    Unfit::Later(Shortage { name, requested, used, capacity }) => {
                        let message =
                            format!("Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}");
                        ("ResizeDeferred", ("Deferred", message))
                    }
                    Unfit::Never(message) => ("ResizeInfeasible", ("Infeasible", message)),
                };
                if self.pending.as_ref() != Some(&pending) {
                    self.news.push(news(pod, event, pending.0, &pending.1));
                }
                self.pending = Some(pending);
                self.given(pod)
            }
        }
    }

    /// The pod with what it was given instead of what it asks for.
    pub fn given(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        let mut pod = pod.as_ref().clone();
        let spec = pod.spec.iter_mut();
        for container in spec.flat_map(|s| s.containers.iter_mut().chain(s.init_containers.iter_mut().flatten())) {
            if let Some(given) = self.allocated.get(&container.name) {
                let claims = container.resources.take().and_then(|r| r.claims);
                container.resources = Some(ResourceRequirements { claims, ..given.clone() });
            }
        }
        if let Some(wanted) = pod.spec.as_mut().and_then(|s| s.resources.as_mut()) {
            *wanted = ResourceRequirements { claims: wanted.claims.take(), ..self.whole.clone() };
        }
        Arc::new(pod)
    }

    /// Containers that are met for the first time have what they were started with, which is what the pod is given now: to be told before that changes.
    pub fn meet(&mut self, pod: &Pod, observed: &Observed) {
        for (_, _, container) in pod.spec.iter().flat_map(containers) {
            let Some(instance) = observed.latest(&container.name).filter(|i| i.running()) else { continue };
            let given = self.allocated.get(&container.name).cloned().unwrap_or_else(|| plain(container.resources.as_ref()));
            self.applied.entry(instance.status.id.clone()).or_insert(given);
        }
    }

    /// The running containers whose limits are not what they were given, by id, and whether each has to be started anew for it. A container that is met
    /// for the first time was started with what it was given.
    pub fn due(&mut self, pod: &Pod, observed: &Observed) -> Vec<(String, Container, bool)> {
        let mut out = Vec::new();
        for (_, _, container) in pod.spec.iter().flat_map(containers) {
            let Some(instance) = observed.latest(&container.name).filter(|i| i.running()) else { continue };
            let given = plain(container.resources.as_ref());
            let applied = self.applied.entry(instance.status.id.clone()).or_insert_with(|| given.clone());
            if !same(applied, &given) {
                out.push((instance.status.id.clone(), container.clone(), needs_restart(container, applied, &given)));
            }
        }
        self.applied.retain(|id, _| observed.instances.iter().any(|i| i.status.id == *id));
        out
    }

    /// Whether some of these containers are to have less memory than they may use now.
    pub fn shrinks_memory(&self, due: &[(String, Container, bool)]) -> bool {
        due.iter().any(|(id, container, _)| self.lower_limit(id, container).is_some())
    }

    /// The limit of memory in bytes that a container is to have, if it is lower than the one it has.
    fn lower_limit(&self, id: &str, container: &Container) -> Option<i64> {
        let bytes = |set: &ResourceRequirements| set.limits.as_ref()?.get("memory").and_then(crate::container::resources::whole);
        let wanted = bytes(container.resources.as_ref()?)?;
        bytes(self.applied.get(id)?).is_none_or(|now| wanted < now).then_some(wanted)
    }

    /// Refuses to take memory from a container that uses it, which would end it. Not to know what it uses is no reason.
    pub fn room(&self, id: &str, container: &Container, usage: Option<u64>) -> Result<(), String> {
        let (Some(limit), Some(usage)) = (self.lower_limit(id, container), usage) else { return Ok(()) };
        if i64::try_from(usage).is_ok_and(|usage| usage <= limit) {
            return Ok(());
        }
        let name = &container.name;
        Err(format!(
            "cannot decrease memory limits: attempting to set container {name:?} memory limit ({limit}) below current usage ({usage})"
        ))
    }

    /// The container has what it was given now.
    pub fn applied(&mut self, id: &str, container: &Container) {
        self.applied.insert(id.to_owned(), plain(container.resources.as_ref()));
        self.error = None;
    }

    /// The runtime would not.
    pub fn failed(&mut self, pod: &Pod, error: String) {
        if self.error.as_ref() != Some(&error) {
            self.news.push(news(pod, "ResizeError", "error", &error));
        }
        self.error = Some(error);
    }

    /// Whether a running container has not what it was given.
    fn is_unapplied(&self, pod: &Pod, observed: &Observed) -> bool {
        pod.spec.iter().flat_map(containers).any(|(_, _, container)| {
            let running = observed.latest(&container.name).filter(|i| i.running());
            let applied = running.and_then(|i| self.applied.get(&i.status.id));
            applied.is_some_and(|applied| !same(applied, &plain(container.resources.as_ref())))
        })
    }

    /// Notes how far the pod, as it was given what it runs with, has come.
    pub fn settle(&mut self, pod: &Pod, observed: &Observed) {
        let unapplied = self.is_unapplied(pod, observed);
        if self.in_progress && !unapplied && self.pending.is_none() {
            self.news.push(news(pod, "ResizeCompleted", "completed", ""));
        }
        self.in_progress = unapplied;
    }

    /// Has the status say of running containers what they have, where that is not what they were given.
    pub fn tell(&self, status: &mut PodStatus) {
        let lists = [&mut status.container_statuses, &mut status.init_container_statuses];
        for told in lists.into_iter().flatten().flatten() {
            let id = told.container_id.as_deref().filter(|_| told.state.as_ref().is_some_and(|s| s.running.is_some())).map(bare_id);
            if let Some(applied) = id.and_then(|id| self.applied.get(id)) {
                told.resources = Some(told_resources(Some(applied)));
            }
        }
    }

    /// The conditions. Those that stay keep their times.
    pub fn conditions(&self, pod: &Pod, observed: &Observed, before: &[PodCondition], now: Timestamp) -> Vec<PodCondition> {
        let pending = self.pending.as_ref().map(|(reason, message)| (PENDING, Some(*reason), Some(message.clone())));
        let progress = self.is_unapplied(pod, observed).then(|| (IN_PROGRESS, self.error.as_ref().map(|_| "Error"), self.error.clone()));
        let made = pending.into_iter().chain(progress).map(|(kind, reason, message)| {
            let old = before.iter().find(|c| c.type_ == kind).and_then(|c| c.last_transition_time.clone());
            PodCondition {
                type_: kind.into(),
                status: "True".into(),
                reason: reason.map(str::to_owned),
                message,
                last_transition_time: Some(old.unwrap_or(Time(now))),
                observed_generation: pod.metadata.generation,
                ..Default::default()
            }
        });
        made.collect()
    }
}

/// Whether two sets mean the same: a limit is also the request where none is given, and amounts may be written in several ways.
fn same(a: &ResourceRequirements, b: &ResourceRequirements) -> bool {
    let amount = |set: &ResourceRequirements, limits: bool, name: &str| {
        let of = |list: &Option<BTreeMap<String, _>>| list.as_ref().and_then(|l| l.get(name)).and_then(crate::container::resources::milli);
        if limits { of(&set.limits) } else { of(&set.requests).or_else(|| of(&set.limits)) }
    };
    ["cpu", "memory"].iter().all(|name| [false, true].iter().all(|limits| amount(a, *limits, name) == amount(b, *limits, name)))
}

fn needs_restart(container: &Container, old: &ResourceRequirements, new: &ResourceRequirements) -> bool {
    let only = |set: &ResourceRequirements, name: &str| {
        let kept = |list: &Option<BTreeMap<String, _>>| {
            list.as_ref().map(|l| l.iter().filter(|(k, _)| *k == name).map(|(k, v)| (k.clone(), Clone::clone(v))).collect())
        };
        ResourceRequirements { requests: kept(&set.requests), limits: kept(&set.limits), claims: None }
    };
    let policies = container.resize_policy.iter().flatten().filter(|p| p.restart_policy == "RestartContainer");
    policies.into_iter().any(|p| !same(&only(old, &p.resource_name), &only(new, &p.resource_name)))
}

/// Has the plan start these containers anew.
pub fn restart(plan: &mut Plan, pod: &Pod, due: &[(String, Container, bool)]) {
    for (id, container, _) in due.iter().filter(|(_, _, restart)| *restart) {
        let Some((role, index, _)) = pod.spec.iter().flat_map(containers).find(|(_, _, c)| c.name == container.name) else { continue };
        if plan.kill_pod || plan.kill.iter().any(|k| k.id == *id) {
            continue;
        }
        let message = format!("Container {} resize requires restart", container.name);
        plan.kill.push(Kill { id: id.clone(), name: container.name.clone(), reason: KillReason::Changed, message });
        if !plan.start.contains(&(role, index)) {
            plan.start.push((role, index));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::observed::Instance;
    use k8s_cri::v1::{ContainerState, ContainerStatus};
    use serde_json::{Value, json};

    fn pod(cpu: &str, policy: Value) -> Arc<Pod> {
        let container = json!({"name": "c", "resources": {"limits": {"cpu": cpu}}, "resizePolicy": policy});
        Arc::new(serde_json::from_value(json!({"spec": {"containers": [container]}})).expect("a pod"))
    }

    fn running() -> Observed {
        let labels = [(crate::container::identity::CONTAINER_NAME.to_owned(), "c".to_owned())].into();
        let status = ContainerStatus { id: "i".into(), state: ContainerState::ContainerRunning as i32, labels, ..Default::default() };
        Observed { instances: vec![Instance { sandbox: "s".into(), status }], ..Default::default() }
    }

    fn kinds(resize: &Resize, pod: &Pod) -> Vec<(String, Option<String>)> {
        let made = resize.conditions(pod, &running(), &[], Timestamp::UNIX_EPOCH);
        made.into_iter().map(|c| (c.type_, c.reason)).collect()
    }

    #[test]
    fn what_fits_is_applied_and_what_does_not_waits() {
        let first = pod("1", json!([]));
        let mut resize = Resize::of(&first);
        assert_eq!(resize.allocate(&first, |_| panic!("nothing changed")), first);
        assert!(resize.due(&first, &running()).is_empty());

        let larger = pod("2", json!([]));
        let short = Unfit::Later(Shortage { name: "cpu".into(), requested: 2000, used: 1, capacity: 1500 });
        for (why, reason) in [(short, "Deferred"), (Unfit::Never("too much".into()), "Infeasible")] {
            let given = resize.allocate(&larger, |_| Err(why));
            assert_eq!(
                given.spec.as_ref().map(|s| s.containers[0].resources.clone()),
                first.spec.as_ref().map(|s| s.containers[0].resources.clone())
            );
            assert_eq!(kinds(&resize, &given), [(PENDING.to_owned(), Some(reason.to_owned()))]);
        }
        let given = resize.allocate(&larger, |_| Ok(()));
        let due = resize.due(&given, &running());
        assert_eq!((due.len(), due[0].2), (1, false));
        assert_eq!(kinds(&resize, &given), [(IN_PROGRESS.to_owned(), None)]);
        resize.settle(&given, &running());
        resize.applied("i", &due[0].1);
        assert!(kinds(&resize, &given).is_empty() && resize.due(&given, &running()).is_empty());
        resize.settle(&given, &running());
        let told = resize.news();
        let reasons: Vec<_> = told.iter().map(|n| (n.warning, n.reason)).collect();
        assert_eq!(reasons, [(true, "ResizeDeferred"), (true, "ResizeInfeasible"), (false, "ResizeStarted"), (false, "ResizeCompleted")]);
        let summary = r#"{"containers":[{"name":"c","resources":{"limits":{"cpu":"2"}}}],"generation":0"#;
        assert_eq!(told[3].message, format!("Pod resize completed: {summary}}}"));
        let why = "Node didn't have enough resource: cpu, requested: 2000, used: 1, capacity: 1500";
        assert_eq!(told[0].message, format!(r#"Pod resize Deferred: {summary},"error":"{why}"}}"#));
    }

    #[test]
    fn a_container_that_nobody_looked_at_has_what_it_was_started_with() {
        let mut resize = Resize::of(&pod("1", json!([])));
        let larger = pod("2", json!([]));
        resize.meet(&larger, &running());
        let given = resize.allocate(&larger, |_| Ok(()));
        assert_eq!(resize.due(&given, &running()).len(), 1);
    }

    #[test]
    fn memory_that_is_used_is_not_taken_away() {
        let with = |memory: &str| -> Arc<Pod> {
            let container = json!({"name": "c", "resources": {"limits": {"memory": memory}}});
            Arc::new(serde_json::from_value(json!({"spec": {"containers": [container]}})).expect("a pod"))
        };
        let mut resize = Resize::of(&with("64Mi"));
        resize.due(&with("64Mi"), &running());
        resize.allocate(&with("32Mi"), |_| Ok(()));
        let state = json!({"running": {"startedAt": null}});
        let told = json!({"name": "c", "containerID": "containerd://i", "state": state, "image": "", "imageID": "", "ready": true, "restartCount": 0});
        let mut status: PodStatus = serde_json::from_value(json!({"containerStatuses": [told]})).expect("a status");
        resize.tell(&mut status);
        let resources = status.container_statuses.map(|s| s[0].resources.clone());
        let has = json!({"limits": {"memory": "64Mi"}, "requests": {"memory": "64Mi"}});
        assert_eq!(serde_json::to_value(resources).expect("JSON"), has, "what it has until it is given less");
        for (memory, usage, want) in [
            ("32Mi", Some(16 << 20), None),
            ("32Mi", None, None),
            ("128Mi", Some(100 << 20), None),
            ("32Mi", Some(48 << 20), Some("container \"c\" memory limit (33554432) below current usage (50331648)")),
        ] {
            let pod = with(memory);
            let container = &pod.spec.as_ref().expect("a spec").containers[0];
            let want = want.map(|why| format!("cannot decrease memory limits: attempting to set {why}"));
            assert_eq!(resize.room("i", container, usage).err(), want, "{memory}");
        }
    }

    #[test]
    fn a_policy_may_want_the_container_started_anew() {
        let policy = json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
        let mut resize = Resize::of(&pod("1", policy.clone()));
        resize.due(&pod("1", policy.clone()), &running());
        let given = resize.allocate(&pod("2", policy), |_| Ok(()));
        let due = resize.due(&given, &running());
        let mut plan = Plan::default();
        restart(&mut plan, &given, &due);
        assert_eq!((plan.kill.len(), plan.start.as_slice()), (1, &[(Role::App, 0)][..]));
    }

    #[test]
    fn after_a_restart_of_the_kubelet_the_status_says_what_was_applied() {
        let mut larger = pod("2", json!([])).as_ref().clone();
        let told = json!({"name": "c", "containerID": "containerd://i", "resources": {"limits": {"cpu": "1"}}, "image": "", "imageID": "", "ready": true, "restartCount": 0});
        larger.status = serde_json::from_value(json!({"containerStatuses": [told]})).expect("a status");
        let mut resize = Resize::of(&larger);
        let given = resize.allocate(&Arc::new(larger), |_| Ok(()));
        assert_eq!(resize.due(&given, &running()).len(), 1);
    }
}
