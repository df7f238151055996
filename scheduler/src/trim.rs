//! What the scheduler holds of the objects of which there are many: what some plugin, preemption or the queue reads. Everything else is thrown away
//! before it is stored ([`SharedCaches::trim`]), since of thousands of pods it is most of the scheduler's memory.
//!
//! A pod that has its node is only looked at as a neighbour: where it would like to run is not read any more. What owns pods is only asked which
//! ones it selects. Whoever reads another field adds it here.

use crate::resources::{Resources, is_sidecar};
use client::SharedCaches;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec, StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    Affinity, Container, ContainerPort, ContainerStatus, EphemeralVolumeSource, Node, NodeSpec, NodeStatus, Pod, PodCondition, PodSpec,
    PodStatus, ReplicationController, ReplicationControllerSpec, ResourceRequirements, Service, ServiceSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The conditions that are read, and the status in which they say something.
const CONDITIONS: &[(&str, &str)] = &[("PodScheduled", "False"), ("DisruptionTarget", "True"), ("PodResizePending", "True")];

/// Of which kinds things are thrown away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trimmed {
    /// Of all.
    All,
    /// Not of pods and nodes, which are shown to others as they are.
    AllButPodsAndNodes,
}

/// Says so of every kind.
pub fn kinds(caches: &SharedCaches, trimmed: Trimmed) {
    if trimmed == Trimmed::All {
        caches.trim::<Pod>(pod);
        caches.trim::<Node>(node);
    } else {
        caches.trim::<Pod>(|pod| pod.metadata.managed_fields = None);
        caches.trim::<Node>(|node| node.metadata.managed_fields = None);
    }
    caches.trim::<Service>(service);
    caches.trim::<ReplicationController>(replication_controller);
    caches.trim::<ReplicaSet>(replica_set);
    caches.trim::<StatefulSet>(stateful_set);
}

fn node(node: &mut Node) {
    let metadata = ObjectMeta { labels: node.metadata.labels.take(), ..identity(std::mem::take(&mut node.metadata)) };
    let spec = node.spec.take().map(|spec| NodeSpec { taints: spec.taints, unschedulable: spec.unschedulable, ..NodeSpec::default() });
    let status = node.status.take();
    let status = status.map(|status| NodeStatus { allocatable: status.allocatable, images: status.images, ..NodeStatus::default() });
    *node = Node { metadata, spec, status };
}

fn service(service: &mut Service) {
    let spec = service.spec.take().map(|spec| ServiceSpec { selector: spec.selector, ..ServiceSpec::default() });
    *service = Service { metadata: identity(std::mem::take(&mut service.metadata)), spec, status: None };
}

fn replication_controller(controller: &mut ReplicationController) {
    let spec = controller.spec.take();
    let spec = spec.map(|spec| ReplicationControllerSpec { selector: spec.selector, ..ReplicationControllerSpec::default() });
    *controller = ReplicationController { metadata: identity(std::mem::take(&mut controller.metadata)), spec, status: None };
}

fn replica_set(set: &mut ReplicaSet) {
    let spec = set.spec.take().map(|spec| ReplicaSetSpec { selector: spec.selector, ..ReplicaSetSpec::default() });
    *set = ReplicaSet { metadata: identity(std::mem::take(&mut set.metadata)), spec, status: None };
}

fn stateful_set(set: &mut StatefulSet) {
    let spec = set.spec.take().map(|spec| StatefulSetSpec { selector: spec.selector, ..StatefulSetSpec::default() });
    *set = StatefulSet { metadata: identity(std::mem::take(&mut set.metadata)), spec, status: None };
}

/// What every cache needs.
fn identity(meta: ObjectMeta) -> ObjectMeta {
    let controllers = meta.owner_references.map(|owners| owners.into_iter().filter(|owner| owner.controller == Some(true)).collect());
    ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        uid: meta.uid,
        resource_version: meta.resource_version,
        owner_references: controllers,
        ..ObjectMeta::default()
    }
}

/// Leaves of a pod what is read.
pub fn pod(pod: &mut Pod) {
    let status = pod.status.take().map(|status| self::status(status, pod.spec.as_ref()));
    let spec = pod.spec.take().map(self::spec);
    let meta = std::mem::take(&mut pod.metadata);
    let metadata = ObjectMeta {
        generation: meta.generation,
        labels: meta.labels.clone(),
        deletion_timestamp: meta.deletion_timestamp.clone(),
        ..identity(meta)
    };
    *pod = Pod { metadata, spec, status };
}

fn spec(spec: PodSpec) -> PodSpec {
    let is_placed = spec.node_name.as_ref().is_some_and(|name| !name.is_empty());
    let common = PodSpec {
        node_name: spec.node_name,
        containers: spec.containers.into_iter().map(|container| self::container(container, is_placed)).collect(),
        init_containers: all(spec.init_containers, |container| Some(self::container(container, is_placed))),
        volumes: all(spec.volumes, volume),
        overhead: spec.overhead,
        resources: spec.resources.and_then(requests),
        priority: spec.priority,
        ..PodSpec::default()
    };
    if is_placed {
        let affinity = spec.affinity.map(|affinity| Affinity { node_affinity: None, ..affinity });
        return PodSpec { affinity, resource_claims: spec.resource_claims, ..common };
    }
    PodSpec {
        affinity: spec.affinity,
        node_selector: spec.node_selector,
        preemption_policy: spec.preemption_policy,
        resource_claims: spec.resource_claims,
        scheduler_name: spec.scheduler_name,
        scheduling_gates: spec.scheduling_gates,
        tolerations: spec.tolerations,
        topology_spread_constraints: spec.topology_spread_constraints,
        ..common
    }
}

