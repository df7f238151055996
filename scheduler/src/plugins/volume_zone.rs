//! Volumes that are labelled with a zone or region are only used there.

use crate::framework::{Changed, ClusterEvent, Context, CycleState, Plugin, Point, PreFilter, Rejection, Verdict};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::volumes;
use k8s_openapi::api::core::v1::PersistentVolume;
use std::collections::BTreeSet;
use std::sync::Arc;

const REASON: &str = "node(s) had no available volume zone";
/// The labels that count, and the newer ones that stand for older ones.
const LABELS: [(&str, &str); 4] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "topology.kubernetes.io/region"),
];
/// Between the zones of a volume that is in several.
const SEPARATOR: &str = "__";

/// See the module's description.
pub struct VolumeZone;

/// A label that a node must have with one of these values: old name, new name, values.
type Demand = (&'static str, &'static str, BTreeSet<String>);

#[derive(Clone)]
struct Demands(Arc<Vec<Demand>>);

fn demands_of(volume: &PersistentVolume) -> Vec<Demand> {
    let labels = volume.metadata.labels.as_ref();
    let demand = |(key, newer): (&'static str, &'static str)| {
        let values: BTreeSet<String> = labels?.get(key)?.split(SEPARATOR).map(|zone| zone.trim().to_owned()).collect();
        // Upstream passes over a label with an empty zone in it.
        (!values.contains("")).then_some((key, newer, values))
    };
    LABELS.into_iter().filter_map(demand).collect()
}

fn demands(pod: &PodInfo, context: &Context<'_>) -> Result<Vec<Demand>, String> {
    let mut demands = Vec::new();
    for reference in pod.claims.iter().filter(|claim| !claim.ephemeral) {
        let name = &reference.name;
        let claim = context.listers.claim(pod.namespace(), name).ok_or_else(|| format!("persistentvolumeclaim {name:?} not found"))?;
        let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
        if !volume.is_empty() {
            let volume = context.listers.volume(volume).ok_or_else(|| format!("persistentvolume {volume:?} not found"))?;
            demands.extend(demands_of(&volume));
            continue;
        }
        let class_name = volumes::class_of_claim(&claim);
        if class_name.is_empty() {
            return Err("PersistentVolumeClaim had no pv name and storageClass name".to_owned());
        }
        let class = context.listers.storage_class(class_name);
        let class = class.ok_or_else(|| format!("storageclass.storage.k8s.io {class_name:?} not found"))?;
        match class.volume_binding_mode.as_deref() {
            None => return Err(format!("VolumeBindingMode not set for StorageClass {class_name:?}")),
            Some("WaitForFirstConsumer") => {}
            Some(_) => return Err("PersistentVolume had no name".to_owned()),
        }
    }
    Ok(demands)
}

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn pre_filter(&self, cycle: &mut CycleState, pod: &PodInfo, context: &Context<'_>) -> Result<PreFilter, Rejection> {
        let demands = demands(pod, context).map_err(Rejection::unresolvable)?;
        if demands.is_empty() {
            return Ok(PreFilter::Skip);
        }
        cycle.put(Demands(Arc::new(demands)));
        Ok(PreFilter::AllNodes)
    }

    fn filter(&self, cycle: &CycleState, _: &PodInfo, node: &NodeInfo, _: &Context<'_>) -> Verdict {
        let Some(Demands(demands)) = cycle.get() else { return Ok(()) };
        // A cluster in one zone need not label its nodes.
        if LABELS.iter().all(|(key, _)| node.label(key).is_none()) {
            return Ok(());
        }
        let met = |(key, newer, values): &Demand| node.label(key).or_else(|| node.label(newer)).is_some_and(|zone| values.contains(zone));
        if demands.iter().all(met) { Ok(()) } else { Err(Rejection::unresolvable(REASON)) }
    }

    fn cures(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::Class(Changed { old: None, new }) => new.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
            ClusterEvent::Node(Changed { old, new }) => old.as_ref().is_none_or(|old| old.metadata.labels != new.metadata.labels),
            ClusterEvent::Claim(Changed { new, .. }) => {
                new.metadata.namespace.as_deref() == Some(pod.namespace())
                    && pod.claims.iter().any(|claim| Some(claim.name.as_str()) == new.metadata.name.as_deref())
            }
            ClusterEvent::Volume(Changed { old, new }) => old.as_ref().is_none_or(|old| demands_of(old) != demands_of(new)),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Objects, node_info, pod};
    use crate::snapshot::Snapshot;
    use serde_json::{Value, json};

    #[test]
    fn zones_of_volumes_and_nodes() {
        let (zone, old_zone) = ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone");
        let volume =
            |name: &str, labels: Value| Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap());
        let claim = |name: &str| {
            Arc::new(serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": name}, "spec": {"volumeName": name}})).unwrap())
        };
        let names = ["new", "old", "two", "none"];
        let listers = Objects {
            volumes: vec![
                volume("new", json!({zone: "a"})),
                volume("old", json!({old_zone: "a"})),
                volume("two", json!({zone: "a__b"})),
                volume("none", json!({})),
            ],
            claims: names.map(claim).to_vec(),
            ..Objects::default()
        };
        let nodes = [json!({zone: "a"}), json!({zone: "b"}), json!({old_zone: "a"}), json!({})];
        let nodes =
            nodes.into_iter().enumerate().map(|(n, labels)| node_info(&format!("n{n}"), json!({"metadata": {"labels": labels}}), &[]));
        let snapshot = Snapshot::new(nodes);
        let context = Context { snapshot: &snapshot, listers: &listers };
        for (name, expected) in [
            ("new", [true, false, false, true]),
            ("old", [true, false, true, true]),
            ("two", [true, true, false, true]),
            ("none", [true; 4]),
        ] {
            let pod = pod("p", json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": name}}]}));
            let mut cycle = CycleState::default();
            let skipped = VolumeZone.pre_filter(&mut cycle, &pod, &context) == Ok(PreFilter::Skip);
            assert_eq!(skipped, name == "none");
            let fits = |n: usize| VolumeZone.filter(&cycle, &pod, snapshot.get(&format!("n{n}")).unwrap(), &context).is_ok();
            assert_eq!([0, 1, 2, 3].map(fits), expected, "{name}");
        }
    }
}
