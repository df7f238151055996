//! What a plugin is, and what it is given and answers (upstream: `kube-scheduler/framework`).
//!
//! Every extension point has a default that lets everything pass, so a plugin writes only the ones it is for and names them in [`Plugin::points`].
//! All points but `pre_bind` and `bind` are pure: the same cycle state, pod and node give the same answer.

pub use crate::cycle_state::CycleState;
pub use crate::events::{Changed, ClusterEvent};

use crate::cycle::{Filters, FitError};
use crate::devices::DeviceStore;
use crate::extenders::Extenders;
use crate::listers::Listers;
use crate::memory::Memory;
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::preemption::Candidate;
use crate::snapshot::Snapshot;
use crate::volumes::VolumeStore;
use client::ObjectKey;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use smallvec::{SmallVec, smallvec};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The best score a node can have from one plugin, after normalising.
pub const MAX_SCORE: i64 = 100;

/// The places in a cycle at which plugins are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The methods of `Plugin` say it.
pub enum Point {
    PreEnqueue,
    QueueSort,
    PreFilter,
    Filter,
    PostFilter,
    PreScore,
    Score,
    Reserve,
    Permit,
    PreBind,
    Bind,
    PostBind,
}

impl Point {
    /// All of them, in the order in which a pod meets them.
    pub const ALL: [Self; 12] = [
        Self::PreEnqueue,
        Self::QueueSort,
        Self::PreFilter,
        Self::Filter,
        Self::PostFilter,
        Self::PreScore,
        Self::Score,
        Self::Reserve,
        Self::Permit,
        Self::PreBind,
        Self::Bind,
        Self::PostBind,
    ];
}

/// How final a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Preempting pods could help.
    Unschedulable,
    /// Preempting pods could not help.
    Unresolvable,
}

/// Why a plugin refuses a node or a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// How final it is.
    pub code: Code,
    /// `Insufficient cpu`, one text per reason; mostly there is one, and thousands of nodes give it.
    pub reasons: SmallVec<[Cow<'static, str>; 1]>,
    /// The plugin's name; the cycle fills it in.
    pub plugin: &'static str,
}

impl Rejection {
    /// Preemption could help.
    pub fn unschedulable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { code: Code::Unschedulable, reasons: smallvec![reason.into()], plugin: "" }
    }

    /// Preemption could not help.
    pub fn unresolvable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { code: Code::Unresolvable, ..Self::unschedulable(reason) }
    }

    /// The same, from this plugin.
    pub fn by(self, plugin: &'static str) -> Self {
        Self { plugin, ..self }
    }
}

/// Yes, or why not.
pub type Verdict = Result<(), Rejection>;

/// What a pre-filter has found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PreFilter {
    /// Nothing: filter every node.
    #[default]
    AllNodes,
    /// The filter would let every node pass; it is not called in this cycle.
    Skip,
    /// Only these nodes can pass.
    Nodes(BTreeSet<String>),
}

/// What a cycle is about.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The nodes.
    pub snapshot: &'a Snapshot,
    /// Everything else.
    pub listers: &'a dyn Listers,
}

/// A pod that fits nowhere, as the points after the filters are given it.
pub struct Unplaced<'a> {
    /// The pod.
    pub pod: &'a PodInfo,
    /// What the cycle is about.
    pub context: Context<'a>,
    /// What has refused it.
    pub filters: &'a Filters<'a>,
    /// What they have remembered.
    pub cycle: &'a CycleState,
    /// Why it fits nowhere.
    pub error: &'a FitError,
    /// Where to begin to look, at random: a position in the snapshot.
    pub offset: usize,
    /// What pods like it have found out.
    pub memory: &'a mut Memory,
    /// Who else has a say in it.
    pub extenders: &'a Extenders,
}

/// What a point after the filters has to offer a pod that fits nowhere.
pub enum PostFilter {
    /// Room will be made on this node.
    Nominate(Candidate),
    /// This claim is to give its devices back, so that others can be chosen elsewhere; what to tell users.
    Deallocate(ObjectKey, String),
    /// Nothing now; what to tell users.
    Nothing(String),
    /// Nothing, because it could not be found out; what to tell users, and nothing else is.
    Failed(String),
    /// Nothing, and room that was promised earlier does not help either; what to tell users.
    Hopeless(String),
}

/// What is done in the API, and may fail.
pub type Effect<'a> = BoxFuture<'a, anyhow::Result<()>>;

/// The cluster, as plugins may change it once a decision is made.
pub trait Handle: Send + Sync {
    /// Binds a pod to a node.
    fn bind<'a>(&'a self, pod: &'a Pod, node: &'a str) -> BoxFuture<'a, anyhow::Result<()>>;

    /// The objects that plugins look at.
    fn listers(&self) -> &dyn Listers;

    /// The volumes and claims, as they are assumed to become.
    fn volumes(&self) -> &dyn VolumeStore;

    /// The claims of devices, as they are decided to become.
    fn devices(&self) -> &dyn DeviceStore;
}

