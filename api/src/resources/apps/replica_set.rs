//! ReplicaSet: keeps a number of like pods running.

use super::template as workload;
use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown, wide};
use crate::resource::{Cells, Column, PrintContext, Resource, SelectableField, Subresource, texts};
use crate::resources::core::pod::defaults::template;
use crate::resources::core::pod::warnings;
use crate::resources::defaulting::absent;
use crate::validation::{IMMUTABLE, numbers::not_negative};
use k8s_openapi::api::apps::v1::ReplicaSet;
use serde_json::json;

const SUBRESOURCES: &[Subresource] = &[Subresource::scale(), Subresource::status("ReplicaSet")];

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

impl Kind for ReplicaSet {
    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        template(spec.template.get_or_insert_default());
        absent(&mut spec.replicas, 1);
    }

    fn prepare_for_create(&mut self) {
        self.status = None;
    }

    fn validate(&self, errors: &mut ErrorList) {
        let Some(spec) = &self.spec else { return };
        let path = Path::new("spec");
        not_negative(errors, &path.child("replicas"), spec.replicas.unwrap_or(0));
        not_negative(errors, &path.child("minReadySeconds"), spec.min_ready_seconds.unwrap_or(0));
        workload::selector(errors, &path.child("selector"), &spec.selector, "deployment");
        let template = spec.template.clone().unwrap_or_default();
        workload::running(errors, &path.child("template"), &template, &spec.selector, "ReplicaSet");
    }

    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        self.validate(errors);
        let selector = |r: &Self| r.spec.as_ref().map(|s| s.selector.clone()).unwrap_or_default();
        if selector(self) != selector(old) {
            errors.invalid(&Path::new("spec").child("selector"), workload::shown(&selector(self)), IMMUTABLE);
        }
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
            json!(printer::selector(Some(&spec.selector))),
        ]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource {
        short_names: texts(&["rs"]),
        categories: texts(&["all"]),
        subresources: SUBRESOURCES.into(),
        generation: true,
        selectable_fields: [SelectableField::with("status.replicas", &["status.replicas"], "0")].to_vec().into(),
        columns: COLUMNS.into(),
        decode: |value| crate::resource::decode::<ReplicaSet>(&workload::mark_empty_selector(value)),
        ..Resource::of::<ReplicaSet>()
    }
}
