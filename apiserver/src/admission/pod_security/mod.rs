//! PodSecurity: the pod security standards, by the labels of the namespace (upstream: `k8s.io/pod-security-admission/admission`).
//!
//! `enforce` refuses pods; `warn` warns, of workloads too, so that one learns of it before the pods are refused. `audit` is for the audit log, which comes with a later
//! issue.

mod checks;

use super::{Admission, Operation, Request};
use crate::objects::{Collection, Objects, decoded, decoded_list};
use api::{
    Object,
    field::{ErrorList, Path},
    status::{Result, StatusError},
};
use checks::{Subject, Violation};
use futures::future::BoxFuture;
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
    batch::v1::{CronJob, Job},
    core::v1::{Namespace, Pod, PodSpec, PodTemplate, PodTemplateSpec, ReplicationController},
};
use std::{collections::BTreeMap, sync::Arc};

/// The plugin.
pub struct PodSecurity {
    /// Where namespaces and pods are.
    pub objects: Arc<dyn Objects>,
}

const PREFIX: &str = "pod-security.kubernetes.io/";
const LATEST: &str = "latest";
/// How many of a namespace's pods are looked at when its level changes (upstream's).
const MAX_PODS: usize = 3000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "privileged" => Some(Level::Privileged),
            "baseline" => Some(Level::Baseline),
            "restricted" => Some(Level::Restricted),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        }
    }

    fn violations(self, subject: &Subject<'_>) -> Vec<Violation> {
        match self {
            Level::Privileged => Vec::new(),
            Level::Baseline => checks::baseline(subject),
            Level::Restricted => checks::restricted(subject),
        }
    }
}

/// A level and the version of the standards that is named with it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Policy {
    level: Level,
    version: String,
}

fn version_valid(text: &str) -> bool {
    text == LATEST
        || text.strip_prefix("v1.").is_some_and(|minor| minor == "0" || (!minor.starts_with('0') && minor.parse::<u32>().is_ok()))
}

/// What the labels ask for in a mode. A label that cannot be read counts as the strictest, so that a typing error opens nothing;
/// for warnings it counts as none.
fn policy(labels: &BTreeMap<String, String>, mode: &str) -> Policy {
    let level = match labels.get(&format!("{PREFIX}{mode}")) {
        None => Level::Privileged,
        Some(text) => Level::parse(text).unwrap_or(if mode == "enforce" { Level::Restricted } else { Level::Privileged }),
    };
    let version = labels.get(&format!("{PREFIX}{mode}-version")).filter(|v| version_valid(v));
    Policy { level, version: version.cloned().unwrap_or_else(|| LATEST.into()) }
}

/// What is wrong with a namespace's labels.
fn label_errors(labels: &BTreeMap<String, String>) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("metadata").child("labels");
    for mode in ["enforce", "audit", "warn"] {
        let key = format!("{PREFIX}{mode}");
        if let Some(text) = labels.get(&key).filter(|t| Level::parse(t).is_none()) {
            errors.invalid(&path.key(&key), text.as_str(), "must be one of privileged, baseline, restricted");
        }
        let key = format!("{PREFIX}{mode}-version");
        if let Some(text) = labels.get(&key).filter(|t| !version_valid(t)) {
            errors.invalid(&path.key(&key), text.as_str(), "must be \"latest\" or \"v1.x\"");
        }
    }
    errors
}

