//! Writes what was decided about a pod's claims: the devices they get, and that the pod uses them; and waits where devices have yet to be made ready.

use super::uid;
use crate::devices::DeviceStore;
use crate::pod_info::PodInfo;
use anyhow::{Context, bail};
use api::device_claims::{self, FINALIZER};
use client::ObjectKey;
use k8s_openapi::api::core::v1::{ContainerExtendedResourceRequest, PodExtendedResourceClaimStatus};
use k8s_openapi::api::resource::v1::{AllocationResult, ResourceClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// How often a claim that others change is tried again.
const ATTEMPTS: usize = 5;

/// Writes all of it. Devices may take so long to be made ready.
pub async fn bind(
    reserved: &[(Arc<ResourceClaim>, Option<AllocationResult>)],
    pod: &PodInfo,
    store: &dyn DeviceStore,
    timeout: Duration,
) -> anyhow::Result<()> {
    for (claim, allocation) in reserved {
        if allocation.is_none() && device_claims::is_reserved_for(&pod.pod, claim) {
            continue;
        }
        let written =
            write(claim, allocation.as_ref(), pod, store).await.with_context(|| format!("claim {}", ObjectKey::of(claim.as_ref())))?;
        store.decisions().written(written);
    }
    for (claim, _) in reserved {
        ready(&ObjectKey::of(claim.as_ref()), uid(claim), pod, store, timeout).await?;
    }
    Ok(())
}

/// The claim for a pod's extended resources, which is made with the binding.
pub struct Extended {
    /// As it is to be made.
    pub claim: Arc<ResourceClaim>,
    /// The devices it gets.
    pub allocation: AllocationResult,
    /// Which container gets what.
    pub mappings: Vec<ContainerExtendedResourceRequest>,
    /// As it was made.
    pub created: Mutex<Option<ResourceClaim>>,
}

/// Makes the claim, gives it its devices, and tells the pod of it.
pub async fn bind_extended(extended: &Extended, pod: &PodInfo, store: &dyn DeviceStore, timeout: Duration) -> anyhow::Result<()> {
    let Extended { claim, allocation, mappings, created } = extended;
    let mut new = claim.as_ref().clone();
    (new.metadata.name, new.metadata.uid) = (None, None);
    let made = store.create(&new).await.context("create claim for extended resources")?;
    *created.lock() = Some(made.clone());
    let key = ObjectKey::of(&made);
    let written = write(&made, Some(allocation), pod, store).await.with_context(|| format!("claim {key}"))?;
    store.decisions().written(written);
    store.decisions().drop_unwritten(uid(claim));
    ready(&key, uid(&made), pod, store, timeout).await?;
    let status = PodExtendedResourceClaimStatus { request_mappings: mappings.clone(), resource_claim_name: key.name };
    store.tell_pod(pod, &status).await.context("update the pod's extendedResourceClaimStatus")
}

/// The claim as it is to be written, made of how it is now.
fn with_decision(mut now: ResourceClaim, allocation: Option<&AllocationResult>, pod: &PodInfo) -> anyhow::Result<ResourceClaim> {
    let reserved = device_claims::is_reserved_for(&pod.pod, &now);
    let status = now.status.get_or_insert_default();
    match (allocation, &status.allocation) {
        (Some(_), Some(_)) => bail!("got allocated elsewhere in the meantime"),
        (Some(allocation), None) => {
            let at = Time(k8s_openapi::jiff::Timestamp::now());
            status.allocation = Some(AllocationResult { allocation_timestamp: Some(at), ..allocation.clone() });
        }
        (None, None) => bail!("got deallocated elsewhere in the meantime"),
        (None, Some(_)) => {}
    }
    if !reserved {
        status.reserved_for.get_or_insert_default().push(device_claims::consumer(&pod.pod));
    }
    Ok(now)
}

async fn write(
    claim: &ResourceClaim,
    allocation: Option<&AllocationResult>,
    pod: &PodInfo,
    store: &dyn DeviceStore,
) -> anyhow::Result<ResourceClaim> {
    let key = ObjectKey::of(claim);
    let mut now = claim.clone();
    for _ in 0..ATTEMPTS {
        match attempt(now, allocation, pod, store).await? {
            Some(written) => return Ok(written),
            None => {
                now = store
                    .fetch(&key.namespace, &key.name)
                    .await?
                    .filter(|now| uid(now) == uid(claim))
                    .context("got deleted in the meantime")?
            }
        }
    }
    bail!("it is changed too often by others")
}

/// `None` if somebody has changed it meanwhile.
async fn attempt(
    mut now: ResourceClaim,
    allocation: Option<&AllocationResult>,
    pod: &PodInfo,
    store: &dyn DeviceStore,
) -> anyhow::Result<Option<ResourceClaim>> {
    let conflict = |error: &kube::Error| matches!(error, kube::Error::Api(status) if status.code == 409);
    // Before it has devices it must not be able to vanish with them.
    if allocation.is_some() && !now.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER) {
        if now.metadata.deletion_timestamp.is_some() {
            bail!("got deleted in the meantime");
        }
        now.metadata.finalizers.get_or_insert_default().push(FINALIZER.to_owned());
        now = match store.update(&now).await {
            Ok(now) => now,
            Err(error) if conflict(&error) => return Ok(None),
            Err(error) => return Err(error).context("add finalizer"),
        };
    }
    match store.update_status(&with_decision(now, allocation, pod)?).await {
        Ok(written) => Ok(Some(written)),
        Err(error) if conflict(&error) => Ok(None),
        Err(error) => Err(error).context("add allocation and reservation"),
    }
}

