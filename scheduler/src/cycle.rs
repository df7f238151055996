//! One decision: of all nodes, those on which the pod can run, and of these the best (upstream: `schedule_one.go`). Pure but for the random
//! choice among equals and what [`crate::extenders`] answer, which come in as parameters.

use crate::extenders::{EXTENDER, Extenders};
use crate::framework::{Code, Context, CycleState, Plugin, Point, PostFilter, PreFilter, Rejection, Unplaced, Verdict};
use crate::memory::Memory;
use crate::node_info::NodeInfo;
use crate::plugins::{Called, PluginSet};
use crate::pod_info::PodInfo;
use crate::preemption::Candidate;
use crate::stopwatch::Stopwatch;
use client::ObjectKey;
use rand::Rng;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// With fewer nodes than this, all are looked at.
const ENOUGH: usize = 100;
/// In a cycle whose plugins are measured, a filter is on so many nodes: there may be thousands.
const MEASURED: u64 = 10;
/// Of many nodes, at least this share is looked at, in percent.
const SMALLEST_SHARE: usize = 5;

/// A node was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Its name.
    pub node: String,
    /// Nodes looked at.
    pub evaluated: usize,
    /// Of these, nodes on which the pod can run.
    pub feasible: usize,
}

/// No node was found, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FitError {
    /// How many nodes there are.
    pub nodes: usize,
    /// Why not this node, by its position in the snapshot; in the order in which they were looked at.
    pub rejected: Vec<(usize, Rejection)>,
    /// Why no node that is not in `rejected`.
    pub others: Option<Rejection>,
    /// A refusal of the pod as such, before any node was looked at.
    pub pre_filter: Option<Rejection>,
    /// What preemption said; empty if it found a way.
    pub post_filter: String,
    /// An extender left nodes out that the filters let pass.
    pub by_extender: bool,
    /// An extender has failed that has to be asked: nothing is known, and this is why.
    pub failure: Option<String>,
}

impl FitError {
    /// The names of the plugins that refused.
    pub fn plugins(&self) -> BTreeSet<&'static str> {
        let rejections = runs(&self.rejected).map(|(rejection, _)| rejection).chain(&self.others).chain(&self.pre_filter);
        let plugins = rejections.map(|rejection| rejection.plugin).filter(|plugin| !plugin.is_empty());
        plugins.chain(self.by_extender.then_some(EXTENDER)).collect()
    }

    /// The sentence that users know: how many nodes, and how many of them for which reason.
    pub fn message(&self) -> String {
        if let Some(failure) = &self.failure {
            return failure.clone();
        }
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut message = format!("0/{} nodes are available:", self.nodes);
        match &self.pre_filter {
            Some(rejection) => message += &format!(" {}.", rejection.reasons.join(", ")),
            None => {
                let counted = histogram(self.nodes, &self.rejected, self.others.as_ref());
                if !counted.is_empty() {
                    message += &format!(" {counted}.");
                }
            }
        }
        if !self.post_filter.is_empty() {
            message += &format!(" {}", self.post_filter);
        }
        message
    }

    /// Why not the node at this position.
    pub fn rejection(&self, position: usize) -> Option<&Rejection> {
        self.rejected
            .iter()
            .find(|(of, _)| *of == position)
            .map(|(_, rejection)| rejection)
            .or(self.others.as_ref())
            .or(self.pre_filter.as_ref())
    }
}

/// Refusals with the number of nodes in a row that have the same.
fn runs(rejected: &[(usize, Rejection)]) -> impl Iterator<Item = (&Rejection, usize)> {
    rejected.chunk_by(|(_, a), (_, b)| a == b).filter_map(|run| run.first().map(|(_, rejection)| (rejection, run.len())))
}

