//! What extenders do to decisions, with servers that are made up.

use super::*;
use crate::config::ManagedResource;
use crate::cycle::{Decision, Outcome, Search, post_filter, schedule};
use crate::fixtures::{node_info, pod};
use crate::framework::{Context, CycleState};
use crate::listers::Nothing;
use crate::plugins::PluginSet;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

/// Answers by verb.
struct Answers(Value);

impl Transport for Answers {
    fn post<'a>(&'a self, verb: &'a str, _: Vec<u8>) -> BoxFuture<'a, Result<Vec<u8>, String>> {
        let answer = self.0.get(verb).map(|answer| answer.to_string().into_bytes());
        Box::pin(async move { answer.ok_or_else(|| format!("nobody answers {verb}")) })
    }
}

/// An extender with these verbs, named as the points, and its answers.
fn extender(verbs: &[&str], answers: Value) -> Extender {
    let verb = |name: &str| if verbs.contains(&name) { name.to_owned() } else { String::new() };
    let config = config::Extender {
        url_prefix: "http://x".to_owned(),
        filter_verb: verb("filter"),
        prioritize_verb: verb("prioritize"),
        preempt_verb: verb("preempt"),
        bind_verb: verb("bind"),
        weight: 2,
        node_cache_capable: true,
        ..config::Extender::default()
    };
    Extender { config, transport: Box::new(Answers(answers)) }
}

fn ignorable(mut extender: Extender) -> Extender {
    extender.config.ignorable = true;
    extender
}

fn managing(mut extender: Extender, resource: &str) -> Extender {
    extender.config.managed_resources = vec![ManagedResource { name: resource.to_owned(), ignored_by_scheduler: true }];
    extender
}

fn three_nodes() -> Snapshot {
    Snapshot::new(["n0", "n1", "n2"].map(|name| node_info(name, json!({"status": {"allocatable": {"example.com/foo": "1"}}}), &[])))
}

fn decide(snapshot: &Snapshot, pod: &PodInfo, extenders: Vec<Extender>) -> Result<Decision, Box<FitError>> {
    let context = Context { snapshot, listers: &Nothing };
    let mut search = Search { extenders: Arc::new(Extenders(extenders)), ..Search::default() };
    schedule(&PluginSet::default(), &mut CycleState::default(), pod, &context, &mut search, &mut StdRng::seed_from_u64(1))
}

#[test]
fn filters_leave_nodes_or_say_why_not() {
    let plain = pod("a", json!({}));
    let (one, none) = (json!({"filter": {"NodeNames": ["n1"]}}), json!({"filter": {"NodeNames": []}}));
    let snapshot = three_nodes();
    let decided = decide(&snapshot, &plain, vec![extender(&["filter"], one.clone())]).unwrap();
    assert_eq!((decided.node.as_str(), decided.feasible), ("n1", 1));

    let why =
        json!({"filter": {"NodeNames": [], "FailedNodes": {"n0": "full", "n1": "full"}, "FailedAndUnresolvableNodes": {"n1": "never"}}});
    for (extenders, expected) in [
        (vec![extender(&["filter"], why)], "0/3 nodes are available: 1 full, 1 never."),
        (vec![extender(&["filter"], none)], "0/3 nodes are available:"),
        (
            vec![
                extender(&["filter"], one.clone()),
                extender(&["filter"], json!({"filter": {"nodenames": [], "failednodes": {"n1": "no"}}})),
            ],
            "0/3 nodes are available: 1 no.",
        ),
    ] {
        let error = decide(&snapshot, &plain, extenders).unwrap_err();
        assert_eq!((error.message().as_str(), error.failure.is_some()), (expected, false));
        assert_eq!(error.plugins(), [EXTENDER].into());
    }
    for (extenders, expected) in [
        (vec![extender(&["filter"], json!({}))], "nobody answers filter"),
        (vec![extender(&["filter"], json!({"filter": {"Error": "broken"}}))], "broken"),
        (
            vec![extender(&["filter"], json!({"filter": {"NodeNames": ["n9"]}}))],
            "extender \"http://x\" claims a filtered node \"n9\" which is not found in the input node list",
        ),
    ] {
        let error = decide(&snapshot, &plain, extenders).unwrap_err();
        assert_eq!((error.message().as_str(), error.failure.is_some()), (expected, true));
    }
    let excused = vec![ignorable(extender(&["filter"], json!({}))), extender(&["filter"], one)];
    assert_eq!(decide(&snapshot, &plain, excused).unwrap().node, "n1");
}

#[test]
fn a_node_that_is_promised_has_to_pass_too() {
    let mut promised = (*pod("a", json!({})).pod).clone();
    promised.status = Some(serde_json::from_value(json!({"nominatedNodeName": "n0"})).unwrap());
    let promised = PodInfo::new(Arc::new(promised));
    let leaving = |name: &str| vec![extender(&["filter"], json!({"filter": {"NodeNames": [name]}}))];
    let snapshot = three_nodes();
    assert_eq!(decide(&snapshot, &promised, leaving("n0")).unwrap().evaluated, 1);
    // Of the promised node alone it says that it leaves another, which it has not been asked of; of all nodes it may.
    assert_eq!(decide(&snapshot, &promised, leaving("n2")).unwrap().node, "n2");
}

