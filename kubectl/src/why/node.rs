//! Why a node takes no pods or a namespace does not end.

use super::{Answer, World, condition, conditions, finalizers, items, text, told};
use serde_json::Value;

/// The answer for one node.
pub fn why(world: &dyn World, node: &Value) -> Answer {
    let name = text(&node["metadata"]["name"]);
    let ready = condition(node, "Ready");
    if ready.is_none_or(|c| c["status"] != "True") {
        let said = ready.map_or_else(|| "its kubelet has never reported".to_owned(), told);
        let answer = Answer::new(node, "is not ready").detail(said).detail(heard(world, name));
        return answer.remedy(format!("look at the kubelet and the container runtime on {name}"));
    }
    let pressure: Vec<String> = conditions(node).filter(|c| c["type"] != "Ready" && c["status"] == "True").map(told).collect();
    let taints: Vec<String> = items(&node["spec"]["taints"])
        .filter(|t| t["effect"] != "PreferNoSchedule")
        .map(|t| format!("{}={}:{}", text(&t["key"]), text(&t["value"]), text(&t["effect"])))
        .collect();
    let cordoned = node["spec"]["unschedulable"] == true;
    let mut answer = if pressure.is_empty() && taints.is_empty() && !cordoned {
        return Answer::fine(node, format!("is ready and takes pods ({} at most)", text(&node["status"]["allocatable"]["pods"])));
    } else {
        Answer::new(node, "is ready, but does not take every pod")
    };
    if cordoned {
        answer = answer.detail("it is cordoned").remedy(format!("kubectl uncordon {name}"));
    }
    answer = pressure.into_iter().fold(answer, Answer::detail);
    if taints.is_empty() { answer } else { answer.detail(format!("only pods that tolerate {} come here", taints.join(", "))) }
}

/// When the node's kubelet last renewed its lease.
fn heard(world: &dyn World, name: &str) -> String {
    let lease = world.get(&format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}"));
    let renewed = lease.and_then(|l| l["spec"]["renewTime"].as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok()));
    renewed
        .map_or(String::new(), |at| format!("its kubelet was last heard of {} ago", crate::duration::human(world.now() - at.as_second())))
}

/// The answer for a namespace: why it does not end.
pub fn namespace(_: &dyn World, namespace: &Value) -> Answer {
    if text(&namespace["status"]["phase"]) != "Terminating" {
        return Answer::fine(namespace, "is active");
    }
    let left = conditions(namespace).filter(|c| c["status"] == "True").map(told);
    let waits: Vec<&str> = items(&namespace["spec"]["finalizers"]).map(text).collect();
    let answer = left.fold(Answer::new(namespace, "is being deleted"), Answer::detail).detail(finalizers(namespace));
    if waits.is_empty() {
        answer
    } else {
        answer.detail(format!("the finalizers {} are removed once nothing is left in it", waits.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::Cluster;
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_wrong_with_a_node() {
        let node = |spec: Value, ready: &str| {
            json!({"kind": "Node", "metadata": {"name": "n1"}, "spec": spec,
            "status": {"conditions": [{"type": "Ready", "status": ready, "reason": "R"}], "allocatable": {"pods": "110"}}})
        };
        let lease = json!({"metadata": {"name": "n1"}, "spec": {"renewTime": "2025-12-31T23:59:00.000000Z"}});
        let world = Cluster::default().with("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", lease);
        for (node, state, details) in [
            (node(json!({}), "True"), "is ready and takes pods (110 at most)", vec![]),
            (node(json!({}), "Unknown"), "is not ready", vec!["Ready is Unknown: R", "its kubelet was last heard of 60s ago"]),
            (node(json!({"unschedulable": true}), "True"), "is ready, but does not take every pod", vec!["it is cordoned"]),
            (
                node(json!({"taints": [{"key": "a", "value": "b", "effect": "NoSchedule"}]}), "True"),
                "is ready, but does not take every pod",
                vec!["only pods that tolerate a=b:NoSchedule come here"],
            ),
        ] {
            let answer = why(&world, &node);
            assert_eq!((answer.state.as_str(), answer.details.iter().map(String::as_str).collect::<Vec<_>>()), (state, details));
        }
    }
}
