//! What the binder decides, case by case.

use super::plan::{World, for_claim, for_volume};
use crate::ops::Op;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};
use std::sync::Arc;

fn merged(mut base: Value, more: Value) -> Value {
    json_patch::merge(&mut base, &more);
    base
}

fn volume(more: Value) -> PersistentVolume {
    let spec = json!({"capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "c", "persistentVolumeReclaimPolicy": "Retain"});
    let base = json!({"metadata": {"name": "v", "uid": "v"}, "spec": spec, "status": {"phase": "Available"}});
    serde_json::from_value(merged(base, more)).unwrap()
}

fn claim(more: Value) -> PersistentVolumeClaim {
    let spec = json!({"resources": {"requests": {"storage": "1Gi"}}, "accessModes": ["ReadWriteOnce"], "storageClassName": "c"});
    let base = json!({"metadata": {"namespace": "ns", "name": "p", "uid": "u"}, "spec": spec, "status": {"phase": "Pending"}});
    serde_json::from_value(merged(base, more)).unwrap()
}

fn class(provisioner: &str, mode: &str) -> StorageClass {
    serde_json::from_value(json!({"metadata": {"name": "c"}, "provisioner": provisioner, "volumeBindingMode": mode})).unwrap()
}

fn bound_to(uid: &str) -> Value {
    json!({"spec": {"claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "ns", "name": "p", "uid": uid}}})
}

/// Reason and message of the only event.
fn event(events: &[Op]) -> Option<(&'static str, String)> {
    match events {
        [Op::Event { reason, message, .. }] => Some((reason, message.clone())),
        [] => None,
        more => panic!("one event at most: {more:?}"),
    }
}

fn of_claim(claim: &PersistentVolumeClaim, volumes: Vec<PersistentVolume>, class: Option<&StorageClass>, pods: &[&str]) -> super::Plan {
    let volumes: Vec<_> = volumes.into_iter().map(Arc::new).collect();
    let waiting_pods: Vec<String> = pods.iter().map(|pod| (*pod).to_owned()).collect();
    for_claim(claim, &World { volumes: &volumes, class, waiting_pods: &waiting_pods, provisions: true })
}

#[test]
fn a_claim_and_a_volume_are_bound_in_both_directions() {
    let plan = of_claim(&claim(json!({})), vec![volume(json!({}))], None, &[]);
    let (bound_volume, bound_claim) = (plan.volume.unwrap(), plan.claim.unwrap());
    let reference = bound_volume.spec.as_ref().unwrap().claim_ref.clone().unwrap();
    assert_eq!(
        (reference.name.as_deref(), reference.uid.as_deref(), reference.kind.as_deref()),
        (Some("p"), Some("u"), Some("PersistentVolumeClaim"))
    );
    assert_eq!(super::annotation(&bound_volume, super::BOUND_BY_CONTROLLER), Some("yes"));
    assert_eq!(super::phase(&bound_volume), "Bound");
    assert_eq!(super::volume_name(&bound_claim), "v");
    assert_eq!(bound_claim.metadata.annotations.as_ref().unwrap().len(), 2, "completed, by the controller");
    let status = serde_json::to_value(bound_claim.status.as_ref().unwrap()).unwrap();
    assert_eq!(status, json!({"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"}}));
    // It is a fixed point.
    let again = of_claim(&bound_claim, vec![bound_volume.clone()], None, &[]);
    assert_eq!((again.volume, again.claim), (Some(bound_volume.clone()), Some(bound_claim.clone())));
    assert_eq!(for_volume(&bound_volume, Some(&bound_claim)).volume, Some(bound_volume));
}

#[test]
fn what_users_have_tied_is_not_marked_as_the_controllers() {
    let set_aside = volume(json!({"spec": {"claimRef": {"namespace": "ns", "name": "p"}, "storageClassName": "other"}}));
    let plan = of_claim(&claim(json!({"spec": {"volumeName": "v"}})), vec![set_aside], None, &[]);
    let (bound_volume, bound_claim) = (plan.volume.unwrap(), plan.claim.unwrap());
    assert_eq!(super::annotation(&bound_volume, super::BOUND_BY_CONTROLLER), None);
    assert_eq!(super::annotation(&bound_claim, super::BOUND_BY_CONTROLLER), None);
    assert_eq!(super::claim_ref(&bound_volume).unwrap().uid.as_deref(), Some("u"));
}

#[test]
fn claims_that_have_to_wait_are_told_why() {
    let late = class("example.com/p", "WaitForFirstConsumer");
    let now = class("example.com/p", "Immediate");
    let none = class("kubernetes.io/no-provisioner", "Immediate");
    let chosen = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n"}}});
    let external = "Waiting for a volume to be created either by the external provisioner 'example.com/p' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.";
    let cases = [
        (
            json!({"spec": {"storageClassName": ""}}),
            None,
            vec![],
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set",
        ),
        (json!({}), None, vec![], "ProvisioningFailed", "storageclass.storage.k8s.io \"c\" not found"),
        (json!({}), Some(&none), vec![], "ProvisioningFailed", "no volume plugin matched name: kubernetes.io/no-provisioner"),
        (json!({}), Some(&now), vec![], "ExternalProvisioning", external),
        (json!({}), Some(&late), vec![], "WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
        (json!({}), Some(&late), vec!["a"], "WaitForPodScheduled", "waiting for pod a to be scheduled"),
        (json!({}), Some(&late), vec!["a", "b"], "WaitForPodScheduled", "waiting for pods a,b to be scheduled"),
        (chosen, Some(&late), vec!["a"], "ExternalProvisioning", external),
    ];
    for (more, class, pods, reason, message) in cases {
        let plan = of_claim(&claim(more), vec![], class, &pods);
        assert_eq!(event(&plan.events), Some((reason, message.to_owned())));
        let told = plan.claim.unwrap();
        assert_eq!(told.status.as_ref().unwrap().phase.as_deref(), Some("Pending"));
        let provisioner = super::annotation(&told, super::PROVISIONER);
        assert_eq!(provisioner, (reason == "ExternalProvisioning").then_some("example.com/p"));
    }
}

#[test]
fn no_provisioner_is_told_if_none_is_to_be() {
    let now = class("example.com/p", "Immediate");
    let plan = for_claim(&claim(json!({})), &World { volumes: &[], class: Some(&now), waiting_pods: &[], provisions: false });
    assert!(plan.events.is_empty() && plan.claim.is_none_or(|told| super::annotation(&told, super::PROVISIONER).is_none()));
}

#[test]
fn claims_that_name_a_volume() {
    let wants = || claim(json!({"spec": {"volumeName": "v"}}));
    let small = volume(json!({"spec": {"capacity": {"storage": "1Mi"}}}));
    let mismatch = "Cannot bind to requested volume \"v\": requested PV is too small";
    let taken = "volume \"v\" already bound to a different claim.";
    let cases = [
        (vec![], None, "Pending"),
        (vec![small], Some(("VolumeMismatch", mismatch.to_owned())), "Pending"),
        (vec![volume(bound_to("other"))], Some(("FailedBinding", taken.to_owned())), "Pending"),
        (vec![volume(json!({}))], None, "Bound"),
        (vec![volume(bound_to("u"))], None, "Bound"),
    ];
    for (volumes, expected, phase) in cases {
        let plan = of_claim(&wants(), volumes, None, &[]);
        assert_eq!(event(&plan.events), expected);
        assert_eq!(plan.claim.unwrap().status.unwrap().phase.as_deref(), Some(phase));
    }
}

#[test]
fn a_bound_claim_can_lose_its_volume() {
    let done = |name: &str| {
        claim(
            json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": name}, "status": {"phase": "Bound"}}),
        )
    };
    let cases = [
        (done(""), vec![], "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!"),
        (done("v"), vec![], "Bound claim has lost its PersistentVolume. Data on the volume is lost!"),
        (done("v"), vec![volume(bound_to("other"))], "Two claims are bound to the same volume, this one is bound incorrectly"),
    ];
    for (claim, volumes, message) in cases {
        let plan = of_claim(&claim, volumes.clone(), None, &[]);
        assert_eq!(event(&plan.events).map(|(_, message)| message).as_deref(), Some(message));
        let lost = plan.claim.unwrap();
        assert_eq!(lost.status.as_ref().unwrap().phase.as_deref(), Some("Lost"));
        assert_eq!(of_claim(&lost, volumes, None, &[]).events, [], "told once");
    }
}

#[test]
fn what_becomes_of_volumes() {
    let with = |base: Value, policy: &str| volume(merged(base, json!({"spec": {"persistentVolumeReclaimPolicy": policy}})));
    let made = |policy: &str| {
        with(merged(bound_to("u"), json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "example.com/p"}}})), policy)
    };
    let no_deleter = "error getting deleter volume plugin for volume \"v\": no deletable volume plugin matched";
    let cases = [
        (volume(json!({"status": {"phase": ""}})), None, "Available", None),
        (volume(json!({"spec": {"claimRef": {"namespace": "ns", "name": "p"}}})), None, "Available", None),
        (with(bound_to("u"), "Retain"), Some(claim(json!({"spec": {"volumeName": "v"}}))), "Bound", None),
        (with(bound_to("u"), "Retain"), None, "Released", None),
        (with(bound_to("u"), "Retain"), Some(claim(json!({"metadata": {"uid": "new"}}))), "Released", None),
        (with(bound_to("u"), "Recycle"), None, "Failed", Some("No recycler plugin found for the volume!")),
        (with(bound_to("u"), "Delete"), None, "Failed", Some(no_deleter)),
        (made("Delete"), None, "Released", None),
        (made("Delete"), Some(claim(json!({"spec": {"volumeName": "other"}}))), "Released", None),
        (with(bound_to("u"), "Delete"), Some(claim(json!({"spec": {"volumeName": "other"}}))), "Available", None),
    ];
    for (volume, claim, expected, message) in cases {
        let plan = for_volume(&volume, claim.as_ref());
        let after = plan.volume.unwrap();
        assert_eq!(super::phase(&after), expected, "{:?}", volume.spec);
        assert_eq!(after.status.as_ref().unwrap().message.as_deref(), message);
        assert_eq!(event(&plan.events).map(|(_, message)| message).as_deref(), message);
        assert_eq!(for_volume(&after, claim.as_ref()).events, [], "told once");
    }
}

#[test]
fn a_volume_that_was_tied_in_vain_is_free_again() {
    let elsewhere = claim(json!({"spec": {"volumeName": "other"}}));
    let by_controller =
        volume(merged(bound_to("u"), json!({"metadata": {"annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}}})));
    assert_eq!(super::claim_ref(&for_volume(&by_controller, Some(&elsewhere)).volume.unwrap()), None);
    let by_user = for_volume(&volume(bound_to("u")), Some(&elsewhere)).volume.unwrap();
    let left = super::claim_ref(&by_user).unwrap();
    assert_eq!((left.name.as_deref(), left.uid.as_deref()), (Some("p"), None));
    let half = for_volume(&volume(bound_to("u")), Some(&claim(json!({}))));
    assert_eq!((half.volume, half.look_at_claim), (None, true), "the claim's side is still to be written");
}
