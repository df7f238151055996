//! CPUs of their own for containers of guaranteed pods that ask for whole ones (`cpuManagerPolicy: static`) (upstream: `pkg/kubelet/cm/cpumanager`).
//!
//! All other containers share what is left, and are moved off what is given away. Who has what is written down, so that the next
//! kubelet gives it to nobody else. CPUs of an init container go to the containers that come after it. Left out: CPUs of pods as a whole, which
//! upstream has behind a feature gate that is off.

pub mod assign;
pub mod cpu_set;
pub mod distribute;
pub mod options;
pub mod state;
pub mod topology;

use crate::{
    config::KubeletConfiguration,
    container::{
        identity,
        resources::{self, Qos},
    },
    node::{Node, admission::Refusal},
    topology_manager::{
        self, Provider, Subject,
        hint::{self, Hint, Hints},
        mask::Mask,
        unexpected,
    },
};
use anyhow::{Context, bail, ensure};
use cpu_set::CpuSet;
use futures::{FutureExt, future::BoxFuture};
use k8s_cri::v1::{ContainerState, LinuxContainerResources};
use k8s_openapi::api::core::v1::{Container, Pod};
use options::Options;
use parking_lot::Mutex;
use state::Given;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use topology::{Level, Topology};

const POLICY: &str = "static";

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
    /// Below which it is written down.
    root: PathBuf,
    given: Mutex<Given>,
    /// What is shared has changed.
    changed: Notify,
}

impl Pinning {
    /// By the configuration, with what the last kubelet wrote down below `root`; `None` where the policy is `none`. `reserved`: how many thousandths of
    /// a CPU are kept from pods.
    pub fn of(config: &KubeletConfiguration, reserved: i64, topology: Topology, root: &Path) -> anyhow::Result<Option<Arc<Self>>> {
        match config.cpu_manager_policy.as_str() {
            "" | "none" => {
                Given::restore(root, "none")?;
                Given::default().save(root, "none").context("writing the CPU manager's state")?;
                return Ok(None);
            }
            POLICY => {}
            unknown => bail!("unknown policy: {unknown:?}"),
        }
        let options = Options::of(config, &topology)?;
        let reserved = match config.reserved_system_cpus.as_str() {
            "" => {
                ensure!(
                    reserved > 0,
                    "[cpumanager] the static policy requires systemreserved.cpu + kubereserved.cpu to be greater than zero"
                );
                let count = usize::try_from(reserved.div_euclid(1000) + i64::from(reserved.rem_euclid(1000) > 0))?;
                assign::take(&topology, &topology.cpus(), count, options.way)
            }
            named => cpu_set::parse(named),
        };
        let reserved = reserved.map_err(anyhow::Error::msg).context("[cpumanager] unable to reserve the required amount of CPUs")?;
        let offline = &reserved - &topology.cpus();
        ensure!(offline.is_empty(), "reserved CPUs {:?} are not online", cpu_set::shown(&offline));
        let known = if options.strict { &topology.cpus() - &reserved } else { topology.cpus() };
        let given = Given::restore(root, POLICY)?.unwrap_or_else(|| Given { shared: known.clone(), ..Default::default() });
        fits(&given, &known)?;
        given.save(root, POLICY).context("writing the CPU manager's state")?;
        let (given, root, changed) = (Mutex::new(given), root.to_owned(), Notify::new());
        Ok(Some(Arc::new(Pinning { topology, reserved, options, root, given, changed })))
    }

    /// Gives a container the CPUs that are to be its own, of these NUMA nodes first.
    fn allocate(&self, pod: &Pod, container: &Container, affinity: Option<Mask>) -> Result<(), Refusal> {
        let (uid, count) = (identity::uid(pod), wanted(pod, container));
        let mut given = self.given.lock();
        if count == 0 || given.own(uid, &container.name).is_some() {
            return Ok(());
        }
        let cpus = self.choose(&given, &reusable(&given, pod, &container.name), count, affinity)?;
        let mut next = given.clone();
        next.shared = &next.shared - &cpus;
        next.by_pod.entry(uid.to_owned()).or_default().insert(container.name.clone(), cpus);
        next.save(&self.root, POLICY).map_err(|error| unexpected(&error.to_string()))?;
        *given = next;
        self.changed.notify_one();
        Ok(())
    }

