//! The pod security standards as a table of checks (upstream: `k8s.io/pod-security-admission/policy`). Each tells why a pod breaks it, in upstream's words.
//! All are those of the latest version: earlier versions of the standards differ in little, and pinning to one is rare.

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Capabilities, Container, PodSpec, SELinuxOptions, SeccompProfile, SecurityContext, Volume,
};
use std::collections::{BTreeMap, BTreeSet};

/// A pod, or the pods to be.
pub struct Subject<'a> {
    pub annotations: &'a BTreeMap<String, String>,
    pub spec: &'a PodSpec,
}

/// What is wrong: a short reason, and the fields in detail.
#[derive(Debug, PartialEq, Eq)]
pub struct Violation {
    pub reason: String,
    pub detail: String,
}

type Check = fn(&Subject<'_>) -> Option<Violation>;

/// What both levels forbid, by upstream's names.
const BASELINE: &[(&str, Check)] = &[
    ("appArmorProfile", app_armor),
    ("capabilities_baseline", added_capabilities),
    ("hostNamespaces", host_namespaces),
    ("hostPathVolumes", host_paths),
    ("hostPorts", host_ports),
    ("hostProbesAndHostLifecycle", probe_hosts),
    ("privileged", privileged),
    ("procMount", proc_mount),
    ("seLinuxOptions", se_linux),
    ("seccompProfile_baseline", unconfined_seccomp),
    ("sysctls", sysctls),
    ("windowsHostProcess", host_process),
];

/// What only the restricted level forbids, and which of the baseline's checks each makes needless.
const RESTRICTED: &[(&str, Check, &[&str])] = &[
    ("allowPrivilegeEscalation", privilege_escalation, &[]),
    ("capabilities_restricted", kept_capabilities, &["capabilities_baseline"]),
    ("restrictedVolumes", volume_types, &["hostPathVolumes"]),
    ("runAsNonRoot", run_as_non_root, &[]),
    ("runAsUser", run_as_user, &[]),
    ("seccompProfile_restricted", seccomp_missing, &["seccompProfile_baseline"]),
];

/// What a pod breaks of the baseline.
pub fn baseline(subject: &Subject<'_>) -> Vec<Violation> {
    BASELINE.iter().filter_map(|(_, check)| check(subject)).collect()
}

/// What a pod breaks of the restricted level, in upstream's order: the baseline's remaining checks, then its own.
pub fn restricted(subject: &Subject<'_>) -> Vec<Violation> {
    let replaced = |name: &str| RESTRICTED.iter().any(|(.., replaces)| replaces.contains(&name));
    let kept = BASELINE.iter().filter(|(name, _)| !replaced(name)).map(|(_, check)| check);
    kept.chain(RESTRICTED.iter().map(|(_, check, _)| check)).filter_map(|check| check(subject)).collect()
}

fn violation(reason: &str, detail: String) -> Option<Violation> {
    Some(Violation { reason: reason.to_owned(), detail })
}

fn quoted<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> String {
    texts.into_iter().map(|t| format!("{:?}", t.as_ref())).collect::<Vec<_>>().join(", ")
}

fn plural(singular: &str, plural: &str, count: usize) -> String {
    if count == 1 { singular.to_owned() } else { plural.to_owned() }
}

/// `container "a"`, `containers "a", "b"`.
fn containers_named(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

/// What is read of a container; an ephemeral one has the same fields.
struct Part<'a> {
    name: &'a str,
    context: Option<&'a SecurityContext>,
    container: Option<&'a Container>,
}

fn parts<'a>(spec: &'a PodSpec) -> Vec<Part<'a>> {
    let part = |c: &'a Container| Part { name: &c.name, context: c.security_context.as_ref(), container: Some(c) };
    let initial = spec.init_containers.iter().flatten().map(part);
    let main = spec.containers.iter().map(part);
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let ephemeral = ephemeral.map(|c| Part { name: &c.name, context: c.security_context.as_ref(), container: None });
    initial.chain(main).chain(ephemeral).collect()
}

