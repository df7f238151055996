//! ReplicationController: keeps a number of pods running, with an equality selector: the forerunner of ReplicaSet.

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown, wide};
use crate::resource::{Cells, Column, PrintContext, Resource, SelectableField, Subresource, texts};
use crate::resources::apps::template as workload;
use crate::resources::core::pod::defaults::template;
use crate::resources::core::pod::{validation, warnings};
use crate::resources::defaulting::absent;
use crate::validation::numbers::not_negative;
use k8s_openapi::api::core::v1::ReplicationController;
use serde_json::json;

const SUBRESOURCES: &[Subresource] = &[Subresource::scale(), Subresource::status("ReplicationController")];

const COLUMNS: &[Column] = &[
    NAME,
    shown("Desired", "integer"),
    shown("Current", "integer"),
    shown("Ready", "integer"),
    AGE,
    wide("Containers", "string"),
    wide("Images", "string"),
    wide("Selector", "string"),
];

impl Kind for ReplicationController {
    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        let labels = spec.template.as_ref().and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.clone());
        if let Some(labels) = labels.filter(|l| !l.is_empty()) {
            if spec.selector.as_ref().is_none_or(|s| s.is_empty()) {
                spec.selector = Some(labels.clone());
            }
            if self.metadata.labels.as_ref().is_none_or(|l| l.is_empty()) {
                self.metadata.labels = Some(labels);
            }
        }
        template(spec.template.get_or_insert_default());
        absent(&mut spec.replicas, 1);
    }

    fn prepare_for_create(&mut self) {
        self.status = None;
    }

    fn validate(&self, errors: &mut ErrorList) {
        let Some(spec) = &self.spec else { return };
        let path = Path::new("spec");
        not_negative(errors, &path.child("minReadySeconds"), spec.min_ready_seconds.unwrap_or(0));
        let selector = spec.selector.clone().unwrap_or_default();
        if selector.is_empty() {
            errors.required(&path.child("selector"), "");
        }
        not_negative(errors, &path.child("replicas"), spec.replicas.unwrap_or(0));
        let at = path.child("template");
        let Some(template) = &spec.template else { return errors.required(&at, "") };
        let labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
        if !selector.iter().all(|(k, v)| labels.get(k) == Some(v)) {
            workload::does_not_match(errors, &at, template);
        }
        validation::template(errors, &at, template);
        workload::always(errors, &at, template, "ReplicationController");
    }

    fn warnings(&self, old: Option<&Self>) -> Vec<String> {
        let template = self.spec.as_ref().and_then(|s| s.template.as_ref());
        let name = workload::name_warning(&self.metadata).filter(|_| old.is_none());
        name.into_iter().chain(template.into_iter().flat_map(|t| warnings::template(&Path::new("spec").child("template"), t))).collect()
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let (spec, status) = (self.spec.clone().unwrap_or_default(), self.status.clone().unwrap_or_default());
        let pod = spec.template.and_then(|t| t.spec).unwrap_or_default();
        let (names, images) = printer::containers(&pod.containers);
        vec![
            printer::name(&self.metadata),
            json!(spec.replicas.unwrap_or(0)),
            json!(status.replicas),
            json!(status.ready_replicas.unwrap_or(0)),
            printer::age(&self.metadata, context),
            json!(names),
            json!(images),
            json!(printer::labels(spec.selector.as_ref())),
        ]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource {
        short_names: texts(&["rc"]),
        categories: texts(&["all"]),
        subresources: SUBRESOURCES.into(),
        generation: true,
        selectable_fields: [SelectableField::with("status.replicas", &["status.replicas"], "0")].to_vec().into(),
        columns: COLUMNS.into(),
        ..Resource::of::<ReplicationController>()
    }
}