#[test]
fn scores_are_added_to_the_plugins() {
    let plain = pod("a", json!({}));
    let snapshot = Snapshot::new([
        node_info("n0", json!({}), &[pod("b", json!({"containers": [{"resources": {"requests": {"cpu": "3"}}}]}))]),
        node_info("n1", json!({}), &[]),
    ]);
    let scores = json!({"prioritize": [{"Host": "n0", "Score": 10}, {"Host": "n9", "Score": 10}]});
    let nodes = snapshot.nodes();
    let extenders = Extenders(vec![extender(&["prioritize"], scores.clone()), extender(&["prioritize"], json!({}))]);
    assert_eq!(extenders.scores(&plain, nodes), [200, 0], "weight 2, and ten times what the extender says");
    assert_eq!(decide(&snapshot, &plain, vec![]).unwrap().node, "n1");
    assert_eq!(decide(&snapshot, &plain, vec![extender(&["prioritize"], scores)]).unwrap().node, "n0");
}

#[test]
fn only_pods_that_ask_for_what_it_manages_are_its_business() {
    let snapshot = three_nodes();
    let failing = || vec![managing(extender(&["filter"], json!({})), "example.com/foo")];
    let container = |section: &str| json!([{"name": "c", "resources": {section: {"example.com/foo": "1"}}}]);
    let asks = |spec: Value| decide(&snapshot, &pod("a", spec), failing()).is_err_and(|error| error.failure.is_some());
    assert!(!asks(json!({})));
    assert!(asks(json!({"containers": container("requests")})));
    assert!(asks(json!({"containers": container("limits")})));
    assert!(asks(json!({"initContainers": container("requests")})));
}

#[test]
fn preemption_is_left_to_them() {
    let low = |name: &str| pod(name, json!({"priority": 0, "containers": [{"resources": {"requests": {"cpu": "4"}}}]}));
    let snapshot = Snapshot::new([node_info("n0", json!({}), &[low("v0")]), node_info("n1", json!({}), &[low("v1")])]);
    let urgent = pod("a", json!({"priority": 9, "containers": [{"resources": {"requests": {"cpu": "2"}}}]}));
    let preempt = |extenders: Vec<Extender>| {
        let context = Context { snapshot: &snapshot, listers: &Nothing };
        let mut search = Search { extenders: Arc::new(Extenders(extenders)), ..Search::default() };
        let (plugins, mut rng) = (PluginSet::default(), StdRng::seed_from_u64(1));
        let mut error = schedule(&plugins, &mut CycleState::default(), &urgent, &context, &mut search, &mut rng).unwrap_err();
        match post_filter(&plugins, &urgent, &context, &mut search, &mut rng, &mut error) {
            Outcome::Nominated(candidate) => Ok((candidate.node, candidate.victims[0].uid().to_owned())),
            _ => Err(error.post_filter),
        }
    };
    let answering = |victims: Value| vec![extender(&["preempt"], json!({"preempt": {"NodeNameToMetaVictims": victims}}))];
    let chosen = |node: &str, victim: &str| Ok((node.to_owned(), victim.to_owned()));
    let refused = |why: &str| Err(format!("preemption: {why}"));
    let victims = |uid: &str| json!({"Pods": [{"UID": uid}], "NumPDBViolations": 0});
    for (extenders, expected) in [
        (answering(json!({"n1": victims("v1")})), chosen("n1", "v1")),
        (answering(json!({"n0": victims("v0")})), chosen("n0", "v0")),
        (answering(json!({})), Err("no new claims to deallocate, preemption: no candidate node for preemption".to_owned())),
        (answering(json!({"n0": {"Pods": []}})), refused("expected at least one victim pod on node \"n0\"")),
        (
            answering(json!({"n0": victims("v1")})),
            refused("extender: http://x claims to preempt pod (UID: &{v1}) on node: n0, but the pod is not found on that node"),
        ),
        (answering(json!({"n9": victims("v1")})), refused("nodeinfo not found for node name \"n9\"")),
        (vec![extender(&["preempt"], json!({}))], refused("nobody answers preempt")),
    ] {
        assert_eq!(preempt(extenders), expected);
    }
    let excused = [ignorable(extender(&["preempt"], json!({})))].into_iter().chain(answering(json!({"n1": victims("v1")})));
    assert_eq!(preempt(excused.collect()), chosen("n1", "v1"));
    let empty = answering(json!({"n0": {"Pods": []}, "n1": victims("v1")})).into_iter().map(ignorable);
    assert_eq!(preempt(empty.collect()), chosen("n1", "v1"));
}

#[tokio::test]
async fn the_first_that_binds_does() {
    let pod = pod("a", json!({}));
    let bind = async |extenders: Vec<Extender>| Extenders(extenders).bind(&pod, "n0").await;
    let failing = || extender(&["bind"], json!({"bind": {"Error": "no"}}));
    assert_eq!(bind(vec![extender(&["filter"], json!({}))]).await, None);
    assert_eq!(bind(vec![extender(&["bind"], json!({"bind": {}}))]).await, Some(Ok(())));
    assert_eq!(bind(vec![failing()]).await, Some(Err("no".to_owned())));
    assert_eq!(bind(vec![ignorable(failing())]).await, None, "left to the plugins");
}
