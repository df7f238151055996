//! What a container is given of several resources is taken from the same NUMA nodes where that can be, and a pod for which it cannot is refused if
//! the policy says so (upstream: `pkg/kubelet/cm/topologymanager`).
//!
//! Managers of single resources tell where they could take what a container asks for ([`hint`]) and take it where they are told. One pod is let in
//! at a time: what one is given must be gone before the next asks.

pub mod hint;
pub mod machine;
pub mod mask;

use crate::{config::KubeletConfiguration, container::identity, node::admission::Refusal, pod::restart::is_sidecar};
use anyhow::{Context, bail, ensure};
use futures::future::BoxFuture;
use hint::{Hint, Hints, Policy};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use machine::Numa;
use std::sync::Arc;

/// So many nodes can be tried in all combinations in no time (upstream: `defaultMaxAllowableNUMANodes`).
const MOST_NODES: usize = 8;

/// For whom nodes are chosen.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// One container.
    Container(&'a Container),
    /// All of the pod's together.
    Pod,
}

/// A manager of one kind of resources.
pub trait Provider: Send + Sync {
    /// Where it could take what is asked for.
    fn hints(&self, pod: &Pod, subject: Subject<'_>) -> Hints;
    /// Gives a container what it asks for, once; of the place's nodes as far as they have it.
    fn allocate<'a>(&'a self, pod: &'a Pod, container: &'a Container, place: Hint) -> BoxFuture<'a, Result<(), Refusal>>;
    /// Nothing of the pod runs any more.
    fn release(&self, uid: &str);
}

/// All containers that are given something, in the order in which they are.
pub fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// What a pod is refused with by a manager that cannot give what it asks for.
pub fn unexpected(error: &str) -> Refusal {
    Refusal { reason: "UnexpectedAdmissionError".into(), message: format!("Allocate failed due to {error}, which is unexpected") }
}

/// How nodes are chosen.
struct Choosing {
    policy: Policy,
    /// For pods as a whole.
    whole_pods: bool,
    /// Nodes that are near to each other go first (`prefer-closest-numa-nodes`).
    closest: bool,
    numa: Numa,
}

impl Choosing {
    /// By the configuration; `None` where it does not matter.
    fn of(config: &KubeletConfiguration, numa: Numa) -> anyhow::Result<Option<Self>> {
        let policy = match config.topology_manager_policy.as_str() {
            "" | "none" => return Ok(None),
            "best-effort" => Policy::BestEffort,
            "restricted" => Policy::Restricted,
            "single-numa-node" => Policy::SingleNode,
            unknown => bail!("unknown policy: {unknown:?}"),
        };
        let (mut closest, mut most) = (false, MOST_NODES);
        for (name, value) in &config.topology_manager_policy_options {
            match name.as_str() {
                "prefer-closest-numa-nodes" => closest = value.parse().with_context(|| format!("bad value for option {name:?}"))?,
                "max-allowable-numa-nodes" => {
                    most = value.parse().with_context(|| format!("unable to convert policy option to integer {name:?}"))?;
                    ensure!(most >= MOST_NODES, "the minimum value of {name:?} should not be less than {MOST_NODES}");
                }
                _ => bail!("unknown Topology Manager Policy option: {name:?}"),
            }
        }
        ensure!(numa.0.len() <= most, "unsupported on machines with more than {most} NUMA Nodes");
        Ok(Some(Choosing { policy, whole_pods: config.topology_manager_scope == "pod", closest, numa }))
    }

    fn choose(&self, told: &[Hints]) -> Result<Hint, Refusal> {
        let (best, admitted) = hint::merge(self.policy, &self.numa, self.closest, told);
        if !admitted {
            return Err(Refusal::new("TopologyAffinityError", "Resources cannot be allocated with Topology locality"));
        }
        Ok(best)
    }
}

/// The managers of one node, and how they work together. The default has none.
#[derive(Default)]
pub struct TopologyManager {
    choosing: Option<Choosing>,
    providers: Vec<Arc<dyn Provider>>,
    turn: tokio::sync::Mutex<()>,
}

impl TopologyManager {
    /// By the configuration.
    pub fn of(config: &KubeletConfiguration, numa: Numa, providers: Vec<Arc<dyn Provider>>) -> anyhow::Result<Self> {
        Ok(TopologyManager { choosing: Choosing::of(config, numa)?, providers, turn: tokio::sync::Mutex::default() })
    }

    /// Gives every container of a pod what it asks for, or refuses the pod and gives it nothing.
    pub async fn admit(&self, pod: &Pod) -> Result<(), Refusal> {
        let _turn = self.turn.lock().await;
        let admitted = self.allocate(pod).await;
        if admitted.is_err() {
            self.release(identity::uid(pod));
        }
        admitted
    }

    async fn allocate(&self, pod: &Pod) -> Result<(), Refusal> {
        let Some(spec) = &pod.spec else { return Ok(()) };
        let told = |subject| -> Vec<Hints> { self.providers.iter().map(|provider| provider.hints(pod, subject)).collect() };
        let for_all = match &self.choosing {
            Some(choosing) if choosing.whole_pods => choosing.choose(&told(Subject::Pod))?,
            _ => Hint::default(),
        };
        for container in containers(spec) {
            let place = match &self.choosing {
                Some(choosing) if !choosing.whole_pods => choosing.choose(&told(Subject::Container(container)))?,
                _ => for_all,
            };
            for provider in &self.providers {
                provider.allocate(pod, container, place).await?;
            }
        }
        Ok(())
    }

