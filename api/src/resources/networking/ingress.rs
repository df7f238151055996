//! Ingress: rules that bring HTTP requests from outside to services.

use super::ingress_validation;
use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource, Subresource, texts};
use crate::resources::defaulting::items;
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::api::networking::v1::IngressRule;
use serde_json::json;
use std::collections::BTreeSet;

const SUBRESOURCES: &[Subresource] = &[Subresource::status("Ingress")];

const COLUMNS: &[Column] =
    &[NAME, shown("Class", "string"), shown("Hosts", "string"), shown("Address", "string"), shown("Ports", "string"), AGE];

impl Kind for Ingress {
    fn prepare_for_create(&mut self) {
        self.status = None;
    }

    fn validate(&self, errors: &mut ErrorList) {
        ingress_validation::spec(&self.spec.clone().unwrap_or_default(), &Path::new("spec"), errors);
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let (spec, status) = (self.spec.clone().unwrap_or_default(), self.status.clone().unwrap_or_default());
        let points = status.load_balancer.and_then(|l| l.ingress).unwrap_or_default();
        let address = points.iter().map(|p| p.ip.clone().filter(|ip| !ip.is_empty()).or_else(|| p.hostname.clone()).unwrap_or_default());
        let address = address.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(",");
        let class = spec.ingress_class_name.as_deref().unwrap_or(printer::NONE);
        let ports = if spec.tls.as_ref().is_some_and(|t| !t.is_empty()) { "80, 443" } else { "80" };
        vec![
            printer::name(&self.metadata),
            json!(class),
            json!(hosts(items(&spec.rules))),
            json!(address),
            json!(ports),
            printer::age(&self.metadata, context),
        ]
    }
}

/// How many hosts the column shows before it only counts.
const SHOWN: usize = 3;

fn hosts(rules: &[IngressRule]) -> String {
    let mut list: Vec<&str> = rules.iter().filter_map(|r| r.host.as_deref()).filter(|h| !h.is_empty()).collect();
    let more = list.len().saturating_sub(SHOWN);
    list.truncate(SHOWN);
    match (list.is_empty(), more) {
        (true, _) => "*".into(),
        (false, 0) => list.join(","),
        (false, more) => format!("{} + {more} more...", list.join(",")),
    }
}

/// The row.
pub fn row() -> Resource {
    Resource {
        short_names: texts(&["ing"]),
        subresources: SUBRESOURCES.into(),
        generation: true,
        columns: COLUMNS.into(),
        ..Resource::of::<Ingress>()
    }
}
