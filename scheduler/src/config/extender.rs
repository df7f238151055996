//! How a file names the servers that have a say in decisions (`extenders`), see [`crate::extenders`].

use super::file::Span;
use api::field::{ErrorList, Path};
use api::resources::core::resource_name::is_extended;
use api::validation::labels::label_name;
use serde::{Deserialize, Serialize};

/// A server that has a say in decisions. Verbs are the last part of the URL at which it is asked; it is not asked where there is none.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // Named as what they are.
pub struct Extender {
    pub url_prefix: String,
    pub filter_verb: String,
    pub preempt_verb: String,
    pub prioritize_verb: String,
    /// What its scores are multiplied with.
    pub weight: i64,
    pub bind_verb: String,
    /// Its certificate is not looked at if no authority is given for it.
    #[serde(rename = "enableHTTPS")]
    pub enable_https: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_config: Option<ExtenderTls>,
    pub http_timeout: Span,
    /// It knows the nodes and pods itself, and is told names and UIDs only.
    pub node_cache_capable: bool,
    /// It is asked of pods that ask for one of these; of all if there are none.
    pub managed_resources: Vec<ManagedResource>,
    /// Its failures are passed over.
    pub ignorable: bool,
}

/// How an extender is recognised, and the scheduler by it. Data are base64 of PEM, and count before files.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // Named as what they are.
pub struct ExtenderTls {
    pub insecure: bool,
    pub server_name: String,
    pub cert_file: String,
    pub key_file: String,
    pub ca_file: String,
    pub cert_data: String,
    pub key_data: String,
    pub ca_data: String,
}

/// A resource that an extender looks after.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // Named as what they are.
pub struct ManagedResource {
    pub name: String,
    /// The scheduler itself does not count it.
    pub ignored_by_scheduler: bool,
}

/// What is wrong with extenders.
pub fn validate(errors: &mut ErrorList, path: &Path, extenders: &[Extender]) {
    let mut managed = Vec::new();
    for (index, extender) in extenders.iter().enumerate() {
        let path = path.index(index);
        if !extender.prioritize_verb.is_empty() && extender.weight <= 0 {
            errors.invalid(&path.child("weight"), extender.weight, "must have a positive weight applied to it");
        }
        for (index, resource) in extender.managed_resources.iter().enumerate() {
            let (path, name) = (path.child("managedResources").index(index).child("name"), resource.name.as_str());
            let before = errors.0.len();
            label_name(errors, &path, name);
            if errors.0.len() == before && !is_extended(name) {
                errors.invalid(&path, name, "is an invalid extended resource name");
            }
            if managed.contains(&name) {
                errors.invalid(&path, name, "duplicate extender managed resource name");
            }
            managed.push(name);
        }
    }
    let binders = extenders.iter().filter(|extender| !extender.bind_verb.is_empty()).count();
    if binders > 1 {
        errors.invalid(path, format!("found {binders} extenders implementing bind"), "only one extender can implement bind");
    }
}
