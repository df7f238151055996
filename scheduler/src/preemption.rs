//! Making room: which pods of lower priority have to go so that a pod fits (upstream: `framework/preemption`, `plugins/defaultpreemption`). Pure;
//! the scheduler carries it out.

use crate::config::args::DefaultPreemptionArgs;
use crate::cycle::{Filters, FitError, may_be_helped, unavailable};
use crate::framework::{Context, CycleState, Rejection, Unplaced};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use api::validation::labels;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

/// A node, and the pods that have to leave it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The node's name.
    pub node: String,
    /// The pods to delete, the most important first.
    pub victims: Vec<Arc<PodInfo>>,
    /// How many of them a disruption budget would protect.
    pub violations: usize,
}

/// Why nothing is preempted, as users read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The pod may not preempt, or has to wait for what it has preempted already.
    NotEligible(String),
    /// It helps nowhere.
    NoCandidate(String),
    /// Extenders leave no node.
    NoneLeft,
    /// An extender has failed that has to be asked.
    Failed(String),
}

/// What preemption on one node would come to: how much harm it does, and what it is; or why it does not help.
pub type Trial = Result<(Harm, Candidate), Rejection>;

/// Finds the node on which preemption does least harm, or says why there is none.
pub fn find(args: &DefaultPreemptionArgs, unplaced: &mut Unplaced<'_>) -> Result<Candidate, Failure> {
    let Unplaced { pod, context, filters, cycle, error, offset, ref mut memory, extenders } = *unplaced;
    let not_eligible = |why: &str| Failure::NotEligible(format!("not eligible due to {why}."));
    if pod.spec().preemption_policy.as_deref() == Some("Never") {
        return Err(not_eligible("preemptionPolicy=Never"));
    }
    if waits_for_victims(pod, &context, error) {
        return Err(not_eligible("a terminating pod on the nominated node"));
    }
    let helpful: Vec<usize> =
        error.rejected.iter().filter(|(_, rejection)| may_be_helped(rejection)).map(|(position, _)| *position).collect();
    let share = helpful.len() * usize::try_from(args.min_candidate_nodes_percentage).unwrap_or(0) / 100;
    let enough = share.max(usize::try_from(args.min_candidate_nodes_absolute).unwrap_or(0)).min(helpful.len());
    let budgets = Budgets::of(context.listers.budgets());
    let remembers = budgets.is_empty() && filters.look_at_node_only();
    let (mut hopeless, mut candidates, mut any_harmless) = (Vec::new(), Vec::new(), false);
    // From a place that is another each time: the first would soon be used up, and be looked at again and again.
    let (before, after) = helpful.split_at(if helpful.is_empty() { 0 } else { offset % helpful.len() });
    for position in after.iter().chain(before).copied() {
        let node = &context.snapshot.nodes()[position];
        let known = if remembers { memory.trial(position, node, pod) } else { None };
        let trial = known.unwrap_or_else(|| {
            let trial = Arc::new(victims(filters, cycle, pod, node, &context, &budgets));
            if remembers {
                memory.remember_trial(position, node, &trial);
            }
            trial
        });
        match trial.as_ref() {
            Ok((harm, _)) => {
                any_harmless |= harm.violations == 0;
                candidates.push(trial);
            }
            Err(_) => hopeless.push((position, trial)),
        }
        // Upstream goes on until enough nodes are found, and one of them breaks no budget.
        if candidates.len() >= enough && any_harmless {
            break;
        }
    }
    let found = candidates.iter().filter_map(|trial| trial.as_ref().as_ref().ok());
    if !candidates.is_empty() && extenders.preempt_for(pod) {
        let found = found.map(|(_, candidate)| candidate.clone()).collect();
        let left = extenders.preempt(pod, found, context.snapshot).map_err(Failure::Failed)?;
        return left.into_iter().min_by_key(Harm::of).ok_or(Failure::NoneLeft);
    }
    let best = found.min_by_key(|(harm, _)| *harm);
    best.map(|(_, candidate)| candidate.clone()).ok_or_else(|| {
        let rejected: Vec<_> =
            hopeless.into_iter().filter_map(|(position, trial)| Some((position, trial.as_ref().as_ref().err()?.clone()))).collect();
        Failure::NoCandidate(unavailable(error.nodes, &rejected, &unhelpful()))
    })
}

/// Disruption budgets by namespace.
struct Budgets(HashMap<String, Vec<Arc<PodDisruptionBudget>>>);

