//! One leader among several replicas, by a Lease (upstream: `client-go/tools/leaderelection`, with its default times).
//!
//! A candidate looks every two seconds. It takes the Lease if nobody holds it or if it has seen the same holder's record unchanged for
//! the lease duration by its own clock, so that clocks of different machines need not agree. The leader renews every two seconds, and stops
//! if it could not for ten. What to write is decided by a pure function, [`next_record`]; the update's resourceVersion settles races.

use anyhow::Context;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a record is respected (`--leader-elect-lease-duration`).
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// How long the leader tries to renew before it stops (`--leader-elect-renew-deadline`).
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// The time between looks (`--leader-elect-retry-period`).
pub const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// How long everything takes.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// See [`LEASE_DURATION`].
    pub lease: Duration,
    /// See [`RENEW_DEADLINE`].
    pub renew: Duration,
    /// See [`RETRY_PERIOD`].
    pub retry: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self { lease: LEASE_DURATION, renew: RENEW_DEADLINE, retry: RETRY_PERIOD }
    }
}

/// Who wants to lead what.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The Lease's namespace, `kube-system`.
    pub namespace: String,
    /// The Lease's name, that of the component.
    pub name: String,
    /// This replica, unique: host name, underscore, UUID.
    pub identity: String,
    /// How long everything takes.
    pub times: Times,
}

impl Candidate {
    /// This process as a replica of a component.
    pub fn new(component: &str) -> anyhow::Result<Self> {
        let identity = format!("{}_{}", host_name()?, uuid::Uuid::new_v4());
        Ok(Self { namespace: "kube-system".to_owned(), name: component.to_owned(), identity, times: Times::default() })
    }
}

/// The name of this machine, as the kernel has it.
pub fn host_name() -> anyhow::Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").context("reading the host name")?;
    Ok(name.trim().to_owned())
}

/// What this replica knows of the record, by its own clock.
struct Observed {
    spec: LeaseSpec,
    at: Instant,
}

/// The record that `identity` may write over `current` at this moment, if it may. `unchanged_for` is how long `current` has looked the same.
pub fn next_record(
    current: Option<&LeaseSpec>,
    identity: &str,
    lease: Duration,
    now: Timestamp,
    unchanged_for: Duration,
) -> Option<LeaseSpec> {
    let holder = current.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
    let ours = holder == identity;
    let lasts =
        current.and_then(|spec| spec.lease_duration_seconds).map_or(Duration::ZERO, |s| Duration::from_secs(u64::try_from(s).unwrap_or(0)));
    if !ours && !holder.is_empty() && unchanged_for < lasts {
        return None;
    }
    let transitions = current.and_then(|spec| spec.lease_transitions).unwrap_or(0);
    Some(LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(lease.as_secs()).ok(),
        acquire_time: if ours { current.and_then(|spec| spec.acquire_time.clone()) } else { Some(MicroTime(now)) },
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(if ours || current.is_none() { transitions } else { transitions + 1 }),
        ..LeaseSpec::default()
    })
}

/// Waits until this replica leads. The token that it returns is cancelled when it no longer does, or when `stop` is; the caller then has to
/// end the process, for nothing else makes sure that no half-done work goes on. On `stop` the Lease is released.
pub async fn lead(client: Client, candidate: Candidate, stop: CancellationToken) -> Option<CancellationToken> {
    let api: Api<Lease> = Api::namespaced(client, &candidate.namespace);
    let mut observed = None;
    loop {
        match attempt(&api, &candidate, &mut observed).await {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, lease = candidate.name, "could not take the lease"),
        }
        stop.run_until_cancelled(tokio::time::sleep(candidate.times.retry)).await?;
    }
    tracing::info!(lease = candidate.name, identity = candidate.identity, "leading");
    let leading = stop.child_token();
    let lost = leading.clone();
    tokio::spawn(async move {
        let mut renewed = Instant::now();
        while stop.run_until_cancelled(tokio::time::sleep(candidate.times.retry)).await.is_some() {
            let left = candidate.times.renew.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, attempt(&api, &candidate, &mut observed)).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => break,
                Ok(Err(_)) if renewed.elapsed() < candidate.times.renew => {}
                Ok(Err(_)) | Err(_) => break,
            }
        }
        if stop.is_cancelled() {
            release(&api, &candidate).await;
        } else {
            tracing::error!(lease = candidate.name, "no longer leading");
        }
        lost.cancel();
    });
    Some(leading)
}

/// One look, and the write if one is due. Whether this replica leads now.
async fn attempt(api: &Api<Lease>, candidate: &Candidate, observed: &mut Option<Observed>) -> kube::Result<bool> {
    let current = api.get_opt(&candidate.name).await?;
    let spec = current.as_ref().and_then(|lease| lease.spec.clone()).unwrap_or_default();
    if observed.as_ref().is_none_or(|observed| observed.spec != spec) {
        *observed = Some(Observed { spec: spec.clone(), at: Instant::now() });
    }
    let unchanged_for = observed.as_ref().map_or(Duration::ZERO, |observed| observed.at.elapsed());
    let Some(next) =
        next_record(current.as_ref().map(|_| &spec), &candidate.identity, candidate.times.lease, Timestamp::now(), unchanged_for)
    else {
        return Ok(false);
    };
    let written = match current {
        Some(mut lease) => {
            lease.spec = Some(next.clone());
            api.replace(&candidate.name, &PostParams::default(), &lease).await
        }
        None => {
            let metadata =
                ObjectMeta { name: Some(candidate.name.clone()), namespace: Some(candidate.namespace.clone()), ..ObjectMeta::default() };
            api.create(&PostParams::default(), &Lease { metadata, spec: Some(next.clone()) }).await
        }
    };
    match written {
        Ok(_) => {
            *observed = Some(Observed { spec: next, at: Instant::now() });
            Ok(true)
        }
        // Somebody else was faster.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

/// Lets the next candidate in at once. Best effort: without it the Lease runs out.
async fn release(api: &Api<Lease>, candidate: &Candidate) {
    let released = async {
        let Some(mut lease) = api.get_opt(&candidate.name).await? else { return Ok(()) };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(candidate.identity.as_str()) {
            return Ok(());
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        spec.acquire_time = spec.renew_time.clone();
        api.replace(&candidate.name, &PostParams::default(), &lease).await.map(|_| ())
    };
    match tokio::time::timeout(RETRY_PERIOD, released).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "could not release the lease"),
        Err(_) => tracing::debug!("releasing the lease took too long"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(holder: &str, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(transitions),
            acquire_time: Some(MicroTime(Timestamp::from_second(1).unwrap())),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn who_may_write_what() {
        let now = Timestamp::from_second(100).unwrap();
        let cases = [
            ("nobody ever led", None, 0, Some((0, 100))),
            ("another leads", Some(record("other", 3)), 14, None),
            ("another has stopped renewing", Some(record("other", 3)), 15, Some((4, 100))),
            ("released", Some(record("", 3)), 0, Some((4, 100))),
            ("renewing", Some(record("me", 3)), 0, Some((3, 1))),
        ];
        for (case, current, unchanged, expected) in cases {
            let next = next_record(current.as_ref(), "me", LEASE_DURATION, now, Duration::from_secs(unchanged));
            let seen = next.map(|spec| (spec.lease_transitions.unwrap(), spec.acquire_time.unwrap().0.as_second()));
            assert_eq!(seen, expected, "{case}");
        }
    }
}
