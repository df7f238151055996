//! `nodeSelector` and node affinity: required terms refuse nodes, preferred ones add to a node's score.

use crate::config::args::NodeAffinityArgs;
use crate::framework::{ClusterEvent, Context, CycleState, Plugin, Point, PreFilter, Rejection, Verdict, scale};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::selector::term_matches;
use k8s_openapi::api::core::v1::{Node, NodeAffinity as Affinity, NodeSelectorTerm, PreferredSchedulingTerm};
use std::collections::BTreeSet;
use std::sync::Arc;

const REASON: &str = "node(s) didn't match Pod's node affinity/selector";

const ENFORCED: &str = "node(s) didn't match scheduler-enforced node affinity";

/// See the module's description.
#[derive(Default)]
pub struct NodeAffinity {
    /// Of all pods of the profile.
    added: Option<Affinity>,
}

impl NodeAffinity {
    /// With the arguments of a profile.
    pub fn new(args: NodeAffinityArgs) -> Self {
        Self { added: args.added_affinity }
    }

    fn preferred<'a>(&'a self, pod: &'a PodInfo) -> impl Iterator<Item = &'a PreferredSchedulingTerm> {
        let both = self.added.iter().chain(affinity(pod));
        both.flat_map(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten())
    }

    fn added_matches(&self, node: &Node) -> bool {
        let required = self.added.as_ref().and_then(|added| added.required_during_scheduling_ignored_during_execution.as_ref());
        required.is_none_or(|selector| selector.node_selector_terms.iter().any(|term| term_matches(term, node)))
    }
}

fn affinity(pod: &PodInfo) -> Option<&Affinity> {
    pod.spec().affinity.as_ref()?.node_affinity.as_ref()
}

fn required(pod: &PodInfo) -> Option<&[NodeSelectorTerm]> {
    let selector = affinity(pod)?.required_during_scheduling_ignored_during_execution.as_ref()?;
    Some(&selector.node_selector_terms)
}

/// Whether a node has what `nodeSelector` and the required affinity of a pod ask for.
pub fn matches_required(pod: &PodInfo, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let selected = pod.spec().node_selector.iter().flatten().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value));
    selected && required(pod).is_none_or(|terms| terms.iter().any(|term| term_matches(term, node)))
}

/// Whether a pod asks for anything that not every node need have.
pub fn has_required(pod: &PodInfo) -> bool {
    required(pod).is_some() || pod.spec().node_selector.as_ref().is_some_and(|selector| !selector.is_empty())
}

