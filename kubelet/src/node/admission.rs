//! What a pod has to pass before this node runs it, whoever bound it here: what it may set, whether it belongs here, whether it fits (upstream:
//! `pkg/kubelet/lifecycle/predicate.go`, `pkg/kubelet/sysctl`, `pkg/security/apparmor`).
//!
//! The checks are functions; [`Admission`] keeps what the pods that were let in hold, so that two that come at once are not both given the last CPU.
//! Left out: making room for critical pods by ending others.

use crate::container::{
    identity,
    resources::{self, Amounts, Qos},
    sysctl,
};
use api::scheduling::{HostPort, host_ports};
use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration};
use parking_lot::Mutex;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::{Notify, watch};

/// Why a pod is not run: the reason and message of its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `OutOfcpu`, `NodeAffinity`, `SysctlForbidden` and the like.
    pub reason: String,
    /// The words.
    pub message: String,
}

impl Refusal {
    /// With this reason and these words.
    pub fn new(reason: &str, message: impl Into<String>) -> Self {
        Refusal { reason: reason.into(), message: message.into() }
    }

    /// Whether a newer version of the node could change this.
    pub fn is_of_the_node(&self) -> bool {
        matches!(self.reason.as_str(), "NodeAffinity" | "TaintToleration")
    }
}

/// Amounts by resource in the unit that messages have: thousandths of a CPU, and whole units of all else.
pub type Held = BTreeMap<String, i64>;

/// What a pod holds of the node: one pod, and what it asks for.
pub fn held(spec: &PodSpec) -> Held {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten()).filter_map(|c| c.resources.as_ref());
    let sets = containers.chain(spec.resources.as_ref());
    let names = sets
        .flat_map(|r| r.requests.iter().chain(r.limits.iter()))
        .flat_map(BTreeMap::keys)
        .chain(spec.overhead.iter().flat_map(BTreeMap::keys));
    let mut out: Held = names.map(|name| (name.clone(), unit(name, resources::pod_total(spec, name, false)))).collect();
    out.insert("pods".into(), 1);
    out
}

/// Thousandths of a resource in its unit, rounded up.
fn unit(name: &str, milli: i64) -> i64 {
    if name == "cpu" { milli } else { milli.div_euclid(1000) + i64::from(milli.rem_euclid(1000) != 0) }
}

/// What of a resource does not suffice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The resource.
    pub name: String,
    /// What was asked for.
    pub requested: i64,
    /// What others hold.
    pub used: i64,
    /// What there is.
    pub capacity: i64,
}

/// The first resource that does not suffice; resources that the node does not know are somebody else's to count.
pub fn shortage(wanted: &Held, used: &Held, allocatable: &Amounts) -> Option<Shortage> {
    let order = |name: &str| ["pods", "cpu", "memory", "ephemeral-storage"].iter().position(|n| *n == name).unwrap_or(9);
    let mut names: Vec<&String> = wanted.keys().collect();
    names.sort_by_key(|name| order(name));
    names.into_iter().find_map(|name| {
        let capacity = unit(name, resources::milli(allocatable.get(name)?)?);
        let (requested, used) = (wanted[name], used.get(name).copied().unwrap_or(0));
        (requested > 0 && requested > capacity - used).then(|| Shortage { name: name.clone(), requested, used, capacity })
    })
}

/// Whether a pod may be here at all, whatever else is. `apparmor`: the kernel has it. Sysctls in `unsafe_sysctls` are allowed.
fn allowed(pod: &Pod, unsafe_sysctls: &[String], apparmor: bool) -> Result<(), Refusal> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        return Err(Refusal::new("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"));
    }
    sysctl::verify(pod, unsafe_sysctls).map_err(|message| Refusal::new("SysctlForbidden", message))?;
    let pods = spec.security_context.as_ref().and_then(|s| s.app_armor_profile.as_ref());
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let profiles = containers.filter_map(|c| c.security_context.as_ref()?.app_armor_profile.as_ref()).chain(pods);
    if !apparmor && profiles.into_iter().any(|p| p.type_ != "Unconfined") {
        return Err(Refusal::new("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"));
    }
    Ok(())
}

