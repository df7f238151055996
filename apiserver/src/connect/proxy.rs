//! `nodes/NAME/proxy`, `pods/NAME/proxy`, `services/NAME/proxy`: where `[SCHEME:]NAME[:PORT]` leads.

use super::{
    Target, Wanted,
    location::{kubelet, kubelet_address},
    transport::Transport,
};
use crate::objects::{Collection, Objects, decoded, decoded_list};
use crate::outbound::service::endpoints;
use api::status::{Result, StatusError};
use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use rand::seq::IndexedRandom;
use std::net::IpAddr;

/// `[SCHEME:]NAME[:PORT]`, both optional and possibly empty.
#[derive(Debug, PartialEq, Eq)]
struct Reference<'a> {
    scheme: &'a str,
    name: &'a str,
    port: &'a str,
}

fn split(text: &str) -> Option<Reference<'_>> {
    let parts: Vec<&str> = text.split(':').collect();
    let (scheme, name, port) = match parts[..] {
        [name] => ("", name, ""),
        [name, port] => ("", name, port),
        [scheme, name, port] => (scheme, name, port),
        _ => return None,
    };
    (matches!(scheme, "" | "http" | "https") && !name.is_empty()).then_some(Reference { scheme, name, port })
}

fn transport(scheme: &str) -> Transport {
    if scheme == "https" { Transport::Tls } else { Transport::Plain }
}

fn unavailable(why: String) -> StatusError {
    StatusError::new(503, "ServiceUnavailable", why)
}

/// Whether requests may be passed on to the address: never to this machine itself or its link (upstream: `proxyutil.IsProxyableIP`).
fn allowed(address: &str) -> Result<()> {
    let bad = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(a)) => a.is_loopback() || a.is_link_local() || a.is_multicast() || a.is_unspecified(),
        Ok(IpAddr::V6(a)) => a.is_loopback() || a.is_unicast_link_local() || a.is_multicast() || a.is_unspecified(),
        Err(_) => return Err(StatusError::bad_request("invalid IP address")),
    };
    if bad { Err(StatusError::bad_request("address not allowed")) } else { Ok(()) }
}

fn pod(objects: &dyn Objects, namespace: &str, reference: &Reference<'_>) -> Result<Target> {
    let found = decoded::<Pod>(objects, Collection::core("pods"), namespace, reference.name);
    let pod = found.ok_or_else(|| StatusError::not_found("", "pods", reference.name))?;
    let declared = pod.spec.iter().flat_map(|s| &s.containers).flat_map(|c| c.ports.iter().flatten()).next();
    let default = declared.and_then(|p| u16::try_from(p.container_port).ok()).unwrap_or(match reference.scheme {
        "https" => 443,
        _ => 80,
    });
    let port = if reference.port.is_empty() { Some(default) } else { reference.port.parse().ok() };
    let port = port.ok_or_else(|| StatusError::bad_request(format!("invalid port {:?}", reference.port)))?;
    let host = pod.status.and_then(|s| s.pod_ip).unwrap_or_default();
    allowed(&host)?;
    Ok(Target { transport: transport(reference.scheme), host, port, path: String::new() })
}

fn service(objects: &dyn Objects, namespace: &str, reference: &Reference<'_>) -> Result<Target> {
    let name = reference.name;
    let found = decoded::<Service>(objects, Collection::core("services"), namespace, name);
    let service = found.ok_or_else(|| StatusError::not_found("", "services", name))?;
    let ports = service.spec.and_then(|s| s.ports).unwrap_or_default();
    let port = match (reference.port, ports.as_slice()) {
        ("", [only]) => Some(only.name.clone().unwrap_or_default()),
        ("", _) => Some(String::new()),
        (wanted, ports) => {
            let by_name = ports.iter().find(|p| p.name.as_deref() == Some(wanted));
            let by_number = || wanted.parse::<i32>().ok().and_then(|n| ports.iter().find(|p| p.port == n));
            by_name.or_else(by_number).map(|p| p.name.clone().unwrap_or_default())
        }
    };
    let Some(port) = port else { return Err(unavailable(format!("no service port {:?} found for service {name:?}", reference.port))) };
    let slices: Vec<EndpointSlice> = decoded_list(objects, Collection::of("discovery.k8s.io", "endpointslices"), namespace);
    let candidates = endpoints(&slices, name, &port);
    let (host, port) =
        candidates.choose(&mut rand::rng()).cloned().ok_or_else(|| unavailable(format!("no endpoints available for service {name:?}")))?;
    allowed(&host)?;
    Ok(Target { transport: transport(reference.scheme), host, port, path: String::new() })
}

