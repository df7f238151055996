//! Selectors, matched. Label selectors become values that can be compared and used as keys, so that counts of what they select can be kept;
//! node selectors follow upstream's `component-helpers/scheduling/corev1/nodeaffinity`.

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::collections::BTreeMap;

type Labels = BTreeMap<String, String>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

/// A label selector: two that ask for the same are equal. Without a selector nothing is selected, by an empty one everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector(Option<Vec<Requirement>>);

impl Selector {
    /// What selects nothing.
    pub const NOTHING: Self = Self(None);

    /// From the API's form; one that is malformed selects nothing.
    pub fn of(selector: Option<&LabelSelector>) -> Self {
        let Some(selector) = selector else { return Self::NOTHING };
        let mut requirements = Self::equal(selector.match_labels.iter().flatten()).0.unwrap_or_default();
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                _ => return Self::NOTHING,
            };
            let mut values = expression.values.clone().unwrap_or_default();
            values.sort();
            requirements.push(Requirement { key: expression.key.clone(), operator, values });
        }
        requirements.sort();
        requirements.dedup();
        Self(Some(requirements))
    }

    /// Labels that must all be there.
    pub fn equal<'l>(labels: impl IntoIterator<Item = (&'l String, &'l String)>) -> Self {
        let require =
            |(key, value): (&String, &String)| Requirement { key: key.clone(), operator: Operator::In, values: vec![value.clone()] };
        let mut requirements: Vec<_> = labels.into_iter().map(require).collect();
        requirements.sort();
        Self(Some(requirements))
    }

    /// What both select.
    pub fn and(self, other: Self) -> Self {
        let (Some(mut requirements), Some(more)) = (self.0, other.0) else { return Self::NOTHING };
        requirements.extend(more);
        requirements.sort();
        requirements.dedup();
        Self(Some(requirements))
    }

    /// Whether it asks for nothing, and so selects everything.
    pub fn is_everything(&self) -> bool {
        self.0.as_ref().is_some_and(Vec::is_empty)
    }

    /// Whether it selects what has these labels.
    pub fn matches(&self, labels: Option<&Labels>) -> bool {
        self.0.as_ref().is_some_and(|requirements| {
            requirements.iter().all(|requirement| {
                let value = labels.and_then(|labels| labels.get(&requirement.key));
                match requirement.operator {
                    Operator::In => value.is_some_and(|value| requirement.values.contains(value)),
                    Operator::NotIn => value.is_none_or(|value| !requirement.values.contains(value)),
                    Operator::Exists => value.is_some(),
                    Operator::DoesNotExist => value.is_none(),
                }
            })
        })
    }
}

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
    fn label_selectors() {
        let labels: Labels = serde_json::from_value(json!({"app": "web", "tier": "a"})).unwrap();
        let parse = |selector: &Value| Selector::of(Some(&serde_json::from_value(selector.clone()).unwrap()));
        let expression = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        let cases: [(Value, bool); 9] = [
            (json!({}), true),
            (json!({"matchLabels": {"app": "web"}}), true),
            (json!({"matchLabels": {"app": "db"}}), false),
            (expression("app", "In", &["db", "web"]), true),
            (expression("app", "NotIn", &["web"]), false),
            (expression("none", "NotIn", &["web"]), true),
            (expression("app", "Exists", &[]), true),
            (expression("app", "DoesNotExist", &[]), false),
            (expression("app", "Near", &["web"]), false),
        ];
        for (selector, expected) in cases {
            assert_eq!(parse(&selector).matches(Some(&labels)), expected, "{selector}");
        }
        assert!(!Selector::NOTHING.matches(Some(&labels)) && !Selector::of(None).matches(None));
        assert_eq!(parse(&json!({"matchLabels": {"app": "web"}})), parse(&expression("app", "In", &["web"])), "the same, said differently");
        assert_eq!(parse(&expression("a", "In", &["x", "y"])), parse(&expression("a", "In", &["y", "x"])));
        let both = parse(&json!({"matchLabels": {"app": "web"}})).and(parse(&json!({"matchLabels": {"tier": "b"}})));
        assert!(!both.matches(Some(&labels)));
    }

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
