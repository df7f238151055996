//! What a controller has written last, so that it does not act on an older state of the same object.
//!
//! A cache may be behind what the controller itself has done. A status that it takes for its ledger (a Job's, a StatefulSet's) must not be read in an older
//! edition than the one it wrote: it would count, create or delete the same thing twice. Revisions grow, so comparing them is enough.

use client::ObjectKey;
use kube::Resource;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::HashMap;

/// The revisions last written, by key. Holds one entry for each object that is there and was written to.
#[derive(Debug, Default)]
pub struct Written {
    revisions: Mutex<HashMap<ObjectKey, (String, u64)>>,
}

impl Written {
    /// Notes an answer of the apiserver to a write.
    pub fn note(&self, key: &ObjectKey, answer: &Value) {
        let text = |field: &str| answer["metadata"][field].as_str().unwrap_or_default().to_owned();
        if let Ok(revision) = text("resourceVersion").parse() {
            self.revisions.lock().insert(key.clone(), (text("uid"), revision));
        }
    }

    /// Whether the object, as the cache has it, is at least as new as what was written. It will be soon, and then its key comes again.
    pub fn has_seen<K: Resource>(&self, object: &K) -> bool {
        let meta = object.meta();
        let revisions = self.revisions.lock();
        let Some((uid, revision)) = revisions.get(&ObjectKey::of(object)) else { return true };
        let seen: Option<u64> = meta.resource_version.as_deref().and_then(|seen| seen.parse().ok());
        meta.uid.as_deref() != Some(uid) || seen.is_none_or(|seen| seen >= *revision)
    }

    /// The object is gone.
    pub fn forget(&self, key: &ObjectKey) {
        self.revisions.lock().remove(key);
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
}
