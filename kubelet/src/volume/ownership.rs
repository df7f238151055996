//! `fsGroup`: handing a volume to a group of the pod (upstream: `pkg/volume/volume_linux.go`).
//!
//! The group may read and write all that is there, and what is made in a directory of it belongs to the group too. Symlinks are left alone: they lead to
//! what is the volume's anyway, or out of it.

use k8s_openapi::api::core::v1::Pod;
use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
};

/// What the group may do with files.
const FILE: u32 = 0o660;
/// What it may do with directories, and the bit that hands on the group.
const DIRECTORY: u32 = 0o2770;

/// The pod's group for volumes.
pub fn group(pod: &Pod) -> Option<u32> {
    pod.spec.as_ref()?.security_context.as_ref()?.fs_group.and_then(|g| u32::try_from(g).ok())
}

/// Hands over one directory.
pub fn own(dir: &Path, group: Option<u32>) -> io::Result<()> {
    let Some(group) = group else { return Ok(()) };
    chown(dir, None, Some(group))?;
    let mode = fs::metadata(dir)?.permissions().mode();
    fs::set_permissions(dir, fs::Permissions::from_mode(mode | DIRECTORY))
}

/// Hands over a directory and all below it. With `fsGroupChangePolicy: OnRootMismatch` nothing is done where the directory itself is the group's already.
pub fn own_tree(root: &Path, pod: &Pod) -> io::Result<()> {
    let Some(group) = group(pod) else { return Ok(()) };
    let policy = pod.spec.as_ref().and_then(|s| s.security_context.as_ref()).and_then(|s| s.fs_group_change_policy.as_deref());
    let top = fs::metadata(root)?;
    if policy == Some("OnRootMismatch") && top.gid() == group && top.mode() & DIRECTORY == DIRECTORY {
        return Ok(());
    }
    let mut pending = vec![root.to_path_buf()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let (kind, path) = (entry.file_type()?, entry.path());
            if kind.is_dir() {
                pending.push(path);
            } else if !kind.is_symlink() {
                chown(&path, None, Some(group))?;
                let mode = entry.metadata()?.permissions().mode();
                fs::set_permissions(&path, fs::Permissions::from_mode(mode | FILE))?;
            }
        }
        own(&dir, Some(group))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_group_gets_all_but_links() {
        let root = tempfile::tempdir().expect("a directory");
        let mine = fs::metadata(root.path()).expect("it exists").gid();
        fs::create_dir(root.path().join("d")).expect("made");
        fs::write(root.path().join("d/f"), "x").expect("written");
        fs::set_permissions(root.path().join("d/f"), fs::Permissions::from_mode(0o600)).expect("set");
        std::os::unix::fs::symlink("/nowhere", root.path().join("l")).expect("a link");
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [], "securityContext": {"fsGroup": mine}}})).expect("a pod");
        own_tree(root.path(), &pod).expect("owned");
        let mode = |path: &str| fs::metadata(root.path().join(path)).expect("it exists").permissions().mode() & 0o7777;
        assert_eq!((mode("d") & 0o2070, mode("d/f")), (0o2070, 0o660));
    }
}
