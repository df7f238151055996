//! `emptyDir`: an empty directory that lives as long as the pod, on disk or, with `medium: Memory`, in a tmpfs.
//!
//! `sizeLimit` bounds a tmpfs, as do the pod's memory limit and the node's memory for pods; on disk it is not enforced (upstream does so by evicting).

use super::{Backed, Backing, VolumeContext, VolumeError, VolumeType};
use crate::container::resources;
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PodSpec, Volume};

/// See the module.
pub struct EmptyDir;

#[async_trait]
impl VolumeType for EmptyDir {
    fn name(&self) -> &'static str {
        "empty-dir"
    }

    fn takes(&self, volume: &Volume) -> bool {
        volume.empty_dir.is_some()
    }

    async fn backing(&self, volume: &Volume, context: &VolumeContext<'_>) -> Backed {
        let source = volume.empty_dir.clone().unwrap_or_default();
        let memory = match source.medium.as_deref().unwrap_or_default() {
            "" => false,
            "Memory" => true,
            other => return Err(VolumeError(format!("unknown storage medium {other:?}")).into()),
        };
        let asked = source.size_limit.as_ref().and_then(resources::whole).unwrap_or(0);
        Ok(Backing::Empty { memory, size: size(asked, context) })
    }
}

/// How large a tmpfs of the pod is at most, in bytes: as asked for (0 is not at all), but it counts against the pod's memory limit and the node's memory for
/// pods, so it cannot be larger than those.
pub fn size(asked: i64, context: &VolumeContext<'_>) -> u64 {
    let none = PodSpec::default();
    let spec = context.pod.spec.as_ref().unwrap_or(&none);
    let limit = if resources::all_limited(spec, "memory") { resources::pod_total(spec, "memory", true) / 1000 } else { 0 };
    let allocatable = context.node.allocatable.get("memory").and_then(resources::whole).unwrap_or(0);
    let least = [asked, limit, allocatable].into_iter().filter(|s| *s > 0).min().unwrap_or(0);
    u64::try_from(least).unwrap_or(0)
}
