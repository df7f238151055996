//! Lease: who holds something, and since when: leader election and node heartbeats.

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource};
use crate::validation::numbers::not_negative;
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::json;

const COLUMNS: &[Column] = &[NAME, shown("Holder", "string"), AGE];

impl Kind for Lease {
    fn validate(&self, errors: &mut ErrorList) {
        let Some(spec) = &self.spec else { return };
        let path = Path::new("spec");
        if let Some(seconds) = spec.lease_duration_seconds.filter(|s| *s <= 0) {
            errors.invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0");
        }
        if let Some(transitions) = spec.lease_transitions {
            not_negative(errors, &path.child("leaseTransitions"), transitions);
        }
        let given = |text: &Option<String>| text.as_deref().is_some_and(|t| !t.is_empty());
        if given(&spec.preferred_holder) && !given(&spec.strategy) {
            errors.forbidden(&path.child("preferredHolder"), "may only be specified when `strategy` is defined");
        }
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let holder = self.spec.as_ref().and_then(|s| s.holder_identity.as_deref()).unwrap_or("");
        vec![printer::name(&self.metadata), json!(holder), printer::age(&self.metadata, context)]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource { columns: COLUMNS.into(), ..Resource::of::<Lease>() }
}
