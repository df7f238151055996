//! APIService: a group and version of the API, and who serves it.

use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, NameRule, PrintContext, Resource, Subresource, texts};
use crate::resources::defaulting::absent;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use serde_json::json;

const SUBRESOURCES: &[Subresource] = &[Subresource::status("APIService")];

const COLUMNS: &[Column] = &[NAME, shown("Service", "string"), shown("Available", "string"), AGE];

impl Kind for APIService {
    fn set_defaults(&mut self) {
        if let Some(service) = self.spec.as_mut().and_then(|s| s.service.as_mut()) {
            absent(&mut service.port, 443);
        }
    }

    fn prepare_for_create(&mut self) {
        self.status = None;
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let service = self.spec.as_ref().and_then(|s| s.service.as_ref());
        let service =
            service.map_or("Local".into(), |s| format!("{}/{}", s.namespace.as_deref().unwrap_or(""), s.name.as_deref().unwrap_or("")));
        let conditions = self.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or(&[]);
        let available = conditions.iter().find(|c| c.type_ == "Available").map_or("Unknown".into(), |c| match c.status.as_str() {
            "True" => c.status.clone(),
            _ => format!("{} ({})", c.status, c.reason.as_deref().unwrap_or("")),
        });
        vec![printer::name(&self.metadata), json!(service), json!(available), printer::age(&self.metadata, context)]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource {
        categories: texts(&["api-extensions"]),
        subresources: SUBRESOURCES.into(),
        name_rule: NameRule::PathSegment,
        columns: COLUMNS.into(),
        ..Resource::of::<APIService>()
    }
}
