//! A node must have what a pod asks for. Of those that have, the ones with most left over are preferred, or with another strategy those with
//! least, or by a function of their use.

use super::allocation::Allocation;
use crate::config::args::{LEAST_ALLOCATED, MOST_ALLOCATED, NodeResourcesFitArgs, ShapePoint};
use crate::framework::{ClusterEvent, Code, Context, CycleState, MAX_SCORE, Plugin, Point, Rejection, Verdict};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::resources::{self, CPU, EPHEMERAL_STORAGE, MEMORY, PODS, Resources, is_extended};
use k8s_openapi::api::core::v1::Node;
use std::borrow::Cow;

/// The best score in a function's points.
const BEST_POINT: i64 = 10;

/// See the module's description.
pub struct NodeResourcesFit {
    ignored: Vec<String>,
    ignored_groups: Vec<String>,
    resources: Vec<(String, i64)>,
    strategy: Strategy,
}

enum Strategy {
    Least,
    Most,
    /// Utilization in percent, score.
    Function(Vec<(i64, i64)>),
}

impl NodeResourcesFit {
    /// With the arguments of a profile.
    pub fn new(args: NodeResourcesFitArgs) -> Self {
        let scoring = args.scoring_strategy.unwrap_or_default();
        let point = |point: &ShapePoint| (i64::from(point.utilization), i64::from(point.score) * (MAX_SCORE / BEST_POINT));
        let strategy = match scoring.kind.as_str() {
            LEAST_ALLOCATED => Strategy::Least,
            MOST_ALLOCATED => Strategy::Most,
            _ => Strategy::Function(scoring.requested_to_capacity_ratio.unwrap_or_default().shape.iter().map(point).collect()),
        };
        let resources = scoring.resources.into_iter().map(|resource| (resource.name, resource.weight.max(1))).collect();
        Self { ignored: args.ignored_resources, ignored_groups: args.ignored_resource_groups, resources, strategy }
    }

    fn ignores(&self, resource: &str) -> bool {
        if self.ignored.is_empty() && self.ignored_groups.is_empty() {
            return false;
        }
        let group = resource.split('/').next().unwrap_or_default();
        is_extended(resource) && (self.ignored.iter().any(|name| name == resource) || self.ignored_groups.iter().any(|name| name == group))
    }
}

/// One resource of which a node has not enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// `cpu`, `memory`, `pods`, ...
    pub resource: Cow<'static, str>,
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
        short.push(Shortage { resource: PODS.into(), requested: 1, used: pods, capacity: node.allowed_pods });
    }
    missing(pod, &node.requested, &node.allocatable, &mut short);
    short
}

fn missing(pod: &PodInfo, requested: &Resources, allocatable: &Resources, short: &mut Vec<Shortage>) {
    let scalar = pod.requests.scalar.keys().map(|name| Cow::Owned(name.clone()));
    for resource in [CPU, MEMORY, EPHEMERAL_STORAGE].map(Cow::Borrowed).into_iter().chain(scalar) {
        let (wanted, used, capacity) = (pod.requests.get(&resource), requested.get(&resource), allocatable.get(&resource));
        if wanted > 0 && wanted > capacity - used {
            short.push(Shortage { resource, requested: wanted, used, capacity });
        }
    }
}

/// The resources that a pod asks for.
fn asked(pod: &PodInfo) -> impl Iterator<Item = &str> {
    let names = pod.requests.scalar.keys().map(String::as_str).chain([CPU, MEMORY, EPHEMERAL_STORAGE]);
    names.filter(|name| pod.requests.get(name) > 0)
}

/// What a node has for pods, and for how many.
fn room(node: &Node) -> (Resources, i64) {
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    (Resources::from_quantities(allocatable), allocatable.and_then(|amounts| amounts.get(PODS)).map_or(0, resources::value))
}

/// Whether a node has nothing of what it is short of, and a class of devices may have it.
fn may_be_devices(shortage: &Shortage) -> bool {
    shortage.capacity == 0 && shortage.resource.contains('/')
}

