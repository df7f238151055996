//! LimitRange: bounds and defaults for what the pods, containers and claims of a namespace may ask for.

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::resource::{Resource, texts};
use crate::resources::core::resource_name;
use crate::validation::{invalid, names};
use k8s_openapi::api::core::v1::LimitRange;
use k8s_openapi::api::core::v1::LimitRangeItem;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;
use std::collections::{BTreeSet, HashSet};

impl Kind for LimitRange {
    fn set_defaults(&mut self) {
        for item in self.spec.iter_mut().flat_map(|s| &mut s.limits).filter(|i| i.type_ == "Container") {
            // A maximum is also the default limit, and that is also the default request; failing both, a minimum is.
            fill(&mut item.default, item.max.as_ref());
            let limit = item.default.clone();
            fill(&mut item.default_request, limit.as_ref());
            fill(&mut item.default_request, item.min.as_ref());
        }
    }

    fn validate(&self, errors: &mut ErrorList) {
        let path = Path::new("spec").child("limits");
        let mut seen = HashSet::new();
        for (i, item) in self.spec.iter().flat_map(|s| &s.limits).enumerate() {
            let path = path.index(i);
            type_name(errors, &path.child("type"), &item.type_);
            if !seen.insert(&item.type_) {
                errors.duplicate(&path.child("type"), item.type_.as_str());
            }
            limits(errors, &path, item);
        }
    }
}

type List = BTreeMap<String, Quantity>;

/// Takes over the entries of `from` that are not there yet.
fn fill(list: &mut Option<List>, from: Option<&List>) {
    for (name, quantity) in from.into_iter().flatten() {
        list.get_or_insert_default().entry(name.clone()).or_insert_with(|| quantity.clone());
    }
}

fn type_name(errors: &mut ErrorList, path: &Path, value: &str) {
    let messages = names::qualified_name(value);
    if messages.is_empty() && !value.contains('/') && !matches!(value, "Pod" | "Container" | "PersistentVolumeClaim") {
        errors.invalid(path, value, "must be a standard limit type or fully qualified");
    }
    invalid(errors, path, value, messages);
}

/// The bounds of one type: names that are resources, and amounts that fit each other.
fn limits(errors: &mut ErrorList, path: &Path, item: &LimitRangeItem) {
    let is_pod = item.type_ == "Pod";
    let lists = [
        ("max", &item.max),
        ("min", &item.min),
        ("default", &item.default),
        ("defaultRequest", &item.default_request),
        ("maxLimitRequestRatio", &item.max_limit_request_ratio),
    ];
    let mut resources = BTreeSet::new();
    for (field, list) in lists {
        if is_pod && field.starts_with("default") {
            if list.as_ref().is_some_and(|l| !l.is_empty()) {
                errors.forbidden(&path.child(field), "may not be specified when `type` is 'Pod'");
            }
            continue;
        }
        if field == "maxLimitRequestRatio" && item.type_ == "PersistentVolumeClaim" {
            let has = |list: &Option<List>| list.as_ref().is_some_and(|l| l.contains_key("storage"));
            if !has(&item.min) && !has(&item.max) {
                let why = "either minimum or maximum storage value is required, but neither was provided";
                errors.required(&path.child("limits"), why);
            }
        }
        for name in list.iter().flatten().map(|(name, _)| name) {
            let at = path.child(field).key(name);
            if is_pod || item.type_ == "Container" {
                resource_name::container_name(errors, &at, name);
            } else {
                resource_name::name(errors, &at, name);
            }
            resources.insert(name);
        }
    }
    for name in resources {
        amounts(errors, path, item, name);
    }
}

/// Pushes an error for each pair of amounts of one resource of which the lower is above the higher.
fn amounts(errors: &mut ErrorList, path: &Path, item: &LimitRangeItem, name: &str) {
    let get = |list: &Option<List>| list.as_ref().and_then(|l| l.get(name)).cloned();
    let (max, min, ratio) = (get(&item.max), get(&item.min), get(&item.max_limit_request_ratio));
    let default = get(&item.default).filter(|_| item.type_ != "Pod");
    let request = get(&item.default_request).filter(|_| item.type_ != "Pod");
    // The lower and the higher amount, what each is called, the field that is blamed and the amount that is shown there.
    let pairs = [
        (&min, "min", &max, "max", "min", &min),
        (&min, "min", &request, "default request", "defaultRequest", &request),
        (&request, "default request", &max, "max", "defaultRequest", &request),
        (&request, "default request", &default, "default limit", "defaultRequest", &request),
        (&min, "min", &default, "default", "default", &min),
        (&default, "default", &max, "max", "default", &max),
    ];
    for (low, low_name, high, high_name, field, shown) in pairs {
        let (Some(low), Some(high), Some(shown)) = (low, high, shown) else { continue };
        if resource_name::parse(low) > resource_name::parse(high) {
            let why = format!("{low_name} value {} is greater than {high_name} value {}", low.0, high.0);
            errors.invalid(&path.child(field).key(name), shown.0.as_str(), &why);
        }
    }
    let at = path.child("maxLimitRequestRatio").key(name);
    if let Some(ratio) = &ratio {
        let value = resource_name::parse(ratio).to_f64();
        if value < 1.0 {
            errors.invalid(&at, ratio.0.as_str(), &format!("ratio {} is less than 1", ratio.0));
        }
        if let (Some(min), Some(max)) = (&min, &max) {
            let limit = resource_name::parse(max).to_f64() / resource_name::parse(min).to_f64();
            if value > limit {
                errors.invalid(&at, ratio.0.as_str(), &format!("ratio {} is greater than max/min = {limit:.6}", ratio.0));
            }
        }
    }
    if let (false, Some(default), Some(request)) = (resource_name::may_overcommit(name), &default, &request)
        && resource_name::parse(default) != resource_name::parse(request)
    {
        let why = format!("default value {} must equal to defaultRequest value {} in {name}", default.0, request.0);
        errors.invalid(&path.child("defaultRequest").key(name), request.0.as_str(), &why);
    }
}

/// The row.
pub fn row() -> Resource {
    Resource { short_names: texts(&["limits"]), ..Resource::of::<LimitRange>() }
}
