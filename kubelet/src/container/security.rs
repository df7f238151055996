//! Security contexts: the pod's and the container's, merged into what the runtime gets (upstream: `kuberuntime/security_context.go`,
//! `pkg/securitycontext`), and the check that a container that must not run as root does not.
//!
//! Left out: SELinux relabelling of volumes.

use k8s_cri::v1::{
    self as cri, Capability, Int64Value, LinuxContainerSecurityContext, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption,
    UserNamespace, security_profile::ProfileType,
};
use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext};

/// Paths that the kernel shows to all and a container has no business in, unless `procMount: Unmasked`.
const MASKED_PATHS: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READONLY_PATHS: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Which namespaces are the node's, which the pod's, which the container's own. `users`: that of the users.
pub fn namespaces(pod: &Pod, users: UserNamespace) -> NamespaceOption {
    let spec = pod.spec.as_ref();
    let host = |flag: Option<bool>, otherwise: NamespaceMode| if flag == Some(true) { NamespaceMode::Node } else { otherwise } as i32;
    let shared = spec.and_then(|s| s.share_process_namespace) == Some(true);
    NamespaceOption {
        network: host(spec.and_then(|s| s.host_network), NamespaceMode::Pod),
        ipc: host(spec.and_then(|s| s.host_ipc), NamespaceMode::Pod),
        pid: host(spec.and_then(|s| s.host_pid), if shared { NamespaceMode::Pod } else { NamespaceMode::Container }),
        userns_options: Some(users),
        ..Default::default()
    }
}

fn int(value: Option<i64>) -> Option<Int64Value> {
    value.map(|value| Int64Value { value })
}

/// Upstream's default without `--seccomp-default` is Unconfined; `Localhost` names a file below the kubelet's seccomp directory.
fn seccomp(profile: Option<&SeccompProfile>, seccomp_root: &str, default: bool) -> cri::SecurityProfile {
    let (kind, localhost) = match profile.map(|p| p.type_.as_str()) {
        Some("RuntimeDefault") => (ProfileType::RuntimeDefault, None),
        Some("Localhost") => (ProfileType::Localhost, profile.and_then(|p| p.localhost_profile.clone())),
        None if default => (ProfileType::RuntimeDefault, None),
        _ => (ProfileType::Unconfined, None),
    };
    let localhost_ref = localhost.map(|file| format!("{seccomp_root}/{file}")).unwrap_or_default();
    cri::SecurityProfile { profile_type: kind as i32, localhost_ref }
}

/// The groups besides the main one.
fn supplemental(pod: Option<&PodSecurityContext>) -> Vec<i64> {
    pod.into_iter().flat_map(|p| p.fs_group.into_iter().chain(p.supplemental_groups.iter().flatten().copied())).collect()
}

/// The sandbox's own context: the pod's users and groups for its first process.
pub fn sandbox_context(pod: &Pod, users: UserNamespace) -> LinuxSandboxSecurityContext {
    let spec = pod.spec.as_ref();
    let context = spec.and_then(|s| s.security_context.as_ref());
    let mut all = spec.into_iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod, users)),
        run_as_user: int(context.and_then(|c| c.run_as_user)),
        run_as_group: context.and_then(|c| c.run_as_user).and_then(|_| int(context.and_then(|c| c.run_as_group))),
        supplemental_groups: supplemental(context),
        privileged: all.any(|c| c.security_context.as_ref().and_then(|s| s.privileged) == Some(true)),
        seccomp: Some(cri::SecurityProfile { profile_type: ProfileType::RuntimeDefault as i32, ..Default::default() }),
        ..Default::default()
    }
}

/// Who a container runs as: its own setting before the pod's.
pub fn effective_user(pod: &Pod, container: &Container) -> Option<i64> {
    let own = container.security_context.as_ref().and_then(|c| c.run_as_user);
    own.or_else(|| pod.spec.as_ref()?.security_context.as_ref()?.run_as_user)
}