fn reason(shortage: &Shortage) -> Cow<'static, str> {
    match shortage.resource.as_ref() {
        PODS => "Too many pods".into(),
        CPU => "Insufficient cpu".into(),
        MEMORY => "Insufficient memory".into(),
        EPHEMERAL_STORAGE => "Insufficient ephemeral-storage".into(),
        other => format!("Insufficient {other}").into(),
    }
}

/// What a node has of a resource in percent is worth, between the points on straight lines.
fn on_function(points: &[(i64, i64)], utilization: i64) -> i64 {
    let mut before: Option<(i64, i64)> = None;
    for &(at, score) in points {
        if utilization <= at {
            return match before {
                None => score,
                Some((from, first)) => first + (score - first) * (utilization - from) / (at - from),
            };
        }
        before = Some((at, score));
    }
    before.map_or(0, |(_, score)| score)
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Filter, Point::Score]
    }

    fn looks_at_node_only(&self) -> bool {
        true
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo, context: &Context<'_>) -> Verdict {
        let mut short = shortages(pod, node);
        // What the node has nothing of may be devices of a class, which DynamicResources looks for.
        let is_devices = |shortage: &Shortage| may_be_devices(shortage) && context.listers.class_of_resource(&shortage.resource).is_some();
        short.retain(|shortage| !self.ignores(&shortage.resource) && !is_devices(shortage));
        if short.is_empty() {
            return Ok(());
        }
        // No preemption makes room for more than the node has.
        let never = short.iter().any(|s| s.resource != PODS && s.requested > s.capacity);
        let code = if never { Code::Unresolvable } else { Code::Unschedulable };
        Err(Rejection { code, reasons: short.iter().map(reason).collect(), plugin: "" })
    }

    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let (mut sum, mut weights) = (0, 0);
        for (resource, weight) in &self.resources {
            let Allocation { used, capacity } = Allocation::scored(pod, node, resource);
            if capacity == 0 {
                continue;
            }
            let score = match &self.strategy {
                Strategy::Least if used > capacity => 0,
                Strategy::Least => (capacity - used) * MAX_SCORE / capacity,
                Strategy::Most => used.min(capacity) * MAX_SCORE / capacity,
                Strategy::Function(points) => on_function(points, if used > capacity { 100 } else { used * 100 / capacity }),
            };
            // A function's zero does not weigh against other resources.
            if score > 0 || !matches!(self.strategy, Strategy::Function(_)) {
                sum += score * weight;
                weights += weight;
            }
        }
        match (&self.strategy, weights) {
            (_, 0) => 0,
            #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // Below 100.
            (Strategy::Function(_), weights) => (sum as f64 / weights as f64).round() as i64,
            (_, weights) => sum / weights,
        }
    }

    fn cures(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            // It may have taken a place of the pods' number, if nothing else.
            ClusterEvent::PodGone(_) => true,
            ClusterEvent::PodChanged { old, new } => asked(pod).any(|name| new.requests.get(name) < old.requests.get(name)),
            ClusterEvent::Itself { old, new } => {
                let mut most = new.requests.clone();
                most.max(&old.requests);
                most != new.requests
            }
            ClusterEvent::Node(changed) => {
                let (now, pods) = room(&changed.new);
                let mut short = Vec::new();
                missing(pod, &Resources::default(), &now, &mut short);
                // What the node has nothing of may be devices of a class.
                short.retain(|shortage| !self.ignores(&shortage.resource) && !may_be_devices(shortage));
                let is_more = |old: &Node| {
                    let (before, pods_before) = room(old);
                    pods > pods_before || asked(pod).any(|name| now.get(name) > before.get(name))
                };
                pods > 0 && short.is_empty() && changed.old.as_deref().is_none_or(is_more)
            }
            ClusterEvent::DeviceClass(_) => asked(pod).any(|name| name.contains('/')),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{self, node_info, pod};
    use crate::framework::Changed;
    use serde_json::{Value, json};
    use smallvec::{SmallVec, smallvec};

    fn plugin(args: Value) -> NodeResourcesFit {
        NodeResourcesFit::new(serde_json::from_value(args).unwrap())
    }

    fn asking(name: &str, requests: Value) -> std::sync::Arc<PodInfo> {
        pod(name, json!({"containers": [{"resources": {"requests": requests}}]}))
    }

    #[test]
    fn only_more_of_what_is_asked_for_helps() {
        let node = |allocatable: Value| fixtures::node("n", json!({"status": {"allocatable": allocatable}}));
        let pod = asking("a", json!({"cpu": "4"}));
        for (old, new, expected) in [
            (None, json!({}), true),
            (None, json!({"cpu": "3"}), false),
            (None, json!({"pods": "0"}), false),
            (Some(json!({})), json!({"memory": "16Gi"}), false),
            (Some(json!({})), json!({"cpu": "5"}), true),
            (Some(json!({"cpu": "2"})), json!({"cpu": "3"}), false),
            (Some(json!({"pods": "1"})), json!({"pods": "2"}), true),
        ] {
            let event = ClusterEvent::Node(Changed { old: old.clone().map(node), new: node(new.clone()) });
            assert_eq!(plugin(json!({})).cures(&pod, &event), expected, "{old:?} to {new}");
        }
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
            let verdict = fixtures::filter(&plugin(json!({})), &asking("a", requests.clone()), &node);
            let expected = (!reasons.is_empty()).then(|| (reasons.iter().map(|r| Cow::Borrowed(*r)).collect::<SmallVec<[_; 1]>>(), code));
            assert_eq!(verdict.err().map(|r| (r.reasons, r.code)), expected, "{requests}");
        }
        let full = node_info("n", json!({"status": {"allocatable": {"pods": "1"}}}), &[asking("there", json!({}))]);
        let refused = fixtures::filter(&plugin(json!({})), &asking("a", json!({})), &full).unwrap_err();
        assert_eq!((refused.reasons, refused.code), (smallvec![Cow::Borrowed("Too many pods")], Code::Unschedulable));
    }

    #[test]
    fn resources_of_others_are_left_to_them() {
        let node = node_info("n", json!({}), &[]);
        let gpu = asking("a", json!({"example.com/gpu": "1"}));
        for args in [json!({"ignoredResources": ["example.com/gpu"]}), json!({"ignoredResourceGroups": ["example.com"]})] {
            assert_eq!(fixtures::filter(&plugin(args), &gpu, &node), Ok(()));
        }
        assert!(fixtures::filter(&plugin(json!({"ignoredResources": ["example.com/other"]})), &gpu, &node).is_err());
    }

    #[test]
    fn strategies() {
        let (cpu, memory) = (json!({"name": "cpu", "weight": 1}), json!({"name": "memory", "weight": 1}));
        let strategy = |kind: &str, more: Value| {
            let mut strategy = json!({"type": kind, "resources": [cpu, memory]});
            strategy.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({ "scoringStrategy": strategy })
        };
        let filling = json!({"requestedToCapacityRatio": {"shape": [{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}]}});
        let gpu = json!({"resources": [{"name": "example.com/gpu", "weight": 3}, cpu]});
        let emptying = json!({"requestedToCapacityRatio": {"shape": [{"utilization": 50, "score": 10}, {"utilization": 100, "score": 0}]}});
        let ratio = "RequestedToCapacityRatio";
        // The pod with what it finds uses a quarter of the first node and three quarters of the second.
        for (args, expected) in [
            (json!({}), (75, 25)),
            (strategy("LeastAllocated", json!({})), (75, 25)),
            (strategy("MostAllocated", json!({})), (25, 75)),
            (strategy(ratio, filling), (25, 75)),
            (strategy(ratio, emptying), (100, 50)),
            // Nodes without GPUs, and pods that want none, are ranked by the rest.
            (strategy("LeastAllocated", gpu), (75, 25)),
        ] {
            let pod = asking("a", json!({"cpu": "1", "memory": "2Gi"}));
            let (empty, half) =
                (node_info("n", json!({}), &[]), node_info("n", json!({}), &[asking("b", json!({"cpu": "2", "memory": "4Gi"}))]));
            let score = |node: &NodeInfo| plugin(args.clone()).score(&CycleState::default(), &pod, node);
            assert_eq!((score(&empty), score(&half)), expected, "{args}");
        }
    }
}
