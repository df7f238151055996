//! Extended resources that no device plugin of a node has, but a class of devices (`extendedResourceName`): the pod gets a claim of its own for them, made
//! once its node is known (KEP-5004; upstream: `extendeddynamicresources.go`). Pure.

use crate::listers::Listers;
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::resources::{self, is_sidecar};
use api::device_claims::EXTENDED_RESOURCE_CLAIM;
use k8s_openapi::api::core::v1::{Container, ContainerExtendedResourceRequest};
use k8s_openapi::api::resource::v1::{DeviceClaim, DeviceRequest, ExactDeviceRequest, ResourceClaim, ResourceClaimSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use std::collections::BTreeMap;

/// The name of a claim that is not in the API yet; no claim there can have it.
const UNNAMED: &str = "<extended-resources>";

/// Resources and the classes that have them.
pub type Classes = BTreeMap<String, String>;

/// The extended resources that a pod asks for and a class has.
pub fn asked(pod: &PodInfo, listers: &dyn Listers) -> Classes {
    let wanted = pod.requests.scalar.iter().filter(|(_, amount)| **amount > 0);
    let class = |(name, _): (&String, &i64)| Some((name.clone(), listers.class_of_resource(name)?.metadata.name.clone()?));
    wanted.filter_map(class).collect()
}

/// Of these, those that the node itself has nothing of.
pub fn missing(asked: &Classes, node: &NodeInfo) -> Classes {
    asked.iter().filter(|(name, _)| node.allocatable.get(name) == 0).map(|(name, class)| (name.clone(), class.clone())).collect()
}

/// The pod's claim for these resources, under a UID that is nobody's, and which container is to get what of it.
pub fn claim(pod: &PodInfo, wanted: &Classes, uid: &str) -> (ResourceClaim, Vec<ContainerExtendedResourceRequest>) {
    let (requests, mappings) = requests(pod, wanted);
    let (namespace, name) = (pod.pod.metadata.namespace.clone(), pod.pod.metadata.name.clone().unwrap_or_default());
    let metadata = ObjectMeta {
        namespace,
        name: Some(UNNAMED.to_owned()),
        generate_name: Some(format!("{name}-extended-resources-")),
        uid: Some(uid.to_owned()),
        annotations: Some(BTreeMap::from([(EXTENDED_RESOURCE_CLAIM.to_owned(), "true".to_owned())])),
        owner_references: Some(vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            name,
            uid: pod.uid().to_owned(),
            controller: Some(true),
            block_owner_deletion: None,
        }]),
        ..ObjectMeta::default()
    };
    let spec = ResourceClaimSpec { devices: Some(DeviceClaim { requests: Some(requests), ..DeviceClaim::default() }) };
    (ResourceClaim { metadata, spec, status: None }, mappings)
}

/// One container's own request for a resource.
struct Own {
    name: String,
    count: i64,
}

/// How many devices a container asks for, and what a request for them is called.
fn own(position: usize, container: &Container, resource: &str) -> Option<Own> {
    let requests = container.resources.as_ref()?.requests.as_ref()?;
    let count = requests.get(resource).map(resources::value).filter(|count| *count > 0)?;
    let at = requests.keys().position(|name| name == resource)?;
    Some(Own { name: format!("container-{position}-request-{at}"), count })
}