impl Budgets {
    fn of(budgets: Vec<Arc<PodDisruptionBudget>>) -> Self {
        let mut by_namespace: HashMap<String, Vec<_>> = HashMap::new();
        for budget in budgets {
            by_namespace.entry(budget.metadata.namespace.clone().unwrap_or_default()).or_default().push(budget);
        }
        Self(by_namespace)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn in_namespace(&self, namespace: &str) -> &[Arc<PodDisruptionBudget>] {
        self.0.get(namespace).map_or(&[], Vec::as_slice)
    }
}

/// What is said of the nodes on which preemption was not even tried.
pub fn unhelpful() -> Rejection {
    Rejection::unresolvable("Preemption is not helpful for scheduling")
}

/// A pod that has preempted others waits until they are gone before it preempts more.
fn waits_for_victims(pod: &PodInfo, context: &Context<'_>, error: &FitError) -> bool {
    let nominated = pod.status().nominated_node_name.as_deref().unwrap_or_default();
    let Some(node) = context.snapshot.get(nominated) else { return false };
    let rejection = context.snapshot.position(nominated).and_then(|position| error.rejection(position));
    if rejection.is_some_and(|rejection| !may_be_helped(rejection)) {
        return false;
    }
    let preempted = |other: &PodInfo| {
        let conditions = other.status().conditions.as_deref().unwrap_or_default();
        conditions
            .iter()
            .any(|c| c.type_ == "DisruptionTarget" && c.status == "True" && c.reason.as_deref() == Some("PreemptionByScheduler"))
    };
    node.pods.iter().any(|other| other.priority() < pod.priority() && other.is_terminating() && preempted(other))
}

/// The smallest set of less important pods whose absence lets the pod run on the node.
fn victims(filters: &Filters<'_>, cycle: &CycleState, pod: &PodInfo, node: &NodeInfo, context: &Context<'_>, budgets: &Budgets) -> Trial {
    let mut lower: Vec<Arc<PodInfo>> = node.pods.iter().filter(|other| other.priority() < pod.priority()).cloned().collect();
    if lower.is_empty() {
        return Err(Rejection::unresolvable("No preemption victims found for incoming pod"));
    }
    let (mut left, mut cycle) = (node.clone(), cycle.clone());
    for other in &lower {
        filters.remove(&mut cycle, pod, other, &mut left);
    }
    filters.check_with_nominated(&cycle, pod, &left, context)?;
    lower.sort_by_key(importance);
    let (protected, unprotected) = split_by_budget(lower, budgets);
    let mut candidate = Candidate { node: node.name().to_owned(), victims: Vec::new(), violations: 0 };
    for (pods, violates) in [(protected, 1), (unprotected, 0)] {
        for other in pods {
            filters.add(&mut cycle, pod, other.clone(), &mut left);
            if filters.check_with_nominated(&cycle, pod, &left, context).is_err() {
                filters.remove(&mut cycle, pod, &other, &mut left);
                candidate.victims.push(other);
                candidate.violations += violates;
            }
        }
    }
    if candidate.victims.is_empty() {
        // Nobody's end would wake the pod.
        return Err(Rejection::unresolvable(format!("expected at least one victim pod on node {:?}", candidate.node)));
    }
    candidate.victims.sort_by_key(importance);
    Ok((Harm::of(&candidate), candidate))
}

/// Sorts the most important first: by priority, then those that have run longest.
fn importance(pod: &Arc<PodInfo>) -> (Reverse<i32>, i128) {
    (Reverse(pod.priority()), started(pod))
}

/// When the pod started, in nanoseconds; one that has not is as young as can be.
fn started(pod: &PodInfo) -> i128 {
    pod.status().start_time.as_ref().map_or(i128::MAX, |time| time.0.as_nanosecond())
}

/// Those whose eviction would break a budget, and the others. Every eviction counts against the budgets that it touches.
fn split_by_budget(pods: Vec<Arc<PodInfo>>, budgets: &Budgets) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    if budgets.is_empty() {
        return (Vec::new(), pods);
    }
    let mut allowed: HashMap<(Option<&str>, Option<&str>), i32> = HashMap::new();
    pods.into_iter().partition(|pod| {
        let mut violates = false;
        for budget in budgets.in_namespace(pod.namespace()).iter().filter(|budget| is_protected(pod, budget)) {
            let (meta, status) = (&budget.metadata, budget.status.as_ref());
            let left = allowed.entry((meta.namespace.as_deref(), meta.name.as_deref()));
            let left = left.or_insert_with(|| status.and_then(|status| status.disruptions_allowed).unwrap_or(0));
            *left -= 1;
            violates |= *left < 0;
        }
        violates
    })
}

