//! HorizontalPodAutoscaler: sets the scale of a workload by what its pods use.

use super::targets;
use super::validation::{self, Target};
use crate::field::ErrorList;
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource, Subresource, texts};
use crate::resources::defaulting::{absent, items};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior, MetricSpec, MetricTarget, ResourceMetricSource,
};
use serde_json::json;

const SUBRESOURCES: &[Subresource] = &[Subresource::status("HorizontalPodAutoscaler")];

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    shown("Reference", "string"),
    shown("Targets", "string"),
    shown("MinPods", "string"),
    shown("MaxPods", "string"),
    shown("Replicas", "string"),
    AGE,
];

impl Kind for HorizontalPodAutoscaler {
    fn set_defaults(&mut self) {
        let spec = &mut self.spec;
        absent(&mut spec.min_replicas, 1);
        if spec.metrics.as_ref().is_none_or(|m| m.is_empty()) {
            spec.metrics = Some(vec![cpu_utilization(80)]);
        }
        if let Some(behavior) = &mut spec.behavior {
            behavior_defaults(behavior);
        }
    }

    fn prepare_for_create(&mut self) {
        self.status = None;
    }

    fn validate(&self, errors: &mut ErrorList) {
        let spec = &self.spec;
        let target = &self.spec.scale_target_ref;
        let target = Target { kind: &target.kind, name: &target.name, api_version: target.api_version.as_deref() };
        validation::bounds(spec.min_replicas, spec.max_replicas, &target, errors);
        validation::metrics(spec, errors);
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let (spec, status) = (&self.spec, self.status.clone().unwrap_or_default());
        let target = &spec.scale_target_ref;
        vec![
            printer::name(&self.metadata),
            json!(format!("{}/{}", target.kind, target.name)),
            json!(targets::text(items(&spec.metrics), items(&status.current_metrics))),
            json!(spec.min_replicas.map_or(printer::UNSET.into(), |m| m.to_string())),
            json!(spec.max_replicas),
            json!(status.current_replicas.unwrap_or(0)),
            printer::age(&self.metadata, context),
        ]
    }
}

/// The metric that an autoscaler gets which names none.
pub fn cpu_utilization(percentage: i32) -> MetricSpec {
    MetricSpec {
        type_: "Resource".into(),
        resource: Some(ResourceMetricSource {
            name: "cpu".into(),
            target: MetricTarget { type_: "Utilization".into(), average_utilization: Some(percentage), ..MetricTarget::default() },
        }),
        ..MetricSpec::default()
    }
}

/// How fast an autoscaler that says something about its behaviour moves where it does not say.
fn behavior_defaults(behavior: &mut HorizontalPodAutoscalerBehavior) {
    let policy = |type_: &str, value, period_seconds| HPAScalingPolicy { type_: type_.into(), value, period_seconds };
    let up = vec![policy("Pods", 4, 15), policy("Percent", 100, 15)];
    fill(behavior.scale_up.get_or_insert_default(), Some(0), up);
    // How long a scale down waits is left to the controller's flag.
    fill(behavior.scale_down.get_or_insert_default(), None, vec![policy("Percent", 100, 15)]);
}

fn fill(rules: &mut HPAScalingRules, window: Option<i32>, policies: Vec<HPAScalingPolicy>) {
    absent(&mut rules.select_policy, "Max".into());
    rules.stabilization_window_seconds = rules.stabilization_window_seconds.or(window);
    absent(&mut rules.policies, policies);
}

/// The row.
pub fn row() -> Resource {
    Resource {
        short_names: texts(&["hpa"]),
        categories: texts(&["all"]),
        subresources: SUBRESOURCES.into(),
        columns: COLUMNS.into(),
        ..Resource::of::<HorizontalPodAutoscaler>()
    }
}
