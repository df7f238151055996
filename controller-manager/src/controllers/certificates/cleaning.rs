//! Removes requests that are done with: an hour after they were answered, a day after they were made if nobody answered
//! (upstream: `cleaner/cleaner.go`, which looks every ten minutes).

use super::condition;
use crate::controller::{Context, Controller, Keys, watch_all};
use crate::ops::{DeleteOptions, Op, Request};
use client::{Cache, ObjectKey};
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use std::sync::Arc;
use std::time::Duration;

const ANSWERED: SignedDuration = SignedDuration::from_hours(1);
const PENDING: SignedDuration = SignedDuration::from_hours(24);

/// Keys are requests.
pub struct Cleaner {
    context: Context,
    requests: Arc<Cache<CertificateSigningRequest>>,
}

impl Cleaner {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        Self { requests: context.caches.of(), context }
    }
}

fn ends_at(csr: &CertificateSigningRequest) -> Timestamp {
    let made = csr.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let answered = ["Approved", "Denied", "Failed"].into_iter().filter_map(|kind| condition(csr, kind));
    let at = answered.map(|condition| condition.last_update_time.as_ref().map_or(made, |time| time.0)).min();
    at.map_or(made + PENDING, |at| at + ANSWERED)
}

fn plan(csr: &CertificateSigningRequest, now: Timestamp) -> Vec<Op> {
    let left = ends_at(csr).duration_since(now);
    if left.is_positive() {
        return vec![Op::After(Duration::try_from(left).unwrap_or_default())];
    }
    let options = DeleteOptions { uid: csr.metadata.uid.clone(), ..DeleteOptions::default() };
    vec![Op::send(Request::delete::<CertificateSigningRequest>(&ObjectKey::of(csr), &options).tolerating(&[404, 409]))]
}

impl Controller for Cleaner {
    fn workers(&self) -> usize {
        1
    }

    fn watch(self: Arc<Self>, keys: &Keys) {
        watch_all(&self.requests, keys);
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(async move {
            let Some(csr) = self.requests.get(key) else { return Ok(None) };
            Ok(self.context.executor.apply(plan(&csr, Timestamp::now())).await?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn when_a_request_goes() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        for (made, answered, goes) in [
            ("2025-12-31T12:00:01Z", None, false),
            ("2025-12-31T12:00:00Z", None, true),
            ("2026-01-01T00:00:00Z", Some(("Approved", "2026-01-01T11:00:01Z")), false),
            ("2026-01-01T00:00:00Z", Some(("Denied", "2026-01-01T11:00:00Z")), true),
        ] {
            let conditions: Vec<_> =
                answered.iter().map(|(kind, at)| json!({"type": kind, "status": "True", "lastUpdateTime": at})).collect();
            let csr = serde_json::from_value(json!({
                "metadata": {"name": "csr", "creationTimestamp": made}, "spec": {"request": "", "signerName": ""},
                "status": {"conditions": conditions}}))
            .unwrap();
            assert_eq!(matches!(plan(&csr, now)[..], [Op::Send(_)]), goes, "{made} {answered:?}");
        }
    }
}
