//! What one write costs in this crate, on a pod of about the size that the figures are taken with: `cargo bench -p api`.
//! It prints and asserts nothing: times differ between machines.

use api::{decode, managed_fields, normalize, patch, schema};
use serde_json::{Value, json};
use std::hint::black_box;
use std::time::Instant;

const ROUNDS: u32 = 2_000;

fn measure<T>(name: &str, mut work: impl FnMut() -> T) {
    for _ in 0..ROUNDS / 10 {
        black_box(work());
    }
    let start = Instant::now();
    for _ in 0..ROUNDS {
        black_box(work());
    }
    println!("{name:<40} {:>8.1} us", start.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS));
}

fn pod() -> Value {
    let env: Vec<Value> = (0..12).map(|i| json!({"name": format!("VARIABLE_{i}"), "value": format!("some value {i}")})).collect();
    let container = |name: &str| {
        json!({"name": name, "image": "registry.example.com/team/service:1.2.3", "imagePullPolicy": "IfNotPresent", "env": env,
            "ports": [{"containerPort": 8080, "protocol": "TCP"}], "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File", "volumeMounts": [{"name": "data", "mountPath": "/data"}]})
    };
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a-pod", "namespace": "default", "labels": {"app": "a", "tier": "web"}, "annotations": {"note": "x"}},
        "spec": {"containers": [container("main"), container("side")], "volumes": [{"name": "data", "emptyDir": {}}], "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
            "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30, "enableServiceLinks": true}, "status": {}})
}

fn main() {
    let root = schema::of_kind("v1", "Pod").expect("the schema has pods");
    let text = pod().to_string();
    println!("a pod of {} bytes", text.len());
    measure("decode", || decode::json(root, text.as_bytes()).expect("a pod"));
    measure("decode to a value, without a schema", || serde_json::from_str::<Value>(&text).expect("JSON"));
    let object = decode::json(root, text.as_bytes()).expect("a pod").value;
    let mut normal = object.clone();
    measure("normalize", || normalize::normalize(root, &mut normal));
    let empty = normalize::empty(root);
    let none = managed_fields::Set::default();
    let writer = managed_fields::Writer { manager: "m", subresource: "", api_version: "v1", time: "2020-01-01T00:00:00Z", reset: &none };
    let managed = managed_fields::update(root, &empty, &normal, &Value::Null, &writer);
    measure("managed fields of a create", || managed_fields::update(root, &empty, &normal, &Value::Null, &writer));
    let mut labelled = normal.clone();
    labelled["metadata"]["labels"]["new"] = "x".into();
    let other = managed_fields::Writer { manager: "other", ..writer };
    measure("managed fields of a label's change", || managed_fields::update(root, &normal, &labelled, &managed, &other));
    let config = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a-pod"}, "spec": {"containers": [{"name": "main", "image": "i:2"}]}});
    measure("server-side apply of an image", || managed_fields::apply(root, &normal, &config, &managed, &other, true).expect("applies"));
    let change = json!({"spec": {"containers": [{"name": "main", "image": "i:2"}]}});
    measure("strategic merge patch of an image", || patch::strategic(root, normal.clone(), &change).expect("applies"));
}
