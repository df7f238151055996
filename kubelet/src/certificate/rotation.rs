//! New certificates before the old ones end: somewhere between seven and nine tenths of their time, so that not all nodes ask at once (upstream:
//! `nextRotationDeadline`).

use super::{
    request::{self, Naming, Purpose, Wanted},
    store::{Store, Validity},
};
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// How soon a request that failed is made again, and how late.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(128));
/// The longest sleep: a clock that jumped is noticed within a day.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// When a new certificate is due. `dice` is between 0 and 1.
pub fn due(validity: Validity, dice: f64) -> Timestamp {
    let whole = validity.not_after.duration_since(validity.not_before).as_secs_f64();
    validity.not_before + SignedDuration::from_secs((whole * (0.7 + 0.2 * dice)).round() as i64)
}

/// Takes a new certificate, as PEM with its key.
pub type Renewed = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// What is rotated.
pub struct Rotation {
    /// Where certificates are kept.
    pub store: Store,
    /// What is asked for.
    pub wanted: Wanted,
    /// Whom to ask.
    pub client: Client,
    /// Told of every new certificate.
    pub renewed: Renewed,
}

/// Runs until told to stop. Gets a certificate at once where there is none, or none that is good.
pub async fn keep(rotation: Rotation, stop: CancellationToken) {
    let mut wait = RETRY.0;
    // One throw for each certificate.
    let mut dice: f64 = rand::random();
    loop {
        let now = Timestamp::now();
        let left = rotation.store.valid(now).map(|validity| due(validity, dice).duration_since(now)).filter(|left| left.is_positive());
        let sleep = match left {
            Some(left) => Duration::try_from(left).unwrap_or(LONGEST).min(LONGEST),
            None => match renew(&rotation).await {
                Ok(()) => {
                    (wait, dice) = (RETRY.0, rand::random());
                    Duration::ZERO
                }
                Err(error) => {
                    tracing::warn!(purpose = ?rotation.wanted.purpose, error = format!("{error:#}"), "no new certificate; trying again");
                    let now = wait;
                    wait = (wait * 2).min(RETRY.1);
                    now
                }
            },
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(sleep) => {}
        }
    }
}

async fn renew(rotation: &Rotation) -> anyhow::Result<()> {
    let key = request::new_key()?;
    let certificate = request::certificate(rotation.client.clone(), &rotation.wanted, &key, Naming::Generated).await?;
    rotation.store.keep(&certificate, &key.serialize_pem(), Timestamp::now())?;
    tracing::info!(purpose = ?rotation.wanted.purpose, "a new certificate is in force");
    if let Some(pem) = rotation.store.load() {
        (rotation.renewed)(&pem);
    }
    Ok(())
}

/// What the two kinds of certificates are kept under.
pub fn prefix(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Client => "kubelet-client",
        Purpose::Serving => "kubelet-server",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_one_is_due_at_seven_to_nine_tenths() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let validity = Validity { not_before: at(1000), not_after: at(2000) };
        assert_eq!([0.0, 0.5, 1.0].map(|dice| due(validity, dice)), [at(1700), at(1800), at(1900)]);
    }
}
