//! Amounts of resources, as the scheduler counts them: CPU in thousandths, memory and ephemeral storage in bytes, everything else in units.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// The resources of the API that are fields here.
pub const CPU: &str = "cpu";
/// See [`CPU`].
pub const MEMORY: &str = "memory";
/// See [`CPU`].
pub const EPHEMERAL_STORAGE: &str = "ephemeral-storage";
/// See [`CPU`].
pub const PODS: &str = "pods";

/// What a container without a CPU request counts as when nodes are scored (upstream: `DefaultMilliCPURequest`).
const SCORED_MILLI_CPU: i64 = 100;
/// What a container without a memory request counts as when nodes are scored (upstream: `DefaultMemoryRequest`).
const SCORED_MEMORY: i64 = 200 * 1024 * 1024;

/// A vector of amounts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    /// Extended resources and huge pages, in units or bytes.
    pub scalar: BTreeMap<String, i64>,
}

type QuantityMap = BTreeMap<String, Quantity>;

impl Resources {
    /// From the API's form. `pods` is left out: it is no amount that a pod asks for.
    pub fn from_quantities(quantities: Option<&QuantityMap>) -> Self {
        let mut resources = Self::default();
        for (name, quantity) in quantities.into_iter().flatten() {
            match name.as_str() {
                CPU => resources.milli_cpu = milli_value(quantity),
                MEMORY => resources.memory = value(quantity),
                EPHEMERAL_STORAGE => resources.ephemeral_storage = value(quantity),
                PODS => {}
                other => {
                    resources.scalar.insert(other.to_owned(), value(quantity));
                }
            }
        }
        resources
    }

    /// The amount of a resource by its name.
    pub fn get(&self, name: &str) -> i64 {
        match name {
            CPU => self.milli_cpu,
            MEMORY => self.memory,
            EPHEMERAL_STORAGE => self.ephemeral_storage,
            other => self.scalar.get(other).copied().unwrap_or(0),
        }
    }

    /// Adds.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    /// Subtracts.
    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
    }

    /// The larger of both, amount by amount.
    pub fn max(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, combine: fn(i64, i64) -> i64) {
        self.milli_cpu = combine(self.milli_cpu, other.milli_cpu);
        self.memory = combine(self.memory, other.memory);
        self.ephemeral_storage = combine(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            let own = self.scalar.entry(name.clone()).or_insert(0);
            *own = combine(*own, *amount);
        }
    }
}

/// What a pod asks of a node (upstream: `component-helpers/resource/helpers.go`): the sum of its containers and sidecars, or what the
/// largest init container needs beside the sidecars started before it, if that is more; plus the overhead. Requests of the pod itself come first.
///
/// A container that is being resized counts with the most of what it asks for, what the node has allocated to it and what it has in fact; if
/// the node has said that it can never be resized so, without what it asks for. The same goes for what the pod asks for as a whole.
pub fn pod_requests(pod: &Pod) -> Resources {
    requests(pod, |container| container_requests(pod, container))
}

fn container_requests(pod: &Pod, container: &Container) -> Resources {
    let asked = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let status = status_of(pod, container);
    let actual = status.and_then(|status| status.resources.as_ref()?.requests.as_ref());
    most(pod, asked, actual, status.and_then(|status| status.allocated_resources.as_ref()))
}

/// The most of what is asked for, what there is in fact and what the node has allocated.
fn most(pod: &Pod, asked: Option<&QuantityMap>, actual: Option<&QuantityMap>, allocated: Option<&QuantityMap>) -> Resources {
    let counts = (actual.is_none() && allocated.is_none()) || !is_resize_infeasible(pod);
    let mut most = Resources::from_quantities(asked.filter(|_| counts));
    most.max(&Resources::from_quantities(actual));
    most.max(&Resources::from_quantities(allocated));
    most
}

/// What the node says of a container.
fn status_of<'p>(pod: &'p Pod, container: &Container) -> Option<&'p ContainerStatus> {
    let status = pod.status.as_ref()?;
    let both = [&status.container_statuses, &status.init_container_statuses];
    both.into_iter().flatten().flatten().find(|status| status.name == container.name)
}

fn is_resize_infeasible(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "PodResizePending" && condition.reason.as_deref() == Some("Infeasible"))
}

/// The same for scoring, where a container without a request counts as something.
pub fn scored_requests(pod: &Pod) -> Resources {
    requests(pod, |container| {
        let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
        let mut counted = container_requests(pod, container);
        if !requests.is_some_and(|r| r.contains_key(CPU)) {
            counted.milli_cpu = SCORED_MILLI_CPU;
        }
        if !requests.is_some_and(|r| r.contains_key(MEMORY)) {
            counted.memory = SCORED_MEMORY;
        }
        counted
    })
}

/// Whether a resource is not one of Kubernetes' own (upstream: `IsExtendedResourceName`).
pub fn is_extended(name: &str) -> bool {
    let native = !name.contains('/') || name.split('/').next().is_some_and(|domain| domain.ends_with("kubernetes.io"));
    !native && !name.starts_with("requests.")
}

