//! Counts of pods by what they are and where: how many pods of a group each node and each domain of a topology has.
//!
//! Spreading and pod affinity ask this for every pod to be placed. Counting anew would cost as much as there are pods; so a group is counted
//! once, when it is first asked for, and from then on kept up to date with every pod that comes, goes or changes. The terms of placed
//! pods' own affinity are counted in the same way, equal terms together.
//!
//! A pure function of the nodes it was told of: counting everything again gives the same, which the tests check.

use crate::affinity::AffinityTerm;
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::selector::Selector;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

/// Groups kept at most; the one unused for longest makes room. More than there are workloads whose pods are created at the same time.
const GROUPS: usize = 512;

/// Of which namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All of them.
    All,
    /// These.
    Names(BTreeSet<String>),
}

/// Pods of some namespaces with some labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Matcher {
    /// The namespaces.
    pub scope: Scope,
    /// The labels.
    pub selector: Selector,
}

impl Matcher {
    /// Whether a pod is one of them.
    pub fn matches(&self, pod: &PodInfo) -> bool {
        let in_scope = match &self.scope {
            Scope::All => true,
            Scope::Names(names) => names.contains(pod.namespace()),
        };
        in_scope && self.selector.matches(pod.pod.metadata.labels.as_ref())
    }
}

/// The pods that are counted together: those that all matchers match.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Group {
    /// What they have to match.
    pub matchers: Vec<Matcher>,
    /// Pods that are being deleted do not count.
    pub only_staying: bool,
}

impl Group {
    /// Whether a pod is one of them.
    pub fn contains(&self, pod: &PodInfo) -> bool {
        !(self.only_staying && pod.is_terminating()) && self.matchers.iter().all(|matcher| matcher.matches(pod))
    }
}

/// What a placed pod's term does to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Required affinity: draws the pods that it is about.
    Draws,
    /// Required anti-affinity: refuses them.
    Refuses,
    /// Preferred, with its weight.
    Weighs(i32),
}

/// Pods by name of a node or value of a topology label; what has none is not there.
pub type Counts = Arc<HashMap<String, i64>>;

#[derive(Clone, Debug, Default)]
struct Counter {
    per_node: Counts,
    /// By topology label.
    domains: HashMap<String, Counts>,
    used: u64,
}

impl Counter {
    /// `labelled`: the value of a topology label on the node.
    fn add<'n>(&mut self, node: &str, labelled: impl Fn(&str) -> Option<&'n str>, amount: i64) {
        bump(&mut self.per_node, node, amount);
        self.move_domains(labelled, amount);
    }

    fn move_domains<'n>(&mut self, labelled: impl Fn(&str) -> Option<&'n str>, amount: i64) {
        for (key, domains) in &mut self.domains {
            if let Some(domain) = labelled(key) {
                bump(domains, domain, amount);
            }
        }
    }
}

fn bump(counts: &mut Counts, name: &str, amount: i64) {
    let counts = Arc::make_mut(counts);
    match counts.get_mut(name) {
        Some(count) => {
            *count += amount;
            if *count == 0 {
                counts.remove(name);
            }
        }
        None if amount != 0 => drop(counts.insert(name.to_owned(), amount)),
        None => {}
    }
}

/// A term that placed pods have, with the domains they are in.
#[derive(Clone, Debug)]
pub struct PlacedTerm {
    /// The term.
    pub term: Arc<AffinityTerm>,
    /// What it does.
    pub effect: Effect,
    /// How many pods with it each domain of its topology has.
    pub domains: Counts,
}

/// See the module's description.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    groups: HashMap<Group, Counter>,
    terms: HashMap<(Effect, Arc<AffinityTerm>), Counter>,
    /// How many nodes each domain has, by topology label.
    topologies: HashMap<String, Counts>,
    /// How many nodes have an image, by its name.
    images: HashMap<String, usize>,
    /// How many pods use a claim, by namespace and name.
    claims: HashMap<(String, String), usize>,
    clock: u64,
}

