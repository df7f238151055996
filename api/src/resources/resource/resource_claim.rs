//! ResourceClaim: a request for devices, and what it got.

use super::validation;
use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource, Subresource};
use crate::resources::defaulting::{items_mut, number, text};
use crate::validation::IMMUTABLE;
use k8s_openapi::api::resource::v1::{DeviceToleration, ResourceClaim, ResourceClaimSpec};
use serde_json::json;

const SUBRESOURCES: &[Subresource] = &[Subresource::status("ResourceClaim")];

const COLUMNS: &[Column] = &[NAME, shown("State", "string"), AGE];

impl Kind for ResourceClaim {
    fn set_defaults(&mut self) {
        claim_spec(&mut self.spec);
    }

    fn prepare_for_create(&mut self) {
        self.status = None;
    }

    fn validate(&self, errors: &mut ErrorList) {
        validation::claims::claim_spec(errors, &Path::new("spec"), &self.spec);
    }

    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        if self.spec != old.spec {
            errors.invalid(&Path::new("spec"), json!(self.spec), IMMUTABLE);
        }
    }

    fn prepare_for_status_update(&mut self, old: &Self) {
        // What drivers said of devices goes with the devices.
        let had = old.status.as_ref().is_some_and(|status| status.allocation.is_some());
        if let Some(status) = self.status.as_mut().filter(|status| had && status.allocation.is_none()) {
            status.devices = None;
        }
    }

    fn validate_status_update(&self, old: &Self, errors: &mut ErrorList) {
        validation::claims::claim_status(errors, self, old);
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let status = self.status.clone().unwrap_or_default();
        let mut states = Vec::new();
        if self.metadata.deletion_timestamp.is_some() {
            states.push("deleted");
        }
        if status.allocation.is_none() {
            if self.metadata.deletion_timestamp.is_none() {
                states.push("pending");
            }
        } else {
            states.push("allocated");
            if status.reserved_for.is_some_and(|r| !r.is_empty()) {
                states.push("reserved");
            }
        }
        vec![printer::name(&self.metadata), json!(states.join(",")), printer::age(&self.metadata, context)]
    }
}

/// Defaults of the spec of a claim, and of a claim template's.
pub fn claim_spec(spec: &mut ResourceClaimSpec) {
    let Some(devices) = &mut spec.devices else { return };
    for request in items_mut(&mut devices.requests) {
        if let Some(exactly) = &mut request.exactly {
            text(&mut exactly.allocation_mode, "ExactCount");
            if exactly.allocation_mode.as_deref() == Some("ExactCount") {
                number(&mut exactly.count, 1);
            }
            tolerations(&mut exactly.tolerations);
        }
        for alternative in items_mut(&mut request.first_available) {
            text(&mut alternative.allocation_mode, "ExactCount");
            if alternative.allocation_mode.as_deref() == Some("ExactCount") {
                number(&mut alternative.count, 1);
            }
            tolerations(&mut alternative.tolerations);
        }
    }
}

fn tolerations(tolerations: &mut Option<Vec<DeviceToleration>>) {
    for toleration in items_mut(tolerations) {
        text(&mut toleration.operator, "Equal");
    }
}

/// The row.
pub fn row() -> Resource {
    Resource { subresources: SUBRESOURCES.into(), columns: COLUMNS.into(), ..Resource::of::<ResourceClaim>() }
}