fn told(violations: &[Violation]) -> String {
    let one = |v: &Violation| if v.detail.is_empty() { v.reason.clone() } else { format!("{} ({})", v.reason, v.detail) };
    violations.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn reasons(violations: &[Violation]) -> String {
    violations.iter().map(|v| v.reason.clone()).collect::<Vec<_>>().join(", ")
}

/// The pod template of a workload, for policies on what its pods will be.
fn template(object: &dyn Object) -> Option<&PodTemplateSpec> {
    macro_rules! of {
        ($($kind:ty => $path:expr),* $(,)?) => {
            $(if let Some(object) = object.downcast_ref::<$kind>() { let path: fn(&$kind) -> Option<&PodTemplateSpec> = $path; return path(object); })*
        };
    }
    of! {
        PodTemplate => |o| o.template.as_ref(),
        ReplicationController => |o| o.spec.as_ref()?.template.as_ref(),
        ReplicaSet => |o| o.spec.as_ref()?.template.as_ref(),
        Deployment => |o| Some(&o.spec.as_ref()?.template),
        StatefulSet => |o| Some(&o.spec.as_ref()?.template),
        DaemonSet => |o| Some(&o.spec.as_ref()?.template),
        Job => |o| Some(&o.spec.as_ref()?.template),
        CronJob => |o| Some(&o.spec.job_template.spec.as_ref()?.template),
    }
    None
}

fn subject<'a>(annotations: &'a BTreeMap<String, String>, spec: &'a PodSpec) -> Subject<'a> {
    Subject { annotations, spec }
}

/// The warnings for pods that are in a namespace already when its level rises.
fn existing(pods: &[Pod], namespace: &str, new: &Policy) -> Vec<String> {
    let mut by_reasons: BTreeMap<String, (String, usize)> = BTreeMap::new();
    for pod in pods.iter().take(MAX_PODS) {
        let annotations = pod.metadata.annotations.clone().unwrap_or_default();
        let spec = pod.spec.clone().unwrap_or_default();
        let violations = new.level.violations(&subject(&annotations, &spec));
        if !violations.is_empty() {
            let entry = by_reasons.entry(reasons(&violations)).or_insert_with(|| (pod.metadata.name.clone().unwrap_or_default(), 0));
            entry.1 += 1;
        }
    }
    if by_reasons.is_empty() {
        return Vec::new();
    }
    let head = format!(
        "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{}:{}\"",
        new.level.name(),
        new.version
    );
    let mut lines: Vec<String> = by_reasons
        .into_iter()
        .map(|(why, (name, count))| match count {
            1 => format!("{name}: {why}"),
            2 => format!("{name} (and 1 other pod): {why}"),
            n => format!("{name} (and {} other pods): {why}", n - 1),
        })
        .collect();
    lines.sort();
    std::iter::once(head).chain(lines).collect()
}

impl PodSecurity {
    fn labels(&self, namespace: &str) -> BTreeMap<String, String> {
        let found = decoded::<Namespace>(&*self.objects, Collection::core("namespaces"), "", namespace);
        found.and_then(|n| n.metadata.labels).unwrap_or_default()
    }

    fn namespace(&self, request: &Request<'_>, namespace: &Namespace) -> Result<()> {
        let labels = namespace.metadata.labels.clone().unwrap_or_default();
        let old_labels = request.old::<Namespace>().and_then(|o| o.metadata.labels.clone()).unwrap_or_default();
        let name = namespace.metadata.name.as_deref().unwrap_or_default();
        let errors = label_errors(&labels);
        // What was wrong already may stay, or nothing else about the namespace could change.
        if !errors.is_empty() && label_errors(&old_labels) != errors {
            return Err(StatusError::invalid("", "Namespace", name, errors));
        }
        let (new, old) = (policy(&labels, "enforce"), policy(&old_labels, "enforce"));
        if request.operation == Operation::Update && new != old && new.level > Level::Privileged && new.level >= old.level {
            let pods: Vec<Pod> = decoded_list(&*self.objects, Collection::core("pods"), name);
            request.context.notes.warn_all(existing(&pods, name, &new));
        }
        Ok(())
    }

    fn pod(&self, request: &Request<'_>, pod: &Pod) -> Result<()> {
        let labels = self.labels(request.namespace);
        let (enforce, warn) = (policy(&labels, "enforce"), policy(&labels, "warn"));
        if enforce.level == Level::Privileged && warn.level == Level::Privileged {
            return Ok(());
        }
        let annotations = pod.metadata.annotations.clone().unwrap_or_default();
        let spec = pod.spec.clone().unwrap_or_default();
        let subject = subject(&annotations, &spec);
        let violations = enforce.level.violations(&subject);
        if !violations.is_empty() {
            let why = format!("violates PodSecurity \"{}:{}\": {}", enforce.level.name(), enforce.version, told(&violations));
            return Err(request.forbidden(&why));
        }
        request.context.notes.warn_all(warning(&warn, &subject));
        Ok(())
    }
}

fn warning(warn: &Policy, subject: &Subject<'_>) -> Option<String> {
    let violations = warn.level.violations(subject);
    let text = || format!("would violate PodSecurity \"{}:{}\": {}", warn.level.name(), warn.version, told(&violations));
    (!violations.is_empty()).then(text)
}

/// Whether an update of a pod changes anything that the standards look at.
fn significant(request: &Request<'_>, pod: &Pod) -> bool {
    let Some(old) = request.old::<Pod>() else { return true };
    let annotations = |p: &Pod| {
        p.metadata.annotations.clone().unwrap_or_default().into_iter().filter(|(k, _)| k.contains("apparmor")).collect::<Vec<_>>()
    };
    let strip = |p: &Pod| {
        let mut spec = p.spec.clone().unwrap_or_default();
        (spec.active_deadline_seconds, spec.tolerations) = (None, None);
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            container.image = None;
        }
        spec
    };
    annotations(old) != annotations(pod) || strip(old) != strip(pod)
}