impl Counters {
    /// A node has come, changed or gone.
    pub fn apply(&mut self, old: Option<&NodeInfo>, new: Option<&NodeInfo>) {
        let both = old.zip(new);
        let same_node = both.is_some_and(|(old, new)| match (&old.node, &new.node) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a.metadata.labels == b.metadata.labels,
            _ => false,
        });
        if !same_node {
            // What was counted under the old labels is counted under the new ones.
            if let Some(old) = old {
                self.label_node(old, -1);
            }
            if let Some(new) = new {
                self.label_node(new, 1);
            }
        }
        self.count_images(old, new);
        let (before, after) = (old.map_or(&[][..], |old| &old.pods), new.map_or(&[][..], |new| &new.pods));
        let (gone, come) = differences(before, after);
        let Some(place) = new.or(old) else { return };
        for pod in gone {
            self.count(pod, place, new.is_some(), -1);
        }
        for pod in come {
            self.count(pod, place, true, 1);
        }
    }

    /// How many pods of a group each node has.
    pub fn per_node(&mut self, group: &Group, nodes: &[Arc<NodeInfo>]) -> Counts {
        self.counter(group, nodes).per_node.clone()
    }

    /// How many pods of a group each domain of a topology has.
    pub fn domains(&mut self, group: &Group, key: &str, nodes: &[Arc<NodeInfo>]) -> Counts {
        let counter = self.counter(group, nodes);
        if let Some(domains) = counter.domains.get(key) {
            return domains.clone();
        }
        let mut domains = Counts::default();
        for node in nodes {
            if let (Some(count), Some(domain)) = (counter.per_node.get(node.name()), node.label(key)) {
                bump(&mut domains, domain, *count);
            }
        }
        counter.domains.insert(key.to_owned(), domains.clone());
        domains
    }

    /// How many nodes each domain of a topology has.
    pub fn topology(&mut self, key: &str, nodes: &[Arc<NodeInfo>]) -> Counts {
        if let Some(topology) = self.topologies.get(key) {
            return topology.clone();
        }
        let mut topology = Counts::default();
        nodes.iter().filter_map(|node| node.label(key)).for_each(|domain| bump(&mut topology, domain, 1));
        self.topologies.insert(key.to_owned(), topology.clone());
        topology
    }

    /// The terms of placed pods that `wanted` picks.
    pub fn terms(&self, wanted: impl Fn(Effect, &AffinityTerm) -> bool) -> Vec<PlacedTerm> {
        let picked = self.terms.iter().filter(|((effect, term), _)| wanted(*effect, term));
        let placed = |((effect, term), counter): (&(Effect, Arc<AffinityTerm>), &Counter)| PlacedTerm {
            term: term.clone(),
            effect: *effect,
            domains: counter.domains.get(&term.topology_key).cloned().unwrap_or_default(),
        };
        picked.map(placed).collect()
    }

    /// How many nodes have an image.
    pub fn nodes_with_image(&self, name: &str) -> usize {
        self.images.get(name).copied().unwrap_or(0)
    }

    /// How many placed pods use a claim.
    pub fn claim_users(&self, namespace: &str, name: &str) -> usize {
        if self.claims.is_empty() {
            return 0;
        }
        self.claims.get(&(namespace.to_owned(), name.to_owned())).copied().unwrap_or(0)
    }

    fn counter(&mut self, group: &Group, nodes: &[Arc<NodeInfo>]) -> &mut Counter {
        self.clock += 1;
        if !self.groups.contains_key(group) {
            if self.groups.len() >= GROUPS
                && let Some(oldest) = self.groups.iter().min_by_key(|(_, counter)| counter.used).map(|(group, _)| group.clone())
            {
                self.groups.remove(&oldest);
            }
            let counted = nodes.iter().filter_map(|node| {
                let count = node.pods.iter().filter(|pod| group.contains(pod)).count();
                (count > 0).then(|| (node.name().to_owned(), i64::try_from(count).unwrap_or(i64::MAX)))
            });
            let counter = Counter { per_node: Arc::new(counted.collect()), ..Counter::default() };
            self.groups.insert(group.clone(), counter);
        }
        let counter = self.groups.get_mut(group).expect("it was there or has been put there");
        counter.used = self.clock;
        counter
    }

    /// Adds or takes away what is already counted on a node, under its present labels.
    fn label_node(&mut self, node: &NodeInfo, sign: i64) {
        for (key, topology) in &mut self.topologies {
            if let Some(domain) = node.label(key) {
                bump(topology, domain, sign);
            }
        }
        for counter in self.groups.values_mut().chain(self.terms.values_mut()) {
            if let Some(count) = counter.per_node.get(node.name()).copied() {
                counter.move_domains(|key| node.label(key), sign * count);
            }
        }
    }

    fn count_images(&mut self, old: Option<&NodeInfo>, new: Option<&NodeInfo>) {
        if old.zip(new).is_some_and(|(old, new)| Arc::ptr_eq(&old.images, &new.images)) {
            return;
        }
        for name in new.into_iter().flat_map(|new| new.images.keys()) {
            *self.images.entry(name.clone()).or_insert(0) += 1;
        }
        for name in old.into_iter().flat_map(|old| old.images.keys()) {
            if let Some(count) = self.images.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.images.remove(name);
                }
            }
        }
    }

    /// `labelled`: whether the node is still there under its labels; if not, its domains have been taken away already.
    fn count(&mut self, pod: &PodInfo, node: &NodeInfo, labelled: bool, amount: i64) {
        let label = |key: &str| if labelled { node.label(key) } else { None };
        for (group, counter) in &mut self.groups {
            if group.contains(pod) {
                counter.add(node.name(), label, amount);
            }
        }
        let of_required = |effect| move |term: &Arc<AffinityTerm>| (effect, term.clone());
        let terms = pod.terms.required.iter().map(of_required(Effect::Draws));
        let terms = terms.chain(pod.terms.required_anti.iter().map(of_required(Effect::Refuses)));
        let terms = terms.chain(pod.terms.preferred.iter().map(|(term, weight)| (Effect::Weighs(*weight), term.clone())));
        for key in terms {
            let counter = self.terms.entry(key.clone()).or_insert_with(|| Counter {
                domains: HashMap::from([(key.1.topology_key.clone(), Counts::default())]),
                ..Counter::default()
            });
            counter.add(node.name(), label, amount);
            if counter.per_node.is_empty() {
                self.terms.remove(&key);
            }
        }
        for claim in &pod.claims {
            let key = (pod.namespace().to_owned(), claim.name.clone());
            let users = self.claims.entry(key.clone()).or_insert(0);
            *users = users.saturating_add_signed(if amount > 0 { 1 } else { -1 });
            if *users == 0 {
                self.claims.remove(&key);
            }
        }
    }
}

