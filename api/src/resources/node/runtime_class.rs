//! RuntimeClass: a way to run containers, by the name under which the runtime knows it.

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource};
use crate::validation::{IMMUTABLE, invalid, names};
use k8s_openapi::api::node::v1::RuntimeClass;
use serde_json::json;

const COLUMNS: &[Column] = &[NAME, shown("Handler", "string"), AGE];

impl Kind for RuntimeClass {
    fn validate(&self, errors: &mut ErrorList) {
        invalid(errors, &Path::new("handler"), &self.handler, names::dns1123_label(&self.handler));
    }

    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        if self.handler != old.handler {
            errors.invalid(&Path::new("handler"), self.handler.as_str(), IMMUTABLE);
        }
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        vec![printer::name(&self.metadata), json!(self.handler), printer::age(&self.metadata, context)]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource { columns: COLUMNS.into(), ..Resource::of::<RuntimeClass>() }
}
