//! Claims and their templates, classes, and what a claim's status may become.

use super::{
    MAX_PARAMETERS, MAX_REQUESTS, binding_conditions, class_name, configuration, driver_name, fully_qualified_name, label, list, pool_name,
    selectors, set, tolerations,
};
use crate::field::{ErrorList, Path};
use crate::resources::core::pod::validation::scheduling::node_selector;
use crate::resources::defaulting::items;
use crate::validation::IMMUTABLE;
use k8s_openapi::api::resource::v1::{
    AllocatedDeviceStatus, AllocationResult, DeviceClaim, DeviceClassSpec, DeviceRequest, NetworkDeviceData, ResourceClaim,
    ResourceClaimSpec, ResourceClaimStatus,
};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// How many alternatives a request may have.
const MAX_ALTERNATIVES: usize = 8;
/// How many devices a claim may have.
const MAX_RESULTS: usize = 32;
/// How many conditions a device's status may have.
const MAX_CONDITIONS: usize = 8;
/// How many addresses a device may have, and how long its names may be.
const MAX_IPS: usize = 16;
const MAX_INTERFACE: usize = 256;
const MAX_HARDWARE_ADDRESS: usize = 128;

/// The names of a claim's requests, with those of their alternatives.
struct Names<'a>(BTreeMap<&'a str, BTreeSet<&'a str>>);

impl<'a> Names<'a> {
    fn of(claim: &'a DeviceClaim) -> Self {
        let alternatives = |request: &'a DeviceRequest| items(&request.first_available).iter().map(|a| a.name.as_str()).collect();
        Names(items(&claim.requests).iter().map(|request| (request.name.as_str(), alternatives(request))).collect())
    }

    fn has(&self, name: &str) -> bool {
        match name.split_once('/') {
            None => self.0.contains_key(name),
            Some((request, alternative)) => self.0.get(request).is_some_and(|alternatives| alternatives.contains(alternative)),
        }
    }

    /// A name that has to be one of them.
    fn check(&self, errors: &mut ErrorList, path: &Path, name: &str) {
        let why = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
        if name.split('/').count() > 2 {
            return errors.invalid(path, name, why);
        }
        name.split('/').for_each(|part| label(errors, path, part));
        if !self.has(name) {
            errors.invalid(path, name, why);
        }
    }

    fn check_all(&self, errors: &mut ErrorList, path: &Path, names: &Option<Vec<String>>) {
        set(errors, &path.child("requests"), items(names), MAX_REQUESTS, String::clone, |errors, path, name| {
            self.check(errors, path, name)
        });
    }
}

/// The spec of a claim.
pub fn claim_spec(errors: &mut ErrorList, path: &Path, spec: &ResourceClaimSpec) {
    let empty = DeviceClaim::default();
    let claim = spec.devices.as_ref().unwrap_or(&empty);
    let (path, names) = (path.child("devices"), Names::of(claim));
    set(errors, &path.child("requests"), items(&claim.requests), MAX_REQUESTS, |r| r.name.clone(), request);
    list(errors, &path.child("constraints"), items(&claim.constraints), MAX_REQUESTS, |errors, path, constraint| {
        names.check_all(errors, path, &constraint.requests);
        match (&constraint.match_attribute, &constraint.distinct_attribute) {
            (Some(name), None) => fully_qualified_name(errors, &path.child("matchAttribute"), name),
            (None, Some(name)) => fully_qualified_name(errors, &path.child("distinctAttribute"), name),
            (Some(_), Some(_)) => {
                let why = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
                errors.invalid(path, json!(null), why);
            }
            (None, None) => errors.required(path, "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required"),
        }
    });
    list(errors, &path.child("config"), items(&claim.config), MAX_REQUESTS, |errors, path, config| {
        names.check_all(errors, path, &config.requests);
        configuration(errors, path, config.opaque.as_ref());
    });
}

fn request_name(errors: &mut ErrorList, path: &Path, name: &str) {
    if name.is_empty() {
        errors.required(path, "");
    } else {
        label(errors, path, name);
    }
}