/// The node names that the required terms allow, if every term names some: what DaemonSet pods do.
fn named_nodes(terms: &[NodeSelectorTerm]) -> Option<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for term in terms {
        let fields = term.match_fields.iter().flatten().filter(|r| r.key == "metadata.name" && r.operator == "In");
        let allowed = fields.map(|r| r.values.iter().flatten().cloned().collect::<BTreeSet<_>>());
        names.extend(allowed.reduce(|a, b| a.intersection(&b).cloned().collect())?);
    }
    (!terms.is_empty()).then_some(names)
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::PreScore, Point::Score]
    }

    fn pre_filter(&self, _: &mut CycleState, pod: &PodInfo, _: &Context<'_>) -> Result<PreFilter, Rejection> {
        let enforced = self.added.as_ref().is_some_and(|added| added.required_during_scheduling_ignored_during_execution.is_some());
        if !has_required(pod) && !enforced {
            return Ok(PreFilter::Skip);
        }
        match required(pod).and_then(named_nodes) {
            Some(names) if names.is_empty() => Err(Rejection::unresolvable("pod affinity terms conflict")),
            Some(names) => Ok(PreFilter::Nodes(names)),
            None => Ok(PreFilter::AllNodes),
        }
    }

    fn looks_at_node_only(&self) -> bool {
        true
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo, _: &Context<'_>) -> Verdict {
        let Some(node) = &node.node else { return Err(Rejection::unresolvable(REASON)) };
        if !self.added_matches(node) {
            return Err(Rejection::unresolvable(ENFORCED));
        }
        if matches_required(pod, node) { Ok(()) } else { Err(Rejection::unresolvable(REASON)) }
    }

    fn pre_score(&self, _: &mut CycleState, pod: &PodInfo, _: &[Arc<NodeInfo>], _: &Context<'_>) -> bool {
        self.preferred(pod).next().is_some()
    }

    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let Some(node) = &node.node else { return 0 };
        self.preferred(pod).filter(|term| term_matches(&term.preference, node)).map(|term| i64::from(term.weight)).sum()
    }

    fn normalize(&self, _: &CycleState, _: &[Arc<NodeInfo>], scores: &mut [i64]) {
        scale(scores, false);
    }

    fn cures(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::Node(changed) => {
                let matches = |node: &Node| self.added_matches(node) && matches_required(pod, node);
                matches(&changed.new) && !changed.old.as_ref().is_some_and(|old| matches(old))
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{node, node_info, pod};
    use serde_json::{Value, json};

    fn requiring(terms: Value) -> Value {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
    }

    #[test]
    fn required_terms() {
        let node = node("n1", json!({"metadata": {"labels": {"zone": "a", "disk": "ssd"}}}));
        let zone = |value: &str| json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": [value]}]});
        let cases: [(Value, bool); 7] = [
            (json!({}), true),
            (json!({"nodeSelector": {"zone": "a"}}), true),
            (json!({"nodeSelector": {"zone": "b"}}), false),
            (requiring(json!([zone("a")])), true),
            (requiring(json!([zone("b"), zone("a")])), true),
            (requiring(json!([zone("b")])), false),
            (requiring(json!([{}])), false),
        ];
        for (spec, expected) in cases {
            assert_eq!(matches_required(&pod("a", spec.clone()), &node), expected, "{spec}");
        }
    }

    #[test]
    fn terms_that_name_nodes_narrow_the_search() {
        let named = |values: Value| json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": values}]});
        let labelled = json!({"matchExpressions": [{"key": "zone", "operator": "Exists"}]});
        let cases = [
            (requiring(json!([named(json!(["n1"])), named(json!(["n2"]))])), Some(vec!["n1", "n2"])),
            (requiring(json!([named(json!(["n1"])), labelled])), None),
        ];
        for (spec, expected) in cases {
            let pod = pod("a", spec);
            let names = required(&pod).and_then(named_nodes).map(|names| names.into_iter().collect::<Vec<_>>());
            assert_eq!(names, expected.map(|names| names.into_iter().map(str::to_owned).collect()));
        }
    }

    #[test]
    fn a_profile_can_add_affinity_to_all_pods() {
        let terms = json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]});
        let args = serde_json::from_value(json!({"addedAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}})).unwrap();
        let plugin = NodeAffinity::new(args);
        let in_zone = |zone: &str| node_info("n", json!({"metadata": {"labels": {"zone": zone}}}), &[]);
        let plain = pod("p", json!({}));
        assert_eq!(crate::fixtures::filter(&plugin, &plain, &in_zone("a")), Ok(()));
        assert_eq!(crate::fixtures::filter(&plugin, &plain, &in_zone("b")), Err(Rejection::unresolvable(ENFORCED)));
    }

    #[test]
    fn preferred_terms_add_up() {
        let term = |weight: i32, zone: &str| json!({"weight": weight, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}});
        let preferred = json!([term(10, "a"), term(30, "a"), term(50, "b")]);
        let pod = pod("a", json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}}));
        let in_zone = |zone: &str| node_info("n", json!({"metadata": {"labels": {"zone": zone}}}), &[]);
        let scores = ["a", "b", "c"].map(|zone| NodeAffinity::default().score(&CycleState::default(), &pod, &in_zone(zone)));
        assert_eq!(scores, [40, 50, 0]);
    }
}
