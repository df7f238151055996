//! How an autoscaler of `autoscaling/v1` is stored as v2, and read back: what v1 has no field for travels in annotations, in the shapes that upstream
//! gives it there (upstream: `pkg/apis/autoscaling/v1/conversion.go`).

use crate::resource::StorageVersion;
use serde_json::{Map, Value, json};

/// The conversions of the v1 row.
pub(super) const STORAGE: StorageVersion = StorageVersion { group: "autoscaling", version: "v2", to_storage, from_storage };

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
/// All of them.
pub(super) const ANNOTATIONS: &[&str] = &[METRICS, BEHAVIOR, CURRENT_METRICS, CONDITIONS];

/// Each source of metrics, and where its fields stand: the name in v1 and the path in v2. `target` is what is aimed at and stands as `current` in a status.
const SOURCES: &[(&str, &[(&str, &str)])] = &[
    ("resource", &[("name", "/name"), ("AverageUtilization", "/target/averageUtilization"), ("AverageValue", "/target/averageValue")]),
    (
        "containerResource",
        &[
            ("name", "/name"),
            ("container", "/container"),
            ("AverageUtilization", "/target/averageUtilization"),
            ("AverageValue", "/target/averageValue"),
        ],
    ),
    ("pods", &[("metricName", "/metric/name"), ("selector", "/metric/selector"), ("AverageValue", "/target/averageValue")]),
    (
        "object",
        &[
            ("target", "/describedObject"),
            ("metricName", "/metric/name"),
            ("selector", "/metric/selector"),
            ("averageValue", "/target/averageValue"),
            ("Value", "/target/value"),
        ],
    ),
    (
        "external",
        &[
            ("metricName", "/metric/name"),
            ("metricSelector", "/metric/selector"),
            ("Value", "/target/value"),
            ("AverageValue", "/target/averageValue"),
        ],
    ),
];

/// The name of a field in v1: those that start with a capital are prefixed by what the metric is, a target or a current value.
fn v1_name(name: &str, prefix: &str) -> String {
    if name.starts_with(char::is_uppercase) { format!("{prefix}{name}") } else { name.to_owned() }
}

/// A metric of v2 in the shape of v1. `prefix` is `target` in a spec and `current` in a status.
fn metric_to_v1(metric: &Value, prefix: &str) -> Value {
    let mut out = json!({"type": metric["type"]});
    for (source, fields) in SOURCES {
        let Some(from) = metric.get(*source) else { continue };
        let mut to = Map::new();
        for (name, path) in *fields {
            if let Some(value) = from.pointer(&path.replace("/target", &format!("/{prefix}"))) {
                to.insert(v1_name(name, prefix), value.clone());
            }
        }
        out[*source] = to.into();
    }
    out
}

/// A metric in the shape of v1 as v2 has it.
fn metric_to_v2(metric: &Value, prefix: &str) -> Value {
    let mut out = json!({"type": metric["type"]});
    for (source, fields) in SOURCES {
        let Some(from) = metric.get(*source) else { continue };
        let mut to = json!({});
        for (name, path) in *fields {
            if let Some(value) = from.get(v1_name(name, prefix)) {
                set(&mut to, &path.replace("/target", &format!("/{prefix}")), value.clone());
            }
        }
        if prefix == "target" {
            let kind = match () {
                () if to.pointer("/target/averageUtilization").is_some() => "Utilization",
                () if to.pointer("/target/averageValue").is_some() => "AverageValue",
                () => "Value",
            };
            set(&mut to, "/target/type", json!(kind));
        }
        out[*source] = to;
    }
    out
}

fn set(object: &mut Value, pointer: &str, value: Value) {
    let mut at = object;
    for key in pointer.split('/').skip(1) {
        at = &mut at[key];
    }
    *at = value;
}

fn cpu(percentage: Value) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percentage}}})
}

/// The percentage of a metric that v1 has a field for.
fn cpu_percentage<'a>(metric: &'a Value, at: &str) -> Option<&'a Value> {
    let is_cpu = metric["type"] == "Resource" && metric["resource"]["name"] == "cpu";
    metric.pointer(&format!("/resource/{at}/averageUtilization")).filter(|_| is_cpu)
}

fn take(object: &mut Value, part: &str, field: &str) -> Option<Value> {
    object.get_mut(part)?.as_object_mut()?.remove(field).filter(|v| !v.is_null())
}

/// Takes an annotation whose text is JSON. One that is not is dropped, as upstream drops it.
fn take_annotation(hpa: &mut Value, name: &str) -> Option<Value> {
    let text = hpa.pointer_mut("/metadata/annotations")?.as_object_mut()?.remove(name)?;
    serde_json::from_str(text.as_str()?).ok()
}

