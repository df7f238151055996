//! Requests and limits as the kernel's numbers: CPU shares and quota, memory limits, the OOM score, and the pod's quality of service
//! (upstream: `pkg/kubelet/cm/helpers_linux.go`, `pkg/kubelet/qos/policy.go`, `pkg/apis/core/v1/helper/qos`).

use super::swap::Swap;
use k8s_cri::v1::LinuxContainerResources;
use k8s_openapi::{
    api::core::v1::{Container, Pod, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};
use std::collections::BTreeMap;

/// The period CPU limits are enforced over, in microseconds.
pub const CPU_PERIOD: i64 = 100_000;
const MIN_SHARES: i64 = 2;
const MIN_QUOTA: i64 = 1_000;

/// Amounts by resource name, as objects hold them.
pub type Amounts = BTreeMap<String, Quantity>;

/// The quantity in thousandths, rounded up; `None` if it is none.
pub fn milli(quantity: &Quantity) -> Option<i64> {
    api::quantity::Quantity::of(quantity).ok().map(|q| q.milli_value())
}

/// The quantity in whole units, rounded up.
pub fn whole(quantity: &Quantity) -> Option<i64> {
    api::quantity::Quantity::of(quantity).ok().map(|q| q.value())
}

/// Quality of service: who is killed first when memory runs out, and whose cgroup a pod is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names are the API's.
pub enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    /// As `status.qosClass` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Qos::Guaranteed => "Guaranteed",
            Qos::Burstable => "Burstable",
            Qos::BestEffort => "BestEffort",
        }
    }
}

fn all_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.containers.iter().chain(spec.init_containers.iter().flatten())
}

fn amount(of: Option<&Amounts>, name: &str) -> i64 {
    of.and_then(|m| m.get(name)).and_then(milli).unwrap_or(0)
}

/// Whether the pod itself asks for something, besides its containers.
pub fn is_limited_as_a_whole(pod: &Pod) -> bool {
    let own = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    own.is_some_and(|r| r.requests.is_some() || r.limits.is_some())
}

