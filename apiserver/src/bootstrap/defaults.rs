//! The objects themselves, but for flow control's.

use super::{Cluster, Wanted, policy, reconcile};
use crate::{authorization::rbac::GROUP, objects::Collection, pki::first_address};
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use std::net::IpAddr;

/// The ranges of services' addresses.
pub const SERVICE_CIDRS: Collection = Collection::of("networking.k8s.io", "servicecidrs");

/// Namespaces that exist from the start.
pub fn namespaces() -> Vec<Wanted> {
    let namespace = |name| {
        Wanted::new(Collection::core("namespaces"), "", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
    };
    ["default", "kube-system", "kube-public", "kube-node-lease"].map(namespace).into()
}

/// The policy's objects.
pub fn roles_and_bindings() -> Vec<Wanted> {
    fn rows<T: Serialize>(plural: &'static str, objects: Vec<T>, merge: fn(&Value, &Value) -> reconcile::Outcome) -> Vec<Wanted> {
        let row = |object: T| {
            let object = serde_json::to_value(object).expect("policy objects serialise to JSON");
            // The namespaces are few and known; the others have none.
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
            let namespace = ["kube-system", "kube-public"].into_iter().find(|n| *n == namespace).unwrap_or_default();
            Wanted::new(Collection::of(GROUP, plural), namespace, object).merged(merge)
        };
        objects.into_iter().map(row).collect()
    }
    let mut wanted = rows("clusterroles", policy::cluster_roles(), reconcile::role);
    wanted.extend(rows("clusterrolebindings", policy::cluster_role_bindings(), reconcile::binding));
    wanted.extend(rows("roles", policy::roles(), reconcile::role));
    wanted.extend(rows("rolebindings", policy::role_bindings(), reconcile::binding));
    wanted
}

/// The two priorities above all that users may choose.
pub fn priority_classes() -> Vec<Wanted> {
    let class = |(name, value, description): (&str, i64, &str)| {
        let object = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value,
            "description": description});
        Wanted::new(Collection::of("scheduling.k8s.io", "priorityclasses"), "", object)
    };
    [
        ("system-node-critical", 2_000_001_000, "Used for system critical pods that must not be moved from their current node."),
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ]
    .map(class)
    .into()
}

/// What other components look up about this server.
pub fn configuration(cluster: &Cluster) -> Vec<Wanted> {
    let config_map = |name: &str, data: Value| {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "kube-system"}, "data": data});
        Wanted::new(Collection::core("configmaps"), "kube-system", object)
    };
    let mut wanted = vec![config_map("kube-apiserver-legacy-service-account-token-tracking", json!({"since": cluster.today}))];
    let mut authentication = serde_json::Map::new();
    authentication.extend(cluster.client_ca.iter().map(|authority| ("client-ca-file".to_owned(), authority.as_str().into())));
    authentication.extend(cluster.request_header.iter().map(|(key, value)| ((*key).to_owned(), value.as_str().into())));
    wanted.push(config_map("extension-apiserver-authentication", authentication.into()).merged(reconcile::fields));
    let range = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": service_ranges(cluster)}});
    wanted.push(Wanted::new(SERVICE_CIDRS, "", range));
    wanted
}

fn service_ranges(cluster: &Cluster) -> Vec<&str> {
    cluster.service_range.split(',').map(str::trim).collect()
}

/// The ServiceCIDR of this server's own ranges, which is ready for services from the start; `None` if somebody has said already whether it is, or if it
/// is of other ranges than this server's (upstream: `pkg/controlplane/controller/defaultservicecidr`).
pub fn ready_service_cidr(cluster: &Cluster, old: &Value, now: Timestamp) -> Option<Value> {
    let told = old["status"]["conditions"].as_array().is_some_and(|conditions| conditions.iter().any(|c| c["type"] == "Ready"));
    if told || !old["metadata"]["deletionTimestamp"].is_null() || old["spec"]["cidrs"] != json!(service_ranges(cluster)) {
        return None;
    }
    let condition = json!({"type": "Ready", "status": "True", "reason": "", "message": "Kubernetes default Service CIDR is ready",
        "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()});
    let mut new = old.clone();
    new["status"] = json!({"conditions": [condition]});
    Some(new)
}

/// The service `kubernetes`, under which pods reach this server, and what is behind it.
pub fn own_service(cluster: &Cluster) -> Vec<Wanted> {
    let range = cluster.service_range.split(',').next().unwrap_or_default();
    let Some(service_address) = first_address(range) else { return Vec::new() };
    let metadata = |labels: Value| json!({"name": "kubernetes", "namespace": "default", "labels": labels});
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": metadata(json!({"component": "apiserver", "provider": "kubernetes"})),
        "spec": {"clusterIP": service_address, "clusterIPs": [service_address], "type": "ClusterIP", "sessionAffinity": "None",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": cluster.port}]},
    });
    let mut wanted = vec![Wanted::new(Collection::core("services"), "default", service).merged(reconcile::fields)];
    if cluster.advertise_address.is_loopback() {
        // Endpoints may not be loopback addresses: pods could not reach them.
        tracing::warn!(address = %cluster.advertise_address, "pods cannot reach this server: it has only a loopback address to advertise");
        return wanted;
    }
    let family = if matches!(cluster.advertise_address, IpAddr::V4(_)) { "IPv4" } else { "IPv6" };
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": metadata(json!({"endpointslice.kubernetes.io/skip-mirror": "true"})),
        "subsets": [{"addresses": [{"ip": cluster.advertise_address}], "ports": [{"name": "https", "port": cluster.port, "protocol": "TCP"}]}],
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": metadata(json!({"kubernetes.io/service-name": "kubernetes"})),
        "addressType": family,
        "endpoints": [{"addresses": [cluster.advertise_address], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": cluster.port, "protocol": "TCP"}],
    });
    wanted.push(Wanted::new(Collection::core("endpoints"), "default", endpoints).merged(reconcile::fields));
    wanted.push(Wanted::new(Collection::of("discovery.k8s.io", "endpointslices"), "default", slice).merged(reconcile::fields));
    wanted
}
