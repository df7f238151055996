//! Volumes that only one pod may use at a time: on a node (some disks named in the pod itself), or in the whole cluster (claims with
//! `ReadWriteOncePod`).

use crate::framework::{ClusterEvent, Context, CycleState, Plugin, Point, PreFilter, Rejection, Verdict};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use k8s_openapi::api::core::v1::Volume;
use std::collections::BTreeSet;
use std::sync::Arc;

const DISK: &str = "node(s) had no available disk";
const ONE_POD: &str = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";

/// See the module's description.
pub struct VolumeRestrictions;

/// The pod's claims that only one pod may use, and how many others do.
#[derive(Clone)]
struct Exclusive {
    claims: Arc<BTreeSet<String>>,
    users: i64,
}

impl Exclusive {
    fn correct(&mut self, pod: &PodInfo, other: &PodInfo, amount: i64) {
        if other.namespace() == pod.namespace() {
            let shared = other.claims.iter().filter(|claim| self.claims.contains(&claim.name)).count();
            self.users += amount * i64::try_from(shared).unwrap_or(0);
        }
    }
}

fn volumes(pod: &PodInfo) -> &[Volume] {
    pod.spec().volumes.as_deref().unwrap_or_default()
}

fn is_restricted(volume: &Volume) -> bool {
    volume.gce_persistent_disk.is_some() || volume.aws_elastic_block_store.is_some() || volume.iscsi.is_some() || volume.rbd.is_some()
}

/// Whether two volumes are the same disk, and at least one writes where only readers may share.
fn conflicts(a: &Volume, b: &Volume) -> bool {
    let shared = |a: Option<bool>, b: Option<bool>| a == Some(true) && b == Some(true);
    if let (Some(a), Some(b)) = (&a.gce_persistent_disk, &b.gce_persistent_disk) {
        return a.pd_name == b.pd_name && !shared(a.read_only, b.read_only);
    }
    if let (Some(a), Some(b)) = (&a.aws_elastic_block_store, &b.aws_elastic_block_store) {
        return a.volume_id == b.volume_id;
    }
    if let (Some(a), Some(b)) = (&a.iscsi, &b.iscsi) {
        return a.iqn == b.iqn && !shared(a.read_only, b.read_only);
    }
    if let (Some(a), Some(b)) = (&a.rbd, &b.rbd) {
        let same = a.monitors.iter().any(|monitor| b.monitors.contains(monitor)) && a.pool == b.pool && a.image == b.image;
        return same && !shared(a.read_only, b.read_only);
    }
    false
}

