//! APIService: a group and version of the API, and who serves it.

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, NameRule, PrintContext, Resource, Subresource, texts};
use crate::resources::defaulting::{absent, str};
use crate::validation::{invalid, names};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::{APIService, APIServiceCondition, APIServiceSpec, APIServiceStatus};
use serde_json::json;

const SUBRESOURCES: &[Subresource] = &[Subresource::status("APIService")];

const COLUMNS: &[Column] = &[NAME, shown("Service", "string"), shown("Available", "string"), AGE];

impl Kind for APIService {
    fn set_defaults(&mut self) {
        if let Some(service) = self.spec.as_mut().and_then(|s| s.service.as_mut()) {
            absent(&mut service.port, 443);
        }
    }

    fn prepare_for_create(&mut self) {
        let local = self.spec.as_ref().is_some_and(|s| s.service.is_none());
        self.status = local.then(|| APIServiceStatus { conditions: Some(vec![local_condition(&self.metadata)]) });
    }

    fn validate(&self, errors: &mut ErrorList) {
        let spec = self.spec.clone().unwrap_or_default();
        let path = Path::new("spec");
        let (group, version) = (str(&spec.group), str(&spec.version));
        let wanted = format!("{version}.{group}");
        if self.metadata.name.as_deref() != Some(&wanted) {
            let name = self.metadata.name.as_deref().unwrap_or("");
            errors.invalid(&Path::new("metadata").child("name"), name, &format!("must be `spec.version+\".\"+spec.group`: {wanted:?}"));
        }
        if group.is_empty() && version != "v1" {
            errors.required(&path.child("group"), "only v1 may have an empty group and it better be legacy kube");
        }
        invalid(errors, &path.child("group"), group, if group.is_empty() { Vec::new() } else { names::dns1123_subdomain(group) });
        invalid(errors, &path.child("version"), version, names::dns1035_label(version));
        for (field, value, most) in
            [("groupPriorityMinimum", spec.group_priority_minimum, 20000), ("versionPriority", spec.version_priority, 1000)]
        {
            if value <= 0 || value > most {
                errors.invalid(&path.child(field), value, &format!("must be positive and less than {most}"));
            }
        }
        service(errors, &path, &spec);
    }

    fn validate_update(&self, _old: &Self, errors: &mut ErrorList) {
        self.validate(errors);
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let service = self.spec.as_ref().and_then(|s| s.service.as_ref());
        let service =
            service.map_or("Local".into(), |s| format!("{}/{}", s.namespace.as_deref().unwrap_or(""), s.name.as_deref().unwrap_or("")));
        let conditions = self.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or(&[]);
        let available = conditions.iter().find(|c| c.type_ == "Available").map_or("Unknown".into(), |c| match c.status.as_str() {
            "True" => c.status.clone(),
            _ => format!("{} ({})", c.status, c.reason.as_deref().unwrap_or("")),
        });
        vec![printer::name(&self.metadata), json!(service), json!(available), printer::age(&self.metadata, context)]
    }
}

/// What is said of a service that this server answers for itself.
fn local_condition(metadata: &ObjectMeta) -> APIServiceCondition {
    APIServiceCondition {
        type_: "Available".into(),
        status: "True".into(),
        reason: Some("Local".into()),
        message: Some("Local APIServices are always available".into()),
        last_transition_time: metadata.creation_timestamp.clone(),
    }
}

fn service(errors: &mut ErrorList, path: &Path, spec: &APIServiceSpec) {
    let skips = spec.insecure_skip_tls_verify == Some(true);
    let bundled = spec.ca_bundle.as_ref().is_some_and(|b| !b.0.is_empty());
    let Some(service) = &spec.service else {
        if bundled {
            errors.invalid(
                &path.child("caBundle"),
                format!("{} bytes", spec.ca_bundle.as_ref().map_or(0, |b| b.0.len())),
                "local APIServices may not have a caBundle",
            );
        }
        if skips {
            errors.invalid(&path.child("insecureSkipTLSVerify"), true, "local APIServices may not have insecureSkipTLSVerify");
        }
        return;
    };
    let at = path.child("service");
    if str(&service.namespace).is_empty() {
        errors.required(&at.child("namespace"), "");
    }
    if str(&service.name).is_empty() {
        errors.required(&at.child("name"), "");
    }
    let port = service.port.unwrap_or(443);
    if !(1..=65535).contains(&port) {
        errors.invalid(&at.child("port"), port, "port is not valid: must be between 1 and 65535, inclusive");
    }
    if skips && bundled {
        errors.invalid(&path.child("insecureSkipTLSVerify"), true, "may not be true if caBundle is present");
    }
}

/// The row.
pub fn row() -> Resource {
    Resource {
        categories: texts(&["api-extensions"]),
        subresources: SUBRESOURCES.into(),
        name_rule: NameRule::PathSegment,
        columns: COLUMNS.into(),
        ..Resource::of::<APIService>()
    }
}
