//! Objects for tests.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use std::sync::Arc;

fn of_spec(namespace: &str, name: &str, spec: Value) -> Service {
    serde_json::from_value(json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec})).expect("a Service")
}

pub fn service(namespace: &str, name: &str, address: &str, ports: Value) -> Service {
    of_spec(namespace, name, json!({"clusterIP": address, "clusterIPs": [address], "ports": ports}))
}

pub fn headless(namespace: &str, name: &str, ports: Value) -> Service {
    of_spec(namespace, name, json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": ports}))
}

pub fn external(namespace: &str, name: &str, target: &str) -> Service {
    of_spec(namespace, name, json!({"type": "ExternalName", "externalName": target}))
}

pub fn slice(namespace: &str, service: &str, endpoints: Value, ports: Value) -> Arc<EndpointSlice> {
    let object = json!({
        "metadata": {"namespace": namespace, "name": format!("{service}-1"), "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
    });
    Arc::new(serde_json::from_value(object).expect("an EndpointSlice"))
}