    fn choose(&self, given: &Given, reusable: &CpuSet, count: usize, affinity: Option<Mask>) -> Result<CpuSet, Refusal> {
        let threads = self.topology.threads();
        let misaligned = |why: String| Refusal::new("SMTAlignmentError", format!("SMT Alignment Error: {why}"));
        if self.options.cores && !count.is_multiple_of(threads) {
            return Err(misaligned(format!("requested {count} cpus not multiple cpus per core = {threads}")));
        }
        let available = self.available(given, reusable);
        if self.options.cores && count > available.len() {
            let there = available.len();
            return Err(misaligned(format!(
                "not enough free physical CPUs: available physical CPUs = {there}, requested CPUs = {count}, CPUs per core = {threads}"
            )));
        }
        let take = |of: &CpuSet, count: usize| self.take(of, count).map_err(|error| unexpected(&error));
        let aligned = affinity.map(|mask| self.aligned(&available, mask)).unwrap_or_default();
        let near = take(&aligned, count.min(aligned.len()))?;
        let more = take(&(&available - &near), count - near.len())?;
        Ok(&near | &more)
    }

    /// The CPUs that can be given to who may also take what is reusable.
    fn available(&self, given: &Given, reusable: &CpuSet) -> CpuSet {
        let mut available = &(&given.shared - &self.reserved) | reusable;
        if self.options.cores {
            // What is reserved of a core is not available, and so the rest of the core is not either.
            let all = self.topology.units(&self.topology.cpus(), Level::Core);
            available.retain(|cpu| all[&self.topology.unit(*cpu, Level::Core)].is_disjoint(&self.reserved));
        }
        available
    }

    fn take(&self, of: &CpuSet, count: usize) -> Result<CpuSet, String> {
        let Options { cores, distribute, way, .. } = self.options;
        if distribute {
            return distribute::distribute(&self.topology, of, count, if cores { self.topology.threads() } else { 1 }, way);
        }
        assign::take(&self.topology, of, count, way)
    }

    /// Those of the CPUs that are of these nodes, or of their sockets where those are as good.
    fn aligned(&self, cpus: &CpuSet, mask: Mask) -> CpuSet {
        let near = |cpu: &u32| mask.has(self.topology.unit(*cpu, Level::Numa));
        if !self.options.sockets {
            return cpus.iter().copied().filter(near).collect();
        }
        let sockets = self.topology.units(&self.topology.cpus().into_iter().filter(near).collect(), Level::Socket);
        cpus.iter().copied().filter(|cpu| sockets.contains_key(&self.topology.unit(*cpu, Level::Socket))).collect()
    }

    /// Where so many of the CPUs can be taken from, together with all of the reusable ones.
    fn places(&self, available: &CpuSet, reusable: &CpuSet, count: usize) -> Vec<Hint> {
        let nodes: Vec<u32> = self.topology.units(&self.topology.cpus(), Level::Numa).into_keys().collect();
        let of = |cpus: &CpuSet, mask: Mask| cpus.iter().filter(|cpu| mask.has(self.topology.unit(**cpu, Level::Numa))).count();
        let all = self.topology.cpus();
        let could = |mask: Mask| of(&all, mask) >= count;
        let mut found =
            hint::hints(&nodes, could, |mask| of(reusable, mask) == reusable.len() && of(&(available | reusable), mask) >= count);
        if self.options.sockets {
            let fewest = Mask::all_of(&nodes).into_iter().find(|mask| could(*mask)).map_or(nodes.len(), Mask::count);
            for hint in &mut found {
                hint.preferred |= hint.affinity.is_some_and(|mask| self.is_socket_aligned(mask, fewest));
            }
        }
        found
    }

