//! Expectations (upstream: `pkg/controller/controller_utils.go`): a reconciler that has just created or deleted objects must not count
//! again before its cache has seen that, or it creates and deletes too many.
//!
//! Deletions are expected by UID, because one object's deletion shows up more than once (the timestamp, then the removal).
//! Expectations that do not come true within five minutes are dropped: a lost watch event must not stop an object for good.

use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;
use tokio::time::Instant;

/// After this long without fulfilment the reconciler acts on what it sees.
pub const TIMEOUT: Duration = Duration::from_secs(5 * 60);

struct Expected {
    creations: i64,
    deletions: HashSet<String>,
    since: Instant,
}

/// What the reconciler of keys `K` still has to see. Holds at most an entry per object that was acted on; [`Expectations::forget`]
/// removes an object's.
pub struct Expectations<K> {
    expected: Mutex<HashMap<K, Expected>>,
}

impl<K: Clone + Eq + Hash> Default for Expectations<K> {
    fn default() -> Self {
        Self { expected: Mutex::new(HashMap::new()) }
    }
}

impl<K: Clone + Eq + Hash> Expectations<K> {
    /// Whether everything that was done has been seen, so that the cache can be trusted for this key.
    pub fn satisfied(&self, key: &K) -> bool {
        self.wait(key).is_none()
    }

    /// How much longer the cache is not trusted for this key unless what is expected shows. Nothing, if it is trusted. What a watch never told of
    /// shows in nothing, so the reconciler has to look again then by itself.
    pub fn wait(&self, key: &K) -> Option<Duration> {
        let expected = self.expected.lock();
        let open = expected.get(key).filter(|e| e.creations > 0 || !e.deletions.is_empty())?;
        TIMEOUT.checked_sub(open.since.elapsed()).filter(|left| !left.is_zero())
    }

    /// The UIDs of what was deleted and still shows. Nothing, once that is not waited for any more.
    pub fn deleting(&self, key: &K) -> HashSet<String> {
        let expected = self.expected.lock();
        expected.get(key).filter(|open| open.since.elapsed() < TIMEOUT).map(|open| open.deletions.clone()).unwrap_or_default()
    }

    /// So many objects are about to be created, and those with these UIDs to be deleted. Replaces what was expected before.
    pub fn expect(&self, key: &K, creations: usize, deletions: impl IntoIterator<Item = String>) {
        let creations = i64::try_from(creations).unwrap_or(i64::MAX);
        let entry = Expected { creations, deletions: deletions.into_iter().collect(), since: Instant::now() };
        self.expected.lock().insert(key.clone(), entry);
    }

    /// An object was created, or its creation failed.
    pub fn creation_observed(&self, key: &K) {
        if let Some(expected) = self.expected.lock().get_mut(key) {
            expected.creations -= 1;
        }
    }

    /// The object with this UID was deleted, or its deletion failed.
    pub fn deletion_observed(&self, key: &K, uid: &str) {
        if let Some(expected) = self.expected.lock().get_mut(key) {
            expected.deletions.remove(uid);
        }
    }

    /// The owner is gone.
    pub fn forget(&self, key: &K) {
        self.expected.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn unfulfilled_expectations_hold_for_five_minutes() {
        let expectations = Expectations::default();
        assert!(expectations.satisfied(&"rs"));
        expectations.expect(&"rs", 2, []);
        expectations.creation_observed(&"rs");
        assert_eq!(expectations.wait(&"rs"), Some(TIMEOUT));
        tokio::time::advance(TIMEOUT).await;
        assert!(expectations.satisfied(&"rs"));
    }

    #[test]
    fn a_deletion_that_is_seen_twice_counts_once() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers needs nothing");
        runtime.block_on(async {
            let expectations = Expectations::default();
            expectations.expect(&"rs", 1, ["u1".to_owned(), "u2".to_owned()]);
            expectations.deletion_observed(&"rs", "u1");
            expectations.deletion_observed(&"rs", "u1");
            expectations.creation_observed(&"rs");
            assert!(!expectations.satisfied(&"rs"));
            assert_eq!(expectations.deleting(&"rs"), HashSet::from(["u2".to_owned()]));
            expectations.deletion_observed(&"rs", "u2");
            assert!(expectations.satisfied(&"rs"));
        });
    }
}
