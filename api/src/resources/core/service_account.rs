//! ServiceAccount: an identity for what runs in pods.

use crate::kind::Kind;
use crate::printer::{self, AGE, NAME};
use crate::resource::{CREATE_ONLY, Cells, Column, PrintContext, Resource, Subresource, texts};
use k8s_openapi::api::core::v1::ServiceAccount;

const SUBRESOURCES: &[Subresource] = &[Subresource::foreign("token", "authentication.k8s.io", "v1", "TokenRequest", CREATE_ONLY)];

const COLUMNS: &[Column] = &[NAME, AGE];

impl Kind for ServiceAccount {
    fn cells(&self, context: &PrintContext) -> Cells {
        vec![printer::name(&self.metadata), printer::age(&self.metadata, context)]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource { short_names: texts(&["sa"]), subresources: SUBRESOURCES.into(), columns: COLUMNS.into(), ..Resource::of::<ServiceAccount>() }
}
