//! What identity and policy read and write of the cluster's own objects: roles, bindings, secrets, service accounts, namespaces, nodes,
//! pods, quotas. The registry implements [`Objects`] over its watch caches; tests use [`Fixed`].
//!
//! It is narrow on purpose: policy never sees keys, revisions or the store, and writes through the registry's own path, so that
//! what bootstrap makes passes the same defaults and validation as what a client makes.

use api::status::Result;
use bytes::Bytes;
use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Which objects: a stored kind, by its group (empty for core) and plural.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Collection {
    /// API group.
    pub group: &'static str,
    /// Plural name.
    pub plural: &'static str,
}

impl Collection {
    /// A core/v1 kind.
    pub const fn core(plural: &'static str) -> Self {
        Collection { group: "", plural }
    }

    /// A kind of a named group.
    pub const fn of(group: &'static str, plural: &'static str) -> Self {
        Collection { group, plural }
    }
}

/// A change that a [`Feed`] tells of.
#[derive(Clone, Debug)]
pub enum Change {
    /// Everything said before is void; the present objects follow as `Put`s. A feed that was not read for so long that the cache no longer
    /// has the changes says this, and every feed says it first.
    Reset,
    /// The object is now this.
    Put {
        /// Its namespace, or empty.
        namespace: String,
        /// Its name.
        name: String,
        /// JSON, as it would be served.
        object: Bytes,
    },
    /// The object is gone.
    Gone {
        /// Its namespace, or empty.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// The changes of one collection, pulled by whoever keeps an index of it. Pulling (rather than being called) means that an index is brought up to date
/// when it is asked something, by what is then in the cache: a role that was acknowledged counts from the very next request on,
/// and nothing runs while nobody asks.
pub trait Feed: Send {
    /// Hands over what changed since the last call, in order, without waiting.
    fn drain(&mut self, apply: &mut dyn FnMut(Change));
}

/// The cluster's objects, from the caches.
pub trait Objects: Send + Sync + 'static {
    /// The object as the cache has it (JSON, with resourceVersion). Every acknowledged write of this server is in it.
    fn get(&self, collection: Collection, namespace: &str, name: &str) -> Option<Bytes>;

    /// All objects of a namespace, in order of names; of all namespaces, or of a cluster-scoped kind, with `""`.
    fn list(&self, collection: Collection, namespace: &str) -> Vec<Bytes>;

    /// See [`Feed`].
    fn feed(&self, collection: Collection) -> Box<dyn Feed>;

    /// The object as the store has it now: for the rare reads that must see what another server has just written.
    fn read<'a>(&'a self, collection: Collection, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Result<Option<Bytes>>>;

    /// Creates `object` as the server itself (no authorization, no admission), in the collection's stored version.
    fn create<'a>(&'a self, collection: Collection, namespace: &'a str, object: Value) -> BoxFuture<'a, Result<Bytes>>;

    /// Replaces the object, or its `subresource` unless that is empty. A `metadata.resourceVersion` in it must match, else 409.
    fn update<'a>(
        &'a self,
        collection: Collection,
        namespace: &'a str,
        subresource: &'a str,
        object: Value,
    ) -> BoxFuture<'a, Result<Bytes>>;

    /// Deletes the object if it has this uid (or any, when empty).
    fn delete<'a>(&'a self, collection: Collection, namespace: &'a str, name: &'a str, uid: &'a str) -> BoxFuture<'a, Result<()>>;
}

/// The object, decoded. An object in the cache that does not decode is a fault of the server and logged as such; it then counts as absent.
pub fn decoded<T: DeserializeOwned>(objects: &dyn Objects, collection: Collection, namespace: &str, name: &str) -> Option<T> {
    decode(&objects.get(collection, namespace, name)?)
}

/// All objects of a namespace, decoded.
pub fn decoded_list<T: DeserializeOwned>(objects: &dyn Objects, collection: Collection, namespace: &str) -> Vec<T> {
    objects.list(collection, namespace).iter().filter_map(decode).collect()
}

/// One object's bytes, decoded.
pub fn decode<T: DeserializeOwned>(bytes: &Bytes) -> Option<T> {
    match serde_json::from_slice(bytes) {
        Ok(object) => Some(object),
        Err(error) => {
            tracing::error!(%error, "an object in the cache does not decode");
            None
        }
    }
}

#[cfg(test)]
pub use fixed::Fixed;

/// The stand-in for tests.
#[cfg(test)]
mod fixed {
    use super::*;
    use api::StatusError;
    use parking_lot::Mutex;
    use std::{collections::BTreeMap, sync::Arc};

    type Key = (Collection, String, String);

