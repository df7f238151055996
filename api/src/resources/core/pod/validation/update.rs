//! What an update of a pod may change: hardly anything of the spec through the main path, and through each subresource what that is for.

use super::{MIRROR, pod_itself, scheduling};
use crate::diff;
use crate::field::{ErrorList, Path};
use crate::internal_text;
use crate::resources::core::pod::qos;
use crate::resources::defaulting::{items, str};
use crate::validation::{IMMUTABLE, invalid, labels, names, numbers};
use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, NodeSelectorTerm, Pod, PodSchedulingGate, PodSpec, PodStatus, ResourceRequirements, Toleration,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::{BTreeMap, HashSet};

type List = BTreeMap<String, Quantity>;

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only \
    additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

fn specs<'a>(new: &'a Pod, old: &'a Pod, empty: &'a PodSpec) -> (&'a PodSpec, &'a PodSpec) {
    (new.spec.as_ref().unwrap_or(empty), old.spec.as_ref().unwrap_or(empty))
}

/// An update of the pod itself.
pub fn update(errors: &mut ErrorList, pod: &Pod, old_pod: &Pod) {
    let empty = PodSpec::default();
    let (new, old) = specs(pod, old_pod, &empty);
    pod_itself(errors, pod, new);
    annotations(errors, pod, old_pod);
    let path = Path::new("spec");
    for (field, new, old) in [
        ("containers", new.containers.as_slice(), old.containers.as_slice()),
        ("initContainers", items(&new.init_containers), items(&old.init_containers)),
    ] {
        if !images(errors, &path.child(field), new, old) {
            return;
        }
    }
    if !deadline(errors, &path.child("activeDeadlineSeconds"), new, old) {
        return;
    }
    only_added_tolerations(errors, &path.child("tolerations"), items(&new.tolerations), items(&old.tolerations));
    only_removed_gates(errors, &path.child("schedulingGates"), items(&new.scheduling_gates), items(&old.scheduling_gates));
    if new == old {
        return;
    }
    // What may change is set back; what still differs then may not.
    let mut rest = new.clone();
    for (container, old) in rest.containers.iter_mut().zip(&old.containers) {
        container.image = old.image.clone();
    }
    for (container, old) in rest.init_containers.iter_mut().flatten().zip(items(&old.init_containers)) {
        container.image = old.image.clone();
    }
    rest.active_deadline_seconds = old.active_deadline_seconds;
    rest.scheduling_gates = old.scheduling_gates.clone();
    rest.tolerations = old.tolerations.clone();
    if old.termination_grace_period_seconds.is_some_and(|s| s < 0) && rest.termination_grace_period_seconds == Some(1) {
        rest.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    if !items(&old.scheduling_gates).is_empty() {
        while_gated(errors, &path, &mut rest, old);
    }
    if rest != *old {
        let difference = shown_difference("PodSpec", old, &rest);
        errors.forbidden(&path, &format!("pod updates may not change fields other than {UPDATABLE}\n{difference}"));
    }
}

/// How two versions of a part of a pod differ, as upstream shows them.
fn shown_difference<T: serde::Serialize>(name: &str, old: &T, new: &T) -> String {
    let shown = |value: &T| internal_text::indented(&format!("io.k8s.api.core.v1.{name}"), value);
    diff::of_texts(&shown(old), &shown(new))
}

fn annotations(errors: &mut ErrorList, new: &Pod, old: &Pod) {
    let get = |pod: &Pod| pod.metadata.annotations.as_ref().and_then(|a| a.get(MIRROR)).cloned();
    let path = Path::new("metadata").child("annotations").key(MIRROR);
    match (get(new), get(old)) {
        (new, Some(old)) if new.as_ref() != Some(&old) => errors.forbidden(&path, "may not remove or update mirror pod annotation"),
        (Some(_), None) => errors.forbidden(&path, "may not add mirror pod annotation"),
        _ => {}
    }
}

/// Answers whether the lists can be compared further.
fn images(errors: &mut ErrorList, path: &Path, new: &[Container], old: &[Container]) -> bool {
    if new.len() != old.len() {
        errors.forbidden(path, "pod updates may not add or remove containers");
        return false;
    }
    for (i, container) in new.iter().enumerate() {
        let image = str(&container.image);
        if image.is_empty() {
            errors.required(&path.index(i).child("image"), "");
        }
        super::containers::image_only_for_pod(errors, &path.index(i), container);
    }
    true
}

/// A deadline may be set, and made shorter. Answers whether anything else is worth looking at.
fn deadline(errors: &mut ErrorList, path: &Path, new: &PodSpec, old: &PodSpec) -> bool {
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            errors.invalid(path, new, &numbers::in_range(0, i32::MAX.into()));
            false
        }
        (Some(new), Some(old)) if old < new => {
            errors.invalid(path, new, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            errors.invalid(path, serde_json::Value::Null, "must not update from a positive integer to nil value");
            true
        }
        _ => true,
    }
}

