//! How much memory the scheduler's picture of the cluster takes: 10,000 running pods as an apiserver tells of them, on 1,000 nodes.
//!
//! `cargo run --release -p scheduler --example footprint [whole]` prints resident bytes per pod; with `whole`, as if nothing were trimmed.

use client::Cache;
use k8s_openapi::api::core::v1::{Node, Pod};
use scheduler::pod_info::PodInfo;
use scheduler::state::ClusterState;
use scheduler::trim;
use serde_json::json;
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const NODES: usize = 1000;
const PODS: usize = 10_000;

/// A pod of a Deployment as it looks once it runs: with a token's volume, two tolerations, five conditions and a status.
fn running(number: usize) -> String {
    let since = "2026-01-01T00:00:00Z";
    let condition =
        |kind: &str| json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": since, "observedGeneration": 1});
    let conditions = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition);
    let toleration = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
    let token = json!([{"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}]);
    let mount = json!({"name": "kube-api-access-abcde", "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"});
    let requests = json!({"cpu": "100m", "memory": "64Mi"});
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("web-7d4b9c8f6d-{number:05}"), "generateName": "web-7d4b9c8f6d-", "namespace": "default",
            "uid": format!("00000000-0000-4000-8000-{number:012}"), "resourceVersion": number.to_string(), "generation": 1,
            "creationTimestamp": since, "labels": {"app": "web", "pod-template-hash": "7d4b9c8f6d"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7d4b9c8f6d", "uid": "owner", "controller": true, "blockOwnerDeletion": true}],
            "managedFields": [{"manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1", "time": since, "fieldsType": "FieldsV1",
                "fieldsV1": {"f:metadata": {"f:labels": {"f:app": {}, "f:pod-template-hash": {}}}, "f:spec": {"f:containers": {}}}}],
        },
        "spec": {
            "nodeName": format!("node-{}", number % NODES), "schedulerName": "default-scheduler", "serviceAccountName": "default", "serviceAccount": "default",
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "securityContext": {}, "priority": 0,
            "enableServiceLinks": true, "preemptionPolicy": "PreemptLowerPriority",
            "tolerations": [toleration("node.kubernetes.io/not-ready"), toleration("node.kubernetes.io/unreachable")],
            "volumes": [{"name": "kube-api-access-abcde", "projected": {"defaultMode": 420, "sources": token}}],
            "containers": [{"name": "web", "image": "nginx:1.27", "imagePullPolicy": "IfNotPresent", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File", "resources": {"requests": requests}, "volumeMounts": [mount]}],
        },
        "status": {
            "phase": "Running", "startTime": since, "hostIP": "10.0.0.1", "hostIPs": [{"ip": "10.0.0.1"}], "podIP": "10.244.0.1", "podIPs": [{"ip": "10.244.0.1"}],
            "qosClass": "Burstable", "observedGeneration": 1,
            "conditions": conditions,
            "containerStatuses": [{"name": "web", "image": "docker.io/library/nginx:1.27", "imageID": "docker.io/library/nginx@sha256:0123456789abcdef",
                "containerID": "containerd://0123456789abcdef0123456789abcdef", "ready": true, "started": true, "restartCount": 0,
                "state": {"running": {"startedAt": since}}, "lastState": {}, "allocatedResources": requests, "resources": {"requests": requests}, "volumeMounts": [mount]}],
        },
    });
    pod.to_string()
}

fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

fn main() {
    let whole = std::env::args().nth(1).as_deref() == Some("whole");
    let cache = if whole { Cache::<Pod>::default() } else { Cache::trimmed(trim::pod) };
    let mut state = ClusterState::default();
    for number in 0..NODES {
        let status = json!({"allocatable": {"cpu": "32", "memory": "64Gi", "pods": "110"}});
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": format!("node-{number}")}, "status": status})).expect("it is a node");
        state.set_node(Arc::new(node));
    }
    let before = resident();
    for number in 0..PODS {
        let pod: Pod = serde_json::from_str(&running(number)).expect("it is a pod");
        let key = client::ObjectKey::of(&pod);
        cache.apply(pod);
        let held = cache.get(&key).expect("it was just stored");
        state.set_pod(Arc::new(PodInfo::new(held)));
    }
    println!("{} pods: {} bytes each", cache.len(), (resident() - before) / PODS);
}