fn request(errors: &mut ErrorList, path: &Path, request: &DeviceRequest) {
    request_name(errors, &path.child("name"), &request.name);
    let first = items(&request.first_available);
    match (&request.exactly, first.is_empty()) {
        (None, true) => errors.required(path, "exactly one of `exactly` or `firstAvailable` is required"),
        (Some(_), false) => {
            errors.invalid(path, json!(null), "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set");
        }
        (Some(exactly), true) => {
            let path = path.child("exactly");
            class_name(errors, &path.child("deviceClassName"), &exactly.device_class_name);
            selectors(errors, &path.child("selectors"), exactly.selectors.as_ref(), false);
            allocation_mode(errors, &path, exactly.allocation_mode.as_deref(), exactly.count);
            tolerations(errors, &path.child("tolerations"), &exactly.tolerations);
        }
        (None, false) => {
            let path = path.child("firstAvailable");
            set(
                errors,
                &path,
                first,
                MAX_ALTERNATIVES,
                |a| a.name.clone(),
                |errors, path, alternative| {
                    request_name(errors, &path.child("name"), &alternative.name);
                    class_name(errors, &path.child("deviceClassName"), &alternative.device_class_name);
                    selectors(errors, &path.child("selectors"), alternative.selectors.as_ref(), false);
                    allocation_mode(errors, path, alternative.allocation_mode.as_deref(), alternative.count);
                    tolerations(errors, &path.child("tolerations"), &alternative.tolerations);
                },
            );
        }
    }
}

fn allocation_mode(errors: &mut ErrorList, path: &Path, mode: Option<&str>, count: Option<i64>) {
    let count = count.unwrap_or(0);
    match mode.unwrap_or_default() {
        "All" if count != 0 => errors.invalid(&path.child("count"), count, "must not be specified when allocationMode is 'All'"),
        "All" => {}
        "ExactCount" if count <= 0 => errors.invalid(&path.child("count"), count, "must be greater than zero"),
        "ExactCount" => {}
        other => errors.not_supported(&path.child("allocationMode"), other, &["All", "ExactCount"]),
    }
}

/// The spec of a class; of what has not changed since `old` the expressions are taken for fine.
pub fn class_spec(errors: &mut ErrorList, spec: &DeviceClassSpec, old: Option<&DeviceClassSpec>) {
    let path = Path::new("spec");
    let stored = old.is_some_and(|old| old.selectors == spec.selectors);
    selectors(errors, &path.child("selectors"), spec.selectors.as_ref(), stored);
    list(errors, &path.child("config"), items(&spec.config), MAX_REQUESTS, |errors, path, config| {
        configuration(errors, path, config.opaque.as_ref());
    });
    if let Some(name) = &spec.extended_resource_name {
        let domain = name.split_once('/').map(|(domain, _)| domain);
        let native = domain.is_none_or(|domain| domain == "kubernetes.io" || domain.ends_with(".kubernetes.io"));
        if native || name.starts_with("requests.") || !crate::validation::names::qualified_name(&format!("requests.{name}")).is_empty() {
            errors.invalid(&path.child("extendedResourceName"), name.as_str(), "must be a valid extended resource name");
        }
    }
}

/// What a claim's status may become.
pub fn claim_status(errors: &mut ErrorList, claim: &ResourceClaim, old: &ResourceClaim) {
    let empty = ResourceClaimStatus::default();
    let (new, old) = (claim.status.as_ref().unwrap_or(&empty), old.status.as_ref().unwrap_or(&empty));
    let path = Path::new("status");
    let reserved = path.child("reservedFor");
    let consumers = items(&new.reserved_for);
    set(
        errors,
        &reserved,
        consumers,
        crate::device_claims::MAX_CONSUMERS,
        |c| c.uid.clone(),
        |errors, path, consumer| {
            for (field, value) in [("resource", &consumer.resource), ("name", &consumer.name), ("uid", &consumer.uid)] {
                if value.is_empty() {
                    errors.required(&path.child(field), "");
                }
            }
        },
    );
    let results = new.allocation.iter().filter_map(|a| a.devices.as_ref()).flat_map(|d| items(&d.results));
    let id = |driver: &str, pool: &str, device: &str, share: &Option<String>| {
        let share = share.as_ref().map(|share| format!("/{share}")).unwrap_or_default();
        format!("{driver}/{pool}/{device}{share}")
    };
    let allocated: BTreeSet<String> = results.map(|r| id(&r.driver, &r.pool, &r.device, &r.share_id)).collect();
    let key = |d: &AllocatedDeviceStatus| id(&d.driver, &d.pool, &d.device, &d.share_id);
    set(errors, &path.child("devices"), items(&new.devices), usize::MAX, key, |errors, path, device| {
        driver_name(errors, &path.child("driver"), &device.driver);
        pool_name(errors, &path.child("pool"), &device.pool);
        label(errors, &path.child("device"), &device.device);
        if !allocated.contains(&key(device)) {
            errors.invalid(path, key(device), "must be an allocated device in the claim");
        }
        device_status(errors, path, device);
    });
    if !consumers.is_empty() && new.allocation.is_none() {
        errors.forbidden(&reserved, "may not be specified when `allocated` is not set");
    } else if claim.metadata.deletion_timestamp.is_some() && consumers.iter().any(|c| !items(&old.reserved_for).contains(c)) {
        errors.forbidden(&reserved, "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set");
    }
    match (&new.allocation, &old.allocation) {
        (Some(new), Some(old)) if new != old => errors.invalid(&path.child("allocation"), json!(new), IMMUTABLE),
        (Some(new), None) => allocation(errors, &path.child("allocation"), new, claim),
        _ => {}
    }
}

