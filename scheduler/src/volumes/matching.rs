//! Which volume a claim can have on a node (upstream: `component-helpers/storage/volume`).

use crate::selector::{Selector, term_matches};
use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use std::collections::BTreeSet;
use std::sync::Arc;

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const STORAGE: &str = "storage";

/// The name of a claim's class; empty for none.
pub fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    let annotated = claim.metadata.annotations.as_ref().and_then(|annotations| annotations.get(CLASS_ANNOTATION));
    annotated.or_else(|| claim.spec.as_ref()?.storage_class_name.as_ref()).map(String::as_str).unwrap_or_default()
}

/// The name of a volume's class; empty for none.
pub fn class_of_volume(volume: &PersistentVolume) -> &str {
    let annotated = volume.metadata.annotations.as_ref().and_then(|annotations| annotations.get(CLASS_ANNOTATION));
    annotated.or_else(|| volume.spec.as_ref()?.storage_class_name.as_ref()).map(String::as_str).unwrap_or_default()
}

/// How much a volume holds.
pub fn capacity(volume: &PersistentVolume) -> Option<Quantity> {
    Quantity::of(volume.spec.as_ref()?.capacity.as_ref()?.get(STORAGE)?).ok()
}

/// How much a claim asks for.
pub fn requested(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    Quantity::of(claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get(STORAGE)?).ok()
}

/// Whether a volume can be used on a node.
pub fn fits_node(volume: &PersistentVolume, node: &Node) -> bool {
    let required = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref()).and_then(|affinity| affinity.required.as_ref());
    required.is_none_or(|selector| selector.node_selector_terms.iter().any(|term| term_matches(term, node)))
}

/// Whether a volume is meant for this claim, by whoever.
fn is_reserved_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else { return false };
    let uid = reference.uid.as_deref().unwrap_or_default();
    reference.name == claim.metadata.name
        && reference.namespace == claim.metadata.namespace
        && (uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
}

/// The volume for a claim on a node: one that is reserved for it, else the smallest that is large enough. `taken` are chosen for others already.
pub fn find(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    node: &Node,
    taken: &BTreeSet<String>,
) -> Option<Arc<PersistentVolume>> {
    let wanted = claim.spec.as_ref()?;
    let (size, mode) = (requested(claim), wanted.volume_mode.as_deref().unwrap_or("Filesystem"));
    let selector = wanted.selector.as_ref().map(|selector| Selector::of(Some(selector)));
    let mut smallest: Option<(Option<Quantity>, &Arc<PersistentVolume>)> = None;
    for volume in volumes {
        let (Some(spec), name) = (volume.spec.as_ref(), volume.metadata.name.as_deref().unwrap_or_default()) else { continue };
        let reserved = is_reserved_for(volume, claim);
        if taken.contains(name) || (spec.claim_ref.is_some() && !reserved) || volume.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let has = capacity(volume);
        if size.is_some() && has < size || spec.volume_mode.as_deref().unwrap_or("Filesystem") != mode {
            continue;
        }
        if spec.volume_attributes_class_name.as_deref().unwrap_or_default()
            != wanted.volume_attributes_class_name.as_deref().unwrap_or_default()
        {
            continue;
        }
        if reserved {
            // No other volume will do.
            return fits_node(volume, node).then(|| volume.clone());
        }
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        let offered = spec.access_modes.as_deref().unwrap_or_default();
        if phase != Some("Available")
            || selector.as_ref().is_some_and(|selector| !selector.matches(volume.metadata.labels.as_ref()))
            || class_of_volume(volume) != class_of_claim(claim)
            || !fits_node(volume, node)
            || !wanted.access_modes.iter().flatten().all(|mode| offered.contains(mode))
        {
            continue;
        }
        if smallest.as_ref().is_none_or(|(least, _)| has < *least) {
            smallest = Some((has, volume));
        }
    }
    smallest.map(|(_, volume)| volume.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn merged(mut base: Value, more: Value) -> Value {
        crate::fixtures::merge(&mut base, more);
        base
    }

    fn volume(name: &str, size: &str, more: Value) -> Arc<PersistentVolume> {
        let base = json!({
            "metadata": {"name": name, "labels": {"tier": "gold"}}, "status": {"phase": "Available"},
            "spec": {"capacity": {"storage": size}, "storageClassName": "local", "accessModes": ["ReadWriteOnce"]},
        });
        Arc::new(serde_json::from_value(merged(base, more)).unwrap())
    }

    #[test]
    fn the_smallest_that_will_do() {
        let on = |node: &str| json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}}});
        let reserved = |name: &str| json!({"spec": {"claimRef": {"namespace": "ns", "name": name}}});
        let small = || volume("small", "1Gi", json!({}));
        type Case = (&'static str, Vec<Arc<PersistentVolume>>, Value, Option<&'static str>);
        let cases: Vec<Case> = vec![
            (
                "the smallest",
                vec![volume("large", "9Gi", json!({})), volume("middle", "5Gi", json!({})), small()],
                json!({}),
                Some("middle"),
            ),
            ("too small", vec![small()], json!({}), None),
            ("another node", vec![volume("v", "5Gi", on("n2"))], json!({}), None),
            ("this node", vec![volume("v", "5Gi", on("n1"))], json!({}), Some("v")),
            ("another class", vec![volume("v", "5Gi", json!({"spec": {"storageClassName": "other"}}))], json!({}), None),
            ("another mode", vec![volume("v", "5Gi", json!({"spec": {"volumeMode": "Block"}}))], json!({}), None),
            ("not available", vec![volume("v", "5Gi", json!({"status": {"phase": "Released"}}))], json!({}), None),
            ("other access", vec![volume("v", "5Gi", json!({}))], json!({"spec": {"accessModes": ["ReadWriteMany"]}}), None),
            ("selected", vec![volume("v", "5Gi", json!({}))], json!({"spec": {"selector": {"matchLabels": {"tier": "gold"}}}}), Some("v")),
            ("not selected", vec![volume("v", "5Gi", json!({}))], json!({"spec": {"selector": {"matchLabels": {"tier": "tin"}}}}), None),
            ("reserved", vec![volume("v", "5Gi", json!({})), volume("r", "9Gi", reserved("c"))], json!({}), Some("r")),
            ("reserved for another", vec![volume("r", "5Gi", reserved("other"))], json!({}), None),
            ("taken", vec![volume("taken", "5Gi", json!({}))], json!({}), None),
        ];
        let node = crate::fixtures::node("n1", json!({}));
        for (case, volumes, more, expected) in cases {
            let base = json!({
                "metadata": {"namespace": "ns", "name": "c", "uid": "u"},
                "spec": {"resources": {"requests": {"storage": "4Gi"}}, "storageClassName": "local", "accessModes": ["ReadWriteOnce"]},
            });
            let claim: PersistentVolumeClaim = serde_json::from_value(merged(base, more)).unwrap();
            let found = find(&claim, &volumes, &node, &BTreeSet::from(["taken".to_owned()]));
            assert_eq!(found.and_then(|volume| volume.metadata.name.clone()).as_deref(), expected, "{case}");
        }
    }
}