    #[derive(Default)]
    struct State {
        objects: BTreeMap<Key, Value>,
        log: Vec<(Key, Option<Value>)>,
        version: u64,
    }

    /// Objects in memory, with resource versions and conflicts; no defaults and no validation.
    #[derive(Clone, Default)]
    pub struct Fixed(Arc<Mutex<State>>);

    fn bytes(value: &Value) -> Bytes {
        Bytes::from(serde_json::to_vec(value).unwrap())
    }

    fn text(value: &Value, field: &str) -> String {
        value["metadata"][field].as_str().unwrap_or_default().to_owned()
    }

    impl Fixed {
        /// Puts the object, whatever was there.
        pub fn put(&self, collection: Collection, mut object: Value) {
            let mut state = self.0.lock();
            state.version += 1;
            object["metadata"]["resourceVersion"] = state.version.to_string().into();
            let key = (collection, text(&object, "namespace"), text(&object, "name"));
            state.log.push((key.clone(), Some(object.clone())));
            state.objects.insert(key, object);
        }

        /// Removes the object.
        pub fn remove(&self, collection: Collection, namespace: &str, name: &str) {
            let mut state = self.0.lock();
            let key = (collection, namespace.to_owned(), name.to_owned());
            state.objects.remove(&key);
            state.log.push((key, None));
        }
    }

    struct Log {
        from: Fixed,
        collection: Collection,
        at: Option<usize>,
    }

    impl Feed for Log {
        fn drain(&mut self, apply: &mut dyn FnMut(Change)) {
            let state = self.from.0.lock();
            if self.at.is_none() {
                apply(Change::Reset);
            }
            for ((collection, namespace, name), object) in &state.log[self.at.unwrap_or(0)..] {
                if *collection != self.collection {
                    continue;
                }
                let (namespace, name) = (namespace.clone(), name.clone());
                apply(match object {
                    Some(object) => Change::Put { namespace, name, object: bytes(object) },
                    None => Change::Gone { namespace, name },
                });
            }
            self.at = Some(state.log.len());
        }
    }

    impl Objects for Fixed {
        fn get(&self, collection: Collection, namespace: &str, name: &str) -> Option<Bytes> {
            self.0.lock().objects.get(&(collection, namespace.to_owned(), name.to_owned())).map(bytes)
        }

        fn list(&self, collection: Collection, namespace: &str) -> Vec<Bytes> {
            let state = self.0.lock();
            let wanted = state.objects.iter().filter(|((c, ns, _), _)| *c == collection && (namespace.is_empty() || ns == namespace));
            wanted.map(|(_, object)| bytes(object)).collect()
        }

        fn feed(&self, collection: Collection) -> Box<dyn Feed> {
            Box::new(Log { from: self.clone(), collection, at: None })
        }

        fn read<'a>(&'a self, collection: Collection, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Result<Option<Bytes>>> {
            Box::pin(async move { Ok(self.get(collection, namespace, name)) })
        }

        fn create<'a>(&'a self, collection: Collection, namespace: &'a str, mut object: Value) -> BoxFuture<'a, Result<Bytes>> {
            Box::pin(async move {
                if !namespace.is_empty() {
                    object["metadata"]["namespace"] = namespace.into();
                }
                let name = text(&object, "name");
                if self.get(collection, namespace, &name).is_some() {
                    return Err(StatusError::already_exists(collection.group, collection.plural, &name));
                }
                object["metadata"]["uid"] = format!("uid-{name}").into();
                self.put(collection, object);
                Ok(self.get(collection, namespace, &name).expect("just put"))
            })
        }

        fn update<'a>(&'a self, collection: Collection, namespace: &'a str, _sub: &'a str, object: Value) -> BoxFuture<'a, Result<Bytes>> {
            Box::pin(async move {
                let name = text(&object, "name");
                let Some(old) = self.get(collection, namespace, &name) else {
                    return Err(StatusError::not_found(collection.group, collection.plural, &name));
                };
                let old: Value = serde_json::from_slice(&old).unwrap();
                let wanted = text(&object, "resourceVersion");
                if !wanted.is_empty() && wanted != text(&old, "resourceVersion") {
                    return Err(StatusError::conflict(collection.group, collection.plural, &name, "the object has been modified"));
                }
                self.put(collection, object);
                Ok(self.get(collection, namespace, &name).expect("just put"))
            })
        }

        fn delete<'a>(&'a self, collection: Collection, namespace: &'a str, name: &'a str, _uid: &'a str) -> BoxFuture<'a, Result<()>> {
            Box::pin(async move {
                self.remove(collection, namespace, name);
                Ok(())
            })
        }
    }
}