fn only_added_tolerations(errors: &mut ErrorList, path: &Path, new: &[Toleration], old: &[Toleration]) {
    let same = |a: &Toleration, b: &Toleration| {
        Toleration { toleration_seconds: None, ..a.clone() } == Toleration { toleration_seconds: None, ..b.clone() }
    };
    if old.iter().any(|o| !new.iter().any(|n| same(o, n))) {
        errors.forbidden(path, "existing toleration can not be modified except its tolerationSeconds");
        return;
    }
    scheduling::tolerations(errors, path, new);
}

fn only_removed_gates(errors: &mut ErrorList, path: &Path, new: &[PodSchedulingGate], old: &[PodSchedulingGate]) {
    for (i, gate) in new.iter().enumerate().filter(|(_, g)| !old.contains(g)) {
        let why = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
        errors.forbidden(&path.index(i).child("name"), &why);
    }
}

/// A pod that waits at a gate may still be narrowed down to fewer nodes.
fn while_gated(errors: &mut ErrorList, path: &Path, rest: &mut PodSpec, old: &PodSpec) {
    if rest.node_selector != old.node_selector {
        let kept = old.node_selector.iter().flatten().all(|(k, v)| rest.node_selector.as_ref().and_then(|s| s.get(k)) == Some(v));
        if !kept {
            let shown = serde_json::to_value(&rest.node_selector).unwrap_or_default();
            let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            errors.invalid(&path.child("nodeSelector"), shown, why);
        }
        rest.node_selector = old.node_selector.clone();
    }
    let old_affinity = old.affinity.as_ref().and_then(|a| a.node_affinity.clone());
    let new_affinity = rest.affinity.as_ref().and_then(|a| a.node_affinity.clone());
    if old_affinity == new_affinity {
        return;
    }
    let terms = |affinity: &Option<k8s_openapi::api::core::v1::NodeAffinity>| {
        let required = affinity.as_ref().and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        required.map_or(Vec::new(), |r| r.node_selector_terms.clone())
    };
    let (old_terms, new_terms) = (terms(&old_affinity), terms(&new_affinity));
    let at =
        path.child("affinity").child("nodeAffinity").child("requiredDuringSchedulingIgnoredDuringExecution").child("nodeSelectorTerms");
    if !old_terms.is_empty() && old_terms.len() != new_terms.len() {
        let shown = serde_json::to_value(&new_terms).unwrap_or_default();
        errors.invalid(&at, shown, "no additions/deletions to non-empty NodeSelectorTerms list are allowed");
    } else {
        for (i, (old, new)) in old_terms.iter().zip(&new_terms).enumerate().filter(|(_, (o, n))| !only_adds(n, o)) {
            let _ = old;
            let shown = serde_json::to_value(new).unwrap_or_default();
            errors.invalid(&at.index(i), shown, "only additions are allowed (no mutations or deletions)");
        }
    }
    match (&mut rest.affinity, old_affinity) {
        (Some(affinity), node) if old.affinity.is_some() || affinity.pod_affinity.is_some() || affinity.pod_anti_affinity.is_some() => {
            affinity.node_affinity = node;
        }
        _ => rest.affinity = old.affinity.clone(),
    }
}

fn only_adds(new: &NodeSelectorTerm, old: &NodeSelectorTerm) -> bool {
    let (old_labels, new_labels) = (items(&old.match_expressions), items(&new.match_expressions));
    let (old_fields, new_fields) = (items(&old.match_fields), items(&new.match_fields));
    // A term that says nothing matches nothing; to add to it would widen the choice.
    let nothing = old_labels.is_empty() && old_fields.is_empty();
    if nothing && !(new_labels.is_empty() && new_fields.is_empty()) {
        return false;
    }
    new_labels.starts_with(old_labels) && new_fields.starts_with(old_fields)
}