/// `1 Insufficient cpu, 2 node(s) were unschedulable`, sorted as text.
fn histogram(nodes: usize, rejected: &[(usize, Rejection)], others: Option<&Rejection>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (rejection, nodes) in runs(rejected) {
        for reason in &rejection.reasons {
            *counts.entry(reason).or_default() += nodes;
        }
    }
    let unnamed = nodes.saturating_sub(rejected.len());
    if unnamed > 0 {
        for reason in others.into_iter().flat_map(|rejection| &rejection.reasons) {
            *counts.entry(reason).or_default() += unnamed;
        }
    }
    let mut lines: Vec<String> = counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    lines.sort();
    lines.join(", ")
}

/// `0/3 nodes are available: 1 ..., 2 ....`, for preemption's part of the message.
pub fn unavailable(nodes: usize, rejected: &[(usize, Rejection)], others: &Rejection) -> String {
    format!("0/{nodes} nodes are available: {}.", histogram(nodes, rejected, Some(others)))
}

/// What a decision is given beside the cluster, and what it leaves to the next.
#[derive(Default)]
pub struct Search {
    /// Who else is asked.
    pub extenders: Arc<Extenders>,
    /// What measures it.
    pub stopwatch: Stopwatch,
    /// How many decisions there were.
    pub decisions: u32,
    /// The share of nodes to look at in percent; 0 chooses by their number.
    pub percentage: usize,
    /// Where the next search starts, so that all nodes get their turn.
    pub start: usize,
    /// What it has found out.
    pub memory: Memory,
}

impl Search {
    /// How many feasible nodes suffice.
    fn sufficient(&self, nodes: usize) -> usize {
        if nodes < ENOUGH || self.percentage >= 100 {
            return nodes;
        }
        let share = if self.percentage > 0 { self.percentage } else { 50_usize.saturating_sub(nodes / 125).max(SMALLEST_SHARE) };
        (nodes * share / 100).max(ENOUGH)
    }
}

/// What the pre-filters left to do.
pub struct Filters<'a> {
    /// With how often they were called.
    plugins: Vec<(&'a Called, Cell<u64>)>,
    stopwatch: Stopwatch,
    /// Those that correct what they have remembered when something is tried out.
    correcting: Vec<&'a dyn Plugin>,
    /// Only these nodes, if set.
    only: Option<(BTreeSet<String>, BTreeSet<&'static str>)>,
}

/// Counts what was called: here for every node, and only now where others count, too.
impl Drop for Filters<'_> {
    fn drop(&mut self) {
        for (called, calls) in &self.plugins {
            called.evaluations.fetch_add(calls.get(), Ordering::Relaxed);
        }
    }
}

impl Filters<'_> {
    /// Nothing to do.
    pub fn none() -> Self {
        Filters { plugins: Vec::new(), stopwatch: Stopwatch::default(), correcting: Vec::new(), only: None }
    }
}

/// Runs the pre-filters.
pub fn pre_filter<'a>(
    plugins: &'a PluginSet,
    cycle: &mut CycleState,
    pod: &PodInfo,
    context: &Context<'_>,
    stopwatch: &Stopwatch,
) -> Result<Filters<'a>, Rejection> {
    let (mut skipped, mut correcting) = (BTreeSet::new(), Vec::new());
    let mut only = None::<(BTreeSet<String>, BTreeSet<&'static str>)>;
    for called in plugins.called_at(Point::PreFilter) {
        let plugin = called.plugin.as_ref();
        let answer = stopwatch.plugin(called, "PreFilter", || plugin.pre_filter(cycle, pod, context));
        match answer.map_err(|rejection| rejection.by(plugin.name()))? {
            PreFilter::Skip => {
                skipped.insert(plugin.name());
                continue;
            }
            PreFilter::AllNodes => {}
            PreFilter::Nodes(names) => {
                let (so_far, by) = only.take().unwrap_or_else(|| (names.clone(), BTreeSet::new()));
                let both: BTreeSet<String> = so_far.intersection(&names).cloned().collect();
                let by: BTreeSet<&'static str> = by.into_iter().chain([plugin.name()]).collect();
                if both.is_empty() {
                    let list: Vec<&str> = by.iter().copied().collect();
                    let reason = match list.as_slice() {
                        [one] => format!("node(s) didn't satisfy plugin {one}"),
                        several => format!("node(s) didn't satisfy plugin(s) [{}] simultaneously", several.join(" ")),
                    };
                    return Err(Rejection::unresolvable(reason).by(plugin.name()));
                }
                only = Some((both, by));
            }
        }
        correcting.push(plugin);
    }
    let asked = plugins.called_at(Point::Filter).iter().filter(|called| !skipped.contains(called.plugin.name()));
    Ok(Filters { plugins: asked.map(|called| (called, Cell::new(0))).collect(), stopwatch: stopwatch.clone(), correcting, only })
}

