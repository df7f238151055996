//! The columns of services that take some thought: addresses outside the cluster, and ports.

use crate::resource::PrintContext;
use crate::{printer, resources::defaulting::items};
use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec, ServiceStatus};

/// How much of a load balancer's addresses is shown without `-o wide`.
const WIDTH: usize = 16;

/// The EXTERNAL-IP column.
pub(super) fn external_ip(spec: &ServiceSpec, status: Option<&ServiceStatus>, _context: &PrintContext) -> String {
    let external = items(&spec.external_ips).join(",");
    match spec.type_.as_deref().unwrap_or("") {
        "ClusterIP" | "NodePort" if !external.is_empty() => external,
        "ClusterIP" | "NodePort" => printer::NONE.into(),
        "LoadBalancer" => {
            let balancer = balancer(status);
            match (external.is_empty(), balancer.is_empty()) {
                (true, true) => "<pending>".into(),
                (true, false) => balancer,
                (false, true) => external,
                (false, false) => format!("{balancer},{external}"),
            }
        }
        "ExternalName" => spec.external_name.clone().unwrap_or_default(),
        _ => printer::UNKNOWN.into(),
    }
}

fn balancer(status: Option<&ServiceStatus>) -> String {
    let mut addresses: Vec<&str> = Vec::new();
    for point in status.and_then(|s| s.load_balancer.as_ref()).and_then(|l| l.ingress.as_deref()).unwrap_or(&[]) {
        let address = point.ip.as_deref().filter(|ip| !ip.is_empty()).or(point.hostname.as_deref()).unwrap_or("");
        if !address.is_empty() && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses.sort_unstable();
    let text = addresses.join(",");
    if text.len() > WIDTH { format!("{}...", text.chars().take(WIDTH - 3).collect::<String>()) } else { text }
}

/// The PORT(S) column: `80:30080/TCP,443/TCP`.
pub(super) fn ports(ports: &[ServicePort]) -> String {
    if ports.is_empty() {
        return printer::NONE.into();
    }
    let one = |p: &ServicePort| {
        let protocol = p.protocol.as_deref().unwrap_or("");
        match p.node_port.filter(|n| *n > 0) {
            Some(node_port) => format!("{}:{node_port}/{protocol}", p.port),
            None => format!("{}/{protocol}", p.port),
        }
    };
    ports.iter().map(one).collect::<Vec<_>>().join(",")
}
