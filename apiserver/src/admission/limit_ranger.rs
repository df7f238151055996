//! LimitRanger: a namespace's limit ranges give containers their default requests and limits, and bound them
//! (upstream: `plugin/pkg/admission/limitranger`).

use super::{Admission, Operation, Request, ready};
use crate::objects::{Collection, Objects, decoded_list};
use api::{
    Object,
    quantity::Quantity,
    quota::{of_container, of_pod},
    status::Result,
};
use futures::future::BoxFuture;
use k8s_openapi::{
    api::core::v1::{Container, LimitRange, LimitRangeItem, PersistentVolumeClaim, Pod},
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
};
use std::{collections::BTreeMap, sync::Arc};

/// The plugin.
pub struct LimitRanger {
    /// Where limit ranges are.
    pub objects: Arc<dyn Objects>,
}

type Resources = BTreeMap<String, ApiQuantity>;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

fn amount(resources: &Resources, name: &str) -> Option<Quantity> {
    Quantity::of(resources.get(name)?).ok()
}

/// Adds what is missing; answers the names of what was added.
fn add_missing(to: &mut Option<Resources>, defaults: &Option<Resources>) -> Vec<String> {
    let mut added = Vec::new();
    for (name, quantity) in defaults.iter().flatten() {
        let resources = to.get_or_insert_default();
        if !resources.contains_key(name) {
            resources.insert(name.clone(), quantity.clone());
            added.push(name.clone());
        }
    }
    added
}

fn complete_container(container: &mut Container, item: &LimitRangeItem, kind: &str, told: &mut Vec<String>) {
    if item.default.is_none() && item.default_request.is_none() {
        return;
    }
    let resources = container.resources.get_or_insert_default();
    let limits = add_missing(&mut resources.limits, &item.default);
    let requests = add_missing(&mut resources.requests, &item.default_request);
    for (added, what) in [(requests, "request"), (limits, "limit")] {
        if !added.is_empty() {
            told.push(format!("{} {what} for {kind} {}", added.join(", "), container.name));
        }
    }
}

/// Gives a pod's containers their defaults.
fn complete(pod: &mut Pod, ranges: &[LimitRange]) {
    let mut told = Vec::new();
    let spec = pod.spec.get_or_insert_default();
    for item in ranges.iter().flat_map(items).filter(|i| i.type_ == "Container") {
        for container in &mut spec.containers {
            complete_container(container, item, "container", &mut told);
        }
        for container in spec.init_containers.iter_mut().flatten() {
            complete_container(container, item, "init container", &mut told);
        }
    }
    if !told.is_empty() {
        let text = format!("LimitRanger plugin set: {}", told.join("; "));
        pod.metadata.annotations.get_or_insert_default().insert(ANNOTATION.into(), text);
    }
}

fn items(range: &LimitRange) -> &[LimitRangeItem] {
    range.spec.as_ref().map_or(&[], |s| &s.limits)
}

/// What is wrong with requests and limits of one container, pod or claim: of each bound the first mistake.
fn violations(item: &LimitRangeItem, requests: &Resources, limits: &Resources) -> Vec<String> {
    let kind = &item.type_;
    let claim = kind == "PersistentVolumeClaim";
    let mut found = Vec::new();
    for (name, least) in item.min.iter().flatten() {
        let Ok(bound) = Quantity::of(least) else { continue };
        let start = format!("minimum {name} usage per {kind} is {}", least.0);
        match (amount(requests, name), amount(limits, name)) {
            (None, _) => found.push(format!("{start}. No request is specified")),
            (Some(request), _) if request < bound => found.push(format!("{start}, but request is {request}")),
            (_, Some(limit)) if limit < bound => found.push(format!("{start}, but limit is {limit}")),
            _ => {}
        }
    }
    for (name, most) in item.max.iter().flatten() {
        let Ok(bound) = Quantity::of(most) else { continue };
        let start = format!("maximum {name} usage per {kind} is {}", most.0);
        match (amount(limits, name), amount(requests, name)) {
            (None, _) if !claim => found.push(format!("{start}. No limit is specified")),
            (Some(limit), _) if limit > bound => found.push(format!("{start}, but limit is {limit}")),
            (_, Some(request)) if request > bound => found.push(format!("{start}, but request is {request}")),
            _ => {}
        }
    }
    for (name, ratio) in item.max_limit_request_ratio.iter().flatten() {
        let Ok(bound) = Quantity::of(ratio) else { continue };
        let start = format!("{name} max limit to request ratio per {kind} is {}", ratio.0);
        let request = amount(requests, name).filter(|r| !r.is_zero());
        let limit = amount(limits, name).filter(|l| !l.is_zero());
        match (request, limit) {
            (None, _) => found.push(format!("{start}, but no request is specified or request is 0")),
            (_, None) => found.push(format!("{start}, but no limit is specified or limit is 0")),
            (Some(request), Some(limit)) => {
                let observed = limit.to_f64() / request.to_f64();
                if observed > bound.to_f64() {
                    found.push(format!("{start}, but provided ratio is {observed:.6}"));
                }
            }
        }
    }
    found
}

