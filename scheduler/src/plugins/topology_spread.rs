//! Spreads pods over domains of the cluster (`topologySpreadConstraints`): `DoNotSchedule` refuses nodes of domains that have too many already,
//! `ScheduleAnyway` prefers the others.
//!
//! Left out: the constraints that upstream assumes for pods of a Service or ReplicaSet that name none.

use super::{node_affinity::matches_required, taint_toleration::untolerated};
use crate::framework::{ClusterEvent, Context, CycleState, MAX_SCORE, Plugin, Point, PreFilter, Rejection, Verdict};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use api::validation::labels;
use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use std::collections::HashMap;
use std::sync::Arc;

/// See the module's description.
pub struct PodTopologySpread;

const TOO_MANY: &str = "node(s) didn't match pod topology spread constraints";
const NO_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

fn constraints<'a>(pod: &'a PodInfo, what: &'static str) -> impl Iterator<Item = &'a TopologySpreadConstraint> + Clone {
    pod.spec()
        .topology_spread_constraints
        .as_deref()
        .unwrap_or_default()
        .iter()
        .filter(move |constraint| constraint.when_unsatisfiable == what)
}

/// Whether `other` counts for a constraint of `pod`.
fn counts(constraint: &TopologySpreadConstraint, pod: &PodInfo, other: &PodInfo) -> bool {
    let same = |key: &String| pod.label(key).is_none_or(|value| other.label(key) == Some(value));
    other.namespace() == pod.namespace()
        && constraint.label_selector.as_ref().is_some_and(|selector| labels::matches(selector, other.pod.metadata.labels.as_ref()))
        && constraint.match_label_keys.iter().flatten().all(same)
}

/// Whether a node's pods count at all: by default only nodes that the pod's affinity allows do, whatever their taints.
fn is_eligible(constraint: &TopologySpreadConstraint, pod: &PodInfo, node: &NodeInfo) -> bool {
    let honours_affinity = constraint.node_affinity_policy.as_deref() != Some("Ignore");
    let honours_taints = constraint.node_taints_policy.as_deref() == Some("Honor");
    (!honours_affinity || node.node.as_ref().is_some_and(|node| matches_required(pod, node)))
        && (!honours_taints || untolerated(node.taints(), pod, &["NoSchedule", "NoExecute"]).is_none())
}

/// How many pods each domain has, for one constraint. Nodes without all of `keys` are left out.
fn domains(constraint: &TopologySpreadConstraint, keys: &[&str], pod: &PodInfo, nodes: &[Arc<NodeInfo>]) -> HashMap<String, i64> {
    let mut domains = HashMap::new();
    for node in nodes {
        let Some(domain) = node.label(&constraint.topology_key).filter(|_| keys.iter().all(|key| node.label(key).is_some())) else {
            continue;
        };
        if !is_eligible(constraint, pod, node) {
            continue;
        }
        let matching =
            node.pods.iter().filter(|other| !other.is_terminating() && other.uid() != pod.uid() && counts(constraint, pod, other)).count();
        *domains.entry(domain.to_owned()).or_insert(0) += i64::try_from(matching).unwrap_or(i64::MAX);
    }
    domains
}

/// Pods per domain, for every constraint that refuses.
struct Hard(Vec<HashMap<String, i64>>);

