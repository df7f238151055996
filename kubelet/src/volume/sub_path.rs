//! `subPath` and `subPathExpr`: a place in a volume instead of its root (upstream: `pkg/kubelet/kubelet_pods.go`, `pkg/volume/util/subpath`).
//!
//! The place is resolved to its end and must stay in the volume, so that a symlink that a container left there leads nowhere else. What was found is bound to
//! a directory of the kubelet's, and that is what the container gets: what another container of the pod puts in its way afterwards changes nothing. Messages
//! name the mount and not the node's paths, which are no pod's business.

use super::{Result, VolumeError};
use crate::container::expansion::expand_all;
use k8s_openapi::api::core::v1::VolumeMount;
use nix::{
    errno::Errno,
    fcntl::{OFlag, open, openat},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::{Mode, SFlag, fstat},
};
use std::{
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{MetadataExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
};

/// What the mount names in its volume, `None` for the root. `env` is the container's environment.
pub fn wanted(mount: &VolumeMount, env: &[(String, String)]) -> Result<Option<String>> {
    let path = match (mount.sub_path_expr.as_deref().unwrap_or_default(), mount.sub_path.as_deref().unwrap_or_default()) {
        ("", "") => return Ok(None),
        ("", path) => path.to_owned(),
        (expression, _) => {
            let lookup = |name: &str| env.iter().rev().find(|(k, _)| k == name).map(|(_, v)| v.clone());
            expand_all(expression, lookup).map_err(VolumeError)?
        }
    };
    if path.starts_with('/') {
        return Err(VolumeError(format!("error SubPath `{path}` must not be an absolute path")));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(VolumeError(format!("unable to provision SubPath `{path}`: must not contain '..'")));
    }
    Ok(Some(path))
}

/// Binds the place in the volume, made as a directory if it is not there, to `target`.
pub fn bind(volume: &Path, sub: &str, target: &Path, mount: &str, container: &str) -> Result<()> {
    let told = |verb: &str| VolumeError(format!("failed to {verb} subPath for volumeMount {mount:?} of container {container:?}"));
    let bound = place(volume, sub).and_then(|place| bind_at(&opened(&fs::canonicalize(volume)?, &place)?, target));
    bound.inspect_err(|error| tracing::warn!(sub, mount, container, %error, "no sub-path")).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => told("create"),
        _ => told("prepare"),
    })
}

