//! Deployment: replicas of a pod, and their step by step replacement when the template changes.

use super::template;
use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown, wide};
use crate::resource::{Cells, Column, PrintContext, Resource, Subresource, texts};
use crate::resources::core::pod::defaults::template;
use crate::resources::core::pod::warnings;
use crate::resources::defaulting::{absent, text};
use crate::validation::{
    IMMUTABLE,
    numbers::{self, not_negative},
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::apps::v1::DeploymentStrategy;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

const SUBRESOURCES: &[Subresource] = &[Subresource::scale(), Subresource::status("Deployment")];

const COLUMNS: &[Column] = &[
    NAME,
    shown("Ready", "string"),
    shown("Up-to-date", "string"),
    shown("Available", "string"),
    AGE,
    wide("Containers", "string"),
    wide("Images", "string"),
    wide("Selector", "string"),
];

impl Kind for Deployment {
    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        template(&mut spec.template);
        absent(&mut spec.replicas, 1);
        let strategy = spec.strategy.get_or_insert_default();
        text(&mut strategy.type_, "RollingUpdate");
        if strategy.type_.as_deref() == Some("RollingUpdate") {
            let rolling = strategy.rolling_update.get_or_insert_default();
            absent(&mut rolling.max_unavailable, IntOrString::String("25%".into()));
            absent(&mut rolling.max_surge, IntOrString::String("25%".into()));
        }
        absent(&mut spec.revision_history_limit, 10);
        absent(&mut spec.progress_deadline_seconds, 600);
    }

    fn prepare_for_create(&mut self) {
        self.status = None;
    }

    fn raises_generation(&self, old: &Self) -> Option<bool> {
        // Annotations count too: rollouts are steered by some of them.
        let annotations = |d: &Self| d.metadata.annotations.clone().unwrap_or_default();
        Some(self.spec != old.spec || annotations(self) != annotations(old))
    }

    fn validate(&self, errors: &mut ErrorList) {
        let Some(spec) = &self.spec else { return };
        let path = Path::new("spec");
        not_negative(errors, &path.child("replicas"), spec.replicas.unwrap_or(0));
        template::selector(errors, &path.child("selector"), &spec.selector, "deployment");
        template::running(errors, &path.child("template"), &spec.template, &spec.selector, "ReplicaSet");
        if let Some(strategy) = &spec.strategy {
            validate_strategy(errors, &path.child("strategy"), strategy);
        }
        let ready = spec.min_ready_seconds.unwrap_or(0);
        not_negative(errors, &path.child("minReadySeconds"), ready);
        not_negative(errors, &path.child("revisionHistoryLimit"), spec.revision_history_limit.unwrap_or(0));
        if let Some(seconds) = spec.progress_deadline_seconds {
            let path = path.child("progressDeadlineSeconds");
            not_negative(errors, &path, seconds);
            if seconds <= ready {
                errors.invalid(&path, seconds, "must be greater than minReadySeconds");
            }
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        self.validate(errors);
        let selector = |d: &Self| d.spec.as_ref().map(|s| s.selector.clone()).unwrap_or_default();
        if selector(self) != selector(old) {
            errors.invalid(&Path::new("spec").child("selector"), template::shown(&selector(self)), IMMUTABLE);
        }
    }

    fn warnings(&self, old: Option<&Self>) -> Vec<String> {
        let template = self.spec.as_ref().map(|s| &s.template);
        let name = template::name_warning(&self.metadata).filter(|_| old.is_none());
        name.into_iter().chain(template.into_iter().flat_map(|t| warnings::template(&Path::new("spec").child("template"), t))).collect()
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let (spec, status) = (self.spec.clone().unwrap_or_default(), self.status.clone().unwrap_or_default());
        let (names, images) = printer::containers(&spec.template.spec.unwrap_or_default().containers);
        vec![
            printer::name(&self.metadata),
            json!(format!("{}/{}", status.ready_replicas.unwrap_or(0), spec.replicas.unwrap_or(0))),
            json!(status.updated_replicas.unwrap_or(0)),
            json!(status.available_replicas.unwrap_or(0)),
            printer::age(&self.metadata, context),
            json!(names),
            json!(images),
            json!(printer::selector(Some(&spec.selector))),
        ]
    }
}

fn validate_strategy(errors: &mut ErrorList, path: &Path, strategy: &DeploymentStrategy) {
    let rolling = path.child("rollingUpdate");
    match (strategy.type_.as_deref().unwrap_or(""), &strategy.rolling_update) {
        ("Recreate", Some(_)) => errors.forbidden(&rolling, "may not be specified when strategy `type` is 'Recreate'"),
        ("Recreate", None) => {}
        ("RollingUpdate", None) => errors.required(&rolling, "this should be defaulted and never be nil"),
        ("RollingUpdate", Some(update)) => {
            for (field, value) in [("maxUnavailable", &update.max_unavailable), ("maxSurge", &update.max_surge)] {
                if let Some(value) = value {
                    numbers::not_negative_or_percent(errors, &rolling.child(field), value);
                }
            }
            let at = rolling.child("maxUnavailable");
            if template::amount(&update.max_unavailable) == 0 && template::amount(&update.max_surge) == 0 {
                errors.invalid(&at, template::show(&update.max_unavailable), "may not be 0 when `maxSurge` is 0");
            }
            if let Some(value) = &update.max_unavailable {
                numbers::at_most_hundred_percent(errors, &at, value);
            }
        }
        (other, rolling_update) => {
            // As upstream shows it: by the names of its internal type.
            let update = rolling_update.as_ref().map_or("null".into(), |u| {
                format!("{{\"MaxUnavailable\":{},\"MaxSurge\":{}}}", template::show(&u.max_unavailable), template::show(&u.max_surge))
            });
            let shown = format!("{{\"Type\":{other:?},\"RollingUpdate\":{update}}}");
            errors.not_supported_as(path, &shown, &["Recreate", "RollingUpdate"]);
        }
    }
}

/// The row.
pub fn row() -> Resource {
    Resource {
        short_names: texts(&["deploy"]),
        categories: texts(&["all"]),
        subresources: SUBRESOURCES.into(),
        generation: true,
        columns: COLUMNS.into(),
        decode: |value| crate::resource::decode::<Deployment>(&template::mark_empty_selector(value)),
        ..Resource::of::<Deployment>()
    }
}