    /// Nothing of the pod runs any more.
    pub fn release(&self, uid: &str) {
        self.providers.iter().for_each(|provider| provider.release(uid));
    }
}

/// How much of something a pod needs at most at a time, where `of` tells how much each container needs: init containers run one after the other, beside
/// the sidecars that started before them.
pub fn peak(spec: &PodSpec, of: impl Fn(&Container) -> u64) -> u64 {
    let (mut sidecars, mut init) = (0, 0);
    for container in spec.init_containers.iter().flatten() {
        if is_sidecar(container) {
            sidecars += of(container);
        } else {
            init = init.max(sidecars + of(container));
        }
    }
    init.max(sidecars + spec.containers.iter().map(of).sum::<u64>())
}

/// The containers that are given something before this one, and whether each has ended by the time this one starts, so that what it had is free again.
pub fn before<'a>(spec: &'a PodSpec, container: &'a str) -> impl Iterator<Item = (&'a Container, bool)> {
    let inits = spec.init_containers.iter().flatten().map(|init| (init, !is_sidecar(init)));
    inits.chain(spec.containers.iter().map(|stays| (stays, false))).take_while(move |(other, _)| other.name != container)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use parking_lot::Mutex;
    use serde_json::{Value, json};

    /// Gives what it is asked for, and notes it. Its hints are the same for whoever asks.
    struct Noting(Option<Vec<Hint>>, Mutex<Vec<String>>);

    impl Provider for Noting {
        fn hints(&self, _: &Pod, subject: Subject<'_>) -> Hints {
            let whom = if let Subject::Container(container) = subject { &container.name } else { "pod" };
            self.1.lock().push(format!("? {whom}"));
            Hints::from([("r".to_owned(), self.0.clone())])
        }

        fn allocate<'a>(&'a self, _: &'a Pod, container: &'a Container, place: Hint) -> BoxFuture<'a, Result<(), Refusal>> {
            self.1.lock().push(format!("{} {}", container.name, place.affinity.map_or_else(|| "any".to_owned(), |mask| mask.to_string())));
            std::future::ready(Ok(())).boxed()
        }

        fn release(&self, _: &str) {
            self.1.lock().push("released".into());
        }
    }

    fn admit(config: Value, hints: Option<Vec<Hint>>) -> (Result<(), Refusal>, Vec<String>) {
        let noting = Arc::new(Noting(hints, Mutex::default()));
        let numa = Numa::made_up([(0, vec![10, 20]), (1, vec![20, 10])]);
        let config = serde_json::from_value(config).expect("a configuration");
        let manager = TopologyManager::of(&config, numa, vec![noting.clone()]).expect("a good configuration");
        let spec = json!({"initContainers": [{"name": "i"}], "containers": [{"name": "c"}]});
        let pod: Pod = serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": spec})).expect("a pod");
        let verdict = manager.admit(&pod).now_or_never().expect("nothing waits");
        let noted = noting.1.lock().clone();
        (verdict, noted)
    }

    #[test]
    fn containers_go_where_the_policy_says() {
        let one = Some(vec![Hint { affinity: Some([1].into_iter().collect()), preferred: true }]);
        for (config, want) in [
            (json!({}), vec!["i any", "c any"]),
            (json!({"topologyManagerPolicy": "restricted"}), vec!["? i", "i 1", "? c", "c 1"]),
            (json!({"topologyManagerPolicy": "restricted", "topologyManagerScope": "pod"}), vec!["? pod", "i 1", "c 1"]),
        ] {
            assert_eq!(admit(config.clone(), one.clone()), (Ok(()), want.into_iter().map(str::to_owned).collect()), "{config}");
        }
        let (verdict, noted) = admit(json!({"topologyManagerPolicy": "single-numa-node"}), Some(Vec::new()));
        let refusal = verdict.expect_err("there is no place");
        assert_eq!(refusal, Refusal::new("TopologyAffinityError", "Resources cannot be allocated with Topology locality"));
        assert_eq!(noted, ["? i", "released"]);
    }

    #[test]
    fn options_are_checked() {
        let numa = |nodes: u32| Numa::made_up((0..nodes).map(|node| (node, Vec::new())));
        for (options, nodes, want) in [
            (json!({"prefer-closest-numa-nodes": "true"}), 8, None),
            (json!({"max-allowable-numa-nodes": "9"}), 9, None),
            (json!({}), 9, Some("unsupported on machines with more than 8 NUMA Nodes")),
            (
                json!({"max-allowable-numa-nodes": "7"}),
                1,
                Some("the minimum value of \"max-allowable-numa-nodes\" should not be less than 8"),
            ),
            (json!({"x": "true"}), 1, Some("unknown Topology Manager Policy option: \"x\"")),
        ] {
            let config = json!({"topologyManagerPolicy": "best-effort", "topologyManagerPolicyOptions": options});
            let config = serde_json::from_value(config).expect("a configuration");
            let error = TopologyManager::of(&config, numa(nodes), Vec::new()).err().map(|error| error.to_string());
            assert_eq!(error.as_deref(), want);
        }
    }

    #[test]
    fn a_pod_needs_what_its_containers_need_at_a_time() {
        let spec = json!({"initContainers": [{"name": "a"}, {"name": "s", "restartPolicy": "Always"}, {"name": "bbbb"}],
            "containers": [{"name": "c"}, {"name": "d"}]});
        let spec: PodSpec = serde_json::from_value(spec).expect("a spec");
        assert_eq!(peak(&spec, |container| container.name.len() as u64), 5);
    }
}
