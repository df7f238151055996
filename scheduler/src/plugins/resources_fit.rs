//! A node must have what a pod asks for, and those with most left over are preferred (upstream's default strategy `LeastAllocated`).

use crate::framework::{ClusterEvent, Code, CycleState, MAX_SCORE, Plugin, Point, Rejection, Verdict};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::resources::{CPU, EPHEMERAL_STORAGE, MEMORY, Resources};

/// See the module's description.
pub struct NodeResourcesFit;

/// One resource of which a node has not enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// `cpu`, `memory`, `pods`, ...
    pub resource: String,
    /// What the pod asks for.
    pub requested: i64,
    /// What the node's pods have already.
    pub used: i64,
    /// What the node has in all.
    pub capacity: i64,
}

/// Of what a node has not enough for a pod.
pub fn shortages(pod: &PodInfo, node: &NodeInfo) -> Vec<Shortage> {
    let mut short = Vec::new();
    let pods = i64::try_from(node.pods.len()).unwrap_or(i64::MAX);
    if pods + 1 > node.allowed_pods {
        short.push(Shortage { resource: "pods".to_owned(), requested: 1, used: pods, capacity: node.allowed_pods });
    }
    let scalar = pod.requests.scalar.keys().map(String::as_str);
    for resource in [CPU, MEMORY, EPHEMERAL_STORAGE].into_iter().chain(scalar) {
        let (requested, used, capacity) = (pod.requests.get(resource), node.requested.get(resource), node.allocatable.get(resource));
        if requested > 0 && requested > capacity - used {
            short.push(Shortage { resource: resource.to_owned(), requested, used, capacity });
        }
    }
    short
}

fn share_left(scored: &Resources, node: &NodeInfo) -> i64 {
    let shares = [CPU, MEMORY].map(|resource| {
        let (capacity, used) = (node.allocatable.get(resource), node.scored.get(resource) + scored.get(resource));
        (capacity > 0).then(|| if used > capacity { 0 } else { (capacity - used) * MAX_SCORE / capacity })
    });
    let known: Vec<i64> = shares.into_iter().flatten().collect();
    known.iter().sum::<i64>() / i64::try_from(known.len().max(1)).unwrap_or(1)
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Filter, Point::Score]
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Verdict {
        let short = shortages(pod, node);
        if short.is_empty() {
            return Ok(());
        }
        // No preemption makes room for more than the node has.
        let never = short.iter().any(|s| s.resource != "pods" && s.requested > s.capacity);
        let reason = |s: &Shortage| if s.resource == "pods" { "Too many pods".to_owned() } else { format!("Insufficient {}", s.resource) };
        let code = if never { Code::Unresolvable } else { Code::Unschedulable };
        Err(Rejection { code, reasons: short.iter().map(reason).collect(), plugin: "" })
    }

    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        share_left(&pod.scored, node)
    }

    fn cures(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::PodGone(_) => true,
            ClusterEvent::PodChanged { old, new } => old.requests != new.requests,
            ClusterEvent::Node { old, new } => {
                let (before, now) = (old.as_ref().map(|old| NodeInfo::new(old.clone(), [])), NodeInfo::new(new.clone(), []));
                let more = before.is_none_or(|before| before.allocatable != now.allocatable || before.allowed_pods != now.allowed_pods);
                more && shortages(pod, &now).is_empty()
            }
            ClusterEvent::PodBound(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{node_info, pod};
    use serde_json::{Value, json};

    fn asking(name: &str, requests: Value) -> std::sync::Arc<PodInfo> {
        pod(name, json!({"containers": [{"resources": {"requests": requests}}]}))
    }

    #[test]
    fn what_fits() {
        let node =
            node_info("n", json!({"status": {"allocatable": {"pods": "2"}}}), &[asking("there", json!({"cpu": "3", "memory": "1Gi"}))]);
        let cases: [(Value, &[&str], Code); 5] = [
            (json!({"cpu": "1", "memory": "7Gi"}), &[], Code::Unschedulable),
            (json!({"cpu": "1001m"}), &["Insufficient cpu"], Code::Unschedulable),
            (json!({"cpu": "2", "memory": "8Gi"}), &["Insufficient cpu", "Insufficient memory"], Code::Unschedulable),
            (json!({"cpu": "5"}), &["Insufficient cpu"], Code::Unresolvable),
            (json!({"example.com/gpu": "1"}), &["Insufficient example.com/gpu"], Code::Unresolvable),
        ];
        for (requests, reasons, code) in cases {
            let verdict = NodeResourcesFit.filter(&CycleState::default(), &asking("a", requests.clone()), &node);
            let expected = (!reasons.is_empty()).then(|| (reasons.iter().map(|r| (*r).to_owned()).collect::<Vec<_>>(), code));
            assert_eq!(verdict.err().map(|r| (r.reasons, r.code)), expected, "{requests}");
        }
        let full = node_info("n", json!({"status": {"allocatable": {"pods": "1"}}}), &[asking("there", json!({}))]);
        let refused = NodeResourcesFit.filter(&CycleState::default(), &asking("a", json!({})), &full).unwrap_err();
        assert_eq!((refused.reasons, refused.code), (vec!["Too many pods".to_owned()], Code::Unschedulable));
    }

    #[test]
    fn emptier_nodes_score_higher() {
        let pod = asking("a", json!({"cpu": "1", "memory": "2Gi"}));
        let empty = node_info("n", json!({}), &[]);
        let half = node_info("n", json!({}), &[asking("b", json!({"cpu": "2", "memory": "4Gi"}))]);
        assert_eq!(NodeResourcesFit.score(&CycleState::default(), &pod, &empty), 75);
        assert_eq!(NodeResourcesFit.score(&CycleState::default(), &pod, &half), 25);
    }
}