/// Whether the pod belongs on the node: its selectors, and the node's taints that do not even let pods stay.
fn belongs(pod: &Pod, node: &Node) -> Result<(), Refusal> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key));
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| label(key) == Some(value));
    let required = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = required.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    if !selected || required.is_some_and(|r| !r.node_selector_terms.iter().any(|term| matches(term, node))) {
        return Err(Refusal::new("NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"));
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten()).filter(|t| t.effect == "NoExecute");
    if !identity::is_static(pod) && taints.into_iter().any(|t| !tolerations.iter().any(|own| tolerates(own, t))) {
        return Err(Refusal::new("TaintToleration", "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"));
    }
    Ok(())
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
    let same_key = given(&toleration.key).is_none_or(|key| key == taint.key);
    let same_effect = given(&toleration.effect).is_none_or(|effect| effect == taint.effect);
    let value = || toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default();
    same_key && same_effect && (toleration.operator.as_deref() == Some("Exists") || (given(&toleration.key).is_some() && value()))
}

fn matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let (labels, fields) = (term.match_expressions.as_deref().unwrap_or_default(), term.match_fields.as_deref().unwrap_or_default());
    let label = |r: &NodeSelectorRequirement| node.metadata.labels.as_ref().and_then(|labels| labels.get(&r.key).cloned());
    let field = |r: &NodeSelectorRequirement| node.metadata.name.clone().filter(|_| r.key == "metadata.name");
    let all = labels.iter().all(|r| satisfied(r, label(r).as_deref())) && fields.iter().all(|r| satisfied(r, field(r).as_deref()));
    all && !(labels.is_empty() && fields.is_empty())
}

fn satisfied(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.iter().any(|other| other == v));
    let number = |text: &str| text.parse::<i64>().ok();
    let compared = value.and_then(number).zip(values.first().and_then(|v| number(v))).map(|(a, b)| a.cmp(&b));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared == Some(std::cmp::Ordering::Greater),
        "Lt" => compared == Some(std::cmp::Ordering::Less),
        _ => false,
    }
}

/// What was let in.
#[derive(Default)]
pub struct Admission {
    unsafe_sysctls: Vec<String>,
    apparmor: bool,
    /// The node takes no more pods: why.
    closed: Mutex<Option<Refusal>>,
    pods: Mutex<HashMap<String, Booked>>,
    /// Pods that wait for room to grow, to be given it and woken when there is some.
    waiting: Mutex<HashMap<String, Waiting>>,
    /// How many have begun to wait so far.
    waited: AtomicU64,
    /// Sees each change of what is held.
    changed: watch::Sender<()>,
}

/// What one pod holds.
#[derive(Clone, Debug)]
struct Booked {
    qos: Qos,
    held: Held,
    ports: Vec<HostPort>,
}

/// Why a pod is not given what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// Others hold it: it may fit once they have gone.
    Later(Shortage),
    /// It never will: the words.
    Never(String),
}

/// What a pod asks for that was given less.
pub struct Ask {
    wanted: Held,
    priority: i32,
    waker: Arc<Notify>,
}

impl Ask {
    /// What this spec asks for. `waker` is notified when there may be room for it.
    pub fn of(spec: &PodSpec, waker: &Arc<Notify>) -> Self {
        Ask { wanted: held(spec), priority: spec.priority.unwrap_or(0), waker: waker.clone() }
    }
}

/// A pod that waits for room.
struct Waiting {
    ask: Ask,
    allocatable: Amounts,
    /// Its place among those that wait.
    since: u64,
}

/// Who is given room first (upstream: `sortPendingResizes`): who asks for less than it holds, then the higher priority, the better class, and who has
/// waited longer.
fn turn(waiting: &Waiting, booked: &Booked) -> (bool, Reverse<i32>, u8, u64) {
    let grows = waiting.ask.wanted.iter().any(|(name, amount)| *amount > booked.held.get(name).copied().unwrap_or(0));
    let class = match booked.qos {
        Qos::Guaranteed => 0,
        Qos::Burstable => 1,
        Qos::BestEffort => 2,
    };
    (grows, Reverse(waiting.ask.priority), class, waiting.since)
}

