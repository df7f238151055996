//! CPUs of their own for containers of guaranteed pods that ask for whole ones (`cpuManagerPolicy: static`) (upstream: `pkg/kubelet/cm/cpumanager`).
//!
//! All other containers share what is left, and are moved off what is given away. Who has what is written down, so that the next
//! kubelet gives it to nobody else. CPUs of an init container go to the containers that come after it. Left out: the options that spread CPUs over memory
//! or cores or align them to sockets, hints of topology between CPUs, memory and devices, memory of their own, and the checksum in the file, which
//! upstream's kubelet wants to see there.

pub mod assign;
pub mod cpu_set;
pub mod topology;

use crate::{
    config::KubeletConfiguration,
    container::{
        identity,
        resources::{self, Qos},
    },
    node::{Node, admission::Refusal},
    pod::restart::is_sidecar,
};
use anyhow::{Context, bail, ensure};
use cpu_set::CpuSet;
use k8s_cri::v1::{ContainerState, LinuxContainerResources};
use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use topology::{Level, Topology};

/// The file below the kubelet's root directory, as upstream names it.
const STATE: &str = "cpu_manager_state";
const POLICY: &str = "static";

/// What the policy may be told (`cpuManagerPolicyOptions`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Options {
    /// Only whole cores (`full-pcpus-only`).
    cores: bool,
    /// What is reserved is nobody's, shared or not (`strict-cpu-reservation`).
    strict: bool,
    /// No cache is shared if that can be (`prefer-align-cpus-by-uncorecache`).
    caches: bool,
}

impl Options {
    fn of(config: &KubeletConfiguration) -> anyhow::Result<Self> {
        let mut options = Options::default();
        for (name, value) in &config.cpu_manager_policy_options {
            let option = match name.as_str() {
                "full-pcpus-only" => &mut options.cores,
                "strict-cpu-reservation" => &mut options.strict,
                "prefer-align-cpus-by-uncorecache" => &mut options.caches,
                "distribute-cpus-across-numa" | "distribute-cpus-across-cores" | "align-by-socket" => {
                    bail!("cpuManagerPolicyOptions: {name:?} is not supported")
                }
                _ => bail!("unknown cpu manager policy option: {name:?}"),
            };
            *option = value.parse().with_context(|| format!("bad value for option {name:?}"))?;
        }
        Ok(options)
    }
}

/// Who has which CPUs, as it is written down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    policy_name: String,
    /// What is shared.
    default_cpu_set: String,
    /// By pod and container.
    #[serde(default)]
    entries: BTreeMap<String, BTreeMap<String, String>>,
}

/// Who has which CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Given {
    shared: CpuSet,
    by_pod: BTreeMap<String, BTreeMap<String, CpuSet>>,
}

impl Given {
    fn state(&self) -> State {
        let containers = |pod: &BTreeMap<String, CpuSet>| pod.iter().map(|(name, set)| (name.clone(), cpu_set::shown(set))).collect();
        State {
            policy_name: POLICY.into(),
            default_cpu_set: cpu_set::shown(&self.shared),
            entries: self.by_pod.iter().map(|(uid, pod)| (uid.clone(), containers(pod))).collect(),
        }
    }

    fn of(state: &State) -> Result<Self, String> {
        let mut given = Given { shared: cpu_set::parse(&state.default_cpu_set)?, ..Default::default() };
        for (uid, containers) in &state.entries {
            for (name, set) in containers {
                given.by_pod.entry(uid.clone()).or_default().insert(name.clone(), cpu_set::parse(set)?);
            }
        }
        Ok(given)
    }

    /// The CPUs that somebody has for itself.
    fn exclusive(&self) -> CpuSet {
        self.by_pod.values().flat_map(BTreeMap::values).flatten().copied().collect()
    }
}

/// The CPUs that a container is to run on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpus {
    /// The set, empty for any.
    pub set: String,
    /// They are its own.
    pub exclusive: bool,
}

/// The CPUs of one node.
pub struct Pinning {
    topology: Topology,
    /// What nobody gets for itself.
    reserved: CpuSet,
    options: Options,
    path: PathBuf,
    given: Mutex<Given>,
    /// What is shared has changed.
    changed: Notify,
}

