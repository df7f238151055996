//! Spreads pods over domains of the cluster (`topologySpreadConstraints`): `DoNotSchedule` refuses nodes of domains that have too many already,
//! `ScheduleAnyway` prefers the others. Pods that name no constraints get default ones, with a selector from the Service, ReplicaSet and so
//! on that they belong to.
//!
//! How many pods each domain has is kept by the snapshot. The nodes are walked only where they do not all count: where a constraint honours
//! the pod's node affinity or taints, or where some nodes lack a label.

use super::{node_affinity, taint_toleration::untolerated};
use crate::config::args::PodTopologySpreadArgs;
use crate::counters::{Counts, Group, Matcher, Scope};
use crate::framework::{ClusterEvent, Context, CycleState, MAX_SCORE, Plugin, Point, PreFilter, Rejection, Verdict};
use crate::listers::Listers;
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::selector::Selector;
use k8s_openapi::api::core::v1::{Node, TopologySpreadConstraint};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

const TOO_MANY: &str = "node(s) didn't match pod topology spread constraints";
const NO_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";
const HOSTNAME: &str = "kubernetes.io/hostname";
const HARD: &str = "DoNotSchedule";
const SOFT: &str = "ScheduleAnyway";

/// See the module's description.
pub struct PodTopologySpread {
    defaults: Vec<TopologySpreadConstraint>,
    /// The defaults are the scheduler's own: nodes without their labels are taken as they are.
    by_system: bool,
}

impl PodTopologySpread {
    /// With the arguments of a profile.
    pub fn new(args: &PodTopologySpreadArgs) -> Self {
        Self { defaults: args.defaults(), by_system: args.defaulting_type == crate::config::args::SYSTEM_DEFAULTING }
    }

    /// The constraints of one kind that hold for a pod, its own or the defaults.
    fn constraints(&self, pod: &PodInfo, kind: &str, listers: &dyn Listers) -> Vec<Constraint> {
        let own = pod.spec().topology_spread_constraints.as_deref().unwrap_or_default();
        if !own.is_empty() {
            return own.iter().filter(|constraint| constraint.when_unsatisfiable == kind).map(|c| Constraint::new(c, pod)).collect();
        }
        if !self.defaults.iter().any(|constraint| constraint.when_unsatisfiable == kind) {
            return Vec::new();
        }
        let selector = owners_selector(pod, listers);
        if selector.is_everything() {
            return Vec::new();
        }
        let of_kind = self.defaults.iter().filter(|constraint| constraint.when_unsatisfiable == kind);
        of_kind.map(|constraint| Constraint { group: Arc::new(group(selector.clone(), pod)), ..Constraint::new(constraint, pod) }).collect()
    }
}

/// What selects the pods that belong together with this one: all Services that select it, and its ReplicaSet or the like (upstream:
/// `helper.DefaultSelector`). Selects everything if there are none.
fn owners_selector(pod: &PodInfo, listers: &dyn Listers) -> Selector {
    let labels = pod.pod.metadata.labels.as_ref();
    let mut selector = Selector::equal([]);
    for service in listers.services(pod.namespace()) {
        let wanted = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        if let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) {
            let of_service = Selector::equal(wanted);
            if of_service.matches(labels) {
                selector = selector.and(of_service);
            }
        }
    }
    let owners = pod.pod.metadata.owner_references.iter().flatten();
    let Some(owner) = owners.into_iter().find(|owner| owner.controller == Some(true)) else { return selector };
    let namespace = pod.namespace();
    let of_owner = match owner.kind.as_str() {
        "ReplicationController" => {
            let controller = listers.replication_controller(namespace, &owner.name);
            controller.and_then(|controller| controller.spec.as_ref()?.selector.as_ref().map(Selector::equal))
        }
        "ReplicaSet" => {
            let set = listers.replica_set(namespace, &owner.name);
            set.and_then(|set| set.spec.as_ref().map(|spec| Selector::of(Some(&spec.selector))))
        }
        "StatefulSet" => {
            let set = listers.stateful_set(namespace, &owner.name);
            set.and_then(|set| set.spec.as_ref().map(|spec| Selector::of(Some(&spec.selector))))
        }
        _ => None,
    };
    match of_owner {
        Some(of_owner) => selector.and(of_owner),
        None => selector,
    }
}

