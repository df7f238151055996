//! Keys and certificates of a cluster: `apiserver pki` writes them under kubeadm's file names, and an apiserver started without
//! them makes what is missing.
//!
//! What exists is kept, so it can be run again at any time and files of the user's own are respected. A leaf that is missing needs its
//! authority's key; an authority whose key is kept elsewhere (kubeadm's "external CA") is fine as long as nothing has to be signed.
//! Renewal before expiry is left out: deleting a leaf and running it again renews that leaf.

mod authority;
mod kubeconfig;

pub use authority::{Authority, Issued, Leaf, Usage};

use rcgen::KeyPair;
use std::{
    fs,
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key or certificate cannot be made, or one that was found cannot be used.
    #[error("{path}: {source}")]
    Crypto {
        /// Which.
        path: PathBuf,
        /// Why.
        source: rcgen::Error,
    },
    /// A certificate stands without its key.
    #[error("{0}: the certificate exists, but not its key")]
    KeyMissing(PathBuf),
}

/// `apiserver pki`: writes the cluster's keys, certificates and kubeconfigs.
#[derive(Clone, Debug, clap::Args)]
pub struct Command {
    /// Directory of keys and certificates, under kubeadm's names
    #[arg(long, default_value = "/etc/kubernetes/pki")]
    pub cert_dir: PathBuf,
    /// Directory for admin.conf, super-admin.conf, controller-manager.conf, scheduler.conf, kubelet.conf, kube-proxy.conf, dns.conf and pod-network.conf; none are written without it
    #[arg(long)]
    pub kubeconfig_dir: Option<PathBuf>,
    /// The apiserver's URL, as kubeconfigs name it
    #[arg(long, default_value = "https://127.0.0.1:6443")]
    pub server: String,
    /// The node that kubelet.conf is for; this host's name when not given
    #[arg(long)]
    pub node_name: Option<String>,
    /// The address that the apiserver advertises
    #[arg(long)]
    pub advertise_address: Option<IpAddr>,
    /// The range of service addresses, whose first is the apiserver's own
    #[arg(long, default_value = "10.96.0.0/12")]
    pub service_cluster_ip_range: String,
    /// Further names and addresses for the apiserver's certificate
    #[arg(long, value_delimiter = ',')]
    pub apiserver_cert_extra_sans: Vec<String>,
}

impl Command {
    /// Makes what is missing.
    pub fn run(&self, now: SystemTime) -> Result<(), PkiError> {
        let host = host_name();
        let mut names = serving_names(&host, &self.service_cluster_ip_range, self.advertise_address);
        names.extend(host_of(&self.server));
        names.extend(self.apiserver_cert_extra_sans.iter().cloned());
        let authority = ensure(&self.cert_dir, names, now)?;
        let Some(directory) = &self.kubeconfig_dir else { return Ok(()) };
        let node = self.node_name.clone().unwrap_or(host);
        create_directory(directory)?;
        for (file, client) in clients(&node) {
            let path = directory.join(file);
            let certificate = read(&self.cert_dir.join("ca.crt"))?;
            if path.exists() && kubeconfig::leads_to(&read(&path)?, &self.server, &certificate, &client.common_name) {
                continue;
            }
            let issued = authority.signer()?.issue(&client, now).map_err(crypto(&path))?;
            write(&path, &kubeconfig::render(&self.server, &certificate, &client.common_name, &issued), 0o600)?;
        }
        Ok(())
    }
}

