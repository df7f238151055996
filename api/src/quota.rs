//! What objects count for against a ResourceQuota (upstream: `pkg/quota/v1/evaluator/core`): the admission that counts before a write and the
//! controller that counts what is there have to agree.

use crate::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, PersistentVolumeClaim, Pod, PodSpec, ResourceQuota, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use std::collections::BTreeMap;

/// Amounts by quota name: `pods`, `requests.cpu`, `count/jobs.batch`.
pub type Usage = BTreeMap<String, Quantity>;

type Resources = BTreeMap<String, ApiQuantity>;

/// A container's own requests and limits.
pub fn of_container(container: &Container) -> (Resources, Resources) {
    let resources = container.resources.clone().unwrap_or_default();
    (resources.requests.unwrap_or_default(), resources.limits.unwrap_or_default())
}

/// A pod's requests and limits: the sum over its containers, or the largest init container where that is more.
pub fn of_pod(spec: &PodSpec) -> (Resources, Resources) {
    fn total(spec: &PodSpec, of: fn(&Container) -> Resources) -> Resources {
        let mut sums: BTreeMap<String, Quantity> = BTreeMap::new();
        let initial = spec.init_containers.as_deref().unwrap_or_default();
        let sidecars = initial.iter().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        for (name, quantity) in spec.containers.iter().chain(sidecars).flat_map(of) {
            if let Ok(quantity) = Quantity::of(&quantity) {
                let sum = sums.entry(name).or_insert_with(|| Quantity::new(0, quantity.format()));
                *sum += quantity;
            }
        }
        for (name, quantity) in initial.iter().filter(|c| c.restart_policy.is_none()).flat_map(of) {
            if let Ok(quantity) = Quantity::of(&quantity) {
                let sum = sums.entry(name).or_insert(quantity);
                *sum = (*sum).max(quantity);
            }
        }
        sums.into_iter().map(|(name, quantity)| (name, quantity.into())).collect()
    }
    (total(spec, |c| of_container(c).0), total(spec, |c| of_container(c).1))
}

fn one() -> Quantity {
    Quantity::from_units(1)
}

/// Adds an amount.
pub fn add(usage: &mut Usage, name: impl Into<String>, quantity: Quantity) {
    let sum = usage.entry(name.into()).or_insert_with(|| Quantity::new(0, quantity.format()));
    *sum += quantity;
}

/// A pod that has ended takes no room any more.
fn ended(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// What a pod counts for.
pub fn pod_usage(pod: &Pod) -> Usage {
    let mut usage = Usage::from([("count/pods".to_owned(), one())]);
    if ended(pod) {
        return usage;
    }
    add(&mut usage, "pods", one());
    let (requests, limits) = pod.spec.as_ref().map(of_pod).unwrap_or_default();
    for (name, quantity) in &requests {
        let Ok(quantity) = Quantity::of(quantity) else { continue };
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-") {
            add(&mut usage, name.clone(), quantity);
        }
        add(&mut usage, format!("requests.{name}"), quantity);
    }
    for (name, quantity) in &limits {
        if let (true, Ok(quantity)) = (matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage"), Quantity::of(quantity)) {
            add(&mut usage, format!("limits.{name}"), quantity);
        }
    }
    usage
}