fn group(selector: Selector, pod: &PodInfo) -> Group {
    let scope = Scope::Names(BTreeSet::from([pod.namespace().to_owned()]));
    Group { matchers: vec![Matcher { scope, selector }], only_staying: true }
}

/// A constraint, worked out for one pod.
#[derive(Clone, Debug)]
struct Constraint {
    key: String,
    max_skew: i64,
    min_domains: usize,
    group: Arc<Group>,
    honours_affinity: bool,
    honours_taints: bool,
    /// The pod counts for its own constraint.
    own: i64,
}

impl Constraint {
    fn new(constraint: &TopologySpreadConstraint, pod: &PodInfo) -> Self {
        let labels = pod.pod.metadata.labels.as_ref();
        let keys = constraint.match_label_keys.iter().flatten();
        let of_pod = keys.filter_map(|key| labels.and_then(|labels| labels.get_key_value(key)));
        let selector = Selector::of(constraint.label_selector.as_ref()).and(Selector::equal(of_pod));
        Self {
            key: constraint.topology_key.clone(),
            max_skew: i64::from(constraint.max_skew),
            min_domains: usize::try_from(constraint.min_domains.unwrap_or(1)).unwrap_or(1),
            own: i64::from(selector.matches(labels)),
            group: Arc::new(group(selector, pod)),
            honours_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honours_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
        }
    }

    /// Whether a node's pods count at all.
    fn is_eligible(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        (!self.honours_affinity || node.node.as_ref().is_some_and(|node| node_affinity::matches_required(pod, node)))
            && (!self.honours_taints || untolerated(node.taints(), pod, &["NoSchedule", "NoExecute"]).is_none())
    }

    /// Whether all nodes are eligible, whatever they are.
    fn counts_all_nodes(&self, pod: &PodInfo) -> bool {
        !self.honours_taints && (!self.honours_affinity || !node_affinity::has_required(pod))
    }
}

/// How many pods each domain has that counts.
#[derive(Clone, Debug)]
struct Domains {
    /// What is not there has none.
    counts: Counts,
    /// The domains there are.
    known: Known,
}

#[derive(Clone, Debug)]
enum Known {
    /// By their nodes.
    Topology(Counts),
    /// The same as those counted.
    Counted,
}

impl Domains {
    fn number(&self) -> usize {
        match &self.known {
            Known::Topology(topology) => topology.len(),
            Known::Counted => self.counts.len(),
        }
    }

    fn contains(&self, domain: &str) -> bool {
        match &self.known {
            Known::Topology(topology) => topology.contains_key(domain),
            Known::Counted => self.counts.contains_key(domain),
        }
    }

    fn count(&self, domain: &str) -> i64 {
        self.counts.get(domain).copied().unwrap_or(0)
    }

    /// The fewest, but in the domains that `except` has.
    fn fewest(&self, except: Option<&str>) -> i64 {
        let others = self.number() - usize::from(except.is_some_and(|domain| self.contains(domain)));
        let counted = || self.counts.iter().filter(|(name, _)| Some(name.as_str()) != except);
        // Domains without pods are not counted.
        if others > counted().count() { 0 } else { counted().map(|(_, count)| *count).min().unwrap_or(i64::MAX) }
    }
}

/// Counts the pods of a constraint's domains. Nodes without all of `keys` are left out.
fn domains(constraint: &Constraint, keys: &[&str], pod: &PodInfo, context: &Context<'_>) -> Domains {
    let snapshot = context.snapshot;
    let topology = snapshot.topology(&constraint.key);
    let labelled = |key: &&str| snapshot.topology(key).values().sum::<i64>() == i64::try_from(snapshot.nodes().len()).unwrap_or(i64::MAX);
    if constraint.counts_all_nodes(pod) && (keys == [constraint.key.as_str()] || keys.iter().all(labelled)) {
        return Domains { counts: snapshot.domains(&constraint.group, &constraint.key), known: Known::Topology(topology) };
    }
    let per_node = snapshot.per_node(&constraint.group);
    let mut counts: HashMap<String, i64> = HashMap::new();
    for node in snapshot.nodes() {
        let Some(domain) = node.label(&constraint.key).filter(|_| keys.iter().all(|key| node.label(key).is_some())) else { continue };
        if !constraint.is_eligible(pod, node) {
            continue;
        }
        let count = per_node.get(node.name()).copied().unwrap_or(0);
        match counts.get_mut(domain) {
            Some(sum) => *sum += count,
            None => drop(counts.insert(domain.to_owned(), count)),
        }
    }
    Domains { counts: Arc::new(counts), known: Known::Counted }
}

