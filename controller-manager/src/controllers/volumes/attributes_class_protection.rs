//! VolumeAttributesClasses stay while a claim or a volume names them (upstream: `pkg/controller/volume/vacprotection`).

use super::claim_protection::{Step, change, step};
use crate::controller::{Context, Controller, Keys, watch_all};
use client::{Cache, ObjectKey};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::api::{Api, ListParams};
use std::sync::Arc;
use std::time::Duration;

const FINALIZER: &str = "kubernetes.io/vac-protection";
/// The index of claims and volumes by the classes that they name.
const BY_ATTRIBUTES: &str = "attributes class";

/// Keys are classes.
pub struct AttributesClassProtection {
    context: Context,
    classes: Arc<Cache<VolumeAttributesClass>>,
    claims: Arc<Cache<PersistentVolumeClaim>>,
    volumes: Arc<Cache<PersistentVolume>>,
}

/// The classes that a claim asks for, has, and is on the way to.
fn of_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    let status = claim.status.as_ref();
    let target = status.and_then(|status| status.modify_volume_status.as_ref()?.target_volume_attributes_class_name.clone());
    let current = status.and_then(|status| status.current_volume_attributes_class_name.clone());
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    [wanted, current, target].into_iter().flatten().filter(|name| !name.is_empty()).collect()
}

fn of_volume(volume: &PersistentVolume) -> Vec<String> {
    let name = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    name.into_iter().filter(|name| !name.is_empty()).collect()
}

impl AttributesClassProtection {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        let (claims, volumes): (Arc<Cache<PersistentVolumeClaim>>, Arc<Cache<PersistentVolume>>) =
            (context.caches.of(), context.caches.of());
        claims.add_index(BY_ATTRIBUTES, of_claim);
        volumes.add_index(BY_ATTRIBUTES, of_volume);
        Self { classes: context.caches.of(), claims, volumes, context }
    }

    /// The caches may be behind, so the apiserver has the last word.
    async fn is_used(&self, name: &String) -> anyhow::Result<bool> {
        if !self.claims.by_index(BY_ATTRIBUTES, name).is_empty() || !self.volumes.by_index(BY_ATTRIBUTES, name).is_empty() {
            return Ok(true);
        }
        let client = self.context.executor.client();
        let claims: Api<PersistentVolumeClaim> = Api::all(client.clone());
        if claims.list(&ListParams::default()).await?.items.iter().any(|claim| of_claim(claim).contains(name)) {
            return Ok(true);
        }
        let volumes: Api<PersistentVolume> = Api::all(client.clone());
        Ok(volumes.list(&ListParams::default()).await?.items.iter().any(|volume| of_volume(volume).contains(name)))
    }

    async fn sync(&self, key: &ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(class) = self.classes.get(key) else { return Ok(None) };
        let step = step(class.as_ref(), FINALIZER);
        if step == Step::Release && self.is_used(&key.name).await? {
            return Ok(None);
        }
        let ops = change(class.as_ref(), FINALIZER, step).into_iter().collect();
        Ok(self.context.executor.apply(ops).await?)
    }
}

impl Controller for AttributesClassProtection {
    fn watch(self: Arc<Self>, keys: &Keys) {
        watch_all(&self.classes, keys);
        // What an object no longer names may be free.
        let queue = keys.clone();
        self.claims.subscribe(move |change| {
            change.old().into_iter().flat_map(|claim| of_claim(claim)).for_each(|name| queue.add(ObjectKey::new("", name)));
        });
        let queue = keys.clone();
        self.volumes.subscribe(move |change| {
            change.old().into_iter().flat_map(|volume| of_volume(volume)).for_each(|name| queue.add(ObjectKey::new("", name)));
        });
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(self.sync(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_names_up_to_three_classes() {
        let status = json!({"currentVolumeAttributesClassName": "b", "modifyVolumeStatus": {"status": "Pending", "targetVolumeAttributesClassName": "c"}});
        let claim = json!({"metadata": {"name": "p"}, "spec": {"volumeAttributesClassName": "a"}, "status": status});
        assert_eq!(of_claim(&serde_json::from_value(claim).unwrap()), ["a", "b", "c"]);
        assert_eq!(of_claim(&PersistentVolumeClaim::default()), Vec::<String>::new());
    }
}
