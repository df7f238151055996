//! Where the volumes of drivers are on the node, and what is written down about them: paths and files are upstream's, as drivers know them and another
//! kubelet has to find them (upstream: `pkg/volume/csi`).
//!
//! | path below the kubelet's root | what it is |
//! |---|---|
//! | `plugins/kubernetes.io/csi/DRIVER/SHA/globalmount` | a volume staged for the node; `vol_data.json` beside it says which |
//! | `pods/UID/volumes/kubernetes.io~csi/SPEC/mount` | a volume published for a pod; `vol_data.json` beside it |
//! | `plugins/kubernetes.io/csi/volumeDevices/staging/SPEC` | a device staged for the node |
//! | `plugins/kubernetes.io/csi/volumeDevices/publish/SPEC/UID` | a device published for a pod; `volumeDevices/SPEC/data/vol_data.json` says of what |
//! | `pods/UID/volumeDevices/kubernetes.io~csi/SPEC` | a link to it |
//!
//! `SPEC` is the name of the persistent volume, or of the volume in its pod. These files are all that is known of what is mounted: there is no other state that
//! could be wrong after a restart.

use crate::volume::setup::pod_dir;
use ::api::csi::sha256;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

const DATA: &str = "vol_data.json";

/// What is written down about a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeData {
    /// The persistent volume's name, or the name in the pod.
    #[serde(rename = "specVolID", skip_serializing_if = "String::is_empty")]
    pub spec_name: String,
    /// What the driver calls it.
    pub volume_handle: String,
    /// The driver.
    pub driver_name: String,
    /// The node.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    /// The name of its attachment.
    #[serde(rename = "attachmentID", skip_serializing_if = "String::is_empty")]
    pub attachment_id: String,
    /// `Persistent` or `Ephemeral`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub volume_lifecycle_mode: String,
}

impl VolumeData {
    /// What is written in a directory.
    pub fn read(dir: &Path) -> io::Result<Self> {
        serde_json::from_slice(&fs::read(dir.join(DATA))?).map_err(io::Error::other)
    }

    /// Writes it into a directory, which is made.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        fs::write(dir.join(DATA), serde_json::to_vec(self).map_err(io::Error::other)?)
    }

    /// The volume's name in the node's status.
    pub fn unique_name(&self) -> String {
        ::api::csi::volume_name(&self.driver_name, &self.volume_handle)
    }

    /// Whether both are the same volume.
    pub fn is(&self, driver: &str, handle: &str) -> bool {
        self.driver_name == driver && self.volume_handle == handle
    }
}

/// What a driver calls a volume that is made for a pod and goes with it.
pub fn inline_handle(uid: &str, volume: &str) -> String {
    format!("csi-{}", sha256(&format!("{uid}{volume}")))
}

/// The paths of a kubelet's root.
#[derive(Clone, Debug)]
pub struct Layout(pub PathBuf);

impl Layout {
    fn plugin(&self) -> PathBuf {
        self.0.join("plugins/kubernetes.io/csi")
    }

    /// Where a volume is staged.
    pub fn staged(&self, driver: &str, handle: &str) -> PathBuf {
        self.plugin().join(driver).join(sha256(handle)).join("globalmount")
    }

    /// What a pod has of a volume: `mount` in it, and what is written down about it.
    pub fn published(&self, uid: &str, spec: &str) -> PathBuf {
        self.all_published(uid).join(spec.replace('/', "~"))
    }

    fn all_published(&self, uid: &str) -> PathBuf {
        pod_dir(&self.0, uid).join("volumes/kubernetes.io~csi")
    }

    /// The directory of all links to devices of a pod.
    fn links(&self, uid: &str) -> PathBuf {
        pod_dir(&self.0, uid).join("volumeDevices/kubernetes.io~csi")
    }

    /// The link to a pod's device.
    pub fn link(&self, uid: &str, spec: &str) -> PathBuf {
        self.links(uid).join(spec.replace('/', "~"))
    }