/// The context of one container. `image_user` is the user the image names, where the pod does not; `users` is the namespace of its users.
pub fn container_context(
    pod: &Pod,
    container: &Container,
    image_uid: Option<i64>,
    image_username: &str,
    users: UserNamespace,
    settings: &Settings,
) -> LinuxContainerSecurityContext {
    let pod_context = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let none = SecurityContext::default();
    let own = container.security_context.as_ref().unwrap_or(&none);
    let user = effective_user(pod, container);
    let privileged = own.privileged == Some(true);
    let profile = own.seccomp_profile.as_ref().or_else(|| pod_context.and_then(|c| c.seccomp_profile.as_ref()));
    let selinux = own.se_linux_options.as_ref().or_else(|| pod_context.and_then(|c| c.se_linux_options.as_ref()));
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |list: &[&str]| if unmasked || privileged { Vec::new() } else { list.iter().map(|p| (*p).to_owned()).collect() };
    let policy = pod_context.and_then(|c| c.supplemental_groups_policy.as_deref());
    LinuxContainerSecurityContext {
        capabilities: own.capabilities.as_ref().map(|c| Capability {
            add_capabilities: c.add.clone().unwrap_or_default(),
            drop_capabilities: c.drop.clone().unwrap_or_default(),
            ..Default::default()
        }),
        privileged,
        namespace_options: Some(namespaces(pod, users)),
        selinux_options: selinux.map(|s| cri::SeLinuxOption {
            user: s.user.clone().unwrap_or_default(),
            role: s.role.clone().unwrap_or_default(),
            r#type: s.type_.clone().unwrap_or_default(),
            level: s.level.clone().unwrap_or_default(),
        }),
        run_as_user: int(user.or(if image_username.is_empty() { image_uid } else { None })),
        run_as_username: if user.is_none() { image_username.to_owned() } else { String::new() },
        run_as_group: int(own.run_as_group.or_else(|| pod_context.and_then(|c| c.run_as_group))),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: supplemental(pod_context),
        supplemental_groups_policy: i32::from(policy == Some("Strict")),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(MASKED_PATHS),
        readonly_paths: paths(READONLY_PATHS),
        seccomp: Some(if privileged {
            seccomp(None, "", false)
        } else {
            seccomp(profile, &settings.seccomp_root, settings.seccomp_default)
        }),
        apparmor: own
            .app_armor_profile
            .as_ref()
            .or_else(|| pod_context.and_then(|c| c.app_armor_profile.as_ref()))
            .map(|p| app_armor(&p.type_, p.localhost_profile.as_deref())),
        ..Default::default()
    }
}

fn app_armor(kind: &str, localhost: Option<&str>) -> cri::SecurityProfile {
    let kind = match kind {
        "RuntimeDefault" => ProfileType::RuntimeDefault,
        "Localhost" => ProfileType::Localhost,
        _ => ProfileType::Unconfined,
    };
    cri::SecurityProfile { profile_type: kind as i32, localhost_ref: localhost.unwrap_or_default().to_owned() }
}

/// What of the kubelet's configuration bears on security contexts.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Where `Localhost` seccomp profiles are.
    pub seccomp_root: String,
    /// Whether pods that say nothing get the runtime's default seccomp profile (`seccompDefault`).
    pub seccomp_default: bool,
}

/// Refuses a container that must not run as root and would, or that might and cannot be told.
pub fn verify_non_root(pod: &Pod, container: &Container, image_uid: Option<i64>, image_username: &str) -> Result<(), String> {
    let pod_context = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let own = container.security_context.as_ref().and_then(|c| c.run_as_non_root);
    if own.or_else(|| pod_context.and_then(|c| c.run_as_non_root)) != Some(true) {
        return Ok(());
    }
    let whose = format!("(pod: \"{}\", container: {})", super::identity::described(pod), container.name);
    match (effective_user(pod, container), image_uid, image_username) {
        (Some(0), _, _) => Err(format!("container's runAsUser breaks non-root policy {whose}")),
        (Some(_), _, _) => Ok(()),
        (None, Some(0), _) => Err(format!("container has runAsNonRoot and image will run as root {whose}")),
        (None, None, name) if !name.is_empty() => {
            Err(format!("container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {whose}"))
        }
        (None, Some(_), _) => Ok(()),
        (None, None, _) => Err(format!("container has runAsNonRoot and image will run as root {whose}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "ns", "uid": "u"}, "spec": spec})).expect("a pod")
    }

    #[test]
    fn root_is_refused_where_it_is_told_or_cannot_be_told() {
        let cases = [
            (json!({}), json!({}), Some(0), "", None),
            (json!({"runAsNonRoot": true}), json!({}), Some(0), "", Some("image will run as root")),
            (json!({"runAsNonRoot": true}), json!({}), None, "www", Some("non-numeric user (www)")),
            (json!({"runAsNonRoot": true}), json!({}), Some(7), "", None),
            (json!({"runAsNonRoot": true, "runAsUser": 5}), json!({}), Some(0), "", None),
            (json!({"runAsUser": 5}), json!({"runAsNonRoot": true, "runAsUser": 0}), Some(7), "", Some("runAsUser breaks")),
            (json!({"runAsNonRoot": true}), json!({"runAsNonRoot": false}), Some(0), "", None),
        ];
        for (pod_context, own, uid, name, want) in cases {
            let pod = pod(json!({"securityContext": pod_context, "containers": [{"name": "c", "securityContext": own}]}));
            let container = &pod.spec.as_ref().expect("a spec").containers[0];
            let got = verify_non_root(&pod, container, uid, name);
            match want {
                None => assert_eq!(got, Ok(())),
                Some(text) => assert!(got.as_ref().is_err_and(|e| e.contains(text)), "{got:?} should say {text}"),
            }
        }
    }

    #[test]
    fn namespaces_follow_the_spec() {
        let spec = json!({"containers": [], "hostNetwork": true, "shareProcessNamespace": true});
        let got = namespaces(&pod(spec), UserNamespace::default());
        assert_eq!((got.network, got.pid, got.ipc), (NamespaceMode::Node as i32, NamespaceMode::Pod as i32, NamespaceMode::Pod as i32));
    }
}
