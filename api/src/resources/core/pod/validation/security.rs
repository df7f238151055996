//! Validation of security contexts. Options for Windows are not looked into.

use super::containers::one_of;
use super::volumes::descending_path;
use crate::field::{ErrorList, Path};
use crate::internal_text;
use crate::resources::defaulting::{is_true, items};
use crate::validation::numbers::user_or_group;
use k8s_openapi::api::core::v1::{AppArmorProfile, PodSpec, SeccompProfile, SecurityContext};
use serde_json::json;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether containers may be privileged: the apiserver's flag `--allow-privileged`, which is off as upstream's is.
static ALLOW_PRIVILEGED: AtomicBool = AtomicBool::new(false);
/// The longest path that Linux takes, less its terminator.
const PATH_MAX: usize = 4095;
const SYSCTL_MAX: usize = 253;

/// Sets whether containers may be privileged, for the whole process. To be called once, before the first request.
pub fn allow_privileged(allow: bool) {
    ALLOW_PRIVILEGED.store(allow, Ordering::Relaxed);
}

fn id(errors: &mut ErrorList, path: &Path, id: Option<i64>) {
    if let Some(id) = id {
        user_or_group(id).iter().for_each(|m| errors.invalid(path, id, m));
    }
}

/// `securityContext` of a container.
pub fn container(errors: &mut ErrorList, path: &Path, sc: &SecurityContext, host_users: bool) {
    if is_true(sc.privileged) && !ALLOW_PRIVILEGED.load(Ordering::Relaxed) {
        errors.forbidden(&path.child("privileged"), "disallowed by cluster policy");
    }
    id(errors, &path.child("runAsUser"), sc.run_as_user);
    id(errors, &path.child("runAsGroup"), sc.run_as_group);
    if let Some(proc_mount) = sc.proc_mount.as_deref() {
        let path = path.child("procMount");
        if !matches!(proc_mount, "Default" | "Unmasked") {
            errors.not_supported(&path, proc_mount, &["Default", "Unmasked"]);
        }
        if host_users && proc_mount == "Unmasked" {
            errors.invalid(&path, proc_mount, "`hostUsers` must be false to use `Unmasked`");
        }
    }
    seccomp(errors, &path.child("seccompProfile"), sc.seccomp_profile.as_ref());
    if sc.allow_privilege_escalation == Some(false) {
        if is_true(sc.privileged) {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid_as(path, &shown(sc), why);
        }
        for _ in sc.capabilities.iter().flat_map(|c| items(&c.add)).filter(|c| *c == "CAP_SYS_ADMIN") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid_as(path, &shown(sc), why);
        }
    }
    app_armor(errors, &path.child("appArmorProfile"), sc.app_armor_profile.as_ref());
}

/// A security context as upstream shows it.
fn shown(sc: &SecurityContext) -> String {
    internal_text::of("io.k8s.api.core.v1.SecurityContext", sc)
}

fn seccomp(errors: &mut ErrorList, path: &Path, profile: Option<&SeccompProfile>) {
    let Some(profile) = profile else { return };
    const TYPES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
    match profile.type_.as_str() {
        "" => errors.required(&path.child("type"), "type is required when seccompProfile is set"),
        kind if !TYPES.contains(&kind) => errors.not_supported(&path.child("type"), kind, TYPES),
        _ => {}
    }
    let at = path.child("localhostProfile");
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("Localhost", None) => errors.required(&at, "must be set when seccomp type is Localhost"),
        ("Localhost", Some(file)) => descending_path(errors, &at, file),
        (_, Some(_)) => errors.invalid(&at, json!(profile), "can only be set when seccomp type is Localhost"),
        (_, None) => {}
    }
}

