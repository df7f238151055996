//! Volumes stay while they are bound (upstream: `pkg/controller/volume/pvprotection`).

use super::claim_protection::{Step, change, step};
use super::phase;
use crate::controller::{Context, Controller, Keys, watch_all};
use client::{Cache, ObjectKey};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::PersistentVolume;
use std::sync::Arc;
use std::time::Duration;

const FINALIZER: &str = "kubernetes.io/pv-protection";

/// Keys are volumes.
pub struct VolumeProtection {
    context: Context,
    volumes: Arc<Cache<PersistentVolume>>,
}

impl VolumeProtection {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        Self { volumes: context.caches.of(), context }
    }
}

impl Controller for VolumeProtection {
    fn watch(self: Arc<Self>, keys: &Keys) {
        watch_all(&self.volumes, keys);
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(async move {
            let Some(volume) = self.volumes.get(key) else { return Ok(None) };
            let step = step(volume.as_ref(), FINALIZER);
            if step == Step::Release && phase(&volume) == "Bound" {
                return Ok(None);
            }
            let ops = change(volume.as_ref(), FINALIZER, step).into_iter().collect();
            Ok(self.context.executor.apply(ops).await?)
        })
    }
}