impl Pinning {
    /// By the configuration, with what the last kubelet wrote down below `root`; `None` where the policy is `none`. `reserved`: how many thousandths of
    /// a CPU are kept from pods.
    pub fn of(config: &KubeletConfiguration, reserved: i64, topology: Topology, root: &Path) -> anyhow::Result<Option<Arc<Self>>> {
        let path = root.join(STATE);
        match config.cpu_manager_policy.as_str() {
            "" | "none" => return Ok(None),
            POLICY => {}
            unknown => bail!("unknown policy: {unknown:?}"),
        }
        let options = Options::of(config)?;
        let reserved = match config.reserved_system_cpus.as_str() {
            "" => {
                ensure!(
                    reserved > 0,
                    "[cpumanager] the static policy requires systemreserved.cpu + kubereserved.cpu to be greater than zero"
                );
                let count = usize::try_from(reserved.div_euclid(1000) + i64::from(reserved.rem_euclid(1000) > 0))?;
                assign::take(&topology, &topology.cpus(), count, options.caches)
            }
            named => cpu_set::parse(named),
        };
        let reserved = reserved.map_err(anyhow::Error::msg).context("[cpumanager] unable to reserve the required amount of CPUs")?;
        let fresh = Given { shared: if options.strict { &topology.cpus() - &reserved } else { topology.cpus() }, ..Default::default() };
        let pinning = Pinning { topology, reserved, options, path, given: Mutex::new(fresh), changed: Notify::new() };
        if let Some(given) = pinning.restore().with_context(|| {
            let path = pinning.path.display();
            format!("could not restore state from checkpoint, please drain this node and delete the CPU manager checkpoint file {path} before restarting Kubelet")
        })? {
            *pinning.given.lock() = given;
        }
        pinning.save(&pinning.given.lock()).context("writing the CPU manager's state")?;
        Ok(Some(Arc::new(pinning)))
    }

    /// What was written down, if it fits the machine and the policy.
    fn restore(&self) -> anyhow::Result<Option<Given>> {
        let text = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let state: State = serde_json::from_slice(&text)?;
        ensure!(state.policy_name == POLICY, "configured policy {POLICY:?} differs from state checkpoint policy {:?}", state.policy_name);
        let given = Given::of(&state).map_err(anyhow::Error::msg)?;
        let exclusive = given.exclusive();
        ensure!(
            given.shared.is_disjoint(&exclusive),
            "CPUs {:?} are both shared and given away",
            cpu_set::shown(&(&given.shared & &exclusive))
        );
        let known = &given.shared | &exclusive;
        let there = if self.options.strict { &self.topology.cpus() - &self.reserved } else { self.topology.cpus() };
        ensure!(
            known == there,
            "current set of available CPUs {:?} doesn't match with CPUs in state {:?}",
            cpu_set::shown(&there),
            cpu_set::shown(&known)
        );
        Ok(Some(given))
    }

    fn save(&self, given: &Given) -> io::Result<()> {
        let fresh = self.path.with_extension("new");
        fs::write(&fresh, serde_json::to_vec(&given.state())?)?;
        fs::rename(fresh, &self.path)
    }

