//! Pods near or apart from other pods (`podAffinity`, `podAntiAffinity`): required terms refuse nodes, those of the pods already placed too;
//! preferred ones add to a node's score or take from it.
//!
//! Pods are not looked at one by one: how many of them a term is about, in which domain, is kept by the snapshot.

use crate::affinity::{AffinityTerm, PodTerms};
use crate::config::args::InterPodAffinityArgs;
use crate::counters::{Counts, Effect, Group, Matcher, Scope};
use crate::framework::{ClusterEvent, Context, CycleState, MAX_SCORE, Plugin, Point, PreFilter, Rejection, Verdict};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use k8s_openapi::api::core::v1::Node;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const NOT_NEAR: &str = "node(s) didn't match pod affinity rules";
const NOT_APART: &str = "node(s) didn't match pod anti-affinity rules";
const REFUSED_BY_OTHERS: &str = "node(s) didn't satisfy existing pods anti-affinity rules";

/// See the module's description.
pub struct InterPodAffinity {
    args: InterPodAffinityArgs,
}

impl InterPodAffinity {
    /// With the arguments of a profile.
    pub fn new(args: InterPodAffinityArgs) -> Self {
        Self { args }
    }
}

/// Counts of one topology's domains, with corrections for what is tried out.
#[derive(Clone)]
struct Domains {
    key: String,
    counted: Counts,
    corrections: Vec<(String, i64)>,
}

impl Domains {
    fn new(key: &str, counted: Counts) -> Self {
        Self { key: key.to_owned(), counted, corrections: Vec::new() }
    }

    fn count(&self, domain: &str) -> i64 {
        let corrections: i64 = self.corrections.iter().filter(|(name, _)| name == domain).map(|(_, amount)| amount).sum();
        self.counted.get(domain).copied().unwrap_or(0) + corrections
    }

    fn correct(&mut self, node: &NodeInfo, amount: i64) {
        if let Some(domain) = node.label(&self.key) {
            self.corrections.push((domain.to_owned(), amount));
        }
    }

    fn has_any(&self) -> bool {
        if self.corrections.is_empty() {
            return !self.counted.is_empty();
        }
        self.counted.keys().chain(self.corrections.iter().map(|(domain, _)| domain)).any(|domain| self.count(domain) > 0)
    }
}

type Labels = Option<BTreeMap<String, String>>;

/// What the filter needs.
#[derive(Clone)]
struct Required {
    /// The pod's own namespace's labels.
    namespace: Arc<Labels>,
    /// The pods that match all of the affinity's terms.
    near: Arc<Group>,
    /// By term.
    near_domains: Vec<Domains>,
    /// By term: the pods that it is about.
    apart: Arc<Vec<Group>>,
    apart_domains: Vec<Domains>,
    /// Where placed pods refuse this one, by term.
    refusing: Vec<Domains>,
}

/// What scoring needs: counts of domains, and what each pod counted there is worth.
#[derive(Clone)]
struct Preferred(Arc<Vec<(String, Counts, i64)>>);

/// The pods that a term of a pod to be placed is about.
fn matcher(term: &AffinityTerm, context: &Context<'_>) -> Matcher {
    let scope = if term.namespace_selector.is_everything() {
        Scope::All
    } else {
        let mut names = term.namespaces.clone();
        if term.namespace_selector != crate::selector::Selector::NOTHING {
            let selected = context.listers.namespaces();
            let selected = selected.iter().filter(|namespace| term.namespace_selector.matches(namespace.metadata.labels.as_ref()));
            names.extend(selected.filter_map(|namespace| namespace.metadata.name.clone()).collect::<BTreeSet<_>>());
        }
        Scope::Names(names)
    };
    Matcher { scope, selector: term.selector.clone() }
}

fn group_of(terms: &[Arc<AffinityTerm>], context: &Context<'_>) -> Group {
    Group { matchers: terms.iter().map(|term| matcher(term, context)).collect(), only_staying: false }
}

fn namespace_labels(pod: &PodInfo, context: &Context<'_>) -> Labels {
    context.listers.namespace(pod.namespace()).and_then(|namespace| namespace.metadata.labels.clone())
}

