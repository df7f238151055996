//! The audit log as a file: a line of JSON for each event, turned over when it has grown (upstream: the log backend with lumberjack).

use k8s_openapi::jiff::Timestamp;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// When the file is turned over.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    /// At this size, in bytes.
    pub size: u64,
    /// How many old files are kept; 0 keeps all.
    pub backups: usize,
}

/// Where lines go.
pub enum Log {
    /// To the standard output (`-`).
    Standard,
    /// To a file.
    File {
        /// Which.
        path: PathBuf,
        /// Open for appending.
        file: File,
        /// How large it is.
        size: u64,
        /// When it is turned over.
        rotation: Rotation,
    },
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
        fs::create_dir_all(directory)?;
    }
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

impl Log {
    /// Opens the file, or the standard output for `-`.
    pub fn open(path: &Path, rotation: Rotation) -> io::Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Log::Standard);
        }
        let (file, size) = open(path)?;
        Ok(Log::File { path: path.to_owned(), file, size, rotation })
    }

    /// Writes lines, each with its newline.
    pub fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Log::Standard => io::stdout().lock().write_all(lines),
            Log::File { path, file, size, rotation } => {
                if *size > 0 && *size + lines.len() as u64 > rotation.size {
                    turn_over(path, rotation.backups)?;
                    (*file, *size) = open(path)?;
                }
                *size += lines.len() as u64;
                file.write_all(lines)
            }
        }
    }
}

/// Moves the file aside, under a name with the time in it, and removes the oldest of those that are too many.
fn turn_over(path: &Path, backups: usize) -> io::Result<()> {
    let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or("audit").to_owned();
    let extension = path.extension().and_then(|e| e.to_str()).map(|e| format!(".{e}")).unwrap_or_default();
    let directory = path.parent().map_or_else(|| PathBuf::from("."), Path::to_owned);
    let now = Timestamp::now().strftime("%Y-%m-%dT%H-%M-%S.%6f").to_string();
    fs::rename(path, directory.join(format!("{stem}-{now}{extension}")))?;
    if backups == 0 {
        return Ok(());
    }
    let mut old = Vec::new();
    for entry in fs::read_dir(&directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(&format!("{stem}-")) && name.ends_with(&extension) {
            old.push(name);
        }
    }
    // Their names sort by time.
    old.sort();
    for name in old.iter().take(old.len().saturating_sub(backups)) {
        fs::remove_file(directory.join(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_has_grown_is_turned_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub/audit.log");
        let mut log = Log::open(&path, Rotation { size: 10, backups: 2 }).unwrap();
        for line in ["first one\n", "second\n", "third one\n", "fourth one\n", "fifth\n"] {
            log.write(line.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "fifth\n");
        let old = fs::read_dir(path.parent().unwrap()).unwrap().count() - 1;
        assert_eq!(old, 2, "the oldest are gone");
    }
}