impl Admission {
    /// Nothing is let in yet. `unsafe_sysctls` are `allowedUnsafeSysctls`; `apparmor`: the kernel has it.
    pub fn new(unsafe_sysctls: Vec<String>, apparmor: bool) -> Self {
        Admission { unsafe_sysctls, apparmor, ..Default::default() }
    }

    /// Lets a pod in, and books what it holds, or refuses it. `node` is absent while nobody knows it. A pod that has run here before is booked
    /// without being asked where it belongs: a restart of the kubelet ends nothing.
    pub fn admit(&self, uid: &str, pod: &Pod, node: Option<&Node>, allocatable: &Amounts) -> Result<(), Refusal> {
        let Some(spec) = &pod.spec else { return Ok(()) };
        let (wanted, qos, ports) = (held(spec), resources::qos(pod), host_ports(spec));
        let mut pods = self.pods.lock();
        if pod.status.as_ref().is_some_and(|s| s.start_time.is_some()) {
            pods.insert(uid.to_owned(), Booked { qos, held: wanted, ports });
            self.changed.send_replace(());
            return Ok(());
        }
        allowed(pod, &self.unsafe_sysctls, self.apparmor)?;
        let used = sum(pods.iter().filter(|(other, _)| *other != uid).map(|(_, booked)| &booked.held));
        if let Some(short) = shortage(&wanted, &used, allocatable) {
            let Shortage { name, requested, used, capacity } = short;
            let message = format!("Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}");
            return Err(Refusal { reason: format!("OutOf{name}"), message });
        }
        if let Some(node) = node {
            belongs(pod, node)?;
        }
        let mut taken = pods.iter().filter(|(other, _)| *other != uid).flat_map(|(_, booked)| &booked.ports);
        if taken.any(|taken| ports.iter().any(|wanted| wanted.conflicts(taken))) {
            let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
            return Err(Refusal::new("NodePorts", message));
        }
        if let Some(refusal) = self.closed.lock().as_ref() {
            return Err(refusal.clone());
        }
        pods.insert(uid.to_owned(), Booked { qos, held: wanted, ports });
        self.changed.send_replace(());
        Ok(())
    }

    /// The pod holds what it asks for from now on if it fits. Else answers what is short, and whether it may fit once others have gone, when it is woken.
    pub fn resize(&self, uid: &str, ask: Ask, allocatable: &Amounts) -> Result<(), Unfit> {
        let wanted = &ask.wanted;
        if let Some(Shortage { name, requested, capacity, .. }) = shortage(wanted, &Held::new(), allocatable) {
            let message = format!("Node didn't have enough capacity: {name}, requested: {requested}, capacity: {capacity}");
            return Err(Unfit::Never(message));
        }
        let mut pods = self.pods.lock();
        let used = sum(pods.iter().filter(|(other, _)| *other != uid).map(|(_, booked)| &booked.held));
        if let Some(short) = shortage(wanted, &used, allocatable) {
            let mut all = self.waiting.lock();
            let since = all.get(uid).map_or_else(|| self.waited.fetch_add(1, Ordering::Relaxed), |before| before.since);
            all.insert(uid.to_owned(), Waiting { ask, allocatable: allocatable.clone(), since });
            return Err(Unfit::Later(short));
        }
        self.waiting.lock().remove(uid);
        if let Some(booked) = pods.get_mut(uid) {
            booked.held = ask.wanted;
        }
        drop(pods);
        self.wake();
        Ok(())
    }

    /// Nothing of the pod runs any more.
    pub fn release(&self, uid: &str) {
        self.waiting.lock().remove(uid);
        if self.pods.lock().remove(uid).is_some() {
            self.wake();
        }
    }

    /// There may be room now for who waited: whoever fits is given it in turn, and woken.
    fn wake(&self) {
        let mut pods = self.pods.lock();
        let mut all = self.waiting.lock();
        let mut turns: Vec<_> = all.iter().filter_map(|(uid, w)| Some((turn(w, pods.get(uid)?), uid.clone()))).collect();
        turns.sort();
        for (_, uid) in turns {
            let Some(waiting) = all.get(&uid) else { continue };
            let used = sum(pods.iter().filter(|(other, _)| **other != uid).map(|(_, booked)| &booked.held));
            if shortage(&waiting.ask.wanted, &used, &waiting.allocatable).is_some() {
                continue;
            }
            if let (Some(given), Some(booked)) = (all.remove(&uid), pods.get_mut(&uid)) {
                booked.held = given.ask.wanted;
                given.ask.waker.notify_one();
            }
        }
        self.changed.send_replace(());
    }

