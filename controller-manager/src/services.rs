//! What endpoint controllers ask of services and their pods: which pods stand behind a service, under which addresses and ports
//! (upstream: `pkg/controller/util/endpoint`, `k8s.io/endpointslice/util`).

use crate::controller::Keys;
use crate::pods;
use api::selector::LabelSelector;
use client::{Cache, Change, ObjectKey};
use k8s_openapi::api::core::v1::{Container, Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// The label of everything that belongs to a headless service.
pub const HEADLESS: &str = "service.kubernetes.io/headless";

/// A service's spec, empty if it has none.
pub fn spec(service: &Service) -> ServiceSpec {
    service.spec.clone().unwrap_or_default()
}

/// The pods that a service picks; `None` for a service whose endpoints are not the controllers' business: one without a selector, or an external name.
pub fn selector(service: &Service) -> Option<LabelSelector> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref().map(LabelSelector::of_map)
}

/// The pods behind a service, of those in its namespace.
pub fn pods_of(service: &Service, selector: &LabelSelector, pods: &Cache<Pod>) -> Vec<Arc<Pod>> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    pods.in_namespace(namespace).into_iter().filter(|pod| selector.matches(pod.metadata.labels.as_ref())).collect()
}

/// Whether a service has an address of its own.
pub fn has_cluster_ip(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()).is_some_and(|ip| !ip.is_empty() && ip != "None")
}

/// Whether a service asked for no address.
pub fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// Whether endpoints that are not ready are published as if they were.
pub fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false)
}

/// The address types of a service's slices. A headless service from before dual stack has both.
pub fn address_types(service: &Service) -> Vec<&'static str> {
    let spec = spec(service);
    let name = |family: &str| match family {
        "IPv4" => Some("IPv4"),
        "IPv6" => Some("IPv6"),
        _ => None,
    };
    let families: Vec<&str> = spec.ip_families.iter().flatten().filter_map(|family| name(family)).collect();
    if !families.is_empty() {
        return families;
    }
    match spec.cluster_ip.and_then(|ip| ip.parse::<IpAddr>().ok()) {
        Some(ip) => vec![family_of(ip)],
        None => vec!["IPv4", "IPv6"],
    }
}

/// `IPv4` or `IPv6`.
pub fn family_of(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// A pod's addresses.
pub fn pod_ips(pod: &Pod) -> BTreeSet<IpAddr> {
    let status = pod.status.as_ref();
    let several = status.iter().flat_map(|status| status.pod_ips.iter().flatten()).map(|entry| entry.ip.as_str());
    several.chain(status.and_then(|status| status.pod_ip.as_deref())).filter_map(|ip| ip.parse().ok()).collect()
}

/// Whether a pod can be an endpoint at all: it has an address and has not ended.
pub fn can_be_endpoint(pod: &Pod) -> bool {
    !pods::is_finished(pod) && !pod_ips(pod).is_empty()
}

/// The name under which a pod is found in the service's domain.
pub fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.clone().filter(|name| !name.is_empty())?;
    (spec.subdomain.is_some() && spec.subdomain == service.metadata.name && pod.metadata.namespace == service.metadata.namespace)
        .then_some(hostname)
}

/// The pod's port to which a port of a service leads; `None` if no container has a port of that name.
pub fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match port.target_port.as_ref() {
        None => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(if *number == 0 { port.port } else { *number }),
        Some(IntOrString::String(name)) => name,
    };
    let protocol = |protocol: &Option<String>| protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    let spec = pod.spec.as_ref()?;
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(sidecar));
    containers
        .flat_map(|container| container.ports.iter().flatten())
        .find(|offered| offered.name.as_ref() == Some(name) && protocol(&offered.protocol) == protocol(&port.protocol))
        .map(|offered| offered.container_port)
}

/// What of a pod its endpoints are made from.
fn endpoint_facts(pod: &Pod) -> impl PartialEq + '_ {
    let spec = pod.spec.as_ref();
    (
        pod_ips(pod),
        pods::is_ready(pod),
        pods::is_finished(pod),
        pods::is_terminating(pod),
        &pod.metadata.labels,
        spec.map(|spec| (&spec.node_name, &spec.hostname, &spec.subdomain)),
    )
}

/// Puts the services of every pod that changes in a way that shows in endpoints into the queue, where they wait for others' changes.
pub fn watch_pods(pods: &Cache<Pod>, services: &Arc<Cache<Service>>, keys: &Keys, wait: Duration) {
    let (services, keys) = (services.clone(), keys.clone());
    pods.subscribe(move |change| {
        if let Change::Updated { old, new } = change
            && endpoint_facts(old) == endpoint_facts(new)
        {
            return;
        }
        let now = change.object();
        for service in services.in_namespace(now.metadata.namespace.as_deref().unwrap_or_default()) {
            let Some(selector) = selector(&service) else { continue };
            let before = change.old().is_some_and(|old| selector.matches(old.metadata.labels.as_ref()));
            if before || selector.matches(now.metadata.labels.as_ref()) {
                keys.add_after(ObjectKey::of(service.as_ref()), wait);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trim::held;
    use serde_json::json;

    #[tokio::test(start_paused = true)]
    async fn a_change_of_a_pod_waits_for_others() {
        for wait in [Duration::ZERO, Duration::from_secs(5)] {
            let (pods, services, keys) = (Cache::default(), Arc::new(Cache::default()), Keys::default());
            let service = json!({"metadata": {"namespace": "ns", "name": "s"}, "spec": {"selector": {"app": "web"}}});
            services.replace(vec![serde_json::from_value(service).unwrap()]);
            watch_pods(&pods, &services, &keys, wait);
            let begun = tokio::time::Instant::now();
            pods.apply(held(json!({"metadata": {"namespace": "ns", "name": "p", "labels": {"app": "web"}}})));
            assert_eq!((keys.get().await, begun.elapsed()), (Some(ObjectKey::new("ns", "s")), wait));
        }
    }

    #[test]
    fn ports_by_number_and_by_name() {
        let pod = held(json!({"spec": {
            "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]}],
            "initContainers": [
                {"name": "once", "ports": [{"name": "once", "containerPort": 1}]},
                {"name": "side", "restartPolicy": "Always", "ports": [{"name": "proxy", "containerPort": 15001}]}]}}));
        for (target, expected) in [
            (json!({"port": 80}), Some(80)),
            (json!({"port": 80, "targetPort": 81}), Some(81)),
            (json!({"port": 80, "targetPort": "web"}), Some(8080)),
            (json!({"port": 80, "targetPort": "dns"}), None),
            (json!({"port": 80, "targetPort": "dns", "protocol": "UDP"}), Some(53)),
            (json!({"port": 80, "targetPort": "proxy"}), Some(15001)),
            (json!({"port": 80, "targetPort": "once"}), None),
        ] {
            assert_eq!(target_port(&pod, &serde_json::from_value(target.clone()).unwrap()), expected, "{target}");
        }
    }

    #[test]
    fn families() {
        for (spec, expected) in [
            (json!({"ipFamilies": ["IPv6", "IPv4"], "clusterIP": "fd00::1"}), vec!["IPv6", "IPv4"]),
            (json!({"clusterIP": "10.0.0.1"}), vec!["IPv4"]),
            (json!({"clusterIP": "None"}), vec!["IPv4", "IPv6"]),
        ] {
            let service: Service = serde_json::from_value(json!({"spec": spec})).unwrap();
            assert_eq!(address_types(&service), expected);
        }
    }
}
