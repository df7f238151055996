//! IPAddress: a cluster address that is taken, and by what.

use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, NameRule, PrintContext, Resource, texts};
use k8s_openapi::api::networking::v1::IPAddress;
use serde_json::json;

const COLUMNS: &[Column] = &[NAME, shown("ParentRef", "string"), AGE];

impl Kind for IPAddress {
    fn cells(&self, context: &PrintContext) -> Cells {
        let parent = &self.spec.parent_ref;
        let given = |part: &Option<String>| part.clone().filter(|p| !p.is_empty());
        let mut text = parent.resource.clone();
        if let Some(group) = given(&parent.group) {
            text = format!("{text}.{group}");
        }
        if let Some(namespace) = given(&parent.namespace) {
            text = format!("{text}/{namespace}");
        }
        text = format!("{text}/{}", parent.name);
        vec![printer::name(&self.metadata), json!(text), printer::age(&self.metadata, context)]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource { short_names: texts(&["ip"]), name_rule: NameRule::PathSegment, columns: COLUMNS.into(), ..Resource::of::<IPAddress>() }
}