    /// Takes no more pods, or takes them again.
    pub fn close(&self, refusal: Option<(&str, String)>) {
        *self.closed.lock() = refusal.map(|(reason, message)| Refusal::new(reason, message));
    }

    /// Tells of each change of what pods hold.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// What the pods of a class ask for of a resource together.
    pub fn requested(&self, name: &str, class: Qos) -> i64 {
        let pods = self.pods.lock();
        pods.values().filter(|booked| booked.qos == class).filter_map(|booked| booked.held.get(name)).sum()
    }
}

/// Whether the cluster needs the pod, as it needs every static one: it is not evicted, and it is let in where others are not.
pub fn is_critical(pod: &Pod) -> bool {
    let priority = pod.spec.as_ref().and_then(|spec| spec.priority);
    identity::is_static(pod) || identity::is_mirror(pod) || priority.is_some_and(|priority| priority >= 2_000_000_000)
}

/// Whether the pod puts up with a node that is short of memory.
pub fn tolerates_memory_pressure(pod: &Pod) -> bool {
    let taint = Taint { key: "node.kubernetes.io/memory-pressure".into(), effect: "NoSchedule".into(), ..Default::default() };
    pod.spec.iter().flat_map(|s| s.tolerations.iter().flatten()).any(|own| tolerates(own, &taint))
}

