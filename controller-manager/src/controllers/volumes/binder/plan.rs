//! What the binder does about a claim or a volume: both as they should be, and what to tell (upstream: `pv_controller.go`).
//!
//! A plan holds whole objects. Which of their parts have to be written, and in which order, is the shell's business.

use super::super::matching::{best_match, modes_differ, refusal};
use super::super::*;
use crate::ops::Op;
use client::events::reference;
use k8s_openapi::api::core::v1::PersistentVolumeClaimStatus;
use k8s_openapi::api::storage::v1::StorageClass;
use std::sync::Arc;

/// Both as they should be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The volume; it is written first.
    pub volume: Option<PersistentVolume>,
    /// The claim.
    pub claim: Option<PersistentVolumeClaim>,
    /// What to tell.
    pub events: Vec<Op>,
    /// Whether the claim should be looked at too.
    pub look_at_claim: bool,
}

/// What a claim is judged by.
pub struct World<'a> {
    /// All volumes.
    pub volumes: &'a [Arc<PersistentVolume>],
    /// The claim's class, if there is one of that name.
    pub class: Option<&'a StorageClass>,
    /// The names of the pods that use the claim and have no node yet.
    pub waiting_pods: &'a [String],
    /// Provisioners are told of claims that are theirs.
    pub provisions: bool,
}

/// What to do about a claim.
pub fn for_claim(claim: &PersistentVolumeClaim, world: &World<'_>) -> Plan {
    let named = |name: &str| world.volumes.iter().find(|volume| volume.metadata.name.as_deref() == Some(name));
    let name = volume_name(claim);
    match (annotation(claim, BIND_COMPLETED).is_some(), name) {
        (false, "") => unbound(claim, world),
        (false, name) => match named(name) {
            Some(volume) => wanting(claim, volume),
            None => pending(claim, None),
        },
        (true, "") => lost(claim, "ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!"),
        (true, name) => match named(name) {
            None => lost(claim, "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!"),
            Some(volume) if claim_ref(volume).is_none_or(|bound| bound.uid == claim.metadata.uid) => bind(volume, claim),
            Some(_) => lost(claim, "ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly"),
        },
    }
}

/// A claim that names no volume.
fn unbound(claim: &PersistentVolumeClaim, world: &World<'_>) -> Plan {
    let waits = world.class.and_then(|class| class.volume_binding_mode.as_deref()) == Some("WaitForFirstConsumer");
    let delayed = waits && annotation(claim, SELECTED_NODE).is_none();
    if let Some(volume) = best_match(world.volumes, claim, delayed) {
        return bind(&volume, claim);
    }
    if delayed {
        let (reason, message) = match world.waiting_pods {
            [] => ("WaitForFirstConsumer", "waiting for first consumer to be created before binding".to_owned()),
            [pod] => ("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
            pods => ("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", pods.join(","))),
        };
        return pending(claim, Some(Op::normal(claim, reason, message)));
    }
    match class_of_claim(claim) {
        "" => {
            let message = "no persistent volumes available for this claim and no storage class is set";
            pending(claim, Some(Op::normal(claim, "FailedBinding", message)))
        }
        _ if !world.provisions => pending(claim, None),
        class => to_provision(claim, class, world.class),
    }
}

/// A claim that somebody has to make a volume for. Nobody does so in this process' name: the annotation tells the provisioner that it is its turn.
fn to_provision(claim: &PersistentVolumeClaim, name: &str, class: Option<&StorageClass>) -> Plan {
    let Some(class) = class else {
        let message = format!("storageclass.storage.k8s.io {name:?} not found");
        return pending(claim, Some(Op::warning(claim, "ProvisioningFailed", message)));
    };
    let provisioner = class.provisioner.as_str();
    if provisioner.starts_with("kubernetes.io/") {
        let message = format!("no volume plugin matched name: {provisioner}");
        return pending(claim, Some(Op::warning(claim, "ProvisioningFailed", message)));
    }
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
    );
    let mut plan = pending(claim, Some(Op::normal(claim, "ExternalProvisioning", message)));
    let claim = plan.claim.get_or_insert_with(|| claim.clone());
    annotate(claim, PROVISIONER, provisioner);
    annotate(claim, PROVISIONER_BETA, provisioner);
    plan
}

