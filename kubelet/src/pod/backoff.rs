//! Waiting longer after each failure: 10 s, 20 s, 40 s ... 5 min or what is configured, forgotten after 10 minutes without one (upstream:
//! `client-go/util/flowcontrol/backoff.go`, with the kubelet's figures). Used for restarts and for pulls; time is a parameter.

use jiff::{SignedDuration, Timestamp};
use std::collections::HashMap;

/// The first wait.
const INITIAL: SignedDuration = SignedDuration::from_secs(10);
/// The longest wait, unless something shorter is configured.
pub const MAX: SignedDuration = SignedDuration::from_secs(300);
/// How long after the last failure the next is the first again.
const FORGOTTEN: SignedDuration = SignedDuration::from_secs(600);

/// The waits by key. Keys are few: a pod's containers, or its images.
#[derive(Debug)]
pub struct Backoff {
    longest: SignedDuration,
    entries: HashMap<String, Entry>,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff::up_to(MAX)
    }
}

#[derive(Debug)]
struct Entry {
    wait: SignedDuration,
    updated: Timestamp,
}

impl Entry {
    /// Whether the failure came so long after the last one that they have nothing to do with each other.
    fn expired(&self, event: Timestamp) -> bool {
        event.duration_since(self.updated) > FORGOTTEN
    }
}

impl Backoff {
    /// One that never waits longer than that.
    pub fn up_to(longest: SignedDuration) -> Self {
        Backoff { longest, entries: HashMap::new() }
    }

    /// How long to wait now after the failure at `event`, if its wait is not over.
    pub fn remaining(&self, key: &str, event: Timestamp, now: Timestamp) -> Option<SignedDuration> {
        let entry = self.entries.get(key).filter(|e| !e.expired(event))?;
        let left = entry.wait - now.duration_since(event);
        (left > SignedDuration::ZERO).then_some(left)
    }

    /// The wait in force for a key.
    pub fn wait(&self, key: &str) -> SignedDuration {
        self.entries.get(key).map_or(SignedDuration::ZERO, |e| e.wait)
    }

    /// Notes a new try at `now` after a failure at `event`: the next failure waits twice as long.
    pub fn next(&mut self, key: &str, event: Timestamp, now: Timestamp) {
        let wait = match self.entries.get(key) {
            Some(entry) if !entry.expired(event) => (entry.wait * 2).min(self.longest),
            _ => INITIAL.min(self.longest),
        };
        self.entries.insert(key.to_owned(), Entry { wait, updated: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a small number of seconds")
    }

    #[test]
    fn no_wait_is_longer_than_is_configured() {
        for (longest, waits) in [(25, [10, 20, 25, 25]), (3, [3, 3, 3, 3])] {
            let mut backoff = Backoff::up_to(SignedDuration::from_secs(longest));
            for want in waits {
                backoff.next("c", at(0), at(0));
                assert_eq!(backoff.wait("c"), SignedDuration::from_secs(want));
            }
        }
    }

    #[test]
    fn waits_double_up_to_five_minutes_and_are_forgotten_after_ten() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.remaining("c", at(0), at(0)), None, "the first failure waits for nothing");
        let mut now = 0;
        for want in [10, 20, 40, 80, 160, 300, 300] {
            backoff.next("c", at(now), at(now));
            assert_eq!(backoff.remaining("c", at(now + 1), at(now + 1)), Some(SignedDuration::from_secs(want)));
            now += want + 1;
            assert_eq!(backoff.remaining("c", at(now - want), at(now)), None);
        }
        assert_eq!(backoff.remaining("c", at(now + 601), at(now + 601)), None, "ten minutes of running reset it");
        backoff.next("c", at(now + 1000), at(now + 1000));
        assert_eq!(backoff.wait("c"), INITIAL);
    }
}
