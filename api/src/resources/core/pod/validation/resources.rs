//! Validation of what containers and pods ask for and may use.

use crate::field::{ErrorList, Path};
use crate::resources::core::resource_name::{container_name, is_huge_pages, may_overcommit, name, parse, quantity};
use crate::resources::defaulting::items;
use crate::validation::{invalid, names};
use k8s_openapi::api::core::v1::{ContainerResizePolicy, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::{BTreeMap, HashSet};

type List = BTreeMap<String, Quantity>;

/// `resources` of a container. `claims` are the names of the pod's resource claims.
pub fn container(errors: &mut ErrorList, path: &Path, requirements: &ResourceRequirements, claims: &[&str]) {
    self::requirements(errors, path, requirements, container_name);
    claim_names(errors, &path.child("claims"), requirements, claims);
}

fn requirements(errors: &mut ErrorList, path: &Path, r: &ResourceRequirements, check_name: fn(&mut ErrorList, &Path, &str)) {
    let (limits, requests) = (path.child("limits"), path.child("requests"));
    for (name, value) in r.limits.iter().flatten() {
        let at = limits.key(name);
        check_name(errors, &at, name);
        quantity(errors, &at, name, value);
        huge_pages(errors, &at, name, value);
    }
    for (name, value) in r.requests.iter().flatten() {
        let at = requests.key(name);
        check_name(errors, &at, name);
        quantity(errors, &at, name, value);
        match r.limits.as_ref().and_then(|l| l.get(name)) {
            Some(limit) if !may_overcommit(name) && parse(value) != parse(limit) => {
                errors.invalid(&requests, value.0.as_str(), &format!("must be equal to {name} limit of {}", limit.0));
            }
            Some(limit) if parse(value) > parse(limit) => {
                errors.invalid(&requests, value.0.as_str(), &format!("must be less than or equal to {name} limit of {}", limit.0));
            }
            Some(_) => {}
            None if !may_overcommit(name) => errors.required(&limits, "Limit must be set for non overcommitable resources"),
            None => {}
        }
        huge_pages(errors, &at, name, value);
    }
    let has = |list: &Option<List>, test: fn(&str) -> bool| list.as_ref().is_some_and(|l| l.keys().any(|k| test(k)));
    let computing = |k: &str| k == "cpu" || k == "memory";
    if (has(&r.limits, is_huge_pages) || has(&r.requests, is_huge_pages)) && !has(&r.limits, computing) && !has(&r.requests, computing) {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
}

fn huge_pages(errors: &mut ErrorList, path: &Path, name: &str, value: &Quantity) {
    let Some(size) = name.strip_prefix("hugepages-").map(|s| parse(&Quantity(s.into())).value()).filter(|s| *s > 0) else { return };
    let bytes = parse(value).value();
    if bytes < 0 || bytes % size != 0 {
        errors.invalid(path, value.0.as_str(), &format!("{} is not positive integer multiple of {name}", value.0));
    }
}

fn claim_names(errors: &mut ErrorList, path: &Path, requirements: &ResourceRequirements, claims: &[&str]) {
    let mut seen = HashSet::new();
    for (i, claim) in items(&requirements.claims).iter().enumerate() {
        let at = path.index(i);
        if claim.name.is_empty() {
            errors.required(&at, "");
            continue;
        }
        let request = claim.request.as_deref().unwrap_or("");
        if !request.is_empty() {
            invalid(errors, &at.child("request"), request, names::dns1123_label(request));
        }
        let key = if request.is_empty() { claim.name.clone() } else { format!("{}/{request}", claim.name) };
        if seen.contains(&claim.name) || !seen.insert(key.clone()) {
            errors.duplicate(&at, key);
        }
        if !claims.contains(&claim.name.as_str()) {
            errors.not_found(&at, claim.name.as_str());
        }
    }
}

fn pod_name(errors: &mut ErrorList, path: &Path, value: &str) {
    if name(errors, path, value) && !(matches!(value, "cpu" | "memory") || is_huge_pages(value)) {
        errors.not_supported(path, value, &["cpu", "hugepages-", "memory"]);
    }
}

/// `resources` of the pod as a whole: at least what its containers ask for together, at most by each what the pod may use.
pub fn pod(errors: &mut ErrorList, path: &Path, spec: &PodSpec) {
    let Some(resources) = &spec.resources else { return };
    if resources.claims.is_some() {
        errors.forbidden(&path.child("claims"), "claims cannot be set for Resources at pod-level");
    }
    requirements(errors, path, resources, pod_name);
    for (i, container) in spec.containers.iter().enumerate() {
        for (name, limit) in container.resources.iter().flat_map(|r| r.limits.iter().flatten()) {
            let Some(of_pod) = resources.limits.as_ref().and_then(|l| l.get(name)) else { continue };
            if parse(limit) > parse(of_pod) {
                let path = path.child("containers").index(i).key(name).child("limits");
                errors.invalid(&path, limit.0.as_str(), &format!("must be less than or equal to pod limits of {}", of_pod.0));
            }
        }
    }
}

/// `resizePolicy` of a container.
pub fn resize_policy(errors: &mut ErrorList, path: &Path, policies: &[ContainerResizePolicy], restart_policy: &str) {
    let mut seen = HashSet::new();
    for (i, policy) in policies.iter().enumerate() {
        if !seen.insert(policy.resource_name.as_str()) {
            errors.duplicate(&path.index(i), policy.resource_name.as_str());
        }
        super::containers::one_of(errors, path, &policy.resource_name, &["cpu", "memory"]);
        super::containers::one_of(errors, path, &policy.restart_policy, &["NotRequired", "RestartContainer"]);
        if restart_policy == "Never" && policy.restart_policy != "NotRequired" {
            errors.invalid(path, policy.restart_policy.as_str(), "must be 'NotRequired' when `restartPolicy` is 'Never'");
        }
    }
}
