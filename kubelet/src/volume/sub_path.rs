//! `subPath` and `subPathExpr`: a place in a volume instead of its root (upstream: `pkg/kubelet/kubelet_pods.go`, `pkg/volume/util/subpath`).
//!
//! The place is resolved to its end and must stay in the volume, so that a symlink that a container left there leads nowhere else. Messages name the
//! mount and not the node's paths, which are no pod's business.

use super::{Result, VolumeError};
use crate::container::expansion::expand_all;
use k8s_openapi::api::core::v1::VolumeMount;
use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
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

/// The place in the volume, made as a directory if it is not there.
pub fn resolve(volume: &Path, sub: &str, mount: &str, container: &str) -> Result<PathBuf> {
    let told = |verb: &str| VolumeError(format!("failed to {verb} subPath for volumeMount {mount:?} of container {container:?}"));
    let found = place(volume, sub).inspect_err(|error| tracing::warn!(sub, mount, container, %error, "no sub-path"));
    match found {
        Ok(path) => Ok(path),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(told("create")),
        Err(_) => Err(told("prepare")),
    }
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
    fn sub_paths_are_made_and_stay_inside() {
        let root = tempfile::tempdir().expect("a directory");
        let volume = root.path().join("v");
        fs::create_dir(&volume).expect("made");
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o777)).expect("set");
        let made = resolve(&volume, "a/./b", "m", "c").expect("made");
        assert_eq!(made, fs::canonicalize(volume.join("a/b")).expect("it exists"));
        assert_eq!(fs::metadata(&made).expect("it exists").permissions().mode() & 0o777, 0o777);
        std::os::unix::fs::symlink("/etc", volume.join("out")).expect("a link");
        for sub in ["out", "out/passwd"] {
            let error = resolve(&volume, sub, "m", "c").expect_err(sub);
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
