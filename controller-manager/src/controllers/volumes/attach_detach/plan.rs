//! What has to be attached to a node and detached from it: pure.
//!
//! A volume is wanted on a node while a pod there uses it and may have containers that run. One that is not wanted any more is detached once the node does not
//! have it in use; from a node that is out of service at once, and from one that has not been heard for a while after [`MAX_WAIT`], as nobody can say what it does.

use crate::controllers::volumes::claim_ref;
use crate::nodes;
use crate::ops::{DeleteOptions, Op, PatchKind, Request};
use api::csi;
use client::ObjectKey;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{AttachedVolume, Node, PersistentVolume, Pod};
use k8s_openapi::api::storage::v1::{VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How long a node that is not well keeps a volume that it says it uses (upstream: `ReconcilerMaxWaitForUnmountDuration`).
pub const MAX_WAIT: SignedDuration = SignedDuration::from_mins(6);

/// A driver's volume.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Volume {
    /// The driver.
    pub driver: String,
    /// What it calls the volume.
    pub handle: String,
}

impl Volume {
    /// The volume of a driver that a persistent volume stands for.
    pub fn of(volume: &PersistentVolume) -> Option<Self> {
        let source = volume.spec.as_ref()?.csi.as_ref()?;
        Some(Volume { driver: source.driver.clone(), handle: source.volume_handle.clone() })
    }

    /// Its name in nodes' statuses.
    pub fn name(&self) -> String {
        csi::volume_name(&self.driver, &self.handle)
    }

    /// The volume of that name.
    pub fn named(name: &str) -> Option<Self> {
        let (driver, handle) = csi::volume_named(name)?;
        Some(Volume { driver: driver.to_owned(), handle: handle.to_owned() })
    }

    /// The name of its attachment to a node.
    pub fn attachment(&self, node: &str) -> String {
        csi::attachment_name(&self.driver, &self.handle, node)
    }
}

/// A volume that is wanted on a node.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The persistent volume.
    pub persistent: Arc<PersistentVolume>,
    /// The pods that want it.
    pub pods: Vec<Arc<Pod>>,
    /// Where else it is attached, and which pods use it there.
    pub elsewhere: Vec<Arc<Pod>>,
    /// Whether it is attached elsewhere.
    pub is_elsewhere: bool,
}

/// What a node is judged by.
pub struct World<'a> {
    /// Its name.
    pub name: &'a str,
    /// The node; `None` once it is gone.
    pub node: Option<&'a Node>,
    /// What is wanted there.
    pub wanted: &'a BTreeMap<Volume, Wanted>,
    /// The attachments to it, and the persistent volumes they name, where there are such.
    pub attachments: &'a [(Arc<VolumeAttachment>, Option<Arc<PersistentVolume>>)],
    /// What of it was to be detached before, and since when.
    pub leaving: &'a BTreeMap<Volume, Timestamp>,
    /// What has been told.
    pub told: &'a BTreeSet<String>,
    /// The time.
    pub now: Timestamp,
    /// What is in use stays, however long the node has not been heard.
    pub patient: bool,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In this order.
    pub ops: Vec<Op>,
    /// What is to be detached, and since when.
    pub leaving: BTreeMap<Volume, Timestamp>,
    /// What has been told by then.
    pub told: BTreeSet<String>,
}

fn is_exclusive(volume: &PersistentVolume) -> bool {
    let modes = volume.spec.as_ref().and_then(|spec| spec.access_modes.clone()).unwrap_or_default();
    !modes.is_empty() && modes.iter().all(|mode| mode.starts_with("ReadWriteOnce"))
}

fn name_of(volume: &PersistentVolume) -> &str {
    volume.metadata.name.as_deref().unwrap_or_default()
}

/// The volumes of attachments that this controller made, which it knows by their names. Those that somebody else made are nobody's business.
fn own<'a>(world: &World<'a>) -> BTreeMap<Volume, &'a VolumeAttachment> {
    let reported = world.node.and_then(|node| node.status.as_ref()?.volumes_attached.as_ref());
    let known: Vec<Volume> = reported.into_iter().flatten().filter_map(|attached| Volume::named(&attached.name)).collect();
    let mut out = BTreeMap::new();
    for (attachment, persistent) in world.attachments {
        let candidates =
            persistent.as_deref().and_then(Volume::of).into_iter().chain(world.wanted.keys().cloned()).chain(known.iter().cloned());
        let name = attachment.metadata.name.as_deref().unwrap_or_default();
        if let Some(volume) = candidates.into_iter().find(|volume| volume.attachment(world.name) == name) {
            out.insert(volume, attachment.as_ref());
        }
    }
    out
}

