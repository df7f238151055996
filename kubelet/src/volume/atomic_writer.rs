//! Writing a set of files so that a reader sees the old set or the new one, never a mixture (upstream: `pkg/volume/util/atomic_writer.go`).
//!
//! The files are in a directory with a time in its name, `..data` is a symlink to it that is replaced by a rename, and what the user sees
//! are symlinks through `..data`.

use super::{File, Payload};
use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink},
    path::{Component, Path, PathBuf},
};

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Makes `dir` hold exactly these files. Answers whether anything had to be written. `stamp` names the new directory and must differ from one
/// write to the next; `group` owns the files where it is given.
pub fn write(dir: &Path, files: &Payload, stamp: &str, group: Option<u32>) -> io::Result<bool> {
    for path in files.keys() {
        check(path)?;
    }
    let current = fs::read_link(dir.join(DATA)).ok().map(|target| dir.join(target));
    if let Some(current) = &current
        && same(current, files)?
    {
        return Ok(false);
    }
    let name = format!("..{stamp}");
    let fresh = dir.join(&name);
    fs::DirBuilder::new().mode(0o755).create(&fresh)?;
    // The mode of a new directory passes through the umask.
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    chown(&fresh, None, group)?;
    for (path, file) in files {
        place(&fresh, path, file, group)?;
    }
    symlink(&name, dir.join(DATA_NEW))?;
    fs::rename(dir.join(DATA_NEW), dir.join(DATA))?;
    link_visible(dir, files)?;
    if let Some(current) = current.filter(|c| *c != fresh) {
        fs::remove_dir_all(current)?;
    }
    Ok(true)
}

/// A path stays below the volume.
fn check(path: &str) -> io::Result<()> {
    let plain = Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
    if path.is_empty() || !plain || path.starts_with("..") {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path: {path:?}")));
    }
    Ok(())
}

fn place(dir: &Path, path: &str, file: &File, group: Option<u32>) -> io::Result<()> {
    let target = dir.join(path);
    // Directories on the way are everybody's to pass, whatever the umask.
    let mut made = dir.to_path_buf();
    for part in Path::new(path).parent().into_iter().flat_map(Path::components) {
        made.push(part);
        if !made.is_dir() {
            fs::create_dir(&made)?;
            fs::set_permissions(&made, fs::Permissions::from_mode(0o755))?;
            chown(&made, None, group)?;
        }
    }
    fs::write(&target, &file.data)?;
    // A group that is to read the files must be let in whatever their mode says.
    let mode = if group.is_some() { file.mode | 0o440 } else { file.mode };
    fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
    chown(&target, file.owner, group)
}

/// The first component of a path: what stands in the volume's root.
fn top(path: &str) -> &str {
    path.split('/').next().unwrap_or(path)
}

fn link_visible(dir: &Path, files: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> = files.keys().map(|p| top(p)).collect();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        if !name.starts_with("..") && !wanted.contains(name) {
            fs::remove_file(dir.join(name))?;
        }
    }
    for name in wanted {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(PathBuf::from(DATA).join(name), link)?;
        }
    }
    Ok(())
}

/// Whether the directory holds exactly these files with this content.
fn same(dir: &Path, files: &Payload) -> io::Result<bool> {
    let mut found = 0;
    let mut pending = vec![dir.to_path_buf()];
    while let Some(next) = pending.pop() {
        let entries = match fs::read_dir(&next) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                pending.push(entry.path());
                continue;
            }
            let path = entry.path();
            let name = path.strip_prefix(dir).ok().and_then(Path::to_str).unwrap_or_default();
            match files.get(name) {
                Some(file) if fs::read(&path)? == file.data => found += 1,
                _ => return Ok(false),
            }
        }
    }
    Ok(found == files.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(pairs: &[(&str, &str)]) -> Payload {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), File { data: v.as_bytes().to_vec(), mode: 0o640, owner: None })).collect()
    }

    #[test]
    fn a_new_set_replaces_the_old_one_whole() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path();
        assert!(write(dir, &payload(&[("a", "1"), ("d/b", "2")]), "t1", None).expect("written"));
        assert_eq!(fs::read_link(dir.join("a")).expect("a link"), Path::new("..data/a"));
        assert_eq!(fs::read_to_string(dir.join("d/b")).expect("b"), "2");
        assert_eq!(fs::metadata(dir.join("a")).expect("a").permissions().mode() & 0o777, 0o640);
        assert!(!write(dir, &payload(&[("a", "1"), ("d/b", "2")]), "t2", None).expect("nothing to do"));
        assert!(write(dir, &payload(&[("a", "3")]), "t3", None).expect("written"));
        assert_eq!(fs::read_to_string(dir.join("a")).expect("a"), "3");
        let mut names: Vec<_> = fs::read_dir(dir).expect("the volume").map(|e| e.expect("an entry").file_name()).collect();
        names.sort();
        assert_eq!(names, ["..data", "..t3", "a"]);
    }

    #[test]
    fn paths_stay_inside() {
        let root = tempfile::tempdir().expect("a directory");
        for path in ["../x", "/x", "a/../../x", "..x", ""] {
            assert!(write(root.path(), &payload(&[(path, "1")]), "t", None).is_err(), "{path}");
        }
    }
}