/// For the filter: a constraint with its domains.
#[derive(Clone)]
struct Counted {
    constraint: Constraint,
    domains: Domains,
    fewest: i64,
    /// What is tried out differs from what was counted, in one domain.
    correction: Option<(String, i64)>,
}

impl Counted {
    fn correct(&mut self, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, amount: i64) {
        if !self.constraint.group.contains(other) || !self.constraint.is_eligible(pod, node) {
            return;
        }
        let Some(domain) = node.label(&self.constraint.key) else { return };
        match &mut self.correction {
            Some((corrected, sum)) if corrected == domain => *sum += amount,
            // What is tried out at a time is on one node, and so in one domain.
            correction => *correction = Some((domain.to_owned(), amount)),
        }
        let changed = self.count(domain);
        self.fewest = self.domains.fewest(Some(domain)).min(if self.domains.contains(domain) { changed } else { i64::MAX });
    }

    fn count(&self, domain: &str) -> i64 {
        let correction = self.correction.as_ref().filter(|(corrected, _)| corrected == domain).map_or(0, |(_, amount)| *amount);
        self.domains.count(domain) + correction
    }

    fn verdict(&self, node: &NodeInfo) -> Verdict {
        let Some(domain) = node.label(&self.constraint.key) else { return Err(Rejection::unresolvable(NO_LABEL)) };
        let enough = self.domains.number() >= self.constraint.min_domains;
        let fewest = if enough { self.fewest } else { 0 };
        if self.count(domain) + self.constraint.own - fewest > self.constraint.max_skew {
            return Err(Rejection::unschedulable(TOO_MANY));
        }
        Ok(())
    }
}

#[derive(Clone)]
struct Hard(Vec<Counted>);

