//! Makes this server an endpoint of the Service that pods ask, where no pod runs it and so no controller does.
//!
//! The slice is this server's own, under the Service's and the machine's name, and is written again at every start: the address may be another then.

use anyhow::Context;
use client::ObjectKey;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// How long to wait after the server refused: doubled each time, up to the latter.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// What to publish.
#[derive(Clone, Debug)]
pub struct Published {
    /// The Service.
    pub service: ObjectKey,
    /// The machine's name, a DNS label.
    pub host: String,
    /// Where queries are answered.
    pub addresses: Vec<SocketAddr>,
    /// The port of metrics, if they are told.
    pub http_port: Option<u16>,
}

/// The slice of one family; none if the server has no address of it.
fn slice(published: &Published, of_family: fn(&IpAddr) -> bool, family: &str) -> Option<Value> {
    let addresses: Vec<&SocketAddr> = published.addresses.iter().filter(|address| of_family(&address.ip())).collect();
    let port = addresses.first()?.port();
    let mut ports =
        vec![json!({"name": "dns", "protocol": "UDP", "port": port}), json!({"name": "dns-tcp", "protocol": "TCP", "port": port})];
    ports.extend(published.http_port.map(|port| json!({"name": "metrics", "protocol": "TCP", "port": port})));
    let service = &published.service;
    let endpoints: Vec<Value> =
        addresses.iter().map(|address| json!({"addresses": [address.ip()], "conditions": {"ready": true}})).collect();
    Some(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{}-{}-{}", service.name, published.host, family.to_lowercase()), "namespace": service.namespace,
            "labels": {"kubernetes.io/service-name": service.name, "endpointslice.kubernetes.io/managed-by": "dns"},
        },
        "addressType": family, "endpoints": endpoints, "ports": ports,
    }))
}

/// Writes the slices, until that has worked.
pub async fn publish(client: Client, published: &Published) {
    let slices = [slice(published, IpAddr::is_ipv4, "IPv4"), slice(published, IpAddr::is_ipv6, "IPv6")];
    let mut retry = RETRY.0;
    while let Err(error) = write(&client, published, &slices).await {
        tracing::warn!("publishing {}: {error:#}; trying again in {retry:?}", published.service);
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(RETRY.1);
    }
}

async fn write(client: &Client, published: &Published, slices: &[Option<Value>]) -> anyhow::Result<()> {
    let api = Api::<EndpointSlice>::namespaced(client.clone(), &published.service.namespace);
    for slice in slices.iter().flatten() {
        let name = slice["metadata"]["name"].as_str().unwrap_or_default();
        api.patch(name, &PatchParams::apply("dns").force(), &Patch::Apply(slice))
            .await
            .with_context(|| format!("writing the slice {name}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_for_each_family_that_the_server_has() {
        let addresses = vec!["10.244.0.1:10053".parse().unwrap()];
        let published =
            Published { service: ObjectKey::new("kube-system", "kube-dns"), host: "vm".into(), addresses, http_port: Some(9153) };
        assert_eq!(slice(&published, IpAddr::is_ipv6, "IPv6"), None);
        let slice: EndpointSlice = serde_json::from_value(slice(&published, IpAddr::is_ipv4, "IPv4").unwrap()).unwrap();
        assert_eq!(slice.metadata.name.as_deref(), Some("kube-dns-vm-ipv4"));
        assert_eq!(slice.endpoints.unwrap()[0].addresses, ["10.244.0.1"]);
        let ports: Vec<_> = slice.ports.unwrap().into_iter().map(|port| (port.name.unwrap(), port.port.unwrap())).collect();
        assert_eq!(ports, [("dns".to_owned(), 10053), ("dns-tcp".to_owned(), 10053), ("metrics".to_owned(), 9153)]);
    }
}
