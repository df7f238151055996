//! Validation of what a pod says about where it runs: affinity, tolerations, spread, gates.

use crate::field::{ErrorList, Path};
use crate::resources::defaulting::{items, str};
use crate::validation::labels::{label_name, operator_and_values, selector};
use crate::validation::{invalid, names};
use k8s_openapi::api::core::v1::{
    Affinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, PodSchedulingGate, Toleration,
    TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::collections::HashSet;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
/// The effects of taints.
pub const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// `affinity`.
pub fn affinity(errors: &mut ErrorList, path: &Path, affinity: &Affinity) {
    if let Some(node) = &affinity.node_affinity {
        let path = path.child("nodeAffinity");
        if let Some(required) = &node.required_during_scheduling_ignored_during_execution {
            node_selector(errors, &path.child(REQUIRED), required);
        }
        for (i, term) in items(&node.preferred_during_scheduling_ignored_during_execution).iter().enumerate() {
            let path = path.child(PREFERRED).index(i);
            weight(errors, &path, term.weight);
            // Values that are no label values select nothing, which does no harm in a preference.
            node_selector_term(errors, &path.child("preference"), &term.preference, false);
        }
    }
    if let Some(pod) = &affinity.pod_affinity {
        let path = path.child("podAffinity");
        pod_terms(errors, &path, items(&pod.required_during_scheduling_ignored_during_execution));
        weighted_terms(errors, &path, items(&pod.preferred_during_scheduling_ignored_during_execution));
    }
    if let Some(pod) = &affinity.pod_anti_affinity {
        let path = path.child("podAntiAffinity");
        pod_terms(errors, &path, items(&pod.required_during_scheduling_ignored_during_execution));
        weighted_terms(errors, &path, items(&pod.preferred_during_scheduling_ignored_during_execution));
    }
}

fn weight(errors: &mut ErrorList, path: &Path, weight: i32) {
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.child("weight"), weight, "must be in the range 1-100");
    }
}

/// A choice of nodes.
pub fn node_selector(errors: &mut ErrorList, path: &Path, selector: &NodeSelector) {
    let path = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        errors.required(&path, "must have at least one node selector term");
    }
    for (i, term) in selector.node_selector_terms.iter().enumerate() {
        node_selector_term(errors, &path.index(i), term, true);
    }
}

/// What a node has to have.
pub fn node_selector_term(errors: &mut ErrorList, path: &Path, term: &NodeSelectorTerm, check_values: bool) {
    for (i, requirement) in items(&term.match_expressions).iter().enumerate() {
        node_label(errors, &path.child("matchExpressions").index(i), requirement, check_values);
    }
    for (i, requirement) in items(&term.match_fields).iter().enumerate() {
        node_field(errors, &path.child("matchFields").index(i), requirement);
    }
}