/// Whether a claim's devices are ready: none of them waits for a condition that its driver has yet to set. An error if one cannot become ready.
fn readiness(claim: &ResourceClaim) -> Result<bool, String> {
    let status = claim.status.clone().unwrap_or_default();
    let results = status.allocation.and_then(|allocation| allocation.devices).and_then(|devices| devices.results).unwrap_or_default();
    let mut ready = true;
    for result in results {
        let told = status.devices.iter().flatten().find(|device| {
            device.driver == result.driver
                && device.pool == result.pool
                && device.device == result.device
                && device.share_id == result.share_id
        });
        let holds = |wanted: &String| {
            told.into_iter().flat_map(|device| device.conditions.iter().flatten()).any(|c| c.type_ == *wanted && c.status == "True")
        };
        if let Some(failed) = result.binding_failure_conditions.iter().flatten().find(|condition| holds(condition)) {
            return Err(format!("binding failure condition {failed} of device {}/{}/{} holds", result.driver, result.pool, result.device));
        }
        ready &= result.binding_conditions.iter().flatten().all(holds);
    }
    Ok(ready)
}

/// Waits until a claim's devices are ready. Where they cannot become so, it gives them back, so that others are chosen.
async fn ready(key: &ObjectKey, uid: &str, pod: &PodInfo, store: &dyn DeviceStore, timeout: Duration) -> anyhow::Result<()> {
    let mut changes = store.changes();
    let wait = async {
        loop {
            changes.borrow_and_update();
            let Some(seen) = store.seen(&key.namespace, &key.name).filter(|seen| seen.metadata.uid.as_deref() == Some(uid)) else {
                return Err(format!("claim {key} got deleted in the meantime"));
            };
            if readiness(&store.decisions().over(seen))? {
                return Ok(());
            }
            if changes.changed().await.is_err() {
                return Err("the watch of claims has ended".to_owned());
            }
        }
    };
    let outcome = tokio::time::timeout(timeout, wait).await;
    let Err(why) = outcome.unwrap_or_else(|_| Err("device binding timeout".to_owned())) else { return Ok(()) };
    give_back(key, uid, pod, store).await?;
    bail!("{why}")
}

/// Takes a claim's devices away from it, if no other pod uses it.
pub async fn give_back(key: &ObjectKey, claim: &str, pod: &PodInfo, store: &dyn DeviceStore) -> kube::Result<()> {
    let Some(mut now) = store.fetch(&key.namespace, &key.name).await?.filter(|now| uid(now) == claim) else { return Ok(()) };
    if device_claims::is_for_extended_resources(&now) {
        store.discard(now);
        return Ok(());
    }
    let Some(status) = &mut now.status else { return Ok(()) };
    if let Some(consumers) = &mut status.reserved_for {
        consumers.retain(|consumer| consumer.uid != pod.uid());
        if !consumers.is_empty() {
            return Ok(());
        }
    }
    (status.allocation, status.reserved_for, status.devices) = (None, None, None);
    store.update_status(&now).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn devices_with_conditions_are_waited_for() {
        let claim = |conditions: serde_json::Value| -> ResourceClaim {
            let id = || json!({"driver": "d", "pool": "p", "device": "x", "request": "r"});
            let mut result = id();
            crate::fixtures::merge(&mut result, json!({"bindingConditions": ["attached"], "bindingFailureConditions": ["broken"]}));
            let mut device = id();
            device["conditions"] = conditions;
            serde_json::from_value(json!({"metadata": {"name": "c"}, "spec": {}, "status":
                {"allocation": {"devices": {"results": [result]}}, "devices": [device]}}))
            .unwrap()
        };
        let condition = |name: &str, status: &str| json!([{"type": name, "status": status, "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        assert_eq!(readiness(&claim(json!([]))), Ok(false));
        assert_eq!(readiness(&claim(condition("attached", "False"))), Ok(false));
        assert_eq!(readiness(&claim(condition("attached", "True"))), Ok(true));
        assert!(readiness(&claim(condition("broken", "True"))).is_err());
        assert_eq!(readiness(&ResourceClaim::default()), Ok(true));
    }
}
