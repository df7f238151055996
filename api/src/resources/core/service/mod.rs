//! Service: a stable address in front of a changing set of pods.

pub mod addresses;
mod defaults;
mod printing;
mod validation;

use crate::field::ErrorList;
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown, wide};
use crate::resource::{Cells, Column, NameRule, PROXY, PrintContext, Resource, SelectableField, Subresource, texts};
use crate::resources::defaulting::items;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::core::v1::{ServiceSpec, ServiceStatus};
use serde_json::json;

const SUBRESOURCES: &[Subresource] = &[Subresource::new("proxy", "ServiceProxyOptions", PROXY), Subresource::status("Service")];

const COLUMNS: &[Column] = &[
    NAME,
    shown("Type", "string"),
    shown("Cluster-IP", "string"),
    shown("External-IP", "string"),
    shown("Port(s)", "string"),
    AGE,
    wide("Selector", "string"),
];

impl Kind for Service {
    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        defaults::service(spec);
    }

    fn prepare_for_create(&mut self) {
        self.status = Some(ServiceStatus::default());
        addresses::same_cluster_ips(self.spec.get_or_insert_default(), None);
    }

    fn prepare_for_update(&mut self, old: &Self) {
        let none = ServiceSpec::default();
        let old = old.spec.as_ref().unwrap_or(&none);
        let spec = self.spec.get_or_insert_default();
        addresses::same_cluster_ips(spec, Some(old));
        addresses::keep_allocated(spec, old);
        addresses::drop_what_the_type_has_not(spec, old);
    }

    fn validate(&self, errors: &mut ErrorList) {
        validation::service(errors, self);
    }

    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        validation::update(errors, self, old);
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let none = ServiceSpec::default();
        let spec = self.spec.as_ref().unwrap_or(&none);
        let type_ = spec.type_.as_deref().unwrap_or("");
        let ip = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or(printer::NONE);
        vec![
            printer::name(&self.metadata),
            json!(type_),
            json!(ip),
            json!(printing::external_ip(spec, self.status.as_ref(), context)),
            json!(printing::ports(items(&spec.ports))),
            printer::age(&self.metadata, context),
            json!(printer::labels(spec.selector.as_ref())),
        ]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource {
        short_names: texts(&["svc"]),
        categories: texts(&["all"]),
        subresources: SUBRESOURCES.into(),
        name_rule: NameRule::Label,
        selectable_fields: [SelectableField::at("spec.clusterIP"), SelectableField::at("spec.type")].to_vec().into(),
        columns: COLUMNS.into(),
        ..Resource::of::<Service>()
    }
}