    /// Gives every container of a pod the CPUs that are to be its own, or refuses the pod and gives it none.
    pub fn allocate(&self, pod: &Pod) -> Result<(), Refusal> {
        let Some(spec) = &pod.spec else { return Ok(()) };
        let uid = identity::uid(pod);
        let mut given = self.given.lock();
        let mut next = given.clone();
        // What ended init containers had, which who comes next takes first.
        let mut reusable = CpuSet::new();
        for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
            let count = wanted(pod, container);
            if count == 0 {
                continue;
            }
            let had = next.by_pod.get(uid).and_then(|pod| pod.get(&container.name)).cloned();
            let cpus = match had {
                Some(cpus) => cpus,
                None => self.choose(&next, &reusable, count)?,
            };
            next.shared = &next.shared - &cpus;
            let passes_on = spec.init_containers.iter().flatten().any(|c| c.name == container.name) && !is_sidecar(container);
            reusable = if passes_on { &reusable | &cpus } else { &reusable - &cpus };
            next.by_pod.entry(uid.to_owned()).or_default().insert(container.name.clone(), cpus);
        }
        if *given != next {
            self.save(&next).map_err(|error| unexpected(&error.to_string()))?;
            *given = next;
            self.changed.notify_one();
        }
        Ok(())
    }

    fn choose(&self, given: &Given, reusable: &CpuSet, count: usize) -> Result<CpuSet, Refusal> {
        let threads = self.topology.threads();
        if self.options.cores && !count.is_multiple_of(threads) {
            let message = format!("SMT Alignment Error: requested {count} cpus not multiple cpus per core = {threads}");
            return Err(Refusal { reason: "SMTAlignmentError".into(), message });
        }
        let mut available = &(&given.shared - &self.reserved) | reusable;
        if self.options.cores {
            // What is reserved of a core is not available, and so the rest of the core is not either.
            let all = self.topology.units(&self.topology.cpus(), Level::Core);
            available.retain(|cpu| all[&self.topology.unit(*cpu, Level::Core)].is_disjoint(&self.reserved));
        }
        let kept: CpuSet = assign::take(&self.topology, &(reusable & &available), count.min(reusable.len()), self.options.caches)
            .map_err(|error| unexpected(&error))?;
        let more = assign::take(&self.topology, &(&available - &kept), count - kept.len(), self.options.caches);
        Ok(&kept | &more.map_err(|error| unexpected(&error))?)
    }

    /// The CPUs that a container is to run on: its own, or what all share.
    pub fn cpus(&self, uid: &str, container: &str) -> Cpus {
        let given = self.given.lock();
        let own = given.by_pod.get(uid).and_then(|pod| pod.get(container));
        Cpus { set: cpu_set::shown(own.unwrap_or(&given.shared)), exclusive: own.is_some() }
    }

    /// The CPUs that are a container's own.
    pub fn own(&self, uid: &str, container: &str) -> CpuSet {
        let given = self.given.lock();
        given.by_pod.get(uid).and_then(|pod| pod.get(container)).cloned().unwrap_or_default()
    }

    /// The CPUs that containers may have for themselves, given away or not.
    pub fn allocatable(&self) -> CpuSet {
        &self.topology.cpus() - &self.reserved
    }

    /// Whether a container of the pod has CPUs of its own.
    pub fn holds(&self, uid: &str) -> bool {
        self.given.lock().by_pod.contains_key(uid)
    }

    /// Nothing of the pod runs any more.
    pub fn release(&self, uid: &str) {
        let mut given = self.given.lock();
        let Some(pod) = given.by_pod.remove(uid) else { return };
        let still = given.exclusive();
        let freed: CpuSet = pod.into_values().flatten().filter(|cpu| !still.contains(cpu)).collect();
        given.shared.extend(freed);
        if let Err(error) = self.save(&given) {
            tracing::error!(%error, "who has which CPUs could not be written down");
        }
        self.changed.notify_one();
    }
}

/// How many CPUs are to be a container's own.
fn wanted(pod: &Pod, container: &Container) -> usize {
    let milli = resources::request(container, "cpu");
    let whole = resources::qos(pod) == Qos::Guaranteed && milli % 1000 == 0;
    usize::try_from(milli / 1000).ok().filter(|_| whole).unwrap_or(0)
}

fn unexpected(error: &str) -> Refusal {
    Refusal { reason: "UnexpectedAdmissionError".into(), message: format!("Allocate failed due to {error}, which is unexpected") }
}