fn device_status(errors: &mut ErrorList, path: &Path, device: &AllocatedDeviceStatus) {
    if items(&device.conditions).len() > MAX_CONDITIONS {
        errors.too_many(&path.child("conditions"), items(&device.conditions).len(), MAX_CONDITIONS);
    }
    if device.data.as_ref().is_some_and(|data| data.0.to_string().len() > MAX_PARAMETERS) {
        errors.too_long(&path.child("data"), MAX_PARAMETERS);
    }
    if let Some(network) = &device.network_data {
        network_data(errors, &path.child("networkData"), network);
    }
}

fn network_data(errors: &mut ErrorList, path: &Path, data: &NetworkDeviceData) {
    for (field, text, max) in
        [("interfaceName", &data.interface_name, MAX_INTERFACE), ("hardwareAddress", &data.hardware_address, MAX_HARDWARE_ADDRESS)]
    {
        if text.as_ref().is_some_and(|text| text.len() > max) {
            errors.too_long(&path.child(field), max);
        }
    }
    set(errors, &path.child("ips"), items(&data.ips), MAX_IPS, String::clone, |errors, path, ip| {
        crate::validation::invalid(errors, path, ip, crate::validation::names::cidr(ip));
    });
}

fn allocation(errors: &mut ErrorList, path: &Path, allocation: &AllocationResult, claim: &ResourceClaim) {
    let empty = DeviceClaim::default();
    let names = Names::of(claim.spec.devices.as_ref().unwrap_or(&empty));
    let devices = path.child("devices");
    let given = allocation.devices.as_ref();
    list(errors, &devices.child("results"), given.map_or(&[], |d| items(&d.results)), MAX_RESULTS, |errors, path, result| {
        names.check(errors, &path.child("request"), &result.request);
        driver_name(errors, &path.child("driver"), &result.driver);
        pool_name(errors, &path.child("pool"), &result.pool);
        label(errors, &path.child("device"), &result.device);
        binding_conditions(errors, path, &result.binding_conditions, &result.binding_failure_conditions);
        tolerations(errors, &path.child("tolerations"), &result.tolerations);
        if let Some(share) = result.share_id.as_deref().filter(|share| !is_uid(share)) {
            let why =
                "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters";
            errors.invalid(&path.child("shareID"), share, why);
        }
    });
    list(errors, &devices.child("config"), given.map_or(&[], |d| items(&d.config)), 2 * MAX_REQUESTS, |errors, path, config| {
        match config.source.as_str() {
            "FromClass" | "FromClaim" => {}
            "" => errors.required(&path.child("source"), ""),
            other => errors.not_supported(&path.child("source"), other, &["FromClaim", "FromClass"]),
        }
        names.check_all(errors, path, &config.requests);
        configuration(errors, path, config.opaque.as_ref());
    });
    if let Some(selector) = &allocation.node_selector {
        node_selector(errors, &path.child("nodeSelector"), selector);
    }
}

fn is_uid(text: &str) -> bool {
    let lengths = [8, 4, 4, 4, 12];
    let hex = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    text.split('-').count() == lengths.len() && text.split('-').zip(lengths).all(|(part, length)| part.len() == length && hex(part))
}
