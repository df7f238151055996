//! The same for volumes that a pod gets as devices (upstream: `csi_block.go`).

use super::{
    Csi,
    driver::told,
    failure,
    layout::VolumeData,
    mount::{Job, remove_target},
    protocol::{Ability, UnpublishRequest},
};
use crate::volume::setup::Failure;
use std::{fs, io, os::unix::fs::symlink, path::Path};

/// The reason and the step of what goes wrong with a device.
pub(super) const WORDS: (&str, &str) = ("FailedMapVolume", "MapVolume.MapPodDevice");

impl Csi {
    /// Stages a device for the node, publishes it for the pod, and links it where the pod's devices are.
    pub(super) async fn map_device(&self, job: &Job) -> Result<(), Failure> {
        let volume = &job.volume;
        let failed = |step: &'static str| move |error: String| failure(WORDS.0, step, &volume.spec_name, error);
        let io = |e: io::Error| format!("kubernetes.io/csi: {e}");
        let set_up = "MapVolume.SetUpDevice";
        let driver = self.driver(&volume.driver).map_err(failed(set_up))?;
        volume.data(&self.node).write(&self.layout.device_data(&volume.spec_name)).map_err(io).map_err(failed(set_up))?;
        let published = self.layout.published_devices(&volume.spec_name);
        let target = published.join(job.uid());
        // Whoever comes after knows by the link what to undo.
        link(&target, &self.layout.link(job.uid(), &volume.spec_name)).map_err(io).map_err(failed(set_up))?;
        let staged = driver.can(Ability::StageUnstageVolume).then(|| self.layout.staged_device(&volume.spec_name));
        if let Some(staged) = staged.as_deref().filter(|_| !self.staged.lock().contains(&volume.unique_name())) {
            fs::create_dir_all(staged).map_err(io).map_err(failed(set_up))?;
            let done = driver.stage(job.stage_request(&driver, staged)).await;
            if done.as_ref().is_err_and(|status| self.is_unstaged(&volume.unique_name(), status)) {
                self.remove_device(&volume.spec_name).map_err(io).map_err(failed(set_up))?;
            }
            done.map_err(|status| failed(set_up)(told(&status)))?;
            self.staged.lock().insert(volume.unique_name());
        }
        fs::create_dir_all(&published).map_err(io).map_err(failed(WORDS.1))?;
        let request = job.publish_request(&driver, staged.as_deref(), &target);
        driver.publish(request).await.map_err(|status| failed(WORDS.1)(told(&status)))
    }

    /// Takes a pod's devices away.
    pub(super) async fn unmap_devices(&self, uid: &str) -> io::Result<()> {
        for (link, data) in self.layout.devices_of(uid) {
            let turn = self.turn(&data.unique_name());
            let _turn = turn.lock().await;
            let target = self.layout.published_devices(&data.spec_name).join(uid);
            let request = UnpublishRequest { volume_id: data.volume_handle.clone(), target_path: target.to_string_lossy().into_owned() };
            let driver = self.driver(&data.driver_name).map_err(io::Error::other)?;
            driver.unpublish(request).await.map_err(|status| io::Error::other(told(&status)))?;
            remove_target(&target)?;
            fs::remove_file(link)?;
        }
        Ok(())
    }

    /// Unstages a device that no pod has any more, where the volume is one.
    pub(super) async fn release_device(&self, data: &VolumeData) -> Result<(), String> {
        let devices = self.layout.all_staged().into_iter();
        let own = devices.filter(|found| !found.spec_name.is_empty() && found.is(&data.driver_name, &data.volume_handle));
        for device in own {
            self.unstage(&device, &self.layout.staged_device(&device.spec_name)).await?;
            self.remove_device(&device.spec_name).map_err(|e| format!("removing what was written of {}: {e}", device.spec_name))?;
        }
        Ok(())
    }

    /// Removes what the kubelet made and wrote of a device.
    fn remove_device(&self, spec: &str) -> io::Result<()> {
        let data = self.layout.device_data(spec);
        remove_all(&[&self.layout.staged_device(spec), &self.layout.published_devices(spec), data.parent().unwrap_or(&data)])
    }
}

fn remove_all(paths: &[&Path]) -> io::Result<()> {
    for path in paths.iter().filter(|path| path.exists()) {
        fs::remove_dir_all(path)?;
    }
    Ok(())
}

/// Makes a link, or has it point where it should.
fn link(target: &Path, link: &Path) -> io::Result<()> {
    if fs::read_link(link).is_ok_and(|there| there == target) {
        return Ok(());
    }
    fs::create_dir_all(link.parent().unwrap_or(link))?;
    match fs::remove_file(link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => symlink(target, link),
    }
}
