//! Which volume suits a claim (upstream: `component-helpers/storage/volume/pv_helpers.go` and the binder's index by access modes).

use super::{class_of_claim, class_of_volume, is_bound_to, phase};
use api::quantity::Quantity;
use api::selector::LabelSelector;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use std::sync::Arc;

/// How much a claim asks for.
pub fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    let size = || Quantity::of(claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")?).ok();
    size().unwrap_or(Quantity::ZERO)
}

/// How much a volume holds.
fn capacity(volume: &PersistentVolume) -> Quantity {
    let size = || Quantity::of(volume.spec.as_ref()?.capacity.as_ref()?.get("storage")?).ok();
    size().unwrap_or(Quantity::ZERO)
}

/// Whether one is a file system and the other a raw device.
pub fn modes_differ(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let mode = |mode: Option<&String>| mode.map_or("Filesystem", String::as_str).to_owned();
    let of_claim = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_ref());
    let of_volume = volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_ref());
    mode(of_claim) != mode(of_volume)
}

fn access_modes(volume: &PersistentVolume) -> &[String] {
    volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default()
}

/// Whether the volume can be accessed in every way that the claim asks for.
fn access_suits(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let asked = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    asked.iter().all(|mode| access_modes(volume).contains(mode))
}

fn attributes_differ(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let of_claim = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref()).unwrap_or_default();
    let of_volume = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref()).unwrap_or_default();
    of_claim != of_volume
}

/// The volume that the claim should be bound to: the one that names it, else the smallest that is large enough, of those with the fewest access modes.
/// With `delayed`, only the one that names it: the scheduler chooses among the others.
pub fn best_match(volumes: &[Arc<PersistentVolume>], claim: &PersistentVolumeClaim, delayed: bool) -> Option<Arc<PersistentVolume>> {
    let (size, class) = (requested(claim), class_of_claim(claim));
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selector = selector.map(|selector| LabelSelector::of(Some(selector)).unwrap_or_else(|_| LabelSelector::nothing()));
    let suits = |volume: &&Arc<PersistentVolume>| {
        let free_or_ours = super::claim_ref(volume).is_none() || is_bound_to(volume, claim);
        free_or_ours
            && capacity(volume) >= size
            && access_suits(claim, volume)
            && !modes_differ(claim, volume)
            && !attributes_differ(claim, volume)
            && volume.metadata.deletion_timestamp.is_none()
    };
    let suitable: Vec<_> = volumes.iter().filter(suits).collect();
    if let Some(own) = suitable.iter().find(|volume| is_bound_to(volume, claim)) {
        return Some((*own).clone());
    }
    if delayed {
        return None;
    }
    let available = |volume: &&&Arc<PersistentVolume>| {
        phase(volume) == "Available"
            && class_of_volume(volume) == class
            && selector.as_ref().is_none_or(|selector| selector.matches(volume.metadata.labels.as_ref()))
    };
    let found = suitable.iter().filter(available).min_by_key(|volume| (access_modes(volume).len(), capacity(volume)));
    found.map(|volume| (*volume).clone())
}