/// A request for each container that runs on, and one for all those together that end before: these share devices, and use those of the containers that
/// start after them first.
fn requests(pod: &PodInfo, wanted: &Classes) -> (Vec<DeviceRequest>, Vec<ContainerExtendedResourceRequest>) {
    let init = pod.spec().init_containers.iter().flatten().map(|container| (container, !is_sidecar(container)));
    let containers: Vec<(&Container, bool)> = init.chain(pod.spec().containers.iter().map(|container| (container, false))).collect();
    let (mut requests, mut mappings) = (Vec::new(), Vec::new());
    for (resource, class) in wanted {
        let map = |container: &Container, request: &str| ContainerExtendedResourceRequest {
            container_name: container.name.clone(),
            resource_name: resource.clone(),
            request_name: request.to_owned(),
        };
        let lasting = |(position, (container, ends)): (usize, &(&Container, bool))| {
            if *ends { None } else { own(position, container, resource) }
        };
        let lasting: Vec<Option<Own>> = containers.iter().enumerate().map(lasting).collect();
        for ((container, _), own) in containers.iter().zip(&lasting) {
            mappings.extend(own.iter().map(|own| map(container, &own.name)));
        }
        let mut largest: Option<Own> = None;
        let mut sharing = Vec::new();
        for (position, (container, _)) in containers.iter().enumerate().filter(|(_, (_, ends))| *ends) {
            let Some(mut more) = own(position, container, resource) else { continue };
            for later in lasting[position..].iter().flatten() {
                if more.count <= 0 {
                    break;
                }
                more.count -= later.count;
                mappings.push(map(container, &later.name));
            }
            if more.count > 0 {
                sharing.push(container);
                largest = largest.filter(|largest| largest.count >= more.count).or(Some(more));
            }
        }
        if let Some(shared) = &largest {
            mappings.extend(sharing.into_iter().map(|container| map(container, &shared.name)));
        }
        requests.extend(largest.into_iter().chain(lasting.into_iter().flatten()).map(|own| DeviceRequest {
            name: own.name,
            exactly: Some(ExactDeviceRequest {
                device_class_name: class.clone(),
                allocation_mode: Some("ExactCount".to_owned()),
                count: Some(own.count),
                ..ExactDeviceRequest::default()
            }),
            first_available: None,
        }));
    }
    requests.sort_by(|a, b| a.name.cmp(&b.name));
    (requests, mappings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::pod;
    use serde_json::{Value, json};

    #[test]
    fn requests_by_container() {
        let container = |name: &str, count: &str| json!({"name": name, "resources": {"requests": {"cpu": "1", "example.com/gpu": count}}});
        let sidecar = |name: &str, count: &str| {
            let mut sidecar = container(name, count);
            sidecar["restartPolicy"] = json!("Always");
            sidecar
        };
        type Case<'a> = (Value, Value, &'a [(&'a str, i64)], &'a [(&'a str, &'a str)]);
        let cases: [Case<'_>; 4] = [
            (json!([]), json!([container("a", "1")]), &[("container-0-request-1", 1)], &[("a", "container-0-request-1")]),
            (
                json!([]),
                json!([container("a", "1"), container("b", "2")]),
                &[("container-0-request-1", 1), ("container-1-request-1", 2)],
                &[("a", "container-0-request-1"), ("b", "container-1-request-1")],
            ),
            // What ends before uses what comes after.
            (
                json!([container("i", "1"), sidecar("s", "1")]),
                json!([container("a", "2")]),
                &[("container-1-request-1", 1), ("container-2-request-1", 2)],
                &[("s", "container-1-request-1"), ("a", "container-2-request-1"), ("i", "container-1-request-1")],
            ),
            (
                json!([container("i", "2"), container("j", "3")]),
                json!([container("a", "1")]),
                &[("container-1-request-1", 2), ("container-2-request-1", 1)],
                &[
                    ("a", "container-2-request-1"),
                    ("i", "container-2-request-1"),
                    ("j", "container-2-request-1"),
                    ("i", "container-1-request-1"),
                    ("j", "container-1-request-1"),
                ],
            ),
        ];
        let wanted = Classes::from([("example.com/gpu".to_owned(), "gpus".to_owned())]);
        for (init, containers, expected, mapped) in cases {
            let pod = pod("p", json!({"initContainers": init, "containers": containers}));
            let (claim, mappings) = claim(&pod, &wanted, "u");
            let requests = claim.spec.devices.and_then(|devices| devices.requests).unwrap();
            let got: Vec<_> =
                requests.iter().map(|r| (r.name.as_str(), r.exactly.as_ref().and_then(|exactly| exactly.count).unwrap())).collect();
            assert_eq!(got, expected, "{init} {containers}");
            let got: Vec<_> = mappings.iter().map(|m| (m.container_name.as_str(), m.request_name.as_str())).collect();
            assert_eq!(got, mapped, "{init} {containers}");
        }
    }
}
