//! The arguments that the default plugins take (`pluginConfig`), with their defaults.

use super::file::Span;
use k8s_openapi::api::core::v1::{NodeAffinity, TopologySpreadConstraint};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// `DefaultPreemptionArgs`: how many nodes a try looks at, of those where preemption may help.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DefaultPreemptionArgs {
    /// At least this share, in percent.
    pub min_candidate_nodes_percentage: i32,
    /// And at least as many.
    pub min_candidate_nodes_absolute: i32,
}

impl Default for DefaultPreemptionArgs {
    fn default() -> Self {
        Self { min_candidate_nodes_percentage: 10, min_candidate_nodes_absolute: 100 }
    }
}

/// `DynamicResourcesArgs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DynamicResourcesArgs {
    /// How long devices for a node are looked for. Only read: the search is bounded by its steps.
    pub filter_timeout: Option<Span>,
    /// How long a pod waits for its devices to be ready.
    pub binding_timeout: Option<Span>,
}

impl Default for DynamicResourcesArgs {
    fn default() -> Self {
        Self { filter_timeout: Some(Span(Duration::from_secs(10))), binding_timeout: Some(Span(BINDING_TIMEOUT)) }
    }
}

/// How long a pod waits for its devices to be ready if nothing is said.
pub const BINDING_TIMEOUT: Duration = Duration::from_secs(600);

/// `InterPodAffinityArgs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InterPodAffinityArgs {
    /// What a placed pod's required affinity adds to the score of nodes near it.
    pub hard_pod_affinity_weight: i32,
    /// Preferences of placed pods only count where the pod has some of its own.
    pub ignore_preferred_terms_of_existing_pods: bool,
}

impl Default for InterPodAffinityArgs {
    fn default() -> Self {
        Self { hard_pod_affinity_weight: 1, ignore_preferred_terms_of_existing_pods: false }
    }
}

/// `NodeAffinityArgs`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeAffinityArgs {
    /// Affinity of every pod of the profile, besides its own.
    pub added_affinity: Option<NodeAffinity>,
}

/// A resource and what it counts for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceSpec {
    /// `cpu`.
    pub name: String,
    /// 1 if not given.
    #[serde(default)]
    pub weight: i64,
}

impl ResourceSpec {
    /// CPU and memory, which are looked at if nothing is said.
    pub fn defaults() -> Vec<Self> {
        ["cpu", "memory"].map(|name| Self { name: name.to_owned(), weight: 1 }).into()
    }
}

/// `NodeResourcesBalancedAllocationArgs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeResourcesBalancedAllocationArgs {
    /// What is to be in balance.
    pub resources: Vec<ResourceSpec>,
}

impl Default for NodeResourcesBalancedAllocationArgs {
    fn default() -> Self {
        Self { resources: ResourceSpec::defaults() }
    }
}

/// A point of the function from utilization to score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[derive(Default)]
pub struct ShapePoint {
    /// In percent.
    pub utilization: i32,
    /// 0 to 10.
    pub score: i32,
}

/// The function's points; straight lines between them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestedToCapacityRatio {
    /// With rising utilization.
    pub shape: Vec<ShapePoint>,
}

/// How fitting nodes are ranked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ScoringStrategy {
    /// `LeastAllocated`, `MostAllocated` or `RequestedToCapacityRatio`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What is looked at.
    pub resources: Vec<ResourceSpec>,
    /// For the strategy of that name.
    pub requested_to_capacity_ratio: Option<RequestedToCapacityRatio>,
}

/// Prefers nodes with most left over.
pub const LEAST_ALLOCATED: &str = "LeastAllocated";
/// Prefers nodes with least left over.
pub const MOST_ALLOCATED: &str = "MostAllocated";
/// Prefers nodes by a function of their use.
pub const REQUESTED_TO_CAPACITY_RATIO: &str = "RequestedToCapacityRatio";

impl Default for ScoringStrategy {
    fn default() -> Self {
        Self { kind: LEAST_ALLOCATED.to_owned(), resources: ResourceSpec::defaults(), requested_to_capacity_ratio: None }
    }
}

/// `NodeResourcesFitArgs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeResourcesFitArgs {
    /// Extended resources that somebody else looks after.
    pub ignored_resources: Vec<String>,
    /// The same by the part of their names before the slash.
    pub ignored_resource_groups: Vec<String>,
    /// How fitting nodes are ranked.
    pub scoring_strategy: Option<ScoringStrategy>,
}

impl Default for NodeResourcesFitArgs {
    fn default() -> Self {
        Self { ignored_resources: Vec::new(), ignored_resource_groups: Vec::new(), scoring_strategy: Some(ScoringStrategy::default()) }
    }
}

/// The scheduler's own default constraints.
pub const SYSTEM_DEFAULTING: &str = "System";
/// The default constraints that the arguments list.
pub const LIST_DEFAULTING: &str = "List";

/// `PodTopologySpreadArgs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodTopologySpreadArgs {
    /// For pods that name no constraints; they get a selector from what the pod belongs to.
    pub default_constraints: Vec<TopologySpreadConstraint>,
    /// `System` or `List`.
    pub defaulting_type: String,
}

impl Default for PodTopologySpreadArgs {
    fn default() -> Self {
        Self { default_constraints: Vec::new(), defaulting_type: SYSTEM_DEFAULTING.to_owned() }
    }
}

impl PodTopologySpreadArgs {
    /// The constraints of pods that name none: best effort over hosts and zones, unless a list says otherwise.
    pub fn defaults(&self) -> Vec<TopologySpreadConstraint> {
        if self.defaulting_type == LIST_DEFAULTING {
            return self.default_constraints.clone();
        }
        let soft = |key: &str, max_skew| TopologySpreadConstraint {
            topology_key: key.to_owned(),
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            max_skew,
            ..TopologySpreadConstraint::default()
        };
        vec![soft("kubernetes.io/hostname", 3), soft("topology.kubernetes.io/zone", 5)]
    }
}

/// `VolumeBindingArgs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeBindingArgs {
    /// How long a pod waits for its volumes to be bound.
    pub bind_timeout_seconds: i64,
    /// For scoring by the volumes' sizes.
    pub shape: Option<Vec<ShapePoint>>,
}

impl Default for VolumeBindingArgs {
    fn default() -> Self {
        Self { bind_timeout_seconds: 600, shape: None }
    }
}

/// The arguments of all plugins of a profile.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)] // Named for the plugins.
pub struct PluginArgs {
    pub default_preemption: DefaultPreemptionArgs,
    pub dynamic_resources: DynamicResourcesArgs,
    pub inter_pod_affinity: InterPodAffinityArgs,
    pub node_affinity: NodeAffinityArgs,
    pub balanced_allocation: NodeResourcesBalancedAllocationArgs,
    pub resources_fit: NodeResourcesFitArgs,
    pub topology_spread: PodTopologySpreadArgs,
    pub volume_binding: VolumeBindingArgs,
}
