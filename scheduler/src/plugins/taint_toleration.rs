//! Taints keep pods away that do not tolerate them: `NoSchedule` and `NoExecute` refuse, `PreferNoSchedule` counts against the node.

use crate::framework::{ClusterEvent, Context, CycleState, Plugin, Point, Rejection, Verdict, scale};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use k8s_openapi::api::core::v1::{Node, Taint, Toleration};
use std::sync::Arc;

/// See the module's description.
pub struct TaintToleration;

/// Whether a toleration covers a taint. An empty key with `Exists` covers all, an empty effect every effect.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    fn text(field: &Option<String>) -> &str {
        field.as_deref().unwrap_or_default()
    }
    let (effect, key, value) = (text(&toleration.effect), text(&toleration.key), text(&toleration.value));
    let of_taint = taint.value.as_deref().unwrap_or_default();
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    let compared = |holds: fn(&i64, &i64) -> bool| match (of_taint.parse::<i64>(), value.parse::<i64>()) {
        (Ok(of_taint), Ok(bound)) => holds(&of_taint, &bound),
        _ => false,
    };
    match text(&toleration.operator) {
        "Exists" => true,
        "" | "Equal" => !key.is_empty() && value == of_taint,
        "Lt" => compared(i64::lt),
        "Gt" => compared(i64::gt),
        _ => false,
    }
}

/// The first taint with one of the effects that the pod does not tolerate.
pub fn untolerated<'a>(taints: &'a [Taint], pod: &PodInfo, effects: &[&str]) -> Option<&'a Taint> {
    let tolerations = pod.spec().tolerations.as_deref().unwrap_or_default();
    taints
        .iter()
        .find(|taint| effects.contains(&taint.effect.as_str()) && !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

const HARD: &[&str] = &["NoSchedule", "NoExecute"];
const SOFT: &[&str] = &["PreferNoSchedule"];

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Filter, Point::Score]
    }

    fn looks_at_node_only(&self) -> bool {
        true
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo, _: &Context<'_>) -> Verdict {
        match untolerated(node.taints(), pod, HARD) {
            None => Ok(()),
            Some(_) => Err(Rejection::unresolvable("node(s) had untolerated taint(s)")),
        }
    }

    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let against = node.taints().iter().filter(|taint| untolerated(std::slice::from_ref(taint), pod, SOFT).is_some()).count();
        i64::try_from(against).unwrap_or(i64::MAX)
    }

    fn normalize(&self, _: &CycleState, _: &[Arc<NodeInfo>], scores: &mut [i64]) {
        scale(scores, true);
    }

    fn cures(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        let changed = match event {
            ClusterEvent::Node(changed) => changed,
            ClusterEvent::Itself { old, new } => return old.spec().tolerations != new.spec().tolerations,
            _ => return false,
        };
        let tolerated = |node: &Node| {
            let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
            untolerated(taints, pod, HARD).is_none()
        };
        tolerated(&changed.new) && !changed.old.as_ref().is_some_and(|old| tolerated(old))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{self, node_info, pod};
    use serde_json::{Value, json};

    #[test]
    fn tolerations() {
        let taint = json!({"key": "k", "value": "v", "effect": "NoSchedule"});
        let cases: [(Value, bool); 10] = [
            (json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}), true),
            (json!({"key": "k", "value": "v"}), true),
            (json!({"key": "k", "value": "w"}), false),
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"operator": "Exists"}), true),
            (json!({"operator": "Exists", "effect": "NoExecute"}), false),
            (json!({"key": "other", "operator": "Exists"}), false),
            (json!({"value": "v"}), false),
            (json!({"key": "k", "operator": "Gt", "value": "1"}), false),
            (json!({"key": "k", "operator": "Unheard"}), false),
        ];
        let node = node_info("n", json!({"spec": {"taints": [taint]}}), &[]);
        for (toleration, expected) in cases {
            let pod = pod("a", json!({"tolerations": [toleration]}));
            assert_eq!(fixtures::filter(&TaintToleration, &pod, &node).is_ok(), expected, "{toleration}");
        }
    }

    #[test]
    fn soft_taints_count_against_a_node() {
        let soft = |key: &str| json!({"key": key, "effect": "PreferNoSchedule"});
        let nodes = [json!([]), json!([soft("a")]), json!([soft("a"), soft("b")])]
            .map(|taints| node_info("n", json!({"spec": {"taints": taints}}), &[]));
        let pod = pod("a", json!({}));
        let mut scores: Vec<i64> = nodes.iter().map(|node| TaintToleration.score(&CycleState::default(), &pod, node)).collect();
        TaintToleration.normalize(&CycleState::default(), &[], &mut scores);
        assert_eq!(scores, [100, 50, 0]);
    }
}
