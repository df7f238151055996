//! What an update of a claim may change: the volume once, and the size and class of attributes when it is bound.

use crate::diff;
use crate::field::{ErrorList, Path};
use crate::internal_text;
use crate::quantity::Quantity;
use crate::resources::core::resource_name::parse;
use crate::validation::IMMUTABLE;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec};
use serde_json::json;

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

pub(super) fn validate(errors: &mut ErrorList, new: &PersistentVolumeClaim, old: &PersistentVolumeClaim) {
    let (none, path) = (PersistentVolumeClaimSpec::default(), Path::new("spec"));
    let (spec, before) = (new.spec.as_ref().unwrap_or(&none), old.spec.as_ref().unwrap_or(&none));
    let (mut rest, mut base) = (spec.clone(), before.clone());
    if before.volume_name.as_deref().is_none_or(str::is_empty) {
        base.volume_name = rest.volume_name.clone();
    }
    class(errors, new, old, &mut rest);
    let bound = new.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Bound"));
    if let Some(requests) = rest.resources.as_mut().and_then(|r| r.requests.as_mut()).filter(|_| bound) {
        let size = before.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|r| r.get("storage"));
        requests.insert("storage".into(), size.cloned().unwrap_or_default());
    }
    if bound && rest.volume_attributes_class_name.is_some() {
        rest.volume_attributes_class_name = base.volume_attributes_class_name.clone();
    }
    if rest != base {
        let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        let difference = diff::of_texts(&shown(&base), &shown(&rest));
        errors.forbidden(&path, &format!("{why}\n{difference}"));
    }
    let size = |spec: &PersistentVolumeClaimSpec| {
        let requests = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
        requests.and_then(|r| r.get("storage")).map_or(Quantity::ZERO, parse)
    };
    let capacity = old.status.as_ref().and_then(|s| s.capacity.as_ref()).and_then(|c| c.get("storage")).map_or(Quantity::ZERO, parse);
    // A claim that failed to grow may ask for less again, but never for less than it has.
    if size(spec) < size(before) && size(spec) <= capacity {
        let at = path.child("resources").child("requests").child("storage");
        errors.forbidden(&at, "field can not be less than status.capacity");
    }
    if spec.volume_mode != before.volume_mode {
        errors.invalid(&Path::new("volumeMode"), json!(spec.volume_mode), IMMUTABLE);
    }
    if before.volume_attributes_class_name.is_some() {
        let at = path.child("volumeAttributesClassName");
        match spec.volume_attributes_class_name.as_deref() {
            None => errors.forbidden(&at, "update from non-nil value to nil is forbidden"),
            Some("") if before.volume_attributes_class_name.as_deref() != Some("") => {
                errors.forbidden(&at, "update from non-nil value to an empty string is forbidden");
            }
            Some(_) => {}
        }
    }
}

/// The class may move from the annotation of old to the field, and be set where there was none.
fn class(errors: &mut ErrorList, new: &PersistentVolumeClaim, old: &PersistentVolumeClaim, rest: &mut PersistentVolumeClaimSpec) {
    let annotation = |c: &PersistentVolumeClaim| c.metadata.annotations.as_ref().and_then(|a| a.get(CLASS_ANNOTATION)).cloned();
    let field = |c: &PersistentVolumeClaim| c.spec.as_ref().and_then(|s| s.storage_class_name.clone());
    let (before, after) = (annotation(old), annotation(new));
    if before.is_some() && field(old).is_none() && field(new) == before && (after.is_none() || after == before) {
        rest.storage_class_name = None;
        return;
    }
    if before != after {
        let at = Path::new("metadata").child("annotations").child(CLASS_ANNOTATION);
        errors.invalid(&at, after.unwrap_or_default(), IMMUTABLE);
    }
    if field(old).is_none() && field(new).is_some() && (before.is_none() || before == field(new)) {
        rest.storage_class_name = None;
    }
}

/// A claim's spec as upstream shows it in a difference.
fn shown(spec: &PersistentVolumeClaimSpec) -> String {
    internal_text::indented("io.k8s.api.core.v1.PersistentVolumeClaimSpec", spec)
}
