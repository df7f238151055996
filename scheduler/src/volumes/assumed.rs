//! A cache with assumptions on top: objects as they are about to become, until the API has something newer than what was assumed from.

use client::cache::Cacheable;
use client::{Cache, ObjectKey};
use kube::Resource;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

struct Assumed<K> {
    /// The version that it was assumed from.
    from: Option<String>,
    object: Arc<K>,
}

/// See the module's description. Bounded by the bindings under way: whoever assumes, restores if it comes to nothing.
pub struct AssumeCache<K> {
    seen: Arc<Cache<K>>,
    assumed: Mutex<HashMap<ObjectKey, Assumed<K>>>,
}

impl<K: Cacheable + Resource<DynamicType = ()>> AssumeCache<K> {
    /// On top of a cache.
    pub fn new(seen: Arc<Cache<K>>) -> Self {
        Self { seen, assumed: Mutex::default() }
    }

    /// As the API says.
    pub fn seen(&self) -> &Arc<Cache<K>> {
        &self.seen
    }

    /// As it is assumed to be.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        let seen = self.seen.get(key);
        self.over(key, seen)
    }

    /// The objects that an index of the cache has under a value, as they are assumed to be.
    pub fn by_index(&self, index: &'static str, value: &str) -> Vec<Arc<K>> {
        let seen = self.seen.by_index(index, value);
        if self.assumed.lock().is_empty() {
            return seen;
        }
        seen.into_iter().filter_map(|object| self.over(&ObjectKey::of(object.as_ref()), Some(object))).collect()
    }

    /// Assumes that an object, made from the one that the API has, will be so.
    pub fn assume(&self, object: K) {
        let (key, from) = (ObjectKey::of(&object), object.meta().resource_version.clone());
        self.assumed.lock().insert(key, Assumed { from, object: Arc::new(object) });
    }

    /// Assumes nothing of an object any more.
    pub fn restore(&self, key: &ObjectKey) {
        self.assumed.lock().remove(key);
    }

    fn over(&self, key: &ObjectKey, seen: Option<Arc<K>>) -> Option<Arc<K>> {
        let mut assumed = self.assumed.lock();
        let Some(assumption) = assumed.get(key) else { return seen };
        if seen.as_ref().is_some_and(|seen| seen.meta().resource_version == assumption.from) {
            return Some(assumption.object.clone());
        }
        assumed.remove(key);
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PersistentVolume;
    use serde_json::json;

    fn volume(version: &str, class: &str) -> PersistentVolume {
        serde_json::from_value(json!({"metadata": {"name": "v", "resourceVersion": version}, "spec": {"storageClassName": class}})).unwrap()
    }

    #[test]
    fn an_assumption_holds_until_the_api_has_something_newer() {
        let cache = Arc::new(Cache::<PersistentVolume>::default());
        let assumed = AssumeCache::new(cache.clone());
        let class = || assumed.get(&ObjectKey::new("", "v")).and_then(|v| v.spec.as_ref()?.storage_class_name.clone());
        cache.apply(volume("1", "seen"));
        assumed.assume(volume("1", "assumed"));
        assert_eq!(class().as_deref(), Some("assumed"));
        cache.apply(volume("2", "newer"));
        assert_eq!(class().as_deref(), Some("newer"));
        assumed.assume(volume("2", "assumed"));
        assumed.restore(&ObjectKey::new("", "v"));
        assert_eq!(class().as_deref(), Some("newer"));
        assumed.assume(volume("2", "assumed"));
        cache.delete(&ObjectKey::new("", "v"), None);
        assert_eq!(class(), None, "gone is gone");
    }
}