fn sum<'a>(all: impl Iterator<Item = &'a Held>) -> Held {
    let mut out = Held::new();
    for held in all {
        for (name, amount) in held {
            *out.entry(name.clone()).or_default() += amount;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec})).expect("a pod")
    }

    fn node() -> Node {
        let taint = json!({"key": "k", "effect": "NoExecute"});
        serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"zone": "a", "cores": "8"}}, "spec": {"taints": [taint]}}))
            .expect("a node")
    }

    fn allocatable() -> Amounts {
        [("cpu", "2"), ("memory", "1Gi"), ("pods", "2")].into_iter().map(|(k, v)| (k.to_owned(), Quantity(v.to_owned()))).collect()
    }

    #[test]
    fn what_does_not_fit_is_refused_in_upstreams_words() {
        let admission = Admission::default();
        let asking = |cpu: &str| pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "example.com/x": "1"}}}]}));
        assert_eq!(admission.admit("a", &asking("1500m"), None, &allocatable()), Ok(()));
        let refused = admission.admit("b", &asking("1"), None, &allocatable()).expect_err("too much");
        let message = "Node didn't have enough resource: cpu, requested: 1000, used: 1500, capacity: 2000";
        assert_eq!((refused.reason.as_str(), refused.message.as_str()), ("OutOfcpu", message));
        assert_eq!(admission.admit("b", &asking("500m"), None, &allocatable()), Ok(()));
        assert_eq!(admission.admit("c", &pod(json!({"containers": []})), None, &allocatable()).expect_err("the third").reason, "OutOfpods");
        let waker = Arc::new(Notify::new());
        let short = |name: &str, requested, used, capacity| Shortage { name: name.into(), requested, used, capacity };
        assert_eq!(admission.resize("b", ask(600, 0, &waker), &allocatable()), Err(Unfit::Later(short("cpu", 600, 1500, 2000))));
        assert_eq!(
            admission.resize("b", ask(2001, 0, &waker), &allocatable()),
            Err(Unfit::Never("Node didn't have enough capacity: cpu, requested: 2001, capacity: 2000".into()))
        );
        admission.release("a");
        assert!(waker.notified().now_or_never().is_some(), "who waited is told that there is room");
        assert_eq!(admission.resize("b", ask(600, 0, &waker), &allocatable()), Ok(()));
        assert_eq!(admission.requested("cpu", Qos::Burstable), 600);
    }

    #[test]
    fn who_waits_is_given_room_in_turn() {
        let admission = Admission::default();
        let asking = |cpu: &str| pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}));
        let allocatable = [("cpu".to_owned(), Quantity("2".into()))].into();
        for (uid, cpu) in [("big", "1500m"), ("low", "100m"), ("high", "100m"), ("early", "100m")] {
            assert_eq!(admission.admit(uid, &asking(cpu), None, &allocatable), Ok(()), "{uid}");
        }
        let waiters: Vec<_> = [("early", 0, 900), ("low", 0, 900), ("high", 10, 900)]
            .into_iter()
            .map(|(uid, priority, cpu)| {
                let waker = Arc::new(Notify::new());
                assert!(
                    admission.resize(uid, ask(cpu, priority, &waker), &allocatable).is_err_and(|why| matches!(why, Unfit::Later(_))),
                    "{uid}"
                );
                (uid, waker)
            })
            .collect();
        admission.release("big");
        let woken: Vec<_> = waiters.iter().filter(|(_, waker)| waker.notified().now_or_never().is_some()).map(|(uid, _)| *uid).collect();
        assert_eq!(woken, ["early", "high"], "the higher priority first, then who has waited longer");
        assert_eq!(admission.resize("high", ask(900, 10, &waiters[2].1), &allocatable), Ok(()), "it was booked already");
        assert_eq!(admission.requested("cpu", Qos::Burstable), 1900);
    }

    fn ask(cpu: i64, priority: i32, waker: &Arc<Notify>) -> Ask {
        Ask { wanted: Held::from([("cpu".into(), cpu)]), priority, waker: waker.clone() }
    }

    #[test]
    fn what_does_not_belong_here_is_refused() {
        let tolerant = json!([{"key": "k", "operator": "Exists"}]);
        let affinity = |operator: &str, value: &str| {
            let terms = json!([{"matchExpressions": [{"key": "cores", "operator": operator, "values": [value]}]}]);
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}})
        };
        for (spec, want) in [
            (json!({"containers": [], "tolerations": tolerant}), None),
            (json!({"containers": []}), Some("TaintToleration")),
            (json!({"containers": [], "tolerations": tolerant, "nodeSelector": {"zone": "b"}}), Some("NodeAffinity")),
            (json!({"containers": [], "tolerations": tolerant, "affinity": affinity("Gt", "4")}), None),
            (json!({"containers": [], "tolerations": tolerant, "affinity": affinity("Lt", "4")}), Some("NodeAffinity")),
            (json!({"containers": [], "tolerations": tolerant, "os": {"name": "windows"}}), Some("PodOSNotSupported")),
        ] {
            let got = Admission::default().admit("u", &pod(spec.clone()), Some(&node()), &allocatable());
            assert_eq!(got.err().map(|r| r.reason).as_deref(), want, "{spec}");
        }
        let mut before = pod(json!({"containers": []}));
        before.status = serde_json::from_value(json!({"startTime": "2026-01-01T00:00:00Z"})).expect("a status");
        assert_eq!(Admission::default().admit("u", &before, Some(&node()), &allocatable()), Ok(()), "it has run here before");
    }

    #[test]
    fn a_port_of_the_node_is_one_pods_until_that_has_ended() {
        let admission = Admission::default();
        let with = |port: i32| pod(json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": port}]}]}));
        assert_eq!(admission.admit("a", &with(8080), None, &allocatable()), Ok(()));
        assert_eq!(admission.admit("b", &with(8080), None, &allocatable()).expect_err("taken").reason, "NodePorts");
        assert_eq!(admission.admit("b", &with(8081), None, &allocatable()), Ok(()));
        admission.release("b");
        admission.release("a");
        assert_eq!(admission.admit("b", &with(8080), None, &allocatable()), Ok(()));
    }

    #[test]
    fn a_closed_node_takes_nobody_until_it_opens() {
        let admission = Admission::default();
        admission.close(Some(("NodeShutdown", "Pod was rejected as the node is shutting down.".into())));
        for pod in [pod(json!({"containers": []})), pod(json!({"containers": [], "priority": 2_000_000_000}))] {
            assert_eq!(admission.admit("u", &pod, None, &allocatable()).expect_err("closed").reason, "NodeShutdown");
        }
        admission.close(None);
        assert_eq!(admission.admit("u", &pod(json!({"containers": []})), None, &allocatable()), Ok(()));
    }
}
