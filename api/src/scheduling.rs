//! What a pod asks of a node and what a node asks of pods, as far as the objects alone say it: node selectors, required node affinity, taints, ports
//! (upstream: `component-helpers/scheduling/corev1`).

use k8s_openapi::api::core::v1::{ContainerPort, Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration};
use std::cmp::Ordering;

/// Whether a toleration covers a taint. An empty key with `Exists` covers all, an empty effect every effect.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |field: &Option<String>| field.clone().unwrap_or_default();
    let (effect, key, value) = (given(&toleration.effect), given(&toleration.key), given(&toleration.value));
    let of_taint = taint.value.as_deref().unwrap_or_default();
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    let compared = |wanted: Ordering| match (of_taint.parse::<i64>(), value.parse::<i64>()) {
        (Ok(of_taint), Ok(bound)) => of_taint.cmp(&bound) == wanted,
        _ => false,
    };
    match given(&toleration.operator).as_str() {
        "Exists" => true,
        "" | "Equal" => !key.is_empty() && value == of_taint,
        "Lt" => compared(Ordering::Less),
        "Gt" => compared(Ordering::Greater),
        _ => false,
    }
}

/// The first of a node's taints with one of these effects that no toleration covers.
pub fn untolerated<'a>(node: &'a Node, tolerations: &[Toleration], effects: &[&str]) -> Option<&'a Taint> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let mut felt = taints.filter(|taint| effects.contains(&taint.effect.as_str()));
    felt.find(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

/// Whether a node matches one term: all of its requirements. A term without any matches nothing.
pub fn matches_term(term: &NodeSelectorTerm, node: &Node) -> bool {
    let (labels, fields) = (term.match_expressions.as_deref().unwrap_or_default(), term.match_fields.as_deref().unwrap_or_default());
    let label = |key: &str| node.metadata.labels.as_ref()?.get(key).map(String::as_str);
    // There is no other field.
    let field = |key: &str| node.metadata.name.as_deref().filter(|_| key == "metadata.name");
    let all =
        labels.iter().all(|wanted| is_met(wanted, label(&wanted.key))) && fields.iter().all(|wanted| is_met(wanted, field(&wanted.key)));
    all && !(labels.is_empty() && fields.is_empty())
}

fn is_met(wanted: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = wanted.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|listed| listed == value));
    let number = |text: &str| text.parse::<i64>().ok();
    let compared = value.and_then(number).zip(values.first().and_then(|bound| number(bound))).map(|(value, bound)| value.cmp(&bound));
    match wanted.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared == Some(Ordering::Greater),
        "Lt" => compared == Some(Ordering::Less),
        // Validation lets no other in.
        _ => false,
    }
}

/// Whether a node has what `nodeSelector` and the required node affinity of a pod ask for.
pub fn is_selected(spec: &PodSpec, node: &Node) -> bool {
    let label = |key: &str| node.metadata.labels.as_ref()?.get(key);
    let required = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = required.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    spec.node_selector.iter().flatten().all(|(key, value)| label(key) == Some(value))
        && required.is_none_or(|required| required.node_selector_terms.iter().any(|term| matches_term(term, node)))
}

/// A port of the node that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// The node's address; `0.0.0.0` is all of them.
    pub ip: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The port.
    pub port: i32,
}

/// All of a node's addresses.
const ANY_ADDRESS: &str = "0.0.0.0";

impl HostPort {
    /// Whether both cannot be had on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || self.ip == ANY_ADDRESS || other.ip == ANY_ADDRESS)
    }
}

/// The node's ports that a pod takes: those of its containers, sidecars among them.
pub fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let text = |field: &Option<String>, default: &str| field.clone().filter(|text| !text.is_empty()).unwrap_or_else(|| default.to_owned());
    let host_port = |port: &ContainerPort| {
        let number = port.host_port.filter(|number| *number > 0)?;
        Some(HostPort { ip: text(&port.host_ip, ANY_ADDRESS), protocol: text(&port.protocol, "TCP"), port: number })
    };
    ports.filter_map(host_port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn tolerations() {
        let taint: Taint = serde_json::from_value(json!({"key": "k", "value": "5", "effect": "NoSchedule"})).unwrap();
        let cases = [
            (json!({"key": "k", "operator": "Equal", "value": "5", "effect": "NoSchedule"}), true),
            (json!({"key": "k", "value": "5"}), true),
            (json!({"key": "k", "value": "6"}), false),
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"operator": "Exists"}), true),
            (json!({"operator": "Exists", "effect": "NoExecute"}), false),
            (json!({"key": "other", "operator": "Exists"}), false),
            (json!({"value": "5"}), false),
            (json!({"key": "k", "operator": "Gt", "value": "4"}), true),
            (json!({"key": "k", "operator": "Lt", "value": "5"}), false),
            (json!({"key": "k", "operator": "Unheard"}), false),
        ];
        for (toleration, expected) in cases {
            assert_eq!(tolerates(&serde_json::from_value(toleration.clone()).unwrap(), &taint), expected, "{toleration}");
        }
    }

    #[test]
    fn nodes_that_are_selected() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"cores": "8", "zone": "a"}}})).unwrap();
        let affinity = |terms: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}});
        let label = |key: &str, operator: &str, values: Value| {
            affinity(json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]))
        };
        let name = |name: &str| json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]});
        let cases = [
            (json!({}), true),
            (json!({"nodeSelector": {"zone": "a"}}), true),
            (json!({"nodeSelector": {"zone": "b"}}), false),
            (affinity(json!([{}])), false),
            (affinity(json!([])), false),
            (affinity(json!([name("n2"), name("n1")])), true),
            (affinity(json!([name("n2")])), false),
            (label("cores", "Gt", json!(["4"])), true),
            (label("cores", "Lt", json!(["8"])), false),
            (label("absent", "Gt", json!(["4"])), false),
            (label("absent", "NotIn", json!(["4"])), true),
            (label("zone", "Exists", json!(null)), true),
            (label("zone", "DoesNotExist", json!(null)), false),
        ];
        for (mut spec, expected) in cases {
            spec["containers"] = json!([]);
            assert_eq!(is_selected(&serde_json::from_value(spec.clone()).unwrap(), &node), expected, "{spec}");
        }
    }
}
