//! A driver's volume as one pod wants it, and what the driver is asked for its sake: pure.

use super::{
    layout::{self, VolumeData},
    protocol::{Ability, AccessMode, Empty, Mode, MountVolume, Pairs, VolumeCapability},
};
use crate::container::identity;
use ::api::csi::{attachment_name, volume_name};
use k8s_openapi::{
    api::{
        core::v1::{CSIPersistentVolumeSource, CSIVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod, SecretReference},
        storage::v1::{CSIDriver, CSIDriverSpec},
    },
    apimachinery::pkg::api::resource::Quantity,
};
use std::collections::HashSet;

/// The mode of a volume that is made for its pod, as against `Persistent`.
pub const EPHEMERAL: &str = "Ephemeral";

/// A secret, by namespace and name.
pub type SecretName = (String, String);

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct CsiVolume {
    /// The persistent volume's name, or the volume's in its pod.
    pub spec_name: String,
    /// The driver.
    pub driver: String,
    /// What the driver calls it.
    pub handle: String,
    /// It is made for the pod and goes with it.
    pub inline: bool,
    /// The pod gets a device and no file system.
    pub block: bool,
    /// Nobody writes there.
    pub read_only: bool,
    /// The file system; empty for what the driver thinks best.
    pub fs_type: String,
    /// The driver's attributes.
    pub attributes: Pairs,
    /// What may be done with the volume.
    pub access_modes: Vec<String>,
    /// Options for `mount`.
    pub mount_options: Vec<String>,
    /// What the driver needs to know for each of its calls.
    pub secrets: Secrets,
    /// How large it should be and who says so, where that may change.
    pub size: Option<(Quantity, Box<PersistentVolumeClaim>)>,
}

/// The names of secrets by call.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    /// For `NodeStageVolume`.
    pub stage: Option<SecretName>,
    /// For `NodePublishVolume`.
    pub publish: Option<SecretName>,
    /// For `NodeExpandVolume`.
    pub expand: Option<SecretName>,
}

fn named(reference: Option<&SecretReference>) -> Option<SecretName> {
    let reference = reference?;
    Some((reference.namespace.clone().unwrap_or_default(), reference.name.clone().filter(|name| !name.is_empty())?))
}

impl CsiVolume {
    /// The volume behind a claim.
    pub fn persistent(
        volume: &PersistentVolume,
        source: &CSIPersistentVolumeSource,
        claim: PersistentVolumeClaim,
        read_only: bool,
    ) -> Self {
        let spec = volume.spec.clone().unwrap_or_default();
        let size = spec.capacity.as_ref().and_then(|capacity| capacity.get("storage")).cloned();
        CsiVolume {
            spec_name: volume.metadata.name.clone().unwrap_or_default(),
            driver: source.driver.clone(),
            handle: source.volume_handle.clone(),
            inline: false,
            block: spec.volume_mode.as_deref() == Some("Block"),
            read_only,
            fs_type: source.fs_type.clone().unwrap_or_default(),
            attributes: source.volume_attributes.clone().unwrap_or_default().into_iter().collect(),
            access_modes: spec.access_modes.unwrap_or_default(),
            mount_options: spec.mount_options.unwrap_or_default(),
            secrets: Secrets {
                stage: named(source.node_stage_secret_ref.as_ref()),
                publish: named(source.node_publish_secret_ref.as_ref()),
                expand: named(source.node_expand_secret_ref.as_ref()),
            },
            size: size.map(|size| (size, Box::new(claim))),
        }
    }

    /// A volume that a pod defines itself.
    pub fn inline(pod: &Pod, name: &str, source: &CSIVolumeSource) -> Self {
        let secret = source.node_publish_secret_ref.as_ref().filter(|r| !r.name.is_empty());
        CsiVolume {
            spec_name: name.to_owned(),
            driver: source.driver.clone(),
            handle: layout::inline_handle(identity::uid(pod), name),
            inline: true,
            read_only: source.read_only == Some(true),
            fs_type: source.fs_type.clone().unwrap_or_default(),
            attributes: source.volume_attributes.clone().unwrap_or_default().into_iter().collect(),
            access_modes: vec!["ReadWriteOnce".into()],
            secrets: Secrets { publish: secret.map(|r| (identity::namespace(pod).to_owned(), r.name.clone())), ..Default::default() },
            ..Default::default()
        }
    }

