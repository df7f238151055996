//! Encryption at rest: a store in front of another, which seals what is put and opens what is read, for the resources that a configuration names
//! (`--encryption-provider-config`; upstream: `apiserver/pkg/storage/value`). The stores below see sealed values only.
//!
//! What was sealed in another way than new values are, or not at all, is sealed anew when the server starts ([`Encrypted::renew`]): a key that is no longer the
//! first can be removed once that is done. (Upstream waits until somebody writes the objects again.)

mod ciphers;
mod configuration;

pub use configuration::{Rule, parse};

use super::{Batch, Expect, KeyValue, LeaseId, Listing, Range, Revision, Store, StoreError, StoreResult, Watch};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;

/// How many values are read at once to be sealed anew.
const PAGE: usize = 500;

/// The store.
pub struct Encrypted {
    inner: Arc<dyn Store>,
    rules: Arc<[Rule]>,
}

/// The rule for a key: the first that names its resource.
fn rule<'a>(rules: &'a [Rule], key: &str) -> Option<&'a Rule> {
    rules.iter().find(|rule| rule.prefixes.iter().any(|prefix| key.starts_with(prefix.as_str())))
}

fn open(rules: &[Rule], mut stored: KeyValue) -> StoreResult<KeyValue> {
    let Some(rule) = rule(rules, &stored.key) else { return Ok(stored) };
    let failed = |why: &str| StoreError::Unavailable(format!("unable to transform key {:?}: {why}", stored.key));
    let maker =
        rule.transformers.iter().find(|transformer| transformer.made(&stored.value)).ok_or_else(|| failed("no matching prefix found"))?;
    stored.value = maker.open(&stored.key, &stored.value).ok_or_else(|| failed("the value does not open with its key"))?;
    Ok(stored)
}

fn open_batch(rules: &[Rule], mut batch: Batch) -> StoreResult<Batch> {
    for event in &mut batch.events {
        event.current = event.current.take().map(|stored| open(rules, stored)).transpose()?;
    }
    Ok(batch)
}

impl Encrypted {
    /// In front of `inner`.
    pub fn new(inner: Arc<dyn Store>, rules: Vec<Rule>) -> Self {
        Encrypted { inner, rules: rules.into() }
    }

    fn seal(&self, key: &str, value: Bytes) -> Bytes {
        match rule(&self.rules, key).and_then(|rule| rule.transformers.first()) {
            Some(transformer) => transformer.seal(key, value),
            None => value,
        }
    }

    /// What stands in the way of a write, opened.
    fn opened<T>(&self, answer: StoreResult<T>) -> StoreResult<T> {
        match answer {
            Err(StoreError::Conflict(Some(stored))) => Err(StoreError::Conflict(Some(open(&self.rules, stored)?))),
            answer => answer,
        }
    }

    /// Seals anew what is not sealed as it would be now; answers how many values that were.
    pub async fn renew(&self) -> StoreResult<usize> {
        let mut renewed = 0;
        for prefix in self.rules.iter().flat_map(|rule| &rule.prefixes) {
            let mut after = None;
            loop {
                let range = Range { prefix: prefix.clone(), after: after.take(), limit: PAGE, at: None };
                let listing = self.inner.list(range).await?;
                after = listing.items.last().map(|stored| stored.key.clone());
                for stored in listing.items {
                    let first = rule(&self.rules, &stored.key).and_then(|rule| rule.transformers.first());
                    if first.is_none_or(|first| first.made(&stored.value)) {
                        continue;
                    }
                    let (expect, lease) = (Expect::At(stored.mod_revision), stored.lease);
                    let opened = open(&self.rules, stored)?;
                    match self.put(opened.key, opened.value, expect, lease).await {
                        Ok(_) => renewed += 1,
                        // Somebody wrote it meanwhile, and so sealed it anew; or its lease has ended.
                        Err(StoreError::Conflict(_) | StoreError::NoLease) => {}
                        Err(error) => return Err(error),
                    }
                }
                if listing.remaining == 0 {
                    break;
                }
            }
        }
        Ok(renewed)
    }
}

impl Store for Encrypted {
    fn revision(&self) -> BoxFuture<'_, StoreResult<Revision>> {
        self.inner.revision()
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, StoreResult<(Option<KeyValue>, Revision)>> {
        Box::pin(async move {
            let (found, revision) = self.inner.get(key).await?;
            Ok((found.map(|stored| open(&self.rules, stored)).transpose()?, revision))
        })
    }

