//! What extenders are told and answer, in JSON (upstream: `kube-scheduler/extender/v1`). Fields are named as in Go and found whatever their case, since
//! Go finds them so, and extenders write them in both ways. Pure.

use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::preemption::Candidate;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Serialize)]
struct NodeList<'a> {
    kind: &'static str,
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    metadata: Map<String, Value>,
    items: Vec<&'a Node>,
}

/// What is asked about a pod and the nodes on which it could run.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Question<'a> {
    pod: &'a Pod,
    nodes: Option<NodeList<'a>>,
    node_names: Option<Vec<&'a str>>,
}

/// Asks to filter or to score nodes, which are only named to an extender that knows them.
pub fn about_nodes(pod: &PodInfo, nodes: &[Arc<NodeInfo>], knows_nodes: bool) -> serde_json::Result<Vec<u8>> {
    let names = knows_nodes.then(|| nodes.iter().map(|node| node.name()).collect());
    let list = || NodeList {
        kind: "NodeList",
        api_version: "v1",
        metadata: Map::new(),
        items: nodes.iter().filter_map(|node| node.node.as_deref()).collect(),
    };
    serde_json::to_vec(&Question { pod: &pod.pod, nodes: (!knows_nodes).then(list), node_names: names })
}

/// What an extender says of nodes.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase", default)]
struct FilterResult {
    nodes: Option<Nodes>,
    node_names: Option<Vec<String>>,
    failed_nodes: Option<BTreeMap<String, String>>,
    failed_and_unresolvable_nodes: Option<BTreeMap<String, String>>,
    error: String,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
struct Nodes {
    items: Option<Vec<Named>>,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
struct Named {
    metadata: Metadata,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
struct Metadata {
    name: String,
}

/// Which nodes an extender leaves, and why not others.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Filtered {
    /// The names of those that it leaves.
    pub left: Vec<String>,
    /// Those where preemption could help.
    pub failed: BTreeMap<String, String>,
    /// Those where it could not; what is here counts before what is in `failed`.
    pub unresolvable: BTreeMap<String, String>,
}

/// Reads the answer to a filter's question, which may be that something went wrong.
pub fn filtered(answer: &[u8], knows_nodes: bool) -> Result<Filtered, String> {
    let mut answer = read(answer)?;
    spell(&mut answer, &["Nodes", "NodeNames", "FailedNodes", "FailedAndUnresolvableNodes", "Error"]);
    let result: FilterResult = decode(answer)?;
    if !result.error.is_empty() {
        return Err(result.error);
    }
    let items = || result.nodes.and_then(|nodes| nodes.items).unwrap_or_default();
    let left = match result.node_names.filter(|_| knows_nodes) {
        Some(names) => names,
        None => items().into_iter().map(|node| node.metadata.name).collect(),
    };
    Ok(Filtered {
        left,
        failed: result.failed_nodes.unwrap_or_default(),
        unresolvable: result.failed_and_unresolvable_nodes.unwrap_or_default(),
    })
}

/// What an extender gives a node, 0 to 10.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase", default)]
pub struct HostPriority {
    /// The node's name.
    pub host: String,
    /// More is better.
    pub score: i64,
}

/// Reads the answer to a scorer's question.
pub fn scored(answer: &[u8]) -> Result<Vec<HostPriority>, String> {
    let mut answer = read(answer)?;
    answer.as_array_mut().into_iter().flatten().for_each(|host| spell(host, &["Host", "Score"]));
    Ok(decode::<Option<Vec<HostPriority>>>(answer)?.unwrap_or_default())
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct BindingArgs<'a> {
    pod_name: &'a str,
    pod_namespace: &'a str,
    #[serde(rename = "PodUID")]
    pod_uid: &'a str,
    node: &'a str,
}

/// Asks to bind a pod.
pub fn about_binding(pod: &PodInfo, node: &str) -> serde_json::Result<Vec<u8>> {
    let pod_name = pod.pod.metadata.name.as_deref().unwrap_or_default();
    serde_json::to_vec(&BindingArgs { pod_name, pod_namespace: pod.namespace(), pod_uid: pod.uid(), node })
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct BindingResult {
    error: String,
}

/// Reads what came of a binding.
pub fn bound(answer: &[u8]) -> Result<(), String> {
    let mut answer = read(answer)?;
    spell(&mut answer, &["Error"]);
    let result: BindingResult = decode(answer)?;
    if result.error.is_empty() { Ok(()) } else { Err(result.error) }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PreemptionArgs<'a> {
    pod: &'a Pod,
    node_name_to_victims: Option<BTreeMap<&'a str, Victims<&'a Pod>>>,
    node_name_to_meta_victims: Option<BTreeMap<&'a str, Victims<MetaPod>>>,
}

#[derive(Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase")]
struct Victims<P> {
    pods: Vec<P>,
    #[serde(rename = "NumPDBViolations")]
    violations: usize,
}

#[derive(Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default)]
struct MetaPod {
    #[serde(rename = "UID")]
    uid: String,
}

fn victims<'a, P>(candidates: &'a [Candidate], shown: impl Fn(&'a PodInfo) -> P) -> BTreeMap<&'a str, Victims<P>> {
    let victims = |candidate: &'a Candidate| {
        let pods = candidate.victims.iter().map(|pod| shown(pod)).collect();
        (candidate.node.as_str(), Victims { pods, violations: candidate.violations })
    };
    candidates.iter().map(victims).collect()
}

/// Asks which nodes to preempt on, and whom there.
pub fn about_preemption(pod: &PodInfo, candidates: &[Candidate], knows_nodes: bool) -> serde_json::Result<Vec<u8>> {
    let whole = || victims(candidates, |pod| pod.pod.as_ref());
    let by_uid = || victims(candidates, |pod| MetaPod { uid: pod.uid().to_owned() });
    serde_json::to_vec(&PreemptionArgs {
        pod: &pod.pod,
        node_name_to_victims: (!knows_nodes).then(whole),
        node_name_to_meta_victims: knows_nodes.then(by_uid),
    })
}

/// A node and its victims as an extender answers them.
#[derive(Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The node's name.
    pub node: String,
    /// The UIDs of the victims.
    pub victims: Vec<String>,
    /// How many of them a disruption budget would protect.
    pub violations: usize,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct PreemptionResult {
    node_name_to_meta_victims: Option<BTreeMap<String, Option<MetaVictims>>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct MetaVictims {
    pods: Option<Vec<MetaPod>>,
    #[serde(rename = "NumPDBViolations")]
    violations: usize,
}

/// Reads the answer to a question of preemption: always UIDs.
pub fn preempted(answer: &[u8]) -> Result<Vec<Chosen>, String> {
    let mut answer = read(answer)?;
    spell(&mut answer, &["NodeNameToMetaVictims"]);
    for victims in answer["NodeNameToMetaVictims"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        spell(victims, &["Pods", "NumPDBViolations"]);
        victims["Pods"].as_array_mut().into_iter().flatten().for_each(|pod| spell(pod, &["UID"]));
    }
    let result: PreemptionResult = decode(answer)?;
    let chosen = |(node, victims): (String, Option<MetaVictims>)| {
        let MetaVictims { pods, violations } = victims.unwrap_or_default();
        Chosen { node, victims: pods.into_iter().flatten().map(|pod| pod.uid).collect(), violations }
    };
    Ok(result.node_name_to_meta_victims.into_iter().flatten().map(chosen).collect())
}

fn read(answer: &[u8]) -> Result<Value, String> {
    if answer.is_empty() {
        return Err("EOF".to_owned());
    }
    serde_json::from_slice(answer).map_err(|error| error.to_string())
}

fn decode<T: for<'de> Deserialize<'de>>(answer: Value) -> Result<T, String> {
    serde_json::from_value(answer).map_err(|error| format!("json: {error}"))
}

/// Gives an object's fields these spellings.
fn spell(object: &mut Value, names: &[&str]) {
    let Some(object) = object.as_object_mut() else { return };
    for name in names {
        let other = object.keys().find(|key| key.eq_ignore_ascii_case(name) && key != name).cloned();
        if let Some(value) = other.and_then(|key| object.remove(&key)) {
            object.entry(*name).or_insert(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{node_info, pod};
    use serde_json::json;

    fn value(bytes: serde_json::Result<Vec<u8>>) -> Value {
        serde_json::from_slice(&bytes.unwrap()).unwrap()
    }

    #[test]
    fn questions() {
        let (pod, victim) = (pod("a", json!({})), pod("v", json!({})));
        let nodes = [Arc::new(node_info("n1", json!({}), &[]))];
        let named = value(about_nodes(&pod, &nodes, true));
        assert_eq!((&named["NodeNames"], &named["Nodes"]), (&json!(["n1"]), &Value::Null));
        assert_eq!(named["Pod"]["metadata"]["name"], "a");
        let whole = value(about_nodes(&pod, &nodes, false));
        assert_eq!((&whole["NodeNames"], &whole["Nodes"]["items"][0]["metadata"]["name"]), (&Value::Null, &json!("n1")));

        let expected = json!({"PodName": "a", "PodNamespace": "ns", "PodUID": "a", "Node": "n1"});
        assert_eq!(value(about_binding(&pod, "n1")), expected);

        let candidates = [Candidate { node: "n1".to_owned(), victims: vec![victim], violations: 1 }];
        let by_uid = value(about_preemption(&pod, &candidates, true));
        assert_eq!(by_uid["NodeNameToMetaVictims"], json!({"n1": {"Pods": [{"UID": "v"}], "NumPDBViolations": 1}}));
        assert_eq!(by_uid["NodeNameToVictims"], Value::Null);
        let whole = value(about_preemption(&pod, &candidates, false));
        assert_eq!(whole["NodeNameToVictims"]["n1"]["Pods"][0]["metadata"]["uid"], "v");
        assert_eq!(whole["NodeNameToMetaVictims"], Value::Null);
    }

    #[test]
    fn answers_of_filters() {
        let left = |names: &[&str]| Filtered { left: names.iter().map(|name| (*name).to_owned()).collect(), ..Filtered::default() };
        for (knows_nodes, answer, expected) in [
            (true, json!({"NodeNames": ["n1"]}), Ok(left(&["n1"]))),
            (true, json!({"nodenames": ["n1"], "failedNodes": null, "error": ""}), Ok(left(&["n1"]))),
            (true, json!({"Nodes": {"items": [{"metadata": {"name": "n2"}}]}}), Ok(left(&["n2"]))),
            (false, json!({"NodeNames": ["n1"], "nodes": {"items": [{"metadata": {"name": "n2"}}]}}), Ok(left(&["n2"]))),
            (false, json!({"NodeNames": ["n1"]}), Ok(left(&[]))),
            (false, json!({"Error": "broken"}), Err("broken".to_owned())),
            (false, json!({"Error": 1}), Err("json: invalid type: integer `1`, expected a string".to_owned())),
        ] {
            assert_eq!(filtered(answer.to_string().as_bytes(), knows_nodes), expected, "{answer}");
        }
        let answer = json!({"failednodes": {"n1": "full"}, "FailedAndUnresolvableNodes": {"n2": "never"}}).to_string();
        let answer = filtered(answer.as_bytes(), true).unwrap();
        assert_eq!((answer.failed["n1"].as_str(), answer.unresolvable["n2"].as_str()), ("full", "never"));
        assert_eq!(filtered(b"", true), Err("EOF".to_owned()));
    }

    #[test]
    fn other_answers() {
        assert_eq!(scored(br#"[{"host": "n1", "score": 7}]"#), Ok(vec![HostPriority { host: "n1".to_owned(), score: 7 }]));
        assert_eq!(scored(b"null"), Ok(vec![]));
        assert!(scored(br#"{"host": "n1"}"#).is_err());
        assert_eq!((bound(b"{}"), bound(br#"{"error": "no"}"#)), (Ok(()), Err("no".to_owned())));
        let chosen = Chosen { node: "n1".to_owned(), victims: vec!["v".to_owned()], violations: 2 };
        let answer = br#"{"nodeNameToMetaVictims": {"n1": {"pods": [{"uid": "v"}], "numPDBViolations": 2}}}"#;
        assert_eq!(preempted(answer), Ok(vec![chosen]));
        assert_eq!(preempted(b"{}"), Ok(vec![]));
    }
}
