//! The table of built-in kinds: one row each, in the file that also holds its defaults, validation and printer columns.

use crate::resource::Resource;
use std::sync::{Arc, LazyLock};

pub mod admissionregistration;
pub mod apiextensions;
pub mod apiregistration;
pub mod apps;
pub mod authentication;
pub mod authorization;
pub mod autoscaling;
pub mod batch;
pub mod certificates;
pub mod coordination;
pub mod core;
pub mod defaulting;
pub mod discovery;
pub mod events;
pub mod flowcontrol;
pub mod networking;
pub mod node;
#[cfg(test)]
mod oracle;
pub mod policy;
pub mod rbac;
pub mod resource;
pub mod scheduling;
pub mod storage;

/// One function per row, in discovery's order of groups and, within a group, of versions and names.
const ROWS: &[fn() -> Resource] = &[
    core::binding::row,
    core::component_status::row,
    core::config_map::row,
    core::endpoints::row,
    core::event::row,
    core::limit_range::row,
    core::namespace::row,
    core::node::row,
    core::persistent_volume_claim::row,
    core::persistent_volume::row,
    core::pod::row,
    core::pod_template::row,
    core::replication_controller::row,
    core::resource_quota::row,
    core::secret::row,
    core::service_account::row,
    core::service::row,
    apiregistration::api_service::row,
    apps::controller_revision::row,
    apps::daemon_set::row,
    apps::deployment::row,
    apps::replica_set::row,
    apps::stateful_set::row,
    events::event::row,
    authentication::self_subject_review::row,
    authentication::token_review::row,
    authorization::local_subject_access_review::row,
    authorization::self_subject_access_review::row,
    authorization::self_subject_rules_review::row,
    authorization::subject_access_review::row,
    autoscaling::horizontal_pod_autoscaler::row,
    autoscaling::horizontal_pod_autoscaler_v1::row,
    batch::cron_job::row,
    batch::job::row,
    certificates::certificate_signing_request::row,
    networking::ingress_class::row,
    networking::ingress::row,
    networking::ip_address::row,
    networking::network_policy::row,
    networking::service_cidr::row,
    policy::pod_disruption_budget::row,
    rbac::cluster_role_binding::row,
    rbac::cluster_role::row,
    rbac::role_binding::row,
    rbac::role::row,
    storage::csi_driver::row,
    storage::csi_node::row,
    storage::csi_storage_capacity::row,
    storage::storage_class::row,
    storage::volume_attachment::row,
    storage::volume_attributes_class::row,
    admissionregistration::mutating_admission_policy::row,
    admissionregistration::mutating_admission_policy_binding::row,
    admissionregistration::mutating_webhook_configuration::row,
    admissionregistration::validating_admission_policy::row,
    admissionregistration::validating_admission_policy_binding::row,
    admissionregistration::validating_webhook_configuration::row,
    apiextensions::custom_resource_definition::row,
    scheduling::priority_class::row,
    coordination::lease::row,
    node::runtime_class::row,
    discovery::endpoint_slice::row,
    resource::device_class::row,
    resource::resource_claim::row,
    resource::resource_claim_template::row,
    resource::resource_slice::row,
    flowcontrol::flow_schema::row,
    flowcontrol::priority_level_configuration::row,
];

static ALL: LazyLock<Vec<Arc<Resource>>> = LazyLock::new(|| ROWS.iter().map(|row| Arc::new(row())).collect());

/// All built-in rows, in discovery's order of groups. They are made once and live as long as the process.
pub fn all() -> &'static [Arc<Resource>] {
    &ALL
}

/// The row that serves `group`, `version` and `plural`.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    all().iter().map(|r| &**r).find(|r| r.group == group && r.version == version && r.plural == plural)
}

#[cfg(test)]
mod tests {
    use super::all;
    use crate::resource::{Scope, Verb};
    use serde_json::{Value, json};

    const ORACLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/oracle/answers/discovery");

    fn verbs(verbs: &[Verb]) -> Value {
        verbs.iter().map(|v| format!("{v:?}").to_lowercase()).collect()
    }

    /// The rows as aggregated discovery shows them, one text per row and subresource.
    fn shown_by_rows() -> Vec<Value> {
        let mut out = Vec::new();
        for r in all() {
            let scope = if r.scope == Scope::Cluster { "Cluster" } else { "Namespaced" };
            out.push(json!([r.group, r.version, r.plural, r.kind, r.singular, scope, r.short_names, r.categories, verbs(&r.verbs)]));
            for s in r.subresources.iter() {
                out.push(json!([r.plural, s.name, s.kind, s.group_version.0, s.group_version.1, verbs(&s.verbs)]));
            }
        }
        out
    }

    fn shown_by_upstream(file: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(format!("{ORACLE}/{file}")).unwrap();
        let steps: Value = serde_json::from_str(&text).unwrap();
        let or_empty = |v: &Value, key: &str| if v[key].is_null() { json!([]) } else { v[key].clone() };
        let mut out = Vec::new();
        for group in steps[0]["body"]["items"].as_array().unwrap() {
            let name = group["metadata"]["name"].as_str().unwrap_or("");
            for version in group["versions"].as_array().unwrap() {
                for r in version["resources"].as_array().unwrap() {
                    let (short, categories) = (or_empty(r, "shortNames"), or_empty(r, "categories"));
                    let kind = &r["responseKind"]["kind"];
                    let singular = &r["singularResource"];
                    out.push(json!([name, version["version"], r["resource"], kind, singular, r["scope"], short, categories, r["verbs"]]));
                    for s in r["subresources"].as_array().into_iter().flatten() {
                        let k = &s["responseKind"];
                        out.push(json!([r["resource"], s["subresource"], k["kind"], k["group"], k["version"], s["verbs"]]));
                    }
                }
            }
        }
        out
    }

    #[test]
    fn rows_are_those_of_upstreams_discovery_in_its_order() {
        let mut want = shown_by_upstream("aggregated-core.json");
        want.extend(shown_by_upstream("aggregated.json"));
        let got = shown_by_rows();
        for (g, w) in got.iter().zip(&want) {
            assert_eq!(g, w);
        }
        assert_eq!(got.len(), want.len());
    }

    #[test]
    fn storage_version_hashes_are_upstreams() {
        let mut compared = 0;
        for entry in std::fs::read_dir(ORACLE).unwrap() {
            let steps: Value = serde_json::from_str(&std::fs::read_to_string(entry.unwrap().path()).unwrap()).unwrap();
            for step in steps.as_array().unwrap() {
                let Some(group_version) = step["body"]["groupVersion"].as_str() else { continue };
                let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
                for r in step["body"]["resources"].as_array().unwrap() {
                    let Some(row) = super::find(group, version, r["name"].as_str().unwrap()) else { continue };
                    let want = r["storageVersionHash"].as_str();
                    assert_eq!(row.storage_version_hash().as_deref(), want, "{}", row.qualified());
                    compared += 1;
                }
            }
        }
        assert!(compared > 40, "only {compared} compared");
    }

    #[test]
    fn every_row_has_as_many_cells_as_columns() {
        let context = crate::resource::PrintContext { now: k8s_openapi::jiff::Timestamp::UNIX_EPOCH };
        for r in all() {
            let empty = (r.decode)(&json!({"apiVersion": r.api_version(), "kind": r.kind, "metadata": {"name": "x"}}));
            // Some types do not decode without their required fields; those are printed in the tests on recorded answers.
            let Ok(object) = empty else { continue };
            assert_eq!((r.cells)(&*object, &context).len(), r.columns.len(), "{}", r.qualified());
        }
    }
}
