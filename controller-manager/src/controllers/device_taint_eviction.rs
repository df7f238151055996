//! Pods leave devices that have a taint with the effect NoExecute, at once or after as long as their claims tolerate it (upstream:
//! `pkg/controller/devicetainteviction`).
//!
//! What a claim tolerates is in its allocation. Left out: rules that taint devices from outside (DeviceTaintRule), whose API is off by default.

use super::taint_eviction::evict;
use crate::controller::{Context, Controller, Keys};
use crate::ops::Op;
use crate::pods;
use client::{Cache, ObjectKey};
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{DeviceRequestAllocationResult, DeviceTaint, ResourceClaim, ResourceSlice};
use std::sync::Arc;
use std::time::Duration;

/// The index of claims by the UIDs of the pods that they are reserved for.
const BY_CONSUMER: &str = "consumer";
/// The index of claims, and of slices, by the pools that their devices are in.
const BY_POOL: &str = "pool";

/// Keys are pods.
pub struct DeviceTaintEvictionController {
    context: Context,
    pods: Arc<Cache<Pod>>,
    claims: Arc<Cache<ResourceClaim>>,
    slices: Arc<Cache<ResourceSlice>>,
}

fn results(claim: &ResourceClaim) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    let allocation = claim.status.iter().filter_map(|status| status.allocation.as_ref()?.devices.as_ref());
    allocation.flat_map(|devices| devices.results.iter().flatten())
}

fn pool(driver: &str, pool: &str) -> String {
    format!("{driver}/{pool}")
}

/// The taints of a device that evict, by the newest of its pool's slices.
fn evicting<'a>(slices: &'a [Arc<ResourceSlice>], device: &str) -> Vec<&'a DeviceTaint> {
    let newest = slices.iter().map(|slice| slice.spec.pool.generation).max();
    let current = slices.iter().filter(|slice| Some(slice.spec.pool.generation) == newest);
    let devices = current.flat_map(|slice| slice.spec.devices.iter().flatten()).filter(|other| other.name == device);
    devices.flat_map(|device| device.taints.iter().flatten()).filter(|taint| taint.effect == "NoExecute").collect()
}

/// When those who use a device have to go; `None` if they may stay for ever.
fn leaves_at(result: &DeviceRequestAllocationResult, taints: &[&DeviceTaint], now: Timestamp) -> Option<Timestamp> {
    let mut earliest: Option<Timestamp> = None;
    for taint in taints {
        let since = taint.time_added.as_ref().map_or(now, |time| time.0);
        let mut tolerating =
            result.tolerations.iter().flatten().filter(|toleration| api::device_claims::tolerates(toleration, taint)).peekable();
        let at = if tolerating.peek().is_none() {
            since
        } else {
            let Some(seconds) = tolerating.filter_map(|toleration| toleration.toleration_seconds).min() else { continue };
            since + SignedDuration::from_secs(seconds.clamp(0, i64::from(i32::MAX)))
        };
        earliest = Some(earliest.map_or(at, |earlier| earlier.min(at)));
    }
    earliest
}

fn plan(pod: &Pod, leaves: Option<Timestamp>, now: Timestamp) -> Vec<Op> {
    match leaves.filter(|_| pods::is_active(pod)) {
        None => Vec::new(),
        Some(at) if at > now => vec![Op::After(Duration::try_from(at.duration_since(now)).unwrap_or_default() + Duration::from_millis(1))],
        Some(_) => evict(
            pod,
            ("DeviceTaintManagerEviction", "Marking for deletion".to_owned()),
            ("DeletionByDeviceTaintManager", "Device Taint manager: deleting due to NoExecute taint"),
            now,
        ),
    }
}

impl DeviceTaintEvictionController {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        let (claims, slices): (Arc<Cache<ResourceClaim>>, Arc<Cache<ResourceSlice>>) = (context.caches.of(), context.caches.of());
        claims.add_index(BY_CONSUMER, |claim| {
            claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten()).map(|consumer| consumer.uid.clone()).collect()
        });
        claims.add_index(BY_POOL, |claim| results(claim).map(|result| pool(&result.driver, &result.pool)).collect());
        slices.add_index(BY_POOL, |slice| vec![pool(&slice.spec.driver, &slice.spec.pool.name)]);
        Self { pods: context.caches.of(), claims, slices, context }
    }
}

/// The pods that use a claim.
fn consumers(keys: &Keys, claim: &ResourceClaim) {
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    for consumer in claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten()) {
        keys.add(ObjectKey::new(namespace, &consumer.name));
    }
}

impl Controller for DeviceTaintEvictionController {
    fn watch(self: Arc<Self>, keys: &Keys) {
        let (queue, claims) = (keys.clone(), self.claims.clone());
        self.slices.subscribe(move |change| {
            let spec = &change.object().spec;
            let tainted = spec.devices.iter().flatten().any(|device| device.taints.as_ref().is_some_and(|taints| !taints.is_empty()));
            if tainted {
                let users = claims.by_index(BY_POOL, &pool(&spec.driver, &spec.pool.name));
                users.iter().for_each(|claim| consumers(&queue, claim));
            }
        });
        let queue = keys.clone();
        self.claims.subscribe(move |change| consumers(&queue, change.object()));
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(async move {
            let Some(pod) = self.pods.get(key) else { return Ok(None) };
            let now = self.context.clock.now();
            let claims = self.claims.by_index(BY_CONSUMER, pod.metadata.uid.as_deref().unwrap_or_default());
            let leaves = claims.iter().flat_map(|claim| results(claim)).filter_map(|result| {
                let slices = self.slices.by_index(BY_POOL, &pool(&result.driver, &result.pool));
                leaves_at(result, &evicting(&slices, &result.device), now)
            });
            Ok(self.context.executor.apply(plan(&pod, leaves.min(), now)).await?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn who_leaves_when() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let slice = |generation: i64, taints: Value| -> Arc<ResourceSlice> {
            let spec = json!({"driver": "d", "pool": {"name": "p", "generation": generation, "resourceSliceCount": 1}, "devices": [{"name": "x", "taints": taints}]});
            Arc::new(serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": spec})).unwrap())
        };
        let taint = |effect: &str| json!([{"key": "k", "effect": effect, "timeAdded": at(100)}]);
        let tolerating = |seconds: Value| json!([{"operator": "Exists", "tolerationSeconds": seconds}]);
        for (what, slices, tolerations, expected) in [
            ("none", vec![slice(1, json!([]))], json!([]), None),
            ("tainted", vec![slice(1, taint("NoExecute"))], json!([]), Some(100)),
            ("only for others", vec![slice(1, taint("NoSchedule"))], json!([]), None),
            ("tolerated", vec![slice(1, taint("NoExecute"))], tolerating(json!(null)), None),
            ("for a while", vec![slice(1, taint("NoExecute"))], tolerating(json!(30)), Some(130)),
            ("no more", vec![slice(1, taint("NoExecute")), slice(2, json!([]))], json!([]), None),
        ] {
            let result = json!({"request": "r", "driver": "d", "pool": "p", "device": "x", "tolerations": tolerations});
            let leaves = leaves_at(&serde_json::from_value(result).unwrap(), &evicting(&slices, "x"), at(1000));
            assert_eq!(leaves.map(Timestamp::as_second), expected, "{what}");
        }
    }
}