    /// Whether the nodes are of no more sockets than so many nodes have to be.
    fn is_socket_aligned(&self, mask: Mask, nodes: usize) -> bool {
        let per_socket = self.topology.count(Level::Numa) / self.topology.count(Level::Socket).max(1);
        let near = self.topology.cpus().into_iter().filter(|cpu| mask.has(self.topology.unit(*cpu, Level::Numa))).collect();
        per_socket > 0 && self.topology.units(&near, Level::Socket).len() == nodes.div_ceil(per_socket)
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
}

impl Provider for Pinning {
    fn hints(&self, pod: &Pod, subject: Subject<'_>) -> Hints {
        let (given, uid) = (self.given.lock(), identity::uid(pod));
        let Some(spec) = &pod.spec else { return Hints::new() };
        let (count, of): (usize, Vec<&Container>) = match subject {
            Subject::Container(container) => (wanted(pod, container), vec![container]),
            Subject::Pod => {
                let peak = topology_manager::peak(spec, |container| wanted(pod, container) as u64);
                (usize::try_from(peak).unwrap_or(usize::MAX), topology_manager::containers(spec).collect())
            }
        };
        if count == 0 {
            return Hints::new();
        }
        let own: Vec<_> = of.iter().filter_map(|container| Some((given.own(uid, &container.name)?, wanted(pod, container)))).collect();
        let assigned: CpuSet = own.iter().flat_map(|(cpus, _)| cpus.iter().copied()).collect();
        let places = if own.iter().any(|(cpus, count)| cpus.len() != *count) {
            Vec::new()
        } else if assigned.len() == count {
            self.places(&assigned, &CpuSet::new(), count)
        } else {
            let reusable = match subject {
                Subject::Container(container) => reusable(&given, pod, &container.name),
                Subject::Pod => assigned,
            };
            self.places(&self.available(&given, &CpuSet::new()), &reusable, count)
        };
        Hints::from([("cpu".to_owned(), Some(places))])
    }

    fn allocate<'a>(&'a self, pod: &'a Pod, container: &'a Container, place: Hint) -> BoxFuture<'a, Result<(), Refusal>> {
        std::future::ready(Pinning::allocate(self, pod, container, place.affinity)).boxed()
    }

    fn release(&self, uid: &str) {
        let mut given = self.given.lock();
        let Some(pod) = given.by_pod.remove(uid) else { return };
        let still = given.exclusive();
        let freed: CpuSet = pod.into_values().flatten().filter(|cpu| !still.contains(cpu)).collect();
        given.shared.extend(freed);
        if let Err(error) = given.save(&self.root, POLICY) {
            tracing::error!(%error, "who has which CPUs could not be written down");
        }
        self.changed.notify_one();
    }
}

/// Whether the CPUs that somebody has and those that are shared are all that there are, each once.
fn fits(given: &Given, known: &CpuSet) -> anyhow::Result<()> {
    let (exclusive, shown) = (given.exclusive(), cpu_set::shown);
    let twice = &given.shared & &exclusive;
    ensure!(twice.is_empty(), "CPUs {:?} are both shared and given away", shown(&twice));
    let written = &given.shared | &exclusive;
    ensure!(written == *known, "current set of available CPUs {:?} doesn't match with CPUs in state {:?}", shown(known), shown(&written));
    Ok(())
}

/// What init containers of the pod had that have ended by the time this one starts, and that nobody has taken over.
fn reusable(given: &Given, pod: &Pod, container: &str) -> CpuSet {
    let mut out = CpuSet::new();
    for (other, ended) in pod.spec.iter().flat_map(|spec| topology_manager::before(spec, container)) {
        if let Some(own) = given.own(identity::uid(pod), &other.name) {
            out = if ended { &out | own } else { &out - own };
        }
    }
    out
}

