//! What a controller has written last, so that it does not act on an older state of the same object.
//!
//! A cache may be behind what the controller itself has done. A status that it takes for its ledger (a Job's, a StatefulSet's) must not be read in an older
//! edition than the one it wrote: it would count, create or delete the same thing twice. Revisions grow, so comparing them is enough.
//!
//! [`Written`] is about the object that a controller reconciles, [`WrittenChildren`] about what it makes and changes for it.

use client::ObjectKey;
use kube::Resource;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// After this long a write counts as one that will never show: what was created may have been deleted while nobody watched.
const UNSEEN: Duration = Duration::from_secs(60);

/// The revisions last written, by key. Holds one entry for each object that is there and was written to.
#[derive(Debug, Default)]
pub struct Written {
    revisions: Mutex<HashMap<ObjectKey, (String, u64)>>,
}

impl Written {
    /// Notes an answer of the apiserver to a write.
    pub fn note(&self, key: &ObjectKey, answer: &Value) {
        if let Some(written) = uid_and_revision(answer) {
            self.revisions.lock().insert(key.clone(), written);
        }
    }

    /// Whether the object, as the cache has it, is at least as new as what was written. It will be soon, and then its key comes again.
    pub fn has_seen<K: Resource>(&self, object: &K) -> bool {
        let meta = object.meta();
        let revisions = self.revisions.lock();
        let Some((uid, revision)) = revisions.get(&ObjectKey::of(object)) else { return true };
        meta.uid.as_deref() != Some(uid) || revision_of(object).is_none_or(|seen| seen >= *revision)
    }

    /// The object is gone.
    pub fn forget(&self, key: &ObjectKey) {
        self.revisions.lock().remove(key);
    }
}

fn uid_and_revision(answer: &Value) -> Option<(String, u64)> {
    let text = |field: &str| answer["metadata"][field].as_str().unwrap_or_default();
    Some((text("uid").to_owned(), text("resourceVersion").parse().ok()?))
}

fn revision_of<K: Resource>(object: &K) -> Option<u64> {
    object.meta().resource_version.as_deref()?.parse().ok()
}

/// What was written last of the children of each owner, by the child's UID. What the cache has seen is forgotten, as is what never shows.
#[derive(Default)]
pub struct WrittenChildren {
    by_owner: Mutex<HashMap<ObjectKey, HashMap<String, Write>>>,
}

struct Write {
    /// The revision that the cache has to reach; none of a child that has to go.
    revision: Option<u64>,
    since: Instant,
}

impl WrittenChildren {
    /// Notes an answer of the apiserver to the creation or change of a child.
    pub fn note(&self, owner: &ObjectKey, answer: &Value) {
        if let Some((uid, revision)) = uid_and_revision(answer) {
            self.insert(owner, uid, Some(revision));
        }
    }

    /// Notes a child as the apiserver has it.
    pub fn note_object<K: Resource>(&self, owner: &ObjectKey, child: &K) {
        if let Some(revision) = revision_of(child) {
            self.insert(owner, child.meta().uid.clone().unwrap_or_default(), Some(revision));
        }
    }

    /// A child was deleted.
    pub fn note_deletion(&self, owner: &ObjectKey, uid: &str) {
        self.insert(owner, uid.to_owned(), None);
    }

    fn insert(&self, owner: &ObjectKey, uid: String, revision: Option<u64>) {
        self.by_owner.lock().entry(owner.clone()).or_default().insert(uid, Write { revision, since: Instant::now() });
    }

    /// Whether the cache, which has these children, has yet to see something: then for how long that is worth waiting for. The change that is waited for
    /// puts the owner's key into the queue.
    pub fn wait<K: Resource>(&self, owner: &ObjectKey, cached: &[Arc<K>]) -> Option<Duration> {
        let mut by_owner = self.by_owner.lock();
        let children = by_owner.get_mut(owner)?;
        children.retain(|uid, Write { revision, since }| {
            let seen = cached.iter().find(|child| child.meta().uid.as_deref() == Some(uid));
            let unseen = match revision {
                Some(revision) => seen.is_none_or(|child| revision_of(child.as_ref()).is_some_and(|seen| seen < *revision)),
                None => seen.is_some_and(|child| child.meta().deletion_timestamp.is_none()),
            };
            unseen && since.elapsed() < UNSEEN
        });
        let wait = children.values().map(|write| UNSEEN.saturating_sub(write.since.elapsed())).max();
        if wait.is_none() {
            by_owner.remove(owner);
        }
        wait
    }

    /// The cache told that a child is gone: nothing of it will be seen any more.
    pub fn deleted<K: Resource>(&self, owner: &ObjectKey, child: &K) {
        if let Some(children) = self.by_owner.lock().get_mut(owner) {
            children.remove(child.meta().uid.as_deref().unwrap_or_default());
        }
    }

    /// The owner is gone.
    pub fn forget(&self, owner: &ObjectKey) {
        self.by_owner.lock().remove(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    #[test]
    fn only_what_is_as_new_as_what_was_written_is_acted_on() {
        let of = |uid: &str, revision: &str| json!({"metadata": {"namespace": "ns", "name": "p", "uid": uid, "resourceVersion": revision}});
        let pod = |uid: &str, revision: &str| serde_json::from_value::<Pod>(of(uid, revision)).unwrap();
        let written = Written::default();
        assert!(written.has_seen(&pod("a", "1")));
        written.note(&ObjectKey::new("ns", "p"), &of("a", "10"));
        for (uid, revision, expected) in [("a", "9", false), ("a", "10", true), ("a", "11", true), ("b", "1", true)] {
            assert_eq!(written.has_seen(&pod(uid, revision)), expected, "{uid} {revision}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_cache_has_to_catch_up_with_what_was_written_for_an_owner() {
        let (written, owner) = (WrittenChildren::default(), ObjectKey::new("ns", "owner"));
        let answer = |revision: &str| json!({"metadata": {"uid": "u", "resourceVersion": revision}});
        let cached = |revision: &str| [Arc::new(serde_json::from_value::<Pod>(answer(revision)).unwrap())];
        assert_eq!(written.wait::<Pod>(&owner, &[]), None);
        written.note(&owner, &answer("10"));
        assert_eq!(written.wait::<Pod>(&owner, &[]), Some(UNSEEN));
        assert_eq!(written.wait(&owner, &cached("9")), Some(UNSEEN));
        assert_eq!(written.wait(&owner, &cached("10")), None);
        written.note_deletion(&owner, "u");
        assert_eq!(written.wait(&owner, &cached("10")), Some(UNSEEN));
        assert_eq!(written.wait::<Pod>(&owner, &[]), None);
        written.note(&owner, &answer("11"));
        written.deleted(&owner, cached("12")[0].as_ref());
        assert_eq!(written.wait::<Pod>(&owner, &[]), None, "what is gone is not waited for");
        written.note(&owner, &answer("13"));
        tokio::time::advance(UNSEEN).await;
        assert_eq!(written.wait::<Pod>(&owner, &[]), None, "a write that never shows is forgotten");
    }
}
