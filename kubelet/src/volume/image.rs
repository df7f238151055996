//! `image`: the files of an image, which the runtime mounts itself (upstream: `kuberuntime_manager.go`, `getImageVolumes`).
//!
//! They are pulled like a container's image, before the first container that mounts them starts. Left out: `subPath` in them, for which the interface's messages
//! that we have know no word.

use super::{
    Backed, Backing, VolumeContext, VolumeType,
    setup::{Gives, Paths},
};
use crate::{
    image::{self, NotStarted, Wanted},
    node::Node,
    recorder::About,
};
use async_trait::async_trait;
use k8s_cri::v1::{ImageSpec, PodSandboxConfig};
use k8s_openapi::api::core::v1::{Container, Pod, Volume};
use std::collections::BTreeMap;

/// See the module.
pub struct ImageVolume;

#[async_trait]
impl VolumeType for ImageVolume {
    fn name(&self) -> &'static str {
        "image"
    }

    fn takes(&self, volume: &Volume) -> bool {
        volume.image.is_some()
    }

    async fn backing(&self, _: &Volume, _: &VolumeContext<'_>) -> Backed {
        Ok(Backing::Image)
    }
}

/// Why images of a pod's volumes are not there, by volume.
pub type Missing = BTreeMap<String, NotStarted>;

/// Sees that the images of a pod's volumes are there. Answers with the volumes, now with their images, and what is missing.
pub async fn fetch(node: &Node, pod: &Pod, sandbox: &PodSandboxConfig, volumes: &Paths) -> (Paths, Missing) {
    let (mut paths, mut missing) = (volumes.clone(), Missing::new());
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let Some(source) = &volume.image else { continue };
        let reference = source.reference.as_deref().unwrap_or_default();
        let wanted = Wanted { pod, image: reference, policy: source.pull_policy.as_deref(), about: About::pod(pod), sandbox };
        match image::ensure(node, &wanted).await {
            Ok(image) => {
                let spec = ImageSpec { image: image.id, user_specified_image: reference.to_owned(), ..Default::default() };
                if let Some(mounted) = paths.get_mut(&volume.name) {
                    mounted.gives = Gives::Image(Some(Box::new(spec)));
                }
            }
            Err(error) => drop(missing.insert(volume.name.clone(), error)),
        }
    }
    (paths, missing)
}

/// Why a container cannot have what it mounts.
pub fn lacks(container: &Container, missing: &Missing) -> Option<NotStarted> {
    container.volume_mounts.iter().flatten().find_map(|mount| missing.get(&mount.name)).cloned()
}
