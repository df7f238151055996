//! Pod: containers that run together on one node.

pub mod defaults;
pub mod ephemeral;
mod label_keys;
mod printing;
pub mod qos;
pub mod validation;
pub mod warnings;

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::resource::{
    CONNECT, CREATE_ONLY, Cells, PROXY, PrintContext, READ_AND_CHANGE, Resource, SelectableField, Subresource, Verb, texts,
};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodIP, PodStatus};

const SUBRESOURCES: &[Subresource] = &[
    Subresource::new("attach", "PodAttachOptions", CONNECT),
    Subresource::new("binding", "Binding", CREATE_ONLY),
    Subresource::new("ephemeralcontainers", "Pod", READ_AND_CHANGE),
    Subresource::foreign("eviction", "policy", "v1", "Eviction", CREATE_ONLY),
    Subresource::new("exec", "PodExecOptions", CONNECT),
    Subresource::new("log", "Pod", &[Verb::Get]),
    Subresource::new("portforward", "PodPortForwardOptions", CONNECT),
    Subresource::new("proxy", "PodProxyOptions", PROXY),
    Subresource::new("resize", "Pod", READ_AND_CHANGE),
    Subresource::status("Pod"),
];

impl Kind for Pod {
    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        defaults::pod_spec(spec);
        defaults::pod(spec);
        // A pod, other than a template, ends within a second where it asked for less than none.
        if let Some(grace) = &mut spec.termination_grace_period_seconds
            && *grace < 0
        {
            *grace = 1;
        }
        if let Some(status) = &mut self.status {
            one_address(status);
        }
    }

    fn prepare_for_create(&mut self) {
        label_keys::merge(self);
        let spec = self.spec.get_or_insert_default();
        let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
        self.status = Some(PodStatus {
            phase: Some("Pending".into()),
            qos_class: Some(qos::class(spec).into()),
            conditions: gated.then(|| vec![gated_condition()]),
            ..PodStatus::default()
        });
    }

    fn raises_generation(&self, old: &Self) -> Option<bool> {
        Some(self.spec != old.spec)
    }

    fn validate(&self, errors: &mut ErrorList) {
        validation::create(errors, self);
    }

    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        validation::update(errors, self, old);
    }

    fn validate_status_update(&self, old: &Self, errors: &mut ErrorList) {
        validation::status_update(errors, self, old);
    }

    fn validate_subresource_update(&self, subresource: &str, old: &Self, errors: &mut ErrorList) {
        match subresource {
            "ephemeralcontainers" => validation::ephemeral_containers_update(errors, self, old),
            "resize" => validation::resize(errors, self, old),
            _ => validation::update(errors, self, old),
        }
    }

    fn warnings(&self, _old: Option<&Self>) -> Vec<String> {
        self.spec.iter().flat_map(|spec| warnings::pod_spec(&Path::new("spec"), spec)).collect()
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        printing::cells(self, context)
    }
}

/// The single address of a pod is the first of its addresses, whichever of the two was given (upstream: `Convert_v1_PodStatus_To_core_PodStatus`).
fn one_address(status: &mut PodStatus) {
    let first = status.pod_ips.iter().flatten().next().map(|a| a.ip.clone());
    match (status.pod_ip.as_deref().filter(|ip| !ip.is_empty()), first) {
        (None, Some(first)) => status.pod_ip = Some(first),
        (Some(ip), first) if first.as_deref() != Some(ip) => status.pod_ips = Some(vec![PodIP { ip: ip.to_owned() }]),
        _ => {}
    }
}

/// What a pod with scheduling gates says of itself until they are gone.
fn gated_condition() -> PodCondition {
    PodCondition {
        type_: "PodScheduled".into(),
        status: "False".into(),
        reason: Some("SchedulingGated".into()),
        message: Some("Scheduling is blocked due to non-empty scheduling gates".into()),
        ..PodCondition::default()
    }
}

fn selectable_fields() -> Vec<SelectableField> {
    let same = [
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "status.phase",
        "status.nominatedNodeName",
    ];
    let mut fields = same.map(SelectableField::at).to_vec();
    fields.push(SelectableField::with("spec.hostNetwork", &["spec.hostNetwork"], "false"));
    fields.push(SelectableField::with("status.podIP", &["status.podIPs.0.ip", "status.podIP"], ""));
    // Upstream accepts this label but gives no pod a value for it.
    fields.push(SelectableField::with("status.podIPs", &[], ""));
    fields
}

/// The row.
pub fn row() -> Resource {
    Resource {
        short_names: texts(&["po"]),
        categories: texts(&["all"]),
        columns: printing::COLUMNS.into(),
        subresources: SUBRESOURCES.into(),
        generation: true,
        selectable_fields: selectable_fields().into(),
        ..Resource::of::<Pod>()
    }
}