/// A claim that names a volume and is not bound yet.
fn wanting(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Plan {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    if claim_ref(volume).is_none() {
        return match refusal(volume, claim) {
            None => bind(volume, claim),
            Some(why) => {
                let message = format!("Cannot bind to requested volume {name:?}: {why}");
                pending(claim, Some(Op::warning(claim, "VolumeMismatch", message)))
            }
        };
    }
    if is_bound_to(volume, claim) {
        return bind(volume, claim);
    }
    let told = Op::warning(claim, "FailedBinding", format!("volume {name:?} already bound to a different claim."));
    pending(claim, Some(told).filter(|_| annotation(claim, BOUND_BY_CONTROLLER).is_none()))
}

fn with_phase(claim: &PersistentVolumeClaim, phase: &str) -> PersistentVolumeClaim {
    let mut updated = claim.clone();
    let status = updated.status.get_or_insert_default();
    status.phase = Some(phase.to_owned());
    (status.access_modes, status.capacity) = (None, None);
    updated
}

/// The claim stays without a volume.
fn pending(claim: &PersistentVolumeClaim, event: Option<Op>) -> Plan {
    Plan { claim: Some(with_phase(claim, "Pending")), events: event.into_iter().collect(), ..Plan::default() }
}

/// The claim has lost its volume for good.
fn lost(claim: &PersistentVolumeClaim, reason: &'static str, message: &str) -> Plan {
    let known = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost");
    let events = if known { Vec::new() } else { vec![Op::warning(claim, reason, message)] };
    Plan { claim: Some(with_phase(claim, "Lost")), events, ..Plan::default() }
}

/// Makes both point at each other.
fn bind(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Plan {
    Plan { volume: Some(bound_volume(volume, claim)), claim: Some(bound_claim(claim, volume)), ..Plan::default() }
}

fn bound_volume(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> PersistentVolume {
    let mut bound = volume.clone();
    if claim_ref(volume).is_none_or(|bound| !is_bound_to(volume, claim) || bound.uid != claim.metadata.uid) {
        bound.spec.get_or_insert_default().claim_ref = Some(reference(claim, None));
    }
    if !is_bound_to(volume, claim) {
        annotate(&mut bound, BOUND_BY_CONTROLLER, "yes");
    }
    set_phase(&mut bound, "Bound", "");
    bound
}

fn bound_claim(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> PersistentVolumeClaim {
    let mut bound = claim.clone();
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    if volume_name(claim) != name {
        bound.spec.get_or_insert_default().volume_name = Some(name.to_owned());
        annotate(&mut bound, BOUND_BY_CONTROLLER, "yes");
    }
    if annotation(claim, BIND_COMPLETED).is_none() {
        annotate(&mut bound, BIND_COMPLETED, "yes");
    }
    let was = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    let of_volume = volume.spec.clone().unwrap_or_default();
    let before = claim.status.clone().unwrap_or_default();
    // A bound claim's capacity is whoever resizes it to say.
    let capacity = if was == Some("Bound") { before.capacity.clone() } else { of_volume.capacity.clone() };
    bound.status = Some(PersistentVolumeClaimStatus {
        phase: Some("Bound".to_owned()),
        access_modes: of_volume.access_modes,
        capacity: capacity.or(of_volume.capacity),
        current_volume_attributes_class_name: before
            .current_volume_attributes_class_name
            .clone()
            .or(of_volume.volume_attributes_class_name.filter(|class| !class.is_empty())),
        ..before
    });
    bound
}

/// Sets a volume's phase and why it is in it.
pub fn set_phase(volume: &mut PersistentVolume, phase: &str, message: &str) {
    let status = volume.status.get_or_insert_default();
    status.phase = Some(phase.to_owned());
    status.message = Some(message.to_owned()).filter(|message| !message.is_empty());
    status.reason = None;
}

/// What to do about a volume whose claim is `claim`, if that is there (under the same name; its UID decides whether it is the one).
pub fn for_volume(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Plan {
    let mut desired = volume.clone();
    let Some(bound) = claim_ref(volume) else {
        set_phase(&mut desired, "Available", "");
        return Plan { volume: Some(desired), ..Plan::default() };
    };
    let Some(uid) = bound.uid.as_deref().filter(|uid| !uid.is_empty()) else {
        // The user has set it aside for a claim that may be there already.
        set_phase(&mut desired, "Available", "");
        return Plan { volume: Some(desired), look_at_claim: claim.is_some(), ..Plan::default() };
    };
    let Some(claim) = claim.filter(|claim| claim.metadata.uid.as_deref() == Some(uid)) else { return released(desired) };
    match volume_name(claim) {
        "" if modes_differ(claim, volume) => {
            let (of_volume, of_claim) = (volume.metadata.name.as_deref(), claim.metadata.name.as_deref());
            let about_volume = format!(
                "Cannot bind PersistentVolume to requested PersistentVolumeClaim {:?} due to incompatible volumeMode.",
                of_claim.unwrap_or_default()
            );
            let about_claim = format!(
                "Cannot bind PersistentVolume {:?} to requested PersistentVolumeClaim due to incompatible volumeMode.",
                of_volume.unwrap_or_default()
            );
            let events = vec![Op::warning(volume, "VolumeMismatch", about_volume), Op::warning(claim, "VolumeMismatch", about_claim)];
            Plan { events, ..Plan::default() }
        }
        "" => Plan { look_at_claim: true, ..Plan::default() },
        name if Some(name) == volume.metadata.name.as_deref() => {
            set_phase(&mut desired, "Bound", "");
            Plan { volume: Some(desired), ..Plan::default() }
        }
        // The claim has got another one in the end.
        _ if annotation(volume, PROVISIONED_BY).is_some() && reclaim_policy(volume) == "Delete" => released(desired),
        _ => Plan { volume: Some(unbound_volume(desired)), ..Plan::default() },
    }
}

/// What the controller has tied it unties; what the user has written stays.
fn unbound_volume(mut volume: PersistentVolume) -> PersistentVolume {
    let by_controller = volume.metadata.annotations.as_mut().and_then(|annotations| annotations.remove(BOUND_BY_CONTROLLER)).is_some();
    let claim_ref = &mut volume.spec.get_or_insert_default().claim_ref;
    match claim_ref {
        Some(bound) if !by_controller => bound.uid = None,
        _ => *claim_ref = None,
    }
    set_phase(&mut volume, "Available", "");
    volume
}

/// The claim is gone: the volume is released, and reclaimed as its policy says.
fn released(mut volume: PersistentVolume) -> Plan {
    if !matches!(phase(&volume), "Released" | "Failed") {
        set_phase(&mut volume, "Released", "");
    }
    let failure = match reclaim_policy(&volume) {
        "Retain" => None,
        "Recycle" => Some(("VolumeFailedRecycle", "No recycler plugin found for the volume!".to_owned())),
        "Delete" => deletion_refusal(&volume).map(|message| ("VolumeFailedDelete", message)),
        _ => Some(("VolumeUnknownReclaimPolicy", "Volume has unrecognized PersistentVolumeReclaimPolicy".to_owned())),
    };
    let mut events = Vec::new();
    if let Some((reason, message)) = failure {
        if phase(&volume) != "Failed" {
            events.push(Op::warning(&volume, reason, message.clone()));
        }
        set_phase(&mut volume, "Failed", &message);
    }
    Plan { volume: Some(volume), events, ..Plan::default() }
}

/// Why a volume with the policy Delete will not be deleted by anybody.
fn deletion_refusal(volume: &PersistentVolume) -> Option<String> {
    let spec = volume.spec.as_ref();
    match annotation(volume, PROVISIONED_BY) {
        Some(provisioner) if provisioner.starts_with("kubernetes.io/") => Some(format!("no volume plugin matched name: {provisioner}")),
        // Whoever made it deletes it.
        Some(_) => None,
        None if spec.is_some_and(|spec| spec.csi.is_some()) => None,
        None => {
            let name = volume.metadata.name.as_deref().unwrap_or_default();
            Some(format!("error getting deleter volume plugin for volume {name:?}: no deletable volume plugin matched"))
        }
    }
}