/// The names of the containers for whose security context this holds.
fn bad(spec: &PodSpec, wrong: impl Fn(Option<&SecurityContext>) -> bool) -> Vec<&str> {
    parts(spec).into_iter().filter(|p| wrong(p.context)).map(|p| p.name).collect()
}

fn windows(spec: &PodSpec) -> bool {
    spec.os.as_ref().is_some_and(|os| os.name == "windows")
}

fn privileged(subject: &Subject<'_>) -> Option<Violation> {
    let bad = bad(subject.spec, |c| c.and_then(|c| c.privileged) == Some(true));
    if bad.is_empty() {
        None
    } else {
        violation("privileged", format!("{} must not set securityContext.privileged=true", containers_named(&bad)))
    }
}

fn host_namespaces(subject: &Subject<'_>) -> Option<Violation> {
    let spec = subject.spec;
    let set = [("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)];
    let set: Vec<String> = set.iter().filter(|(_, on)| *on == Some(true)).map(|(name, _)| format!("{name}=true")).collect();
    if set.is_empty() { None } else { violation("host namespaces", set.join(", ")) }
}

fn host_paths(subject: &Subject<'_>) -> Option<Violation> {
    let names: Vec<&str> = subject.spec.volumes.iter().flatten().filter(|v| v.host_path.is_some()).map(|v| v.name.as_str()).collect();
    if names.is_empty() {
        None
    } else {
        violation("hostPath volumes", format!("{} {}", plural("volume", "volumes", names.len()), quoted(names)))
    }
}

fn host_ports(subject: &Subject<'_>) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let mut names = Vec::new();
    for part in parts(subject.spec) {
        let used: Vec<i32> =
            part.container.iter().flat_map(|c| c.ports.iter().flatten()).filter_map(|p| p.host_port).filter(|p| *p != 0).collect();
        if !used.is_empty() {
            names.push(part.name);
            ports.extend(used.iter().map(ToString::to_string));
        }
    }
    let uses = plural("uses", "use", names.len());
    let word = plural("hostPort", "hostPorts", ports.len());
    let ports: Vec<String> = ports.into_iter().collect();
    if names.is_empty() { None } else { violation("hostPort", format!("{} {uses} {word} {}", containers_named(&names), ports.join(", "))) }
}

fn probe_hosts(subject: &Subject<'_>) -> Option<Violation> {
    let mut names = Vec::new();
    let mut hosts = BTreeSet::new();
    for part in parts(subject.spec) {
        let Some(container) = part.container else { continue };
        let value = serde_json::to_value(container).unwrap_or_default();
        let handlers = ["livenessProbe", "readinessProbe", "startupProbe"].map(|p| &value[p]);
        let hooks = ["postStart", "preStop"].map(|h| &value["lifecycle"][h]);
        let used = handlers.into_iter().chain(hooks).flat_map(|h| [&h["httpGet"]["host"], &h["tcpSocket"]["host"]]);
        let used: Vec<String> = used.filter_map(|h| h.as_str()).filter(|h| !h.is_empty()).map(str::to_owned).collect();
        if !used.is_empty() {
            names.push(part.name);
            hosts.extend(used);
        }
    }
    let uses = plural("uses", "use", names.len());
    let word = plural("host", "hosts", hosts.len());
    if names.is_empty() {
        None
    } else {
        violation("probe or lifecycle host", format!("{} {uses} probe or lifecycle {word} {}", containers_named(&names), quoted(hosts)))
    }
}

const DEFAULT_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

fn capabilities(context: Option<&SecurityContext>) -> Option<&Capabilities> {
    context?.capabilities.as_ref()
}

/// Containers that add capabilities beyond the allowed, and which.
fn added<'a>(spec: &'a PodSpec, allowed: &[&str]) -> (Vec<&'a str>, BTreeSet<String>) {
    let mut forbidden = BTreeSet::new();
    let mut names = Vec::new();
    for part in parts(spec) {
        let add = capabilities(part.context).and_then(|c| c.add.as_deref()).unwrap_or_default();
        let bad: Vec<&String> = add.iter().filter(|c| !allowed.contains(&c.as_str())).collect();
        if !bad.is_empty() {
            names.push(part.name);
            forbidden.extend(bad.into_iter().cloned());
        }
    }
    (names, forbidden)
}

fn added_capabilities(subject: &Subject<'_>) -> Option<Violation> {
    let (names, forbidden) = added(subject.spec, &DEFAULT_CAPABILITIES);
    if names.is_empty() {
        return None;
    }
    let detail = format!("{} must not include {} in securityContext.capabilities.add", containers_named(&names), quoted(forbidden));
    violation("non-default capabilities", detail)
}

fn kept_capabilities(subject: &Subject<'_>) -> Option<Violation> {
    if windows(subject.spec) {
        return None;
    }
    let drops_all =
        |c: Option<&SecurityContext>| capabilities(c).and_then(|c| c.drop.as_ref()).is_some_and(|d| d.iter().any(|c| c == "ALL"));
    let keeping = bad(subject.spec, |c| !drops_all(c));
    let (adding, forbidden) = added(subject.spec, &["NET_BIND_SERVICE"]);
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers_named(&keeping)));
    }
    if !adding.is_empty() {
        details.push(format!("{} must not include {} in securityContext.capabilities.add", containers_named(&adding), quoted(forbidden)));
    }
    if details.is_empty() { None } else { violation("unrestricted capabilities", details.join("; ")) }
}

