//! KubeletConfiguration (`kubelet.config.k8s.io/v1beta1`): the fields this kubelet acts on, with upstream's defaults. Others are accepted and
//! ignored with a warning, so that a stock file works.

use anyhow::{Context, bail};
use serde::{Deserialize, Deserializer, de::Error};
use std::{collections::BTreeMap, path::Path};

/// The configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // The names are upstream's.
pub struct KubeletConfiguration {
    pub static_pod_path: String,
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
    pub cgroup_driver: String,
    pub cgroup_root: String,
    pub max_pods: i64,
    #[serde(rename = "podCIDR")]
    pub pod_cidr: String,
    pub port: u16,
    pub address: String,
    pub authentication: Authentication,
    pub authorization: Authorization,
    pub eviction_hard: EvictionHard,
    #[serde(rename = "resolvConf")]
    pub resolv_conf: String,
    pub seccomp_default: bool,
    pub allowed_unsafe_sysctls: Vec<String>,
    pub serialize_image_pulls: bool,
    pub max_parallel_image_pulls: Option<usize>,
    pub node_lease_duration_seconds: i32,
    #[serde(deserialize_with = "go_duration")]
    pub node_status_report_frequency: std::time::Duration,
    pub container_log_max_size: String,
    pub container_log_max_files: usize,
    pub container_runtime_endpoint: String,
    pub tls_cert_file: String,
    pub tls_private_key_file: String,
    pub register_with_taints: Vec<k8s_openapi::api::core::v1::Taint>,
    #[serde(flatten)]
    pub others: BTreeMap<String, serde_json::Value>,
}

impl Default for KubeletConfiguration {
    fn default() -> Self {
        KubeletConfiguration {
            static_pod_path: String::new(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            cgroup_driver: "cgroupfs".into(),
            cgroup_root: "/".into(),
            max_pods: 110,
            pod_cidr: String::new(),
            port: 10250,
            address: "0.0.0.0".into(),
            authentication: Authentication::default(),
            authorization: Authorization::default(),
            eviction_hard: EvictionHard::default(),
            resolv_conf: "/etc/resolv.conf".into(),
            seccomp_default: false,
            allowed_unsafe_sysctls: Vec::new(),
            serialize_image_pulls: true,
            max_parallel_image_pulls: None,
            node_lease_duration_seconds: 40,
            node_status_report_frequency: std::time::Duration::from_secs(300),
            container_log_max_size: "10Mi".into(),
            container_log_max_files: 5,
            container_runtime_endpoint: String::new(),
            tls_cert_file: String::new(),
            tls_private_key_file: String::new(),
            register_with_taints: Vec::new(),
            others: BTreeMap::new(),
        }
    }
}

/// Who may talk to the kubelet's server.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Authentication {
    pub anonymous: Enabled,
    pub webhook: Webhook,
    pub x509: X509,
}

/// A switch.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Enabled {
    pub enabled: bool,
}

/// Tokens are reviewed by the API server.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Webhook {
    pub enabled: bool,
}

impl Default for Webhook {
    fn default() -> Self {
        Webhook { enabled: true }
    }
}

/// Client certificates.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct X509 {
    #[serde(rename = "clientCAFile")]
    pub client_ca_file: String,
}

/// What they may do there: `Webhook` asks the API server, `AlwaysAllow` asks nobody.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Authorization {
    pub mode: String,
}

impl Default for Authorization {
    fn default() -> Self {
        Authorization { mode: "Webhook".into() }
    }
}

/// A threshold: an amount, or a share of the whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// Bytes.
    Amount(i64),
    /// A fraction of the whole.
    Share(f64),
}

impl Threshold {
    /// In bytes of `whole`.
    pub fn of(self, whole: i64) -> i64 {
        match self {
            Threshold::Amount(bytes) => bytes,
            // A share of a disk fits a float's 53 bits.
            Threshold::Share(share) => (whole as f64 * share) as i64,
        }
    }
}

impl<'de> Deserialize<'de> for Threshold {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || D::Error::custom(format!("{text:?} is neither an amount nor a percentage"));
        match text.strip_suffix('%') {
            Some(percent) => percent.parse::<f64>().map(|p| Threshold::Share(p / 100.0)).map_err(|_| wrong()),
            None => {
                let quantity = k8s_openapi::apimachinery::pkg::api::resource::Quantity(text.clone());
                crate::container::resources::whole(&quantity).map(Threshold::Amount).ok_or_else(wrong)
            }
        }
    }
}

/// `evictionHard`: what has to stay free. It shrinks what is allocatable; nothing is evicted for it yet.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct EvictionHard {
    #[serde(rename = "memory.available")]
    pub memory_available: Threshold,
    #[serde(rename = "nodefs.available")]
    pub nodefs_available: Threshold,
}

impl Default for EvictionHard {
    fn default() -> Self {
        EvictionHard { memory_available: Threshold::Amount(100 << 20), nodefs_available: Threshold::Share(0.10) }
    }
}

/// A duration as Go writes it: `1h2m3.5s`.
fn go_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<std::time::Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| D::Error::custom(format!("invalid duration {text:?}")))?;
    std::time::Duration::try_from(parsed).map_err(|_| D::Error::custom(format!("negative duration {text:?}")))
}

/// Reads a configuration file.
pub fn read(path: &Path) -> anyhow::Result<KubeletConfiguration> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    parse(&text).with_context(|| format!("in {}", path.display()))
}

fn parse(text: &str) -> anyhow::Result<KubeletConfiguration> {
    let mut config: KubeletConfiguration = serde_yaml::from_str(text)?;
    let meta = |others: &BTreeMap<String, serde_json::Value>, key: &str| others.get(key).and_then(|v| v.as_str().map(str::to_owned));
    match (meta(&config.others, "apiVersion").as_deref(), meta(&config.others, "kind").as_deref()) {
        (Some("kubelet.config.k8s.io/v1beta1"), Some("KubeletConfiguration")) => {}
        (version, kind) => {
            bail!("no kind {kind:?} is registered for version {version:?}; want KubeletConfiguration of kubelet.config.k8s.io/v1beta1")
        }
    }
    config.others.retain(|key, _| key != "apiVersion" && key != "kind");
    if !matches!(config.cgroup_driver.as_str(), "cgroupfs" | "systemd") {
        bail!("invalid configuration: cgroupDriver {:?} must be one of [\"cgroupfs\" \"systemd\"]", config.cgroup_driver);
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stock_file_is_read() {
        let config = parse(
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nstaticPodPath: /m\nclusterDNS: [10.0.0.10]\n\
             evictionHard: {memory.available: 5%, nodefs.available: 1Gi}\nrotateCertificates: true\nauthentication: {x509: {clientCAFile: /ca}}\nnodeStatusReportFrequency: 5m0s\n",
        )
        .expect("a good file");
        assert_eq!((config.static_pod_path.as_str(), config.cluster_dns[0].as_str()), ("/m", "10.0.0.10"));
        assert_eq!(config.eviction_hard.memory_available, Threshold::Share(0.05));
        assert_eq!(config.authentication.x509.client_ca_file, "/ca");
        assert!(config.authentication.webhook.enabled && !config.authentication.anonymous.enabled);
        assert!(config.others.contains_key("rotateCertificates"));
        for bad in [
            "kind: KubeletConfiguration",
            "apiVersion: v1\nkind: Pod",
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\ncgroupDriver: x",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
