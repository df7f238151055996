//! IngressClass: which controller serves the ingresses of a class.

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource};
use crate::resources::defaulting::text;
use crate::validation::IMMUTABLE;
use k8s_openapi::api::networking::v1::IngressClass;
use serde_json::json;

const COLUMNS: &[Column] = &[NAME, shown("Controller", "string"), shown("Parameters", "string"), AGE];

impl Kind for IngressClass {
    fn set_defaults(&mut self) {
        if let Some(parameters) = self.spec.as_mut().and_then(|s| s.parameters.as_mut()) {
            text(&mut parameters.scope, "Cluster");
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        let controller = |class: &Self| class.spec.as_ref().and_then(|s| s.controller.clone());
        if controller(self) != controller(old) {
            errors.invalid(&Path::new("spec").child("controller"), json!(controller(self)), IMMUTABLE);
        }
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let spec = self.spec.clone().unwrap_or_default();
        let parameters = spec.parameters.map_or(printer::NONE.into(), |p| {
            let group = p.api_group.map_or(String::new(), |g| format!(".{g}"));
            format!("{}{group}/{}", p.kind, p.name)
        });
        vec![
            printer::name(&self.metadata),
            json!(spec.controller.unwrap_or_default()),
            json!(parameters),
            printer::age(&self.metadata, context),
        ]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource { generation: true, columns: COLUMNS.into(), ..Resource::of::<IngressClass>() }
}