/// Keeps all containers that have no CPUs of their own on those that are shared, until told to stop.
pub async fn keep(node: Arc<Node>, stop: CancellationToken) {
    let Some(pinning) = node.pinning.clone() else { return };
    while stop.run_until_cancelled(pinning.changed.notified()).await.is_some() {
        let running = match node.runtime.list_containers(&[]).await {
            Ok(containers) => containers.into_iter().filter(|c| c.state == ContainerState::ContainerRunning as i32),
            Err(error) => {
                tracing::warn!(%error, "containers could not be kept off the CPUs of others");
                continue;
            }
        };
        for container in running {
            let label = |key: &str| container.labels.get(key).map(String::as_str).unwrap_or_default();
            let cpus = pinning.cpus(label(identity::POD_UID), label(identity::CONTAINER_NAME));
            if cpus.exclusive {
                continue;
            }
            let limits = LinuxContainerResources { cpuset_cpus: cpus.set, ..Default::default() };
            if let Err(error) = node.runtime.update_resources(&container.id, limits).await {
                tracing::warn!(container = %container.id, %error, "a container could not be kept off the CPUs of others");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use topology::Place;

    /// Four cores of two threads: CPU n and n + 4 are one.
    fn machine() -> Topology {
        Topology((0..8).map(|cpu| (cpu, Place { core: cpu % 4, ..Default::default() })).collect())
    }

    fn pinning(root: &Path, options: Value) -> anyhow::Result<Arc<Pinning>> {
        let config =
            serde_json::from_value(json!({"cpuManagerPolicy": "static", "cpuManagerPolicyOptions": options})).expect("a configuration");
        Pinning::of(&config, 500, machine(), root).map(|pinning| pinning.expect("the policy is static"))
    }

    fn pod(uid: &str, init: &[(&str, &str)], containers: &[(&str, &str)]) -> Pod {
        let list = |all: &[(&str, &str)]| -> Vec<Value> {
            let one = |(name, cpu): &(&str, &str)| json!({"name": name, "resources": {"limits": {"cpu": cpu, "memory": "1Mi"}}});
            all.iter().map(one).collect()
        };
        let spec = json!({"initContainers": list(init), "containers": list(containers)});
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": uid}, "spec": spec})).expect("a pod")
    }

    fn shown(pinning: &Pinning, uid: &str, container: &str) -> String {
        pinning.cpus(uid, container).set
    }

    /// What a container that nothing was given to runs on.
    fn shared(pinning: &Pinning) -> String {
        shown(pinning, "nobody", "c")
    }

    #[test]
    fn whole_cpus_of_guaranteed_pods_are_their_own() {
        let root = tempfile::tempdir().expect("a directory");
        let pinning = pinning(root.path(), json!({})).expect("good options");
        assert_eq!(shared(&pinning), "0-7");
        pinning.allocate(&pod("a", &[], &[("c", "2"), ("d", "1500m")])).expect("room");
        assert_eq!((shown(&pinning, "a", "c"), shown(&pinning, "a", "d")), ("1,5".into(), "0,2-4,6-7".into()));
        assert_eq!([pinning.own("a", "c"), pinning.own("a", "d")].map(|set| cpu_set::shown(&set)), ["1,5", ""]);
        assert_eq!(cpu_set::shown(&pinning.allocatable()), "1-7");
        let other = pod("b", &[], &[("c", "6")]);
        let refusal = pinning.allocate(&other).expect_err("what is reserved is nobody's own");
        let want = "Allocate failed due to not enough cpus available to satisfy request: requested=6, available=5, which is unexpected";
        assert_eq!((refusal.reason.as_str(), refusal.message.as_str()), ("UnexpectedAdmissionError", want));
        pinning.release("a");
        pinning.allocate(&other).expect("room again");
        assert_eq!(shared(&pinning).len(), 3, "two are left, one of them reserved");
    }

    #[test]
    fn what_init_containers_had_goes_on_to_who_comes_next() {
        let root = tempfile::tempdir().expect("a directory");
        let pinning = pinning(root.path(), json!({})).expect("good options");
        pinning.allocate(&pod("a", &[("i", "4")], &[("c", "2"), ("d", "2")])).expect("room");
        let [init, c, d] = ["i", "c", "d"].map(|name| cpu_set::parse(&shown(&pinning, "a", name)).expect("a set"));
        assert!(c.is_disjoint(&d) && init == &c | &d, "{init:?} {c:?} {d:?}");
        pinning.release("a");
        assert_eq!(shared(&pinning), "0-7");
    }

    #[test]
    fn the_next_kubelet_knows_who_has_what() {
        let root = tempfile::tempdir().expect("a directory");
        let first = pinning(root.path(), json!({})).expect("good options");
        first.allocate(&pod("a", &[], &[("c", "2")])).expect("room");
        let next = pinning(root.path(), json!({})).expect("a good state");
        assert_eq!((shown(&next, "a", "c"), shared(&next)), ("1,5".into(), "0,2-4,6-7".into()));
        let written: Value = serde_json::from_slice(&fs::read(root.path().join(STATE)).expect("written")).expect("JSON");
        assert_eq!(written, json!({"policyName": "static", "defaultCpuSet": "0,2-4,6-7", "entries": {"a": {"c": "1,5"}}}));
        fs::write(root.path().join(STATE), r#"{"policyName": "static", "defaultCpuSet": "0-3", "entries": {}}"#).expect("written");
        let error = pinning(root.path(), json!({})).err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(error.contains("doesn't match with CPUs in state \"0-3\""), "{error}");
    }

    #[test]
    fn options_change_what_is_given() {
        let root = tempfile::tempdir().expect("a directory");
        let strict = pinning(root.path(), json!({"strict-cpu-reservation": "true", "full-pcpus-only": "true"})).expect("good options");
        assert_eq!(shared(&strict), "1-7");
        let refusal = strict.allocate(&pod("a", &[], &[("c", "3")])).expect_err("half a core");
        let want = "SMT Alignment Error: requested 3 cpus not multiple cpus per core = 2";
        assert_eq!((refusal.reason.as_str(), refusal.message.as_str()), ("SMTAlignmentError", want));
        assert!(strict.allocate(&pod("a", &[], &[("c", "8")])).is_err(), "the core that is reserved in part is nobody's own");
        strict.allocate(&pod("a", &[], &[("c", "6")])).expect("room");
        assert_eq!((shown(&strict, "a", "c"), shared(&strict)), ("1-3,5-7".into(), "4".into()));
        for options in [json!({"align-by-socket": "true"}), json!({"x": "true"}), json!({"full-pcpus-only": "maybe"})] {
            assert!(pinning(root.path(), options.clone()).is_err(), "{options}");
        }
    }
}