fn requests(pod: &Pod, of: impl Fn(&Container) -> Resources) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&of(container));
    }
    let (mut sidecars, mut largest) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let mut needed = of(container);
        if is_sidecar(container) {
            sidecars.add(&needed);
            total.add(&needed);
            needed = sidecars.clone();
        } else {
            needed.add(&sidecars);
        }
        largest.max(&needed);
    }
    total.max(&largest);
    if let Some(requests) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        let status = pod.status.as_ref();
        let actual = status.and_then(|status| status.resources.as_ref()?.requests.as_ref());
        let of_pod = most(pod, Some(requests), actual, status.and_then(|status| status.allocated_resources.as_ref()));
        for name in requests.keys() {
            match name.as_str() {
                CPU => total.milli_cpu = of_pod.milli_cpu,
                MEMORY => total.memory = of_pod.memory,
                // Besides CPU and memory only huge pages can be asked for by a pod as a whole.
                other => {
                    total.scalar.insert(other.to_owned(), of_pod.get(other));
                }
            }
        }
    }
    total.add(&Resources::from_quantities(spec.overhead.as_ref()));
    total
}

/// An init container that keeps running beside the containers.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// In units, rounded up. What is not a quantity counts as nothing; the apiserver lets none of those in.
pub fn value(quantity: &Quantity) -> i64 {
    api::quantity::Quantity::of(quantity).map_or(0, api::quantity::Quantity::value)
}

/// In thousandths, rounded up.
pub fn milli_value(quantity: &Quantity) -> i64 {
    api::quantity::Quantity::of(quantity).map_or(0, api::quantity::Quantity::milli_value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn amounts() {
        for (text, units, thousandths) in [
            ("1", 1, 1000),
            ("250m", 1, 250),
            ("0.5", 1, 500),
            ("1e3", 1000, 1_000_000),
            ("64Mi", 67_108_864, 67_108_864_000),
            ("1.5Gi", 1_610_612_736, 1_610_612_736_000),
            ("100n", 1, 1),
            ("-1", -1, -1000),
            ("9E", 9_000_000_000_000_000_000, i64::MAX),
        ] {
            let quantity = Quantity(text.to_owned());
            assert_eq!((value(&quantity), milli_value(&quantity)), (units, thousandths), "{text}");
        }
    }

    #[test]
    fn what_a_pod_asks_for() {
        let container = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let sidecar = |cpu: &str| json!({"name": "c", "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
        let cases: Vec<(&str, Value, i64)> = vec![
            ("containers add up", json!({"containers": [container("1"), container("500m")]}), 1500),
            (
                "the largest init container",
                json!({"containers": [container("1")], "initContainers": [container("3"), container("2")]}),
                3000,
            ),
            ("sidecars run beside", json!({"containers": [container("1")], "initContainers": [sidecar("1"), container("2")]}), 3000),
            (
                "a sidecar after an init container",
                json!({"containers": [container("1")], "initContainers": [container("2"), sidecar("1")]}),
                2000,
            ),
            ("overhead", json!({"containers": [container("1")], "overhead": {"cpu": "100m"}}), 1100),
            ("the pod's own requests", json!({"containers": [container("1")], "resources": {"requests": {"cpu": "4"}}}), 4000),
            ("nothing", json!({"containers": [{"name": "c"}]}), 0),
        ];
        for (case, spec, milli_cpu) in cases {
            let pod: Pod = serde_json::from_value(json!({ "spec": spec })).unwrap();
            assert_eq!(pod_requests(&pod).milli_cpu, milli_cpu, "{case}");
        }
    }

    #[test]
    fn a_pod_that_is_resized_counts_with_the_most() {
        let resized = |wanted: &str, allocated: &str, actual: &str, infeasible: bool| {
            let condition =
                if infeasible { json!([{"type": "PodResizePending", "status": "True", "reason": "Infeasible"}]) } else { json!([]) };
            let status = json!({"name": "c", "ready": true, "restartCount": 0, "image": "i", "imageID": "i",
                "allocatedResources": {"cpu": allocated}, "resources": {"requests": {"cpu": actual}}});
            let spec = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": wanted}}}]});
            let pod: Pod =
                serde_json::from_value(json!({"spec": spec, "status": {"conditions": condition, "containerStatuses": [status]}})).unwrap();
            pod_requests(&pod).milli_cpu
        };
        let as_a_whole = |wanted: &str, allocated: &str, actual: &str| {
            let spec = json!({"containers": [], "resources": {"requests": {"cpu": wanted}}});
            let status = json!({"resources": {"requests": {"cpu": actual}}, "allocatedResources": {"cpu": allocated}});
            let pod: Pod = serde_json::from_value(json!({"spec": spec, "status": status})).unwrap();
            pod_requests(&pod).milli_cpu
        };
        assert_eq!((as_a_whole("3", "1", "1"), as_a_whole("1", "2", "1"), as_a_whole("1", "1", "2")), (3000, 2000, 2000));
        assert_eq!(resized("3", "1", "1", false), 3000);
        assert_eq!(resized("1", "2", "1", false), 2000);
        assert_eq!(resized("1", "1", "2", false), 2000);
        assert_eq!(resized("3", "1", "2", true), 2000);
    }

    #[test]
    fn a_container_without_requests_is_scored_as_something() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}})).unwrap();
        let scored = scored_requests(&pod);
        assert_eq!((scored.milli_cpu, scored.memory), (200, 400 * 1024 * 1024));
        assert_eq!(pod_requests(&pod), Resources::default());
    }
}