/// What a claim counts for.
pub fn claim_usage(claim: &PersistentVolumeClaim) -> Usage {
    let mut usage = Usage::from([("count/persistentvolumeclaims".to_owned(), one()), ("persistentvolumeclaims".to_owned(), one())]);
    let spec = claim.spec.as_ref();
    let class = spec.and_then(|s| s.storage_class_name.as_deref()).filter(|c| !c.is_empty());
    if let Some(class) = class {
        add(&mut usage, format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims"), one());
    }
    let requested = spec.and_then(|s| s.resources.as_ref()?.requests.as_ref()?.get("storage")).and_then(|q| Quantity::of(q).ok());
    if let Some(requested) = requested {
        add(&mut usage, "requests.storage", requested);
        if let Some(class) = class {
            add(&mut usage, format!("{class}.storageclass.storage.k8s.io/requests.storage"), requested);
        }
    }
    usage
}

/// What a service counts for.
pub fn service_usage(service: &Service) -> Usage {
    let mut usage = Usage::from([("count/services".to_owned(), one()), ("services".to_owned(), one())]);
    let spec = service.spec.as_ref();
    let ports = spec.and_then(|s| s.ports.as_ref()).map_or(0, Vec::len);
    let kind = spec.and_then(|s| s.type_.as_deref()).unwrap_or_default();
    let node_ports =
        kind == "NodePort" || (kind == "LoadBalancer" && spec.and_then(|s| s.allocate_load_balancer_node_ports) != Some(false));
    if node_ports {
        add(&mut usage, "services.nodeports", Quantity::from_units(i64::try_from(ports).unwrap_or(i64::MAX)));
    }
    if kind == "LoadBalancer" {
        add(&mut usage, "services.loadbalancers", one());
    }
    usage
}

/// Kinds that can also be counted under their bare name.
const BARE: [&str; 4] = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];

/// What an object of any other kind counts for.
pub fn object_usage(group: &str, plural: &str) -> Usage {
    let qualified = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
    let mut usage = Usage::from([(format!("count/{qualified}"), one())]);
    if group.is_empty() && BARE.contains(&plural) {
        add(&mut usage, plural, one());
    }
    usage
}

fn best_effort(spec: &PodSpec) -> bool {
    let (requests, limits) = of_pod(spec);
    let counts = |name: &String| name == "cpu" || name == "memory";
    !requests.keys().chain(limits.keys()).any(counts)
}

/// Whether a scope selector takes an object that has these names, none of them being one of its own cases.
fn selects(operator: &str, values: &[String], names: &[&str]) -> bool {
    let listed = |name: &&str| values.iter().any(|v| v == name);
    match operator {
        "In" => names.iter().any(listed),
        "NotIn" => names.is_empty() || !names.iter().all(listed),
        "DoesNotExist" => names.is_empty(),
        _ => !names.is_empty(),
    }
}

fn scope_holds_for_pod(scope: &str, operator: &str, values: &[String], pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    match scope {
        "Terminating" => spec.active_deadline_seconds.is_some_and(|s| s >= 0),
        "NotTerminating" => spec.active_deadline_seconds.is_none(),
        "BestEffort" => best_effort(spec),
        "NotBestEffort" => !best_effort(spec),
        "CrossNamespacePodAffinity" => crosses_namespaces(spec),
        "PriorityClass" => {
            let class = spec.priority_class_name.as_deref().filter(|name| !name.is_empty());
            selects(operator, values, class.as_slice())
        }
        _ => false,
    }
}

fn crosses_namespaces(spec: &PodSpec) -> bool {
    let value = serde_json::to_value(&spec.affinity).unwrap_or_default();
    let kinds = ["podAffinity", "podAntiAffinity"].iter().map(|k| &value[*k]);
    kinds
        .flat_map(|k| {
            let required = k["requiredDuringSchedulingIgnoredDuringExecution"].as_array().into_iter().flatten();
            let preferred =
                k["preferredDuringSchedulingIgnoredDuringExecution"].as_array().into_iter().flatten().map(|t| &t["podAffinityTerm"]);
            required.chain(preferred)
        })
        .any(|term| {
            term["namespaces"].as_array().is_some_and(|n| !n.is_empty()) || term.get("namespaceSelector").is_some_and(|s| !s.is_null())
        })
}

/// The VolumeAttributesClasses of a claim: the one that is wanted, the one that its volume has, and the one that it is being given.
fn attributes_classes(claim: &PersistentVolumeClaim) -> Vec<&str> {
    let wanted = claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref());
    let status = claim.status.as_ref();
    let current = status.and_then(|s| s.current_volume_attributes_class_name.as_deref());
    let target = status.and_then(|s| s.modify_volume_status.as_ref()?.target_volume_attributes_class_name.as_deref());
    [wanted, current, target].into_iter().flatten().filter(|name| !name.is_empty()).collect()
}

