//! File systems and directories: how much room there is, and how much a tree takes.

use crate::node::eviction::signal::Observation;
use std::{collections::HashSet, fs, io, os::unix::fs::MetadataExt, path::Path};

/// A file system, in bytes and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filesystem {
    /// Bytes.
    pub bytes: Observation,
    /// Inodes.
    pub inodes: Observation,
    /// Bytes that files take; what is kept for the administrator is neither taken nor available.
    pub used: i64,
}

/// The file system that a path is on.
pub fn filesystem(path: &Path) -> io::Result<Filesystem> {
    let found = nix::sys::statvfs::statvfs(path).map_err(io::Error::from)?;
    let unit = found.fragment_size();
    let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    Ok(Filesystem {
        bytes: Observation {
            available: whole(unit.saturating_mul(found.blocks_available())),
            capacity: whole(unit.saturating_mul(found.blocks())),
        },
        inodes: Observation { available: whole(found.files_available()), capacity: whole(found.files()) },
        used: whole(unit.saturating_mul(found.blocks().saturating_sub(found.blocks_free()))),
    })
}

/// Whether two paths are on different file systems.
pub fn are_apart(one: &Path, other: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|m| m.dev()).ok();
    matches!((device(one), device(other)), (Some(a), Some(b)) if a != b)
}

/// What a tree takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// Bytes on the disk.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

/// Measures a tree, on its file system alone; a file with several names counts once. What vanishes meanwhile counts for nothing, and so does a tree
/// that is not there.
pub fn tree(root: &Path) -> Tree {
    let Ok(top) = fs::symlink_metadata(root) else { return Tree::default() };
    let device = top.dev();
    let mut seen = HashSet::new();
    let mut out = Tree { bytes: top.blocks() * 512, inodes: 1 };
    let mut waiting = if top.is_dir() { vec![root.to_owned()] } else { Vec::new() };
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            if found.dev() != device || (found.nlink() > 1 && !found.is_dir() && !seen.insert(found.ino())) {
                continue;
            }
            out.bytes += found.blocks() * 512;
            out.inodes += 1;
            if found.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_counted_once() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("a")).expect("made");
        let empty = tree(dir.path());
        fs::write(dir.path().join("a/f"), vec![7; 64 << 10]).expect("written");
        fs::hard_link(dir.path().join("a/f"), dir.path().join("g")).expect("linked");
        let full = tree(dir.path());
        assert_eq!(full.inodes, empty.inodes + 1);
        assert!((64 << 10..128 << 10).contains(&(full.bytes - empty.bytes)), "{full:?} {empty:?}");
        assert_eq!(tree(&dir.path().join("none")), Tree::default());
    }

    #[test]
    fn a_file_system_has_room() {
        let found = filesystem(Path::new("/")).expect("it is there");
        assert!(found.bytes.capacity >= found.bytes.available + found.used && found.used > 0);
        assert!(!are_apart(Path::new("/"), Path::new("/")) && are_apart(Path::new("/"), Path::new("/proc")));
    }
}
