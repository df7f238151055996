//! Names of resources and the rules for their quantities: which are the cluster's own, which may be overcommitted, which come only whole
//! (upstream: `pkg/apis/core/helper` and the resource part of `pkg/apis/core/validation`).

use crate::field::{ErrorList, Path};
use crate::quantity::Quantity;
use crate::validation::{NOT_NEGATIVE, invalid, names};
use k8s_openapi::apimachinery::pkg::api::resource;

const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];
const CONTAINER: &[&str] = &["cpu", "memory", "ephemeral-storage"];
const QUOTA: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
const COUNTED: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// Memory in huge pages of one size.
pub fn is_huge_pages(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// One of the cluster's own resources: without a domain, or in Kubernetes' domain.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A resource that devices bring.
pub fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether limits may exceed requests.
pub fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_pages(name)
}

fn is_whole(name: &str) -> bool {
    COUNTED.contains(&name) || is_extended(name)
}

/// A resource's name. Answers whether it was right.
pub fn name(errors: &mut ErrorList, path: &Path, name: &str) -> bool {
    let messages = names::qualified_name(name);
    if !messages.is_empty() {
        invalid(errors, path, name, messages);
        return false;
    }
    let standard = STANDARD.contains(&name) || is_huge_pages(name) || name.starts_with("requests.hugepages-");
    if !name.contains('/') && !standard {
        errors.invalid(path, name, "must be a standard resource type or fully qualified");
        return false;
    }
    true
}

/// The name of a resource that containers have.
pub fn container_name(errors: &mut ErrorList, path: &Path, value: &str) {
    name(errors, path, value);
    if !value.contains('/') {
        if !CONTAINER.contains(&value) && !is_huge_pages(value) {
            errors.invalid(path, value, "must be a standard resource for containers");
        }
    } else if !is_native(value) && !is_extended(value) {
        errors.invalid(path, value, "doesn't follow extended resource name standard");
    }
}

/// The name of a resource that a quota counts.
pub fn quota_name(errors: &mut ErrorList, path: &Path, value: &str) {
    name(errors, path, value);
    let standard = QUOTA.contains(&value) || is_huge_pages(value) || value.starts_with("requests.hugepages-");
    if !value.contains('/') && !standard {
        errors.invalid(path, value, "must be a standard resource for quota");
    }
}

/// A quantity's value. Decoding refuses texts that are no quantities, so one here counts as zero.
pub fn parse(quantity: &resource::Quantity) -> Quantity {
    Quantity::of(quantity).unwrap_or(Quantity::ZERO)
}

/// A quantity of a resource.
pub fn quantity(errors: &mut ErrorList, path: &Path, name: &str, quantity: &resource::Quantity) {
    let value = parse(quantity);
    if value.sign() < 0 {
        errors.invalid(path, quantity.0.as_str(), NOT_NEGATIVE);
    }
    if is_whole(name) && value.milli_value() % 1000 != 0 {
        errors.invalid(path, quantity.0.as_str(), "must be an integer");
    }
}
