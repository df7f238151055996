//! Defaults of services (upstream: `SetDefaults_Service`). Addresses and node ports are given out by the registry, not here.

use crate::resources::defaulting::{absent, is_unset, text};
use k8s_openapi::api::core::v1::ServiceSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// How long a client stays with its pod under `ClientIP` affinity: three hours.
const AFFINITY_SECONDS: i32 = 10_800;

/// Whether clients outside the cluster can reach the service, so that it matters how their traffic is spread.
pub(super) fn externally_accessible(spec: &ServiceSpec) -> bool {
    match spec.type_.as_deref() {
        Some("LoadBalancer" | "NodePort") => true,
        Some("ClusterIP") => spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()),
        _ => false,
    }
}

pub(super) fn service(spec: &mut ServiceSpec) {
    text(&mut spec.session_affinity, "None");
    match spec.session_affinity.as_deref() {
        Some("ClientIP") => {
            let config = spec.session_affinity_config.get_or_insert_default();
            absent(&mut config.client_ip.get_or_insert_default().timeout_seconds, AFFINITY_SECONDS);
        }
        Some("None") => spec.session_affinity_config = None,
        _ => {}
    }
    text(&mut spec.type_, "ClusterIP");
    for port in spec.ports.iter_mut().flatten() {
        text(&mut port.protocol, "TCP");
        if port.target_port.as_ref().is_none_or(is_unset) {
            port.target_port = Some(IntOrString::Int(port.port));
        }
    }
    if externally_accessible(spec) {
        text(&mut spec.external_traffic_policy, "Cluster");
    }
    if matches!(spec.type_.as_deref(), Some("ClusterIP" | "NodePort" | "LoadBalancer")) {
        absent(&mut spec.internal_traffic_policy, "Cluster".into());
    }
    if spec.type_.as_deref() == Some("LoadBalancer") {
        absent(&mut spec.allocate_load_balancer_node_ports, true);
    }
}