/// For scoring: the constraints, where their pods are counted, and how much one of them counts.
#[derive(Clone)]
struct Soft {
    constraints: Arc<Vec<(Constraint, Counts, f64)>>,
    /// Nodes without all labels are the worst.
    need_all_labels: bool,
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::PreScore, Point::Score]
    }

    fn pre_filter(&self, cycle: &mut CycleState, pod: &PodInfo, context: &Context<'_>) -> Result<PreFilter, Rejection> {
        let constraints = self.constraints(pod, HARD, context.listers);
        if constraints.is_empty() {
            return Ok(PreFilter::Skip);
        }
        let keys: Vec<&str> = constraints.iter().map(|constraint| constraint.key.as_str()).collect();
        let counted = constraints.iter().map(|constraint| {
            let domains = domains(constraint, &keys, pod, context);
            Counted { constraint: constraint.clone(), fewest: domains.fewest(None), domains, correction: None }
        });
        cycle.put(Hard(counted.collect()));
        Ok(PreFilter::AllNodes)
    }

    fn add_pod(&self, cycle: &mut CycleState, pod: &PodInfo, other: &PodInfo, node: &NodeInfo) {
        if let Some(Hard(counted)) = cycle.get_mut() {
            counted.iter_mut().for_each(|counted| counted.correct(pod, other, node, 1));
        }
    }

    fn remove_pod(&self, cycle: &mut CycleState, pod: &PodInfo, other: &PodInfo, node: &NodeInfo) {
        if let Some(Hard(counted)) = cycle.get_mut() {
            counted.iter_mut().for_each(|counted| counted.correct(pod, other, node, -1));
        }
    }

    fn filter(&self, cycle: &CycleState, _: &PodInfo, node: &NodeInfo, _: &Context<'_>) -> Verdict {
        let Some(Hard(counted)) = cycle.get() else { return Ok(()) };
        counted.iter().try_for_each(|counted| counted.verdict(node))
    }

    fn pre_score(&self, cycle: &mut CycleState, pod: &PodInfo, nodes: &[Arc<NodeInfo>], context: &Context<'_>) -> bool {
        let constraints = self.constraints(pod, SOFT, context.listers);
        if constraints.is_empty() {
            return false;
        }
        let own = pod.spec().topology_spread_constraints.as_ref().is_some_and(|own| !own.is_empty());
        let need_all_labels = own || !self.by_system;
        let keys: Vec<&str> =
            if need_all_labels { constraints.iter().map(|constraint| constraint.key.as_str()).collect() } else { Vec::new() };
        let complete = |node: &&Arc<NodeInfo>| keys.iter().all(|key| node.label(key).is_some());
        let weighed = constraints.iter().map(|constraint| {
            let complete = nodes.iter().filter(complete);
            let (counts, number) = if constraint.key == HOSTNAME {
                (context.snapshot.per_node(&constraint.group), complete.count())
            } else {
                let number = complete.filter_map(|node| node.label(&constraint.key)).collect::<BTreeSet<_>>().len();
                (domains(constraint, &keys, pod, context).counts, number)
            };
            // Of many domains each has few pods; the weight evens that out.
            #[allow(clippy::cast_precision_loss)] // A count of domains.
            let weight = (number as f64 + 2.0).ln();
            (constraint.clone(), counts, weight)
        });
        let constraints = Arc::new(weighed.collect());
        cycle.put(Soft { constraints, need_all_labels });
        true
    }

    fn score(&self, cycle: &CycleState, _: &PodInfo, node: &NodeInfo) -> i64 {
        let Some(Soft { constraints, need_all_labels }) = cycle.get() else { return 0 };
        let mut score = 0.0;
        for (constraint, counts, weight) in constraints.iter() {
            let Some(domain) = node.label(&constraint.key) else {
                if *need_all_labels {
                    return -1;
                }
                continue;
            };
            let counted = counts.get(if constraint.key == HOSTNAME { node.name() } else { domain });
            #[allow(clippy::cast_precision_loss)] // Counts of pods.
            let (count, least) = (counted.copied().unwrap_or(0) as f64, (constraint.max_skew - 1) as f64);
            score += count * weight + least;
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
        let own = pod.spec().topology_spread_constraints.as_deref().unwrap_or_default();
        let constraints: Vec<Constraint> = own.iter().filter(|c| c.when_unsatisfiable == HARD).map(|c| Constraint::new(c, pod)).collect();
        // Which pods default constraints count is not known here.
        let by_default = own.is_empty() && self.defaults.iter().any(|constraint| constraint.when_unsatisfiable == HARD);
        let counts = |other: &PodInfo| by_default || constraints.iter().any(|constraint| constraint.group.contains(other));
        let complete = |node: &Node| constraints.iter().all(|constraint| label(node, &constraint.key).is_some());
        match event {
            ClusterEvent::Node(changed) => match &changed.old {
                None => by_default || complete(&changed.new),
                Some(old) => {
                    let moved = |constraint: &Constraint| label(old, &constraint.key) != label(&changed.new, &constraint.key);
                    let counts_for = |node: &Node| node_affinity::matches_required(pod, node);
                    let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
                    by_default
                        || complete(old) != complete(&changed.new)
                        || (complete(&changed.new) && constraints.iter().any(moved))
                        || (constraints.iter().any(|c| c.honours_taints) && taints(old) != taints(&changed.new))
                        || (constraints.iter().any(|c| c.honours_affinity) && counts_for(old) != counts_for(&changed.new))
                }
            },
            ClusterEvent::Itself { old, new } => old.pod.metadata.labels != new.pod.metadata.labels,
            // Its domain may have been the emptiest.
            ClusterEvent::NodeGone(gone) => by_default || (!constraints.is_empty() && complete(gone)),
            ClusterEvent::PodBound(other) => counts(other),
            ClusterEvent::PodGone(other) => {
                // By now it is being deleted, and does not count any more; before, it did.
                by_default || constraints.iter().any(|constraint| constraint.group.matchers.iter().all(|matcher| matcher.matches(other)))
            }
            ClusterEvent::PodChanged { old, new } => {
                by_default || constraints.iter().any(|constraint| constraint.group.contains(old) != constraint.group.contains(new))
            }
            _ => false,
        }
    }
}

