//! What has been decided about claims and is not in the API yet.
//!
//! From the decision until it is written nobody else decides about the claim, and its devices count as taken; from then until the watch shows it, the claim
//! is as it was written.

use crate::pod_info::PodInfo;
use k8s_openapi::api::core::v1::PodExtendedResourceClaimStatus;
use k8s_openapi::api::resource::v1::ResourceClaim;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// A decision about a claim.
#[derive(Clone, Debug)]
struct Decision {
    claim: Arc<ResourceClaim>,
    written: bool,
}

/// See the module's description. Bounded by the bindings under way.
#[derive(Default)]
pub struct Decisions(Mutex<HashMap<String, Decision>>);

fn uid(claim: &ResourceClaim) -> &str {
    claim.metadata.uid.as_deref().unwrap_or_default()
}

fn version(claim: &ResourceClaim) -> u64 {
    claim.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

impl Decisions {
    /// The claim is about to get what its status says here. `false` if something else was decided already.
    pub fn begin(&self, claim: ResourceClaim) -> bool {
        let mut decisions = self.0.lock();
        if decisions.contains_key(uid(&claim)) {
            return false;
        }
        decisions.insert(uid(&claim).to_owned(), Decision { claim: Arc::new(claim), written: false });
        true
    }

    /// It does not get it after all.
    pub fn drop_unwritten(&self, claim: &str) {
        let mut decisions = self.0.lock();
        if decisions.get(claim).is_some_and(|decision| !decision.written) {
            decisions.remove(claim);
        }
    }

    /// Nothing is decided about the claim any more.
    pub fn forget(&self, claim: &str) {
        self.0.lock().remove(claim);
    }

    /// This is what the API has made of it.
    pub fn written(&self, claim: ResourceClaim) {
        self.0.lock().insert(uid(&claim).to_owned(), Decision { claim: Arc::new(claim), written: true });
    }

    /// Whether something is decided and not written yet.
    pub fn is_pending(&self, claim: &str) -> bool {
        self.0.lock().get(claim).is_some_and(|decision| !decision.written)
    }

    /// The watch shows a claim like this; gone if it says so.
    pub fn seen(&self, claim: &ResourceClaim, gone: bool) {
        let mut decisions = self.0.lock();
        let done = decisions.get(uid(claim)).is_some_and(|d| gone || (d.written && version(claim) >= version(&d.claim)));
        if done {
            decisions.remove(uid(claim));
        }
    }

    /// The claim as it was written, if the watch does not show it yet.
    pub fn over(&self, seen: Arc<ResourceClaim>) -> Arc<ResourceClaim> {
        match self.0.lock().get(uid(&seen)) {
            Some(decision) if decision.written && version(&decision.claim) > version(&seen) => decision.claim.clone(),
            _ => seen,
        }
    }

    /// All claims that something was decided about.
    pub fn all(&self) -> Vec<Arc<ResourceClaim>> {
        self.0.lock().values().map(|decision| decision.claim.clone()).collect()
    }
}

/// The claims of the API, as the scheduler may change them.
pub trait DeviceStore: Send + Sync {
    /// What has been decided and is not seen yet.
    fn decisions(&self) -> &Decisions;
    /// A claim as the API has it this moment; `None` if it is gone.
    fn fetch<'a>(&'a self, namespace: &'a str, name: &'a str) -> futures::future::BoxFuture<'a, kube::Result<Option<ResourceClaim>>>;
    /// Makes a claim.
    fn create<'a>(&'a self, claim: &'a ResourceClaim) -> futures::future::BoxFuture<'a, kube::Result<ResourceClaim>>;
    /// Deletes a claim that was made and is of no use, at some time.
    fn discard(&self, claim: ResourceClaim);
    /// Tells a pod of the claim that was made for it.
    fn tell_pod<'a>(
        &'a self,
        pod: &'a PodInfo,
        status: &'a PodExtendedResourceClaimStatus,
    ) -> futures::future::BoxFuture<'a, kube::Result<()>>;
    /// Writes a claim.
    fn update<'a>(&'a self, claim: &'a ResourceClaim) -> futures::future::BoxFuture<'a, kube::Result<ResourceClaim>>;
    /// Writes a claim's status.
    fn update_status<'a>(&'a self, claim: &'a ResourceClaim) -> futures::future::BoxFuture<'a, kube::Result<ResourceClaim>>;
    /// A claim as the watch shows it.
    fn seen(&self, namespace: &str, name: &str) -> Option<Arc<ResourceClaim>>;
    /// Notified when a claim changes.
    fn changes(&self) -> tokio::sync::watch::Receiver<u64>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_decision_holds_until_it_is_seen() {
        let claim = |version: &str, allocated: bool| -> ResourceClaim {
            let status = allocated.then(|| json!({"allocation": {}}));
            serde_json::from_value(json!({"metadata": {"name": "c", "uid": "u", "resourceVersion": version}, "spec": {}, "status": status}))
                .unwrap()
        };
        let decisions = Decisions::default();
        assert!(decisions.begin(claim("1", true)) && !decisions.begin(claim("1", true)));
        assert!(decisions.is_pending("u") && decisions.all().len() == 1);
        decisions.seen(&claim("2", false), false);
        assert!(decisions.is_pending("u"), "another change says nothing of it");
        decisions.drop_unwritten("u");
        assert!(decisions.all().is_empty());

        decisions.begin(claim("2", true));
        decisions.written(claim("4", true));
        decisions.drop_unwritten("u");
        assert!(!decisions.is_pending("u") && decisions.all().len() == 1, "it holds although it may not be seen yet");
        let shown = |seen: ResourceClaim| decisions.over(Arc::new(seen)).metadata.resource_version.clone();
        assert_eq!((shown(claim("3", false)), shown(claim("5", false))), (Some("4".into()), Some("5".into())));
        decisions.seen(&claim("3", false), false);
        assert_eq!(decisions.all().len(), 1);
        decisions.seen(&claim("5", false), false);
        assert!(decisions.all().is_empty());
    }
}
