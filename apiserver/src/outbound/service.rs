//! From a service to addresses: its ready endpoints in random order, and its cluster address behind them, for services whose endpoints nobody lists
//! (upstream: `kube-aggregator/pkg/apiserver/resolvers.go` and `apiserver/pkg/util/proxy`).

use crate::objects::{Collection, Objects, decoded, decoded_list};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use rand::seq::SliceRandom;

/// The addresses and port numbers behind the named port of a service, of endpoints that are ready.
pub fn endpoints(slices: &[EndpointSlice], service: &str, port: &str) -> Vec<(String, u16)> {
    let mut found = Vec::new();
    for slice in slices {
        let owner = slice.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/service-name"));
        if owner.is_none_or(|o| o != service) {
            continue;
        }
        let number = slice.ports.iter().flatten().find(|p| p.name.as_deref().unwrap_or_default() == port).and_then(|p| p.port);
        let Some(number) = number.and_then(|n| u16::try_from(n).ok()) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
            found.extend(endpoint.addresses.iter().filter(|_| ready).map(|a| (a.clone(), number)));
        }
    }
    found
}

/// Where the port of a service is reached, the better places first; or why nowhere.
pub fn addresses(objects: &dyn Objects, namespace: &str, name: &str, port: u16) -> Result<Vec<(String, u16)>, String> {
    let service = decoded::<Service>(objects, Collection::core("services"), namespace, name);
    let spec = service.ok_or_else(|| format!("service {name:?} not found"))?.spec.unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        return Ok(vec![(spec.external_name.unwrap_or_default(), port)]);
    }
    let of_service = spec.ports.iter().flatten().find(|p| p.port == i32::from(port));
    let of_service = of_service.ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
    let slices: Vec<EndpointSlice> = decoded_list(objects, Collection::of("discovery.k8s.io", "endpointslices"), namespace);
    let mut found = endpoints(&slices, name, of_service.name.as_deref().unwrap_or_default());
    found.shuffle(&mut rand::rng());
    // Without endpoints the cluster address is as good as any: whoever is behind it says that nobody is there.
    if found.is_empty() {
        found.extend(spec.cluster_ip.filter(|ip| !ip.is_empty() && ip != "None").map(|ip| (ip, port)));
    }
    if found.is_empty() { Err(format!("no endpoints available for service {name:?}")) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Fixed;
    use serde_json::json;

    #[test]
    fn a_service_leads_to_its_ready_endpoints() {
        let objects = Fixed::default();
        let put = |name: &str, spec| {
            objects.put(Collection::core("services"), json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec}))
        };
        put("s", json!({"clusterIP": "10.96.0.9", "ports": [{"name": "web", "port": 443}]}));
        put("lonely", json!({"clusterIP": "10.96.0.8", "ports": [{"port": 443}]}));
        put("headless", json!({"clusterIP": "None", "ports": [{"port": 443}]}));
        put("away", json!({"type": "ExternalName", "externalName": "example.com"}));
        objects.put(
            Collection::of("discovery.k8s.io", "endpointslices"),
            json!({"metadata": {"namespace": "ns", "name": "s-1", "labels": {"kubernetes.io/service-name": "s"}}, "addressType": "IPv4",
                "ports": [{"name": "web", "port": 8443}],
                "endpoints": [{"addresses": ["10.244.0.6"]}, {"addresses": ["10.244.0.7"], "conditions": {"ready": false}}]}),
        );
        for (name, port, want) in [
            ("s", 443, Ok(("10.244.0.6", 8443))),
            ("s", 80, Err("no service port 80 found for service \"s\"")),
            ("lonely", 443, Ok(("10.96.0.8", 443))),
            ("headless", 443, Err("no endpoints available for service \"headless\"")),
            ("away", 8443, Ok(("example.com", 8443))),
            ("gone", 443, Err("service \"gone\" not found")),
        ] {
            let got = addresses(&objects, "ns", name, port);
            assert_eq!(got, want.map(|(host, port)| vec![(host.to_owned(), port)]).map_err(str::to_owned), "{name}:{port}");
        }
    }
}
