//! How long to wait before a pod takes the place of a failed one: 10 s, doubling with every failure since the last success, up to 10 minutes
//! (upstream: `backoff_utils.go`). It lives in memory, as upstream's does: a restart forgives.

use crate::pods;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

const FIRST: SignedDuration = SignedDuration::from_secs(10);
const LONGEST: SignedDuration = SignedDuration::from_secs(600);

/// Failures since the last success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
    last: Option<Timestamp>,
}

impl Backoff {
    /// With pods that have ended since.
    pub fn after(self, succeeded: &[&Pod], failed: &[&Pod], now: Timestamp) -> Self {
        let last_success = succeeded.iter().map(|pod| finished_at(pod, now)).max();
        let base = if last_success.is_some() { Self::default() } else { self };
        let since = failed.iter().map(|pod| finished_at(pod, now)).filter(|at| last_success.is_none_or(|success| *at > success));
        since.fold(base, |backoff, at| Self { failures: backoff.failures + 1, last: backoff.last.max(Some(at)) })
    }

    /// So many failures, the last at that time.
    pub fn of(failures: u32, last: Timestamp) -> Self {
        Self { failures, last: Some(last) }
    }

    /// How long is left, if anything.
    pub fn left(self, now: Timestamp) -> Option<SignedDuration> {
        let last = self.last.filter(|_| self.failures > 0)?;
        let wait = FIRST.saturating_mul(1 << (self.failures - 1).min(10)).min(LONGEST);
        Some(wait - now.duration_since(last)).filter(|left| left.is_positive())
    }
}

/// When a pod ended: its last container's end, else when it ceased to be ready, was deleted, or was created.
pub fn finished_at(pod: &Pod, now: Timestamp) -> Timestamp {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let ends: Option<Vec<Timestamp>> =
        statuses.map(|container| container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|time| time.0)).collect();
    if let Some(end) = ends.and_then(|ends| ends.into_iter().max()) {
        return end;
    }
    let unready =
        pods::condition(pod, "Ready").filter(|ready| ready.status == "False").and_then(|ready| ready.last_transition_time.clone());
    let deleted = pod.metadata.deletion_timestamp.as_ref().map(|time| {
        let grace = SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
        time.0.checked_sub(grace).unwrap_or(time.0)
    });
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    unready.map(|time| time.0).or(deleted).or(created).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trim::held;
    use serde_json::json;

    fn ended(at: &str) -> Pod {
        let state = json!({"terminated": {"exitCode": 1, "finishedAt": at}});
        let container = json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        held(json!({"metadata": {}, "status": {"containerStatuses": [container]}}))
    }

    #[test]
    fn doubling_until_a_success() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let (early, late) = (ended("2026-01-01T00:00:50Z"), ended("2026-01-01T00:00:58Z"));
        let left = |backoff: Backoff| backoff.left(now).map(|left| left.as_secs());
        let once = Backoff::default().after(&[], &[&late], now);
        assert_eq!(left(once), Some(8));
        assert_eq!(left(once.after(&[], &[&early, &late], now)), Some(38));
        assert_eq!(left(once.after(&[&late], &[&early], now)), None, "a success after the failure");
        assert_eq!(left(once.after(&[&early], &[&late], now)), Some(8), "a failure after the success");
        assert_eq!(left(Backoff::of(40, now)), Some(600));
        assert_eq!(left(Backoff::default().after(&[], &[&early], now)), None, "its 10 s are over");
    }
}
