//! The server's TLS: a serving certificate, given or made, and the CA that callers' certificates are of.

use crate::config::KubeletConfiguration;
use anyhow::Context;
use parking_lot::RwLock;
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// Who a caller's certificate says they are: a name and groups. Empty without a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateIdentity {
    /// The subject's common name.
    pub user: Option<String>,
    /// Its organisations.
    pub groups: Vec<String>,
}

/// The serving certificate in force: read again whenever its file has changed, or handed in when the cluster has signed a new one.
#[derive(Debug, Default)]
pub struct Serving {
    files: Option<(PathBuf, PathBuf)>,
    current: RwLock<(Option<SystemTime>, Option<Arc<CertifiedKey>>)>,
}

impl Serving {
    /// The configured files, or a certificate of our own making in `dir` for `names`.
    pub fn of_files(settings: &KubeletConfiguration, dir: &Path, names: &[String]) -> anyhow::Result<Arc<Self>> {
        let files = if settings.tls_cert_file.is_empty() {
            self_signed(dir, names)?;
            (dir.join("kubelet.crt"), dir.join("kubelet.key"))
        } else {
            (PathBuf::from(&settings.tls_cert_file), PathBuf::from(&settings.tls_private_key_file))
        };
        let serving = Serving { files: Some(files), ..Default::default() };
        serving.reload()?;
        Ok(Arc::new(serving))
    }

    /// One that is still to be signed. Until then nobody is served.
    pub fn awaited() -> Arc<Self> {
        Arc::default()
    }

    /// Serves with this certificate and key from now on.
    pub fn set(&self, pem: &[u8]) -> anyhow::Result<()> {
        self.current.write().1 = Some(Arc::new(certified(pem, pem)?));
        Ok(())
    }

    /// Reads the files if they changed since they were last read.
    fn reload(&self) -> anyhow::Result<()> {
        let Some((certificate, key)) = &self.files else { return Ok(()) };
        let changed = fs::metadata(certificate).and_then(|m| m.modified()).with_context(|| format!("{}", certificate.display()))?;
        if self.current.read().0 == Some(changed) {
            return Ok(());
        }
        let read = |path: &PathBuf| fs::read(path).with_context(|| format!("{}", path.display()));
        let fresh = certified(&read(certificate)?, &read(key)?)?;
        *self.current.write() = (Some(changed), Some(Arc::new(fresh)));
        Ok(())
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Half-written files leave the old certificate in force.
        if let Err(error) = self.reload() {
            tracing::warn!(error = format!("{error:#}"), "the serving certificate could not be read again");
        }
        self.current.read().1.clone()
    }
}

fn certified(chain: &[u8], key: &[u8]) -> anyhow::Result<CertifiedKey> {
    let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>().context("the serving certificate")?;
    let key = PrivateKeyDer::from_pem_slice(key).context("the serving key")?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key).context("the serving key")?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().context("the serving certificate and key")?;
    Ok(certified)
}

/// The configuration of the server's side.
pub fn server_config(settings: &KubeletConfiguration, kubeconfig: Option<&Path>, serving: Arc<Serving>) -> anyhow::Result<ServerConfig> {
    let ca = match settings.authentication.x509.client_ca_file.as_str() {
        "" => kubeconfig.map(kubeconfig_ca).transpose()?.flatten(),
        file => Some(fs::read(file).with_context(|| format!("the client CA file {file}"))?),
    };
    let builder = ServerConfig::builder();
    let builder = match ca {
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                roots.add(certificate.context("the client CA")?).context("the client CA")?;
            }
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build().context("the client CA")?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(serving);
    // Upgrades (exec, port-forward) need HTTP/1.1, and whoever wants them offers nothing else.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The CA of the cluster that a kubeconfig is for.
fn kubeconfig_ca(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    use base64::Engine;
    let file = kube::config::Kubeconfig::read_from(path)?;
    let Some(cluster) = file.clusters.first().and_then(|c| c.cluster.as_ref()) else { return Ok(None) };
    if let Some(data) = &cluster.certificate_authority_data {
        return Ok(Some(base64::engine::general_purpose::STANDARD.decode(data).context("certificate-authority-data")?));
    }
    cluster.certificate_authority.as_ref().map(|file| fs::read(file).with_context(|| format!("the CA file {file}"))).transpose()
}

/// The certificate and key in `dir`, made when they are missing, under upstream's file names.
fn self_signed(dir: &Path, names: &[String]) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
    let (certificate, key) = (dir.join("kubelet.crt"), dir.join("kubelet.key"));
    if !(certificate.exists() && key.exists()) {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let pair = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.to_vec())?;
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2120, 1, 1);
        params.distinguished_name.push(rcgen::DnType::CommonName, names.first().cloned().unwrap_or_default());
        let made = params.self_signed(&pair)?;
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&key)?
            .write_all(pair.serialize_pem().as_bytes())?;
        fs::write(&certificate, made.pem())?;
    }
    Ok((fs::read(&certificate)?, fs::read(&key)?))
}

/// Who the verified certificate of a connection is of.
pub fn certificate_identity(stream: &TlsStream<TcpStream>) -> CertificateIdentity {
    let first = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    first.and_then(|der| identity_of(der)).unwrap_or_default()
}

fn identity_of(der: &[u8]) -> Option<CertificateIdentity> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect();
    Some(CertificateIdentity { user: Some(user), groups })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_groups_come_from_the_subject() {
        let mut params = CertificateParams::new(vec![]).expect("parameters");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "someone");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
        let made = params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate");
        let identity = identity_of(made.der()).expect("an identity");
        assert_eq!((identity.user.as_deref(), identity.groups.as_slice()), (Some("someone"), &["system:masters".to_owned()][..]));
    }

    #[test]
    fn a_certificate_whose_file_changed_is_read_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let serving = Serving::of_files(&KubeletConfiguration::default(), dir.path(), &["n".into()]).expect("made");
        let first = serving.current.read().1.clone().expect("one");
        for file in ["kubelet.crt", "kubelet.key"] {
            fs::remove_file(dir.path().join(file)).expect("removed");
        }
        self_signed(dir.path(), &["m".into()]).expect("made");
        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        fs::File::options().write(true).open(dir.path().join("kubelet.crt")).and_then(|f| f.set_modified(later)).expect("touched");
        serving.reload().expect("read");
        let second = serving.current.read().1.clone().expect("one");
        assert_ne!(first.cert, second.cert);
        fs::write(dir.path().join("kubelet.crt"), "half").expect("written");
        assert!(serving.reload().is_err());
        assert!(serving.current.read().1.is_some(), "the old one stays");
    }

    #[test]
    fn a_certificate_is_made_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = self_signed(dir.path(), &["n".into(), "127.0.0.1".into()]).expect("made");
        assert_eq!(self_signed(dir.path(), &["n".into()]).expect("kept"), first);
    }
}