/// What `keep` leaves of a list; no list if that is nothing.
fn all<T>(list: Option<Vec<T>>, keep: impl Fn(T) -> Option<T>) -> Option<Vec<T>> {
    let kept: Vec<T> = list?.into_iter().filter_map(keep).collect();
    (!kept.is_empty()).then_some(kept)
}

fn container(container: Container, is_placed: bool) -> Container {
    let on_host = |port: ContainerPort| port.host_port.is_some_and(|number| number > 0).then_some(port);
    Container {
        name: container.name,
        image: container.image.filter(|_| !is_placed),
        ports: all(container.ports, on_host),
        resources: container.resources.and_then(requests),
        restart_policy: container.restart_policy,
        ..Container::default()
    }
}

fn requests(resources: ResourceRequirements) -> Option<ResourceRequirements> {
    let requests = resources.requests.filter(|requests| !requests.is_empty())?;
    Some(ResourceRequirements { requests: Some(requests), ..ResourceRequirements::default() })
}

/// Volumes that bind a pod to places, or keep others away.
fn volume(volume: Volume) -> Option<Volume> {
    let is_disk = volume.gce_persistent_disk.is_some()
        || volume.aws_elastic_block_store.is_some()
        || volume.iscsi.is_some()
        || volume.rbd.is_some()
        || volume.persistent_volume_claim.is_some();
    if is_disk {
        return Some(volume);
    }
    volume.ephemeral.is_some().then(|| Volume { name: volume.name, ephemeral: Some(EphemeralVolumeSource::default()), ..Volume::default() })
}

fn status(status: PodStatus, spec: Option<&PodSpec>) -> PodStatus {
    let says_something =
        |condition: PodCondition| CONDITIONS.contains(&(condition.type_.as_str(), condition.status.as_str())).then_some(condition);
    let containers = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let sidecars: Vec<&Container> =
        spec.iter().flat_map(|spec| spec.init_containers.iter().flatten()).filter(|container| is_sidecar(container)).collect();
    PodStatus {
        phase: status.phase,
        start_time: status.start_time,
        nominated_node_name: status.nominated_node_name,
        resource_claim_statuses: status.resource_claim_statuses,
        extended_resource_claim_status: status.extended_resource_claim_status,
        resources: status.resources.and_then(requests),
        allocated_resources: status.allocated_resources,
        conditions: all(status.conditions, says_something),
        container_statuses: all(status.container_statuses, |status| container_status(status, containers.iter())),
        init_container_statuses: all(status.init_container_statuses, |status| container_status(status, sidecars.iter().copied())),
        ..PodStatus::default()
    }
}

