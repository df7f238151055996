//! `matchLabelKeys` and `mismatchLabelKeys`: the labels that a pod has when it is made become part of its selectors (upstream: `pkg/registry/core/pod`,
//! `mutatePodAffinity` and `mutateTopologySpreadConstraints`). So whoever reads the pod later need not know of them.

use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use std::collections::BTreeMap;

type Labels = BTreeMap<String, String>;

/// Writes them into the selectors.
pub fn merge(pod: &mut Pod) {
    let Some(labels) = pod.metadata.labels.clone() else { return };
    let Some(spec) = &mut pod.spec else { return };
    for constraint in spec.topology_spread_constraints.iter_mut().flatten() {
        let keys = constraint.match_label_keys.as_deref().unwrap_or_default();
        require(constraint.label_selector.as_mut(), keys, "In", &labels);
    }
    let Some(affinity) = &mut spec.affinity else { return };
    if let Some(near) = &mut affinity.pod_affinity {
        let preferred = near.preferred_during_scheduling_ignored_during_execution.iter_mut().flatten();
        preferred.for_each(|weighted| merge_term(&mut weighted.pod_affinity_term, &labels));
        near.required_during_scheduling_ignored_during_execution.iter_mut().flatten().for_each(|term| merge_term(term, &labels));
    }
    if let Some(apart) = &mut affinity.pod_anti_affinity {
        let preferred = apart.preferred_during_scheduling_ignored_during_execution.iter_mut().flatten();
        preferred.for_each(|weighted| merge_term(&mut weighted.pod_affinity_term, &labels));
        apart.required_during_scheduling_ignored_during_execution.iter_mut().flatten().for_each(|term| merge_term(term, &labels));
    }
}

fn merge_term(term: &mut PodAffinityTerm, labels: &Labels) {
    let (same, different) = (term.match_label_keys.as_deref().unwrap_or_default(), term.mismatch_label_keys.as_deref().unwrap_or_default());
    require(term.label_selector.as_mut(), same, "In", labels);
    require(term.label_selector.as_mut(), different, "NotIn", labels);
}

/// Without a selector nothing is selected, whatever the labels are.
fn require(selector: Option<&mut LabelSelector>, keys: &[String], operator: &str, labels: &Labels) {
    let Some(selector) = selector else { return };
    for (key, value) in keys.iter().filter_map(|key| labels.get_key_value(key)) {
        let requirement = LabelSelectorRequirement { key: key.clone(), operator: operator.to_owned(), values: Some(vec![value.clone()]) };
        selector.match_expressions.get_or_insert_default().push(requirement);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn labels_become_part_of_selectors() {
        let selector = json!({"matchLabels": {"app": "web"}});
        let term = json!({"topologyKey": "zone", "labelSelector": selector, "matchLabelKeys": ["version", "absent"], "mismatchLabelKeys": ["tenant"]});
        let blind = json!({"topologyKey": "zone", "matchLabelKeys": ["version"]});
        let spread = json!({"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector, "matchLabelKeys": ["version"]});
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"labels": {"version": "2", "tenant": "t"}},
            "spec": {"containers": [], "topologySpreadConstraints": [spread], "affinity": {
                "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term, blind]},
                "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": term}]},
            }},
        }))
        .unwrap();
        merge(&mut pod);
        let merged = serde_json::to_value(&pod).unwrap();
        let version = json!({"key": "version", "operator": "In", "values": ["2"]});
        let tenant = json!({"key": "tenant", "operator": "NotIn", "values": ["t"]});
        let affinity = &merged["spec"]["affinity"];
        let required = &affinity["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        assert_eq!(required[0]["labelSelector"]["matchExpressions"], json!([version, tenant]));
        assert_eq!(required[1].get("labelSelector"), None::<&Value>);
        let preferred = &affinity["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"][0]["podAffinityTerm"];
        assert_eq!(preferred["labelSelector"]["matchExpressions"], json!([version, tenant]));
        assert_eq!(merged["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchExpressions"], json!([version]));
    }
}