fn app_armor(errors: &mut ErrorList, path: &Path, profile: Option<&AppArmorProfile>) {
    let Some(profile) = profile else { return };
    const MISSING: &str = "must be set when AppArmor type is Localhost";
    let at = path.child("localhostProfile");
    match (profile.type_.as_str(), profile.localhost_profile.as_deref()) {
        ("Localhost", None) => errors.required(&at, MISSING),
        ("Localhost", Some(name)) => {
            if name.trim() != name {
                errors.invalid(&at, name, "must not be padded with whitespace");
            } else if name.is_empty() {
                errors.required(&at, MISSING);
            }
            if name.len() > PATH_MAX {
                errors.too_long(&at, PATH_MAX);
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(name)) => errors.invalid(&at, name, "can only be set when AppArmor type is Localhost"),
        ("RuntimeDefault" | "Unconfined", None) => {}
        ("", _) => errors.required(&path.child("type"), "type is required when appArmorProfile is set"),
        (other, _) => errors.not_supported(&path.child("type"), other, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
}

/// `securityContext` of the pod.
pub fn pod(errors: &mut ErrorList, path: &Path, spec: &PodSpec) {
    let Some(sc) = &spec.security_context else { return };
    id(errors, &path.child("fsGroup"), sc.fs_group);
    id(errors, &path.child("runAsUser"), sc.run_as_user);
    id(errors, &path.child("runAsGroup"), sc.run_as_group);
    for (i, group) in items(&sc.supplemental_groups).iter().enumerate() {
        id(errors, &path.child("supplementalGroups").index(i), Some(*group));
    }
    if is_true(spec.share_process_namespace) && is_true(spec.host_pid) {
        errors.invalid(&path.child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled");
    }
    sysctls(errors, &path.child("sysctls"), spec);
    if let Some(policy) = sc.fs_group_change_policy.as_deref() {
        one_of(errors, &path.child("fsGroupChangePolicy"), policy, &["Always", "OnRootMismatch"]);
    }
    seccomp(errors, &path.child("seccompProfile"), sc.seccomp_profile.as_ref());
    app_armor(errors, &path.child("appArmorProfile"), sc.app_armor_profile.as_ref());
    if let Some(policy) = sc.supplemental_groups_policy.as_deref() {
        one_of(errors, &path.child("supplementalGroupsPolicy"), policy, &["Merge", "Strict"]);
    }
    if let Some(policy) = sc.se_linux_change_policy.as_deref() {
        one_of(errors, &path.child("seLinuxChangePolicy"), policy, &["MountOption", "Recursive"]);
    }
}

fn is_sysctl(name: &str) -> bool {
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let segment = |s: &str| match (s.as_bytes().first(), s.as_bytes().last()) {
        (Some(first), Some(last)) => edge(*first) && edge(*last) && s.bytes().all(|b| edge(b) || matches!(b, b'-' | b'_')),
        _ => false,
    };
    name.len() <= SYSCTL_MAX && name.split(['.', '/']).all(segment)
}

fn sysctls(errors: &mut ErrorList, path: &Path, spec: &PodSpec) {
    const FORMAT: &str = "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
    let mut seen = HashSet::new();
    for (i, sysctl) in spec.security_context.iter().flat_map(|s| items(&s.sysctls)).enumerate() {
        let path = path.index(i).child("name");
        let name = sysctl.name.as_str();
        if name.is_empty() {
            errors.required(&path, "");
        } else if !is_sysctl(name) {
            errors.invalid(&path, name, &format!("must have at most {SYSCTL_MAX} characters and match regex {FORMAT}"));
        } else if !seen.insert(name) {
            errors.duplicate(&path, name);
        }
        let dotted = name.replace('/', ".");
        if is_true(spec.host_network) && dotted.starts_with("net.") {
            errors.invalid(&path, name, "may not be specified when 'hostNetwork' is true");
        } else if is_true(spec.host_ipc)
            && (dotted.starts_with("kernel.shm")
                || dotted.starts_with("kernel.msg")
                || dotted.starts_with("fs.mqueue.")
                || dotted == "kernel.sem")
        {
            errors.invalid(&path, name, "may not be specified when 'hostIPC' is true");
        }
    }
}

/// A pod with users of its own may share no other namespace with the node.
pub fn host_users(errors: &mut ErrorList, path: &Path, spec: &PodSpec) {
    if spec.host_users != Some(false) {
        return;
    }
    for (field, shared) in [("hostNetwork", spec.host_network), ("HostPID", spec.host_pid), ("HostIPC", spec.host_ipc)] {
        if is_true(shared) {
            errors.forbidden(&path.child(field), "when `pod.Spec.HostUsers` is false");
        }
    }
}