fn disks_conflict(pod: &PodInfo, other: &PodInfo) -> bool {
    volumes(pod).iter().filter(|volume| is_restricted(volume)).any(|a| volumes(other).iter().any(|b| conflicts(a, b)))
}

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn pre_filter(&self, cycle: &mut CycleState, pod: &PodInfo, context: &Context<'_>) -> Result<PreFilter, Rejection> {
        let mut exclusive = Exclusive { claims: Arc::default(), users: 0 };
        let mut claims = BTreeSet::new();
        for reference in pod.claims.iter().filter(|claim| !claim.ephemeral) {
            let name = &reference.name;
            let Some(claim) = context.listers.claim(pod.namespace(), name) else {
                return Err(Rejection::unresolvable(format!("persistentvolumeclaim {name:?} not found")));
            };
            let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
            if modes.iter().any(|mode| mode == "ReadWriteOncePod") && claims.insert(name.clone()) {
                exclusive.users += i64::try_from(context.snapshot.claim_users(pod.namespace(), name)).unwrap_or(i64::MAX);
            }
        }
        if claims.is_empty() && !volumes(pod).iter().any(is_restricted) {
            return Ok(PreFilter::Skip);
        }
        cycle.put(Exclusive { claims: Arc::new(claims), ..exclusive });
        Ok(PreFilter::AllNodes)
    }

    fn add_pod(&self, cycle: &mut CycleState, pod: &PodInfo, other: &PodInfo, _: &NodeInfo) {
        if let Some(exclusive) = cycle.get_mut::<Exclusive>() {
            exclusive.correct(pod, other, 1);
        }
    }

    fn remove_pod(&self, cycle: &mut CycleState, pod: &PodInfo, other: &PodInfo, _: &NodeInfo) {
        if let Some(exclusive) = cycle.get_mut::<Exclusive>() {
            exclusive.correct(pod, other, -1);
        }
    }

    fn filter(&self, cycle: &CycleState, pod: &PodInfo, node: &NodeInfo, _: &Context<'_>) -> Verdict {
        if volumes(pod).iter().any(is_restricted) && node.pods.iter().any(|other| disks_conflict(pod, other)) {
            return Err(Rejection::unschedulable(DISK));
        }
        if cycle.get::<Exclusive>().is_some_and(|exclusive| exclusive.users > 0) {
            return Err(Rejection::unschedulable(ONE_POD));
        }
        Ok(())
    }

    fn cures(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        let shares = |name: &str| pod.claims.iter().any(|claim| claim.name == name);
        match event {
            ClusterEvent::PodGone(other) => {
                disks_conflict(pod, other) || other.namespace() == pod.namespace() && other.claims.iter().any(|claim| shares(&claim.name))
            }
            ClusterEvent::Node(changed) => changed.old.is_none(),
            ClusterEvent::Claim(changed) => {
                changed.new.metadata.namespace.as_deref() == Some(pod.namespace())
                    && changed.new.metadata.name.as_deref().is_some_and(shares)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{self, Objects, node_info, pod};
    use crate::snapshot::Snapshot;
    use serde_json::{Value, json};

    #[test]
    fn the_same_disk_on_one_node() {
        let with = |name: &str, mut volume: Value| {
            volume["name"] = json!("v");
            pod(name, json!({"volumes": [volume]}))
        };
        let gce = |name: &str, read_only: bool| json!({"gcePersistentDisk": {"pdName": name, "readOnly": read_only}});
        let ebs = |id: &str| json!({"awsElasticBlockStore": {"volumeID": id}});
        let iscsi = |iqn: &str, read_only: bool| json!({"iscsi": {"iqn": iqn, "lun": 0, "targetPortal": "t", "readOnly": read_only}});
        let rbd = |monitor: &str, read_only: bool| json!({"rbd": {"monitors": [monitor, "m9"], "image": "i", "pool": "p", "readOnly": read_only}});
        for (there, new, expected) in [
            (gce("a", false), gce("a", false), false),
            (gce("a", true), gce("a", true), true),
            (gce("a", false), gce("b", false), true),
            (ebs("a"), ebs("a"), false),
            (iscsi("a", false), iscsi("a", true), false),
            (iscsi("a", true), iscsi("a", true), true),
            (rbd("m1", false), rbd("m2", false), false),
            (gce("a", false), ebs("a"), true),
        ] {
            let node = node_info("n", json!({}), &[with("there", there.clone())]);
            assert_eq!(fixtures::filter(&VolumeRestrictions, &with("new", new.clone()), &node).is_ok(), expected, "{there} {new}");
        }
    }

    #[test]
    fn a_claim_for_one_pod() {
        let using = |name: &str, claim: &str| pod(name, json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}));
        let claim = |name: &str, mode: &str| {
            Arc::new(
                serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": name}, "spec": {"accessModes": [mode]}})).unwrap(),
            )
        };
        let listers = Objects {
            claims: vec![claim("used", "ReadWriteOncePod"), claim("free", "ReadWriteOncePod"), claim("shared", "ReadWriteOnce")],
            ..Objects::default()
        };
        let snapshot =
            Snapshot::new([node_info("n1", json!({}), &[using("there", "used")]), node_info("n2", json!({}), &[using("s", "shared")])]);
        let context = Context { snapshot: &snapshot, listers: &listers };
        for (name, expected) in [("used", Err(Rejection::unschedulable(ONE_POD))), ("free", Ok(())), ("shared", Ok(()))] {
            let (pod, mut cycle) = (using("new", name), CycleState::default());
            VolumeRestrictions.pre_filter(&mut cycle, &pod, &context).unwrap();
            let (n1, n2) = (snapshot.get("n1").unwrap(), snapshot.get("n2").unwrap());
            assert_eq!(VolumeRestrictions.filter(&cycle, &pod, n2, &context), expected, "{name}");
            VolumeRestrictions.remove_pod(&mut cycle, &pod, &n1.pods[0], n1);
            assert_eq!(VolumeRestrictions.filter(&cycle, &pod, n2, &context), Ok(()), "{name}");
        }
    }
}
