//! Tells of claims that ask for more than their volumes have (upstream: `pkg/controller/volume/expand`).
//!
//! No volume is enlarged here: each driver has a resizer of its own, which looks at the same claims, and kubelets bring file systems to their new sizes. What a user
//! sees in the meantime is the event that says whom the claim waits for.

use super::matching::requested;
use super::volume_name;
use crate::controller::{Context, Controller, Keys};
use crate::ops::Op;
use api::quantity::Quantity;
use client::{Cache, Change, ObjectKey};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use std::sync::Arc;
use std::time::Duration;

/// Keys are claims that have come or have been asked for more.
pub struct Expander {
    context: Context,
    claims: Arc<Cache<PersistentVolumeClaim>>,
}

/// What to tell of a claim: something, if it is bound and asks for more than it has.
fn plan(claim: &PersistentVolumeClaim) -> Option<Op> {
    let status = claim.status.as_ref().filter(|status| status.phase.as_deref() == Some("Bound") && !volume_name(claim).is_empty())?;
    let has = status.capacity.as_ref()?.get("storage").and_then(|size| Quantity::of(size).ok())?;
    let message = "waiting for an external controller to expand this PVC";
    (requested(claim) > has).then(|| Op::normal(claim, "ExternalExpanding", message))
}

impl Expander {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        Self { claims: context.caches.of(), context }
    }
}

impl Controller for Expander {
    fn watch(self: Arc<Self>, keys: &Keys) {
        let keys = keys.clone();
        self.claims.subscribe(move |change| {
            // What else changes of a claim on its way to its size is no news.
            let asks_for_more = match change {
                Change::Updated { old, new } => requested(new) > requested(old),
                _ => true,
            };
            if asks_for_more {
                keys.add(ObjectKey::of(change.object().as_ref()));
            }
        });
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(async move {
            let ops = self.claims.get(key).and_then(|claim| plan(&claim)).into_iter().collect();
            Ok(self.context.executor.apply(ops).await?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_bound_claim_that_asks_for_more_waits_for_its_driver() {
        for (phase, asked, has, told) in [
            ("Bound", "2Gi", "1Gi", true),
            ("Bound", "1Gi", "1Gi", false),
            ("Bound", "1Gi", "2Gi", false),
            ("Pending", "2Gi", "1Gi", false),
        ] {
            let claim = json!({
                "metadata": {"namespace": "ns", "name": "c"},
                "spec": {"volumeName": "v", "resources": {"requests": {"storage": asked}}},
                "status": {"phase": phase, "capacity": {"storage": has}},
            });
            let op = plan(&serde_json::from_value(claim).expect("a claim"));
            assert_eq!(matches!(op, Some(Op::Event { reason: "ExternalExpanding", warning: false, .. })), told, "{phase} {asked} {has}");
        }
    }
}