/// An update through `/status`.
pub fn status_update(errors: &mut ErrorList, pod: &Pod, old_pod: &Pod) {
    let (no_spec, no_status) = (PodSpec::default(), PodStatus::default());
    let (_, spec) = specs(pod, old_pod, &no_spec);
    let new = pod.status.as_ref().unwrap_or(&no_status);
    let old = old_pod.status.as_ref().unwrap_or(&no_status);
    for (i, condition) in items(&new.conditions).iter().enumerate() {
        if !matches!(condition.type_.as_str(), "PodScheduled" | "Ready" | "Initialized") {
            labels::label_name(errors, &Path::new("metadata").child("conditions").index(i).child("Type"), &condition.type_);
        }
    }
    let path = Path::new("status");
    let nominated = str(&new.nominated_node_name);
    if nominated != str(&old.nominated_node_name) && !nominated.is_empty() {
        invalid(errors, &path.child("nominatedNodeName"), nominated, names::dns1123_subdomain(nominated));
    }
    if new.qos_class != old.qos_class {
        errors.invalid(&path.child("qosClass"), str(&new.qos_class), IMMUTABLE);
    }
    for (i, status) in items(&new.resource_claim_statuses).iter().enumerate() {
        let path = path.child("resourceClaimStatuses").index(i);
        if !items(&spec.resource_claims).iter().any(|claim| claim.name == status.name) {
            errors.invalid(&path.child("name"), status.name.as_str(), "must match the name of an entry in `spec.resourceClaims`");
        }
        if let Some(name) = &status.resource_claim_name {
            invalid(errors, &path.child("name"), name, names::dns1123_subdomain(name));
        }
    }
    let policy = str(&spec.restart_policy);
    stays_ended(errors, &path.child("containerStatuses"), items(&new.container_statuses), items(&old.container_statuses), policy, spec);
    let at = path.child("initContainerStatuses");
    stays_ended(errors, &at, items(&new.init_container_statuses), items(&old.init_container_statuses), policy, spec);
    let at = path.child("ephemeralContainerStatuses");
    stays_ended(errors, &at, items(&new.ephemeral_container_statuses), items(&old.ephemeral_container_statuses), "Never", spec);
    let ips: Vec<&str> = items(&new.pod_ips).iter().map(|ip| ip.ip.as_str()).collect();
    addresses(errors, &path.child("podIPs"), &ips);
    let ips: Vec<&str> = items(&new.host_ips).iter().map(|ip| ip.ip.as_str()).collect();
    if let Some(first) = ips.first().filter(|ip| **ip != str(&new.host_ip)) {
        errors.invalid(&path.child("hostIPs").index(0).child("ip"), *first, "must be equal to `hostIP`");
    }
    addresses(errors, &path.child("hostIPs"), &ips);
}

/// A container that has ended for good does not run again.
fn stays_ended(
    errors: &mut ErrorList,
    path: &Path,
    new: &[ContainerStatus],
    old: &[ContainerStatus],
    restart_policy: &str,
    spec: &PodSpec,
) {
    if restart_policy == "Always" {
        return;
    }
    // A container with rules of its own for starting again goes by those.
    let has_own = |name: &str| {
        let mut all = spec.containers.iter().chain(items(&spec.init_containers));
        all.any(|c| c.name == name && (c.restart_policy.is_some() || c.restart_policy_rules.is_some()))
    };
    for (i, before) in old.iter().enumerate() {
        let Some(end) = before.state.as_ref().and_then(|s| s.terminated.as_ref()) else { continue };
        if (end.exit_code != 0 && restart_policy == "OnFailure") || has_own(&before.name) {
            continue;
        }
        let runs = |s: &&ContainerStatus| s.name == before.name && s.state.as_ref().is_none_or(|s| s.terminated.is_none());
        for _ in new.iter().filter(runs) {
            errors.forbidden(&path.index(i).child("state"), "may not be transitioned to non-terminated state");
        }
    }
}

