//! `downwardAPI`: fields of the pod and resources of its containers as files (upstream: `pkg/volume/downwardapi`).

use super::{
    Backed, Backing, File, Payload, Result, VolumeContext, VolumeError, VolumeType,
    keys::{DEFAULT_MODE, mode},
};
use crate::container::environment;
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Container, DownwardAPIVolumeFile, Volume};

/// See the module.
pub struct DownwardApi;

#[async_trait]
impl VolumeType for DownwardApi {
    fn name(&self) -> &'static str {
        "downward-api"
    }

    fn takes(&self, volume: &Volume) -> bool {
        volume.downward_api.is_some()
    }

    async fn backing(&self, volume: &Volume, context: &VolumeContext<'_>) -> Backed {
        let source = volume.downward_api.clone().unwrap_or_default();
        let files = files(context, source.items.as_deref().unwrap_or_default(), mode(source.default_mode, DEFAULT_MODE))?;
        // Upstream keeps these in memory too: annotations may hold what should not reach a disk.
        Ok(Backing::Files { files, memory: true })
    }
}

/// One file per item.
pub fn files(context: &VolumeContext<'_>, items: &[DownwardAPIVolumeFile], default_mode: u32) -> Result<Payload> {
    let mut out = Payload::new();
    for item in items {
        let text = if let Some(field) = &item.field_ref {
            environment::pod_field(context.pod, &field.field_path)?
        } else if let Some(field) = &item.resource_field_ref {
            environment::resource_field(context.pod, &Container::default(), field, &context.node.allocatable)?
        } else {
            return Err(VolumeError(format!("downward API item {:?} names neither a field nor a resource", item.path)));
        };
        out.insert(item.path.clone(), File { data: text.into_bytes(), mode: mode(item.mode, default_mode), owner: None });
    }
    Ok(out)
}