impl Filters<'_> {
    /// Whether the pod can run on a node, the first refusal if not.
    pub fn check(&self, cycle: &CycleState, pod: &PodInfo, node: &NodeInfo, context: &Context<'_>) -> Verdict {
        for (called, calls) in &self.plugins {
            let run = || called.plugin.filter(cycle, pod, node, context);
            let measured = self.stopwatch.measures_plugins() && calls.get() < MEASURED;
            let verdict = if measured { self.stopwatch.calls(called, "Filter", 0, run) } else { run() };
            calls.set(calls.get() + 1);
            verdict.map_err(|rejection| rejection.by(called.plugin.name()))?;
        }
        Ok(())
    }

    /// The same with the pods in mind that have been promised room there by preemption: it must fit with and without them.
    pub fn check_with_nominated(&self, cycle: &CycleState, pod: &PodInfo, node: &NodeInfo, context: &Context<'_>) -> Verdict {
        let ahead = || node.nominated.iter().filter(|other| other.uid() != pod.uid() && other.priority() >= pod.priority());
        if ahead().next().is_some() {
            let (mut fuller, mut cycle) = (node.clone(), cycle.clone());
            ahead().for_each(|other| self.add(&mut cycle, pod, other.clone(), &mut fuller));
            self.check(&cycle, pod, &fuller, context)?;
        }
        self.check(cycle, pod, node, context)
    }

    /// Whether what they say of a node can be remembered for pods with the same spec.
    pub fn look_at_node_only(&self) -> bool {
        self.plugins.iter().all(|(called, _)| called.plugin.looks_at_node_only())
    }

    /// Tries out what it is like with another pod on the node.
    pub fn add(&self, cycle: &mut CycleState, pod: &PodInfo, other: Arc<PodInfo>, node: &mut NodeInfo) {
        self.correcting.iter().for_each(|plugin| plugin.add_pod(cycle, pod, &other, node));
        node.add_pod(other);
    }

    /// Tries out what it is like without a pod that is on the node.
    pub fn remove(&self, cycle: &mut CycleState, pod: &PodInfo, other: &PodInfo, node: &mut NodeInfo) {
        node.remove_pod(other.uid());
        self.correcting.iter().for_each(|plugin| plugin.remove_pod(cycle, pod, other, node));
    }
}

/// Finds the best node for a pod.
pub fn schedule(
    plugins: &PluginSet,
    cycle: &mut CycleState,
    pod: &PodInfo,
    context: &Context<'_>,
    search: &mut Search,
    rng: &mut impl Rng,
) -> Result<Decision, Box<FitError>> {
    let nodes = context.snapshot.nodes();
    let mut error = Box::new(FitError { nodes: nodes.len(), ..FitError::default() });
    if nodes.is_empty() {
        return Err(error);
    }
    let stopwatch = search.stopwatch.clone();
    let filters = match stopwatch.point("PreFilter", || pre_filter(plugins, cycle, pod, context, &stopwatch)) {
        Ok(filters) => filters,
        Err(rejection) => {
            error.pre_filter = Some(rejection);
            return Err(error);
        }
    };
    let feasible = match feasible(&filters, cycle, pod, context, search, &mut error) {
        Ok(feasible) => feasible,
        Err(failure) => {
            error.failure = Some(failure);
            return Err(error);
        }
    };
    let evaluated = feasible.len() + error.rejected.len();
    let node = match feasible.as_slice() {
        [] => return Err(error),
        [only] => only.name().to_owned(),
        several => {
            let mut totals = totals(plugins, cycle, pod, several, context, &stopwatch);
            for (total, score) in totals.iter_mut().zip(search.extenders.scores(pod, several)) {
                *total = total.saturating_add(score);
            }
            best(several, &totals, rng).name().to_owned()
        }
    };
    Ok(Decision { node, evaluated, feasible: feasible.len() })
}

