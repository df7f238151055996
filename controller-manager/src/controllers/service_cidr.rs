//! ServiceCIDRs stay until no address is taken from them, and say whether addresses can be (upstream: `pkg/controller/servicecidrs`).

use super::volumes::claim_protection::{Step, change, step};
use crate::controller::{Context, Controller, Keys, watch_all};
use crate::ops::{Op, PatchKind, Request};
use api::resources::networking::ranges;
use client::{Cache, ObjectKey};
use futures::future::BoxFuture;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::json;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// How long after its deletion a range still stays: every server has to hear of it before it stops giving out addresses (upstream's).
const GRACE: SignedDuration = SignedDuration::from_secs(10);

/// Keys are ServiceCIDRs.
pub struct ServiceCidrs {
    context: Context,
    cidrs: Arc<Cache<ServiceCIDR>>,
    addresses: Arc<Cache<IPAddress>>,
}

/// The address, if a Service has it.
fn address_of(object: &IPAddress) -> Option<IpAddr> {
    let managed = object.metadata.labels.as_ref()?.get("ipaddress.kubernetes.io/managed-by")?;
    object.metadata.name.as_ref()?.parse().ok().filter(|_| managed == "ipallocator.k8s.io")
}

fn holds(cidr: &ServiceCIDR, address: IpAddr) -> bool {
    ranges(cidr).any(|range| range.contains(address))
}

/// Whether an address would be left without a range: it is of this one and of none that stays.
fn is_needed<'a>(cidr: &ServiceCIDR, cidrs: &[Arc<ServiceCIDR>], addresses: impl Iterator<Item = &'a IPAddress>) -> bool {
    let others: Vec<_> =
        cidrs.iter().filter(|c| c.metadata.name != cidr.metadata.name && c.metadata.deletion_timestamp.is_none()).collect();
    addresses.filter_map(address_of).any(|address| holds(cidr, address) && !others.iter().any(|other| holds(other, address)))
}

/// The condition Ready, unless it says so already.
fn tell(cidr: &ServiceCIDR, ready: bool, now: Timestamp) -> Option<Op> {
    let status = if ready { "True" } else { "False" };
    let mut conditions = cidr.status.iter().flat_map(|status| status.conditions.iter().flatten());
    if conditions.any(|condition| condition.type_ == "Ready" && condition.status == status) {
        return None;
    }
    let (reason, message) = match ready {
        true => ("", "Kubernetes Service CIDR is ready"),
        false => ("Terminating", "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"),
    };
    let condition = json!({"type": "Ready", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()});
    let patch = json!({"status": {"conditions": [condition]}});
    let request = Request::patch::<ServiceCIDR>(&ObjectKey::of(cidr), "status", PatchKind::Strategic, patch);
    Some(Op::send(request.tolerating(&[404])))
}

/// What is to be done; `needed` says whether addresses hold it.
fn plan(cidr: &ServiceCIDR, needed: impl FnOnce() -> bool, now: Timestamp) -> Vec<Op> {
    let step = step(cidr, FINALIZER);
    let Some(deleted) = &cidr.metadata.deletion_timestamp else {
        return change(cidr, FINALIZER, step).into_iter().chain(tell(cidr, true, now)).collect();
    };
    if step != Step::Release {
        return Vec::new();
    }
    if needed() {
        return tell(cidr, false, now).into_iter().collect();
    }
    match Duration::try_from(GRACE - now.duration_since(deleted.0)) {
        Ok(left) if !left.is_zero() => vec![Op::After(left)],
        _ => change(cidr, FINALIZER, step).into_iter().collect(),
    }
}

impl ServiceCidrs {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        Self { cidrs: context.caches.of(), addresses: context.caches.of(), context }
    }
}