/// Who sets what is forbidden: `pod`, containers, or both.
fn setters(pod: bool, names: &[&str]) -> Vec<String> {
    let mut setters = Vec::new();
    if pod {
        setters.push("pod".to_owned());
    }
    if !names.is_empty() {
        setters.push(containers_named(names));
    }
    setters
}

const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

fn app_armor(subject: &Subject<'_>) -> Option<Violation> {
    let wrong = |p: Option<&AppArmorProfile>| p.is_some_and(|p| !matches!(p.type_.as_str(), "RuntimeDefault" | "Localhost"));
    let context = subject.spec.security_context.as_ref();
    let mut values = BTreeSet::new();
    let mut remember = |p: Option<&AppArmorProfile>| values.extend(p.filter(|p| wrong(Some(p))).map(|p| p.type_.clone()));
    let pod = context.and_then(|c| c.app_armor_profile.as_ref());
    remember(pod);
    let names = bad(subject.spec, |c| wrong(c.and_then(|c| c.app_armor_profile.as_ref())));
    for part in parts(subject.spec) {
        remember(part.context.and_then(|c| c.app_armor_profile.as_ref()));
    }
    let allowed = |v: &str| v.is_empty() || v == "runtime/default" || v.starts_with("localhost/");
    let annotations = subject.annotations.iter().filter(|(k, v)| k.starts_with(APP_ARMOR_ANNOTATION) && !allowed(v));
    let annotations: Vec<String> = annotations.map(|(k, v)| format!("{k}={v:?}")).collect();
    let mut details = Vec::new();
    let who = setters(wrong(pod), &names);
    if !who.is_empty() {
        details.push(format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(values)));
    }
    if !annotations.is_empty() {
        let word = plural("annotation", "annotations", annotations.len());
        details.push(format!("{word} {}", quoted(&annotations).replace("\\\"", "\"")));
    }
    let count = names.len() + annotations.len() + usize::from(wrong(pod));
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", count);
    if details.is_empty() { None } else { violation(&reason, details.join(" and ")) }
}

fn proc_mount(subject: &Subject<'_>) -> Option<Violation> {
    // In a user namespace of its own, a pod may see all of /proc.
    if subject.spec.host_users == Some(false) {
        return None;
    }
    let value = |c: Option<&SecurityContext>| c.and_then(|c| c.proc_mount.clone()).filter(|p| p != "Default");
    let names = bad(subject.spec, |c| value(c).is_some());
    let values: BTreeSet<String> = parts(subject.spec).iter().filter_map(|p| value(p.context)).collect();
    if names.is_empty() {
        None
    } else {
        violation("procMount", format!("{} must not set securityContext.procMount to {}", containers_named(&names), quoted(values)))
    }
}

