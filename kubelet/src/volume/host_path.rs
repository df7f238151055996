//! `hostPath`: a path of the node, checked or made as its type says (upstream: `pkg/volume/hostpath`).

use super::{Backed, Backing, Result, VolumeContext, VolumeError, VolumeType};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;
use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
};

/// See the module.
pub struct HostPath;

#[async_trait]
impl VolumeType for HostPath {
    fn name(&self) -> &'static str {
        "host-path"
    }

    fn takes(&self, volume: &Volume) -> bool {
        volume.host_path.is_some()
    }

    async fn backing(&self, volume: &Volume, _: &VolumeContext<'_>) -> Backed {
        let source = volume.host_path.clone().unwrap_or_default();
        ensure(Path::new(&source.path), source.type_.as_deref().unwrap_or_default())?;
        Ok(Backing::Path { path: source.path.into(), read_only: false, owned: false })
    }
}

/// Makes the path or checks it, by the `type` of the volume. The empty type asks for nothing.
pub fn ensure(path: &Path, kind: &str) -> Result<()> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => Some(metadata),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    let wrong = |what: &str| Err(VolumeError(format!("hostPath type check failed: {} is not {what}", path.display())));
    match (kind, &metadata) {
        ("DirectoryOrCreate", None) => {
            fs::create_dir_all(path)?;
            Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
        }
        ("FileOrCreate", None) => {
            fs::write(path, [])?;
            Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o644))?)
        }
        ("Directory" | "DirectoryOrCreate", found) if !found.as_ref().is_some_and(fs::Metadata::is_dir) => wrong("a directory"),
        ("File" | "FileOrCreate", found) if !found.as_ref().is_some_and(fs::Metadata::is_file) => wrong("a file"),
        ("Socket", found) if !found.as_ref().is_some_and(|m| m.file_type().is_socket()) => wrong("a socket file"),
        ("CharDevice", found) if !found.as_ref().is_some_and(|m| m.file_type().is_char_device()) => wrong("a character device"),
        ("BlockDevice", found) if !found.as_ref().is_some_and(|m| m.file_type().is_block_device()) => wrong("a block device"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked_or_made() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("f");
        assert!(ensure(&file, "File").is_err());
        assert!(ensure(&file, "").is_ok());
        assert!(ensure(&file, "FileOrCreate").is_ok());
        assert!(ensure(&file, "File").is_ok());
        let error = ensure(&file, "Directory").expect_err("a file is no directory");
        assert_eq!(error.0, format!("hostPath type check failed: {} is not a directory", file.display()));
        assert!(ensure(&dir.path().join("d/e"), "DirectoryOrCreate").is_ok());
        assert!(dir.path().join("d/e").is_dir());
    }
}
