//! What has to be bound and provisioned so that a pod can run on a node, and how far that has come. Pure.

use super::{BOUND_BY_CONTROLLER, NO_PROVISIONER, SELECTED_NODE, VolumeStore, is_bound, matching};
use crate::listers::Listers;
use crate::pod_info::PodInfo;
use crate::selector::Selector;
use anyhow::{bail, ensure};
use k8s_openapi::api::core::v1::{Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, TopologySelectorTerm};
use k8s_openapi::api::storage::v1::StorageClass;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A claim and the volume that it is to have.
#[derive(Clone, Debug)]
pub struct Binding {
    /// The volume, reserved for the claim.
    pub volume: PersistentVolume,
    /// The claim.
    pub claim: Arc<PersistentVolumeClaim>,
    /// The reservation is not in the API yet.
    pub changed: bool,
}

/// What has to be done on one node.
#[derive(Clone, Debug, Default)]
pub struct PodVolumes {
    /// Claims for which there are volumes.
    pub bindings: Vec<Binding>,
    /// Claims for which volumes have to be made, with the node written on them.
    pub provisions: Vec<PersistentVolumeClaim>,
}

/// Why a pod's volumes do not work out on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Conflict {
    /// There is no volume to bind, and none can be made.
    NothingToBind,
    /// A bound volume cannot be used there.
    WrongNode,
    /// No pool that the node reaches has enough left.
    NoSpace,
    /// A claim is bound to a volume that does not exist.
    Missing,
}

impl Conflict {
    /// As users read it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NothingToBind => "node(s) didn't find available persistent volumes to bind",
            Self::WrongNode => "node(s) didn't match PersistentVolume's node affinity",
            Self::NoSpace => "node(s) did not have enough free storage",
            Self::Missing => "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
        }
    }
}

/// What has to be done so that the claims work out on a node, or why they do not. `bound` are bound already, `waiting` are not.
pub fn choose(
    bound: &[Arc<PersistentVolumeClaim>],
    waiting: &[Arc<PersistentVolumeClaim>],
    node: &Node,
    listers: &dyn Listers,
) -> Result<PodVolumes, Vec<Conflict>> {
    let mut conflicts = Vec::new();
    for claim in bound {
        let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
        match listers.volume(name) {
            None => conflicts.push(Conflict::Missing),
            Some(volume) if !matching::fits_node(&volume, node) => conflicts.push(Conflict::WrongNode),
            Some(_) => continue,
        }
        break;
    }
    let mut volumes = PodVolumes::default();
    if let Err(conflict) = choose_unbound(&mut volumes, waiting, node, listers) {
        conflicts.push(conflict);
    }
    conflicts.sort();
    if conflicts.is_empty() { Ok(volumes) } else { Err(conflicts) }
}

fn choose_unbound(
    volumes: &mut PodVolumes,
    waiting: &[Arc<PersistentVolumeClaim>],
    node: &Node,
    listers: &dyn Listers,
) -> Result<(), Conflict> {
    let node_name = node.metadata.name.as_deref().unwrap_or_default();
    let selected = |claim: &PersistentVolumeClaim| claim.metadata.annotations.as_ref().and_then(|a| a.get(SELECTED_NODE)).cloned();
    // A volume is being made for a node already: no other will do.
    if waiting.iter().filter_map(|claim| selected(claim)).any(|chosen| chosen != node_name) {
        return Err(Conflict::NothingToBind);
    }
    let (mut provisioned, mut matched): (Vec<_>, Vec<_>) = waiting.iter().cloned().partition(|claim| selected(claim).is_some());
    // Small claims first, so that they do not take the large volumes.
    matched.sort_by_key(|claim| matching::requested(claim));
    let mut taken = BTreeSet::new();
    for claim in matched {
        let candidates = listers.volumes_of_class(matching::class_of_claim(&claim));
        match matching::find(&claim, &candidates, node, &taken) {
            Some(volume) => {
                taken.insert(volume.metadata.name.clone().unwrap_or_default());
                volumes.bindings.push(reserve(&volume, claim));
            }
            None => provisioned.push(claim),
        }
    }
    for claim in provisioned {
        let class = listers.storage_class(matching::class_of_claim(&claim)).ok_or(Conflict::NothingToBind)?;
        if class.provisioner.is_empty() || class.provisioner == NO_PROVISIONER || !reaches(class.allowed_topologies.as_deref(), node) {
            return Err(Conflict::NothingToBind);
        }
        if !has_space(&claim, &class, node, listers) {
            return Err(Conflict::NoSpace);
        }
        let mut chosen = (*claim).clone();
        chosen.metadata.annotations.get_or_insert_default().insert(SELECTED_NODE.to_owned(), node_name.to_owned());
        volumes.provisions.push(chosen);
    }
    Ok(())
}

