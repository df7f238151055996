//! Slices: what drivers publish of their devices.

use super::{binding_conditions, driver_name, effect, label, list, pool_name, qualified_name, set};
use crate::cel::value::Semver;
use crate::field::{ErrorList, Path};
use crate::quantity::Quantity;
use crate::resources::core::pod::validation::scheduling::node_selector;
use crate::resources::defaulting::{items, str};
use crate::validation::{IMMUTABLE, invalid, labels, names};
use k8s_openapi::api::core::v1::NodeSelector;
use k8s_openapi::api::resource::v1::{
    CapacityRequestPolicy, Counter, Device, DeviceAttribute, DeviceCapacity, DeviceTaint, ResourceSliceSpec,
};
use serde_json::json;
use std::collections::BTreeMap;

/// How many devices a slice may have; fewer if they have taints or consume counters.
const MAX_DEVICES: usize = 128;
const MAX_DEVICES_ADVANCED: usize = 64;
/// How many attributes and capacities a device may have.
const MAX_ATTRIBUTES: usize = 32;
/// How long an attribute's text may be.
const MAX_TEXT: usize = 64;
/// How many taints a device may have.
const MAX_TAINTS: usize = 16;
/// How many sets of counters a slice may have, how many counters each, and how many sets a device may consume.
const MAX_COUNTER_SETS: usize = 8;
const MAX_COUNTERS: usize = 32;
const MAX_CONSUMED_SETS: usize = 2;
/// How many amounts a policy may list.
const MAX_VALUES: usize = 10;

