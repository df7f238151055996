//! Files in which managers of a node's resources write down who has what, as upstream's kubelet writes and reads them, so that either can go on where the
//! other stopped (upstream: `pkg/kubelet/checkpointmanager`).
//!
//! Each file holds a checksum of its contents. What is summed is not the file but the Go value it was made from, as Go's `spew` prints it (`%#v`, sorted keys,
//! no methods), type names included; each file's owner prints that itself. A file that ends half-way cannot come to be: the new one takes the place of
//! the old one whole.

use anyhow::Context;
use serde::Serialize;
use std::{fs, io, os::unix::fs::OpenOptionsExt, path::Path};

/// FNV-1a of 32 bits (RFC 9923) of what was printed.
pub fn checksum(printed: &str) -> u64 {
    let sum = printed.bytes().fold(0x811c_9dc5_u32, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    u64::from(sum)
}

/// A map as `spew` prints it.
pub fn printed_map<K: std::fmt::Display, V>(entries: impl IntoIterator<Item = (K, V)>, value: impl Fn(V) -> String) -> String {
    let entries: Vec<String> = entries.into_iter().map(|(key, entry)| format!("{key}:{}", value(entry))).collect();
    format!("map[{}]", entries.join(" "))
}

/// A list as `spew` prints it.
pub fn printed_list<T>(entries: impl IntoIterator<Item = T>, value: impl Fn(T) -> String) -> String {
    let entries: Vec<String> = entries.into_iter().map(value).collect();
    format!("[{}]", entries.join(" "))
}

/// What is in the file, if it is there.
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// Writes the file anew.
pub fn write(path: &Path, state: &impl Serialize) -> io::Result<()> {
    use io::Write;
    let fresh = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(&serde_json::to_vec(state)?)?;
    file.sync_data()?;
    fs::rename(fresh, path)
}

/// What a manager (`CPU`, `memory`) makes of the file, if it is there; with upstream's advice where it can make nothing of it.
pub fn restore<T>(path: &Path, manager: &str, take: impl FnOnce(&[u8]) -> anyhow::Result<T>) -> anyhow::Result<Option<T>> {
    let restored = read(path).map_err(anyhow::Error::from).and_then(|bytes| bytes.as_deref().map(take).transpose());
    restored.with_context(|| {
        let path = path.display();
        format!("could not restore state from checkpoint, please drain this node and delete the {manager} manager checkpoint file \"{path}\" before restarting Kubelet")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_the_published_one() {
        // The vectors of RFC 9923.
        for (text, want) in [("", 0x811c_9dc5), ("a", 0xe40c_292c), ("foobar", 0xbf9c_f968)] {
            assert_eq!(checksum(text), want, "{text}");
        }
    }
}