/// What a container has, if that is not what it asks for.
fn container_status<'c>(status: ContainerStatus, containers: impl IntoIterator<Item = &'c Container>) -> Option<ContainerStatus> {
    let container = containers.into_iter().find(|container| container.name == status.name)?;
    let asked = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let actual = status.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let differs = [actual, status.allocated_resources.as_ref()].into_iter().flatten();
    let differs = differs.map(|had| Resources::from_quantities(Some(had))).any(|had| had != Resources::from_quantities(asked));
    differs.then(|| ContainerStatus {
        name: status.name,
        resources: status.resources.and_then(requests),
        allocated_resources: status.allocated_resources,
        ..ContainerStatus::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod_info::PodInfo;
    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn trimmed<K: DeserializeOwned + Serialize>(whole: &Value, trim: fn(&mut K)) -> Value {
        let mut object: K = serde_json::from_value(whole.clone()).unwrap();
        trim(&mut object);
        let mut left = serde_json::to_value(object).unwrap();
        left.as_object_mut().unwrap().retain(|key, _| key != "apiVersion" && key != "kind");
        left
    }

    #[test]
    fn what_is_left_of_other_kinds() {
        let named = |name: &str, spec: Value| json!({"metadata": {"name": name, "uid": "u"}, "spec": spec});
        let whole = |name: &str, mut spec: Value| {
            spec["replicas"] = json!(3);
            let mut whole = named(name, spec);
            whole["metadata"]["annotations"] = json!({"a": "b"});
            whole["status"] = json!({"replicas": 3});
            whole
        };
        let (equal, selector) = (json!({"selector": {"a": "b"}}), json!({"selector": {"matchLabels": {"a": "b"}}}));
        assert_eq!(trimmed(&whole("s", equal.clone()), service), named("s", equal.clone()));
        assert_eq!(trimmed(&whole("c", equal.clone()), replication_controller), named("c", equal));
        assert_eq!(trimmed(&whole("r", selector.clone()), replica_set), named("r", selector.clone()));
        let left = trimmed(&whole("t", selector.clone()), stateful_set);
        assert_eq!((&left["spec"]["selector"], left.get("status")), (&selector["selector"], None));

        let read = json!({"metadata": {"name": "n", "labels": {"zone": "a"}}, "spec": {"unschedulable": true, "taints": [{"key": "k", "effect": "NoSchedule"}]},
            "status": {"allocatable": {"cpu": "4"}, "images": [{"names": ["i"], "sizeBytes": 1}]}});
        let mut reported = read.clone();
        let more = json!({"metadata": {"annotations": {"a": "b"}}, "spec": {"podCIDR": "10.0.0.0/24"},
            "status": {"capacity": {"cpu": "4"}, "conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "Hostname", "address": "n"}]}});
        crate::fixtures::merge(&mut reported, more);
        assert_eq!(trimmed(&reported, node), read);
    }

    #[test]
    fn what_is_left_of_a_pod() {
        let meta = json!({"namespace": "ns", "name": "a", "uid": "u", "resourceVersion": "7", "labels": {"app": "web"}});
        let cases = [
            (json!({"metadata": {"annotations": {"a": "b"}, "finalizers": ["f"]}}), json!({"metadata": {}})),
            (
                json!({"spec": {"containers": [{"name": "c", "image": "i", "env": [{"name": "A"}], "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                    "ports": [{"containerPort": 80}, {"containerPort": 81, "hostPort": 81}]}], "tolerations": [{"key": "k"}], "hostNetwork": false}}),
                json!({"spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}},
                    "ports": [{"containerPort": 81, "hostPort": 81}]}], "tolerations": [{"key": "k"}]}}),
            ),
            (
                json!({"spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}], "tolerations": [{"key": "k"}], "schedulerName": "s",
                    "affinity": {"nodeAffinity": {}, "podAffinity": {}}}}),
                json!({"spec": {"nodeName": "n", "containers": [{"name": "c"}], "affinity": {"podAffinity": {}}}}),
            ),
            (
                json!({"spec": {"containers": [], "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
                    {"name": "c", "persistentVolumeClaim": {"claimName": "c"}}]}}),
                json!({"spec": {"containers": [], "volumes": [{"name": "b", "ephemeral": {}}, {"name": "c", "persistentVolumeClaim": {"claimName": "c"}}]}}),
            ),
            (
                json!({"status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"},
                    {"type": "PodScheduled", "status": "True"}, {"type": "DisruptionTarget", "status": "True"}]}}),
                json!({"status": {"phase": "Running", "conditions": [{"type": "DisruptionTarget", "status": "True"}]}}),
            ),
        ];
        for (more, expected) in cases {
            let whole = |more: &Value| {
                let mut whole = json!({ "metadata": meta });
                crate::fixtures::merge(&mut whole, more.clone());
                whole
            };
            assert_eq!(trimmed(&whole(&more), super::pod), whole(&expected), "{more}");
        }
    }

    #[test]
    fn a_trimmed_pod_counts_as_the_whole_one() {
        let had = |name: &str, cpu: &str, allocated: &str| {
            json!({"name": name, "ready": true, "restartCount": 0, "image": "i", "imageID": "i",
                "resources": {"requests": {"cpu": cpu}}, "allocatedResources": {"cpu": allocated}})
        };
        let asks = |name: &str, cpu: &str| json!({"name": name, "image": "i", "resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}});
        let mut sidecar = asks("s", "1");
        sidecar["restartPolicy"] = json!("Always");
        let spec = json!({
            "priority": 3, "overhead": {"cpu": "10m"}, "initContainers": [asks("i", "9"), sidecar],
            "containers": [asks("c", "1"), {"name": "d", "ports": [{"containerPort": 1, "hostPort": 1}]}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "e", "ephemeral": {}}, {"name": "x", "emptyDir": {}}],
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone", "labelSelector": {}}]}},
        });
        for (node, statuses, infeasible) in [
            ("", json!([]), false),
            ("n", json!([had("c", "1", "1")]), false),
            ("n", json!([had("c", "2", "1"), had("s", "1", "3")]), false),
            ("n", json!([had("c", "500m", "500m")]), true),
        ] {
            let mut whole = json!({"metadata": {"namespace": "ns", "name": "a", "uid": "a"}, "spec": spec});
            whole["spec"]["nodeName"] = json!(node);
            let reason = if infeasible { "Infeasible" } else { "Deferred" };
            whole["status"] = json!({"containerStatuses": statuses, "initContainerStatuses": statuses,
                "conditions": [{"type": "PodResizePending", "status": "True", "reason": reason}]});
            let pod: Pod = serde_json::from_value(whole).unwrap();
            let mut less = pod.clone();
            super::pod(&mut less);
            let (whole, less) = (PodInfo::new(Arc::new(pod)), PodInfo::new(Arc::new(less)));
            assert_eq!((&less.requests, &less.scored), (&whole.requests, &whole.scored), "{statuses}");
            assert!(less.counts_like(&whole) && less.host_ports == whole.host_ports && less.priority() == whole.priority());
        }
    }
}
