//! Binds claims to volumes and says what becomes of volumes whose claims are gone (upstream: `pkg/controller/volume/persistentvolume`).
//!
//! One worker looks at both kinds of keys (a volume's has no namespace), so that no two claims are given the same volume; what it has written counts at once,
//! even before the watch has told of it. Upstream looks at everything every 15 seconds; here a volume that has become free wakes the claims of its class.
//! Deliberately absent: volume plugins. Volumes are made and removed by provisioners, which are controllers or pods of their own; `Recycle` and volumes
//! that nobody provisioned are refused as upstream refuses those that no plugin takes.

pub mod plan;
#[cfg(test)]
mod tests;

use super::*;
use crate::controller::{Context, Controller, Keys, watch_all};
use crate::ops::{Request, Whole};
use client::cache::Cacheable;
use client::{Cache, Change, ObjectKey};
use futures::future::BoxFuture;
use k8s_openapi::api::storage::v1::StorageClass;
use parking_lot::Mutex;
use plan::{Plan, World, for_claim, for_volume};
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// The index of claims without a volume by their class.
const UNBOUND: &str = "unbound";
/// The index of claims by the volume that they name.
const BY_VOLUME: &str = "volume";

/// Keys are claims, and volumes (without a namespace).
pub struct Binder {
    context: Context,
    volumes: Latest<PersistentVolume>,
    claims: Latest<PersistentVolumeClaim>,
    classes: Arc<Cache<StorageClass>>,
    pods: Arc<Cache<Pod>>,
    running: std::sync::OnceLock<Keys>,
}

/// A cache, and what has been written and is not in it yet.
struct Latest<K> {
    cache: Arc<Cache<K>>,
    written: Mutex<HashMap<ObjectKey, Arc<K>>>,
}

fn revision<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|revision| revision.parse().ok()).unwrap_or(u64::MAX)
}

impl<K: Cacheable> Latest<K> {
    fn new(cache: Arc<Cache<K>>) -> Self {
        Self { cache, written: Mutex::default() }
    }

    /// Which of both counts; what the cache has caught up with is dropped. An object that the cache no longer has is gone.
    fn newest(written: &mut HashMap<ObjectKey, Arc<K>>, cached: Arc<K>) -> Arc<K> {
        let key = ObjectKey::of(cached.as_ref());
        match written.get(&key) {
            Some(own) if own.meta().uid == cached.meta().uid && revision(own.as_ref()) > revision(cached.as_ref()) => own.clone(),
            Some(_) => {
                written.remove(&key);
                cached
            }
            None => cached,
        }
    }

    fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        let Some(cached) = self.cache.get(key) else {
            self.written.lock().remove(key);
            return None;
        };
        Some(Self::newest(&mut self.written.lock(), cached))
    }

    fn list(&self) -> Vec<Arc<K>> {
        let mut written = self.written.lock();
        self.cache.list().into_iter().map(|cached| Self::newest(&mut written, cached)).collect()
    }

    fn note(&self, object: K) {
        self.written.lock().insert(ObjectKey::of(&object), Arc::new(object));
    }
}