/// The pod's class: Guaranteed if every container limits CPU and memory and requests as much, BestEffort if none asks for anything.
pub fn qos(pod: &Pod) -> Qos {
    let Some(spec) = &pod.spec else { return Qos::BestEffort };
    let sets: Vec<ResourceRequirements> = match &spec.resources {
        Some(r) if is_limited_as_a_whole(pod) => vec![r.clone()],
        _ => all_containers(spec).map(|c| c.resources.clone().unwrap_or_default()).collect(),
    };
    let (mut any, mut guaranteed) = (false, true);
    for set in &sets {
        for name in ["cpu", "memory"] {
            let limit = amount(set.limits.as_ref(), name);
            let request = match amount(set.requests.as_ref(), name) {
                0 => limit,
                request => request,
            };
            any |= limit > 0 || request > 0;
            guaranteed &= limit > 0 && request == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// What one container asks for of a resource, in thousandths: its request, or its limit where only that is set.
pub fn request(container: &Container, name: &str) -> i64 {
    let resources = container.resources.as_ref();
    match amount(resources.and_then(|r| r.requests.as_ref()), name) {
        0 => amount(resources.and_then(|r| r.limits.as_ref()), name),
        request => request,
    }
}

/// What one container may use at most, in thousandths; 0 is no limit.
pub fn limit(container: &Container, name: &str) -> i64 {
    amount(container.resources.as_ref().and_then(|r| r.limits.as_ref()), name)
}

/// CPU shares for a request in thousandths of a CPU.
pub fn shares(milli_cpu: i64) -> u64 {
    u64::try_from((milli_cpu * 1024 / 1000).clamp(MIN_SHARES, 262_144)).unwrap_or(2)
}

/// CPU quota in microseconds per [`CPU_PERIOD`] for a limit; 0 is none.
pub fn quota(milli_cpu: i64) -> i64 {
    if milli_cpu == 0 { 0 } else { (milli_cpu * CPU_PERIOD / 1000).max(MIN_QUOTA) }
}

/// Who dies first: the score the kernel adds for a container, from its class and its share of the machine's memory.
pub fn oom_score(pod: &Pod, container: &Container, memory_capacity: i64) -> i64 {
    if pod.spec.as_ref().and_then(|s| s.priority).is_some_and(|p| p >= 2_000_001_000) {
        return -997; // Node-critical pods go last (system-node-critical and above).
    }
    match qos(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let requested = request(container, "memory") / 1000;
            let score = 1000 - (1000 * requested) / memory_capacity.max(1);
            score.clamp(3, 999)
        }
    }
}

/// The resources of one container for the runtime. `memory_capacity` is the node's, in bytes.
pub fn linux_resources(pod: &Pod, container: &Container, memory_capacity: i64, swap: &Swap) -> LinuxContainerResources {
    let limits = LinuxContainerResources {
        cpu_shares: i64::try_from(shares(request(container, "cpu"))).unwrap_or(MIN_SHARES),
        cpu_period: CPU_PERIOD,
        cpu_quota: quota(limit(container, "cpu")),
        memory_limit_in_bytes: limit(container, "memory") / 1000,
        oom_score_adj: oom_score(pod, container, memory_capacity),
        ..Default::default()
    };
    swap.limit(pod, container, memory_capacity, limits)
}

/// What a pod as a whole asks for (`limits` false) or may use (`limits` true), by resource, in thousandths: the sum over its containers and sidecars, or
/// the largest init container (with the sidecars before it) if that is more.
pub fn pod_total(spec: &PodSpec, name: &str, limits: bool) -> i64 {
    let of = |c: &Container| if limits { limit(c, name) } else { request(c, name) };
    let (mut sidecars, mut init_peak) = (0, 0);
    for container in spec.init_containers.iter().flatten() {
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars += of(container);
            init_peak = init_peak.max(sidecars);
        } else {
            init_peak = init_peak.max(sidecars + of(container));
        }
    }
    let steady: i64 = spec.containers.iter().map(of).sum::<i64>() + sidecars;
    let overhead = spec.overhead.as_ref().and_then(|o| o.get(name)).and_then(milli).unwrap_or(0);
    pod_level(spec, name, limits).unwrap_or_else(|| steady.max(init_peak)) + overhead
}

/// What is said of the pod as a whole goes before what its containers say.
fn pod_level(spec: &PodSpec, name: &str, limits: bool) -> Option<i64> {
    let set = spec.resources.as_ref()?;
    let list = if limits { &set.limits } else { &set.requests };
    list.as_ref()?.get(name).and_then(milli)
}

/// Whether every container limits the resource, without which a pod-level limit would be wrong.
pub fn all_limited(spec: &PodSpec, name: &str) -> bool {
    pod_level(spec, name, true).is_some() || all_containers(spec).all(|c| limit(c, name) > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantities(pairs: &[(&str, &str)]) -> Option<Amounts> {
        Some(pairs.iter().map(|(k, v)| ((*k).to_owned(), Quantity((*v).to_owned()))).collect())
    }

    fn pod(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> Pod {
        let resources = ResourceRequirements { requests: quantities(requests), limits: quantities(limits), ..Default::default() };
        let container = Container { name: "c".into(), resources: Some(resources), ..Default::default() };
        Pod { spec: Some(PodSpec { containers: vec![container], ..Default::default() }), ..Default::default() }
    }

    #[test]
    fn quantities_are_read_in_every_notation() {
        for (text, want) in
            [("250m", 250), ("1", 1000), ("0.5", 500), ("1e3", 1_000_000), ("64Mi", 64 * 1024 * 1024 * 1000), ("1k", 1_000_000)]
        {
            assert_eq!(milli(&Quantity(text.into())), Some(want), "{text}");
        }
        assert_eq!(whole(&Quantity("1500m".into())), Some(2));
        assert_eq!(milli(&Quantity("x".into())), None);
    }

    #[test]
    fn the_class_follows_from_requests_and_limits() {
        assert_eq!(qos(&pod(&[], &[])), Qos::BestEffort);
        assert_eq!(qos(&pod(&[("cpu", "1")], &[])), Qos::Burstable);
        assert_eq!(qos(&pod(&[], &[("memory", "20Mi")])), Qos::Burstable);
        assert_eq!(qos(&pod(&[], &[("memory", "20Mi"), ("cpu", "1")])), Qos::Guaranteed);
        assert_eq!(qos(&pod(&[("cpu", "1")], &[("memory", "20Mi"), ("cpu", "2")])), Qos::Burstable);
    }

    #[test]
    fn limits_become_shares_quota_and_bytes() {
        let pod = pod(&[("cpu", "250m"), ("memory", "64Mi")], &[("cpu", "500m"), ("memory", "128Mi")]);
        let container = &pod.spec.as_ref().expect("the pod has a spec").containers[0];
        let got = linux_resources(&pod, container, 1 << 30, &Swap::default());
        assert_eq!((got.cpu_shares, got.cpu_quota, got.memory_limit_in_bytes, got.oom_score_adj), (256, 50_000, 128 << 20, 938));
    }
}
