//! The sandbox of a pod: what its containers share (upstream: `kuberuntime/kuberuntime_sandbox.go`).

use super::{
    identity,
    network::{self, Resolver},
    resources, security, sysctl,
};
use k8s_cri::v1::{LinuxContainerResources, LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, UserNamespace};
use k8s_openapi::api::core::v1::Pod;

/// What of the node goes into a sandbox.
pub struct SandboxContext<'a> {
    /// The node's name: the host name of pods on its network.
    pub node: &'a str,
    /// The root of all pods' log directories.
    pub log_root: &'a str,
    /// The pod's cgroup, as the runtime's cgroup driver names it.
    pub cgroup_parent: String,
    /// The namespace of its users.
    pub users: UserNamespace,
    /// Where resolver configurations come from.
    pub resolver: &'a Resolver,
}

/// The configuration of a pod's sandbox. `attempt` counts the sandboxes that it had before.
pub fn sandbox_config(pod: &Pod, attempt: u32, context: &SandboxContext<'_>) -> PodSandboxConfig {
    let spec = pod.spec.clone().unwrap_or_default();
    let (namespace, name, uid) = (identity::namespace(pod), identity::name(pod), identity::uid(pod));
    let host_network = spec.host_network == Some(true);
    let mut sysctls = std::collections::HashMap::new();
    for sysctl in spec.security_context.iter().flat_map(|c| c.sysctls.iter().flatten()) {
        sysctls.insert(sysctl::normalized(&sysctl.name), sysctl.value.clone());
    }
    // On the node's network the runtime takes the node's host name; passing it would rename the node.
    let hostname =
        if host_network { String::new() } else { network::sandbox_hostname(pod, context.node, &context.resolver.cluster_domain) };
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata { name: name.into(), uid: uid.into(), namespace: namespace.into(), attempt }),
        hostname,
        log_directory: format!("{}/{}", context.log_root, identity::log_directory(namespace, name, uid)),
        dns_config: network::dns(pod, context.resolver),
        port_mappings: if host_network { Vec::new() } else { network::port_mappings(&spec) },
        labels: identity::sandbox_labels(pod),
        annotations: pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: context.cgroup_parent.clone(),
            security_context: Some(security::sandbox_context(pod, context.users.clone())),
            sysctls,
            overhead: Some(LinuxContainerResources::default()),
            resources: Some(LinuxContainerResources {
                cpu_period: resources::CPU_PERIOD,
                cpu_shares: i64::try_from(resources::shares(resources::pod_total(&spec, "cpu", false))).unwrap_or(2),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}