/// The volume with its reservation for the claim (upstream: `GetBindVolumeToClaim`).
fn reserve(volume: &PersistentVolume, claim: Arc<PersistentVolumeClaim>) -> Binding {
    let mut reserved = volume.clone();
    let spec = reserved.spec.get_or_insert_default();
    let complete = spec.claim_ref.as_ref().is_some_and(|reference| reference.uid == claim.metadata.uid && reference.uid.is_some());
    if !complete {
        if spec.claim_ref.is_none() {
            reserved.metadata.annotations.get_or_insert_default().insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
        }
        spec.claim_ref = Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("PersistentVolumeClaim".to_owned()),
            namespace: claim.metadata.namespace.clone(),
            name: claim.metadata.name.clone(),
            uid: claim.metadata.uid.clone(),
            resource_version: claim.metadata.resource_version.clone(),
            field_path: None,
        });
    }
    Binding { volume: reserved, claim, changed: !complete }
}

/// Whether a class can make volumes for a node.
fn reaches(topologies: Option<&[TopologySelectorTerm]>, node: &Node) -> bool {
    let topologies = topologies.unwrap_or_default();
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key));
    let matches = |term: &TopologySelectorTerm| {
        let expressions = term.match_label_expressions.as_deref().unwrap_or_default();
        !expressions.is_empty() && expressions.iter().all(|e| label(&e.key).is_some_and(|value| e.values.contains(value)))
    };
    topologies.is_empty() || topologies.iter().any(matches)
}

/// Whether there is room for a new volume, as far as the driver says.
fn has_space(claim: &PersistentVolumeClaim, class: &StorageClass, node: &Node, listers: &dyn Listers) -> bool {
    let Some(size) = matching::requested(claim) else { return true };
    let tells = listers.csi_driver(&class.provisioner).is_some_and(|driver| driver.spec.storage_capacity == Some(true));
    if !tells {
        return true;
    }
    listers.storage_capacities().iter().any(|pool| {
        let limit = pool.maximum_volume_size.as_ref().or(pool.capacity.as_ref()).and_then(|size| api::quantity::Quantity::of(size).ok());
        Some(pool.storage_class_name.as_str()) == class.metadata.name.as_deref()
            && limit.is_some_and(|limit| limit >= size)
            && Selector::of(pool.node_topology.as_ref()).matches(node.metadata.labels.as_ref())
    })
}

/// Whether all claims of a pod are bound by now.
pub fn bound_in_api(pod: &PodInfo, listers: &dyn Listers) -> bool {
    pod.claims.iter().all(|claim| listers.claim(pod.namespace(), &claim.name).is_some_and(|claim| is_bound(&claim)))
}