impl Controller for ServiceCidrs {
    fn watch(self: Arc<Self>, keys: &Keys) {
        watch_all(&self.cidrs, keys);
        // A range that comes or goes, or an address, may hold others back or let them go.
        let wake = {
            let (keys, cidrs) = (keys.clone(), Arc::downgrade(&self.cidrs));
            move || {
                let leaving = cidrs.upgrade().map(|cidrs| cidrs.list()).unwrap_or_default();
                let leaving = leaving.iter().filter(|cidr| cidr.metadata.deletion_timestamp.is_some());
                leaving.for_each(|cidr| keys.add(ObjectKey::of(cidr.as_ref())));
            }
        };
        let also = wake.clone();
        self.cidrs.subscribe(move |_| wake());
        self.addresses.subscribe(move |_| also());
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(async move {
            let Some(cidr) = self.cidrs.get(key) else { return Ok(None) };
            let needed = || is_needed(&cidr, &self.cidrs.list(), self.addresses.list().iter().map(AsRef::as_ref));
            let ops = plan(&cidr, needed, self.context.clock.now());
            Ok(self.context.executor.apply(ops).await?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn cidr(name: &str, block: &str, rest: Value) -> ServiceCIDR {
        let mut object = json!({"metadata": {"name": name}, "spec": {"cidrs": [block]}});
        object["metadata"].as_object_mut().unwrap().extend(rest["metadata"].as_object().cloned().unwrap_or_default());
        object["status"] = rest["status"].clone();
        serde_json::from_value(object).unwrap()
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:05Z".parse().unwrap()
    }

    fn sent(ops: &[Op]) -> Vec<String> {
        let shown = |op: &Op| match op {
            Op::Send(request) => {
                let condition = &request.body["status"]["conditions"][0];
                match request.method {
                    "PATCH" => format!("{} {} {}", request.path, condition["status"], condition["reason"]),
                    method => format!("{method} {} {}", request.path, request.body["metadata"]["finalizers"]),
                }
            }
            Op::After(time) => format!("after {} s", time.as_secs()),
            other => format!("{other:?}"),
        };
        ops.iter().map(shown).collect()
    }

    #[test]
    fn a_range_is_held_until_nobody_needs_it_and_all_have_heard() {
        let path = "/apis/networking.k8s.io/v1/servicecidrs/r";
        let ready = json!({"conditions": [{"type": "Ready", "status": "True", "reason": "", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
        let leaving = |at: &str| json!({"metadata": {"finalizers": [FINALIZER], "deletionTimestamp": at}, "status": ready.clone()});
        for (rest, needed, wanted) in [
            (json!({}), false, vec![format!("PUT {path} [\"{FINALIZER}\"]"), format!("{path}/status \"True\" \"\"")]),
            (json!({"metadata": {"finalizers": [FINALIZER]}, "status": ready.clone()}), true, vec![]),
            (leaving("2026-01-01T00:00:00Z"), true, vec![format!("{path}/status \"False\" \"Terminating\"")]),
            (leaving("2026-01-01T00:00:00Z"), false, vec!["after 5 s".into()]),
            (leaving("2025-12-31T23:59:55Z"), false, vec![format!("PUT {path} []")]),
            (json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), false, vec![]),
        ] {
            assert_eq!(sent(&plan(&cidr("r", "10.0.0.0/24", rest.clone()), || needed, now())), wanted, "{rest} {needed}");
        }
    }

    #[test]
    fn a_range_is_needed_by_addresses_of_services_that_are_in_no_other() {
        let address = |name: &str, by: &str| -> IPAddress {
            let labels = json!({"ipaddress.kubernetes.io/managed-by": by});
            serde_json::from_value(
                json!({"metadata": {"name": name, "labels": labels}, "spec": {"parentRef": {"resource": "services", "name": "s"}}}),
            )
            .unwrap()
        };
        let (ours, foreign) = ("ipallocator.k8s.io", "somebody");
        let this = cidr("r", "10.0.0.0/24", json!({}));
        let whole = cidr("whole", "10.0.0.0/16", json!({}));
        let leaving = cidr("leaving", "10.0.0.0/16", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
        for (other, name, by, wanted) in [
            (None, "10.0.0.9", ours, true),
            (None, "10.0.0.9", foreign, false),
            (None, "10.0.1.9", ours, false),
            (Some(&whole), "10.0.0.9", ours, false),
            (Some(&leaving), "10.0.0.9", ours, true),
        ] {
            let all: Vec<_> = [Some(&this), other].into_iter().flatten().cloned().map(Arc::new).collect();
            assert_eq!(is_needed(&this, &all, [address(name, by)].iter()), wanted, "{name} {by}");
        }
    }
}
