//! The flags, under upstream's names (`kube-apiserver --help`), and what they mean when not given.
//!
//! Parsing only: nothing here touches a file. A server started with none of them makes what it needs under its data directory.

use crate::authentication::jwt::configuration::OidcFlags;
use crate::authorization::Mode;
use std::net::IpAddr;
use std::path::PathBuf;

/// Flags of the apiserver.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The port to serve HTTPS on; 0 takes any free one
    #[arg(long, default_value_t = 6443)]
    pub secure_port: u16,
    /// The address to listen on
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// The address that others in the cluster reach this server under; found out when not given
    #[arg(long)]
    pub advertise_address: Option<IpAddr>,
    /// Directory of keys and certificates, under kubeadm's names; what is missing is made. Under the data directory when not given
    #[arg(long)]
    pub cert_dir: Option<PathBuf>,
    /// Serving certificate; `apiserver.crt` of the certificate directory when not given
    #[arg(long, requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Key of the serving certificate
    #[arg(long, requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
    /// Authorities whose client certificates name users; `ca.crt` of the certificate directory when not given
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    /// Authorities of front proxies, which name users in headers; `front-proxy-ca.crt` of the certificate directory when not given
    #[arg(long)]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Common names of front proxies; any of their authority when empty
    #[arg(long, value_delimiter = ',', default_value = "front-proxy-client")]
    pub requestheader_allowed_names: Vec<String>,
    /// Headers that name the user
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-User")]
    pub requestheader_username_headers: Vec<String>,
    /// Headers that name the user's id
    #[arg(long, value_delimiter = ',')]
    pub requestheader_uid_headers: Vec<String>,
    /// Headers that name the user's groups
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-Group")]
    pub requestheader_group_headers: Vec<String>,
    /// What headers begin with that tell more of the user
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-Extra-")]
    pub requestheader_extra_headers_prefix: Vec<String>,
    /// Certificate that proves to other API servers whom this one names; `front-proxy-client.crt` of the certificate directory when not given
    #[arg(long, requires = "proxy_client_key_file")]
    pub proxy_client_cert_file: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long, requires = "proxy_client_cert_file")]
    pub proxy_client_key_file: Option<PathBuf>,
    /// Static tokens, a line each: token,user,uid,"group1,group2"
    #[arg(long)]
    pub token_auth_file: Option<PathBuf>,
    /// Issuers of tokens that name users, as an AuthenticationConfiguration, in place of the flags about one issuer
    #[arg(long, conflicts_with = "oidc_issuer_url")]
    pub authentication_config: Option<PathBuf>,
    /// The same for one issuer
    #[command(flatten)]
    pub oidc: OidcFlags,
    /// Whether requests without credentials are served as system:anonymous
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub anonymous_auth: bool,
    /// How requests are authorized, in this order
    #[arg(long, value_delimiter = ',', default_value = "Node,RBAC")]
    pub authorization_mode: Vec<Mode>,
    /// Whether pods may run privileged containers
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub allow_privileged: bool,
    /// Whether this server checks the types in ValidatingAdmissionPolicies and tells it in their status. Upstream's controller-manager does that; ours leaves
    /// it to the server, which has the types
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub check_policy_types: bool,
    /// Admission plugins to switch on besides the default ones
    #[arg(long, value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,
    /// Admission plugins to switch off
    #[arg(long, value_delimiter = ',')]
    pub disable_admission_plugins: Vec<String>,
    /// The range of service addresses
    #[arg(long, default_value = "10.96.0.0/12")]
    pub service_cluster_ip_range: String,
    /// The range of node ports
    #[arg(long, default_value = "30000-32767")]
    pub service_node_port_range: String,
    /// Issuers of service account tokens: the first signs, all are accepted
    #[arg(long, default_value = "https://kubernetes.default.svc.cluster.local")]
    pub service_account_issuer: Vec<String>,
    /// Keys that service account tokens are verified with; `sa.pub` of the certificate directory when not given
    #[arg(long)]
    pub service_account_key_file: Vec<PathBuf>,
    /// Key that service account tokens are signed with; `sa.key` of the certificate directory when not given
    #[arg(long)]
    pub service_account_signing_key_file: Option<PathBuf>,
    /// Audiences that tokens are for; the issuer when not given
    #[arg(long, value_delimiter = ',')]
    pub api_audiences: Vec<String>,
    /// Certificate to present to kubelets; `apiserver-kubelet-client.crt` of the certificate directory when not given
    #[arg(long)]
    pub kubelet_client_certificate: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long)]
    pub kubelet_client_key: Option<PathBuf>,
    /// Authority to verify kubelets with; kubelets are not verified when not given
    #[arg(long)]
    pub kubelet_certificate_authority: Option<PathBuf>,
    /// An etcd cluster to store in; a store of our own under the data directory when not given
    #[arg(long, value_delimiter = ',')]
    pub etcd_servers: Vec<String>,
    /// Authority that etcd's certificate must be of
    #[arg(long)]
    pub etcd_cafile: Option<PathBuf>,
    /// Certificate to present to etcd
    #[arg(long, requires = "etcd_keyfile")]
    pub etcd_certfile: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long, requires = "etcd_certfile")]
    pub etcd_keyfile: Option<PathBuf>,
    /// What all keys in the store begin with
    #[arg(long, default_value = "/registry")]
    pub etcd_prefix: String,
    /// Which resources are encrypted in the store, and how
    #[arg(long)]
    pub encryption_provider_config: Option<PathBuf>,
    /// How long events are kept, in seconds
    #[arg(long, default_value_t = 3600)]
    pub event_ttl_seconds: u64,
    /// Directory of the store
    #[arg(long, default_value = "/var/lib/skiff/apiserver")]
    pub data_dir: PathBuf,
    /// Reads that are worked on at a time
    #[arg(long, default_value_t = 400)]
    pub max_requests_inflight: usize,
    /// Writes that are worked on at a time
    #[arg(long, default_value_t = 200)]
    pub max_mutating_requests_inflight: usize,
    /// A watch that names no timeout ends after a random time between this, in seconds, and twice this
    #[arg(long, default_value_t = 1800)]
    pub min_request_timeout: u64,
    /// Which requests are recorded in the audit log, and how much of them
    #[arg(long, requires = "audit_log_path")]
    pub audit_policy_file: Option<PathBuf>,
    /// The audit log; - is the standard output
    #[arg(long, requires = "audit_policy_file")]
    pub audit_log_path: Option<PathBuf>,
    /// The audit log is turned over at this size, in MiB
    #[arg(long, default_value_t = 100)]
    pub audit_log_maxsize: u64,
    /// How many audit logs that were turned over are kept; 0 keeps all
    #[arg(long, default_value_t = 0)]
    pub audit_log_maxbackup: usize,
    /// Features to turn on or off: name=true or name=false
    #[arg(long, value_delimiter = ',')]
    pub feature_gates: Vec<String>,
    /// How much to log: 0 to 2 is informational, 4 debug, 6 and above everything
    #[arg(long, short, default_value_t = 0)]
    pub v: u8,
}

