//! `persistentVolumeClaim` and `ephemeral`: the claim's volume, which is a path of this node (`hostPath`, `local`) or a driver's (`csi`).
//!
//! Whether a volume is bound is the business of its controllers; here a claim without one is an error that is tried again. An `ephemeral` volume's claim
//! has the pod's and the volume's name, and must be the pod's own.

use super::{Backing, Result, VolumeContext, VolumeError, VolumeType, host_path};
use crate::{container::identity, csi::volume::CsiVolume};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::{fs, os::unix::fs::PermissionsExt, path::Path};

/// See the module.
pub struct Claim;

/// The name of the volume's claim.
fn claim_name(pod: &Pod, volume: &Volume) -> String {
    match &volume.persistent_volume_claim {
        Some(source) => source.claim_name.clone(),
        None => format!("{}-{}", identity::name(pod), volume.name),
    }
}

/// Whether a volume was made by a provisioner, which makes each for one claim.
fn made_for_a_claim(volume: &ObjectMeta) -> bool {
    volume.annotations.as_ref().is_some_and(|annotations| annotations.contains_key("pv.kubernetes.io/provisioned-by"))
}

/// Refuses a claim that another made under the name of this pod's.
fn verify_owner(pod: &Pod, claim: &PersistentVolumeClaim) -> Result<()> {
    let owners = claim.metadata.owner_references.iter().flatten();
    if owners.into_iter().any(|o| o.controller == Some(true) && Some(&o.uid) == pod.metadata.uid.as_ref()) {
        return Ok(());
    }
    let (namespace, name) = (identity::namespace(pod), claim.metadata.name.as_deref().unwrap_or_default());
    Err(VolumeError(format!("PVC {namespace}/{name} was not created for pod {namespace}/{} (pod is not owner)", identity::name(pod))))
}

#[async_trait]
impl VolumeType for Claim {
    fn name(&self) -> &'static str {
        "persistent-volume"
    }

    fn takes(&self, volume: &Volume) -> bool {
        volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()
    }

    async fn backing(&self, volume: &Volume, context: &VolumeContext<'_>) -> Result<Backing> {
        let name = claim_name(context.pod, volume);
        let (claim, persistent) = context.lookup.claimed_volume(context.pod, &name).await.map_err(|e| VolumeError(e.to_string()))?;
        if volume.ephemeral.is_some() {
            verify_owner(context.pod, &claim)?;
        }
        let read_only = volume.persistent_volume_claim.as_ref().and_then(|c| c.read_only) == Some(true);
        if let Some(source) = persistent.spec.as_ref().and_then(|spec| spec.csi.as_ref()) {
            return Ok(Backing::Csi(Box::new(CsiVolume::persistent(&persistent, source, claim, read_only))));
        }
        let spec = persistent.spec.unwrap_or_default();
        if let Some(source) = spec.host_path {
            let path = Path::new(&source.path);
            // A directory that a provisioner has for this claim alone: whoever the pod runs as may write there.
            let fresh = made_for_a_claim(&persistent.metadata) && !path.exists();
            host_path::ensure(path, source.type_.as_deref().unwrap_or("DirectoryOrCreate"))?;
            if fresh {
                fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
            }
            return Ok(Backing::Path { path: source.path.into(), read_only, owned: made_for_a_claim(&persistent.metadata) });
        }
        if let Some(source) = spec.local {
            if spec.volume_mode.as_deref() == Some("Block") {
                host_path::ensure(Path::new(&source.path), "BlockDevice")?;
                return Ok(Backing::Device { path: source.path.into(), read_only });
            }
            host_path::ensure(Path::new(&source.path), "Directory")?;
            return Ok(Backing::Path { path: source.path.into(), read_only, owned: true });
        }
        Err(VolumeError(format!("no volume plugin matched for the volume of claim {name:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_ephemeral_volumes_claim_is_the_pods_own() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}})).expect("a pod");
        let volume = Volume { name: "v".into(), ephemeral: Some(Default::default()), ..Default::default() };
        assert_eq!(claim_name(&pod, &volume), "p-v");
        let claim = |uid: &str| -> PersistentVolumeClaim {
            let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": true});
            serde_json::from_value(json!({"metadata": {"name": "p-v", "ownerReferences": [owner]}})).expect("a claim")
        };
        assert!(verify_owner(&pod, &claim("u")).is_ok());
        let error = verify_owner(&pod, &claim("other")).expect_err("another's");
        assert_eq!(error.0, "PVC ns/p-v was not created for pod ns/p (pod is not owner)");
    }
}
