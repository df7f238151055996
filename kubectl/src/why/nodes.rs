//! Why no node takes a pod: the scheduler's own filters, asked about every node.

use super::{Answer, Refusal, World, claim, count, items, namespace, text};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Resource;
use scheduler::explain::{NodeVerdict, Shortage, explain};
use scheduler::listers::Listers;
use serde_json::Value;
use std::sync::Arc;

/// The answer for a pod without a node. `said` is what the scheduler itself last said of it.
pub fn why(world: &dyn World, pod: &Value, said: Option<String>) -> Answer {
    let claims = unbound(world, pod);
    let nodes: Vec<Node> = typed(world.list("/api/v1/nodes", "", ""));
    let pods: Vec<Pod> = typed(world.list("/api/v1/pods", "", ""));
    if nodes.is_empty() {
        return Answer::new(pod, "has no node to run on: the cluster has none");
    }
    let Ok(subject) = serde_json::from_value::<Pod>(pod.clone()) else {
        return Answer::new(pod, "is not scheduled").detail(said.unwrap_or_default());
    };
    let verdicts = explain(&subject, &nodes, &pods, &Around::of(world, namespace(pod)));
    let free: Vec<&str> = verdicts.iter().filter(|v| v.rejections.is_empty()).map(|v| v.node.as_str()).collect();
    if !free.is_empty() {
        let answer =
            Answer::new(pod, format!("is not scheduled yet, though {} would take it: {}", count(free.len(), "node"), free.join(", ")));
        let answer = answer.detail(said.unwrap_or_default()).because(claims);
        return if answer.because.is_empty() { answer.remedy("is the scheduler running?") } else { answer };
    }
    let mut answer = Answer::new(pod, format!("is not scheduled: none of {} takes it", count(verdicts.len(), "node")));
    answer.nodes = verdicts.iter().flat_map(refusals).collect();
    answer.because = claims;
    remedies(&verdicts).into_iter().fold(answer, Answer::remedy)
}

fn typed<T: serde::de::DeserializeOwned>(values: Vec<Value>) -> Vec<T> {
    values.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect()
}

/// What the filters look at besides nodes and pods: namespaces' labels, and the claims and volumes of the pod's namespace.
struct Around {
    namespaces: Vec<Arc<Namespace>>,
    claims: Vec<Arc<PersistentVolumeClaim>>,
    volumes: Vec<Arc<PersistentVolume>>,
    classes: Vec<Arc<StorageClass>>,
}

impl Around {
    fn of(world: &dyn World, namespace: &str) -> Around {
        fn all<T: serde::de::DeserializeOwned>(world: &dyn World, path: &str) -> Vec<Arc<T>> {
            typed(world.list(path, "", "")).into_iter().map(Arc::new).collect()
        }
        Around {
            namespaces: all(world, "/api/v1/namespaces"),
            claims: all(world, &format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims")),
            volumes: all(world, "/api/v1/persistentvolumes"),
            classes: all(world, "/apis/storage.k8s.io/v1/storageclasses"),
        }
    }
}

fn named<T: Resource>(all: &[Arc<T>], name: &str) -> Option<Arc<T>> {
    all.iter().find(|object| object.meta().name.as_deref() == Some(name)).cloned()
}

impl Listers for Around {
    fn namespace(&self, name: &str) -> Option<Arc<Namespace>> {
        named(&self.namespaces, name)
    }

    fn namespaces(&self) -> Vec<Arc<Namespace>> {
        self.namespaces.clone()
    }

    fn claim(&self, _: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        named(&self.claims, name)
    }

    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        named(&self.volumes, name)
    }

    fn volumes_of_class(&self, class: &str) -> Vec<Arc<PersistentVolume>> {
        let of_class = |v: &&Arc<PersistentVolume>| v.spec.as_ref().and_then(|s| s.storage_class_name.as_deref()).unwrap_or("") == class;
        self.volumes.iter().filter(of_class).cloned().collect()
    }

    fn storage_class(&self, name: &str) -> Option<Arc<StorageClass>> {
        named(&self.classes, name)
    }
}

/// The answers for the pod's claims that are not bound.
fn unbound(world: &dyn World, pod: &Value) -> Vec<Answer> {
    let ns = namespace(pod);
    let names = items(&pod["spec"]["volumes"]).map(|v| text(&v["persistentVolumeClaim"]["claimName"])).filter(|n| !n.is_empty());
    names
        .filter_map(|name| {
            let path = format!("/api/v1/namespaces/{ns}/persistentvolumeclaims/{name}");
            match world.get(&path) {
                Some(found) => Some(claim::why(world, &found)).filter(|a| !a.fine),
                None => Some(Answer {
                    object: format!("persistentvolumeclaim/{name}"),
                    state: "does not exist".to_owned(),
                    ..Answer::default()
                }),
            }
        })
        .collect()
}

fn refusals(verdict: &NodeVerdict) -> Vec<Refusal> {
    let refusal = |check: &str, why: String| Refusal { node: verdict.node.clone(), check: check.to_owned(), why };
    let fits = "NodeResourcesFit";
    let others = verdict.rejections.iter().filter(|r| r.plugin != fits).map(|r| refusal(r.plugin, r.reasons.join("; ")));
    others.chain(verdict.shortages.iter().map(|s| refusal(fits, shortage(s)))).collect()
}

