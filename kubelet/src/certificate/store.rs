//! Certificates on the disk, under upstream's names: `PREFIX-TIME.pem` holds a certificate and its key, the link `PREFIX-current.pem` names the one in force.

use anyhow::{Context, anyhow};
use jiff::Timestamp;
use std::{
    fs,
    io::Write,
    os::unix::fs::{OpenOptionsExt, symlink},
    path::{Path, PathBuf},
};

/// The certificates of one purpose.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
    prefix: &'static str,
}

/// How long a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From then on.
    pub not_before: Timestamp,
    /// Until then.
    pub not_after: Timestamp,
}

/// The validity of the first certificate in a PEM file.
pub fn validity(pem: &[u8]) -> anyhow::Result<Validity> {
    let block = pem_blocks(pem).find(|(label, _)| label == "CERTIFICATE").context("no certificate in it")?;
    let (_, certificate) =
        x509_parser::parse_x509_certificate(&block.1).map_err(|error| anyhow!("a certificate that cannot be read: {error}"))?;
    let time = |seconds: i64| Timestamp::from_second(seconds).context("a time that no calendar has");
    let validity = certificate.validity();
    Ok(Validity { not_before: time(validity.not_before.timestamp())?, not_after: time(validity.not_after.timestamp())? })
}

fn pem_blocks(pem: &[u8]) -> impl Iterator<Item = (String, Vec<u8>)> {
    x509_parser::pem::Pem::iter_from_buffer(pem).filter_map(Result::ok).map(|block| (block.label, block.contents))
}

impl Store {
    /// In a directory, which is made when something is kept.
    pub fn new(directory: &Path, prefix: &'static str) -> Self {
        Store { directory: directory.to_owned(), prefix }
    }

    /// The link to the certificate in force.
    pub fn current(&self) -> PathBuf {
        self.directory.join(format!("{}-current.pem", self.prefix))
    }

    /// The certificate in force with its key, as PEM; `None` before there is one.
    pub fn load(&self) -> Option<Vec<u8>> {
        fs::read(self.current()).ok()
    }

    /// The same, if it is good at that time.
    pub fn valid(&self, now: Timestamp) -> Option<Validity> {
        validity(&self.load()?).ok().filter(|v| v.not_before <= now && now < v.not_after)
    }

    /// Keeps a certificate with its key and puts it in force.
    pub fn keep(&self, certificate: &str, key: &str, now: Timestamp) -> anyhow::Result<()> {
        fs::create_dir_all(&self.directory).with_context(|| format!("making {}", self.directory.display()))?;
        let path = self.directory.join(format!("{}-{}.pem", self.prefix, now.strftime("%Y-%m-%d-%H-%M-%S")));
        write_secret(&path, format!("{}\n{}\n", certificate.trim_end(), key.trim_end()).as_bytes())?;
        // The link changes in one step: whoever reads it finds the old certificate or the new one.
        let fresh = self.directory.join(format!("{}-updated.pem", self.prefix));
        drop(fs::remove_file(&fresh));
        symlink(&path, &fresh).with_context(|| format!("linking {}", fresh.display()))?;
        fs::rename(&fresh, self.current()).with_context(|| format!("putting {} in force", path.display()))
    }

    /// The key of a request that is not answered yet, so that a restart asks for the same certificate again.
    pub fn pending_key(&self) -> PathBuf {
        self.directory.join(format!("{}.key.tmp", self.prefix))
    }
}

/// Writes a file that nobody else may read.
pub fn write_secret(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path).with_context(|| format!("making {}", path.display()))?;
    file.write_all(content).and_then(|()| file.sync_all()).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    #[test]
    fn the_newest_is_in_force_and_the_old_ones_stay() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::new(dir.path(), "kubelet-client");
        let at = |text: &str| -> Timestamp { text.parse().expect("a time") };
        assert_eq!(store.valid(at("2026-01-01T00:00:00Z")), None);
        for (year, now) in [(2027, "2026-01-01T00:00:00Z"), (2028, "2026-06-01T00:00:00Z")] {
            let pair = KeyPair::generate().expect("a key");
            let mut params = CertificateParams::new(vec![]).expect("parameters");
            (params.not_before, params.not_after) = (rcgen::date_time_ymd(2025, 1, 1), rcgen::date_time_ymd(year, 1, 1));
            store.keep(&params.self_signed(&pair).expect("signed").pem(), &pair.serialize_pem(), at(now)).expect("kept");
        }
        let valid = store.valid(at("2026-07-01T00:00:00Z")).expect("it is good");
        assert_eq!(valid.not_after, at("2028-01-01T00:00:00Z"));
        assert_eq!(store.valid(at("2028-01-01T00:00:00Z")), None, "it has ended");
        assert!(dir.path().join("kubelet-client-2026-01-01-00-00-00.pem").exists());
        let pem = String::from_utf8(store.load().expect("there is one")).expect("text");
        assert!(pem.contains("BEGIN CERTIFICATE") && pem.contains("PRIVATE KEY"));
    }
}
