//! What is wrong with an autoscaler, in either version (upstream: `pkg/apis/autoscaling/validation`).

use crate::field::{ErrorList, Path};
use crate::validation::{invalid, names};
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscalerSpec, MetricSpec};

const SOURCES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];

/// What an autoscaler scales: kind, name and API version.
pub struct Target<'a> {
    /// `Deployment`.
    pub kind: &'a str,
    /// Its name.
    pub name: &'a str,
    /// `apps/v1`.
    pub api_version: Option<&'a str>,
}

/// Checks the bounds and what is scaled: what both versions have.
pub fn bounds(min: Option<i32>, max: i32, target: &Target<'_>, errors: &mut ErrorList) {
    let path = Path::new("spec");
    if let Some(min) = min.filter(|m| *m < 1) {
        errors.invalid(&path.child("minReplicas"), min, "must be greater than or equal to 1");
    }
    let at = path.child("maxReplicas");
    if max < 1 {
        errors.required(&at, "must be set and greater than 0");
    }
    if min.is_some_and(|min| max < min) {
        errors.invalid(&at, max, "must be greater than or equal to `minReplicas`");
    }
    let at = path.child("scaleTargetRef");
    for (field, value) in [("kind", target.kind), ("name", target.name)] {
        if value.is_empty() {
            errors.required(&at.child(field), "");
        } else {
            invalid(errors, &at.child(field), value, names::path_segment(value));
        }
    }
    let version = target.api_version.unwrap_or_default();
    // ReplicationController is the one thing of the group without a name that can be scaled.
    let core = version == "v1" && target.kind == "ReplicationController";
    if !version.contains('/') && !core {
        errors.invalid(&at.child("apiVersion"), version, "apiVersion must specify API group");
    }
}

/// Checks the metrics of a spec.
pub fn metrics(spec: &HorizontalPodAutoscalerSpec, errors: &mut ErrorList) {
    for (i, metric) in spec.metrics.iter().flatten().enumerate() {
        one(metric, &Path::new("spec").child("metrics").index(i), errors);
    }
}

fn one(metric: &MetricSpec, path: &Path, errors: &mut ErrorList) {
    let given = [
        ("containerResource", "ContainerResource", metric.container_resource.is_some()),
        ("external", "External", metric.external.is_some()),
        ("object", "Object", metric.object.is_some()),
        ("pods", "Pods", metric.pods.is_some()),
        ("resource", "Resource", metric.resource.is_some()),
    ];
    match metric.type_.as_str() {
        "" => errors.required(&path.child("type"), "must specify a metric source type"),
        kind if !SOURCES.contains(&kind) => errors.not_supported(&path.child("type"), kind, &SOURCES),
        _ => {}
    }
    for (field, kind, present) in given {
        if kind == metric.type_ && !present {
            errors.required(&path.child(field), "must populate information for the given metric source");
        }
        if kind != metric.type_ && present {
            errors.forbidden(&path.child(field), "must populate the given metric source only");
        }
    }
}