/// `cpu: wants 500m, 120m free of 2`.
fn shortage(s: &Shortage) -> String {
    let shown = |value| amount(&s.resource, value);
    format!("{}: wants {}, {} free of {}", s.resource, shown(s.requested), shown((s.capacity - s.used).max(0)), shown(s.capacity))
}

/// What the scheduler counts in thousandths of a core, bytes or pieces.
fn amount(resource: &str, value: i64) -> String {
    const UNITS: [(&str, i64); 3] = [("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
    match resource {
        "cpu" if value % 1000 == 0 => (value / 1000).to_string(),
        "cpu" => format!("{value}m"),
        "memory" | "ephemeral-storage" => match UNITS.iter().find(|(_, unit)| value >= *unit) {
            Some((name, unit)) => format!("{}{name}", (value as f64 / *unit as f64 * 10.0).round() / 10.0),
            None => value.to_string(),
        },
        _ => value.to_string(),
    }
}

/// What would let a pod onto nodes, by the check that refuses it.
const ADVICE: &[(&str, &str)] = &[
    ("NodeAffinity", "label a node as nodeSelector and nodeAffinity ask for (kubectl label node NODE KEY=VALUE), or ask for less"),
    ("TaintToleration", "give the pod a toleration, or remove the taint (kubectl taint node NODE KEY-)"),
    ("NodeUnschedulable", "kubectl uncordon NODE"),
    ("NodePorts", "free the host port, or use a Service instead of hostPort"),
    ("InterPodAffinity", "change podAffinity or podAntiAffinity, or add nodes"),
    ("PodTopologySpread", "loosen topologySpreadConstraints (maxSkew, whenUnsatisfiable), or add nodes to the emptier domains"),
    ("NodeName", "spec.nodeName names another node"),
];

fn remedies(verdicts: &[NodeVerdict]) -> Vec<String> {
    let mut remedies = Vec::new();
    // Of the nodes that only lack resources, the one that lacks the fewest comes first.
    let mut short: Vec<&NodeVerdict> = verdicts.iter().filter(|v| v.rejections.iter().all(|r| r.plugin == "NodeResourcesFit")).collect();
    short.sort_by_key(|v| v.shortages.iter().map(|s| (s.requested - s.capacity + s.used).max(0)).sum::<i64>());
    if let Some(nearest) = short.first() {
        let lacks: Vec<String> = nearest
            .shortages
            .iter()
            .map(|s| format!("{} more {}", amount(&s.resource, s.requested - s.capacity + s.used), s.resource))
            .collect();
        let never = nearest.shortages.iter().any(|s| s.requested > s.capacity);
        let how =
            if never { "ask for less: the node will never have that much" } else { "end or shrink other pods there, or ask for less" };
        remedies.push(format!("{} free on node {}: {how}", lacks.join(" and "), nearest.node));
    }
    for (check, advice) in ADVICE {
        let refusing = verdicts.iter().filter(|v| v.rejections.iter().any(|r| r.plugin == *check)).count();
        if refusing > 0 && short.is_empty() {
            remedies.push(format!("{check} ({}): {advice}", count(refusing, "node")));
        }
    }
    remedies
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::Cluster;
    use super::*;
    use serde_json::json;

    fn node(name: &str, rest: Value) -> Value {
        json!({"kind": "Node", "metadata": {"name": name}, "spec": rest, "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"}}})
    }

    fn pod(name: &str, node: Option<&str>, cpu: &str) -> Value {
        json!({"kind": "Pod", "metadata": {"name": name, "namespace": "d", "uid": name}, "spec": {"nodeName": node,
            "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    #[test]
    fn each_node_says_which_check_refuses_and_by_how_much() {
        let world = Cluster::default()
            .with("/api/v1/nodes", node("n1", json!({})))
            .with("/api/v1/nodes", node("n2", json!({"taints": [{"key": "a", "value": "b", "effect": "NoSchedule"}]})))
            .with("/api/v1/pods", pod("there", Some("n1"), "1880m"));
        let answer = why(&world, &pod("new", None, "500m"), None);
        let rows: Vec<_> = answer.nodes.iter().map(|r| (r.node.as_str(), r.check.as_str(), r.why.as_str())).collect();
        assert_eq!(
            rows,
            [("n1", "NodeResourcesFit", "cpu: wants 500m, 120m free of 2"), ("n2", "TaintToleration", "node(s) had untolerated taint(s)")]
        );
        assert_eq!(answer.remedies, ["380m more cpu free on node n1: end or shrink other pods there, or ask for less"]);
    }

    #[test]
    fn a_node_that_would_take_it_is_named() {
        let answer = why(&Cluster::default().with("/api/v1/nodes", node("n1", json!({}))), &pod("new", None, "1"), None);
        assert_eq!(answer.state, "is not scheduled yet, though 1 node would take it: n1");
        let never = why(&Cluster::default().with("/api/v1/nodes", node("n1", json!({}))), &pod("new", None, "3"), None);
        assert_eq!(never.remedies, ["1 more cpu free on node n1: ask for less: the node will never have that much"]);
        assert_eq!(why(&Cluster::default(), &pod("new", None, "1"), None).state, "has no node to run on: the cluster has none");
    }

    #[test]
    fn amounts_are_as_people_write_them() {
        for (resource, value, expected) in
            [("cpu", 1500, "1500m"), ("cpu", 2000, "2"), ("memory", 1_610_612_736, "1.5Gi"), ("memory", 12, "12"), ("pods", 110, "110")]
        {
            assert_eq!(amount(resource, value), expected);
        }
    }
}
