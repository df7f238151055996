//! The TARGETS column of autoscalers: what each metric is and what it should be, `cpu: 12%/50%, memory: <unknown>/1Gi`
//! (upstream: `formatHPAMetrics` in `pkg/printers/internalversion`).

use crate::printer::UNKNOWN;
use k8s_openapi::api::autoscaling::v2::{MetricSpec, MetricStatus, MetricTarget, MetricValueStatus};

/// How many metrics are shown before the rest is only counted.
const SHOWN: usize = 2;

/// The column for the metrics of the spec and those of the status, which stand in the same order.
pub fn text(metrics: &[MetricSpec], current: &[MetricStatus]) -> String {
    if metrics.is_empty() {
        return "<none>".into();
    }
    let mut list: Vec<String> = metrics.iter().enumerate().map(|(i, metric)| one(metric, current.get(i))).collect();
    let more = list.len().saturating_sub(SHOWN);
    list.truncate(SHOWN);
    let joined = list.join(", ");
    if more > 0 { format!("{joined} + {more} more...") } else { joined }
}

fn one(metric: &MetricSpec, current: Option<&MetricStatus>) -> String {
    match metric.type_.as_str() {
        "Resource" => metric.resource.as_ref().map(|m| {
            let now = current.and_then(|c| c.resource.as_ref()).map(|c| &c.current);
            format!("{}: {}", m.name, resource(&m.target, now))
        }),
        "ContainerResource" => metric.container_resource.as_ref().map(|m| {
            let now = current.and_then(|c| c.container_resource.as_ref()).map(|c| &c.current);
            format!("{}: {}", m.name, resource(&m.target, now))
        }),
        "Pods" => metric.pods.as_ref().map(|m| {
            let now = current.and_then(|c| c.pods.as_ref()).map(|c| &c.current);
            pair(average(now), &quantity(m.target.average_value.as_ref()))
        }),
        "Object" => metric.object.as_ref().map(|m| {
            let now = current.and_then(|c| c.object.as_ref()).map(|c| &c.current);
            average_or_value(&m.target, now)
        }),
        "External" => metric.external.as_ref().map(|m| {
            let now = current.and_then(|c| c.external.as_ref()).map(|c| &c.current);
            average_or_value(&m.target, now)
        }),
        _ => None,
    }
    .unwrap_or_else(|| "<unknown type>".into())
}

fn quantity(value: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity>) -> String {
    value.map_or(String::new(), |q| q.0.clone())
}

fn average(now: Option<&MetricValueStatus>) -> Option<String> {
    now.and_then(|n| n.average_value.as_ref()).map(|q| q.0.clone())
}

fn pair(now: Option<String>, target: &str) -> String {
    format!("{}/{target}", now.as_deref().unwrap_or(UNKNOWN))
}

/// Metrics of resources aim at an average value or at a percentage of what was requested.
fn resource(target: &MetricTarget, now: Option<&MetricValueStatus>) -> String {
    if target.average_value.is_some() {
        return pair(average(now), &quantity(target.average_value.as_ref()));
    }
    let goal = target.average_utilization.map_or("<auto>".into(), |p| format!("{p}%"));
    pair(now.and_then(|n| n.average_utilization).map(|p| format!("{p}%")), &goal)
}

/// Metrics of objects and of things outside aim at an average over the pods or at a value.
fn average_or_value(target: &MetricTarget, now: Option<&MetricValueStatus>) -> String {
    if target.average_value.is_some() {
        return format!("{} (avg)", pair(average(now), &quantity(target.average_value.as_ref())));
    }
    pair(now.and_then(|n| n.value.as_ref()).map(|q| q.0.clone()), &quantity(target.value.as_ref()))
}