/// Why the claim cannot have the volume that it names, in upstream's words.
pub fn refusal(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<String> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    if volume.metadata.deletion_timestamp.is_some() {
        return Some(format!("the volume is marked for deletion {name:?}"));
    }
    let reasons = [
        (capacity(volume) < requested(claim), "requested PV is too small"),
        (class_of_claim(claim) != class_of_volume(volume), "storageClassName does not match"),
        (attributes_differ(claim, volume), "volumeAttributesClassName does not match"),
        (modes_differ(claim, volume), "incompatible volumeMode"),
        (!access_suits(claim, volume), "incompatible accessMode"),
    ];
    reasons.iter().find(|(applies, _)| *applies).map(|(_, text)| (*text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn merged(mut base: Value, more: &Value) -> Value {
        json_patch::merge(&mut base, more);
        base
    }

    fn volume(name: &str, size: &str, more: Value) -> Arc<PersistentVolume> {
        let spec = json!({"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "c"});
        let base = json!({"metadata": {"name": name}, "spec": spec, "status": {"phase": "Available"}});
        Arc::new(serde_json::from_value(merged(base, &more)).unwrap())
    }

    fn claim(size: &str, more: Value) -> PersistentVolumeClaim {
        let spec = json!({"resources": {"requests": {"storage": size}}, "accessModes": ["ReadWriteOnce"], "storageClassName": "c"});
        serde_json::from_value(merged(json!({"metadata": {"namespace": "ns", "name": "p", "uid": "u"}, "spec": spec}), &more)).unwrap()
    }

    #[test]
    fn the_smallest_that_suits_is_taken() {
        let many_modes = json!({"spec": {"accessModes": ["ReadWriteOnce", "ReadWriteMany"]}});
        let ours = |uid: &str| json!({"spec": {"claimRef": {"namespace": "ns", "name": "p", "uid": uid}}});
        let volumes = [
            volume("tiny", "1Gi", json!({})),
            volume("large", "10Gi", json!({})),
            volume("right", "5Gi", json!({"metadata": {"labels": {"a": "b"}}})),
            volume("shared", "5Gi", many_modes),
            volume("raw", "5Gi", json!({"spec": {"volumeMode": "Block"}})),
            volume("other-class", "5Gi", json!({"spec": {"storageClassName": "d"}})),
            volume("released", "4Gi", json!({"status": {"phase": "Released"}})),
            volume("another's", "4Gi", ours("other")),
            volume("leaving", "4Gi", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
        ];
        let cases = [
            (claim("4Gi", json!({})), false, Some("right")),
            (claim("6Gi", json!({})), false, Some("large")),
            (claim("11Gi", json!({})), false, None),
            (claim("1Gi", json!({})), false, Some("tiny")),
            (claim("1Gi", json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}})), false, Some("right")),
            (claim("1Gi", json!({"spec": {"accessModes": ["ReadWriteMany"]}})), false, Some("shared")),
            (claim("1Gi", json!({"spec": {"accessModes": ["ReadWriteOncePod"]}})), false, None),
            (claim("1Gi", json!({"spec": {"volumeMode": "Block"}})), false, Some("raw")),
            (claim("1Gi", json!({"spec": {"storageClassName": "d"}})), false, Some("other-class")),
            (claim("1Gi", json!({"spec": {"storageClassName": ""}})), false, None),
            (claim("4Gi", json!({})), true, None),
        ];
        for (claim, delayed, expected) in cases {
            let found = best_match(&volumes, &claim, delayed);
            assert_eq!(found.as_ref().and_then(|v| v.metadata.name.as_deref()), expected, "{:?}", claim.spec);
        }
        let mut with_own = volumes.to_vec();
        with_own.push(volume("own", "9Gi", merged(ours("u"), &json!({"spec": {"storageClassName": "x"}}))));
        for delayed in [true, false] {
            let found = best_match(&with_own, &claim("4Gi", json!({})), delayed);
            assert_eq!(found.as_ref().and_then(|v| v.metadata.name.as_deref()), Some("own"), "one that names the claim comes first");
        }
    }

    #[test]
    fn why_a_claim_cannot_have_what_it_names() {
        let cases = [
            (volume("v", "1Gi", json!({})), None),
            (volume("v", "1Mi", json!({})), Some("requested PV is too small")),
            (volume("v", "1Gi", json!({"spec": {"storageClassName": "d"}})), Some("storageClassName does not match")),
            (volume("v", "1Gi", json!({"spec": {"volumeMode": "Block"}})), Some("incompatible volumeMode")),
            (volume("v", "1Gi", json!({"spec": {"accessModes": ["ReadOnlyMany"]}})), Some("incompatible accessMode")),
            (
                volume("v", "1Gi", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
                Some("the volume is marked for deletion \"v\""),
            ),
        ];
        for (volume, expected) in cases {
            assert_eq!(refusal(&volume, &claim("1Gi", json!({}))).as_deref(), expected);
        }
    }
}
