//! Node selectors, matched (upstream: `component-helpers/scheduling/corev1/nodeaffinity`). Label selectors are matched by `api`.

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm};

/// Whether a node matches one term: all of its requirements. A term without any matches nothing.
pub fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let (expressions, fields) = (term.match_expressions.as_deref().unwrap_or_default(), term.match_fields.as_deref().unwrap_or_default());
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
    // metadata.name is the only field there is.
    let field = |key: &str| (key == "metadata.name").then_some(node.metadata.name.as_deref()).flatten();
    expressions.iter().all(|r| node_requirement(r, label(&r.key))) && fields.iter().all(|r| node_requirement(r, field(&r.key)))
}

fn node_requirement(r: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    requirement(&r.operator, value, r.values.as_deref().unwrap_or_default())
}

fn requirement(operator: &str, value: Option<&str>, values: &[String]) -> bool {
    let listed = |value: &str| values.iter().any(|v| v == value);
    let ordered = |wanted: std::cmp::Ordering| {
        let number = |text: &str| text.parse::<i64>().ok();
        match (value.and_then(number), values.first().and_then(|v| number(v))) {
            (Some(value), Some(bound)) => value.cmp(&bound) == wanted,
            _ => false,
        }
    };
    match operator {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => ordered(std::cmp::Ordering::Greater),
        "Lt" => ordered(std::cmp::Ordering::Less),
        // Validation lets no other operator in; one that it does not know yet matches nothing.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn node_terms() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"cores": "8"}}})).unwrap();
        let cases: [(Value, bool); 6] = [
            (json!({}), false),
            (json!({"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["4"]}]}), true),
            (json!({"matchExpressions": [{"key": "cores", "operator": "Lt", "values": ["8"]}]}), false),
            (json!({"matchExpressions": [{"key": "absent", "operator": "Gt", "values": ["4"]}]}), false),
            (json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}), true),
            (json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}), false),
        ];
        for (term, expected) in cases {
            let parsed: NodeSelectorTerm = serde_json::from_value(term.clone()).unwrap();
            assert_eq!(term_matches(&parsed, &node), expected, "{term}");
        }
    }
}