fn node_label(errors: &mut ErrorList, path: &Path, requirement: &NodeSelectorRequirement, check_values: bool) {
    let values = items(&requirement.values);
    match requirement.operator.as_str() {
        "Gt" | "Lt" if values.len() != 1 => {
            errors.required(&path.child("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        "Gt" | "Lt" => {}
        operator => operator_and_values(errors, path, operator, values),
    }
    label_name(errors, &path.child("key"), &requirement.key);
    for (i, value) in values.iter().enumerate().filter(|_| check_values) {
        invalid(errors, &path.child("values").index(i), value, names::label_value(value));
    }
}

fn node_field(errors: &mut ErrorList, path: &Path, requirement: &NodeSelectorRequirement) {
    let values = items(&requirement.values);
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.len() != 1 => {
            let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.required(&path.child("values"), why);
        }
        "In" | "NotIn" => {}
        other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
    if requirement.key != "metadata.name" {
        errors.invalid(&path.child("key"), requirement.key.as_str(), "not a valid field selector key");
        return;
    }
    for (i, value) in values.iter().enumerate() {
        invalid(errors, &path.child("values").index(i), value, names::dns1123_subdomain(value));
    }
}

fn pod_terms(errors: &mut ErrorList, path: &Path, terms: &[PodAffinityTerm]) {
    for (i, term) in terms.iter().enumerate() {
        pod_term(errors, &path.child(REQUIRED).index(i), term);
    }
}

fn weighted_terms(errors: &mut ErrorList, path: &Path, terms: &[WeightedPodAffinityTerm]) {
    for (i, term) in terms.iter().enumerate() {
        let path = path.child(PREFERRED).index(i);
        weight(errors, &path, term.weight);
        pod_term(errors, &path.child("podAffinityTerm"), &term.pod_affinity_term);
    }
}

fn pod_term(errors: &mut ErrorList, path: &Path, term: &PodAffinityTerm) {
    selector(errors, &path.child("labelSelector"), term.label_selector.as_ref());
    selector(errors, &path.child("namespaceSelector"), term.namespace_selector.as_ref());
    for name in items(&term.namespaces) {
        invalid(errors, &path.child("namespace"), name, names::dns1123_label(name));
    }
    let (same, different) = (items(&term.match_label_keys), items(&term.mismatch_label_keys));
    label_keys(errors, &path.child("matchLabelKeys"), same, term.label_selector.as_ref());
    label_keys(errors, &path.child("mismatchLabelKeys"), different, term.label_selector.as_ref());
    for (i, key) in same.iter().enumerate().filter(|(_, k)| different.contains(k)) {
        let path = path.child("matchLabelKeys").index(i);
        errors.invalid(&path, key.as_str(), "exists in both matchLabelKeys and mismatchLabelKeys");
    }
    if term.topology_key.is_empty() {
        errors.required(&path.child("topologyKey"), "can not be empty");
    }
    label_name(errors, &path.child("topologyKey"), &term.topology_key);
}

fn label_keys(errors: &mut ErrorList, path: &Path, keys: &[String], selector: Option<&LabelSelector>) {
    if keys.is_empty() {
        return;
    }
    if selector.is_none() {
        errors.forbidden(path, "must not be specified when labelSelector is not set");
        return;
    }
    for (i, key) in keys.iter().enumerate() {
        label_name(errors, &path.index(i), key);
    }
}

/// `tolerations`.
pub fn tolerations(errors: &mut ErrorList, path: &Path, tolerations: &[Toleration]) {
    for (i, toleration) in tolerations.iter().enumerate() {
        let path = path.index(i);
        let (key, operator, effect, value) =
            (str(&toleration.key), str(&toleration.operator), str(&toleration.effect), str(&toleration.value));
        if !key.is_empty() {
            label_name(errors, &path.child("key"), key);
        } else if operator != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(&path.child("operator"), operator, why);
        }
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            errors.invalid(&path.child("effect"), effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator {
            "Equal" | "" => {
                let messages = names::label_value(value);
                if !messages.is_empty() {
                    errors.invalid(&path.child("operator"), value, &messages.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                errors.invalid(&path.child("operator"), value, "value must be empty when `operator` is 'Exists'");
            }
            "Exists" => {}
            _ => errors.not_supported(&path.child("operator"), operator, &["Equal", "Exists"]),
        }
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            errors.not_supported(&path.child("effect"), effect, EFFECTS);
        }
    }
}

/// `schedulingGates`.
pub fn gates(errors: &mut ErrorList, path: &Path, gates: &[PodSchedulingGate]) {
    let mut seen = HashSet::new();
    for (i, gate) in gates.iter().enumerate() {
        label_name(errors, &path.index(i), &gate.name);
        if !seen.insert(&gate.name) {
            errors.duplicate(&path.index(i), gate.name.as_str());
        }
    }
}

/// `topologySpreadConstraints`.
pub fn spread(errors: &mut ErrorList, path: &Path, constraints: &[TopologySpreadConstraint]) {
    for (i, c) in constraints.iter().enumerate() {
        let path = path.index(i);
        if c.max_skew <= 0 {
            errors.invalid(&path.child("maxSkew"), c.max_skew, "must be greater than zero");
        }
        if c.topology_key.is_empty() {
            errors.required(&path.child("topologyKey"), "can not be empty");
        }
        if !matches!(c.when_unsatisfiable.as_str(), "DoNotSchedule" | "ScheduleAnyway") {
            let path = path.child("whenUnsatisfiable");
            errors.not_supported(&path, c.when_unsatisfiable.as_str(), &["DoNotSchedule", "ScheduleAnyway"]);
        }
        let same = |o: &TopologySpreadConstraint| o.topology_key == c.topology_key && o.when_unsatisfiable == c.when_unsatisfiable;
        if constraints[i + 1..].iter().any(same) {
            let pair = format!("{{{}, {}}}", c.topology_key, c.when_unsatisfiable);
            errors.duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), pair);
        }
        min_domains(errors, &path.child("minDomains"), c);
        for (field, policy) in [("nodeAffinityPolicy", &c.node_affinity_policy), ("nodeTaintsPolicy", &c.node_taints_policy)] {
            if let Some(policy) = policy.as_deref().filter(|p| !matches!(*p, "Honor" | "Ignore")) {
                errors.not_supported(&path.child(field), policy, &["Honor", "Ignore"]);
            }
        }
        spread_keys(errors, &path.child("matchLabelKeys"), c);
        selector(errors, &path.child("labelSelector"), c.label_selector.as_ref());
    }
}

fn min_domains(errors: &mut ErrorList, path: &Path, c: &TopologySpreadConstraint) {
    let Some(domains) = c.min_domains else { return };
    if domains <= 0 {
        errors.invalid(path, domains, "must be greater than zero");
    }
    if c.when_unsatisfiable != "DoNotSchedule" {
        let why = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}", c.when_unsatisfiable);
        errors.invalid(path, domains, &why);
    }
}

fn spread_keys(errors: &mut ErrorList, path: &Path, c: &TopologySpreadConstraint) {
    let keys = items(&c.match_label_keys);
    if keys.is_empty() {
        return;
    }
    if c.label_selector.is_none() {
        errors.forbidden(path, "must not be specified when labelSelector is not set");
    }
    for (i, key) in keys.iter().enumerate() {
        label_name(errors, &path.index(i), key);
    }
}