/// What becomes of the room that preemption makes or has made for a pod that fits nowhere.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It is made on this node.
    Nominated(Candidate),
    /// None is made, but this claim's devices are free for others to be chosen.
    Deallocated(ObjectKey),
    /// There is none to be made: a promise that was given is worth nothing.
    Hopeless,
    /// It stays as it is.
    Unchanged,
}

/// What can be done for a pod that fits nowhere. If nothing can, the error says why not.
pub fn post_filter(
    plugins: &PluginSet,
    pod: &PodInfo,
    context: &Context<'_>,
    search: &mut Search,
    rng: &mut impl Rng,
    error: &mut FitError,
) -> Outcome {
    if error.nodes == 0 {
        return Outcome::Unchanged;
    }
    let (mut messages, mut outcome) = (Vec::new(), Outcome::Unchanged);
    let mut cycle = CycleState::default();
    // A pod that is refused as such has no filters; plugins still say so.
    let filters = pre_filter(plugins, &mut cycle, pod, context, &Stopwatch::default()).unwrap_or_else(|_| Filters::none());
    let Search { memory, extenders, stopwatch, .. } = search;
    let offset = rng.random_range(0..error.nodes);
    let mut unplaced = Unplaced { pod, context: *context, filters: &filters, cycle: &cycle, error, offset, memory, extenders };
    for called in plugins.called_at(Point::PostFilter) {
        let message = match stopwatch.plugin(called, "PostFilter", || called.plugin.post_filter(&mut unplaced)) {
            PostFilter::Nominate(candidate) => return Outcome::Nominated(candidate),
            PostFilter::Deallocate(claim, message) => {
                outcome = Outcome::Deallocated(claim);
                message
            }
            PostFilter::Nothing(message) => message,
            PostFilter::Failed(message) => {
                error.post_filter = message;
                return Outcome::Unchanged;
            }
            PostFilter::Hopeless(message) => {
                if !matches!(outcome, Outcome::Deallocated(_)) {
                    outcome = Outcome::Hopeless;
                }
                message
            }
        };
        messages.push(message);
    }
    messages.retain(|message| !message.is_empty());
    error.post_filter = messages.join(", ");
    outcome
}