impl Default for Options {
    fn default() -> Self {
        use clap::{Args, FromArgMatches};
        let matches = Options::augment_args(clap::Command::new("apiserver")).get_matches_from(["apiserver"]);
        Options::from_arg_matches(&matches).expect("every flag has a default")
    }
}

impl Options {
    /// The certificate directory.
    pub fn cert_dir(&self) -> PathBuf {
        self.cert_dir.clone().unwrap_or_else(|| self.data_dir.join("pki"))
    }

    /// The first and last node port, or what is wrong with the flag.
    pub fn node_ports(&self) -> anyhow::Result<std::ops::RangeInclusive<u16>> {
        let bad = || anyhow::anyhow!("--service-node-port-range {:?}: want FIRST-LAST", self.service_node_port_range);
        let (first, last) = self.service_node_port_range.split_once('-').ok_or_else(bad)?;
        let range = first.trim().parse().map_err(|_| bad())?..=last.trim().parse().map_err(|_| bad())?;
        if range.is_empty() { Err(bad()) } else { Ok(range) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_needs_to_be_given() {
        let options = Options::default();
        assert_eq!(options.secure_port, 6443);
        assert_eq!(options.authorization_mode, [Mode::Node, Mode::Rbac]);
        assert_eq!(options.node_ports().unwrap(), 30000..=32767);
        assert!(options.cert_dir().starts_with(&options.data_dir));
    }
}
