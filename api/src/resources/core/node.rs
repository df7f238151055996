//! Node: a machine that runs pods.

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown, wide};
use crate::resource::{Cells, Column, PROXY, PrintContext, Resource, SelectableField, Subresource, texts};
use crate::resources::core::pod::validation::scheduling::EFFECTS;
use crate::resources::core::resource_name;
use crate::resources::defaulting::{is_true, items};
use crate::validation::{invalid, labels, names};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::api::core::v1::{NodeSpec, NodeStatus};
use serde_json::json;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

const SUBRESOURCES: &[Subresource] = &[Subresource::new("proxy", "NodeProxyOptions", PROXY), Subresource::status("Node")];

const COLUMNS: &[Column] = &[
    NAME,
    shown("Status", "string"),
    shown("Roles", "string"),
    AGE,
    shown("Version", "string"),
    wide("Internal-IP", "string"),
    wide("External-IP", "string"),
    wide("OS-Image", "string"),
    wide("Kernel-Version", "string"),
    wide("Container-Runtime", "string"),
];

impl Kind for Node {
    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        // The single range of old and the list of today say the same.
        match (spec.pod_cidr.as_deref(), spec.pod_cidrs.as_deref()) {
            (Some(one), None | Some([])) if !one.is_empty() => spec.pod_cidrs = Some(vec![one.into()]),
            (None | Some(""), Some([first, ..])) => spec.pod_cidr = Some(first.clone()),
            // An update that changes only the old field means the list too.
            (Some(one), Some([first, ..])) if one != first => spec.pod_cidrs = Some(vec![one.into()]),
            _ => {}
        }
        let status = self.status.get_or_insert_default();
        if status.allocatable.is_none() {
            status.allocatable = status.capacity.clone();
        }
    }

    fn validate(&self, errors: &mut ErrorList) {
        let spec = self.spec.clone().unwrap_or_default();
        taints(errors, &Path::new("metadata").child("taints"), items(&spec.taints));
        amounts(errors, self);
        let path = Path::new("spec").child("podCIDRs");
        let cidrs = items(&spec.pod_cidrs);
        for (i, cidr) in cidrs.iter().enumerate() {
            invalid(errors, &path.index(i), cidr, names::cidr(cidr));
        }
        if cidrs.len() > 1 {
            let families: BTreeSet<bool> = cidrs.iter().filter_map(|c| names::parse_cidr(c)).map(|(ip, _)| ip.is_ipv4()).collect();
            if families.len() < 2 || cidrs.len() > 2 {
                errors.invalid(&path, cidrs, "may specify no more than one CIDR for each IP family");
            }
            for (i, cidr) in cidrs.iter().enumerate().filter(|(i, c)| cidrs[..*i].contains(c)) {
                errors.duplicate(&path.index(i), cidr.as_str());
            }
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        let (new, before) = (self.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
        amounts(errors, self);
        let status = self.status.clone().unwrap_or_default();
        let addresses = items(&status.addresses);
        for (i, address) in addresses.iter().enumerate().filter(|(i, a)| addresses[..*i].contains(a)) {
            let shown = format!("{{\"Type\":{:?},\"Address\":{:?}}}", address.type_, address.address);
            errors.duplicate_as(&Path::new("status").child("addresses").index(i), &shown);
        }
        let path = Path::new("spec");
        let (cidrs, old_cidrs) = (items(&new.pod_cidrs), items(&before.pod_cidrs));
        if !old_cidrs.is_empty() {
            let changed = old_cidrs.iter().zip(cidrs).filter(|(a, b)| a != b).count();
            for _ in 0..if old_cidrs.len() == cidrs.len() { changed } else { 1 } {
                errors.forbidden(&path.child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid");
            }
        }
        let provider = before.provider_id.as_deref().unwrap_or("");
        if !provider.is_empty() && new.provider_id.as_deref() != Some(provider) {
            errors.forbidden(&path.child("providerID"), "node updates may not change providerID except from \"\" to valid");
        }
        taints(errors, &Path::new("metadata").child("taints"), items(&new.taints));
        if new.external_id.as_deref().unwrap_or("") != before.external_id.as_deref().unwrap_or("") {
            errors.forbidden(&path.child("externalID"), "may not be updated");
        }
    }

    fn validate_status_update(&self, old: &Self, errors: &mut ErrorList) {
        self.validate_update(old, errors);
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let (spec, status) = (self.spec.clone().unwrap_or_default(), self.status.clone().unwrap_or_default());
        let info = status.node_info.clone().unwrap_or_default();
        let address = |kind: &str| {
            let found = items(&status.addresses).iter().find(|a| a.type_ == kind);
            json!(found.map_or(printer::NONE, |a| a.address.as_str()))
        };
        let or_unknown = |text: &str| json!(if text.is_empty() { printer::UNKNOWN } else { text });
        let kernel = match (info.kernel_version.as_str(), info.architecture.as_str()) {
            ("", _) => printer::UNKNOWN.into(),
            (kernel, "") => kernel.to_owned(),
            (kernel, architecture) => format!("{kernel} ({architecture})"),
        };
        vec![
            printer::name(&self.metadata),
            json!(status_text(&spec, &status)),
            json!(roles(self.metadata.labels.as_ref())),
            printer::age(&self.metadata, context),
            json!(info.kubelet_version),
            address("InternalIP"),
            address("ExternalIP"),
            or_unknown(&info.os_image),
            json!(kernel),
            or_unknown(&info.container_runtime_version),
        ]
    }
}

/// `Ready`, `NotReady` or `Unknown`, and whether new pods are kept away.
fn status_text(spec: &NodeSpec, status: &NodeStatus) -> String {
    let ready = items(&status.conditions).iter().find(|c| c.type_ == "Ready");
    let text = ready.map_or("Unknown", |c| if c.status == "True" { "Ready" } else { "NotReady" });
    if is_true(spec.unschedulable) { format!("{text},SchedulingDisabled") } else { text.into() }
}

/// The roles that the labels name, sorted.
fn roles(labels: Option<&BTreeMap<String, String>>) -> String {
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in labels.into_iter().flatten() {
        match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => roles.push(role),
            None if key == "kubernetes.io/role" && !value.is_empty() => roles.push(value),
            _ => {}
        }
    }
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { printer::NONE.into() } else { roles.join(",") }
}

/// Upstream finds taints under `metadata`, though they stand in the spec.
fn taints(errors: &mut ErrorList, path: &Path, taints: &[Taint]) {
    for (i, taint) in taints.iter().enumerate() {
        let path = path.index(i);
        labels::label_name(errors, &path.child("key"), &taint.key);
        let value = taint.value.as_deref().unwrap_or("");
        let messages = names::label_value(value);
        if !messages.is_empty() {
            errors.invalid(&path.child("value"), value, &messages.join(";"));
        }
        match taint.effect.as_str() {
            "" => errors.required(&path.child("effect"), ""),
            effect if !EFFECTS.contains(&effect) => errors.not_supported(&path.child("effect"), effect, EFFECTS),
            _ => {}
        }
        if taints[..i].iter().any(|t| t.key == taint.key && t.effect == taint.effect) {
            let added = taint.time_added.as_ref().map_or("null".into(), |t| serde_json::json!(t).to_string());
            let (key, effect) = (&taint.key, &taint.effect);
            let shown = format!("{{\"Key\":{key:?},\"Value\":{value:?},\"Effect\":{effect:?},\"TimeAdded\":{added}}}");
            errors.duplicate_as(&path, &format!("{shown}: taints must be unique by key and effect pair"));
        }
    }
}

fn amounts(errors: &mut ErrorList, node: &Node) {
    let status = node.status.clone().unwrap_or_default();
    for (field, list) in [("capacity", &status.capacity), ("allocatable", &status.allocatable)] {
        for (name, quantity) in list.iter().flatten() {
            resource_name::quantity(errors, &Path::new("status").child(field).child(name), name, quantity);
        }
    }
}

/// The row.
pub fn row() -> Resource {
    Resource {
        short_names: texts(&["no"]),
        subresources: SUBRESOURCES.into(),
        selectable_fields: [SelectableField::with("spec.unschedulable", &["spec.unschedulable"], "false")].to_vec().into(),
        columns: COLUMNS.into(),
        ..Resource::of::<Node>()
    }
}
