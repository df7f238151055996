//! `csi`: a volume of a driver that is made for the pod and goes with it.

use super::{Backed, Backing, VolumeContext, VolumeError, VolumeType};
use crate::csi::volume::CsiVolume;
use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

/// See the module.
pub struct Inline;

#[async_trait]
impl VolumeType for Inline {
    fn name(&self) -> &'static str {
        "csi"
    }

    fn takes(&self, volume: &Volume) -> bool {
        volume.csi.is_some()
    }

    async fn backing(&self, volume: &Volume, context: &VolumeContext<'_>) -> Backed {
        let source = volume.csi.as_ref().ok_or_else(|| VolumeError("it has no csi source".into()))?;
        Ok(Backing::Csi(Box::new(CsiVolume::inline(context.pod, &volume.name, source))))
    }
}
