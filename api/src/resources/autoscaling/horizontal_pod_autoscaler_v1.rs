//! HorizontalPodAutoscaler of `autoscaling/v1`: the first version of the autoscaler, which knows only CPU. Stored as v2, see `v1_conversion`.

use super::horizontal_pod_autoscaler::COLUMNS;
use super::v1_conversion::{self, STORAGE};
use super::validation::{self, Target};
use crate::field::ErrorList;
use crate::kind::Kind;
use crate::resource::{Cells, PrintContext, Resource, Subresource, texts};
use crate::resources::defaulting::absent;
use k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler;
use k8s_openapi::api::autoscaling::v2;

const SUBRESOURCES: &[Subresource] = &[Subresource::status("HorizontalPodAutoscaler")];

impl Kind for HorizontalPodAutoscaler {
    fn set_defaults(&mut self) {
        absent(&mut self.spec.min_replicas, 1);
    }

    fn prepare_for_create(&mut self) {
        self.status = None;
    }

    fn validate(&self, errors: &mut ErrorList) {
        let spec = &self.spec;
        let target = &self.spec.scale_target_ref;
        let target = Target { kind: &target.kind, name: &target.name, api_version: target.api_version.as_deref() };
        validation::bounds(spec.min_replicas, spec.max_replicas, &target, errors);
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let stored = (STORAGE.to_storage)(serde_json::to_value(self).expect("an autoscaler has string keys"));
        let v2: v2::HorizontalPodAutoscaler = serde_json::from_value(stored).unwrap_or_default();
        Kind::cells(&v2, context)
    }
}

/// The row.
pub fn row() -> Resource {
    Resource {
        short_names: texts(&["hpa"]),
        categories: texts(&["all"]),
        subresources: SUBRESOURCES.into(),
        storage: Some(STORAGE),
        columns: COLUMNS.into(),
        derived_annotations: v1_conversion::ANNOTATIONS,
        ..Resource::of::<HorizontalPodAutoscaler>()
    }
}