/// See the module.
pub fn plan(world: &World<'_>) -> Plan {
    let own = own(world);
    let mut plan = Plan::default();
    let mut reported = BTreeSet::new();
    let mut detached = Vec::new();
    let status = world.node.and_then(|node| node.status.as_ref());
    let in_use = |volume: &Volume| status.is_some_and(|s| s.volumes_in_use.iter().flatten().any(|name| *name == volume.name()));
    for (volume, attachment) in &own {
        let is_attached = attachment.status.as_ref().is_some_and(|status| status.attached);
        let is_going = attachment.metadata.deletion_timestamp.is_some();
        if world.wanted.contains_key(volume) {
            if is_attached && !is_going {
                reported.insert(volume.name());
            }
            continue;
        }
        if is_going {
            continue;
        }
        let since = world.leaving.get(volume).copied().unwrap_or(world.now);
        plan.leaving.insert(volume.clone(), since);
        let left = MAX_WAIT - world.now.duration_since(since);
        let keeps = world.node.is_some_and(|node| {
            in_use(volume) && !nodes::is_out_of_service(node) && (world.patient || nodes::is_ready(node) || left.is_positive())
        });
        if !keeps {
            detached.push(Op::send(Request::delete::<VolumeAttachment>(&ObjectKey::of(*attachment), &DeleteOptions::default())));
            continue;
        }
        if left.is_positive() {
            plan.ops.push(Op::After(Duration::try_from(left).unwrap_or_default()));
        }
        if is_attached {
            reported.insert(volume.name());
        }
    }
    for (volume, wanted) in world.wanted {
        want(&mut plan, world, volume, wanted, own.get(volume).copied());
    }
    // What is about to be detached must not be reported any more, so this comes first.
    if let Some(node) = world.node {
        plan.ops.extend(report(node, &reported));
        let fresh = |volume: &Volume| reported.contains(&volume.name()) && !is_reported(node, &volume.name());
        for (_, wanted) in world.wanted.iter().filter(|(volume, _)| fresh(volume)) {
            let message = format!("AttachVolume.Attach succeeded for volume {:?} ", name_of(&wanted.persistent));
            plan.ops.extend(wanted.pods.iter().map(|pod| Op::normal(pod.as_ref(), "SuccessfulAttachVolume", message.clone())));
        }
    }
    plan.ops.extend(detached);
    plan
}

/// Has a volume attached, or tells why it is not.
fn want(plan: &mut Plan, world: &World<'_>, volume: &Volume, wanted: &Wanted, attachment: Option<&VolumeAttachment>) {
    let name = name_of(&wanted.persistent);
    let mut warn = |key: String, message: &str| {
        if !world.told.contains(&key) {
            plan.ops.extend(wanted.pods.iter().map(|pod| Op::warning(pod.as_ref(), "FailedAttachVolume", message)));
        }
        plan.told.insert(key);
    };
    if let Some(attachment) = attachment {
        let error = attachment.status.as_ref().filter(|status| !status.attached).and_then(|status| status.attach_error.as_ref());
        if let Some(error) = error {
            let at = error.time.as_ref().map(|time| time.0.to_string()).unwrap_or_default();
            let message = error.message.as_deref().unwrap_or_default();
            warn(format!("{name} {at} {message}"), &format!("AttachVolume.Attach failed for volume {name:?} : {message}"));
        }
        return;
    }
    if wanted.is_elsewhere && is_exclusive(&wanted.persistent) {
        warn(format!("{name} elsewhere"), &format!("Multi-Attach error for volume {name:?} {}", users(wanted)));
        return;
    }
    let spec = VolumeAttachmentSpec {
        attacher: volume.driver.clone(),
        node_name: world.name.to_owned(),
        source: VolumeAttachmentSource { persistent_volume_name: Some(name.to_owned()), ..Default::default() },
    };
    let mut fresh = VolumeAttachment { spec, ..Default::default() };
    fresh.metadata.name = Some(volume.attachment(world.name));
    plan.ops.push(Op::send(Request::create(&fresh).tolerating(&[409])));
}

/// Who has the volume elsewhere, in upstream's words, which name no pod of another namespace.
fn users(wanted: &Wanted) -> String {
    let own = wanted.pods.first().and_then(|pod| pod.metadata.namespace.as_deref());
    let (same, other): (Vec<_>, Vec<_>) = wanted.elsewhere.iter().partition(|pod| pod.metadata.namespace.as_deref() == own);
    let names: Vec<&str> = same.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect();
    match (names.is_empty(), other.len()) {
        (true, 0) => "Volume is already exclusively attached to one node and can't be attached to another".to_owned(),
        (true, others) => format!("Volume is already used by {others} pod(s) in different namespaces"),
        (false, 0) => format!("Volume is already used by pod(s) {}", names.join(", ")),
        (false, others) => format!("Volume is already used by pod(s) {} and {others} pod(s) in different namespaces", names.join(", ")),
    }
}