/// Whether evicting the pod counts against a budget of its namespace. As upstream has it here, one that selects all pods selects none.
fn is_protected(pod: &PodInfo, budget: &PodDisruptionBudget) -> bool {
    let own = pod.pod.metadata.labels.as_ref().filter(|labels| !labels.is_empty());
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()).filter(|selector| **selector != LabelSelector::default());
    let already = budget.status.as_ref().and_then(|status| status.disrupted_pods.as_ref());
    let already = already.is_some_and(|disrupted| disrupted.contains_key(pod.pod.metadata.name.as_deref().unwrap_or_default()));
    own.is_some() && !already && selector.is_some_and(|selector| labels::matches(selector, own))
}

/// Less is better, the first difference decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Harm {
    /// Budgets broken.
    violations: usize,
    /// The most important victim's priority.
    highest: i32,
    /// All victims' importance.
    sum: i64,
    /// How many they are.
    victims: usize,
    /// When the first of the most important ones started.
    started: Reverse<i128>,
}

impl Harm {
    fn of(candidate: &Candidate) -> Self {
        let highest = candidate.victims.first().map_or(i32::MIN, |pod| pod.priority());
        let most_important = candidate.victims.iter().filter(|pod| pod.priority() == highest);
        Self {
            violations: candidate.violations,
            highest,
            // Shifted, so that many unimportant pods count for more than few.
            sum: candidate.victims.iter().map(|pod| i64::from(pod.priority()) + i64::from(i32::MAX) + 1).sum(),
            victims: candidate.victims.len(),
            started: Reverse(most_important.map(|pod| started(pod)).min().unwrap_or(i128::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cycle::{Outcome, Search, post_filter, schedule};
    use crate::fixtures::{Objects, labelled_pod, node, node_info};
    use crate::listers::Nothing;
    use crate::plugins::PluginSet;
    use crate::snapshot::Snapshot;
    use crate::state::ClusterState;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use serde_json::json;

    fn asking(name: &str, cpu: &str, priority: i32) -> Arc<PodInfo> {
        labelled_pod(name, json!({"app": name}), json!({"priority": priority, "containers": [{"resources": {"requests": {"cpu": cpu}}}]}))
    }

    fn preempt(nodes: Vec<NodeInfo>, pod: &PodInfo, budgets: &[Arc<PodDisruptionBudget>]) -> Result<(String, Vec<String>), String> {
        let snapshot = Snapshot::new(nodes);
        let listers = Objects { budgets: budgets.to_vec(), ..Objects::default() };
        let context = Context { snapshot: &snapshot, listers: &listers };
        let (plugins, mut cycle) = (PluginSet::default(), CycleState::default());
        let mut search = Search::default();
        let mut rng = StdRng::seed_from_u64(1);
        let mut error = schedule(&plugins, &mut cycle, pod, &context, &mut search, &mut rng).unwrap_err();
        match post_filter(&plugins, pod, &context, &mut search, &mut rng, &mut error) {
            Outcome::Nominated(candidate) => Ok((candidate.node, candidate.victims.iter().map(|pod| pod.uid().to_owned()).collect())),
            Outcome::Deallocated(_) | Outcome::Hopeless | Outcome::Unchanged => Err(error.message()),
        }
    }

    #[test]
    fn only_as_many_as_needed_and_the_least_important() {
        let node = node_info("n0", json!({}), &[asking("low", "1", 1), asking("lower", "2", 0), asking("mid", "1", 5)]);
        assert_eq!(preempt(vec![node], &asking("a", "2", 10), &[]), Ok(("n0".to_owned(), vec!["lower".to_owned()])));
    }

    #[test]
    fn the_node_where_it_hurts_least() {
        let nodes = vec![
            node_info("n0", json!({}), &[asking("x", "4", 7)]),
            node_info("n1", json!({}), &[asking("y", "4", 3)]),
            node_info("n2", json!({}), &[asking("z1", "2", 3), asking("z2", "2", 3)]),
        ];
        assert_eq!(preempt(nodes, &asking("a", "4", 10), &[]), Ok(("n1".to_owned(), vec!["y".to_owned()])));
    }

    #[test]
    fn what_is_remembered_changes_nothing() {
        let (plugins, mut rng) = (PluginSet::default(), StdRng::seed_from_u64(7));
        let mut state = ClusterState::default();
        for number in 0..120 {
            state.set_node(node(&format!("n{number}"), json!({})));
        }
        let (mut remembering, mut snapshot, mut made_room) = (Search::default(), Snapshot::default(), 0);
        for step in 0..2000 {
            let name = format!("p{step}");
            let pod = asking(&name, ["1", "2", "3"][rng.random_range(0..3)], [0, 0, 10][rng.random_range(0..3)]);
            state.update(&mut snapshot);
            let context = Context { snapshot: &snapshot, listers: &Nothing };
            let (seed, start) = (rng.random(), remembering.start);
            let run = |search: &mut Search| {
                let mut rng = StdRng::seed_from_u64(seed);
                schedule(&plugins, &mut CycleState::default(), &pod, &context, search, &mut rng).map_err(|mut error| {
                    let outcome = post_filter(&plugins, &pod, &context, search, &mut rng, &mut error);
                    (error.message(), outcome)
                })
            };
            let placed = run(&mut remembering);
            let anew = run(&mut Search { start, ..Search::default() });
            assert_eq!(format!("{placed:?}"), format!("{anew:?}"), "step {step}");
            match placed {
                Ok(decision) => state.assume(pod, &decision.node),
                Err((_, Outcome::Nominated(candidate))) => {
                    made_room += 1;
                    candidate.victims.iter().for_each(|victim| drop(state.remove_pod(victim.uid())));
                    state.nominate(pod, &candidate.node);
                }
                Err(_) => {}
            }
            let other = format!("p{}", rng.random_range(0..=step));
            match rng.random_range(0..4) {
                0 => drop(state.remove_pod(&other)),
                1 => drop(state.denominate(&other)),
                _ => {}
            }
        }
        assert!(made_room > 100, "{made_room}");
    }

    #[test]
    fn budgets_are_kept_if_there_is_another_way() {
        let budget: PodDisruptionBudget = serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": "b"}, "spec": {"selector": {"matchLabels": {"app": "y"}}},
            "status": {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1},
        }))
        .unwrap();
        let nodes = vec![node_info("n0", json!({}), &[asking("x", "4", 7)]), node_info("n1", json!({}), &[asking("y", "4", 3)])];
        assert_eq!(preempt(nodes, &asking("a", "4", 10), &[Arc::new(budget)]), Ok(("n0".to_owned(), vec!["x".to_owned()])));
    }

    #[test]
    fn pods_that_stand_in_the_way_by_their_labels_go_too() {
        let apart = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "x"}}}]}});
        let spread = json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "x"}}}]);
        let nodes = || {
            let in_zone =
                |name: &str, zone: &str, pods: &[Arc<PodInfo>]| node_info(name, json!({"metadata": {"labels": {"zone": zone}}}), pods);
            let (x, bystander) = (asking("x", "1", 1), asking("b", "1", 1));
            vec![in_zone("n0", "a", &[x, bystander]), in_zone("full", "b", &[asking("full", "4", 100)])]
        };
        for more in [json!({ "affinity": apart }), json!({ "topologySpreadConstraints": spread })] {
            let mut spec = json!({"priority": 10, "containers": [{"resources": {"requests": {"cpu": "1"}}}]});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            assert_eq!(
                preempt(nodes(), &labelled_pod("a", json!({"app": "x"}), spec), &[]),
                Ok(("n0".to_owned(), vec!["x".to_owned()])),
                "{more}"
            );
        }
    }

    #[test]
    fn what_is_said_when_it_does_not_help() {
        let full = || vec![node_info("n0", json!({}), &[asking("x", "4", 7)])];
        let cases = [
            (
                full(),
                asking("a", "4", 7),
                "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
            ),
            (
                full(),
                asking("a", "5", 10),
                "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
            ),
            (
                full(),
                labelled_pod(
                    "a",
                    json!({}),
                    json!({"priority": 9, "preemptionPolicy": "Never", "containers": [{"resources": {"requests": {"cpu": "4"}}}]}),
                ),
                "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never.",
            ),
        ];
        for (nodes, pod, expected) in cases {
            assert_eq!(preempt(nodes, &pod, &[]), Err(expected.to_owned()));
        }
    }
}