/// How many CPUs are to be a container's own. A pod that is limited as a whole has none.
fn wanted(pod: &Pod, container: &Container) -> usize {
    let milli = resources::request(container, "cpu");
    let own = resources::qos(pod) == Qos::Guaranteed && !resources::is_limited_as_a_whole(pod) && milli % 1000 == 0;
    usize::try_from(milli / 1000).ok().filter(|_| own).unwrap_or(0)
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
    use std::fs;
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

    /// Gives the pod what it asks for, or nothing.
    fn allocate(pinning: &Pinning, pod: &Pod) -> Result<(), Refusal> {
        let mut all = topology_manager::containers(pod.spec.as_ref().expect("a spec"));
        let given = all.try_for_each(|container| pinning.allocate(pod, container, None));
        if given.is_err() {
            pinning.release(identity::uid(pod));
        }
        given
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
        allocate(&pinning, &pod("a", &[], &[("c", "2"), ("d", "1500m")])).expect("room");
        assert_eq!((shown(&pinning, "a", "c"), shown(&pinning, "a", "d")), ("1,5".into(), "0,2-4,6-7".into()));
        assert_eq!([pinning.own("a", "c"), pinning.own("a", "d")].map(|set| cpu_set::shown(&set)), ["1,5", ""]);
        assert_eq!(cpu_set::shown(&pinning.allocatable()), "1-7");
        let other = pod("b", &[], &[("c", "6")]);
        let refusal = allocate(&pinning, &other).expect_err("what is reserved is nobody's own");
        let want = "Allocate failed due to not enough cpus available to satisfy request: requested=6, available=5, which is unexpected";
        assert_eq!((refusal.reason.as_str(), refusal.message.as_str()), ("UnexpectedAdmissionError", want));
        pinning.release("a");
        allocate(&pinning, &other).expect("room again");
        assert_eq!(shared(&pinning).len(), 3, "two are left, one of them reserved");
    }

    #[test]
    fn what_init_containers_had_goes_on_to_who_comes_next() {
        let root = tempfile::tempdir().expect("a directory");
        let pinning = pinning(root.path(), json!({})).expect("good options");
        allocate(&pinning, &pod("a", &[("i", "4")], &[("c", "2"), ("d", "2")])).expect("room");
        let [init, c, d] = ["i", "c", "d"].map(|name| cpu_set::parse(&shown(&pinning, "a", name)).expect("a set"));
        assert!(c.is_disjoint(&d) && init == &c | &d, "{init:?} {c:?} {d:?}");
        pinning.release("a");
        assert_eq!(shared(&pinning), "0-7");
    }

    #[test]
    fn the_next_kubelet_knows_who_has_what() {
        let root = tempfile::tempdir().expect("a directory");
        let first = pinning(root.path(), json!({})).expect("good options");
        allocate(&first, &pod("a", &[], &[("c", "2")])).expect("room");
        let next = pinning(root.path(), json!({})).expect("a good state");
        assert_eq!((shown(&next, "a", "c"), shared(&next)), ("1,5".into(), "0,2-4,6-7".into()));
        fs::write(root.path().join(state::FILE), r#"{"policyName": "static", "defaultCpuSet": "0-3", "entries": {}}"#).expect("written");
        let error = pinning(root.path(), json!({})).err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(error.contains("doesn't match with CPUs in state \"0-3\""), "{error}");
    }

    #[test]
    fn options_change_what_is_given() {
        let root = tempfile::tempdir().expect("a directory");
        let strict = pinning(root.path(), json!({"strict-cpu-reservation": "true", "full-pcpus-only": "true"})).expect("good options");
        assert_eq!(shared(&strict), "1-7");
        let refusal = allocate(&strict, &pod("a", &[], &[("c", "3")])).expect_err("half a core");
        let want = "SMT Alignment Error: requested 3 cpus not multiple cpus per core = 2";
        assert_eq!((refusal.reason.as_str(), refusal.message.as_str()), ("SMTAlignmentError", want));
        let refusal = allocate(&strict, &pod("a", &[], &[("c", "8")])).expect_err("the core that is reserved in part is nobody's own");
        let want = "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = 6, requested CPUs = 8, CPUs per core = 2";
        assert_eq!((refusal.reason.as_str(), refusal.message.as_str()), ("SMTAlignmentError", want));
        allocate(&strict, &pod("a", &[], &[("c", "6")])).expect("room");
        assert_eq!((shown(&strict, "a", "c"), shared(&strict)), ("1-3,5-7".into(), "4".into()));
    }

    /// Two sockets of two NUMA nodes each, each with two cores of one thread.
    fn large() -> Topology {
        Topology((0..8).map(|cpu| (cpu, Place { numa: cpu / 2, socket: cpu / 4, cache: cpu / 2, core: cpu })).collect())
    }

    #[test]
    fn cpus_are_taken_from_the_nodes_that_were_chosen() {
        let root = tempfile::tempdir().expect("a directory");
        let config = json!({"cpuManagerPolicy": "static", "reservedSystemCPUs": "0"});
        let config = serde_json::from_value(config).expect("a configuration");
        let pinning = Pinning::of(&config, 0, large(), root.path()).expect("a good configuration").expect("the policy is static");
        let hints = |pod: &Pod, container: usize| -> Vec<(String, bool)> {
            let subject = Subject::Container(&pod.spec.as_ref().expect("a spec").containers[container]);
            let list = pinning.hints(pod, subject).remove("cpu").flatten().expect("hints");
            list.iter().map(|hint| (hint.affinity.expect("nodes").to_string(), hint.preferred)).collect()
        };
        let two = pod("a", &[], &[("c", "2"), ("d", "500m")]);
        let single: Vec<_> = hints(&two, 0).into_iter().filter(|(_, preferred)| *preferred).collect();
        assert_eq!(single, [("1".into(), true), ("2".into(), true), ("3".into(), true)], "one of node 0's is reserved");
        assert!(pinning.hints(&two, Subject::Container(&two.spec.as_ref().expect("a spec").containers[1])).is_empty(), "it shares");
        let container = &two.spec.as_ref().expect("a spec").containers[0];
        pinning.allocate(&two, container, Some([2].into_iter().collect())).expect("room");
        assert_eq!(shown(&pinning, "a", "c"), "4-5");
        assert_eq!(hints(&two, 0)[0], ("2".into(), true), "what it has is where it stays");
        let more = pod("b", &[], &[("c", "3")]);
        pinning.allocate(&more, &more.spec.as_ref().expect("a spec").containers[0], Some([3].into_iter().collect())).expect("room");
        assert_eq!(shown(&pinning, "b", "c"), "1,6-7", "what the node lacks comes from elsewhere");
    }

    #[test]
    fn a_socket_is_as_good_as_a_node_if_that_is_wanted() {
        let root = tempfile::tempdir().expect("a directory");
        let config = json!({"cpuManagerPolicy": "static", "reservedSystemCPUs": "0", "cpuManagerPolicyOptions": {"align-by-socket": "true"},
            "featureGates": {"CPUManagerPolicyAlphaOptions": true}});
        let config = serde_json::from_value(config).expect("a configuration");
        let pinning = Pinning::of(&config, 0, large(), root.path()).expect("a good configuration").expect("the policy is static");
        let two = pod("a", &[], &[("c", "2")]);
        let list = pinning.hints(&two, Subject::Pod).remove("cpu").flatten().expect("hints");
        let preferred: Vec<_> = list.iter().filter(|hint| hint.preferred).map(|hint| hint.affinity.expect("nodes").to_string()).collect();
        assert_eq!(preferred, ["1", "2", "3", "0,1", "2,3"]);
    }
}