    fn list(&self, range: Range) -> BoxFuture<'_, StoreResult<Listing>> {
        Box::pin(async move {
            let listing = self.inner.list(range).await?;
            let items = listing.items.into_iter().map(|stored| open(&self.rules, stored)).collect::<StoreResult<_>>()?;
            Ok(Listing { items, ..listing })
        })
    }

    fn put(&self, key: String, value: Bytes, expect: Expect, lease: LeaseId) -> BoxFuture<'_, StoreResult<Revision>> {
        Box::pin(async move {
            let sealed = self.seal(&key, value);
            let answer = self.inner.put(key, sealed, expect, lease).await;
            self.opened(answer)
        })
    }

    fn delete(&self, key: String, expect: Expect) -> BoxFuture<'_, StoreResult<Revision>> {
        Box::pin(async move {
            let answer = self.inner.delete(key, expect).await;
            self.opened(answer)
        })
    }

    fn watch(&self, prefix: String, from: Revision) -> BoxFuture<'_, StoreResult<Watch>> {
        Box::pin(async move {
            let watch = self.inner.watch(prefix, from).await?;
            let rules = self.rules.clone();
            Ok(watch.map(move |batch| batch.and_then(|batch| open_batch(&rules, batch))).boxed())
        })
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, StoreResult<()>> {
        self.inner.compact(revision)
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, StoreResult<LeaseId>> {
        self.inner.grant(ttl)
    }

    fn health(&self) -> BoxFuture<'_, StoreResult<()>> {
        self.inner.health()
    }

    fn close(&self) -> BoxFuture<'_, StoreResult<()>> {
        self.inner.close()
    }
}

#[cfg(test)]
mod tests {
    use super::ciphers::{Cipher, Transformer};
    use super::*;
    use crate::store::{embedded::Options, memory};

    fn rules(ciphers: &[&(&str, Cipher)]) -> Vec<Rule> {
        let transformers = ciphers.iter().map(|(name, cipher)| Transformer::new(name, cipher.clone())).collect();
        vec![Rule { prefixes: vec!["/registry/".into()], transformers }]
    }

    fn gcm(byte: u8) -> Cipher {
        Cipher::AesGcm(vec![byte; 32])
    }

    async fn opened() -> Option<(Arc<dyn Store>, ())> {
        let inner = memory::open(Options::default()).unwrap();
        Some((Arc::new(Encrypted::new(inner, rules(&[&("k", gcm(1))]))), ()))
    }

    crate::store::suite::suite!(opened);

    #[tokio::test]
    async fn keys_are_turned_over() {
        let inner = memory::open(Options::default()).unwrap();
        let under = |ciphers: &[&(&str, Cipher)]| Encrypted::new(inner.clone(), rules(ciphers));
        let value = Bytes::from_static(b"{\"a\":1}");
        let (plain, old, new) = (("", Cipher::Identity), ("old", gcm(1)), ("new", Cipher::AesCbc(vec![2; 32])));
        for (name, store) in [("a", under(&[&plain])), ("b", under(&[&old])), ("c", under(&[&new, &old]))] {
            store.put(format!("/registry/secrets/{name}"), value.clone(), Expect::Absent, 0).await.unwrap();
        }
        let all = under(&[&new, &old, &plain]);
        let range = || Range { prefix: "/registry/".into(), after: None, limit: 0, at: None };
        assert!(all.list(range()).await.unwrap().items.iter().all(|stored| stored.value == value));
        assert!(matches!(under(&[&old]).list(range()).await, Err(StoreError::Unavailable(why)) if why.contains("no matching prefix")));
        assert_eq!((all.renew().await.unwrap(), all.renew().await.unwrap()), (2, 0));
        let stored = inner.list(range()).await.unwrap().items;
        assert!(stored.iter().all(|stored| stored.value.starts_with(b"k8s:enc:aescbc:v1:new:")));
        let only = under(&[&new]);
        assert_eq!(only.list(range()).await.unwrap().items.len(), 3);
        let conflict = only.put("/registry/secrets/a".into(), value.clone(), Expect::Absent, 0).await;
        assert!(matches!(conflict, Err(StoreError::Conflict(Some(stored))) if stored.value == value));
    }
}