impl Admission for PodSecurity {
    fn validate<'a>(&'a self, request: &'a Request<'a>, object: Option<&'a dyn Object>) -> BoxFuture<'a, Result<()>> {
        let Some(object) = object.filter(|_| request.writes()) else { return super::ready(Ok(())) };
        let answer = if let Some(pod) = object.downcast_ref::<Pod>() {
            let judged = matches!(request.subresource, "" | "ephemeralcontainers" | "resize");
            if judged && (request.operation == Operation::Create || significant(request, pod)) { self.pod(request, pod) } else { Ok(()) }
        } else if !request.subresource.is_empty() {
            Ok(())
        } else if let Some(namespace) = object.downcast_ref::<Namespace>() {
            self.namespace(request, namespace)
        } else {
            if let Some(template) = template(object) {
                let warn = policy(&self.labels(request.namespace), "warn");
                let annotations = template.metadata.as_ref().and_then(|m| m.annotations.clone()).unwrap_or_default();
                let spec = template.spec.clone().unwrap_or_default();
                request.context.notes.warn_all(warning(&warn, &subject(&annotations, &spec)));
            }
            Ok(())
        };
        super::ready(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn violations(level: Level, spec: Value) -> String {
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        told(&level.violations(&subject(&BTreeMap::new(), &spec)))
    }

    fn good() -> Value {
        json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}, "containers": [
            {"name": "c", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]})
    }

    #[test]
    fn a_careful_pod_passes_and_a_plain_one_is_told_all() {
        assert_eq!(violations(Level::Restricted, good()), "");
        assert_eq!(violations(Level::Baseline, json!({"containers": [{"name": "c"}]})), "");
        // A real v1.36.2 server's words.
        let want = "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")";
        assert_eq!(violations(Level::Restricted, json!({"containers": [{"name": "c"}]})), want);
    }

    #[test]
    fn every_check_of_the_baseline_can_fail() {
        let one = |change: Value| json!({"containers": [{"name": "c", "securityContext": change}]});
        for (spec, want) in [
            (one(json!({"privileged": true})), "privileged (container \"c\" must not set securityContext.privileged=true)"),
            (json!({"hostPID": true, "hostNetwork": true, "containers": []}), "host namespaces (hostNetwork=true, hostPID=true)"),
            (json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}], "containers": []}), "hostPath volumes (volume \"v\")"),
            (
                json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}]}, {"name": "d", "ports": [{"containerPort": 1, "hostPort": 81}]}]}),
                "hostPort (containers \"c\", \"d\" use hostPorts 80, 81)",
            ),
            (
                one(json!({"capabilities": {"add": ["NET_ADMIN", "CHOWN"]}})),
                "non-default capabilities (container \"c\" must not include \"NET_ADMIN\" in securityContext.capabilities.add)",
            ),
            (one(json!({"procMount": "Unmasked"})), "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")"),
            (
                one(json!({"seccompProfile": {"type": "Unconfined"}})),
                "seccompProfile (container \"c\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
            ),
            (
                json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}, "containers": []}),
                "forbidden sysctls (kernel.msgmax)",
            ),
            (
                one(json!({"appArmorProfile": {"type": "Unconfined"}})),
                "forbidden AppArmor profile (container \"c\" must not set AppArmor profile type to \"Unconfined\")",
            ),
            (
                one(json!({"seLinuxOptions": {"type": "spc_t", "user": "u"}})),
                "seLinuxOptions (container \"c\" set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set)",
            ),
            (
                one(json!({"windowsOptions": {"hostProcess": true}})),
                "hostProcess (container \"c\" must not set securityContext.windowsOptions.hostProcess=true)",
            ),
            (
                json!({"containers": [{"name": "c", "livenessProbe": {"httpGet": {"host": "8.8.8.8", "port": 80}}}]}),
                "probe or lifecycle host (container \"c\" uses probe or lifecycle host \"8.8.8.8\")",
            ),
        ] {
            assert_eq!(violations(Level::Baseline, spec), want);
        }
    }

    #[test]
    fn every_check_of_the_restricted_level_can_fail() {
        for (pointer, value, want) in [
            ("/securityContext/runAsUser", json!(0), "runAsUser=0 (pod must not set runAsUser=0)"),
            ("/securityContext/runAsNonRoot", json!(false), "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)"),
            (
                "/volumes",
                json!([{"name": "v", "hostPath": {"path": "/"}}, {"name": "w", "emptyDir": {}}]),
                "restricted volume types (volume \"v\" uses restricted volume type \"hostPath\")",
            ),
        ] {
            let mut spec = good();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            spec.pointer_mut(parent).unwrap()[key] = value;
            assert_eq!(violations(Level::Restricted, spec), want);
        }
    }

    #[test]
    fn labels_are_read_and_checked() {
        let labels =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (format!("{PREFIX}{k}"), v.to_string())).collect::<BTreeMap<_, _>>();
        assert_eq!(
            policy(&labels(&[("enforce", "baseline"), ("enforce-version", "v1.30")]), "enforce"),
            Policy { level: Level::Baseline, version: "v1.30".into() }
        );
        assert_eq!(policy(&labels(&[("enforce", "typo")]), "enforce").level, Level::Restricted);
        assert_eq!(policy(&labels(&[]), "warn").level, Level::Privileged);
        assert_eq!(label_errors(&labels(&[("enforce", "typo"), ("warn-version", "1.30"), ("audit", "restricted")])).0.len(), 2);
    }
}