impl Required {
    fn correct(&mut self, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, amount: i64) {
        if !self.near.matchers.is_empty() && self.near.contains(other) {
            self.near_domains.iter_mut().for_each(|domains| domains.correct(node, amount));
        }
        for (group, domains) in self.apart.iter().zip(&mut self.apart_domains) {
            if group.contains(other) {
                domains.correct(node, amount);
            }
        }
        let namespace = self.namespace.clone();
        for term in other.terms.required_anti.iter().filter(|term| term.matches(pod, (*namespace).as_ref())) {
            match self.refusing.iter_mut().find(|domains| domains.key == term.topology_key) {
                Some(domains) => domains.correct(node, amount),
                None => {
                    let mut domains = Domains::new(&term.topology_key, Counts::default());
                    domains.correct(node, amount);
                    self.refusing.push(domains);
                }
            }
        }
    }

    fn is_near(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        let mut found = true;
        for domains in &self.near_domains {
            let Some(domain) = node.label(&domains.key) else { return false };
            found &= domains.count(domain) > 0;
        }
        // The first of a group that wants to be together may go anywhere.
        found || (!self.near_domains.iter().any(Domains::has_any) && self.near.contains(pod))
    }
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::PreScore, Point::Score]
    }

    fn pre_filter(&self, cycle: &mut CycleState, pod: &PodInfo, context: &Context<'_>) -> Result<PreFilter, Rejection> {
        let PodTerms { required, required_anti, .. } = &pod.terms;
        let namespace = namespace_labels(pod, context);
        let refusing =
            context.snapshot.terms(|effect, term| effect == crate::counters::Effect::Refuses && term.matches(pod, namespace.as_ref()));
        let refusing: Vec<Domains> =
            refusing.into_iter().map(|placed| Domains::new(&placed.term.topology_key, placed.domains)).filter(Domains::has_any).collect();
        if refusing.is_empty() && required.is_empty() && required_anti.is_empty() {
            // Whatever is tried out: pods that refuse this one are pods that are placed or promised room, and counted here as soon as they are.
            return Ok(PreFilter::Skip);
        }
        let near = group_of(required, context);
        let counted =
            |group: &Group, term: &AffinityTerm| Domains::new(&term.topology_key, context.snapshot.domains(group, &term.topology_key));
        let near_domains = required.iter().map(|term| counted(&near, term)).collect();
        let apart: Vec<Group> = required_anti.iter().map(|term| group_of(std::slice::from_ref(term), context)).collect();
        let apart_domains = apart.iter().zip(required_anti).map(|(group, term)| counted(group, term)).collect();
        cycle.put(Required {
            namespace: Arc::new(namespace),
            near: Arc::new(near),
            near_domains,
            apart: Arc::new(apart),
            apart_domains,
            refusing,
        });
        Ok(PreFilter::AllNodes)
    }

    fn add_pod(&self, cycle: &mut CycleState, pod: &PodInfo, other: &PodInfo, node: &NodeInfo) {
        if let Some(required) = cycle.get_mut::<Required>() {
            required.correct(pod, other, node, 1);
        }
    }

    fn remove_pod(&self, cycle: &mut CycleState, pod: &PodInfo, other: &PodInfo, node: &NodeInfo) {
        if let Some(required) = cycle.get_mut::<Required>() {
            required.correct(pod, other, node, -1);
        }
    }

    fn filter(&self, cycle: &CycleState, pod: &PodInfo, node: &NodeInfo, _: &Context<'_>) -> Verdict {
        let Some(required) = cycle.get::<Required>() else { return Ok(()) };
        if !required.near_domains.is_empty() && !required.is_near(pod, node) {
            return Err(Rejection::unresolvable(NOT_NEAR));
        }
        let occupied = |domains: &Domains| node.label(&domains.key).is_some_and(|domain| domains.count(domain) > 0);
        if required.apart_domains.iter().any(occupied) {
            return Err(Rejection::unschedulable(NOT_APART));
        }
        if required.refusing.iter().any(occupied) {
            return Err(Rejection::unschedulable(REFUSED_BY_OTHERS));
        }
        Ok(())
    }

    fn pre_score(&self, cycle: &mut CycleState, pod: &PodInfo, _: &[Arc<NodeInfo>], context: &Context<'_>) -> bool {
        let own = &pod.terms.preferred;
        if own.is_empty() && self.args.ignore_preferred_terms_of_existing_pods && self.args.hard_pod_affinity_weight == 0 {
            return false;
        }
        let namespace = namespace_labels(pod, context);
        let hard = i64::from(self.args.hard_pod_affinity_weight);
        let ignored = self.args.ignore_preferred_terms_of_existing_pods && own.is_empty();
        let worth = |effect: Effect| match effect {
            Effect::Draws => hard,
            Effect::Weighs(weight) if !ignored => i64::from(weight),
            Effect::Refuses | Effect::Weighs(_) => 0,
        };
        let placed = context.snapshot.terms(|effect, term| worth(effect) != 0 && term.matches(pod, namespace.as_ref()));
        let mut preferred: Vec<_> =
            placed.into_iter().map(|placed| (placed.term.topology_key.clone(), placed.domains, worth(placed.effect))).collect();
        for (term, weight) in own {
            let group = group_of(std::slice::from_ref(term), context);
            preferred.push((term.topology_key.clone(), context.snapshot.domains(&group, &term.topology_key), i64::from(*weight)));
        }
        preferred.retain(|(_, counts, _)| !counts.is_empty());
        let any = !preferred.is_empty();
        cycle.put(Preferred(Arc::new(preferred)));
        any
    }

    fn score(&self, cycle: &CycleState, _: &PodInfo, node: &NodeInfo) -> i64 {
        let Some(Preferred(preferred)) = cycle.get() else { return 0 };
        let worth = |(key, counts, weight): &(String, Counts, i64)| {
            node.label(key).and_then(|domain| counts.get(domain)).map_or(0, |count| count * weight)
        };
        preferred.iter().map(worth).sum()
    }

    fn normalize(&self, _: &CycleState, _: &[Arc<NodeInfo>], scores: &mut [i64]) {
        let (least, most) = (scores.iter().copied().min().unwrap_or(0), scores.iter().copied().max().unwrap_or(0));
        for score in scores {
            #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // As upstream rounds it.
            let scaled = if most > least { (MAX_SCORE as f64 * ((*score - least) as f64 / (most - least) as f64)) as i64 } else { 0 };
            *score = scaled;
        }
    }

    fn cures(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        let PodTerms { required, required_anti, .. } = &pod.terms;
        let near = |other: &PodInfo| !required.is_empty() && required.iter().all(|term| term.matches(other, None));
        let apart = |other: &PodInfo| required_anti.iter().any(|term| term.matches(other, None));
        // Which namespaces a term selects by label is not looked up here: what depends on it may help.
        let by_namespace =
            |terms: &[Arc<AffinityTerm>]| terms.iter().any(|term| term.namespace_selector != crate::selector::Selector::NOTHING);
        match event {
            ClusterEvent::PodBound(other) => near(other) || by_namespace(required),
            ClusterEvent::PodChanged { old, new } => (near(new) && !near(old)) || (apart(old) && !apart(new)) || by_namespace(required),
            // The last pod of a group makes this one the first; one that refused, or was refused, no longer does.
            ClusterEvent::PodGone(other) => {
                apart(other)
                    || near(other)
                    || by_namespace(required_anti)
                    || other
                        .terms
                        .required_anti
                        .iter()
                        .any(|term| term.matches(pod, None) || term.namespace_selector != crate::selector::Selector::NOTHING)
            }
            ClusterEvent::Node(changed) => {
                let domain = |node: &Node, term: &AffinityTerm| node.metadata.labels.as_ref()?.get(&term.topology_key).cloned();
                let new = changed.new.as_ref();
                match changed.old.as_deref() {
                    None => required.is_empty() || !required_anti.is_empty() || required.iter().any(|term| domain(new, term).is_some()),
                    // Refused by the terms of others, which are not known here.
                    Some(old) if required.is_empty() && required_anti.is_empty() => old.metadata.labels != new.metadata.labels,
                    Some(old) => required.iter().chain(required_anti).any(|term| domain(old, term) != domain(new, term)),
                }
            }
            // The pods there do not count any more.
            ClusterEvent::NodeGone(_) => true,
            ClusterEvent::Itself { old, new } => old.pod.metadata.labels != new.pod.metadata.labels,
            ClusterEvent::Namespace(_) => by_namespace(required) || by_namespace(required_anti),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{self, labelled_pod, node_info};
    use crate::framework::Changed;
    use crate::listers::Nothing;
    use crate::snapshot::Snapshot;
    use serde_json::{Value, json};

    fn term(app: &str, key: &str) -> Value {
        json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}})
    }

    fn pod(name: &str, app: &str, near: &[Value], apart: &[Value]) -> Arc<PodInfo> {
        let required = |terms: &[Value]| json!({"requiredDuringSchedulingIgnoredDuringExecution": terms});
        labelled_pod(name, json!({"app": app}), json!({"affinity": {"podAffinity": required(near), "podAntiAffinity": required(apart)}}))
    }

    fn plugin() -> InterPodAffinity {
        InterPodAffinity::new(InterPodAffinityArgs::default())
    }

    /// Zone a: a web pod on a1, nothing on a2. Zone b: a pod on b1 that wants no web pod in its zone. c has no zone.
    fn nodes() -> Vec<NodeInfo> {
        let zone = |zone: &str| json!({"metadata": {"labels": {"zone": zone}}});
        vec![
            node_info("a1", zone("a"), &[pod("web-1", "web", &[], &[])]),
            node_info("a2", zone("a"), &[]),
            node_info("b1", zone("b"), &[pod("loner", "db", &[], &[term("web", "zone")])]),
            node_info("c", json!({}), &[]),
        ]
    }

    fn verdicts(snapshot: &Snapshot, pod: &PodInfo) -> Vec<&'static str> {
        let context = Context { snapshot, listers: &Nothing };
        let mut cycle = CycleState::default();
        if plugin().pre_filter(&mut cycle, pod, &context) == Ok(PreFilter::Skip) {
            return vec!["skipped"];
        }
        let names = ["a1", "a2", "b1", "c"];
        let judge = |name: &&str| match plugin().filter(&cycle, pod, snapshot.get(name).unwrap(), &context) {
            Ok(()) => "fits",
            Err(rejection) if rejection.reasons.as_slice() == [NOT_NEAR] => "not near",
            Err(rejection) if rejection.reasons.as_slice() == [NOT_APART] => "not apart",
            Err(_) => "refused",
        };
        names.iter().map(judge).collect()
    }

    #[test]
    fn required_terms_and_those_of_others() {
        let snapshot = Snapshot::new(nodes());
        let hostname = "kubernetes.io/hostname";
        let cases: Vec<(Arc<PodInfo>, Vec<&str>)> = vec![
            (pod("p", "other", &[], &[]), vec!["skipped"]),
            (pod("p", "web", &[], &[]), vec!["fits", "fits", "refused", "fits"]),
            (pod("p", "other", &[term("web", "zone")], &[]), vec!["fits", "fits", "not near", "not near"]),
            (pod("p", "other", &[term("web", hostname)], &[]), vec!["fits", "not near", "not near", "not near"]),
            (pod("p", "other", &[], &[term("web", "zone")]), vec!["not apart", "not apart", "fits", "fits"]),
            (pod("p", "other", &[], &[term("web", hostname)]), vec!["not apart", "fits", "fits", "fits"]),
            (pod("p", "new", &[term("new", "zone")], &[]), vec!["fits", "fits", "fits", "not near"]),
            (pod("p", "other", &[term("new", "zone")], &[]), vec!["not near", "not near", "not near", "not near"]),
            (pod("p", "other", &[term("web", "zone"), term("db", "zone")], &[]), vec!["not near", "not near", "not near", "not near"]),
        ];
        for (pod, expected) in cases {
            assert_eq!(verdicts(&snapshot, &pod), expected, "{:?}", pod.terms);
        }
    }

    #[test]
    fn nodes_help_whose_domains_are_asked_for() {
        let node = |labels: Value| fixtures::node("n", json!({"metadata": {"labels": labels}}));
        let near = |key: &str| pod("p", "x", &[term("web", key)], &[]);
        let apart = |key: &str| pod("p", "x", &[], &[term("web", key)]);
        let plain = || pod("p", "x", &[], &[]);
        for (pod, old, new, expected) in [
            (near("zone"), None, json!({"zone": "a"}), true),
            (near("region"), None, json!({"zone": "a"}), false),
            (apart("region"), None, json!({"zone": "a"}), true),
            (near("zone"), Some(json!({})), json!({"zone": "a"}), true),
            (near("region"), Some(json!({"region": "a"})), json!({"region": "a", "zone": "a"}), false),
            (near("region"), Some(json!({"region": "a"})), json!({"region": "b"}), true),
            (apart("zone"), Some(json!({"zone": "a"})), json!({}), true),
            (apart("zone"), Some(json!({"zone": "a"})), json!({"zone": "a", "x": "y"}), false),
            (plain(), Some(json!({})), json!({"zone": "a"}), true),
        ] {
            let event = ClusterEvent::Node(Changed { old: old.clone().map(node), new: node(new.clone()) });
            assert_eq!(plugin().cures(&pod, &event), expected, "{:?}: {old:?} to {new}", pod.terms);
        }
    }

    #[test]
    fn trying_without_a_pod_is_as_if_it_were_gone() {
        let snapshot = Snapshot::new(nodes());
        let context = Context { snapshot: &snapshot, listers: &Nothing };
        let (mut cycle, web) = (CycleState::default(), pod("p", "web", &[], &[term("web", "zone")]));
        plugin().pre_filter(&mut cycle, &web, &context).unwrap();
        let (a1, b1) = (snapshot.get("a1").unwrap(), snapshot.get("b1").unwrap());
        let fits = |cycle: &CycleState, node| plugin().filter(cycle, &web, node, &context).is_ok();
        assert!(!fits(&cycle, a1) && !fits(&cycle, b1));
        let mut without = cycle.clone();
        plugin().remove_pod(&mut without, &web, &a1.pods[0], a1);
        plugin().remove_pod(&mut without, &web, &b1.pods[0], b1);
        assert!(fits(&without, a1) && fits(&without, b1));
        plugin().add_pod(&mut without, &web, &a1.pods[0], a1);
        assert!(!fits(&without, a1) && fits(&without, b1));
    }

    #[test]
    fn preferences_of_both_sides_count() {
        let weighted = |weight: i32, term: Value| json!({"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": weight, "podAffinityTerm": term}]});
        let near_web = labelled_pod("p", json!({"app": "x"}), json!({"affinity": {"podAffinity": weighted(10, term("web", "zone"))}}));
        let apart_from_web =
            labelled_pod("p", json!({"app": "x"}), json!({"affinity": {"podAntiAffinity": weighted(10, term("web", "zone"))}}));
        let drawing = labelled_pod("d", json!({"app": "d"}), json!({"affinity": {"podAffinity": weighted(5, term("x", "zone"))}}));
        let mut with_drawing = nodes();
        with_drawing[2].add_pod(drawing);
        let plain = labelled_pod("p", json!({"app": "x"}), json!({}));
        for (nodes, pod, expected) in [
            (nodes(), &near_web, vec![100, 100, 0, 0]),
            (nodes(), &apart_from_web, vec![0, 0, 100, 100]),
            (with_drawing, &plain, vec![0, 0, 100, 0]),
        ] {
            let snapshot = Snapshot::new(nodes);
            let context = Context { snapshot: &snapshot, listers: &Nothing };
            let mut cycle = CycleState::default();
            assert!(plugin().pre_score(&mut cycle, pod, &[], &context));
            let of = |name: &&str| plugin().score(&cycle, pod, snapshot.get(name).unwrap());
            let mut scores: Vec<i64> = ["a1", "a2", "b1", "c"].iter().map(of).collect();
            plugin().normalize(&cycle, &[], &mut scores);
            assert_eq!(scores, expected);
        }
        let snapshot = Snapshot::new(nodes());
        assert!(!plugin().pre_score(&mut CycleState::default(), &plain, &[], &Context { snapshot: &snapshot, listers: &Nothing }));
    }
}