fn check_pod(pod: &Pod, ranges: &[LimitRange]) -> Vec<String> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let mut found = Vec::new();
    for item in ranges.iter().flat_map(items) {
        match item.type_.as_str() {
            "Container" => {
                for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
                    let (requests, limits) = of_container(container);
                    found.extend(violations(item, &requests, &limits));
                }
            }
            "Pod" => {
                let (requests, limits) = of_pod(spec);
                found.extend(violations(item, &requests, &limits));
            }
            _ => {}
        }
    }
    found
}

fn check_claim(claim: &PersistentVolumeClaim, ranges: &[LimitRange]) -> Vec<String> {
    let requests = claim.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.clone()).unwrap_or_default();
    let items = ranges.iter().flat_map(items).filter(|i| i.type_ == "PersistentVolumeClaim");
    items.flat_map(|item| violations(item, &requests, &Resources::new())).collect()
}

impl LimitRanger {
    fn ranges(&self, namespace: &str) -> Vec<LimitRange> {
        decoded_list(&*self.objects, Collection::core("limitranges"), namespace)
    }
}

impl Admission for LimitRanger {
    fn admit<'a>(&'a self, request: &'a Request<'a>, object: Option<&'a mut dyn Object>) -> BoxFuture<'a, Result<()>> {
        if let Some(pod) = super::new_pod(request, object) {
            let ranges = self.ranges(request.namespace);
            if !ranges.is_empty() {
                complete(pod, &ranges);
            }
        }
        ready(Ok(()))
    }

    fn validate<'a>(&'a self, request: &'a Request<'a>, object: Option<&'a dyn Object>) -> BoxFuture<'a, Result<()>> {
        let Some(object) = object else { return ready(Ok(())) };
        let pod = object.downcast_ref::<Pod>().filter(|_| request.operation == Operation::Create || request.subresource == "resize");
        let claim = object.downcast_ref::<PersistentVolumeClaim>().filter(|_| request.writes() && request.subresource.is_empty());
        let found = match (pod, claim) {
            (Some(pod), _) if matches!(request.subresource, "" | "resize") => check_pod(pod, &self.ranges(request.namespace)),
            (_, Some(claim)) => check_claim(claim, &self.ranges(request.namespace)),
            _ => return ready(Ok(())),
        };
        ready(match found.as_slice() {
            [] => Ok(()),
            [one] => Err(request.forbidden(one)),
            many => Err(request.forbidden(&format!("[{}]", many.join(", ")))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn range(item: Value) -> Vec<LimitRange> {
        vec![serde_json::from_value(json!({"metadata": {"name": "r"}, "spec": {"limits": [item]}})).unwrap()]
    }

    fn pod(resources: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": resources}]}})).unwrap()
    }

    #[test]
    fn defaults_fill_what_is_missing_and_say_so() {
        let ranges = range(json!({"type": "Container", "default": {"cpu": "500m", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}}));
        let mut pod = pod(json!({"limits": {"cpu": "1"}}));
        complete(&mut pod, &ranges);
        let resources = serde_json::to_value(&pod.spec.unwrap().containers[0].resources).unwrap();
        assert_eq!(resources, json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m"}}));
        let told = &pod.metadata.annotations.unwrap()[ANNOTATION];
        assert_eq!(told, "LimitRanger plugin set: cpu request for container c; memory limit for container c");
    }

    #[test]
    fn bounds_are_kept() {
        for (item, resources, want) in [
            (
                json!({"type": "Container", "max": {"cpu": "1"}}),
                json!({"limits": {"cpu": "2"}}),
                vec!["maximum cpu usage per Container is 1, but limit is 2"],
            ),
            (
                json!({"type": "Container", "max": {"cpu": "1"}}),
                json!({}),
                vec!["maximum cpu usage per Container is 1. No limit is specified"],
            ),
            (json!({"type": "Container", "max": {"cpu": "1"}}), json!({"limits": {"cpu": "1000m"}}), vec![]),
            (
                json!({"type": "Pod", "min": {"memory": "1Gi"}}),
                json!({"requests": {"memory": "512Mi"}}),
                vec!["minimum memory usage per Pod is 1Gi, but request is 512Mi"],
            ),
            (
                json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}}),
                json!({"limits": {"cpu": "3"}, "requests": {"cpu": "1"}}),
                vec!["cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"],
            ),
        ] {
            assert_eq!(check_pod(&pod(resources), &range(item)), want);
        }
    }
}
