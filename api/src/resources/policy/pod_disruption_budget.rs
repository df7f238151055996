//! PodDisruptionBudget: how many pods of a set may be taken down at once by choice.

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource, Subresource, texts};
use crate::validation::{labels, numbers};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

const SUBRESOURCES: &[Subresource] = &[Subresource::status("PodDisruptionBudget")];

const COLUMNS: &[Column] =
    &[NAME, shown("Min Available", "string"), shown("Max Unavailable", "string"), shown("Allowed Disruptions", "integer"), AGE];

impl Kind for PodDisruptionBudget {
    fn prepare_for_create(&mut self) {
        self.status = None;
    }

    fn validate(&self, errors: &mut ErrorList) {
        let Some(spec) = &self.spec else { return };
        let path = Path::new("spec");
        if spec.min_available.is_some() && spec.max_unavailable.is_some() {
            errors.invalid(&path, json!(spec), "minAvailable and maxUnavailable cannot be both set");
        }
        for (name, value) in [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)] {
            let Some(value) = value else { continue };
            numbers::not_negative_or_percent(errors, &path.child(name), value);
            numbers::at_most_hundred_percent(errors, &path.child(name), value);
        }
        labels::selector(errors, &path.child("selector"), spec.selector.as_ref());
        if let Some(policy) = spec.unhealthy_pod_eviction_policy.as_deref().filter(|p| !EVICTION_POLICIES.contains(p)) {
            errors.not_supported(&path.child("unhealthyPodEvictionPolicy"), policy, &EVICTION_POLICIES);
        }
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let (spec, status) = (self.spec.clone().unwrap_or_default(), self.status.clone().unwrap_or_default());
        let text = |value: Option<IntOrString>| match value {
            Some(IntOrString::Int(n)) => n.to_string(),
            Some(IntOrString::String(s)) => s,
            None => "N/A".into(),
        };
        vec![
            printer::name(&self.metadata),
            json!(text(spec.min_available)),
            json!(text(spec.max_unavailable)),
            json!(status.disruptions_allowed.unwrap_or(0)),
            printer::age(&self.metadata, context),
        ]
    }
}

const EVICTION_POLICIES: [&str; 2] = ["AlwaysAllow", "IfHealthyBudget"];

/// The row.
pub fn row() -> Resource {
    Resource {
        short_names: texts(&["pdb"]),
        subresources: SUBRESOURCES.into(),
        generation: true,
        columns: COLUMNS.into(),
        ..Resource::of::<PodDisruptionBudget>()
    }
}
