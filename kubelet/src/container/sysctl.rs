//! Sysctls: their names, and which a pod may set (upstream: `pkg/kubelet/sysctl`).
//!
//! Safe ones are of a namespace of the pod's own and harm nobody else; others are the node's owner's to allow (`allowedUnsafeSysctls`).

use k8s_openapi::api::core::v1::Pod;

/// What any pod may set. Upstream asks for a new enough kernel for some; all that are in use are.
const SAFE: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];
/// What is of the IPC namespace; what begins with `net.` is of the network's.
const IPC: &[&str] = &[
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
];
const IPC_PREFIX: &str = "fs.mqueue.";
const NET_PREFIX: &str = "net.";

/// With dots between its parts: slashes do as well, and then a dot is part of a name.
pub fn normalized(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// Why a pod may not set what it sets, if so. `allowed` are names, or prefixes that end in `*`.
pub fn verify(pod: &Pod, allowed: &[String]) -> Result<(), String> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    for sysctl in spec.security_context.iter().flat_map(|s| s.sysctls.iter().flatten()) {
        let name = normalized(&sysctl.name);
        let matches = |pattern: &String| pattern.strip_suffix('*').map_or(*pattern == name, |prefix| name.starts_with(prefix));
        if !SAFE.contains(&name.as_str()) && !allowed.iter().any(matches) {
            return Err(format!("forbidden sysctl: {name:?} not allowlisted"));
        }
        let ipc = IPC.contains(&name.as_str()) || name.starts_with(IPC_PREFIX);
        let net = name.starts_with(NET_PREFIX);
        for (namespaced, host, what) in [(ipc, spec.host_ipc, "ipc"), (net, spec.host_network, "net")] {
            if namespaced && host == Some(true) {
                return Err(format!("forbidden sysctl: {name:?} not allowed with host {what} enabled"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_safe_or_allowed_is_set() {
        let pod = |name: &str, host: bool| -> Pod {
            let context = json!({"sysctls": [{"name": name, "value": "1"}]});
            serde_json::from_value(json!({"spec": {"containers": [], "hostIPC": host, "hostNetwork": host, "securityContext": context}}))
                .expect("a pod")
        };
        let allowed = ["kernel.msg*".to_owned()];
        for (name, host, want) in [
            ("kernel/shm_rmid_forced", false, None),
            ("kernel.shm_rmid_forced", true, Some("with host ipc enabled")),
            ("net.ipv4.tcp_syncookies", true, Some("with host net enabled")),
            ("kernel.msgmax", false, None),
            ("kernel.sem", false, Some("\"kernel.sem\" not allowlisted")),
        ] {
            let got = verify(&pod(name, host), &allowed);
            match want {
                None => assert_eq!(got, Ok(()), "{name}"),
                Some(text) => assert!(got.as_ref().is_err_and(|e| e.contains(text)), "{got:?} should say {text}"),
            }
        }
        assert_eq!(normalized("net/ipv4/conf/eth0.100/x"), "net.ipv4.conf.eth0/100.x");
    }
}
