//! A port of a Service as the proxy sees it (upstream: `pkg/proxy/serviceport.go`).

use crate::family::Family;
use k8s_openapi::api::core::v1::Service;
use std::net::IpAddr;

/// The label by which a Service asks for another proxy.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// The label by which a Service asks for none.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// How long a client stays with its endpoint when the Service does not say.
const AFFINITY_SECONDS: u32 = 10_800;

/// One port of one Service in one family of addresses.
#[derive(Clone, Debug, PartialEq)]
pub struct ServicePort {
    /// Of the Service.
    pub namespace: String,
    /// Of the Service.
    pub service: String,
    /// The port's name; may be empty.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
    /// The Service's address.
    pub cluster_ip: IpAddr,
    /// The port on it.
    pub port: u16,
    /// The port on every node; 0 if there is none.
    pub node_port: u16,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// The load balancer's addresses that packets still carry when they arrive here.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Whom the load balancer's addresses serve; empty means everybody.
    pub source_ranges: Vec<String>,
    /// Session affinity by client address, in seconds.
    pub affinity: Option<u32>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
}

impl ServicePort {
    /// Whether there is a way to it from outside the cluster.
    pub fn externally_accessible(&self) -> bool {
        self.node_port != 0 || !self.external_ips.is_empty() || !self.load_balancer_ips.is_empty()
    }

    /// Whether it needs the endpoints of all nodes. With external traffic it always does: what comes from inside the cluster goes to all of them.
    pub fn uses_cluster_endpoints(&self) -> bool {
        !self.internal_local || self.externally_accessible()
    }

    /// Whether it needs the endpoints of this node apart.
    pub fn uses_local_endpoints(&self) -> bool {
        self.internal_local || (self.external_local && self.externally_accessible())
    }

    /// What the names of its chains and sets end in. The parts cannot contain the slash that separates them.
    pub fn id(&self) -> String {
        format!("{}/{}/{}/{}", self.namespace, self.service, self.protocol, self.name)
    }
}

/// Whether a Service is this proxy's business at all.
pub fn is_proxied(service: &Service) -> bool {
    let labels = service.metadata.labels.as_ref();
    let labelled = |name: &str| labels.is_some_and(|labels| labels.contains_key(name));
    let spec = service.spec.as_ref();
    let cluster_ip = spec.and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
    let external_name = spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName");
    !labelled(PROXY_NAME) && !labelled(HEADLESS) && !external_name && !matches!(cluster_ip, "" | "None")
}

/// The ports of a Service in one family; none if the proxy has nothing to do with it.
pub fn ports(service: &Service, family: Family) -> Vec<ServicePort> {
    let Some(spec) = service.spec.as_ref().filter(|_| is_proxied(service)) else { return Vec::new() };
    let of_family = |text: &String| text.parse::<IpAddr>().ok().filter(|address| Family::of(address) == family);
    let all = spec.cluster_ips.iter().flatten().chain(spec.cluster_ip.iter());
    let Some(cluster_ip) = all.filter_map(of_family).next() else { return Vec::new() };
    let ingress =
        service.status.iter().filter_map(|status| status.load_balancer.as_ref()).flat_map(|status| status.ingress.iter().flatten());
    let balancers = ingress.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy")).filter_map(|ingress| ingress.ip.as_ref());
    let load_balancer_ips: Vec<IpAddr> = balancers.filter_map(of_family).collect();
    let external_ips: Vec<IpAddr> = spec.external_ips.iter().flatten().filter_map(of_family).collect();
    let ranges = spec.load_balancer_source_ranges.iter().flatten().map(|range| range.trim().to_owned());
    let source_ranges: Vec<String> = ranges.filter(|range| family.owns_cidr(range)).collect();
    let client_ip = spec.session_affinity.as_deref() == Some("ClientIP");
    let configured = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    let affinity = client_ip.then(|| configured.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(AFFINITY_SECONDS));
    let local = |policy: &Option<String>| policy.as_deref() == Some("Local");

    let number = |port: i32| u16::try_from(port).ok();
    let port = |port: &k8s_openapi::api::core::v1::ServicePort| {
        Some(ServicePort {
            namespace: service.metadata.namespace.clone().unwrap_or_default(),
            service: service.metadata.name.clone().unwrap_or_default(),
            name: port.name.clone().unwrap_or_default(),
            protocol: protocol(port.protocol.as_deref())?,
            cluster_ip,
            port: number(port.port)?,
            node_port: port.node_port.and_then(number).unwrap_or(0),
            external_ips: external_ips.clone(),
            load_balancer_ips: load_balancer_ips.clone(),
            source_ranges: source_ranges.clone(),
            affinity,
            internal_local: local(&spec.internal_traffic_policy),
            external_local: local(&spec.external_traffic_policy),
        })
    };
    spec.ports.iter().flatten().filter_map(port).collect()
}

/// nft's name of a protocol, if it is one that has ports.
pub fn protocol(name: Option<&str>) -> Option<&'static str> {
    match name.unwrap_or("TCP") {
        "TCP" => Some("tcp"),
        "UDP" => Some("udp"),
        "SCTP" => Some("sctp"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::service;
    use serde_json::json;

    #[test]
    fn which_services_have_ports() {
        for (patch, ports_of) in [
            (json!({}), 1),
            (json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}), 0),
            (json!({"spec": {"type": "ExternalName"}}), 0),
            (json!({"spec": {"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]}}), 0),
            (json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": "other"}}}), 0),
            (json!({"metadata": {"labels": {"service.kubernetes.io/headless": ""}}}), 0),
        ] {
            assert_eq!(ports(&service(patch.clone()), Family::V4).len(), ports_of, "{patch}");
        }
    }

    #[test]
    fn what_a_port_carries() {
        let patch = json!({
            "spec": {
                "sessionAffinity": "ClientIP", "externalIPs": ["1.2.3.4", "fd00::4"], "externalTrafficPolicy": "Local",
                "loadBalancerSourceRanges": ["10.0.0.0/8", "fd00::/64"],
            },
            "status": {"loadBalancer": {"ingress": [{"ip": "5.6.7.8", "ipMode": "VIP"}, {"ip": "5.6.7.9", "ipMode": "Proxy"}, {"hostname": "a"}]}},
        });
        let port = ports(&service(patch), Family::V4).remove(0);
        assert_eq!(port.affinity, Some(10_800));
        assert_eq!(port.external_ips, ["1.2.3.4".parse::<IpAddr>().unwrap()]);
        assert_eq!(port.load_balancer_ips, ["5.6.7.8".parse::<IpAddr>().unwrap()]);
        assert_eq!(port.source_ranges, ["10.0.0.0/8"]);
        assert!(port.external_local && !port.internal_local);
        assert_eq!(port.id(), "ns/svc/tcp/http");
    }
}