impl Binder {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        let caches = &context.caches;
        let claims: Arc<Cache<PersistentVolumeClaim>> = caches.of();
        claims.add_index(UNBOUND, |claim| if volume_name(claim).is_empty() { vec![class_of_claim(claim).to_owned()] } else { Vec::new() });
        claims.add_index(BY_VOLUME, |claim| Some(volume_name(claim).to_owned()).filter(|name| !name.is_empty()).into_iter().collect());
        let pods: Arc<Cache<Pod>> = caches.of();
        pods.add_index(BY_CLAIM, claims_of);
        Self {
            volumes: Latest::new(caches.of()),
            claims: Latest::new(claims),
            classes: caches.of(),
            pods,
            running: std::sync::OnceLock::new(),
            context,
        }
    }

    async fn sync(&self, key: &ObjectKey) -> anyhow::Result<Option<Duration>> {
        let plan = if key.namespace.is_empty() { self.plan_for_volume(key).await? } else { self.plan_for_claim(key) };
        let Some((plan, claim)) = plan else { return Ok(None) };
        let Plan { volume, claim: desired, events, look_at_claim } = plan;
        if let Some(volume) = volume {
            let key = ObjectKey::of(&volume);
            let current = self.volumes.get(&key);
            self.store(
                &self.volumes,
                current,
                volume,
                |volume| (volume.metadata.clone(), volume.spec.clone()),
                |v| v.status.clone(),
                |v, s| v.status = s,
            )
            .await?;
        }
        if let Some(claim) = desired {
            let current = self.claims.get(&ObjectKey::of(&claim));
            self.store(
                &self.claims,
                current,
                claim,
                |claim| (claim.metadata.clone(), claim.spec.clone()),
                |c| c.status.clone(),
                |c, s| c.status = s,
            )
            .await?;
        }
        self.context.executor.apply(events).await?;
        if let (true, Some(keys), Some(claim)) = (look_at_claim, self.running.get(), claim) {
            keys.add(claim);
        }
        Ok(None)
    }

    fn plan_for_claim(&self, key: &ObjectKey) -> Option<(Plan, Option<ObjectKey>)> {
        let claim = self.claims.get(key)?;
        let class = self.classes.get(&ObjectKey::new("", class_of_claim(&claim)));
        let consumers = self.pods.by_index(BY_CLAIM, &key.to_string());
        let waiting: Vec<String> = consumers
            .iter()
            .filter(|pod| crate::pods::node_name(pod).is_none() && crate::pods::is_active(pod))
            .filter_map(|pod| pod.metadata.name.clone())
            .collect();
        let volumes = self.volumes.list();
        let provisions = !self.context.settings.provisions_nothing;
        Some((for_claim(&claim, &World { volumes: &volumes, class: class.as_deref(), waiting_pods: &waiting, provisions }), None))
    }

    async fn plan_for_volume(&self, key: &ObjectKey) -> anyhow::Result<Option<(Plan, Option<ObjectKey>)>> {
        let Some(volume) = self.volumes.get(key) else { return Ok(None) };
        let bound = claim_ref(&volume);
        let claim_key =
            bound.map(|bound| ObjectKey::new(bound.namespace.as_deref().unwrap_or_default(), bound.name.as_deref().unwrap_or_default()));
        let mut claim = claim_key.as_ref().and_then(|key| self.claims.get(key)).map(|claim| (*claim).clone());
        let missing = |claim: &Option<PersistentVolumeClaim>| match (bound.and_then(|bound| bound.uid.as_ref()), claim) {
            (Some(uid), claim) => claim.as_ref().is_none_or(|claim| claim.metadata.uid.as_ref() != Some(uid)),
            (None, _) => false,
        };
        if missing(&claim)
            && !matches!(phase(&volume), "Released" | "Failed")
            && let Some(key) = &claim_key
        {
            // Data may be deleted over this: only the apiserver can say that the claim is gone.
            let api: kube::Api<PersistentVolumeClaim> = kube::Api::namespaced(self.context.executor.client().clone(), &key.namespace);
            claim = api.get_opt(&key.name).await?;
        }
        Ok(Some((for_volume(&volume, claim.as_ref()), claim_key)))
    }

    /// Writes what differs: first the object, then its status.
    async fn store<K, B: PartialEq, S: PartialEq>(
        &self,
        latest: &Latest<K>,
        current: Option<Arc<K>>,
        desired: K,
        body: fn(&K) -> B,
        status: fn(&K) -> Option<S>,
        set_status: fn(&mut K, Option<S>),
    ) -> anyhow::Result<()>
    where
        K: Cacheable + Whole + DeserializeOwned,
    {
        let Some(mut current) = current.map(|current| (*current).clone()) else { return Ok(()) };
        if body(&current) != body(&desired) {
            current = serde_json::from_value(self.context.executor.send(Request::replace(&desired)).await?)?;
            latest.note(current.clone());
        }
        if status(&current) != status(&desired) {
            set_status(&mut current, status(&desired));
            let written: K = serde_json::from_value(self.context.executor.send(Request::replace_status(&current)).await?)?;
            latest.note(written);
        }
        Ok(())
    }
}

impl Controller for Binder {
    fn workers(&self) -> usize {
        1
    }

    fn watch(self: Arc<Self>, keys: &Keys) {
        self.running.get_or_init(|| keys.clone());
        watch_all(&self.claims.cache, keys);
        watch_all(&self.volumes.cache, keys);
        let (queue, claims) = (keys.clone(), self.claims.cache.clone());
        self.volumes.cache.subscribe(move |change| {
            let volume = change.object();
            let name = volume.metadata.name.as_deref().unwrap_or_default();
            let naming = claims.by_index(BY_VOLUME, name);
            let bound =
                claim_ref(volume).and_then(|bound| claims.get(&ObjectKey::new(bound.namespace.as_deref()?, bound.name.as_deref()?)));
            let free = claim_ref(volume).is_none() && phase(volume) == "Available" && !matches!(change, Change::Deleted(_));
            let wanting = if free { claims.by_index(UNBOUND, class_of_volume(volume)) } else { Vec::new() };
            naming.into_iter().chain(bound).chain(wanting).for_each(|claim| queue.add(ObjectKey::of(claim.as_ref())));
        });
        let (queue, volumes) = (keys.clone(), self.volumes.cache.clone());
        self.claims.cache.subscribe(move |change| {
            // The volume of a claim that goes is released; that of one that changes may have to follow.
            let claim = change.object();
            let named = Some(volume_name(claim)).filter(|name| !name.is_empty());
            named.iter().for_each(|name| queue.add(ObjectKey::new("", *name)));
            if matches!(change, Change::Deleted(_)) {
                let naming = volumes.list().into_iter().filter(|volume| is_bound_to(volume, claim));
                naming.for_each(|volume| queue.add(ObjectKey::of(volume.as_ref())));
            }
        });
        let (queue, claims) = (keys.clone(), self.claims.cache.clone());
        self.classes.subscribe(move |change| {
            let name = change.object().metadata.name.as_deref().unwrap_or_default();
            claims.by_index(UNBOUND, name).iter().for_each(|claim| queue.add(ObjectKey::of(claim.as_ref())));
        });
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(self.sync(key))
    }
}