/// The nodes on which the pod can run, or why that could not be found out.
fn feasible(
    filters: &Filters<'_>,
    cycle: &CycleState,
    pod: &PodInfo,
    context: &Context<'_>,
    search: &mut Search,
    error: &mut FitError,
) -> Result<Vec<Arc<NodeInfo>>, String> {
    let (snapshot, nodes) = (context.snapshot, context.snapshot.nodes());
    let extenders = search.extenders.clone();
    // A node on which preemption made room comes first.
    if let Some(node) = pod.status().nominated_node_name.as_deref().and_then(|name| snapshot.get(name))
        && filters.only.as_ref().is_none_or(|(names, _)| names.contains(node.name()))
        && filters.check_with_nominated(cycle, pod, node, context).is_ok()
        // What an extender says against it, or that it fails, it will say again among all nodes.
        && let Ok(node) = extenders.filter(pod, vec![node.clone()], snapshot, &mut FitError::default())
        && !node.is_empty()
    {
        return Ok(node);
    }
    let positions: Vec<usize> = match &filters.only {
        Some((names, by)) => {
            let by: Vec<&str> = by.iter().copied().collect();
            let plugin = filters.plugins.iter().map(|(called, _)| called.plugin.name()).find(|name| by.contains(name)).unwrap_or_default();
            let reason = format!("node(s) didn't satisfy plugin(s) [{}]", by.join(" "));
            error.others = Some(Rejection { plugin, ..Rejection::unresolvable(reason) });
            names.iter().filter_map(|name| snapshot.position(name)).collect()
        }
        None => {
            let start = search.start % nodes.len();
            (start..nodes.len()).chain(0..start).collect()
        }
    };
    let sufficient = search.sufficient(positions.len());
    let mut found = Vec::with_capacity(sufficient.min(nodes.len()));
    let mut looked_at = 0;
    let remembers = filters.look_at_node_only();
    if remembers {
        search.memory.turn_to(pod);
    }
    let begun = search.stopwatch.begin();
    for position in positions {
        let node = &nodes[position];
        looked_at += 1;
        let known = if remembers { search.memory.verdict(position, node, pod).cloned() } else { None };
        let verdict = known.unwrap_or_else(|| {
            let verdict = filters.check_with_nominated(cycle, pod, node, context);
            if remembers {
                search.memory.remember(position, node, pod, &verdict);
            }
            verdict
        });
        match verdict {
            Ok(()) => found.push(node.clone()),
            Err(rejection) => error.rejected.push((position, rejection)),
        }
        if found.len() >= sufficient {
            break;
        }
    }
    search.stopwatch.end("Filter", begun, &());
    if filters.only.is_none() {
        search.start = (search.start + looked_at) % nodes.len();
    }
    extenders.filter(pod, found, snapshot, error)
}

/// The node with the highest score, one at random if there are several.
fn best<'a>(nodes: &'a [Arc<NodeInfo>], totals: &[i64], rng: &mut impl Rng) -> &'a Arc<NodeInfo> {
    let highest = totals.iter().copied().max().unwrap_or(0);
    let equals: Vec<usize> = totals.iter().enumerate().filter(|(_, total)| **total == highest).map(|(position, _)| position).collect();
    &nodes[equals[rng.random_range(0..equals.len())]]
}

/// The weighted sum of all scores per node.
pub fn totals(
    plugins: &PluginSet,
    cycle: &mut CycleState,
    pod: &PodInfo,
    nodes: &[Arc<NodeInfo>],
    context: &Context<'_>,
    stopwatch: &Stopwatch,
) -> Vec<i64> {
    let mut skipped = Vec::new();
    stopwatch.point("PreScore", || {
        for called in plugins.called_at(Point::PreScore) {
            if !stopwatch.plugin(called, "PreScore", || called.plugin.pre_score(cycle, pod, nodes, context)) {
                skipped.push(called.plugin.name());
            }
        }
    });
    let (mut totals, mut scores) = (vec![0_i64; nodes.len()], Vec::with_capacity(nodes.len()));
    let calls = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
    stopwatch.point("Score", || {
        for called in plugins.called_at(Point::Score).iter().filter(|called| !skipped.contains(&called.plugin.name())) {
            scores.clear();
            stopwatch.calls(called, "Score", calls, || scores.extend(nodes.iter().map(|node| called.plugin.score(cycle, pod, node))));
            stopwatch.calls(called, "ScoreExtensionNormalize", 0, || called.plugin.normalize(cycle, nodes, &mut scores));
            for (total, score) in totals.iter_mut().zip(&scores) {
                *total += score * called.weight;
            }
        }
    });
    totals
}

