//! Names: the pod's host name, its hosts file, its resolver configuration (upstream: `pkg/kubelet/network/dns`, `kubelet_pods.go`).

use k8s_cri::v1::{DnsConfig, PortMapping, Protocol};
use k8s_openapi::api::core::v1::{Pod, PodSpec};

/// What resolver configurations are made from.
#[derive(Clone, Debug, Default)]
pub struct Resolver {
    /// `clusterDNS`.
    pub cluster_dns: Vec<String>,
    /// `clusterDomain`.
    pub cluster_domain: String,
    /// What the node's own resolver file says.
    pub host: DnsConfig,
}

/// The longest host name the kernel takes, less one for a terminating zero.
const MAX_HOST_NAME: usize = 63;
/// How many name servers a resolver uses (resolv.conf(5)).
const MAX_SERVERS: usize = 3;
/// How many search domains upstream passes on.
const MAX_SEARCHES: usize = 32;

/// Reads a resolver file.
pub fn parse_resolv_conf(text: &str) -> DnsConfig {
    let mut out = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => out.servers.extend(words.next().map(str::to_owned)),
            Some("search") => out.searches = words.map(str::to_owned).collect(),
            Some("options") => out.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    out
}

/// The pod's host name, cut to what the kernel takes.
pub fn hostname(pod: &Pod, node: &str) -> String {
    let spec = pod.spec.as_ref();
    if let Some(name) = spec.and_then(|s| s.hostname_override.as_deref()).filter(|n| !n.is_empty()) {
        return name.to_owned();
    }
    if spec.and_then(|s| s.host_network) == Some(true) {
        return node.to_owned();
    }
    let wanted = spec.and_then(|s| s.hostname.as_deref()).filter(|n| !n.is_empty());
    let name = wanted.unwrap_or_else(|| super::identity::name(pod));
    let mut cut = name.get(..MAX_HOST_NAME).unwrap_or(name);
    cut = cut.trim_end_matches(['-', '.']);
    cut.to_owned()
}

/// The pod's fully qualified name, if it has a subdomain and no name of its own choice.
pub fn domain(pod: &Pod, node: &str, cluster_domain: &str) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if spec.hostname_override.as_deref().is_some_and(|n| !n.is_empty()) {
        return None;
    }
    let subdomain = spec.subdomain.as_deref().filter(|s| !s.is_empty())?;
    Some(format!("{}.{subdomain}.{}.svc.{cluster_domain}", hostname(pod, node), super::identity::namespace(pod)))
}

/// What the kernel of the sandbox calls it: the host name, or all of the domain with `setHostnameAsFQDN`.
pub fn sandbox_hostname(pod: &Pod, node: &str, cluster_domain: &str) -> String {
    let whole = pod.spec.as_ref().and_then(|s| s.set_hostname_as_fqdn) == Some(true);
    domain(pod, node, cluster_domain).filter(|_| whole).unwrap_or_else(|| hostname(pod, node))
}

/// The longest name that the kernel takes (`HOST_NAME_MAX`).
const MAX_FQDN: usize = 64;

/// Refuses a pod whose kernel cannot be called what it asks for.
pub fn verify_hostname(pod: &Pod, node: &str, cluster_domain: &str) -> Result<(), String> {
    let name = sandbox_hostname(pod, node, cluster_domain);
    let own = pod.spec.as_ref().and_then(|s| s.set_hostname_as_fqdn) == Some(true);
    if own && name.len() > MAX_FQDN {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too long ({MAX_FQDN} characters is the max, {} characters requested)",
            name.len()
        ));
    }
    Ok(())
}

/// The resolver configuration the sandbox gets, by `dnsPolicy` and `dnsConfig`. `None` leaves the choice to the runtime.
pub fn dns(pod: &Pod, resolver: &Resolver) -> Option<DnsConfig> {
    let spec = pod.spec.as_ref()?;
    let host_network = spec.host_network == Some(true);
    let policy = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "ClusterFirstWithHostNet" => "ClusterFirst",
        "ClusterFirst" if host_network => "Default",
        other => other,
    };
    let mut config = match policy {
        "None" => DnsConfig::default(),
        "ClusterFirst" if !resolver.cluster_dns.is_empty() => {
            let namespace = super::identity::namespace(pod);
            let domain = &resolver.cluster_domain;
            let mut searches = Vec::new();
            if !domain.is_empty() {
                searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            }
            searches.extend(resolver.host.searches.iter().cloned());
            DnsConfig { servers: resolver.cluster_dns.clone(), searches, options: vec!["ndots:5".into()] }
        }
        _ => resolver.host.clone(),
    };
    if let Some(own) = &spec.dns_config {
        config.servers.extend(own.nameservers.iter().flatten().cloned());
        config.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or_default();
            config.options.retain(|o| o.split(':').next() != Some(name));
            config.options.push(match option.value.as_deref() {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.to_owned(),
            });
        }
    }
    for list in [&mut config.servers, &mut config.searches] {
        let mut seen = std::collections::HashSet::new();
        list.retain(|entry| seen.insert(entry.clone()));
    }
    config.servers.truncate(MAX_SERVERS);
    config.searches.truncate(MAX_SEARCHES);
    Some(config)
}