fn node(objects: &dyn Objects, reference: &Reference<'_>) -> Result<Target> {
    let found = decoded::<Node>(objects, Collection::core("nodes"), "", reference.name);
    let (host, own) = match found.as_ref().map(kubelet_address) {
        None => return Err(StatusError::not_found("", "nodes", reference.name)),
        Some(None) => return kubelet(objects, reference.name, ""),
        Some(Some(address)) => address,
    };
    let wanted = if reference.port.is_empty() { Some(own) } else { reference.port.parse().ok() };
    let port = wanted.ok_or_else(|| StatusError::bad_request(format!("invalid node request {:?}", reference.port)))?;
    if port == own {
        return Ok(Target { transport: Transport::Kubelet, host, port, path: String::new() });
    }
    allowed(&host)?;
    Ok(Target { transport: transport(reference.scheme), host, port, path: String::new() })
}

/// Where the request leads.
pub fn target(objects: &dyn Objects, wanted: &Wanted<'_>) -> Result<Target> {
    let kind = wanted.plural.trim_end_matches('s');
    let reference = split(wanted.name).ok_or_else(|| StatusError::bad_request(format!("invalid {kind} request {:?}", wanted.name)))?;
    match wanted.plural {
        "pods" => pod(objects, wanted.namespace, &reference),
        "services" => service(objects, wanted.namespace, &reference),
        _ => node(objects, &reference),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Fixed;
    use serde_json::json;

    fn cluster() -> Fixed {
        let objects = Fixed::default();
        let put = |collection, object| objects.put(collection, object);
        let metadata = |name: &str| json!({"namespace": "ns", "name": name});
        put(
            Collection::core("pods"),
            json!({"metadata": metadata("p"), "status": {"podIP": "10.244.0.5"}, "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 8080}]}]}}),
        );
        put(Collection::core("pods"), json!({"metadata": metadata("lo"), "status": {"podIP": "127.0.0.1"}, "spec": {"containers": []}}));
        let ports = json!([{"name": "web", "port": 80}, {"name": "tls", "port": 443}]);
        put(Collection::core("services"), json!({"metadata": metadata("s"), "spec": {"ports": ports}}));
        put(Collection::core("services"), json!({"metadata": metadata("empty"), "spec": {"ports": [{"port": 80}]}}));
        put(
            Collection::of("discovery.k8s.io", "endpointslices"),
            json!({"metadata": {"namespace": "ns", "name": "s-1", "labels": {"kubernetes.io/service-name": "s"}}, "addressType": "IPv4",
                "ports": [{"name": "web", "port": 8080}, {"name": "tls", "port": 8443}],
                "endpoints": [{"addresses": ["10.244.0.6"], "conditions": {"ready": true}}, {"addresses": ["10.244.0.7"], "conditions": {"ready": false}}]}),
        );
        put(
            Collection::core("nodes"),
            json!({"metadata": {"name": "n1"}, "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}}),
        );
        objects
    }

    #[test]
    fn names_lead_where_they_say() {
        let objects = cluster();
        for (plural, name, want) in [
            ("pods", "p", "Plain 10.244.0.5:8080"),
            ("pods", "p:9090", "Plain 10.244.0.5:9090"),
            ("pods", "https:p:9443", "Tls 10.244.0.5:9443"),
            ("pods", "q", "pods \"q\" not found"),
            ("pods", "a:b:c:d", "invalid pod request \"a:b:c:d\""),
            ("pods", "ftp:p:1", "invalid pod request \"ftp:p:1\""),
            ("pods", "lo:80", "address not allowed"),
            ("services", "s:web", "Plain 10.244.0.6:8080"),
            ("services", "https:s:443", "Tls 10.244.0.6:8443"),
            ("services", "s:nope", "no service port \"nope\" found for service \"s\""),
            ("services", "empty", "no endpoints available for service \"empty\""),
            ("nodes", "n1", "Kubelet 192.0.2.1:10250"),
            ("nodes", "n1:10250", "Kubelet 192.0.2.1:10250"),
            ("nodes", "n1:9100", "Plain 192.0.2.1:9100"),
            ("nodes", "n2", "nodes \"n2\" not found"),
        ] {
            let wanted = Wanted { plural, namespace: "ns", name, ..Wanted::default() };
            let got =
                target(&objects, &wanted).map(|t| format!("{:?} {}:{}", t.transport, t.host, t.port)).unwrap_or_else(|e| e.to_string());
            assert_eq!(got, want, "{plural}/{name}");
        }
    }
}