/// One plugin. See the module's description.
pub trait Plugin: Send + Sync {
    /// Its name, as upstream's configuration and metrics have it.
    fn name(&self) -> &'static str;

    /// Where it is called.
    fn points(&self) -> &'static [Point];

    /// Whether the pod may enter the queue at all.
    fn pre_enqueue(&self, pod: &PodInfo) -> Verdict {
        let _ = pod;
        Ok(())
    }

    /// Looks at the pod and all nodes once, and remembers what the filter needs.
    fn pre_filter(&self, cycle: &mut CycleState, pod: &PodInfo, context: &Context<'_>) -> Result<PreFilter, Rejection> {
        let _ = (cycle, pod, context);
        Ok(PreFilter::AllNodes)
    }

    /// Corrects what `pre_filter` has remembered, as if `other` were on the node too.
    fn add_pod(&self, cycle: &mut CycleState, pod: &PodInfo, other: &PodInfo, node: &NodeInfo) {
        let _ = (cycle, pod, other, node);
    }

    /// Corrects what `pre_filter` has remembered, as if `other` were not on the node.
    fn remove_pod(&self, cycle: &mut CycleState, pod: &PodInfo, other: &PodInfo, node: &NodeInfo) {
        let _ = (cycle, pod, other, node);
    }

    /// Whether the filter looks at nothing but what the pod's spec says and the node, so that it says the same of every pod with the same spec.
    fn looks_at_node_only(&self) -> bool {
        false
    }

    /// Whether the pod can run on the node.
    fn filter(&self, cycle: &CycleState, pod: &PodInfo, node: &NodeInfo, context: &Context<'_>) -> Verdict {
        let _ = (cycle, pod, node, context);
        Ok(())
    }

    /// What can be done for a pod that fits nowhere.
    fn post_filter(&self, unplaced: &mut Unplaced<'_>) -> PostFilter {
        let _ = unplaced;
        PostFilter::Nothing(String::new())
    }

    /// Looks at the pod and the nodes that passed, and remembers what scoring needs. `false`: no scoring in this cycle.
    fn pre_score(&self, cycle: &mut CycleState, pod: &PodInfo, nodes: &[Arc<NodeInfo>], context: &Context<'_>) -> bool {
        let _ = (cycle, pod, nodes, context);
        true
    }

    /// How well the node suits the pod; higher is better.
    fn score(&self, cycle: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let _ = (cycle, pod, node);
        0
    }

    /// Brings the nodes' scores into 0 to [`MAX_SCORE`].
    fn normalize(&self, cycle: &CycleState, nodes: &[Arc<NodeInfo>], scores: &mut [i64]) {
        let _ = (cycle, nodes, scores);
    }

    /// The pod is about to go to this node: takes what it will need there.
    fn reserve(&self, cycle: &mut CycleState, pod: &PodInfo, node: &NodeInfo, handle: &dyn Handle) -> Verdict {
        let _ = (cycle, pod, node, handle);
        Ok(())
    }

    /// It does not go there after all. Also called when `reserve` itself refused.
    fn unreserve(&self, cycle: &CycleState, pod: &PodInfo, handle: &dyn Handle) {
        let _ = (cycle, pod, handle);
    }

    /// The last word before binding.
    fn permit(&self, cycle: &CycleState, pod: &PodInfo, node: &str) -> Verdict {
        let _ = (cycle, pod, node);
        Ok(())
    }

    /// What has to be done in the API before the pod is bound; `None` if there is nothing.
    fn pre_bind<'a>(&'a self, cycle: &'a CycleState, pod: &'a PodInfo, node: &'a NodeInfo, handle: &'a dyn Handle) -> Option<Effect<'a>> {
        let _ = (cycle, pod, node, handle);
        None
    }

    /// Binds; `None` leaves it to the next plugin.
    fn bind<'a>(&'a self, handle: &'a dyn Handle, pod: &'a PodInfo, node: &'a str) -> Option<Effect<'a>> {
        let _ = (handle, pod, node);
        None
    }

    /// Whether an event could make this plugin accept a pod that it has refused.
    fn cures(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        let _ = (pod, event);
        false
    }
}

/// Scales scores so that the best is [`MAX_SCORE`]; `reverse` turns them round, for what is counted against a node.
pub fn scale(scores: &mut [i64], reverse: bool) {
    let best = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        *score = if best == 0 { 0 } else { *score * MAX_SCORE / best };
        if reverse {
            *score = MAX_SCORE - *score;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaling() {
        for (scores, reverse, expected) in [
            (vec![1, 2, 4], false, vec![25, 50, 100]),
            (vec![1, 2, 4], true, vec![75, 50, 0]),
            (vec![0, 0], false, vec![0, 0]),
            (vec![0, 0], true, vec![100, 100]),
        ] {
            let mut scaled = scores.clone();
            scale(&mut scaled, reverse);
            assert_eq!(scaled, expected, "{scores:?}");
        }
    }
}