/// Whether preempting pods could make a refused node fit.
pub fn may_be_helped(rejection: &Rejection) -> bool {
    rejection.code == Code::Unschedulable
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{node_info, pod};
    use crate::listers::Nothing;
    use crate::snapshot::Snapshot;
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use serde_json::{Value, json};

    fn run(nodes: Vec<NodeInfo>, pod: &PodInfo) -> Result<Decision, Box<FitError>> {
        let snapshot = Snapshot::new(nodes);
        let context = Context { snapshot: &snapshot, listers: &Nothing };
        let mut search = Search::default();
        schedule(&PluginSet::default(), &mut CycleState::default(), pod, &context, &mut search, &mut StdRng::seed_from_u64(1))
    }

    fn asking(name: &str, cpu: &str) -> Arc<PodInfo> {
        pod(name, json!({"containers": [{"resources": {"requests": {"cpu": cpu, "memory": "64Mi"}}}]}))
    }

    #[test]
    fn messages() {
        let cordoned = json!({"spec": {"unschedulable": true}});
        let tainted = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
        let selecting = json!({"nodeSelector": {"a": "b"}});
        let by_name = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n9"]}]}]}}}});
        let big = json!({"containers": [{"resources": {"requests": {"cpu": "100", "memory": "100Gi"}}}]});
        let cases: Vec<(Vec<Value>, Value, &str)> = vec![
            (vec![], json!({}), "no nodes available to schedule pods"),
            (vec![json!({})], big, "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory."),
            (vec![cordoned.clone()], json!({}), "0/1 nodes are available: 1 node(s) were unschedulable."),
            (
                vec![cordoned, tainted.clone(), tainted],
                json!({}),
                "0/3 nodes are available: 1 node(s) were unschedulable, 2 node(s) had untolerated taint(s).",
            ),
            (vec![json!({})], selecting, "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."),
            (vec![json!({}), json!({})], by_name, "0/2 nodes are available: 2 node(s) didn't satisfy plugin(s) [NodeAffinity]."),
        ];
        for (nodes, spec, expected) in cases {
            let nodes = nodes.into_iter().enumerate().map(|(n, more)| node_info(&format!("n{n}"), more, &[])).collect();
            assert_eq!(run(nodes, &pod("a", spec)).unwrap_err().message(), expected);
        }
    }

    #[test]
    fn the_emptiest_node_wins() {
        let nodes =
            ["3", "1", "2"].iter().enumerate().map(|(n, cpu)| node_info(&format!("n{n}"), json!({}), &[asking("b", cpu)])).collect();
        let decision = run(nodes, &asking("a", "1")).unwrap();
        assert_eq!(decision, Decision { node: "n1".to_owned(), evaluated: 3, feasible: 3 });
    }

    #[test]
    fn room_promised_to_a_pod_as_urgent_is_taken() {
        let promised = |nominated| vec![NodeInfo { nominated, ..node_info("n0", json!({}), &[]) }];
        assert!(run(promised(vec![]), &asking("a", "2")).is_ok());
        let error = run(promised(vec![asking("b", "3")]), &asking("a", "2")).unwrap_err();
        assert_eq!(error.message(), "0/1 nodes are available: 1 Insufficient cpu.");
    }

    #[test]
    fn of_many_nodes_a_share_is_looked_at_in_turn() {
        let search = |percentage| Search { percentage, ..Search::default() };
        for (percentage, nodes, expected) in
            [(0, 50, 50), (0, 1000, 420), (0, 5000, 500), (0, 100_000, 5000), (30, 1000, 300), (1, 1000, 100), (100, 1000, 1000)]
        {
            assert_eq!(search(percentage).sufficient(nodes), expected, "{percentage} % of {nodes}");
        }
        let snapshot = Snapshot::new((0..250).map(|n| node_info(&format!("n{n}"), json!({}), &[])));
        let context = Context { snapshot: &snapshot, listers: &Nothing };
        let mut search = search(0);
        let mut starts = Vec::new();
        for _ in 0..3 {
            starts.push(search.start);
            let decision = schedule(
                &PluginSet::default(),
                &mut CycleState::default(),
                &asking("a", "1"),
                &context,
                &mut search,
                &mut StdRng::seed_from_u64(1),
            );
            assert_eq!(decision.unwrap().evaluated, 120);
        }
        assert_eq!(starts, [0, 120, 240]);
    }
}