/// The hosts file of a pod. With the node's network it is the node's own (`host_file`), and `hostAliases` come last in both cases.
pub fn hosts_file(pod: &Pod, node: &str, cluster_domain: &str, ips: &[String], host_file: &str) -> String {
    let spec = pod.spec.as_ref();
    let mut out = String::new();
    if spec.and_then(|s| s.host_network) == Some(true) {
        out.push_str("# Kubernetes-managed hosts file (host network).\n");
        out.push_str(host_file);
    } else {
        out.push_str("# Kubernetes-managed hosts file.\n");
        for line in [
            "127.0.0.1\tlocalhost",
            "::1\tlocalhost ip6-localhost ip6-loopback",
            "fe00::0\tip6-localnet",
            "fe00::0\tip6-mcastprefix",
            "fe00::1\tip6-allnodes",
            "fe00::2\tip6-allrouters",
        ] {
            out.push_str(line);
            out.push('\n');
        }
        let name = hostname(pod, node);
        for ip in ips {
            match domain(pod, node, cluster_domain) {
                Some(domain) => out.push_str(&format!("{ip}\t{domain}\t{name}\n")),
                None => out.push_str(&format!("{ip}\t{name}\n")),
            }
        }
    }
    let aliases = spec.and_then(|s| s.host_aliases.as_ref());
    if let Some(aliases) = aliases.filter(|a| !a.is_empty()) {
        out.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            out.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t")));
        }
    }
    out
}

/// The ports that CNI maps to the node's.
pub fn port_mappings(spec: &PodSpec) -> Vec<PortMapping> {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ports = containers.flat_map(|c| c.ports.iter().flatten());
    ports
        .map(|port| PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            } as i32,
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec})).expect("a pod")
    }

    fn resolver() -> Resolver {
        Resolver {
            cluster_dns: vec!["10.0.0.10".into()],
            cluster_domain: "cluster.local".into(),
            host: parse_resolv_conf("# c\nnameserver 192.0.2.1\nsearch example.org\noptions edns0\n"),
        }
    }

    #[test]
    fn the_policy_chooses_the_resolver() {
        let cluster = dns(&pod(json!({"containers": []})), &resolver()).expect("a pod with a spec");
        assert_eq!(cluster.servers, ["10.0.0.10"]);
        assert_eq!(cluster.searches, ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.org"]);
        assert_eq!(cluster.options, ["ndots:5"]);
        let host = dns(&pod(json!({"containers": [], "hostNetwork": true})), &resolver()).expect("a pod with a spec");
        assert_eq!((host.servers, host.options), (vec!["192.0.2.1".to_owned()], vec!["edns0".to_owned()]));
        let own = json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "options": [{"name": "ndots", "value": "2"}]}});
        let none = dns(&pod(own), &resolver()).expect("a pod with a spec");
        assert_eq!((none.servers, none.options), (vec!["1.1.1.1".to_owned()], vec!["ndots:2".to_owned()]));
    }

    #[test]
    fn a_pod_may_be_called_by_its_whole_domain_if_the_kernel_can() {
        let named = |subdomain: &str, whole: bool| pod(json!({"containers": [], "subdomain": subdomain, "setHostnameAsFQDN": whole}));
        assert_eq!(sandbox_hostname(&named("s", false), "n", "x.y"), "p");
        assert_eq!(sandbox_hostname(&named("s", true), "n", "x.y"), "p.s.ns.svc.x.y");
        assert!(verify_hostname(&named(&"s".repeat(63), false), "n", "x.y").is_ok());
        assert!(verify_hostname(&named(&"s".repeat(63), true), "n", "x.y").is_err_and(|e| e.contains("76 characters requested")));
    }

    #[test]
    fn hosts_name_the_pod_and_its_aliases() {
        let spec =
            json!({"containers": [], "hostname": "h", "subdomain": "sub", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]});
        let text = hosts_file(&pod(spec), "n1", "cluster.local", &["10.1.0.2".into()], "");
        assert!(text.contains("10.1.0.2\th.sub.ns.svc.cluster.local\th\n"), "{text}");
        assert!(text.ends_with("1.2.3.4\ta\tb\n"), "{text}");
    }
}