    /// `Persistent` or `Ephemeral`.
    pub fn mode(&self) -> &'static str {
        if self.inline { EPHEMERAL } else { "Persistent" }
    }

    /// Its name in a node's status.
    pub fn unique_name(&self) -> String {
        volume_name(&self.driver, &self.handle)
    }

    /// What is written down about it.
    pub fn data(&self, node: &str) -> VolumeData {
        VolumeData {
            spec_name: self.spec_name.clone(),
            volume_handle: self.handle.clone(),
            driver_name: self.driver.clone(),
            node_name: node.to_owned(),
            attachment_id: attachment_name(&self.driver, &self.handle, node),
            volume_lifecycle_mode: self.mode().to_owned(),
        }
    }

    /// Why the driver does not provide such volumes, in upstream's words.
    pub fn verify_mode(&self, driver: Option<&CSIDriver>) -> Result<(), String> {
        let (mode, name) = (self.mode(), &self.driver);
        match driver {
            None if self.inline => Err(format!("volume mode \"{mode}\" not supported by driver {name} (no CSIDriver object)")),
            None => Ok(()),
            Some(driver) => {
                let modes = driver.spec.volume_lifecycle_modes.clone().filter(|modes| !modes.is_empty());
                let modes = modes.unwrap_or_else(|| vec!["Persistent".to_owned()]);
                let only = || format!("volume mode \"{mode}\" not supported by driver {name} (only supports {modes:?})");
                if modes.iter().any(|m| m == mode) { Ok(()) } else { Err(only()) }
            }
        }
    }

    /// How the driver is to give it: `group` is the pod's group, where the driver sees to that itself.
    pub fn capability(&self, abilities: &HashSet<Ability>, group: Option<u32>) -> VolumeCapability {
        let tells_writers_apart = abilities.contains(&Ability::SingleNodeMultiWriter);
        let mode = match (self.access_modes.first().map(String::as_str).unwrap_or("ReadWriteOnce"), tells_writers_apart) {
            ("ReadOnlyMany", _) => Mode::MultiNodeReaderOnly,
            ("ReadWriteMany", _) => Mode::MultiNodeMultiWriter,
            ("ReadWriteOncePod", true) => Mode::SingleNodeSingleWriter,
            ("ReadWriteOnce", true) => Mode::SingleNodeMultiWriter,
            _ => Mode::SingleNodeWriter,
        };
        let group = group.filter(|_| abilities.contains(&Ability::VolumeMountGroup)).map(|group| group.to_string());
        let mount = || MountVolume {
            fs_type: self.fs_type.clone(),
            mount_flags: self.mount_options.clone(),
            volume_mount_group: group.unwrap_or_default(),
        };
        VolumeCapability {
            block: self.block.then_some(Empty {}),
            mount: (!self.block).then(mount),
            access_mode: Some(AccessMode { mode: mode as i32 }),
        }
    }

    /// Whether the kubelet hands the volume to the pod's group.
    pub fn is_handed_over(&self, driver: Option<&CSIDriverSpec>) -> bool {
        let once = self.access_modes.iter().any(|mode| mode.starts_with("ReadWriteOnce"));
        match driver.and_then(|d| d.fs_group_policy.as_deref()) {
            _ if self.read_only => false,
            Some("None") => false,
            Some("File") => true,
            _ => !self.fs_type.is_empty() && once,
        }
    }

    /// What the driver is told of the pod, where it wants to know.
    pub fn pod_info(&self, pod: &Pod, driver: Option<&CSIDriverSpec>) -> Pairs {
        if driver.and_then(|d| d.pod_info_on_mount) != Some(true) {
            return Pairs::new();
        }
        let account = pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or_default();
        let facts = [
            ("pod.name", identity::name(pod).to_owned()),
            ("pod.namespace", identity::namespace(pod).to_owned()),
            ("pod.uid", identity::uid(pod).to_owned()),
            ("serviceAccount.name", account),
            ("ephemeral", self.inline.to_string()),
        ];
        facts.into_iter().map(|(name, value)| (format!("csi.storage.k8s.io/{name}"), value)).collect()
    }

    /// The size that the file system has yet to be brought to, in bytes.
    pub fn grows_to(&self) -> Option<i64> {
        let bytes = |quantity: &Quantity| quantity.0.parse::<::api::quantity::Quantity>().ok().map(|q| q.value());
        let (wanted, claim) = self.size.as_ref()?;
        let told = claim.status.as_ref()?.capacity.as_ref()?.get("storage")?;
        bytes(wanted).filter(|wanted| bytes(told).is_some_and(|told| told < *wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn driver(spec: serde_json::Value) -> CSIDriver {
        serde_json::from_value(json!({"metadata": {"name": "d"}, "spec": spec})).expect("a driver")
    }

    #[test]
    fn drivers_provide_persistent_volumes_unless_they_say_otherwise() {
        let (persistent, inline) =
            (CsiVolume { driver: "d".into(), ..Default::default() }, CsiVolume { driver: "d".into(), inline: true, ..Default::default() });
        let both = driver(json!({"volumeLifecycleModes": ["Persistent", "Ephemeral"]}));
        for (volume, driver, want) in [
            (&persistent, None, Ok(())),
            (&inline, None, Err("volume mode \"Ephemeral\" not supported by driver d (no CSIDriver object)")),
            (&inline, Some(driver(json!({}))), Err("volume mode \"Ephemeral\" not supported by driver d (only supports [\"Persistent\"])")),
            (&inline, Some(both.clone()), Ok(())),
            (&persistent, Some(both), Ok(())),
        ] {
            assert_eq!(volume.verify_mode(driver.as_ref()), want.map_err(str::to_owned));
        }
    }

    #[test]
    fn access_modes_become_the_drivers() {
        let fine = HashSet::from([Ability::SingleNodeMultiWriter, Ability::VolumeMountGroup]);
        for (mode, coarse, with) in [
            ("ReadWriteOnce", Mode::SingleNodeWriter, Mode::SingleNodeMultiWriter),
            ("ReadWriteOncePod", Mode::SingleNodeWriter, Mode::SingleNodeSingleWriter),
            ("ReadOnlyMany", Mode::MultiNodeReaderOnly, Mode::MultiNodeReaderOnly),
            ("ReadWriteMany", Mode::MultiNodeMultiWriter, Mode::MultiNodeMultiWriter),
        ] {
            let volume = CsiVolume { access_modes: vec![mode.into()], ..Default::default() };
            let got = |abilities| volume.capability(abilities, Some(7)).access_mode.map(|m| m.mode);
            assert_eq!((got(&HashSet::new()), got(&fine)), (Some(coarse as i32), Some(with as i32)), "{mode}");
        }
        let volume = CsiVolume { fs_type: "ext4".into(), mount_options: vec!["noatime".into()], ..Default::default() };
        let mount = volume.capability(&fine, Some(7)).mount.expect("a file system");
        assert_eq!(
            (mount.fs_type.as_str(), mount.mount_flags, mount.volume_mount_group.as_str()),
            ("ext4", vec!["noatime".to_owned()], "7")
        );
        assert!(CsiVolume { block: true, ..Default::default() }.capability(&fine, None).mount.is_none());
    }

    #[test]
    fn the_group_gets_what_the_policy_gives_it() {
        let volume = |fs_type: &str, mode: &str, read_only| CsiVolume {
            fs_type: fs_type.into(),
            access_modes: vec![mode.into()],
            read_only,
            ..Default::default()
        };
        for (volume, policy, want) in [
            (volume("ext4", "ReadWriteOnce", false), json!({}), true),
            (volume("", "ReadWriteOnce", false), json!({}), false),
            (volume("ext4", "ReadWriteMany", false), json!({"fsGroupPolicy": "ReadWriteOnceWithFSType"}), false),
            (volume("", "ReadWriteMany", false), json!({"fsGroupPolicy": "File"}), true),
            (volume("", "ReadWriteMany", true), json!({"fsGroupPolicy": "File"}), false),
            (volume("ext4", "ReadWriteOnce", false), json!({"fsGroupPolicy": "None"}), false),
        ] {
            assert_eq!(volume.is_handed_over(Some(&driver(policy.clone()).spec)), want, "{policy}");
        }
    }

    #[test]
    fn a_volume_grows_until_its_claim_says_so() {
        let volume = |told: Option<&str>| {
            let claim = json!({"status": {"capacity": told.map(|size| json!({"storage": size}))}});
            let claim = serde_json::from_value(claim).expect("a claim");
            CsiVolume { size: Some((Quantity("2Gi".into()), Box::new(claim))), ..Default::default() }.grows_to()
        };
        assert_eq!([volume(Some("1Gi")), volume(Some("2Gi")), volume(None)], [Some(2 << 30), None, None]);
    }

    #[test]
    fn a_driver_that_wants_to_is_told_of_the_pod() {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"containers": [], "serviceAccountName": "sa"}}),
        )
        .expect("a pod");
        let volume = CsiVolume::inline(&pod, "v", &CSIVolumeSource { driver: "d".into(), ..Default::default() });
        assert!(volume.pod_info(&pod, Some(&driver(json!({})).spec)).is_empty());
        let told = volume.pod_info(&pod, Some(&driver(json!({"podInfoOnMount": true})).spec));
        assert_eq!(
            (told.len(), told["csi.storage.k8s.io/pod.name"].as_str(), told["csi.storage.k8s.io/ephemeral"].as_str()),
            (5, "p", "true")
        );
    }
}