/// The pods that are only in the one list and only in the other, but for those that count the same in both.
fn differences<'p>(old: &'p [Arc<PodInfo>], new: &'p [Arc<PodInfo>]) -> (Vec<&'p Arc<PodInfo>>, Vec<&'p Arc<PodInfo>>) {
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    for position in 0..old.len().max(new.len()) {
        match (old.get(position), new.get(position)) {
            (Some(a), Some(b)) if Arc::ptr_eq(a, b) => {}
            (a, b) => {
                gone.extend(a);
                come.extend(b);
            }
        }
    }
    gone.retain(|pod| {
        let same = come.iter().position(|other| Arc::ptr_eq(pod, other) || (other.uid() == pod.uid() && other.counts_like(pod)));
        same.map(|position| come.swap_remove(position)).is_none()
    });
    (gone, come)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{labelled_pod, node_info};
    use crate::snapshot::Snapshot;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use serde_json::json;

    fn web() -> Group {
        let scope = Scope::Names(BTreeSet::from(["ns".to_owned()]));
        let selector = Selector::equal([(&"app".to_owned(), &"web".to_owned())]);
        Group { matchers: vec![Matcher { scope, selector }], only_staying: true }
    }

    fn random_pod(rng: &mut StdRng, number: usize) -> Arc<PodInfo> {
        let app = ["web", "db"][rng.random_range(0..2)];
        let term = json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": app}}});
        let affinity = match rng.random_range(0..4) {
            0 => json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}),
            1 => json!({"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 7, "podAffinityTerm": term}]}}),
            _ => json!({}),
        };
        let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": format!("c{}", rng.random_range(0..3))}}]);
        labelled_pod(&format!("p{number}"), json!({"app": app}), json!({"affinity": affinity, "volumes": volumes}))
    }

    type Seen = (Vec<(String, i64)>, Vec<(String, i64)>, Vec<(String, i64)>, Vec<String>, Vec<usize>);

    /// Everything that can be asked.
    fn seen(snapshot: &Snapshot) -> Seen {
        let sorted = |counts: Counts| {
            let mut list: Vec<_> = counts.iter().map(|(name, count)| (name.clone(), *count)).collect();
            list.sort();
            list
        };
        let mut terms: Vec<String> = snapshot
            .terms(|_, _| true)
            .into_iter()
            .map(|placed| format!("{:?} {:?} {:?}", placed.effect, placed.term, sorted(placed.domains)))
            .collect();
        terms.sort();
        let users = (0..3).map(|n| snapshot.claim_users("ns", &format!("c{n}"))).collect();
        let (group, key) = (web(), "zone");
        (sorted(snapshot.per_node(&group)), sorted(snapshot.domains(&group, key)), sorted(snapshot.topology(key)), terms, users)
    }

    #[test]
    fn counts_kept_are_those_counted_anew() {
        for seed in 0..50 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut kept = Snapshot::default();
            let mut nodes: HashMap<String, NodeInfo> = HashMap::new();
            seen(&kept);
            for step in 0..60 {
                let name = format!("n{}", rng.random_range(0..4));
                let zone = ["a", "b"][rng.random_range(0..2)];
                let zone = json!({"metadata": {"labels": {"zone": zone}}});
                match (nodes.get_mut(&name), rng.random_range(0..10)) {
                    (None, _) => drop(nodes.insert(name.clone(), node_info(&name, zone, &[random_pod(&mut rng, step)]))),
                    (Some(_), 0) => drop(nodes.remove(&name)),
                    (Some(node), 1 | 2) => node.set_node(crate::fixtures::node(&name, zone)),
                    (Some(node), 3 | 4) if !node.pods.is_empty() => {
                        let position = rng.random_range(0..node.pods.len());
                        let uid = node.pods[position].uid().to_owned();
                        node.remove_pod(&uid);
                    }
                    (Some(node), 5) if !node.pods.is_empty() => {
                        let mut pod = (*node.pods[0].pod).clone();
                        pod.metadata.labels = random_pod(&mut rng, 0).pod.metadata.labels.clone();
                        node.replace_pod(&Arc::new(PodInfo::new(Arc::new(pod))));
                    }
                    (Some(node), _) => node.add_pod(random_pod(&mut rng, step)),
                }
                kept.set(&name, nodes.get(&name).cloned().map(Arc::new));
                kept.arrange();
                let anew = Snapshot::new(nodes.values().cloned());
                assert_eq!(seen(&kept), seen(&anew), "seed {seed}, step {step}");
            }
        }
    }

    #[test]
    fn groups_are_bounded() {
        let mut counters = Counters::default();
        for number in 0..=GROUPS {
            let selector = Selector::equal([(&"app".to_owned(), &number.to_string())]);
            let group = Group { matchers: vec![Matcher { scope: Scope::All, selector }], only_staying: false };
            counters.per_node(&group, &[]);
        }
        assert_eq!(counters.groups.len(), GROUPS);
    }
}
