//! ComponentStatus: health of control plane parts, long deprecated: computed when asked for and never stored.

use crate::kind::Kind;
use crate::printer::{self, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource, Verb, texts};
use k8s_openapi::api::core::v1::ComponentStatus;
use serde_json::json;
use std::borrow::Cow;

const COLUMNS: &[Column] = &[NAME, shown("Status", "string"), shown("Message", "string"), shown("Error", "string")];

impl Kind for ComponentStatus {
    fn cells(&self, context: &PrintContext) -> Cells {
        let _ = context;
        let healthy = self.conditions.iter().flatten().find(|c| c.type_ == "Healthy");
        let (status, message, error) = healthy.map_or(("Unknown", "", ""), |c| {
            let status = if c.status == "True" { "Healthy" } else { "Unhealthy" };
            (status, c.message.as_deref().unwrap_or(""), c.error.as_deref().unwrap_or(""))
        });
        vec![printer::name(&self.metadata), json!(status), json!(message), json!(error)]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource {
        short_names: texts(&["cs"]),
        verbs: Cow::Borrowed(&[Verb::Get, Verb::List]),
        columns: COLUMNS.into(),
        deprecation: Some("v1 ComponentStatus is deprecated in v1.19+".into()),
        ..Resource::of::<ComponentStatus>()
    }
}