/// Whether what was written has led to all claims being bound; an error if it never will. `written` is what the API answered.
pub fn still_binding(written: &PodVolumes, pod: &PodInfo, node_name: &str, store: &dyn VolumeStore) -> anyhow::Result<bool> {
    let Some(node) = store.seen_node(node_name) else { bail!("failed to get node {node_name:?}: node {node_name:?} not found") };
    let pod_name = pod.pod.metadata.name.as_deref().unwrap_or_default();
    ensure!(store.has_pod(pod.namespace(), pod_name), "pod does not exist any more: pod {pod_name:?} not found");
    for binding in &written.bindings {
        let (name, claim) = (binding.volume.metadata.name.as_deref().unwrap_or_default(), &binding.claim.metadata);
        let (namespace, claim_name) = (claim.namespace.as_deref().unwrap_or_default(), claim.name.as_deref().unwrap_or_default());
        let Some(volume) = store.seen_volume(name) else { bail!("failed to check binding: could not find v1.PersistentVolume {name:?}") };
        let Some(claim) = store.seen_claim(namespace, claim_name) else {
            bail!("failed to check binding: could not find v1.PersistentVolumeClaim \"{namespace}/{claim_name}\"")
        };
        if older(volume.metadata.resource_version.as_ref(), binding.volume.metadata.resource_version.as_ref()) {
            return Ok(true);
        }
        ensure!(
            matching::fits_node(&volume, &node),
            "pv {name:?} node affinity doesn't match node {node_name:?}: no matching NodeSelectorTerms"
        );
        let reserved = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()).and_then(|reference| reference.uid.as_deref());
        ensure!(reserved.is_some_and(|uid| !uid.is_empty()), "ClaimRef got reset for pv {name:?}");
        if !is_bound(&claim) {
            return Ok(true);
        }
    }
    for provision in &written.provisions {
        let (namespace, name) =
            (provision.metadata.namespace.as_deref().unwrap_or_default(), provision.metadata.name.as_deref().unwrap_or_default());
        let Some(claim) = store.seen_claim(namespace, name) else {
            bail!("failed to check provisioning pvc: could not find v1.PersistentVolumeClaim \"{namespace}/{name}\"")
        };
        if older(claim.metadata.resource_version.as_ref(), provision.metadata.resource_version.as_ref()) {
            return Ok(true);
        }
        let Some(annotations) = &claim.metadata.annotations else { bail!("selectedNode annotation reset for PVC {name:?}") };
        let selected = annotations.get(SELECTED_NODE).map(String::as_str).unwrap_or_default();
        // A provisioner that fails takes the annotation away, so that another node can be chosen.
        ensure!(selected == node_name, "provisioning failed for PVC {name:?}");
        let volume_name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
        if !volume_name.is_empty() {
            let Some(volume) = store.seen_volume(volume_name) else { return Ok(true) };
            ensure!(
                matching::fits_node(&volume, &node),
                "pv {volume_name:?} node affinity doesn't match node {node_name:?}: no matching NodeSelectorTerms"
            );
        }
        if !is_bound(&claim) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the cache has not caught up with what was written.
fn older(seen: Option<&String>, written: Option<&String>) -> bool {
    let number = |version: Option<&String>| version.and_then(|version| version.parse::<u64>().ok()).unwrap_or(0);
    number(seen) < number(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Objects, node};
    use serde_json::{Value, json};

    fn claim(name: &str, class: &str, more: Value) -> Arc<PersistentVolumeClaim> {
        let mut base = json!({
            "metadata": {"namespace": "ns", "name": name, "uid": name},
            "spec": {"resources": {"requests": {"storage": "4Gi"}}, "storageClassName": class, "accessModes": ["ReadWriteOnce"]},
        });
        crate::fixtures::merge(&mut base, more);
        Arc::new(serde_json::from_value(base).unwrap())
    }

    fn volume(name: &str, class: &str, node: &str) -> Value {
        let affinity = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}});
        json!({
            "metadata": {"name": name}, "status": {"phase": "Available"},
            "spec": {"capacity": {"storage": "5Gi"}, "storageClassName": class, "accessModes": ["ReadWriteOnce"], "nodeAffinity": affinity},
        })
    }

    fn objects() -> Objects {
        let parse = |value: Value| Arc::new(serde_json::from_value(value).unwrap());
        Objects {
            volumes: vec![parse(volume("v1", "local", "n1")), parse(volume("bound", "", "n1"))],
            classes: [
                json!({"metadata": {"name": "local"}, "provisioner": NO_PROVISIONER, "volumeBindingMode": "WaitForFirstConsumer"}),
                json!({"metadata": {"name": "made"}, "provisioner": "p", "volumeBindingMode": "WaitForFirstConsumer"}),
                json!({"metadata": {"name": "zonal"}, "provisioner": "p", "allowedTopologies": [{"matchLabelExpressions": [{"key": "zone", "values": ["a"]}]}]}),
                json!({"metadata": {"name": "pools"}, "provisioner": "csi", "volumeBindingMode": "WaitForFirstConsumer"}),
            ]
            .map(|class| Arc::new(serde_json::from_value(class).unwrap()))
            .to_vec(),
            drivers: vec![Arc::new(serde_json::from_value(json!({"metadata": {"name": "csi"}, "spec": {"storageCapacity": true}})).unwrap())],
            capacities: vec![Arc::new(
                serde_json::from_value(json!({"metadata": {"name": "pool"}, "storageClassName": "pools", "capacity": "10Gi", "nodeTopology": {"matchLabels": {"kubernetes.io/hostname": "n1"}}}))
                    .unwrap(),
            )],
            ..Objects::default()
        }
    }

    #[test]
    fn what_works_out_on_a_node() {
        let bound = |volume: &str| claim("b", "", json!({"spec": {"volumeName": volume}}));
        let chosen = |node: &str| json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
        let big = json!({"spec": {"resources": {"requests": {"storage": "11Gi"}}}});
        type Case = (
            &'static str,
            Vec<Arc<PersistentVolumeClaim>>,
            Vec<Arc<PersistentVolumeClaim>>,
            &'static str,
            Result<(usize, usize), Vec<Conflict>>,
        );
        let cases: Vec<Case> = vec![
            ("bound here", vec![bound("bound")], vec![], "n1", Ok((0, 0))),
            ("bound elsewhere", vec![bound("bound")], vec![], "n2", Err(vec![Conflict::WrongNode])),
            ("bound to nothing", vec![bound("none")], vec![], "n1", Err(vec![Conflict::Missing])),
            ("there is a volume", vec![], vec![claim("a", "local", json!({}))], "n1", Ok((1, 0))),
            (
                "one volume for two",
                vec![],
                vec![claim("a", "local", json!({})), claim("b", "local", json!({}))],
                "n1",
                Err(vec![Conflict::NothingToBind]),
            ),
            ("none here", vec![], vec![claim("a", "local", json!({}))], "n2", Err(vec![Conflict::NothingToBind])),
            ("made", vec![], vec![claim("a", "made", json!({}))], "n2", Ok((0, 1))),
            ("being made here", vec![], vec![claim("a", "made", chosen("n1"))], "n1", Ok((0, 1))),
            ("being made elsewhere", vec![], vec![claim("a", "made", chosen("n1"))], "n2", Err(vec![Conflict::NothingToBind])),
            ("not made here", vec![], vec![claim("a", "zonal", json!({}))], "n1", Err(vec![Conflict::NothingToBind])),
            ("room", vec![], vec![claim("a", "pools", json!({}))], "n1", Ok((0, 1))),
            ("no pool", vec![], vec![claim("a", "pools", json!({}))], "n2", Err(vec![Conflict::NoSpace])),
            ("too big", vec![], vec![claim("a", "pools", big)], "n1", Err(vec![Conflict::NoSpace])),
        ];
        for (case, bound, waiting, on, expected) in cases {
            let node = node(on, json!({}));
            let chosen = choose(&bound, &waiting, &node, &objects());
            assert_eq!(chosen.map(|volumes| (volumes.bindings.len(), volumes.provisions.len())), expected, "{case}");
        }
    }

    #[test]
    fn a_volume_is_reserved_and_a_node_is_written_down() {
        let node = node("n1", json!({}));
        let volumes = choose(&[], &[claim("a", "local", json!({})), claim("m", "made", json!({}))], &node, &objects()).unwrap();
        let binding = &volumes.bindings[0];
        let reference = binding.volume.spec.as_ref().unwrap().claim_ref.as_ref().unwrap();
        assert_eq!((reference.name.as_deref(), reference.uid.as_deref(), binding.changed), (Some("a"), Some("a"), true));
        assert_eq!(binding.volume.metadata.annotations.as_ref().unwrap()[BOUND_BY_CONTROLLER], "yes");
        assert_eq!(volumes.provisions[0].metadata.annotations.as_ref().unwrap()[SELECTED_NODE], "n1");
    }
}
