//! KubeProxyConfiguration (`kubeproxy.config.k8s.io/v1alpha1`): the fields this proxy acts on, with upstream's defaults. Others are accepted and
//! ignored with a warning, so that a stock file works.

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// The configuration file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // The names are upstream's.
pub struct KubeProxyConfiguration {
    pub client_connection: ClientConnection,
    pub hostname_override: String,
    pub bind_address: IpAddr,
    pub healthz_bind_address: String,
    pub metrics_bind_address: String,
    pub mode: String,
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: String,
    pub detect_local_mode: String,
    #[serde(deserialize_with = "list")]
    pub node_port_addresses: Vec<String>,
    pub nftables: Nftables,
    #[serde(flatten)]
    pub others: BTreeMap<String, serde_json::Value>,
}

/// `clientConnection`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // The names are upstream's.
pub struct ClientConnection {
    pub kubeconfig: String,
    #[serde(flatten)]
    pub others: BTreeMap<String, serde_json::Value>,
}

/// `nftables`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // The names are upstream's.
pub struct Nftables {
    pub masquerade_all: bool,
    #[serde(rename = "masqueradeBit", deserialize_with = "bit")]
    pub masquerade_bit: u8,
    #[serde(flatten)]
    pub others: BTreeMap<String, serde_json::Value>,
}

impl Default for Nftables {
    fn default() -> Self {
        Self { masquerade_all: false, masquerade_bit: MASQUERADE_BIT, others: BTreeMap::new() }
    }
}

/// Upstream's default of `masqueradeBit`.
const MASQUERADE_BIT: u8 = 14;
/// In `nodePortAddresses`: the addresses that the Node says it has.
const PRIMARY: &str = "primary";

impl Default for KubeProxyConfiguration {
    fn default() -> Self {
        Self {
            client_connection: ClientConnection::default(),
            hostname_override: String::new(),
            bind_address: [0, 0, 0, 0].into(),
            healthz_bind_address: "0.0.0.0:10256".into(),
            metrics_bind_address: "127.0.0.1:10249".into(),
            mode: "nftables".into(),
            cluster_cidr: String::new(),
            detect_local_mode: "ClusterCIDR".into(),
            node_port_addresses: Vec::new(),
            nftables: Nftables::default(),
            others: BTreeMap::new(),
        }
    }
}

/// A stock file has `null` where it means the default.
fn list<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn bit<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u8, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(MASQUERADE_BIT))
}

/// Reads a file.
pub fn load(path: &Path) -> anyhow::Result<KubeProxyConfiguration> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    parse(&text).with_context(|| format!("in {}", path.display()))
}

/// Reads a configuration's text.
pub fn parse(text: &str) -> anyhow::Result<KubeProxyConfiguration> {
    let mut config: KubeProxyConfiguration = serde_yaml::from_str(text)?;
    let field = |name: &str| config.others.get(name).and_then(|value| value.as_str());
    if field("kind") != Some("KubeProxyConfiguration") || !field("apiVersion").is_some_and(|v| v.starts_with("kubeproxy.config.k8s.io/")) {
        bail!("expected kind KubeProxyConfiguration of kubeproxy.config.k8s.io");
    }
    config.others.retain(|name, _| name != "kind" && name != "apiVersion");
    for name in config.others.keys() {
        tracing::warn!("{name} in KubeProxyConfiguration has no effect here");
    }
    let defaults = KubeProxyConfiguration::default();
    // Stock files leave these empty for the default.
    let given = [&mut config.mode, &mut config.healthz_bind_address, &mut config.metrics_bind_address, &mut config.detect_local_mode];
    let by_default = [defaults.mode, defaults.healthz_bind_address, defaults.metrics_bind_address, defaults.detect_local_mode];
    for (field, default) in given.into_iter().zip(by_default) {
        if field.is_empty() {
            *field = default;
        }
    }
    Ok(config)
}