/// Pods per domain and the constraint's weight, for every constraint that prefers.
struct Soft(Vec<(HashMap<String, i64>, f64)>);

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::PreScore, Point::Score]
    }

    fn pre_filter(&self, cycle: &mut CycleState, pod: &PodInfo, context: &Context<'_>) -> Result<PreFilter, Rejection> {
        let hard = constraints(pod, "DoNotSchedule");
        let keys: Vec<&str> = hard.clone().map(|constraint| constraint.topology_key.as_str()).collect();
        if keys.is_empty() {
            return Ok(PreFilter::Skip);
        }
        cycle.put(Hard(hard.map(|constraint| domains(constraint, &keys, pod, context.snapshot.nodes())).collect()));
        Ok(PreFilter::AllNodes)
    }

    fn filter(&self, cycle: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Verdict {
        let Some(Hard(counted)) = cycle.get() else { return Ok(()) };
        for (constraint, domains) in constraints(pod, "DoNotSchedule").zip(counted) {
            let Some(domain) = node.label(&constraint.topology_key) else { return Err(Rejection::unresolvable(NO_LABEL)) };
            let enough = domains.len() >= usize::try_from(constraint.min_domains.unwrap_or(1)).unwrap_or(1);
            let fewest = if enough { domains.values().copied().min().unwrap_or(0) } else { 0 };
            let own = i64::from(counts(constraint, pod, pod));
            if domains.get(domain).copied().unwrap_or(0) + own - fewest > i64::from(constraint.max_skew) {
                return Err(Rejection::unschedulable(TOO_MANY));
            }
        }
        Ok(())
    }

    fn pre_score(&self, cycle: &mut CycleState, pod: &PodInfo, _: &[Arc<NodeInfo>], context: &Context<'_>) -> bool {
        let soft = constraints(pod, "ScheduleAnyway");
        let keys: Vec<&str> = soft.clone().map(|constraint| constraint.topology_key.as_str()).collect();
        if keys.is_empty() {
            return false;
        }
        let weighed = soft.map(|constraint| {
            let domains = domains(constraint, &keys, pod, context.snapshot.nodes());
            // Of many domains each has few pods; the weight evens that out.
            #[allow(clippy::cast_precision_loss)] // A count of domains.
            let weight = (domains.len() as f64 + 2.0).ln();
            (domains, weight)
        });
        cycle.put(Soft(weighed.collect()));
        true
    }

    fn score(&self, cycle: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let Some(Soft(weighed)) = cycle.get() else { return 0 };
        let mut score = 0.0;
        for (constraint, (domains, weight)) in constraints(pod, "ScheduleAnyway").zip(weighed) {
            let Some(count) = node.label(&constraint.topology_key).and_then(|domain| domains.get(domain)) else { return -1 };
            #[allow(clippy::cast_precision_loss)] // A count of pods.
            let count = *count as f64;
            score += count * weight + f64::from(constraint.max_skew - 1);
        }
        #[allow(clippy::cast_possible_truncation)] // Pods times a small weight.
        let rounded = score.round() as i64;
        rounded
    }

    fn normalize(&self, _: &CycleState, _: &[Arc<NodeInfo>], scores: &mut [i64]) {
        // Below 0 are nodes without the labels: the worst.
        let known = || scores.iter().copied().filter(|score| *score >= 0);
        let (fewest, most) = (known().min().unwrap_or(0), known().max().unwrap_or(0));
        for score in scores {
            *score = match *score {
                unknown if unknown < 0 => 0,
                _ if most == 0 => MAX_SCORE,
                count => MAX_SCORE * (most + fewest - count) / most,
            };
        }
    }

    fn cures(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        let mut constraints = constraints(pod, "DoNotSchedule");
        match event {
            ClusterEvent::Node { new, .. } => {
                let labels = new.metadata.labels.as_ref();
                constraints.all(|constraint| labels.is_some_and(|labels| labels.contains_key(&constraint.topology_key)))
            }
            ClusterEvent::PodBound(other) | ClusterEvent::PodGone(other) => constraints.any(|constraint| counts(constraint, pod, other)),
            ClusterEvent::PodChanged { old, new } => {
                constraints.any(|constraint| counts(constraint, pod, old) != counts(constraint, pod, new))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{labelled_pod, node_info};
    use crate::framework::NoNamespaces;
    use crate::snapshot::Snapshot;
    use serde_json::{Value, json};

    fn spread(more: Value) -> Arc<PodInfo> {
        let mut constraint = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}});
        constraint.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        labelled_pod("new", json!({"app": "web"}), json!({"topologySpreadConstraints": [constraint]}))
    }

    /// Zone a has two pods of the app, zone b one, and one node has no zone.
    fn nodes() -> Vec<NodeInfo> {
        let web = |name: &str| labelled_pod(name, json!({"app": "web"}), json!({}));
        let zone = |zone: &str| json!({"metadata": {"labels": {"zone": zone}}});
        vec![
            node_info("a1", zone("a"), &[web("1")]),
            node_info("a2", zone("a"), &[web("2"), labelled_pod("other", json!({"app": "db"}), json!({}))]),
            node_info("b1", zone("b"), &[web("3")]),
            node_info("none", json!({}), &[]),
        ]
    }

    #[test]
    fn domains_with_too_many_are_refused() {
        let snapshot = Snapshot::new(nodes());
        let nominated = HashMap::new();
        let context = Context { snapshot: &snapshot, namespaces: &NoNamespaces, nominated: &nominated };
        for (more, expected) in [
            (json!({}), ["too many", "too many", "fits", "no label"]),
            (json!({"maxSkew": 2}), ["fits", "fits", "fits", "no label"]),
            (json!({"minDomains": 3}), ["too many", "too many", "too many", "no label"]),
            (json!({"labelSelector": {"matchLabels": {"app": "db"}}}), ["fits", "fits", "fits", "no label"]),
        ] {
            let (pod, mut cycle) = (spread(more.clone()), CycleState::default());
            assert_eq!(PodTopologySpread.pre_filter(&mut cycle, &pod, &context), Ok(PreFilter::AllNodes));
            let verdict = |node: &Arc<NodeInfo>| match PodTopologySpread.filter(&cycle, &pod, node) {
                Ok(()) => "fits",
                Err(rejection) if rejection.reasons == [NO_LABEL] => "no label",
                Err(_) => "too many",
            };
            assert_eq!(snapshot.nodes().iter().map(verdict).collect::<Vec<_>>(), expected, "{more}");
        }
    }

    #[test]
    fn emptier_domains_score_higher() {
        let snapshot = Snapshot::new(nodes());
        let nominated = HashMap::new();
        let context = Context { snapshot: &snapshot, namespaces: &NoNamespaces, nominated: &nominated };
        let (pod, mut cycle) = (spread(json!({"whenUnsatisfiable": "ScheduleAnyway"})), CycleState::default());
        assert!(PodTopologySpread.pre_score(&mut cycle, &pod, snapshot.nodes(), &context));
        let mut scores: Vec<i64> = snapshot.nodes().iter().map(|node| PodTopologySpread.score(&cycle, &pod, node)).collect();
        PodTopologySpread.normalize(&cycle, snapshot.nodes(), &mut scores);
        assert_eq!(scores, [33, 33, 100, 0]);
    }
}
