//! Objects that tests start from.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

/// `ns/svc` with port http on 10.96.0.1:80, merged with a patch.
pub fn service(patch: Value) -> Service {
    let mut object = json!({
        "metadata": {"namespace": "ns", "name": "svc"},
        "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [{"name": "http", "port": 80}]},
    });
    merge(&mut object, patch);
    serde_json::from_value(object).unwrap()
}

/// A slice of `ns/svc` with port http on 8080 and these endpoints.
pub fn slice(endpoints: Value) -> EndpointSlice {
    let object = json!({
        "metadata": {"namespace": "ns", "name": "svc-1", "labels": {"kubernetes.io/service-name": "svc"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
    });
    serde_json::from_value(object).unwrap()
}

fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            patch.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value))
        }
        (into, patch) => *into = patch,
    }
}
