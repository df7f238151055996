//! Pod affinity, worked out once per pod: which pods a term is about, in which topology (upstream: `framework.AffinityTerm`).

use crate::pod_info::PodInfo;
use crate::selector::Selector;
use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, WeightedPodAffinityTerm};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One term of a pod's affinity or anti-affinity. Equal terms of different pods are equal, so they can be counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AffinityTerm {
    /// The namespaces by name; the pod's own if the term names none.
    pub namespaces: BTreeSet<String>,
    /// The namespaces by label, besides those.
    pub namespace_selector: Selector,
    /// The pods.
    pub selector: Selector,
    /// The label of nodes whose values are the domains.
    pub topology_key: String,
}

impl AffinityTerm {
    /// Works out a term of a pod in this namespace.
    pub fn new(term: &PodAffinityTerm, namespace: &str) -> Self {
        let named = term.namespaces.as_deref().unwrap_or_default();
        let own = named.is_empty() && term.namespace_selector.is_none();
        let namespaces = if own { BTreeSet::from([namespace.to_owned()]) } else { named.iter().cloned().collect() };
        Self {
            namespaces,
            namespace_selector: Selector::of(term.namespace_selector.as_ref()),
            selector: Selector::of(term.label_selector.as_ref()),
            topology_key: term.topology_key.clone(),
        }
    }

    /// Whether the term is about a pod, whose namespace has these labels.
    pub fn matches(&self, pod: &PodInfo, namespace_labels: Option<&BTreeMap<String, String>>) -> bool {
        (self.namespaces.contains(pod.namespace()) || self.namespace_selector.matches(namespace_labels))
            && self.selector.matches(pod.pod.metadata.labels.as_ref())
    }
}

/// All terms of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodTerms {
    /// Must be near.
    pub required: Vec<Arc<AffinityTerm>>,
    /// Must not be near.
    pub required_anti: Vec<Arc<AffinityTerm>>,
    /// Better near, with weights; those better not near weigh less than nothing.
    pub preferred: Vec<(Arc<AffinityTerm>, i32)>,
}

impl PodTerms {
    /// Works them out.
    pub fn of(pod: &Pod) -> Self {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let Some(affinity) = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()) else { return Self::default() };
        let required = |terms: Option<&Vec<PodAffinityTerm>>| -> Vec<Arc<AffinityTerm>> {
            terms.into_iter().flatten().map(|term| Arc::new(AffinityTerm::new(term, namespace))).collect()
        };
        let weighted = |terms: Option<&Vec<WeightedPodAffinityTerm>>, sign: i32| -> Vec<(Arc<AffinityTerm>, i32)> {
            let of = |term: &WeightedPodAffinityTerm| (Arc::new(AffinityTerm::new(&term.pod_affinity_term, namespace)), sign * term.weight);
            terms.into_iter().flatten().map(of).collect()
        };
        let (near, apart) = (affinity.pod_affinity.as_ref(), affinity.pod_anti_affinity.as_ref());
        let mut preferred = weighted(near.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()), 1);
        preferred.extend(weighted(apart.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()), -1));
        Self {
            required: required(near.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())),
            required_anti: required(apart.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())),
            preferred,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.required.is_empty() && self.required_anti.is_empty() && self.preferred.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::labelled_pod;
    use serde_json::{Value, json};

    #[test]
    fn which_pods_a_term_is_about() {
        let labels = |pairs: Value| serde_json::from_value::<BTreeMap<String, String>>(pairs).unwrap();
        let (plain, team) = (labels(json!({})), labels(json!({"team": "a"})));
        let web = json!({"matchLabels": {"app": "web"}});
        let cases: [(Value, &str, &BTreeMap<String, String>, bool); 7] = [
            (json!({"labelSelector": web}), "own", &plain, true),
            (json!({"labelSelector": {"matchLabels": {"app": "db"}}}), "own", &plain, false),
            (json!({}), "own", &plain, false),
            (json!({"labelSelector": web}), "other", &plain, false),
            (json!({"labelSelector": web, "namespaces": ["ns"]}), "own", &plain, true),
            (json!({"labelSelector": web, "namespaceSelector": {}}), "other", &plain, true),
            (json!({"labelSelector": web, "namespaceSelector": {"matchLabels": {"team": "a"}}}), "other", &team, true),
        ];
        // The fixtures' pods are all in `ns`.
        let pod = labelled_pod("p", json!({"app": "web"}), json!({}));
        for (term, namespace, of_namespace, expected) in cases {
            let mut whole = term.clone();
            whole["topologyKey"] = json!("zone");
            let parsed: PodAffinityTerm = serde_json::from_value(whole).unwrap();
            let own = if namespace == "own" { "ns" } else { "elsewhere" };
            assert_eq!(AffinityTerm::new(&parsed, own).matches(&pod, Some(of_namespace)), expected, "{term}");
        }
    }
}
