//! Validation of pods and of the pod templates in other kinds, in upstream's order (upstream: `pkg/apis/core/validation`).

pub mod containers;
mod environment;
mod mounts;
mod probes;
pub mod resources;
pub mod scheduling;
pub mod security;
mod update;
pub mod volumes;

pub use update::{ephemeral_containers_update, resize, status_update, update};

use crate::field::{ErrorList, Path};
use crate::resources::defaulting::{items, str};
use crate::validation::{invalid, labels, names, numbers};
use k8s_openapi::api::core::v1::{Pod, PodDNSConfig, PodResourceClaim, PodSpec, PodTemplateSpec};
use std::collections::{BTreeMap, HashSet};

/// The annotation on the API's image of a pod that a node runs by itself.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// What the parts of a pod have to know of the whole.
pub struct Context<'a> {
    spec: &'a PodSpec,
    volumes: volumes::ByName<'a>,
}

impl Context<'_> {
    fn claim_names(&self) -> Vec<&str> {
        items(&self.spec.resource_claims).iter().map(|c| c.name.as_str()).collect()
    }

    fn host_users(&self) -> bool {
        self.spec.host_users != Some(false)
    }
}

/// A new pod.
pub fn create(errors: &mut ErrorList, pod: &Pod) {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    pod_itself(errors, pod, spec);
    let path = Path::new("spec");
    if !items(&spec.ephemeral_containers).is_empty() {
        errors.forbidden(&path.child("ephemeralContainers"), "cannot be set on create");
    }
    if !str(&spec.node_name).is_empty() && !items(&spec.scheduling_gates).is_empty() {
        errors.forbidden(&path.child("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
}

/// What has to hold for a pod whenever it is written, besides its metadata.
fn pod_itself(errors: &mut ErrorList, pod: &Pod, spec: &PodSpec) {
    annotations(errors, &Path::new("metadata").child("annotations"), pod.metadata.annotations.as_ref(), spec);
    let path = Path::new("spec");
    pod_spec(errors, &path, spec, pod.metadata.name.as_deref(), true);
    if str(&spec.service_account_name).is_empty() {
        for (i, volume) in items(&spec.volumes).iter().enumerate() {
            for (j, source) in volume.projected.iter().flat_map(|p| items(&p.sources)).enumerate() {
                if source.service_account_token.is_some() {
                    let path = path.child("volumes").index(i).child("projected").child("sources").index(j).child("serviceAccountToken");
                    errors.forbidden(&path, "must not be specified when serviceAccountName is not set");
                }
            }
        }
    }
    for (list, field) in [(spec.containers.as_slice(), "containers"), (items(&spec.init_containers), "initContainers")] {
        for (i, container) in list.iter().enumerate() {
            containers::image_only_for_pod(errors, &path.child(field).index(i), container);
        }
    }
}

fn annotations(errors: &mut ErrorList, path: &Path, annotations: Option<&BTreeMap<String, String>>, spec: &PodSpec) {
    let get = |key: &str| annotations.and_then(|a| a.get(key));
    if let Some(value) = get(MIRROR).filter(|_| str(&spec.node_name).is_empty()) {
        errors.invalid(&path.key(MIRROR), value.as_str(), "must set spec.nodeName if mirror pod annotation is set");
    }
    const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
    if let Some(value) = get(COST) {
        let canonical = !value.starts_with('+') && (value == "0" || !value.trim_start_matches('-').starts_with('0'));
        if value.parse::<i32>().is_err() || !canonical {
            errors.invalid(&path.key(COST), value.as_str(), "must be a 32bit integer");
        }
    }
}

/// A template for pods.
pub fn template(errors: &mut ErrorList, path: &Path, template: &PodTemplateSpec) {
    let empty = PodSpec::default();
    let spec = template.spec.as_ref().unwrap_or(&empty);
    let metadata = template.metadata.as_ref();
    // Upstream leaves `metadata` out of these two paths.
    labels::labels(errors, &path.child("labels"), metadata.and_then(|m| m.labels.as_ref()));
    let given = metadata.and_then(|m| m.annotations.as_ref());
    labels::annotations(errors, &path.child("annotations"), given);
    annotations(errors, &path.child("annotations"), given, spec);
    pod_spec(errors, &path.child("spec"), spec, None, false);
    if !items(&spec.ephemeral_containers).is_empty() {
        errors.forbidden(&path.child("spec").child("ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
}

/// What pods and templates have in common.
fn pod_spec(errors: &mut ErrorList, path: &Path, spec: &PodSpec, pod_name: Option<&str>, is_pod: bool) {
    let volumes = volumes::volumes(errors, &path.child("volumes"), items(&spec.volumes), pod_name, is_pod);
    let context = Context { spec, volumes };
    resource_claims(errors, &path.child("resourceClaims"), items(&spec.resource_claims));
    containers::regular(errors, &path.child("containers"), &context);
    containers::init(errors, &path.child("initContainers"), &context);
    containers::ephemeral(errors, &path.child("ephemeralContainers"), &context);
    resources::pod(errors, &path.child("resources"), spec);
    containers::host_network(errors, path, spec, is_pod);
    let policies = &["Always", "OnFailure", "Never"];
    containers::one_of(errors, &path.child("restartPolicy"), str(&spec.restart_policy), policies);
    let policies = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    containers::one_of(errors, &path.child("dnsPolicy"), str(&spec.dns_policy), policies);
    labels::labels(errors, &path.child("nodeSelector"), spec.node_selector.as_ref());
    security::pod(errors, &path.child("securityContext"), spec);
    if let Some(affinity) = &spec.affinity {
        scheduling::affinity(errors, &path.child("affinity"), affinity);
    }
    dns_config(errors, &path.child("dnsConfig"), spec.dns_config.as_ref(), str(&spec.dns_policy));
    for (i, gate) in items(&spec.readiness_gates).iter().enumerate() {
        labels::label_name(errors, &path.child("readinessGates").index(i).child("conditionType"), &gate.condition_type);
    }
    scheduling::gates(errors, &path.child("schedulingGates"), items(&spec.scheduling_gates));
    scheduling::spread(errors, &path.child("topologySpreadConstraints"), items(&spec.topology_spread_constraints));
    security::host_users(errors, path, spec);
    names_in(errors, path, spec);
    if let Some(seconds) = spec.active_deadline_seconds.filter(|s| !(1..=i64::from(i32::MAX)).contains(s)) {
        errors.invalid(&path.child("activeDeadlineSeconds"), seconds, &numbers::in_range(1, i32::MAX.into()));
    }
    for (field, name) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if !str(name).is_empty() {
            invalid(errors, &path.child(field), str(name), names::dns1123_label(str(name)));
        }
    }
    hostname_override(errors, path, spec);
    scheduling::tolerations(errors, &path.child("tolerations"), items(&spec.tolerations));
    for (i, alias) in items(&spec.host_aliases).iter().enumerate() {
        let path = path.child("hostAliases").index(i);
        invalid(errors, &path.child("ip"), &alias.ip, names::ip(&alias.ip));
        for (j, name) in items(&alias.hostnames).iter().enumerate() {
            invalid(errors, &path.child("hostnames").index(j), name, names::dns1123_subdomain(name));
        }
    }
    classes(errors, path, spec);
}

/// The longest host name that the kernel takes.
const MAX_HOST_NAME: usize = 64;

/// `hostnameOverride` is the pod's whole name, and its own.
fn hostname_override(errors: &mut ErrorList, path: &Path, spec: &PodSpec) {
    let Some(name) = &spec.hostname_override else { return };
    let path = path.child("hostnameOverride");
    invalid(errors, &path, name, names::dns1123_subdomain(name));
    if name.len() > MAX_HOST_NAME {
        errors.too_long(&path, MAX_HOST_NAME);
    }
    for (field, set) in [("setHostnameAsFQDN", spec.set_hostname_as_fqdn), ("hostNetwork", spec.host_network)] {
        if set == Some(true) {
            errors.forbidden(&path, &format!("may not be set when `{field}` is true"));
        }
    }
}

fn names_in(errors: &mut ErrorList, path: &Path, spec: &PodSpec) {
    for (field, name) in [("serviceAccountName", &spec.service_account_name), ("nodeName", &spec.node_name)] {
        if !str(name).is_empty() {
            invalid(errors, &path.child(field), str(name), names::dns1123_subdomain(str(name)));
        }
    }
}

/// The classes that a pod is of, and what follows from them.
fn classes(errors: &mut ErrorList, path: &Path, spec: &PodSpec) {
    if !str(&spec.priority_class_name).is_empty() {
        let name = str(&spec.priority_class_name);
        invalid(errors, &path.child("priorityClassName"), name, names::dns1123_subdomain(name));
    }
    if let Some(name) = &spec.runtime_class_name {
        invalid(errors, &path.child("runtimeClassName"), name, names::dns1123_subdomain(name));
    }
    if let Some(policy) = spec.preemption_policy.as_deref() {
        containers::one_of(errors, &path.child("preemptionPolicy"), policy, &["PreemptLowerPriority", "Never"]);
    }
    if let Some(overhead) = &spec.overhead {
        let limits = k8s_openapi::api::core::v1::ResourceRequirements { limits: Some(overhead.clone()), ..Default::default() };
        resources::container(errors, &path.child("overhead"), &limits, &[]);
    }
    if let Some(os) = &spec.os {
        match os.name.as_str() {
            "" => errors.required(&path.child("os").child("name"), "cannot be empty"),
            "linux" | "windows" => {}
            other => errors.not_supported(&path.child("os"), other, &["linux", "windows"]),
        }
    }
}

fn resource_claims(errors: &mut ErrorList, path: &Path, claims: &[PodResourceClaim]) {
    let mut seen = HashSet::new();
    for (i, claim) in claims.iter().enumerate() {
        let path = path.index(i);
        if claim.name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if !seen.insert(&claim.name) {
            errors.duplicate(&path.child("name"), claim.name.as_str());
        } else {
            invalid(errors, &path.child("name"), &claim.name, names::dns1123_label(&claim.name));
        }
        let shown = || serde_json::to_value(claim).unwrap_or_default();
        match (&claim.resource_claim_name, &claim.resource_claim_template_name) {
            (Some(_), Some(_)) => {
                let why = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                errors.invalid(&path, shown(), why);
            }
            (None, None) => errors.invalid(&path, shown(), "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"),
            (Some(name), None) => invalid(errors, &path.child("resourceClaimName"), name, names::dns1123_subdomain(name)),
            (None, Some(name)) => invalid(errors, &path.child("resourceClaimTemplateName"), name, names::dns1123_subdomain(name)),
        }
    }
}

/// The limits of the C library's resolver.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_CHARACTERS_MAX: usize = 2048;

fn dns_config(errors: &mut ErrorList, path: &Path, config: Option<&PodDNSConfig>, policy: &str) {
    let Some(config) = config else {
        if policy == "None" {
            errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        return;
    };
    let (nameservers, searches) = (items(&config.nameservers), items(&config.searches));
    if policy == "None" && nameservers.is_empty() {
        errors.required(&path.child("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None");
        return;
    }
    if nameservers.len() > NAMESERVERS_MAX {
        let why = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.invalid(&path.child("nameservers"), nameservers, &why);
    }
    for (i, server) in nameservers.iter().enumerate() {
        invalid(errors, &path.child("nameservers").index(i), server, names::ip(server));
    }
    if searches.len() > SEARCHES_MAX {
        errors.invalid(&path.child("searches"), searches, &format!("must not have more than {SEARCHES_MAX} search paths"));
    }
    if searches.join(" ").len() > SEARCH_CHARACTERS_MAX {
        let why = format!("must not have more than {SEARCH_CHARACTERS_MAX} characters (including spaces) in the search list");
        errors.invalid(&path.child("searches"), searches, &why);
    }
    for (i, search) in searches.iter().enumerate().filter(|(_, s)| *s != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        invalid(errors, &path.child("searches").index(i), search, names::dns1123_subdomain_with_underscore(search));
    }
    for (i, option) in items(&config.options).iter().enumerate() {
        if str(&option.name).is_empty() {
            errors.required(&path.child("options").index(i), "must not be empty");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_host_name_of_its_own_choice_goes_with_nothing_else() {
        for (spec, want) in [
            (json!({"hostnameOverride": "a.example"}), 0),
            (json!({"hostnameOverride": "Not-RFC1123"}), 1),
            (json!({"hostnameOverride": "a".repeat(65)}), 1),
            (json!({"hostnameOverride": "a", "setHostnameAsFQDN": true}), 1),
            (json!({"hostnameOverride": "a", "hostNetwork": true, "setHostnameAsFQDN": false}), 1),
        ] {
            let mut errors = ErrorList::new();
            let with = json!({"containers": []})
                .as_object()
                .into_iter()
                .chain(spec.as_object())
                .flatten()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            let spec: PodSpec = serde_json::from_value(serde_json::Value::Object(with)).expect("a spec");
            hostname_override(&mut errors, &Path::new("spec"), &spec);
            assert_eq!(errors.0.len(), want, "{errors:?}");
        }
    }
}
