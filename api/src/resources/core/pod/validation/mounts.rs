//! Validation of what a container mounts: volumes as directories, claims as devices.

use super::{Context, volumes};
use crate::field::{ErrorList, Path};
use crate::resources::defaulting::{is_true, items, str};
use k8s_openapi::api::core::v1::{Container, VolumeMount};
use std::collections::HashSet;

const PROPAGATION: &[&str] = &["Bidirectional", "HostToContainer", "None"];
const RECURSIVE: &[&str] = &["Disabled", "Enabled", "IfPossible"];

/// `volumeMounts`.
pub fn volume_mounts(errors: &mut ErrorList, path: &Path, container: &Container, context: &Context) {
    let mut seen = HashSet::new();
    for (i, mount) in items(&container.volume_mounts).iter().enumerate() {
        let at = path.index(i);
        let (name, target) = (mount.name.as_str(), mount.mount_path.as_str());
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        }
        let volume = context.volumes.get(name);
        if volume.is_none() {
            errors.not_found(&at.child("name"), name);
        }
        if target.is_empty() {
            errors.required(&at.child("mountPath"), "");
        }
        if !seen.insert(target) {
            errors.invalid(&at.child("mountPath"), target, "must be unique");
        }
        let devices = items(&container.volume_devices);
        if devices.iter().any(|d| d.name == name) {
            errors.invalid(&at.child("name"), name, "must not already exist in volumeDevices");
        }
        if devices.iter().any(|d| d.device_path == target) {
            errors.invalid(&at.child("mountPath"), target, "must not already exist as a path in volumeDevices");
        }
        sub_paths(errors, path, &at, mount);
        if let Some(propagation) = mount.mount_propagation.as_deref() {
            let path = path.child("mountPropagation");
            if !PROPAGATION.contains(&propagation) {
                errors.not_supported(&path, propagation, PROPAGATION);
            }
            let privileged = container.security_context.as_ref().is_some_and(|s| is_true(s.privileged));
            if propagation == "Bidirectional" && !privileged {
                errors.forbidden(&path, "Bidirectional mount propagation is available only to privileged containers");
            }
        }
        recursive_read_only(errors, &path.child("recursiveReadOnly"), mount);
    }
}

/// Upstream names the list, not the mount, in what it says of these; so that its clients find the same, it does here too.
fn sub_paths(errors: &mut ErrorList, list: &Path, at: &Path, mount: &VolumeMount) {
    let (sub_path, expression) = (str(&mount.sub_path), str(&mount.sub_path_expr));
    if !sub_path.is_empty() {
        volumes::descending_path(errors, &list.child("subPath"), sub_path);
    }
    if !expression.is_empty() {
        if !sub_path.is_empty() {
            errors.invalid(&at.child("subPathExpr"), expression, "subPathExpr and subPath are mutually exclusive");
        }
        volumes::descending_path(errors, &list.child("subPathExpr"), expression);
    }
}

fn recursive_read_only(errors: &mut ErrorList, path: &Path, mount: &VolumeMount) {
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if !is_true(mount.read_only) {
                errors.forbidden(path, "may only be specified when readOnly is true");
            }
            if mount.mount_propagation.as_deref().is_some_and(|p| p != "None") {
                errors.forbidden(path, "may only be specified when mountPropagation is None or not specified");
            }
        }
        Some(other) => errors.not_supported(path, other, RECURSIVE),
    }
}

/// `volumeDevices`.
pub fn volume_devices(errors: &mut ErrorList, path: &Path, container: &Container, context: &Context) {
    let (mut paths, mut names) = (HashSet::new(), HashSet::new());
    let mounts = items(&container.volume_mounts);
    for (i, device) in items(&container.volume_devices).iter().enumerate() {
        let path = path.index(i);
        let (name, target) = (device.name.as_str(), device.device_path.as_str());
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if !names.insert(name) {
            errors.invalid(&path.child("name"), name, "must be unique");
        }
        match context.volumes.get(name) {
            None => errors.not_found(&path.child("name"), name),
            Some(v) if v.persistent_volume_claim.is_none() && v.ephemeral.is_none() => {
                let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid(&path.child("name"), name, why);
            }
            Some(_) => {}
        }
        if target.is_empty() {
            errors.required(&path.child("devicePath"), "");
        }
        if paths.contains(target) {
            errors.invalid(&path.child("devicePath"), target, "must be unique");
        }
        if target.split('/').any(|part| part == "..") {
            errors.invalid(&path.child("devicePath"), target, "can not contain backsteps ('..')");
        } else {
            paths.insert(target);
        }
        if mounts.iter().any(|m| m.name == name) {
            errors.invalid(&path.child("name"), name, "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|m| m.mount_path == target) {
            errors.invalid(&path.child("devicePath"), target, "must not already exist as a path in volumeMounts");
        }
    }
}
