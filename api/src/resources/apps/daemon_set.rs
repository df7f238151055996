//! DaemonSet: one pod on every node that suits.

use super::template as workload;
use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown, wide};
use crate::resource::{Cells, Column, PrintContext, Resource, Subresource, texts};
use crate::resources::core::pod::defaults::template;
use crate::resources::core::pod::{validation, warnings};
use crate::resources::defaulting::{absent, text};
use crate::validation::{
    IMMUTABLE, labels,
    numbers::{self, not_negative},
};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::apps::v1::DaemonSetUpdateStrategy;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

const SUBRESOURCES: &[Subresource] = &[Subresource::status("DaemonSet")];

const COLUMNS: &[Column] = &[
    NAME,
    shown("Desired", "integer"),
    shown("Current", "integer"),
    shown("Ready", "integer"),
    shown("Up-to-date", "integer"),
    shown("Available", "integer"),
    shown("Node Selector", "string"),
    AGE,
    wide("Containers", "string"),
    wide("Images", "string"),
    wide("Selector", "string"),
];

impl Kind for DaemonSet {
    fn set_defaults(&mut self) {
        let Some(spec) = &mut self.spec else { return };
        template(&mut spec.template);
        let strategy = spec.update_strategy.get_or_insert_default();
        text(&mut strategy.type_, "RollingUpdate");
        if strategy.type_.as_deref() == Some("RollingUpdate") {
            let rolling = strategy.rolling_update.get_or_insert_default();
            absent(&mut rolling.max_unavailable, IntOrString::Int(1));
            absent(&mut rolling.max_surge, IntOrString::Int(0));
        }
        absent(&mut spec.revision_history_limit, 10);
        // Changes of the template are counted here, from before there was metadata.generation.
        self.metadata.annotations.get_or_insert_default().entry(TEMPLATE_GENERATION.into()).or_insert_with(|| "1".into());
    }

    fn prepare_for_create(&mut self) {
        self.status = None;
    }

    fn validate(&self, errors: &mut ErrorList) {
        let Some(spec) = &self.spec else { return };
        let path = Path::new("spec");
        labels::selector(errors, &path.child("selector"), Some(&spec.selector));
        let at = path.child("template");
        let pod_labels = spec.template.metadata.as_ref().and_then(|m| m.labels.as_ref());
        if !labels::matches(&spec.selector, pod_labels) {
            workload::does_not_match(errors, &at, &spec.template);
        }
        if labels::is_empty(&spec.selector) {
            errors.invalid(&path.child("selector"), workload::shown(&spec.selector), "empty selector is invalid for daemonset");
        }
        validation::template(errors, &at, &spec.template);
        workload::always(errors, &at, &spec.template, "DaemonSet");
        if let Some(strategy) = &spec.update_strategy {
            validate_strategy(errors, &path.child("updateStrategy"), strategy);
        }
        not_negative(errors, &path.child("minReadySeconds"), spec.min_ready_seconds.unwrap_or(0));
        not_negative(errors, &path.child("revisionHistoryLimit"), spec.revision_history_limit.unwrap_or(0));
    }

    fn prepare_for_update(&mut self, old: &Self) {
        let template = |d: &Self| d.spec.as_ref().map(|s| s.template.clone());
        let generation =
            |d: &Self| d.metadata.annotations.as_ref().and_then(|a| a.get(TEMPLATE_GENERATION)).and_then(|g| g.parse::<i64>().ok());
        if let Some(mut count) = generation(old) {
            count += i64::from(template(self) != template(old));
            self.metadata.annotations.get_or_insert_default().insert(TEMPLATE_GENERATION.into(), count.to_string());
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        self.validate(errors);
        let selector = |d: &Self| d.spec.as_ref().map(|s| s.selector.clone()).unwrap_or_default();
        if selector(self) != selector(old) {
            errors.invalid(&Path::new("spec").child("selector"), workload::shown(&selector(self)), IMMUTABLE);
        }
    }

    fn warnings(&self, _old: Option<&Self>) -> Vec<String> {
        let template = self.spec.as_ref().map(|s| &s.template);
        template.into_iter().flat_map(|t| warnings::template(&Path::new("spec").child("template"), t)).collect()
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let (spec, status) = (self.spec.clone().unwrap_or_default(), self.status.clone().unwrap_or_default());
        let pod = spec.template.spec.unwrap_or_default();
        let (names, images) = printer::containers(&pod.containers);
        vec![
            printer::name(&self.metadata),
            json!(status.desired_number_scheduled),
            json!(status.current_number_scheduled),
            json!(status.number_ready),
            json!(status.updated_number_scheduled.unwrap_or(0)),
            json!(status.number_available.unwrap_or(0)),
            json!(printer::labels(pod.node_selector.as_ref())),
            printer::age(&self.metadata, context),
            json!(names),
            json!(images),
            json!(printer::selector(Some(&spec.selector))),
        ]
    }
}

/// The annotation that upstream keeps for clients of versions long gone.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn validate_strategy(errors: &mut ErrorList, path: &Path, strategy: &DaemonSetUpdateStrategy) {
    let rolling = path.child("rollingUpdate");
    let update = match (strategy.type_.as_deref().unwrap_or(""), &strategy.rolling_update) {
        ("OnDelete", _) => return,
        ("RollingUpdate", Some(update)) => update,
        ("RollingUpdate", None) => return errors.required(&rolling, ""),
        (other, _) => {
            let shown = format!("{{\"Type\":{other:?},\"RollingUpdate\":null}}");
            return errors.not_supported_as(path, &shown, &["RollingUpdate", "OnDelete"]);
        }
    };
    let (unavailable, surge) = (workload::amount(&update.max_unavailable) != 0, workload::amount(&update.max_surge) != 0);
    if unavailable && surge {
        errors.invalid(&rolling.child("maxSurge"), workload::show(&update.max_surge), "may not be set when maxUnavailable is non-zero");
    } else if !unavailable && !surge {
        errors.required(&rolling.child("maxUnavailable"), "cannot be 0 when maxSurge is 0");
    }
    for (field, value) in [("maxUnavailable", &update.max_unavailable), ("maxSurge", &update.max_surge)] {
        if let Some(value) = value {
            numbers::not_negative_or_percent(errors, &rolling.child(field), value);
            numbers::at_most_hundred_percent(errors, &rolling.child(field), value);
        }
    }
}

/// The row.
pub fn row() -> Resource {
    Resource {
        short_names: texts(&["ds"]),
        categories: texts(&["all"]),
        subresources: SUBRESOURCES.into(),
        generation: true,
        columns: COLUMNS.into(),
        derived_annotations: &["deprecated.daemonset.template.generation"],
        ..Resource::of::<DaemonSet>()
    }
}