fn is_reported(node: &Node, name: &str) -> bool {
    node.status.iter().flat_map(|status| status.volumes_attached.iter().flatten()).any(|attached| attached.name == name)
}

/// The node's status with what is attached, where it differs. What is no driver's is left as it is.
fn report(node: &Node, names: &BTreeSet<String>) -> Option<Op> {
    let before = node.status.as_ref().and_then(|status| status.volumes_attached.clone()).unwrap_or_default();
    let mut after: Vec<AttachedVolume> = before.iter().filter(|attached| Volume::named(&attached.name).is_none()).cloned().collect();
    after.extend(names.iter().map(|name| AttachedVolume { name: name.clone(), device_path: String::new() }));
    let names_of = |list: &[AttachedVolume]| list.iter().map(|attached| attached.name.clone()).collect::<BTreeSet<_>>();
    if names_of(&before) == names_of(&after) {
        return None;
    }
    let patch = json!({"status": {"volumesAttached": after}});
    Some(Op::send(Request::patch::<Node>(&ObjectKey::of(node), "status", PatchKind::Merge, patch).tolerating(&[404])))
}

/// The claim that a volume is bound to, by namespace and name.
pub fn claim_of(volume: &PersistentVolume) -> Option<ObjectKey> {
    let claim = claim_ref(volume)?;
    Some(ObjectKey::new(claim.namespace.as_deref().unwrap_or_default(), claim.name.as_deref().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn parse<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).expect("a valid object")
    }

    fn volume() -> Volume {
        Volume { driver: "d".into(), handle: "h".into() }
    }

    fn persistent() -> Arc<PersistentVolume> {
        let spec = json!({"csi": {"driver": "d", "volumeHandle": "h"}, "accessModes": ["ReadWriteOnce"]});
        Arc::new(parse(json!({"metadata": {"name": "pv"}, "spec": spec})))
    }

    fn pod(name: &str, namespace: &str) -> Arc<Pod> {
        Arc::new(parse(json!({"metadata": {"name": name, "namespace": namespace, "uid": name}})))
    }

    fn wanted() -> BTreeMap<Volume, Wanted> {
        BTreeMap::from([(
            volume(),
            Wanted { persistent: persistent(), pods: vec![pod("p", "ns")], elsewhere: Vec::new(), is_elsewhere: false },
        )])
    }

    fn attachment(status: Value) -> Vec<(Arc<VolumeAttachment>, Option<Arc<PersistentVolume>>)> {
        let spec = json!({"attacher": "d", "nodeName": "n", "source": {"persistentVolumeName": "pv"}});
        let object = json!({"metadata": {"name": volume().attachment("n")}, "spec": spec, "status": status});
        vec![(Arc::new(parse(object)), Some(persistent()))]
    }

    fn node(attached: bool, in_use: bool, ready: bool, taint: Option<&str>) -> Node {
        let name = volume().name();
        let status = json!({
            "volumesAttached": if attached { json!([{"name": name, "devicePath": ""}]) } else { json!([]) },
            "volumesInUse": if in_use { json!([name]) } else { json!([]) },
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "Unknown" }}],
        });
        let taints: Vec<_> = taint.into_iter().map(|key| json!({"key": key, "effect": "NoExecute"})).collect();
        parse(json!({"metadata": {"name": "n"}, "spec": {"taints": taints}, "status": status}))
    }

    /// What a plan does, in short.
    fn steps(plan: &Plan) -> Vec<String> {
        plan.ops
            .iter()
            .map(|op| match op {
                Op::Send(request) => format!("{} {}", request.method, request.path.rsplit('/').next().unwrap_or_default()),
                Op::Event { reason, message, .. } => format!("{reason}: {message}"),
                Op::After(wait) => format!("after {}", wait.as_secs()),
            })
            .collect()
    }

    fn made(
        node: Option<&Node>,
        wanted: &BTreeMap<Volume, Wanted>,
        attachments: &[(Arc<VolumeAttachment>, Option<Arc<PersistentVolume>>)],
        since: i64,
    ) -> Plan {
        let now = Timestamp::from_second(1000).expect("a time");
        let leaving = BTreeMap::from([(volume(), now - SignedDuration::from_secs(since))]);
        plan(&World { name: "n", node, wanted, attachments, leaving: &leaving, told: &BTreeSet::new(), now, patient: false })
    }

    #[test]
    fn what_is_wanted_is_attached_and_then_reported() {
        let fresh = node(false, true, true, None);
        assert_eq!(steps(&made(Some(&fresh), &wanted(), &[], 0)), ["POST volumeattachments"]);
        assert!(steps(&made(Some(&fresh), &wanted(), &attachment(json!({"attached": false})), 0)).is_empty());
        let done = made(Some(&fresh), &wanted(), &attachment(json!({"attached": true})), 0);
        assert_eq!(steps(&done), ["PATCH status", "SuccessfulAttachVolume: AttachVolume.Attach succeeded for volume \"pv\" "]);
        assert!(steps(&made(Some(&node(true, true, true, None)), &wanted(), &attachment(json!({"attached": true})), 0)).is_empty());
    }

    #[test]
    fn what_fails_is_told_once() {
        let failed = attachment(json!({"attached": false, "attachError": {"message": "no such disk"}}));
        let fresh = node(false, true, true, None);
        let told = made(Some(&fresh), &wanted(), &failed, 0);
        assert_eq!(steps(&told), ["FailedAttachVolume: AttachVolume.Attach failed for volume \"pv\" : no such disk"]);
        let (now, none) = (Timestamp::UNIX_EPOCH, BTreeMap::new());
        let world = World {
            name: "n",
            node: Some(&fresh),
            wanted: &wanted(),
            attachments: &failed,
            leaving: &none,
            told: &told.told,
            now,
            patient: false,
        };
        assert!(steps(&plan(&world)).is_empty());
    }

    #[test]
    fn a_volume_for_one_node_is_not_attached_to_two() {
        for (elsewhere, want) in [
            (vec![], "Volume is already exclusively attached to one node and can't be attached to another"),
            (vec![pod("q", "ns")], "Volume is already used by pod(s) q"),
            (vec![pod("q", "other")], "Volume is already used by 1 pod(s) in different namespaces"),
            (vec![pod("q", "ns"), pod("r", "other")], "Volume is already used by pod(s) q and 1 pod(s) in different namespaces"),
        ] {
            let mut wanted = wanted();
            for volume in wanted.values_mut() {
                volume.is_elsewhere = true;
                volume.elsewhere.clone_from(&elsewhere);
            }
            let told = made(Some(&node(false, true, true, None)), &wanted, &[], 0);
            assert_eq!(steps(&told), [format!("FailedAttachVolume: Multi-Attach error for volume \"pv\" {want}")]);
        }
    }

    #[test]
    fn nothing_is_forced_from_a_node_where_patience_is_asked_for() {
        let (node, attachments, now) = (node(true, true, false, None), attachment(json!({"attached": true})), Timestamp::UNIX_EPOCH);
        let leaving = BTreeMap::from([(volume(), now - SignedDuration::from_hours(1))]);
        let (wanted, told) = (BTreeMap::new(), BTreeSet::new());
        for (patient, goes) in [(false, true), (true, false)] {
            let world = World {
                name: "n",
                node: Some(&node),
                wanted: &wanted,
                attachments: &attachments,
                leaving: &leaving,
                told: &told,
                now,
                patient,
            };
            assert_eq!(steps(&plan(&world)).iter().any(|step| step.starts_with("DELETE")), goes, "{patient}");
        }
    }

    #[test]
    fn what_is_not_wanted_goes_once_the_node_lets_go_of_it() {
        let name = format!("DELETE {}", volume().attachment("n"));
        let detached = vec!["PATCH status".to_owned(), name.clone()];
        for (case, node, since, want) in [
            ("not in use", Some(node(true, false, true, None)), 0, detached.clone()),
            ("in use", Some(node(true, true, true, None)), 0, vec!["after 360".to_owned()]),
            ("in use for long, by a node that is well", Some(node(true, true, true, None)), 400, vec![]),
            ("in use by a node that is not heard", Some(node(true, true, false, None)), 60, vec!["after 300".to_owned()]),
            ("not heard for long", Some(node(true, true, false, None)), 360, detached.clone()),
            ("out of service", Some(node(true, true, false, Some(nodes::OUT_OF_SERVICE))), 0, detached),
            ("the node is gone", None, 0, vec![name]),
        ] {
            let plan = made(node.as_ref(), &BTreeMap::new(), &attachment(json!({"attached": true})), since);
            assert_eq!(steps(&plan), want, "{case}");
            assert_eq!(plan.leaving.len(), 1, "{case}");
        }
    }

    #[test]
    fn attachments_of_others_stay() {
        let spec = json!({"attacher": "d", "nodeName": "n", "source": {"persistentVolumeName": "pv"}});
        let foreign =
            vec![(Arc::new(parse(json!({"metadata": {"name": "mine"}, "spec": spec, "status": {"attached": true}}))), Some(persistent()))];
        assert!(steps(&made(Some(&node(false, false, true, None)), &BTreeMap::new(), &foreign, 0)).is_empty());
    }
}