fn label<'n>(node: &'n Node, key: &str) -> Option<&'n String> {
    node.metadata.labels.as_ref().and_then(|labels| labels.get(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{self, labelled_pod, node_info};
    use crate::framework::Changed;
    use crate::listers::Nothing;
    use crate::snapshot::Snapshot;
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use k8s_openapi::api::core::v1::Service;
    use serde_json::{Value, json};

    fn plugin() -> PodTopologySpread {
        PodTopologySpread::new(&PodTopologySpreadArgs::default())
    }

    fn spread(more: Value) -> Arc<PodInfo> {
        spread_with(more, json!({}))
    }

    fn spread_with(more: Value, mut spec: Value) -> Arc<PodInfo> {
        let mut constraint = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}});
        constraint.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec["topologySpreadConstraints"] = json!([constraint]);
        labelled_pod("new", json!({"app": "web", "version": "2"}), spec)
    }

    /// Zone a has two pods of the app, zone b one, and one node has no zone.
    fn nodes() -> Vec<NodeInfo> {
        let web = |name: &str| labelled_pod(name, json!({"app": "web", "version": "1"}), json!({}));
        let zone = |zone: &str| json!({"metadata": {"labels": {"zone": zone}}});
        let tainted = json!({"metadata": {"labels": {"zone": "c"}}, "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
        vec![
            node_info("a1", zone("a"), &[web("1")]),
            node_info("a2", zone("a"), &[web("2"), labelled_pod("other", json!({"app": "db"}), json!({}))]),
            node_info("b1", zone("b"), &[web("3")]),
            node_info("c1", tainted, &[web("4")]),
            node_info("none", json!({}), &[]),
        ]
    }

    #[test]
    fn domains_with_too_many_are_refused() {
        let snapshot = Snapshot::new(nodes());
        let context = Context { snapshot: &snapshot, listers: &Nothing };
        let in_zones = |zones: &[&str]| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": zones}]}]}}}});
        for (more, spec, expected) in [
            (json!({}), json!({}), ["too many", "too many", "fits", "fits", "no label"]),
            (json!({"maxSkew": 2}), json!({}), ["fits", "fits", "fits", "fits", "no label"]),
            (json!({"minDomains": 4}), json!({}), ["too many", "too many", "too many", "too many", "no label"]),
            (json!({"labelSelector": {"matchLabels": {"app": "db"}}}), json!({}), ["fits", "fits", "fits", "fits", "no label"]),
            (json!({"matchLabelKeys": ["version"]}), json!({}), ["fits", "fits", "fits", "fits", "no label"]),
            // Zone a is the only one left: two pods there are no skew.
            (json!({}), in_zones(&["a"]), ["fits", "fits", "fits", "fits", "no label"]),
            (json!({"nodeAffinityPolicy": "Ignore"}), in_zones(&["a"]), ["too many", "too many", "fits", "fits", "no label"]),
            // Zone c does not count, but for its own nodes.
            (json!({"nodeTaintsPolicy": "Honor", "minDomains": 3}), json!({}), ["too many", "too many", "too many", "fits", "no label"]),
            (json!({"topologyKey": "kubernetes.io/hostname"}), json!({}), ["too many", "too many", "too many", "too many", "fits"]),
        ] {
            let (pod, mut cycle) = (spread_with(more.clone(), spec.clone()), CycleState::default());
            assert_eq!(plugin().pre_filter(&mut cycle, &pod, &context), Ok(PreFilter::AllNodes));
            let verdict = |name: &&str| match plugin().filter(&cycle, &pod, snapshot.get(name).unwrap(), &context) {
                Ok(()) => "fits",
                Err(rejection) if rejection.reasons.as_slice() == [NO_LABEL] => "no label",
                Err(_) => "too many",
            };
            assert_eq!(["a1", "a2", "b1", "c1", "none"].iter().map(verdict).collect::<Vec<_>>(), expected, "{more} {spec}");
        }
    }

    #[test]
    fn nodes_help_whose_domains_are_counted() {
        let node = |labels: &Value| fixtures::node("n", json!({"metadata": {"labels": labels}}));
        let selecting = |key: &str| spread_with(json!({}), json!({"nodeSelector": {key: "y"}}));
        let (in_a, in_b, nowhere) = (json!({"zone": "a"}), json!({"zone": "b"}), json!({}));
        let (in_a_with_x, in_a_with_z) = (json!({"zone": "a", "x": "y"}), json!({"zone": "a", "z": "y"}));
        for (pod, old, new, expected) in [
            (spread(json!({})), None, Some(&in_a), true),
            (spread(json!({})), None, Some(&nowhere), false),
            (spread(json!({})), Some(&nowhere), Some(&in_a), true),
            (spread(json!({})), Some(&in_a), Some(&nowhere), true),
            (spread(json!({})), Some(&in_a), Some(&in_b), true),
            (spread(json!({})), Some(&in_a), Some(&in_a_with_x), false),
            (selecting("x"), Some(&in_a), Some(&in_a_with_x), true),
            (selecting("x"), Some(&in_a), Some(&in_a_with_z), false),
            (spread(json!({})), Some(&in_a), None, true),
            (spread(json!({})), Some(&nowhere), None, false),
        ] {
            let event = match (old.map(node), new.map(node)) {
                (old, Some(new)) => ClusterEvent::Node(Changed { old, new }),
                (old, None) => ClusterEvent::NodeGone(old.unwrap()),
            };
            assert_eq!(plugin().cures(&pod, &event), expected, "{old:?} to {new:?}");
        }
    }

    #[test]
    fn trying_without_a_pod_is_as_if_it_were_gone() {
        let snapshot = Snapshot::new(nodes());
        let context = Context { snapshot: &snapshot, listers: &Nothing };
        let (pod, mut cycle) = (spread(json!({})), CycleState::default());
        plugin().pre_filter(&mut cycle, &pod, &context).unwrap();
        let (a1, a2) = (snapshot.get("a1").unwrap(), snapshot.get("a2").unwrap());
        let fits = |cycle: &CycleState, node| plugin().filter(cycle, &pod, node, &context).is_ok();
        assert!(!fits(&cycle, a1));
        let mut without = cycle.clone();
        plugin().remove_pod(&mut without, &pod, &a1.pods[0], a1);
        assert!(fits(&without, a1));
        plugin().add_pod(&mut without, &pod, &a1.pods[0], a1);
        assert!(!fits(&without, a1));
        let mut without_other = cycle.clone();
        plugin().remove_pod(&mut without_other, &pod, &a2.pods[1], a2);
        assert!(!fits(&without_other, a2), "the other pod does not count");
    }

    fn scores(snapshot: &Snapshot, pod: &PodInfo, listers: &dyn Listers, names: &[&str]) -> Vec<i64> {
        let context = Context { snapshot, listers };
        let mut cycle = CycleState::default();
        assert!(plugin().pre_score(&mut cycle, pod, snapshot.nodes(), &context));
        let mut scores: Vec<i64> = names.iter().map(|name| plugin().score(&cycle, pod, snapshot.get(name).unwrap())).collect();
        plugin().normalize(&cycle, &[], &mut scores);
        scores
    }

    #[test]
    fn emptier_domains_score_higher() {
        let snapshot = Snapshot::new(nodes());
        let pod = spread(json!({"whenUnsatisfiable": "ScheduleAnyway"}));
        assert_eq!(scores(&snapshot, &pod, &Nothing, &["a1", "a2", "b1", "c1", "none"]), [66, 66, 100, 100, 0]);
    }

    struct Web;

    impl Listers for Web {
        fn services(&self, _: &str) -> Vec<Arc<Service>> {
            let service =
                |selector: Value| serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": {"selector": selector}})).unwrap();
            vec![Arc::new(service(json!({"app": "web"}))), Arc::new(service(json!({"app": "db"})))]
        }

        fn replica_set(&self, _: &str, name: &str) -> Option<Arc<ReplicaSet>> {
            let set = json!({"metadata": {"name": name}, "spec": {"selector": {"matchLabels": {"version": name}}}});
            Some(Arc::new(serde_json::from_value(set).unwrap()))
        }
    }

    #[test]
    fn pods_of_a_service_are_spread_by_default() {
        let snapshot = Snapshot::new(nodes());
        let pod = labelled_pod("p", json!({"app": "web"}), json!({}));
        // No node has a zone by its real label: only hosts count.
        assert_eq!(scores(&snapshot, &pod, &Web, &["a1", "none"]), [50, 100]);
        let unowned = labelled_pod("p", json!({"app": "other"}), json!({}));
        let context = Context { snapshot: &snapshot, listers: &Web };
        assert!(!plugin().pre_score(&mut CycleState::default(), &unowned, snapshot.nodes(), &context));

        let mut owned = (*pod.pod).clone();
        owned.metadata.owner_references =
            serde_json::from_value(json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "2", "uid": "u", "controller": true}]))
                .unwrap();
        let selector = owners_selector(&PodInfo::new(Arc::new(owned)), &Web);
        assert_eq!(selector, Selector::equal([(&"app".to_owned(), &"web".to_owned()), (&"version".to_owned(), &"2".to_owned())]));
    }
}