/// An object that a quota may count.
#[derive(Clone, Copy)]
pub enum Counted<'a> {
    /// A pod, which most scopes are about.
    Pod(&'a Pod),
    /// A claim, which may have a VolumeAttributesClass.
    Claim(&'a PersistentVolumeClaim),
    /// Anything else: only quotas without scopes count it.
    Other,
}

impl Counted<'_> {
    fn fits(self, scope: &str, operator: &str, values: &[String]) -> bool {
        match self {
            Counted::Pod(pod) => scope_holds_for_pod(scope, operator, values, pod),
            Counted::Claim(claim) => scope == "VolumeAttributesClass" && selects(operator, values, &attributes_classes(claim)),
            Counted::Other => false,
        }
    }
}

/// Whether the quota is about an object.
pub fn in_scope(quota: &ResourceQuota, object: Counted<'_>) -> bool {
    let Some(spec) = &quota.spec else { return false };
    let plain = spec.scopes.iter().flatten().map(|s| (s.as_str(), "Exists", &[][..]));
    let selected = spec.scope_selector.iter().flat_map(|s| s.match_expressions.iter().flatten());
    let mut all = plain.chain(selected.map(|e| (e.scope_name.as_str(), e.operator.as_str(), e.values.as_deref().unwrap_or_default())));
    all.all(|(scope, operator, values)| object.fits(scope, operator, values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn shown(usage: &Usage) -> Value {
        usage.iter().map(|(name, amount)| (name.clone(), json!(amount.to_string()))).collect::<serde_json::Map<_, _>>().into()
    }

    #[test]
    fn claims_are_in_the_scope_of_their_attributes_classes() {
        let claim = |wanted: &str, current: &str| -> PersistentVolumeClaim {
            serde_json::from_value(
                json!({"spec": {"volumeAttributesClassName": wanted}, "status": {"currentVolumeAttributesClassName": current}}),
            )
            .unwrap()
        };
        for (operator, values, wanted, current, expected) in [
            ("In", json!(["gold"]), "gold", "", true),
            ("In", json!(["gold"]), "silver", "gold", true),
            ("In", json!(["gold"]), "", "", false),
            ("NotIn", json!(["gold"]), "", "", true),
            ("NotIn", json!(["gold"]), "gold", "", false),
            ("NotIn", json!(["gold"]), "gold", "silver", true),
            ("Exists", json!([]), "gold", "", true),
            ("DoesNotExist", json!([]), "gold", "", false),
            ("DoesNotExist", json!([]), "", "", true),
        ] {
            let requirement = json!({"scopeName": "VolumeAttributesClass", "operator": operator, "values": values});
            let quota = serde_json::from_value(json!({"spec": {"scopeSelector": {"matchExpressions": [requirement]}}})).unwrap();
            let claim = claim(wanted, current);
            assert_eq!(in_scope(&quota, Counted::Claim(&claim)), expected, "{requirement} {wanted:?} {current:?}");
            assert!(!in_scope(&quota, Counted::Other));
        }
    }

    #[test]
    fn what_counts_for_what() {
        let resources = json!({"requests": {"cpu": "250m", "example.com/gpu": "1"}, "limits": {"memory": "64Mi"}});
        let mut pod = json!({"spec": {"containers": [{"name": "a", "resources": resources}, {"name": "b", "resources": resources}]}});
        let counted = |pod: &Value| shown(&pod_usage(&serde_json::from_value(pod.clone()).unwrap()));
        let expected = json!({
            "count/pods": "1", "pods": "1", "cpu": "500m", "requests.cpu": "500m", "requests.example.com/gpu": "2", "limits.memory": "128Mi"});
        assert_eq!(counted(&pod), expected);
        pod["status"] = json!({"phase": "Succeeded"});
        assert_eq!(counted(&pod), json!({"count/pods": "1"}));
        let service = json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}});
        let expected = json!({"count/services": "1", "services": "1", "services.nodeports": "2", "services.loadbalancers": "1"});
        assert_eq!(shown(&service_usage(&serde_json::from_value(service).unwrap())), expected);
        assert_eq!(shown(&object_usage("", "secrets")), json!({"count/secrets": "1", "secrets": "1"}));
        assert_eq!(shown(&object_usage("batch", "jobs")), json!({"count/jobs.batch": "1"}));
    }
}
