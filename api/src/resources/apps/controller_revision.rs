//! ControllerRevision: a snapshot of a controller's state, kept so that it can go back to it.

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource};
use crate::validation::IMMUTABLE;
use k8s_openapi::api::apps::v1::ControllerRevision;
use serde_json::json;

const COLUMNS: &[Column] = &[NAME, shown("Controller", "string"), shown("Revision", "string"), AGE];

impl Kind for ControllerRevision {
    fn validate(&self, errors: &mut ErrorList) {
        if self.data.is_none() {
            errors.required(&Path::new("data"), "data is mandatory");
        }
        crate::validation::numbers::not_negative(errors, &Path::new("revision"), self.revision);
    }

    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        self.validate(errors);
        if self.data != old.data {
            errors.invalid(&Path::new("data"), serde_json::json!(self.data), IMMUTABLE);
        }
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let controller = self.metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true));
        let controller = controller.map_or(printer::NONE.into(), |o| {
            let group = o.api_version.split_once('/').map_or("", |(group, _)| group);
            let kind = o.kind.to_lowercase();
            if group.is_empty() { format!("{kind}/{}", o.name) } else { format!("{kind}.{group}/{}", o.name) }
        });
        vec![printer::name(&self.metadata), json!(controller), json!(self.revision), printer::age(&self.metadata, context)]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource { columns: COLUMNS.into(), ..Resource::of::<ControllerRevision>() }
}