/// Opens a place that has been resolved, step by step from the volume's root: where something has become a symlink since, there is no way.
fn opened(root: &Path, place: &Path) -> io::Result<OwnedFd> {
    let below = place.strip_prefix(root).map_err(io::Error::other)?;
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut at = open(root, flags, Mode::empty())?;
    for part in below {
        at = openat(&at, part, flags, Mode::empty())?;
        if SFlag::from_bits_truncate(fstat(&at)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFLNK {
            return Err(io::Error::other("it became a symlink"));
        }
    }
    Ok(at)
}

/// Binds what is open to a path of the kubelet's own, instead of what the container's last instance had there.
fn bind_at(place: &OwnedFd, target: &Path) -> io::Result<()> {
    release(target)?;
    let directory = SFlag::from_bits_truncate(fstat(place)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
    fs::create_dir_all(if directory { target } else { target.parent().unwrap_or(target) })?;
    if !directory {
        fs::write(target, [])?;
    }
    let source = format!("/proc/self/fd/{}", place.as_raw_fd());
    Ok(mount(Some(source.as_str()), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?)
}

/// Takes a bound path away. Nothing is removed but what the kubelet made: a directory with something in it stays, as it would be the volume's.
fn release(target: &Path) -> io::Result<()> {
    match umount2(target, MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::symlink_metadata(target) {
        Ok(found) if found.is_dir() => fs::remove_dir(target),
        Ok(_) => fs::remove_file(target),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Where a container's n-th mount of a volume is bound to, below the pod's directory.
pub fn target(pod_dir: &Path, volume: &str, container: &str, index: usize) -> PathBuf {
    pod_dir.join(BOUND).join(volume).join(container).join(index.to_string())
}

/// The directory of all that is bound for a pod, as upstream names it.
const BOUND: &str = "volume-subpaths";

/// Takes all away that was bound for a pod.
pub fn release_all(pod_dir: &Path) -> io::Result<()> {
    fn below(dir: &Path, depth: u8) -> io::Result<()> {
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            if depth == 0 { release(&path) } else { below(&path, depth - 1) }?;
        }
        fs::remove_dir(dir)
    }
    // Volume, container, index.
    below(&pod_dir.join(BOUND), 2)
}

fn place(volume: &Path, sub: &str) -> io::Result<PathBuf> {
    let root = fs::canonicalize(volume)?;
    let outside = || io::Error::other("it leads out of its volume");
    let mut path = root.clone();
    for part in sub.split('/').filter(|part| !part.is_empty() && *part != ".") {
        let next = path.join(part);
        // A directory is made like the one it is made in: who may write to the volume may write here.
        if fs::symlink_metadata(&next).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            let like = fs::metadata(&root)?;
            fs::create_dir(&next)?;
            chown(&next, None, Some(like.gid()))?;
            fs::set_permissions(&next, fs::Permissions::from_mode(like.mode() & 0o7777))?;
        }
        path = fs::canonicalize(&next)?;
        if !path.starts_with(&root) {
            return Err(outside());
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_a_symlink_after_it_was_found_is_no_way() {
        let root = tempfile::tempdir().expect("a directory");
        let volume = fs::canonicalize(root.path()).expect("it exists");
        let found = place(&volume, "a/b").expect("made");
        assert!(opened(&volume, &found).is_ok());
        for (moved, link) in [("a/b", "/etc"), ("a", "/")] {
            fs::rename(volume.join(moved), volume.join("away")).expect("moved");
            std::os::unix::fs::symlink(link, volume.join(moved)).expect("a link");
            assert!(opened(&volume, &found).is_err(), "{moved}");
            fs::remove_file(volume.join(moved)).and_then(|()| fs::rename(volume.join("away"), volume.join(moved))).expect("as before");
        }
    }

    #[test]
    fn sub_paths_are_made_and_stay_inside() {
        let root = tempfile::tempdir().expect("a directory");
        let volume = root.path().join("v");
        fs::create_dir(&volume).expect("made");
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o777)).expect("set");
        let made = place(&volume, "a/./b").expect("made");
        assert_eq!(made, fs::canonicalize(volume.join("a/b")).expect("it exists"));
        assert_eq!(fs::metadata(&made).expect("it exists").permissions().mode() & 0o777, 0o777);
        std::os::unix::fs::symlink("/etc", volume.join("out")).expect("a link");
        for sub in ["out", "out/passwd"] {
            let error = bind(&volume, sub, Path::new("/nowhere"), "m", "c").expect_err(sub);
            assert_eq!(error.0, "failed to prepare subPath for volumeMount \"m\" of container \"c\"");
        }
    }

    #[test]
    fn expressions_see_the_environment_and_lead_nowhere_else() {
        let mount = |expression: &str| VolumeMount { sub_path_expr: Some(expression.into()), ..Default::default() };
        let env = [("POD".to_owned(), "p".to_owned()), ("UP".to_owned(), "..".to_owned()), ("ROOT".to_owned(), "/tmp".to_owned())];
        for (expression, want) in [
            ("$(POD)/x", Ok(Some("p/x".to_owned()))),
            ("$(UP)", Err("unable to provision SubPath `..`: must not contain '..'".to_owned())),
            ("$(ROOT)", Err("error SubPath `/tmp` must not be an absolute path".to_owned())),
            ("$(NO)", Err("missing value for \"NO\"".to_owned())),
        ] {
            assert_eq!(wanted(&mount(expression), &env).map_err(|e| e.0), want, "{expression}");
        }
        assert_eq!(wanted(&VolumeMount::default(), &env).expect("the root"), None);
    }
}