/// At most one address of each family.
fn addresses(errors: &mut ErrorList, path: &Path, ips: &[&str]) {
    for (i, ip) in ips.iter().enumerate() {
        invalid(errors, &path.index(i), ip, names::ip(ip));
    }
    let families: HashSet<bool> = ips.iter().filter_map(|ip| names::parse_ip(ip)).map(|ip| ip.is_ipv4()).collect();
    if ips.len() > 1 && (families.len() < 2 || ips.len() > 2) {
        let shown: Vec<_> = ips.iter().map(|ip| serde_json::json!({"IP": ip})).collect();
        errors.invalid(path, shown, "may specify no more than one IP for each IP family");
    }
    let mut seen = HashSet::new();
    for (i, ip) in ips.iter().enumerate().filter(|(_, ip)| !seen.insert(**ip)) {
        errors.duplicate(&path.index(i), serde_json::json!({"IP": ip}));
    }
}

/// An update through `/ephemeralcontainers`, which can only add some.
pub fn ephemeral_containers_update(errors: &mut ErrorList, pod: &Pod, old_pod: &Pod) {
    let empty = PodSpec::default();
    let (new, old) = specs(pod, old_pod, &empty);
    if old_pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(MIRROR)) {
        errors.forbidden(&Path::default(), "static pods do not support ephemeral containers");
        return;
    }
    pod_itself(errors, pod, new);
    annotations(errors, pod, old_pod);
    let path = Path::new("spec").child("ephemeralContainers");
    for before in items(&old.ephemeral_containers) {
        match items(&new.ephemeral_containers).iter().find(|c| c.name == before.name) {
            None => errors.forbidden(&path, &format!("existing ephemeral containers {:?} may not be removed\n", before.name)),
            Some(after) if after != before => {
                let difference = shown_difference("EphemeralContainer", before, after);
                let why = format!("existing ephemeral containers {:?} may not be changed\n{difference}", before.name);
                errors.forbidden(&path, &why);
            }
            Some(_) => {}
        }
    }
}

/// An update through `/resize`, which can only change how much CPU and memory containers get.
pub fn resize(errors: &mut ErrorList, pod: &Pod, old_pod: &Pod) {
    let empty = PodSpec::default();
    let (new, old) = specs(pod, old_pod, &empty);
    if old_pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(MIRROR)) {
        errors.forbidden(&Path::default(), "static pods cannot be resized");
        return;
    }
    if old.os.as_ref().is_some_and(|os| os.name == "windows") {
        errors.forbidden(&Path::default(), "windows pods cannot be resized");
        return;
    }
    pod_itself(errors, pod, new);
    let path = Path::new("spec");
    if qos::class(old) != qos::class(new) {
        let class = pod.status.as_ref().map_or("", |s| str(&s.qos_class));
        errors.invalid(&path, class, "Pod QOS Class may not change as a result of resizing");
    }
    let none = ResourceRequirements::default();
    let lists = [
        ("initContainers", items(&new.init_containers), items(&old.init_containers)),
        ("containers", new.containers.as_slice(), old.containers.as_slice()),
    ];
    let same = lists.map(|(field, new, old)| same_places(errors, &path, field, new, old));
    if same.contains(&false) {
        return; // All else goes by the containers' places.
    }
    for (field, new, old) in lists {
        for (i, (new, old)) in new.iter().zip(old).enumerate() {
            if field == "initContainers" && old.restart_policy.as_deref() != Some("Always") {
                continue;
            }
            let (to, from) = (new.resources.as_ref().unwrap_or(&none), old.resources.as_ref().unwrap_or(&none));
            container_resize(errors, &path.child(field).index(i).child("resources"), to, from);
        }
    }
    let mut rest = new.clone();
    for (new, old) in rest.containers.iter_mut().zip(&old.containers) {
        set_back(new, old);
        if new != old {
            errors.forbidden(&path, "only cpu and memory resources are mutable");
        }
    }
    for (new, old) in rest.init_containers.iter_mut().flatten().zip(items(&old.init_containers)) {
        let sidecar = old.restart_policy.as_deref() == Some("Always");
        if sidecar {
            set_back(new, old);
        }
        if new != old && sidecar {
            errors.forbidden(&path, "only cpu and memory resources for sidecar containers are mutable");
        } else if new != old {
            errors.forbidden(&path, "resources for non-sidecar init containers are immutable");
        }
    }
    if errors.is_empty() && rest != *old {
        errors.forbidden(&path, "only cpu and memory resources are mutable");
    }
}