const SE_LINUX_TYPES: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];

fn se_linux(subject: &Subject<'_>) -> Option<Violation> {
    let set = |text: &Option<String>| text.as_deref().is_some_and(|t| !t.is_empty());
    let kind = |o: &SELinuxOptions| o.type_.clone().filter(|t| !SE_LINUX_TYPES.contains(&t.as_str()));
    let wrong = |o: Option<&SELinuxOptions>| o.is_some_and(|o| kind(o).is_some() || set(&o.user) || set(&o.role));
    let pod = subject.spec.security_context.as_ref().and_then(|c| c.se_linux_options.as_ref());
    let names = bad(subject.spec, |c| wrong(c.and_then(|c| c.se_linux_options.as_ref())));
    let all: Vec<&SELinuxOptions> =
        pod.into_iter().chain(parts(subject.spec).into_iter().filter_map(|p| p.context?.se_linux_options.as_ref())).collect();
    let mut details = Vec::new();
    let types: BTreeSet<String> = all.iter().filter_map(|o| kind(o)).collect();
    if !types.is_empty() {
        details.push(format!("{} {}", plural("type", "types", types.len()), quoted(types)));
    }
    if all.iter().any(|o| set(&o.user)) {
        details.push("user may not be set".to_owned());
    }
    if all.iter().any(|o| set(&o.role)) {
        details.push("role may not be set".to_owned());
    }
    let who = setters(wrong(pod), &names);
    if who.is_empty() {
        return None;
    }
    violation("seLinuxOptions", format!("{} set forbidden securityContext.seLinuxOptions: {}", who.join(" and "), details.join("; ")))
}

fn seccomp(context: Option<&SecurityContext>) -> Option<&SeccompProfile> {
    context?.seccomp_profile.as_ref()
}

/// Explicitly bad seccomp profiles: whether the pod has one, which containers, and the types.
fn bad_seccomp(spec: &PodSpec) -> (bool, Vec<&str>, BTreeSet<String>) {
    let wrong = |p: Option<&SeccompProfile>| p.is_some_and(|p| !matches!(p.type_.as_str(), "RuntimeDefault" | "Localhost"));
    let pod = spec.security_context.as_ref().and_then(|c| c.seccomp_profile.as_ref());
    let names = bad(spec, |c| wrong(seccomp(c)));
    let own = parts(spec).into_iter().filter_map(|p| seccomp(p.context));
    let types = pod.into_iter().chain(own).filter(|p| wrong(Some(p))).map(|p| p.type_.clone()).collect();
    (wrong(pod), names, types)
}

fn unconfined_seccomp(subject: &Subject<'_>) -> Option<Violation> {
    let (pod, names, types) = bad_seccomp(subject.spec);
    let who = setters(pod, &names);
    if who.is_empty() {
        return None;
    }
    violation("seccompProfile", format!("{} must not set securityContext.seccompProfile.type to {}", who.join(" and "), quoted(types)))
}

