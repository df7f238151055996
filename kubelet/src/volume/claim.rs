//! `persistentVolumeClaim` and `ephemeral`: the claim's volume, which is a path of this node (`hostPath`, `local`) or a driver's (`csi`).
//!
//! Whether a volume is bound is the business of its controllers; here a claim without one is an error that is tried again. An `ephemeral` volume's claim
//! has the pod's and the volume's name, and must be the pod's own.

use super::{Backed, Backing, BackingError, Result, SET_UP, VolumeContext, VolumeError, VolumeType, host_path};
use crate::{container::identity, csi::volume::CsiVolume};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{HostPathVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod, Volume};
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

    async fn backing(&self, volume: &Volume, context: &VolumeContext<'_>) -> Backed {
        let name = claim_name(context.pod, volume);
        let (claim, persistent) = context.lookup.claimed_volume(context.pod, &name).await.map_err(|e| VolumeError(e.to_string()))?;
        if volume.ephemeral.is_some() {
            verify_owner(context.pod, &claim)?;
        }
        let volume_name = persistent.metadata.name.clone().unwrap_or_default();
        let failed = |step: &'static str, error: VolumeError| BackingError { step, volume: Some(volume_name.clone()), error };
        if context.csi.is_some_and(|csi| !csi.reaches(&persistent)) {
            return Err(failed("MountVolume.NodeAffinity check", VolumeError("no matching NodeSelectorTerms".into())));
        }
        if is_for_one_pod(&persistent) && !context.lookup.occupy(&volume_name, identity::uid(context.pod)) {
            let why = "volume uses the ReadWriteOncePod access mode and is already in use by another pod";
            return Err(failed(SET_UP, VolumeError(why.into())));
        }
        let read_only = volume.persistent_volume_claim.as_ref().and_then(|c| c.read_only) == Some(true);
        if let Some(source) = persistent.spec.as_ref().and_then(|spec| spec.csi.as_ref()) {
            return Ok(Backing::Csi(Box::new(CsiVolume::persistent(&persistent, source, claim, read_only))));
        }
        let spec = persistent.spec.unwrap_or_default();
        if let Some(source) = spec.host_path {
            let own = made_for_a_claim(&persistent.metadata);
            return host_path_volume(&source, own, read_only).map_err(|error| failed(SET_UP, error));
        }
        if let Some(source) = spec.local {
            let is_block = spec.volume_mode.as_deref() == Some("Block");
            return local_volume(&source.path, is_block, read_only).map_err(|error| failed("MountVolume.NewMounter initialization", error));
        }
        Err(failed(SET_UP, VolumeError(format!("no volume plugin matched for the volume of claim {name:?}"))))
    }
}

/// Whether no two pods may use a volume. With other modes beside that, nobody knows which of them a pod means.
fn is_for_one_pod(volume: &PersistentVolume) -> bool {
    let modes = volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref());
    modes.is_some_and(|modes| modes == ["ReadWriteOncePod"])
}

/// A path of the node; `own` if a provisioner has it for this claim alone: then whoever the pod runs as may write there.
fn host_path_volume(source: &HostPathVolumeSource, own: bool, read_only: bool) -> Result<Backing> {
    let path = Path::new(&source.path);
    let fresh = own && !path.exists();
    host_path::ensure(path, source.type_.as_deref().unwrap_or("DirectoryOrCreate"))?;
    if fresh {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
    }
    Ok(Backing::Path { path: path.into(), read_only, owned: own })
}

/// A directory of the node that stands for a disk, or a device. It has to be there.
fn local_volume(path: &str, is_block: bool, read_only: bool) -> Result<Backing> {
    let at = Path::new(path);
    if !at.exists() {
        return Err(VolumeError(format!("path {path:?} does not exist")));
    }
    host_path::ensure(at, if is_block { "BlockDevice" } else { "Directory" })?;
    Ok(match is_block {
        true => Backing::Device { path: at.into(), read_only },
        false => Backing::Path { path: at.into(), read_only, owned: true },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_local_volume_has_to_be_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let there = dir.path().to_str().expect("a text");
        assert!(matches!(local_volume(there, false, true), Ok(Backing::Path { read_only: true, owned: true, .. })));
        assert!(local_volume(there, true, false).is_err(), "it is no device");
        let error = local_volume("/not/there", false, false).err().expect("it is not there");
        assert_eq!(error.0, "path \"/not/there\" does not exist");
    }

    #[test]
    fn a_volume_is_for_one_pod_where_it_can_be_nothing_else() {
        for (modes, want) in [(json!(["ReadWriteOncePod"]), true), (json!(["ReadWriteOncePod", "ReadOnlyMany"]), false), (json!([]), false)]
        {
            let volume = serde_json::from_value(json!({"spec": {"accessModes": modes}})).expect("a volume");
            assert_eq!(is_for_one_pod(&volume), want, "{modes}");
        }
    }

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
