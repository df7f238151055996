//! A node can have only so many volumes of a CSI driver attached (`CSINode.spec.drivers[].allocatable.count`).
//!
//! Counted are the volumes of the pods on the node and those still attached to it. Left out: volumes of plugins that moved out of the tree.

use crate::framework::{Changed, ClusterEvent, Context, CycleState, Plugin, Point, PreFilter, Rejection, Verdict};
use crate::listers::Listers;
use crate::node_info::NodeInfo;
use crate::pod_info::{ClaimUse, PodInfo};
use crate::volumes;
use k8s_openapi::api::storage::v1::CSINode;
use std::collections::{BTreeMap, BTreeSet};

const REASON: &str = "node(s) exceed max volume count";

/// See the module's description.
pub struct NodeVolumeLimits;

/// Driver and handle: what is one volume.
type Attachable = (String, String);

/// The volume of a claim, if a driver attaches it. One that is still to be made is taken to be one of its own.
fn attachable(namespace: &str, claim: &ClaimUse, listers: &dyn Listers) -> Option<Attachable> {
    let object = listers.claim(namespace, &claim.name)?;
    let bound = object.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).filter(|name| !name.is_empty());
    if let Some(volume) = bound.and_then(|name| listers.volume(name)) {
        let csi = volume.spec.as_ref()?.csi.as_ref()?;
        return Some((csi.driver.clone(), csi.volume_handle.clone()));
    }
    let class = listers.storage_class(volumes::class_of_claim(&object))?;
    Some((class.provisioner.clone(), format!("{namespace}/{}", claim.name)))
}

fn attachables(pod: &PodInfo, listers: &dyn Listers) -> BTreeSet<Attachable> {
    pod.claims.iter().filter_map(|claim| attachable(pod.namespace(), claim, listers)).collect()
}

fn limits(node: Option<&CSINode>) -> BTreeMap<&str, i32> {
    let drivers = node.into_iter().flat_map(|node| &node.spec.drivers);
    drivers.filter_map(|driver| Some((driver.name.as_str(), driver.allocatable.as_ref()?.count?))).collect()
}