fn seccomp_missing(subject: &Subject<'_>) -> Option<Violation> {
    if windows(subject.spec) {
        return None;
    }
    if let Some(violation) = unconfined_seccomp(subject) {
        return Some(violation);
    }
    if subject.spec.security_context.as_ref().is_some_and(|c| c.seccomp_profile.is_some()) {
        return None;
    }
    let names = bad(subject.spec, |c| seccomp(c).is_none());
    if names.is_empty() {
        return None;
    }
    let detail =
        format!("pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"", containers_named(&names));
    violation("seccompProfile", detail)
}

const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

fn sysctls(subject: &Subject<'_>) -> Option<Violation> {
    let set = subject.spec.security_context.iter().flat_map(|c| c.sysctls.iter().flatten());
    let bad: Vec<&str> = set.map(|s| s.name.as_str()).filter(|s| !SAFE_SYSCTLS.contains(s)).collect();
    if bad.is_empty() { None } else { violation("forbidden sysctls", bad.join(", ")) }
}

fn host_process(subject: &Subject<'_>) -> Option<Violation> {
    let pod = subject.spec.security_context.as_ref().and_then(|c| c.windows_options.as_ref()?.host_process) == Some(true);
    let names = bad(subject.spec, |c| c.and_then(|c| c.windows_options.as_ref()?.host_process) == Some(true));
    let who = setters(pod, &names);
    if who.is_empty() {
        None
    } else {
        violation("hostProcess", format!("{} must not set securityContext.windowsOptions.hostProcess=true", who.join(" and ")))
    }
}

fn privilege_escalation(subject: &Subject<'_>) -> Option<Violation> {
    if windows(subject.spec) {
        return None;
    }
    let names = bad(subject.spec, |c| c.and_then(|c| c.allow_privilege_escalation) != Some(false));
    if names.is_empty() {
        return None;
    }
    violation(
        "allowPrivilegeEscalation != false",
        format!("{} must set securityContext.allowPrivilegeEscalation=false", containers_named(&names)),
    )
}

/// The type of a volume that the restricted level does not allow.
fn restricted_type(volume: &Volume) -> Option<String> {
    const ALLOWED: [&str; 8] = ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];
    let value = serde_json::to_value(volume).unwrap_or_default();
    let types: Vec<&String> = value.as_object().into_iter().flatten().map(|(k, _)| k).filter(|k| *k != "name").collect();
    // Images are read-only content, and allowed as such.
    if types.iter().any(|t| ALLOWED.contains(&t.as_str()) || *t == "image") {
        return None;
    }
    Some(types.first().map_or_else(|| "unknown".to_owned(), |t| (*t).clone()))
}

fn volume_types(subject: &Subject<'_>) -> Option<Violation> {
    let bad: Vec<(&str, String)> =
        subject.spec.volumes.iter().flatten().filter_map(|v| Some((v.name.as_str(), restricted_type(v)?))).collect();
    if bad.is_empty() {
        return None;
    }
    let types: BTreeSet<String> = bad.iter().map(|(_, t)| t.clone()).collect();
    let detail = format!(
        "{} {} {} {} {}",
        plural("volume", "volumes", bad.len()),
        quoted(bad.iter().map(|(n, _)| n)),
        plural("uses", "use", bad.len()),
        plural("restricted volume type", "restricted volume types", types.len()),
        quoted(types)
    );
    violation("restricted volume types", detail)
}

fn run_as_non_root(subject: &Subject<'_>) -> Option<Violation> {
    let pod = subject.spec.security_context.as_ref().and_then(|c| c.run_as_non_root);
    let explicit = bad(subject.spec, |c| c.and_then(|c| c.run_as_non_root) == Some(false));
    let implicit = bad(subject.spec, |c| c.and_then(|c| c.run_as_non_root).is_none());
    // A pod's false is no harm where every container says true.
    let who = setters(pod == Some(false) && !implicit.is_empty(), &explicit);
    if !who.is_empty() {
        return violation("runAsNonRoot != true", format!("{} must not set securityContext.runAsNonRoot=false", who.join(" and ")));
    }
    if pod == Some(true) || implicit.is_empty() {
        return None;
    }
    violation("runAsNonRoot != true", format!("pod or {} must set securityContext.runAsNonRoot=true", containers_named(&implicit)))
}

fn run_as_user(subject: &Subject<'_>) -> Option<Violation> {
    if subject.spec.host_users == Some(false) {
        return None;
    }
    let pod = subject.spec.security_context.as_ref().and_then(|c| c.run_as_user) == Some(0);
    let names = bad(subject.spec, |c| c.and_then(|c| c.run_as_user) == Some(0));
    let who = setters(pod, &names);
    if who.is_empty() { None } else { violation("runAsUser=0", format!("{} must not set runAsUser=0", who.join(" and "))) }
}