/// The spec of a slice, and how it may change.
pub fn slice_spec(errors: &mut ErrorList, spec: &ResourceSliceSpec, old: Option<&ResourceSliceSpec>) {
    let path = Path::new("spec");
    driver_name(errors, &path.child("driver"), &spec.driver);
    let pool = path.child("pool");
    pool_name(errors, &pool.child("name"), &spec.pool.name);
    if spec.pool.resource_slice_count <= 0 {
        errors.invalid(&pool.child("resourceSliceCount"), spec.pool.resource_slice_count, "must be greater than zero");
    }
    if spec.pool.generation < 0 {
        errors.invalid(&pool.child("generation"), spec.pool.generation, "must be greater than or equal to zero");
    }
    if let Some(old) = old {
        for (path, new, old) in [
            (pool.child("name"), json!(spec.pool.name), json!(old.pool.name)),
            (path.child("driver"), json!(spec.driver), json!(old.driver)),
            (path.child("nodeName"), json!(spec.node_name), json!(old.node_name)),
        ] {
            if new != old {
                errors.invalid(&path, new, IMMUTABLE);
            }
        }
    }
    reach(errors, &path, spec);
    let each = spec.per_device_node_selection == Some(true);
    let devices = items(&spec.devices);
    if spec.shared_counters.is_some() && spec.devices.is_some() {
        errors.invalid(&path, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let advanced = devices.iter().any(|device| !items(&device.taints).is_empty() || !items(&device.consumes_counters).is_empty());
    let most = if advanced { MAX_DEVICES_ADVANCED } else { MAX_DEVICES };
    set(errors, &path.child("devices"), devices, most, |d| d.name.clone(), |errors, path, new| device(errors, path, new, each));
    set(
        errors,
        &path.child("sharedCounters"),
        items(&spec.shared_counters),
        MAX_COUNTER_SETS,
        |s| s.name.clone(),
        |errors, path, set| {
            counter_set_name(errors, &path.child("name"), &set.name);
            counters(errors, &path.child("counters"), &set.counters);
        },
    );
}

/// A node's name.
fn node_name(errors: &mut ErrorList, path: &Path, name: &str) {
    invalid(errors, path, name, names::dns1123_subdomain(name));
}

fn is_true(errors: &mut ErrorList, path: &Path, flag: Option<bool>) -> bool {
    if flag == Some(false) {
        errors.invalid(path, false, "must be either unset or set to true");
    }
    flag == Some(true)
}

fn selector(errors: &mut ErrorList, path: &Path, selector: Option<&NodeSelector>) -> bool {
    if let Some(selector) = selector {
        node_selector(errors, path, selector);
    }
    selector.is_some()
}

/// Where the slice's devices can be used: said in one way.
fn reach(errors: &mut ErrorList, path: &Path, spec: &ResourceSliceSpec) {
    if let Some(name) = &spec.node_name {
        if name.is_empty() {
            errors.invalid(&path.child("nodeName"), "", "must be either unset or set to a non-empty string");
        } else {
            node_name(errors, &path.child("nodeName"), name);
        }
    }
    let selected = selector(errors, &path.child("nodeSelector"), spec.node_selector.as_ref());
    if let Some(selector) = spec.node_selector.as_ref().filter(|selector| selector.node_selector_terms.len() != 1) {
        let path = path.child("nodeSelector").child("nodeSelectorTerms");
        // With one term each, the selectors of several slices can be put together.
        errors.invalid(&path, json!(selector.node_selector_terms), "must have exactly one node selector term");
    }
    let said: Vec<&str> = [
        ("`nodeName`", !str(&spec.node_name).is_empty()),
        ("`nodeSelector`", selected),
        ("`allNodes`", is_true(errors, &path.child("allNodes"), spec.all_nodes)),
        ("`perDeviceNodeSelection`", is_true(errors, &path.child("perDeviceNodeSelection"), spec.per_device_node_selection)),
    ]
    .into_iter()
    .filter_map(|(name, said)| said.then_some(name))
    .collect();
    let why = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match said.len() {
        0 => errors.required(path, why),
        1 => {}
        _ => errors.invalid(path, format!("{{{}}}", said.join(", ")), &format!("{why}, but multiple fields are set")),
    }
}

fn device(errors: &mut ErrorList, path: &Path, device: &Device, each: bool) {
    label(errors, &path.child("name"), &device.name);
    let (no_attributes, no_capacity) = (BTreeMap::new(), BTreeMap::new());
    let (attributes, capacities) = (device.attributes.as_ref().unwrap_or(&no_attributes), device.capacity.as_ref().unwrap_or(&no_capacity));
    let count = attributes.len() + capacities.len();
    if count > MAX_ATTRIBUTES {
        errors.invalid(path, count, &format!("the total number of attributes and capacities must not exceed {MAX_ATTRIBUTES}"));
    }
    for (name, value) in attributes {
        let path = path.child("attributes").key(name);
        qualified_name(errors, &path, name);
        attribute(errors, &path, value);
    }
    let shared = device.allow_multiple_allocations == Some(true);
    for (name, value) in capacities {
        let path = path.child("capacity").key(name);
        qualified_name(errors, &path, name);
        capacity(errors, &path, value, shared);
    }
    list(errors, &path.child("taints"), items(&device.taints), MAX_TAINTS, taint);
    let consumed = items(&device.consumes_counters);
    set(
        errors,
        &path.child("consumesCounters"),
        consumed,
        MAX_CONSUMED_SETS,
        |c| c.counter_set.clone(),
        |errors, path, consumed| {
            counter_set_name(errors, &path.child("counterSet"), &consumed.counter_set);
            counters(errors, &path.child("counters"), &consumed.counters);
        },
    );
    device_reach(errors, path, device, each);
    binding_conditions(errors, path, &device.binding_conditions, &device.binding_failure_conditions);
}

fn device_reach(errors: &mut ErrorList, path: &Path, device: &Device, each: bool) {
    if !each {
        if device.node_name.is_some() || device.node_selector.is_some() || device.all_nodes.is_some() {
            let why = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            errors.invalid(path, json!(null), why);
        }
        return;
    }
    if let Some(name) = &device.node_name {
        if name.is_empty() {
            errors.invalid(&path.child("nodeName"), "", "must not be empty");
        } else {
            node_name(errors, &path.child("nodeName"), name);
        }
    }
    let said: Vec<&str> = [
        ("`nodeName`", !str(&device.node_name).is_empty()),
        ("`nodeSelector`", selector(errors, &path.child("nodeSelector"), device.node_selector.as_ref())),
        ("`allNodes`", is_true(errors, &path.child("allNodes"), device.all_nodes)),
    ]
    .into_iter()
    .filter_map(|(name, said)| said.then_some(name))
    .collect();
    let why = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    match said.len() {
        0 => errors.required(path, why),
        1 => {}
        _ => errors.invalid(path, format!("{{{}}}", said.join(", ")), why),
    }
}

fn attribute(errors: &mut ErrorList, path: &Path, attribute: &DeviceAttribute) {
    for (field, text) in [("string", &attribute.string), ("version", &attribute.version)] {
        if text.as_ref().is_some_and(|text| text.len() > MAX_TEXT) {
            errors.too_long(&path.child(field), MAX_TEXT);
        }
    }
    if let Some(version) = attribute.version.as_deref().filter(|version| Semver::parse(version, false).is_none()) {
        errors.invalid(&path.child("version"), version, "must be a string compatible with semver.org spec 2.0.0");
    }
    let given = [attribute.bool.is_some(), attribute.int.is_some(), attribute.string.is_some(), attribute.version.is_some()];
    match given.into_iter().filter(|given| *given).count() {
        0 => errors.invalid(path, "", "exactly one value must be specified"),
        1 => {}
        _ => errors.invalid(path, json!(attribute), "exactly one value must be specified"),
    }
}

fn capacity(errors: &mut ErrorList, path: &Path, capacity: &DeviceCapacity, shared: bool) {
    let Some(policy) = &capacity.request_policy else { return };
    let path = path.child("requestPolicy");
    if !shared {
        return errors.forbidden(&path, "allowMultipleAllocations must be true");
    }
    if let Ok(whole) = Quantity::of(&capacity.value) {
        request_policy(errors, &path, policy, whole);
    }
}

fn request_policy(errors: &mut ErrorList, path: &Path, policy: &CapacityRequestPolicy, whole: Quantity) {
    let amount = |quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity| Quantity::of(quantity).ok();
    let default = policy.default.as_ref().and_then(amount);
    let values: Vec<Quantity> = items(&policy.valid_values).iter().filter_map(amount).collect();
    match (values.is_empty(), &policy.valid_range) {
        (false, Some(_)) => {
            errors
                .forbidden(path, "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time");
        }
        (false, None) => {
            let Some(default) = default else { return errors.required(&path.child("default"), "required when validValues is defined") };
            let path = path.child("validValues");
            for (index, pair) in values.windows(2).enumerate() {
                if pair[0] > pair[1] {
                    errors.invalid(&path.index(index + 1), pair[1].to_string(), "values must be sorted in ascending order");
                }
            }
            set(errors, &path, &values, MAX_VALUES, Quantity::to_string, |errors, path, value| {
                if *value > whole {
                    errors.invalid(path, value.to_string(), &format!("option is larger than capacity value: {whole}"));
                }
            });
            if !values.contains(&default) {
                errors.invalid(&path, default.to_string(), "default value is not valid according to the requestPolicy");
            }
        }
        (true, Some(range)) => {
            let Some(default) = default else { return errors.required(&path.child("default"), "required when validRange is defined") };
            let path = path.child("validRange");
            let (min, max) = (amount(&range.min).unwrap_or(default), range.max.as_ref().and_then(amount));
            if min > whole {
                errors.invalid(&path.child("min"), min.to_string(), &format!("min is larger than capacity value: {whole}"));
            }
            if let Some(max) = max {
                if min > max {
                    errors.invalid(&path.child("min"), min.to_string(), &format!("min is larger than max: {max}"));
                }
                if max > whole {
                    errors.invalid(&path.child("max"), max.to_string(), &format!("max is larger than capacity value: {whole}"));
                }
                if default > max {
                    errors.invalid(&path.sibling("default"), default.to_string(), &format!("default is larger than max: {max}"));
                }
            }
            if default < min {
                errors.invalid(&path.sibling("default"), default.to_string(), &format!("default is less than min: {min}"));
            }
        }
        (true, None) => {}
    }
}

fn taint(errors: &mut ErrorList, path: &Path, taint: &DeviceTaint) {
    labels::label_name(errors, &path.child("key"), &taint.key);
    if let Some(value) = taint.value.as_deref().filter(|value| !value.is_empty()) {
        invalid(errors, &path.child("value"), value, names::label_value(value));
    }
    if taint.effect.is_empty() {
        errors.required(&path.child("effect"), "");
    } else {
        effect(errors, &path.child("effect"), &taint.effect);
    }
}

fn counter_set_name(errors: &mut ErrorList, path: &Path, name: &str) {
    if name.is_empty() {
        errors.required(path, "");
    } else {
        label(errors, path, name);
    }
}

fn counters(errors: &mut ErrorList, path: &Path, counters: &BTreeMap<String, Counter>) {
    if counters.is_empty() {
        errors.required(path, "");
    }
    counters.keys().for_each(|name| label(errors, &path.key(name), name));
    if counters.len() > MAX_COUNTERS {
        errors.too_many(path, counters.len(), MAX_COUNTERS);
    }
}