    fn devices(&self) -> PathBuf {
        self.plugin().join("volumeDevices")
    }

    /// Where a device is staged.
    pub fn staged_device(&self, spec: &str) -> PathBuf {
        self.devices().join("staging").join(spec)
    }

    /// Where a device is published for pods, each under its UID.
    pub fn published_devices(&self, spec: &str) -> PathBuf {
        self.devices().join("publish").join(spec)
    }

    /// Where it is written down what a device is of.
    pub fn device_data(&self, spec: &str) -> PathBuf {
        self.devices().join(spec).join("data")
    }

    /// What is published for a pod, and the directory of each.
    pub fn volumes_of(&self, uid: &str) -> Vec<(PathBuf, VolumeData)> {
        entries(&self.all_published(uid)).into_iter().filter_map(|dir| VolumeData::read(&dir).ok().map(|data| (dir, data))).collect()
    }

    /// The devices of a pod: the link to each, and what it is of.
    pub fn devices_of(&self, uid: &str) -> Vec<(PathBuf, VolumeData)> {
        let of = |link: &Path| VolumeData::read(&self.device_data(link.file_name()?.to_str()?)).ok();
        entries(&self.links(uid)).into_iter().filter_map(|link| of(&link).map(|data| (link.clone(), data))).collect()
    }

    /// Whether any pod but this one has a volume or its device.
    pub fn is_used(&self, driver: &str, handle: &str, but: &str) -> bool {
        let pods = entries(&self.0.join("pods"));
        let others = pods.iter().filter_map(|dir| dir.file_name()?.to_str()).filter(|uid| *uid != but);
        let mut used = others.flat_map(|uid| self.volumes_of(uid).into_iter().chain(self.devices_of(uid)));
        used.any(|(_, data)| data.is(driver, handle))
    }

    /// All volumes that are staged.
    pub fn all_staged(&self) -> Vec<VolumeData> {
        let drivers = entries(&self.plugin()).into_iter().filter(|dir| !dir.ends_with("volumeDevices"));
        let volumes = drivers.flat_map(|driver| entries(&driver)).filter_map(|dir| VolumeData::read(&dir).ok());
        let devices = entries(&self.devices()).into_iter().filter_map(|dir| VolumeData::read(&dir.join("data")).ok());
        volumes.chain(devices).collect()
    }
}

/// What is in a directory; nothing if it is not there.
pub fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_upstreams() {
        let layout = Layout("/k".into());
        let staged = format!("/k/plugins/kubernetes.io/csi/d/{}/globalmount", sha256("h"));
        assert_eq!(layout.staged("d", "h").to_str(), Some(staged.as_str()));
        assert_eq!(layout.published("u", "pv").to_str(), Some("/k/pods/u/volumes/kubernetes.io~csi/pv"));
    }

    #[test]
    fn who_has_a_volume_is_read_from_the_disk() {
        let root = tempfile::tempdir().expect("a directory");
        let layout = Layout(root.path().into());
        let data = VolumeData {
            spec_name: "pv".into(),
            volume_handle: "h".into(),
            driver_name: "d".into(),
            volume_lifecycle_mode: "Persistent".into(),
            ..Default::default()
        };
        data.write(&layout.published("u", "pv")).expect("written");
        assert_eq!(layout.volumes_of("u"), [(layout.published("u", "pv"), data.clone())]);
        let text = fs::read_to_string(layout.published("u", "pv").join(DATA)).expect("written");
        assert_eq!(text, r#"{"specVolID":"pv","volumeHandle":"h","driverName":"d","volumeLifecycleMode":"Persistent"}"#);
        assert_eq!([layout.is_used("d", "h", "v"), layout.is_used("d", "h", "u"), layout.is_used("d", "other", "v")], [true, false, false]);
        let staged = layout.staged("d", "h");
        data.write(staged.parent().expect("a directory")).expect("written");
        assert_eq!(layout.all_staged(), [data]);
    }
}
