//! ServiceCIDR: ranges that the addresses of services are taken from.

use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource, Subresource};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde_json::json;

const SUBRESOURCES: &[Subresource] = &[Subresource::status("ServiceCIDR")];

const COLUMNS: &[Column] = &[NAME, shown("CIDRs", "string"), AGE];

impl Kind for ServiceCIDR {
    fn prepare_for_create(&mut self) {
        self.status = None;
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let cidrs = self.spec.as_ref().and_then(|s| s.cidrs.clone()).unwrap_or_default();
        vec![printer::name(&self.metadata), json!(cidrs.join(",")), printer::age(&self.metadata, context)]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource { subresources: SUBRESOURCES.into(), columns: COLUMNS.into(), ..Resource::of::<ServiceCIDR>() }
}