/// Gives `new` the CPU and memory of `old`.
fn set_back(new: &mut Container, old: &Container) {
    let list = |new: &mut Option<List>, old: &Option<List>| {
        let Some(old) = old else {
            *new = None;
            return;
        };
        let new = new.get_or_insert_default();
        for name in ["cpu", "memory"] {
            new.remove(name);
            if let Some(quantity) = old.get(name) {
                new.insert(name.into(), quantity.clone());
            }
        }
    };
    let none = ResourceRequirements::default();
    let before = old.resources.as_ref().unwrap_or(&none);
    let resources = new.resources.get_or_insert_default();
    list(&mut resources.requests, &before.requests);
    list(&mut resources.limits, &before.limits);
}

/// Whether a resize names the containers that there are, in their order.
fn same_places(errors: &mut ErrorList, spec: &Path, field: &str, new: &[Container], old: &[Container]) -> bool {
    if new.len() != old.len() {
        errors.forbidden(&spec.child(field), &format!("{field} may not be added or removed on resize"));
        return false;
    }
    let mut same = true;
    for (i, _) in new.iter().zip(old).enumerate().filter(|(_, (new, old))| new.name != old.name) {
        errors.forbidden(&spec.child(field).index(i).child("name"), &format!("{field} may not be renamed or reordered on resize"));
        same = false;
    }
    same
}

fn container_resize(errors: &mut ErrorList, path: &Path, new: &ResourceRequirements, old: &ResourceRequirements) {
    let removed =
        |new: &Option<List>, old: &Option<List>| old.iter().flatten().any(|(name, _)| !new.as_ref().is_some_and(|n| n.contains_key(name)));
    if removed(&new.requests, &old.requests) {
        errors.forbidden(&path.child("requests"), "resource requests cannot be removed");
    }
    if removed(&new.limits, &old.limits) {
        errors.forbidden(&path.child("limits"), "resource limits cannot be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use serde_json::{Value, json};

    fn pod(containers: Value) -> Pod {
        let containers: Vec<Value> = containers
            .as_array()
            .into_iter()
            .flatten()
            .map(|c| json!({"name": c[0], "image": "i", "resources": c[1], "resizePolicy": [{"resourceName": "memory", "restartPolicy": "NotRequired"}]}))
            .collect();
        let pod =
            json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "resourceVersion": "1"}, "spec": {"containers": containers}});
        let mut pod: Pod = serde_json::from_value(pod).expect("a pod");
        pod.set_defaults();
        pod
    }

    #[test]
    fn what_a_resize_may_change() {
        let memory = |amount: &str| json!({"requests": {"memory": amount}});
        let limited = json!({"requests": {"memory": "1Mi"}, "limits": {"memory": "2Mi"}});
        let places =
            |field: &str| format!("spec.containers[{field}].name: Forbidden: containers may not be renamed or reordered on resize");
        for (old, new, want) in [
            (json!([["a", memory("1Mi")]]), json!([["a", memory("2Mi")]]), vec![]),
            (json!([["a", memory("1Mi")]]), json!([["a", limited]]), vec![]),
            (
                json!([["a", limited]]),
                json!([["a", memory("1Mi")]]),
                vec!["spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed".into()],
            ),
            (
                json!([["a", memory("1Mi")], ["b", memory("1Mi")]]),
                json!([["b", memory("1Mi")], ["a", memory("1Mi")]]),
                vec![places("0"), places("1")],
            ),
            (json!([["a", memory("1Mi")]]), json!([["c", memory("1Mi")]]), vec![places("0")]),
            (
                json!([["a", memory("1Mi")]]),
                json!([["a", memory("1Mi")], ["b", memory("1Mi")]]),
                vec!["spec.containers: Forbidden: containers may not be added or removed on resize".into()],
            ),
        ] {
            let mut errors = ErrorList::new();
            resize(&mut errors, &pod(new.clone()), &pod(old));
            let got: Vec<String> = errors.0.iter().map(|e| format!("{}: {}", e.path, e.message)).collect();
            assert_eq!(got, want, "{new}");
        }
    }
}