/// The volumes that are attached to a node, whoever uses them.
fn attached(node: &str, listers: &dyn Listers) -> BTreeSet<Attachable> {
    let volume = |attachment: &k8s_openapi::api::storage::v1::VolumeAttachment| {
        let volume = listers.volume(attachment.spec.source.persistent_volume_name.as_deref()?)?;
        let csi = volume.spec.as_ref()?.csi.as_ref()?;
        Some((csi.driver.clone(), csi.volume_handle.clone()))
    };
    listers.attachments(node).iter().filter_map(|attachment| volume(attachment)).collect()
}

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn pre_filter(&self, _: &mut CycleState, pod: &PodInfo, _: &Context<'_>) -> Result<PreFilter, Rejection> {
        Ok(if pod.claims.is_empty() { PreFilter::Skip } else { PreFilter::AllNodes })
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo, context: &Context<'_>) -> Verdict {
        let csi_node = context.listers.csi_node(node.name());
        let limits = limits(csi_node.as_deref());
        if limits.is_empty() {
            return Ok(());
        }
        for claim in &pod.claims {
            let (namespace, name) = (pod.namespace(), &claim.name);
            if context.listers.claim(namespace, name).is_none() {
                let reason = format!("looking up PVC {namespace}/{name}: persistentvolumeclaim {name:?} not found");
                return Err(Rejection::unresolvable(reason));
            }
        }
        let mut present = attached(node.name(), context.listers);
        node.pods.iter().filter(|other| !other.claims.is_empty()).for_each(|other| present.extend(attachables(other, context.listers)));
        let new: BTreeSet<Attachable> = attachables(pod, context.listers).difference(&present).cloned().collect();
        let number = |of: &BTreeSet<Attachable>, driver: &str| of.iter().filter(|(name, _)| name == driver).count();
        for (driver, limit) in limits {
            let added = number(&new, driver);
            if added > 0 && number(&present, driver) + added > usize::try_from(limit).unwrap_or(0) {
                return Err(Rejection::unschedulable(REASON));
            }
        }
        Ok(())
    }

    fn cures(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::CsiNode(Changed { old, new }) => match old {
                None => true,
                Some(old) => {
                    let (before, now) = (limits(Some(old)), limits(Some(new)));
                    now.iter().any(|(driver, limit)| before.get(driver).is_none_or(|before| limit > before))
                        || before.keys().any(|driver| !now.contains_key(driver))
                }
            },
            ClusterEvent::PodGone(gone) => !gone.claims.is_empty(),
            ClusterEvent::Claim(Changed { old: None, new }) => {
                new.metadata.namespace.as_deref() == Some(pod.namespace())
                    && pod.claims.iter().any(|claim| Some(claim.name.as_str()) == new.metadata.name.as_deref())
            }
            ClusterEvent::Detached(_) => true,
            ClusterEvent::Node(Changed { old, .. }) => old.is_none(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Objects, node_info, pod};
    use crate::snapshot::Snapshot;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn the_limit_counts_every_volume_once() {
        let using = |name: &str, claims: &[&str]| {
            let volumes: Vec<_> =
                claims.iter().map(|claim| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}})).collect();
            pod(name, json!({ "volumes": volumes }))
        };
        let claim = |name: &str, volume: &str| {
            Arc::new(
                serde_json::from_value(
                    json!({"metadata": {"namespace": "ns", "name": name}, "spec": {"volumeName": volume, "storageClassName": "c"}}),
                )
                .unwrap(),
            )
        };
        let volume = |name: &str, source: serde_json::Value| {
            let mut spec = source;
            spec["capacity"] = json!({});
            Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap())
        };
        let csi = |handle: &str| json!({"csi": {"driver": "d", "volumeHandle": handle}});
        let mut listers = Objects {
            claims: vec![claim("a", "a"), claim("b", "b"), claim("late", ""), claim("local", "local")],
            volumes: vec![
                volume("a", csi("ha")),
                volume("b", csi("hb")),
                volume("local", json!({"local": {"path": "/x"}})),
                volume("old", csi("old")),
            ],
            classes: vec![Arc::new(serde_json::from_value(json!({"metadata": {"name": "c"}, "provisioner": "d"})).unwrap())],
            csi_nodes: vec![Arc::new(
                serde_json::from_value(
                    json!({"metadata": {"name": "n"}, "spec": {"drivers": [{"name": "d", "nodeID": "n", "allocatable": {"count": 2}}]}}),
                )
                .unwrap(),
            )],
            ..Objects::default()
        };
        let snapshot = Snapshot::new([node_info("n", json!({}), &[using("there", &["a"])])]);
        let fits = |listers: &Objects, claims: &[&str]| {
            let context = Context { snapshot: &snapshot, listers };
            NodeVolumeLimits.filter(&CycleState::default(), &using("new", claims), snapshot.get("n").unwrap(), &context)
        };
        assert_eq!(fits(&listers, &["b"]), Ok(()));
        assert_eq!(fits(&listers, &["a", "b"]), Ok(()), "one of them is there already");
        assert_eq!(fits(&listers, &["b", "local"]), Ok(()), "not the driver's");
        assert_eq!(fits(&listers, &["b", "late"]), Err(Rejection::unschedulable(REASON)));
        listers.attachments = vec![Arc::new(
            serde_json::from_value(
                json!({"metadata": {"name": "x"}, "spec": {"attacher": "d", "nodeName": "n", "source": {"persistentVolumeName": "old"}}}),
            )
            .unwrap(),
        )];
        assert_eq!(fits(&listers, &["b"]), Err(Rejection::unschedulable(REASON)), "still attached");
    }
}
