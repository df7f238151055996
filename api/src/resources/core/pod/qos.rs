//! The quality-of-service class of a pod: what its requests and limits promise (upstream: `pkg/apis/core/v1/helper/qos`).

use crate::resources::defaulting::items;
use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

type List = BTreeMap<String, Quantity>;

/// The resources that count for the class.
const COUNTED: [&str; 2] = ["cpu", "memory"];

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn class(spec: &PodSpec) -> &'static str {
    if let Some(resources) = spec.resources.as_ref().filter(|r| given(&r.requests) || given(&r.limits)) {
        return of(&[resources]);
    }
    let none = ResourceRequirements::default();
    let all: Vec<_> = items(&spec.init_containers).iter().chain(&spec.containers).map(|c| c.resources.as_ref().unwrap_or(&none)).collect();
    of(&all)
}

fn given(list: &Option<List>) -> bool {
    list.as_ref().is_some_and(|l| l.iter().any(|(name, quantity)| COUNTED.contains(&name.as_str()) && !is_zero(quantity)))
}

fn is_zero(quantity: &Quantity) -> bool {
    let digits = quantity.0.trim_start_matches(['+', '-']);
    !digits.chars().take_while(|c| c.is_ascii_digit() || *c == '.').any(|c| c.is_ascii_digit() && c != '0')
}

fn of(resources: &[&ResourceRequirements]) -> &'static str {
    if !resources.iter().any(|r| given(&r.requests) || given(&r.limits)) {
        return "BestEffort";
    }
    let quantity = |list: &Option<List>, name: &str| list.as_ref().and_then(|l| l.get(name)).filter(|q| !is_zero(q)).cloned();
    let guaranteed = resources.iter().all(|r| {
        COUNTED.iter().all(|name| {
            let limit = quantity(&r.limits, name);
            limit.is_some() && quantity(&r.requests, name).is_none_or(|request| Some(request) == limit)
        })
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}