impl KubeProxyConfiguration {
    /// Whether it asks for what this proxy can do.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.mode != "nftables" {
            bail!("mode {:?}: only nftables is supported", self.mode);
        }
        if self.detect_local_mode != "ClusterCIDR" {
            bail!("detectLocalMode {:?}: only ClusterCIDR is supported", self.detect_local_mode);
        }
        if self.nftables.masquerade_bit > 31 {
            bail!("nftables.masqueradeBit {}: must be within the range [0, 31]", self.nftables.masquerade_bit);
        }
        let node_ports = self.node_port_addresses.iter().filter(|cidr| **cidr != PRIMARY || self.node_port_addresses.len() > 1);
        for cidr in self.cluster_cidrs().iter().chain(node_ports) {
            let parts = cidr.split_once('/').map(|(address, bits)| (address.parse::<IpAddr>(), bits.parse::<u8>()));
            if !matches!(parts, Some((Ok(address), Ok(bits))) if bits <= if address.is_ipv4() { 32 } else { 128 }) {
                bail!("{cidr:?} must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)");
            }
        }
        Ok(())
    }

    /// The networks on which NodePorts answer, of a node with these addresses; none means every address but loopback.
    pub fn node_port_networks(&self, node_ips: &[IpAddr]) -> Vec<String> {
        match self.node_port_addresses.as_slice() {
            [only] if only == PRIMARY => node_ips.iter().map(|ip| format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })).collect(),
            given => given.to_vec(),
        }
    }

    /// `clusterCIDR`, one for each family.
    pub fn cluster_cidrs(&self) -> Vec<String> {
        self.cluster_cidr.split(',').map(str::trim).filter(|cidr| !cidr.is_empty()).map(str::to_owned).collect()
    }
}

/// An address to bind: with its port, or with the default one. Port 0 says: do not serve.
pub fn bind_address(text: &str, default_port: u16) -> anyhow::Result<Option<SocketAddr>> {
    let address = text.parse::<SocketAddr>().or_else(|_| text.parse::<IpAddr>().map(|address| SocketAddr::new(address, default_port)));
    let address = address.with_context(|| format!("{text:?} is no address to bind"))?;
    Ok((address.port() != 0).then_some(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stock_file_is_understood() {
        let text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nclientConnection:\n  kubeconfig: /k\n  qps: 0\n\
                    clusterCIDR: 10.244.0.0/16\nmode: \"\"\nmetricsBindAddress: \"\"\nnodePortAddresses: null\niptables:\n  masqueradeAll: false\n\
                    nftables:\n  masqueradeAll: true\n  masqueradeBit: null\n  syncPeriod: 0s\n";
        let config = parse(text).unwrap();
        config.check().unwrap();
        assert_eq!((config.client_connection.kubeconfig.as_str(), config.cluster_cidr.as_str()), ("/k", "10.244.0.0/16"));
        assert!(config.nftables.masquerade_all);
        assert_eq!((config.nftables.masquerade_bit, config.metrics_bind_address.as_str()), (14, "127.0.0.1:10249"));
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        assert!(parse("kind: Pod\napiVersion: v1\n").is_err());
        let with = |change: fn(&mut KubeProxyConfiguration)| {
            let mut config = KubeProxyConfiguration::default();
            change(&mut config);
            config.check().is_err()
        };
        assert!(!with(|_| ()));
        assert!(!with(|config| config.node_port_addresses = vec!["primary".into()]));
        assert!(with(|config| config.node_port_addresses = vec!["primary".into(), "10.0.0.0/8".into()]));
        assert!(with(|config| config.mode = "iptables".into()));
        assert!(with(|config| config.cluster_cidr = "10.0.0.0".into()));
        assert!(with(|config| config.nftables.masquerade_bit = 32));
    }

    #[test]
    fn the_primary_addresses_are_the_nodes() {
        let with = |given: &[&str]| {
            let node_port_addresses = given.iter().map(|&text| text.to_owned()).collect();
            let config = KubeProxyConfiguration { node_port_addresses, ..KubeProxyConfiguration::default() };
            config.node_port_networks(&["192.0.2.1".parse().unwrap(), "fd00::1".parse().unwrap()])
        };
        assert_eq!(with(&["primary"]), ["192.0.2.1/32", "fd00::1/128"]);
        assert_eq!(with(&["10.0.0.0/8"]), ["10.0.0.0/8"]);
        assert!(with(&[]).is_empty());
    }

    #[test]
    fn addresses_to_bind() {
        assert_eq!(bind_address("127.0.0.1", 10249).unwrap(), Some(([127, 0, 0, 1], 10249).into()));
        assert_eq!(bind_address("[::]:1", 10249).unwrap().unwrap().port(), 1);
        assert_eq!(bind_address("0.0.0.0:0", 10249).unwrap(), None);
        assert!(bind_address("localhost", 1).is_err());
    }
}