/// The kubeconfigs and whom they are for, as kubeadm has them; the last three for what runs in pods there, under the names that the usual roles
/// are bound to.
fn clients(node: &str) -> [(&'static str, Leaf); 8] {
    [
        ("admin.conf", Leaf::client("kubernetes-admin", "kubeadm:cluster-admins")),
        ("super-admin.conf", Leaf::client("kubernetes-super-admin", "system:masters")),
        ("controller-manager.conf", Leaf::client("system:kube-controller-manager", "")),
        ("scheduler.conf", Leaf::client("system:kube-scheduler", "")),
        ("kubelet.conf", Leaf::client(format!("system:node:{node}"), "system:nodes")),
        ("kube-proxy.conf", Leaf::client("system:kube-proxy", "")),
        ("dns.conf", Leaf::client("system:coredns", "")),
        ("pod-network.conf", Leaf::client("system:pod-network", "")),
    ]
}

/// The cluster's authority as found or made: it may be unable to sign, when its key is not there.
pub struct ClusterAuthority(Option<Authority>, PathBuf);

impl ClusterAuthority {
    fn signer(&self) -> Result<&Authority, PkiError> {
        self.0.as_ref().ok_or_else(|| PkiError::KeyMissing(self.1.clone()))
    }
}

/// Makes what is missing in `directory`: authorities, the serving certificate for `names`, clients of the apiserver, service account keys.
pub fn ensure(directory: &Path, mut names: Vec<String>, now: SystemTime) -> Result<ClusterAuthority, PkiError> {
    create_directory(directory)?;
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    let cluster = ensure_authority(directory, "ca", "kubernetes", now)?;
    let front_proxy = ensure_authority(directory, "front-proxy-ca", "front-proxy-ca", now)?;
    let serving = Leaf { common_name: "kube-apiserver".into(), organization: String::new(), usage: Usage::Server(names) };
    let leaves = [
        ("apiserver", &cluster, serving),
        ("apiserver-kubelet-client", &cluster, Leaf::client("kube-apiserver-kubelet-client", "system:masters")),
        ("front-proxy-client", &front_proxy, Leaf::client("front-proxy-client", "")),
    ];
    for (file, authority, leaf) in leaves {
        let (certificate, key) = (directory.join(format!("{file}.crt")), directory.join(format!("{file}.key")));
        match (certificate.exists(), key.exists()) {
            (true, true) => continue,
            (true, false) => return Err(PkiError::KeyMissing(certificate)),
            (false, _) => {}
        }
        let issued = authority.signer()?.issue(&leaf, now).map_err(crypto(&certificate))?;
        write(&key, &issued.key, 0o600)?;
        write(&certificate, &issued.certificate, 0o644)?;
    }
    let (private, public) = (directory.join("sa.key"), directory.join("sa.pub"));
    if !private.exists() && !public.exists() {
        write(&private, &KeyPair::generate().map_err(crypto(&private))?.serialize_pem(), 0o600)?;
    }
    if !public.exists() {
        let key = KeyPair::from_pem(&read(&private)?).map_err(crypto(&private))?;
        write(&public, &key.public_key_pem(), 0o644)?;
    }
    Ok(cluster)
}

fn ensure_authority(directory: &Path, file: &str, common_name: &str, now: SystemTime) -> Result<ClusterAuthority, PkiError> {
    let (certificate, key) = (directory.join(format!("{file}.crt")), directory.join(format!("{file}.key")));
    let authority = match (certificate.exists(), key.exists()) {
        (true, true) => {
            let issued = Issued { certificate: read(&certificate)?, key: read(&key)? };
            Some(Authority::load(issued).map_err(crypto(&certificate))?)
        }
        (true, false) => None,
        (false, _) => {
            let authority = Authority::new(common_name, now).map_err(crypto(&certificate))?;
            write(&key, &authority.pem().key, 0o600)?;
            write(&certificate, &authority.pem().certificate, 0o644)?;
            Some(authority)
        }
    };
    Ok(ClusterAuthority(authority, certificate))
}

/// The names and addresses under which clients reach an apiserver: those that pods use, this host's, the first service address.
pub fn serving_names(host: &str, service_range: &str, advertise: Option<IpAddr>) -> Vec<String> {
    let service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
    let mut names: Vec<String> = service.iter().map(|s| s.to_string()).collect();
    names.extend(["localhost".to_owned(), host.to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()]);
    names.extend(service_range.split(',').filter_map(first_address).map(|a| a.to_string()));
    names.extend(advertise.map(|a| a.to_string()));
    names
}

/// The first usable address of a range, which the `kubernetes` service has: `10.96.0.1` of `10.96.0.0/12`.
pub fn first_address(range: &str) -> Option<IpAddr> {
    let (network, bits) = range.trim().split_once('/')?;
    let bits: u32 = bits.parse().ok()?;
    Some(match network.parse().ok()? {
        IpAddr::V4(address) if bits <= 32 => IpAddr::V4((((u32::from(address) as u64 & mask(32, bits) as u64) as u32) + 1).into()),
        IpAddr::V6(address) if bits <= 128 => IpAddr::V6(((u128::from(address) & mask(128, bits)) + 1).into()),
        _ => return None,
    })
}

fn mask(width: u32, bits: u32) -> u128 {
    (u128::MAX >> (128 - width)) & !((1u128 << (width - bits)).wrapping_sub(1))
}

/// This machine's name, in lower case, as upstream uses it for nodes.
pub fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_lowercase();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

fn host_of(url: &str) -> Option<String> {
    let uri: http::Uri = url.parse().ok()?;
    Some(uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned())
}

fn crypto(path: &Path) -> impl FnOnce(rcgen::Error) -> PkiError + use<> {
    let path = path.to_owned();
    move |source| PkiError::Crypto { path, source }
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> PkiError + use<> {
    let path = path.to_owned();
    move |source| PkiError::File { path, source }
}

fn create_directory(path: &Path) -> Result<(), PkiError> {
    fs::create_dir_all(path).map_err(file(path))
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(file(path))
}

/// Writes the file with this mode, whole or not at all.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let new = path.with_extension("new");
    let written = (|| {
        let _ = fs::remove_file(&new); // One left by a write that was cut short may have another mode.
        let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        out.write_all(text.as_bytes())?;
        fs::rename(&new, path)
    })();
    written.map_err(file(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeMap, os::unix::fs::PermissionsExt};

    fn command(directory: &Path) -> Command {
        Command {
            cert_dir: directory.join("pki"),
            kubeconfig_dir: Some(directory.to_owned()),
            server: "https://127.0.0.1:6443".into(),
            node_name: Some("n1".into()),
            advertise_address: None,
            service_cluster_ip_range: "10.96.0.0/12".into(),
            apiserver_cert_extra_sans: vec![],
        }
    }

    fn contents(directory: &Path) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(contents(&path));
            } else {
                found.insert(path.clone(), fs::read_to_string(&path).unwrap());
            }
        }
        found
    }

    #[test]
    fn a_second_run_changes_nothing_and_a_missing_leaf_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let command = command(directory.path());
        command.run(SystemTime::now()).unwrap();
        let first = contents(directory.path());
        let kubeconfigs = first.keys().filter(|path| path.extension().is_some_and(|e| e == "conf")).count();
        assert_eq!((kubeconfigs, first.len() - kubeconfigs), (8, 12), "{:?}", first.keys());
        command.run(SystemTime::now()).unwrap();
        assert_eq!(contents(directory.path()), first);
        fs::remove_file(directory.path().join("pki/apiserver.crt")).unwrap();
        command.run(SystemTime::now()).unwrap();
        let third = contents(directory.path());
        let changed: Vec<_> =
            third.iter().filter(|(path, text)| first[*path] != **text).map(|(path, _)| path.file_name().unwrap()).collect();
        assert_eq!(changed, ["apiserver.crt", "apiserver.key"]);
    }

    #[test]
    fn keys_and_kubeconfigs_are_for_their_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        command(directory.path()).run(SystemTime::now()).unwrap();
        for path in contents(directory.path()).keys() {
            let secret = path.extension().is_some_and(|e| e == "key" || e == "conf");
            let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode & 0o077 == 0, secret, "{path:?} {mode:o}");
        }
    }

    #[test]
    fn a_changed_server_makes_new_kubeconfigs() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = command(directory.path());
        command.run(SystemTime::now()).unwrap();
        command.server = "https://127.0.0.1:7443".into();
        command.run(SystemTime::now()).unwrap();
        assert!(fs::read_to_string(directory.path().join("admin.conf")).unwrap().contains("https://127.0.0.1:7443"));
    }

    #[test]
    fn an_authority_without_its_key_signs_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let command = command(directory.path());
        command.run(SystemTime::now()).unwrap();
        fs::remove_file(directory.path().join("pki/ca.key")).unwrap();
        command.run(SystemTime::now()).unwrap();
        fs::remove_file(directory.path().join("pki/apiserver.crt")).unwrap();
        assert!(matches!(command.run(SystemTime::now()), Err(PkiError::KeyMissing(_))));
    }

    #[test]
    fn first_addresses() {
        for (range, first) in
            [("10.96.0.0/12", "10.96.0.1"), ("10.97.3.7/24", "10.97.3.1"), ("fd00::/108", "fd00::1"), ("0.0.0.0/0", "0.0.0.1")]
        {
            assert_eq!(first_address(range), Some(first.parse().unwrap()), "{range}");
        }
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "x/8"] {
            assert_eq!(first_address(bad), None, "{bad}");
        }
    }
}
