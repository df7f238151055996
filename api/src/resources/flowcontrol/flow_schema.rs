//! FlowSchema: which requests go to which priority level.

use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource, Subresource};
use crate::resources::defaulting::number;
use k8s_openapi::api::flowcontrol::v1::FlowSchema;
use serde_json::json;

const SUBRESOURCES: &[Subresource] = &[Subresource::status("FlowSchema")];

const COLUMNS: &[Column] = &[
    NAME,
    shown("PriorityLevel", "string"),
    shown("MatchingPrecedence", "string"),
    shown("DistinguisherMethod", "string"),
    AGE,
    shown("MissingPL", "string"),
];

impl Kind for FlowSchema {
    fn set_defaults(&mut self) {
        number(&mut self.spec.get_or_insert_default().matching_precedence, 1000);
    }

    fn prepare_for_create(&mut self) {
        self.status = None;
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let spec = self.spec.clone().unwrap_or_default();
        let conditions = self.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or(&[]);
        // Nobody has looked yet: upstream says the same as for one that is there.
        let dangling = conditions.iter().find(|c| c.type_.as_deref() == Some("Dangling"));
        let missing = dangling.map_or("?", |c| c.status.as_deref().unwrap_or("?"));
        let method = spec.distinguisher_method.map_or(printer::NONE.into(), |m| m.type_);
        vec![
            printer::name(&self.metadata),
            json!(spec.priority_level_configuration.name),
            json!(spec.matching_precedence.unwrap_or(0)),
            json!(method),
            printer::age(&self.metadata, context),
            json!(missing),
        ]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource { subresources: SUBRESOURCES.into(), generation: true, columns: COLUMNS.into(), ..Resource::of::<FlowSchema>() }
}
