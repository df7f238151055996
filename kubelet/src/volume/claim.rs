//! `persistentVolumeClaim`: the claim's volume, where that is a path of this node (`hostPath`, `local`).
//!
//! Whether a volume is bound is the business of its controllers; here a claim without one is an error that is tried again.

use super::{Backing, Result, VolumeContext, VolumeError, VolumeType, host_path};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;
use std::path::Path;

/// See the module.
pub struct Claim;

#[async_trait]
impl VolumeType for Claim {
    fn name(&self) -> &'static str {
        "persistent-volume"
    }

    fn takes(&self, volume: &Volume) -> bool {
        volume.persistent_volume_claim.is_some()
    }

    async fn backing(&self, volume: &Volume, context: &VolumeContext<'_>) -> Result<Backing> {
        let name = volume.persistent_volume_claim.as_ref().map_or("", |c| c.claim_name.as_str());
        let persistent = context.lookup.claimed_volume(context.pod, name).await.map_err(|e| VolumeError(e.to_string()))?;
        let spec = persistent.spec.unwrap_or_default();
        if let Some(source) = spec.host_path {
            host_path::ensure(Path::new(&source.path), source.type_.as_deref().unwrap_or("DirectoryOrCreate"))?;
            return Ok(Backing::Path(source.path.into()));
        }
        if let Some(source) = spec.local {
            host_path::ensure(Path::new(&source.path), "Directory")?;
            return Ok(Backing::Path(source.path.into()));
        }
        Err(VolumeError(format!("no volume plugin matched for the volume of claim {name:?}")))
    }
}