fn annotate(hpa: &mut Value, name: &str, value: &Value) {
    hpa["metadata"]["annotations"][name] = json!(value.to_string());
}

fn to_storage(mut hpa: Value) -> Value {
    hpa["apiVersion"] = json!("autoscaling/v2");
    let list = |value: Option<Value>| value.and_then(|v| v.as_array().cloned()).unwrap_or_default();
    let mut metrics: Vec<Value> = list(take_annotation(&mut hpa, METRICS)).iter().map(|m| metric_to_v2(m, "target")).collect();
    metrics.extend(take(&mut hpa, "spec", "targetCPUUtilizationPercentage").map(cpu));
    if !metrics.is_empty() {
        hpa["spec"]["metrics"] = metrics.into();
    }
    if let Some(behavior) = take_annotation(&mut hpa, BEHAVIOR) {
        hpa["spec"]["behavior"] = behavior;
    }
    let current: Vec<Value> = list(take_annotation(&mut hpa, CURRENT_METRICS)).iter().map(|m| metric_to_v2(m, "current")).collect();
    let percentage = take(&mut hpa, "status", "currentCPUUtilizationPercentage");
    if !current.is_empty() {
        hpa["status"]["currentMetrics"] = current.into();
    } else if let Some(percentage) = percentage {
        let metric = json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percentage}}});
        hpa["status"]["currentMetrics"] = json!([metric]);
    }
    if let Some(conditions) = take_annotation(&mut hpa, CONDITIONS) {
        hpa["status"]["conditions"] = conditions;
    }
    hpa
}

fn from_storage(mut hpa: Value) -> Value {
    hpa["apiVersion"] = json!("autoscaling/v1");
    let list = |value: Option<Value>| value.and_then(|v| v.as_array().cloned()).unwrap_or_default();
    let mut others = Vec::new();
    for metric in list(take(&mut hpa, "spec", "metrics")) {
        match cpu_percentage(&metric, "target") {
            Some(percentage) => hpa["spec"]["targetCPUUtilizationPercentage"] = percentage.clone(),
            None => others.push(metric_to_v1(&metric, "target")),
        }
    }
    if !others.is_empty() {
        annotate(&mut hpa, METRICS, &others.into());
    }
    if let Some(behavior) = take(&mut hpa, "spec", "behavior") {
        annotate(&mut hpa, BEHAVIOR, &behavior);
    }
    let current = list(take(&mut hpa, "status", "currentMetrics"));
    if let Some(percentage) = current.iter().find_map(|m| cpu_percentage(m, "current")) {
        hpa["status"]["currentCPUUtilizationPercentage"] = percentage.clone();
    }
    if !current.is_empty() {
        let current: Vec<Value> = current.iter().map(|m| metric_to_v1(m, "current")).collect();
        annotate(&mut hpa, CURRENT_METRICS, &current.into());
    }
    if let Some(conditions) = take(&mut hpa, "status", "conditions") {
        annotate(&mut hpa, CONDITIONS, &conditions);
    }
    hpa
}

#[cfg(test)]
mod tests {
    use super::STORAGE;
    use serde_json::json;

    #[test]
    fn the_way_through_v1_and_back_changes_nothing() {
        let stored = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a", "annotations": {}},
            "spec": {
                "maxReplicas": 5,
                "metrics": [
                    {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
                    {"type": "Pods", "pods": {"metric": {"name": "p"}, "target": {"type": "AverageValue", "averageValue": "3"}}},
                    {"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"}, "metric": {"name": "m"},
                        "target": {"type": "Value", "value": "10"}}},
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
                ],
                "behavior": {"scaleUp": {"selectPolicy": "Max"}},
            },
            "status": {
                "desiredReplicas": 1,
                "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 7}}}],
                "conditions": [{"type": "AbleToScale", "status": "True"}],
            },
        });
        let served = (STORAGE.from_storage)(stored.clone());
        assert_eq!(served["spec"]["targetCPUUtilizationPercentage"], 50);
        assert_eq!(served["status"]["currentCPUUtilizationPercentage"], 7);
        assert!(served["spec"].get("metrics").is_none() && served["spec"].get("behavior").is_none());
        let metrics = served["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/metrics"].as_str().unwrap();
        assert!(metrics.contains("\"targetAverageValue\":\"1Gi\""), "{metrics}");
        assert_eq!((STORAGE.to_storage)(served), stored);
    }
}
