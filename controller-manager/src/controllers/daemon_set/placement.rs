//! On which nodes a DaemonSet's pods belong, and what a pod for one node looks like (upstream: `NodeShouldRunDaemonPod`, `daemonset_util.go`).

use crate::claim::controller_reference;
use crate::pods;
use crate::revisions::REVISION_LABEL;
use api::scheduling::{is_selected, untolerated};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, PodTemplateSpec, Toleration,
};

/// The label that says which generation of the template a pod is of, for DaemonSets that still have the annotation.
const GENERATION_LABEL: &str = "pod-template-generation";
const GENERATION: &str = "deprecated.daemonset.template.generation";

/// What daemons put up with: their node is unwell, or closed to others.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// The same for daemons that use their node's network: they may be what brings it up.
const TOLERATED_ON_HOST_NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// Whether a node is to have a pod, and whether one that is there may stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// It is to have one.
    pub run: bool,
    /// One may stay.
    pub stay: bool,
}

fn template(set: &DaemonSet) -> PodTemplateSpec {
    set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default()
}

fn tolerate(spec: &mut PodSpec) {
    let on_host = (spec.host_network == Some(true)).then_some(TOLERATED_ON_HOST_NETWORK);
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED.into_iter().chain(on_host) {
        let added = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        let is_same = |own: &Toleration| Toleration { toleration_seconds: None, ..own.clone() } == added;
        match tolerations.iter_mut().find(|own| is_same(own)) {
            Some(own) => *own = added,
            None => tolerations.push(added),
        }
    }
}

/// The template with what daemons tolerate: what is compared with nodes.
pub fn pod_spec(set: &DaemonSet) -> PodSpec {
    let mut spec = template(set).spec.unwrap_or_default();
    tolerate(&mut spec);
    spec
}

/// Whether a node is to have a pod of this [`pod_spec`].
pub fn wanted(spec: &PodSpec, node: &Node) -> Wanted {
    let named = spec.node_name.as_deref().is_none_or(|name| name.is_empty() || Some(name) == node.metadata.name.as_deref());
    if !named || !is_selected(spec, node) {
        return Wanted::default();
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let run = untolerated(node, tolerations, &["NoSchedule", "NoExecute"]).is_none();
    Wanted { run, stay: run || untolerated(node, tolerations, &["NoExecute"]).is_none() }
}

/// A pod for one node. The scheduler binds it, so that what else takes room there is accounted for.
pub fn new_pod(set: &DaemonSet, hash: &str, node: &str) -> Pod {
    let mut template = template(set);
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(REVISION_LABEL.to_owned(), hash.to_owned());
    labels.extend(generation(set).map(|generation| (GENERATION_LABEL.to_owned(), generation.to_string())));
    let spec = template.spec.get_or_insert_default();
    tolerate(spec);
    let is_the_node =
        NodeSelectorRequirement { key: "metadata.name".to_owned(), operator: "In".to_owned(), values: Some(vec![node.to_owned()]) };
    // The node has been chosen by the terms that this one takes the place of.
    let term = NodeSelectorTerm { match_fields: Some(vec![is_the_node]), match_expressions: None };
    spec.affinity
        .get_or_insert_with(Affinity::default)
        .node_affinity
        .get_or_insert_with(NodeAffinity::default)
        .required_during_scheduling_ignored_during_execution = Some(NodeSelector { node_selector_terms: vec![term] });
    let (namespace, name) = (set.metadata.namespace.as_deref().unwrap_or_default(), set.metadata.name.as_deref().unwrap_or_default());
    pods::from_template(Some(&template), namespace, format!("{name}-"), controller_reference(set))
}

fn generation(set: &DaemonSet) -> Option<i64> {
    set.metadata.annotations.as_ref()?.get(GENERATION)?.parse().ok()
}

/// The node that a pod is on, or is meant for.
pub fn target(pod: &Pod) -> Option<&str> {
    let required = || {
        let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
        let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
        let fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
        let mut named = fields.filter(|field| field.key == "metadata.name" && field.operator == "In");
        named.find_map(|field| field.values.as_deref().filter(|values| values.len() == 1)?.first()).map(String::as_str)
    };
    pods::node_name(pod).or_else(required)
}

/// Whether a pod is of the present version: by its hash, one of these, or by its generation.
pub fn is_updated(set: &DaemonSet, pod: &Pod, hashes: &[String]) -> bool {
    let label = |key: &str| pod.metadata.labels.as_ref().and_then(|labels| labels.get(key));
    let by_hash = label(REVISION_LABEL).is_some_and(|hash| hashes.contains(hash));
    by_hash || generation(set).is_some_and(|generation| label(GENERATION_LABEL).is_some_and(|label| *label == generation.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(pod: Value) -> DaemonSet {
        let spec = json!({"selector": {}, "template": {"metadata": {"labels": {"app": "d"}}, "spec": pod}});
        serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "d", "uid": "ds"}, "spec": spec})).unwrap()
    }

    #[test]
    fn where_daemons_run() {
        let node = |taints: Value| json!({"metadata": {"name": "n1", "labels": {"disk": "ssd"}}, "spec": {"taints": taints}});
        let taint = |key: &str, effect: &str| json!([{"key": key, "effect": effect}]);
        let plain = || json!({"containers": []});
        let (yes, no, stay) = ((true, true), (false, false), (false, true));
        let cases = [
            (plain(), node(json!([])), yes),
            (json!({"containers": [], "nodeName": "n1"}), node(json!([])), yes),
            (json!({"containers": [], "nodeName": "n2"}), node(json!([])), no),
            (json!({"containers": [], "nodeSelector": {"disk": "ssd"}}), node(json!([])), yes),
            (json!({"containers": [], "nodeSelector": {"disk": "hdd"}}), node(json!([])), no),
            (plain(), node(taint("mine", "NoSchedule")), stay),
            (plain(), node(taint("mine", "NoExecute")), no),
            (plain(), node(taint("mine", "PreferNoSchedule")), yes),
            (plain(), node(taint("node.kubernetes.io/unschedulable", "NoSchedule")), yes),
            (plain(), node(taint("node.kubernetes.io/not-ready", "NoExecute")), yes),
            (plain(), node(taint("node.kubernetes.io/network-unavailable", "NoSchedule")), stay),
            (json!({"containers": [], "hostNetwork": true}), node(taint("node.kubernetes.io/network-unavailable", "NoSchedule")), yes),
        ];
        for (pod, node, (run, stays)) in cases {
            let found = wanted(&pod_spec(&set(pod.clone())), &serde_json::from_value(node.clone()).unwrap());
            assert_eq!((found.run, found.stay), (run, stays), "{pod} on {node}");
        }
    }

    #[test]
    fn a_pod_is_meant_for_one_node() {
        let own = json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5});
        let set = set(json!({"containers": [], "tolerations": [own]}));
        let pod = new_pod(&set, "h1", "n1");
        assert_eq!(target(&pod), Some("n1"));
        assert!(is_updated(&set, &pod, &["h1".to_owned()]) && !is_updated(&set, &pod, &["h2".to_owned()]));
        let tolerations = pod.spec.clone().unwrap().tolerations.unwrap();
        assert_eq!((tolerations.len(), tolerations[0].toleration_seconds), (6, None), "a daemon is not evicted after a while");
        let mut bound = pod;
        bound.spec.as_mut().unwrap().node_name = Some("n2".to_owned());
        assert_eq!(target(&bound), Some("n2"));
    }
}
