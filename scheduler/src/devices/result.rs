//! What a claim's status says of the devices that were chosen for it.

use super::pools::reach;
use super::request::Want;
use k8s_openapi::api::core::v1::{Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::api::resource::v1::{
    AllocationResult, Device, DeviceAllocationConfiguration, DeviceAllocationResult, DeviceRequestAllocationResult, ResourceClaim,
    ResourceSlice,
};

/// A device that was chosen, as the result tells of it.
pub struct Chosen<'a> {
    /// For what.
    pub want: &'a Want,
    /// The device.
    pub device: &'a Device,
    /// Its slice.
    pub slice: &'a ResourceSlice,
    /// Which part of it, where others may have others.
    pub share: Option<String>,
    /// How much of it.
    pub consumed: super::Consumed,
}

/// The result for a claim: `wants` are the alternatives that were taken, request by request.
pub fn result(claim: &ResourceClaim, wants: &[&Want], chosen: &[Chosen<'_>], node: &Node) -> AllocationResult {
    let results: Vec<_> = chosen.iter().map(one).collect();
    let config = config(claim, wants);
    let devices =
        DeviceAllocationResult { config: (!config.is_empty()).then_some(config), results: (!results.is_empty()).then_some(results) };
    AllocationResult { allocation_timestamp: None, devices: Some(devices), node_selector: node_selector(chosen, node) }
}

fn one(chosen: &Chosen<'_>) -> DeviceRequestAllocationResult {
    let tolerations = chosen.want.tolerations.clone();
    let consumed: std::collections::BTreeMap<_, _> =
        chosen.consumed.iter().map(|(name, amount)| (name.clone(), (*amount).into())).collect();
    DeviceRequestAllocationResult {
        request: chosen.want.name.clone(),
        driver: chosen.slice.spec.driver.clone(),
        pool: chosen.slice.spec.pool.name.clone(),
        device: chosen.device.name.clone(),
        admin_access: chosen.want.admin.then_some(true),
        tolerations: (!tolerations.is_empty()).then_some(tolerations),
        share_id: chosen.share.clone(),
        consumed_capacity: (!consumed.is_empty()).then_some(consumed),
        binding_conditions: chosen.device.binding_conditions.clone(),
        binding_failure_conditions: chosen.device.binding_failure_conditions.clone(),
    }
}

/// The configuration of the classes, once each, and then of the claim, as far as it is about what was taken.
fn config(claim: &ResourceClaim, wants: &[&Want]) -> Vec<DeviceAllocationConfiguration> {
    let mut all: Vec<DeviceAllocationConfiguration> = Vec::new();
    let mut classes: Vec<(Option<&String>, std::ops::Range<usize>)> = Vec::new();
    for want in wants {
        let name = want.class.metadata.name.as_ref();
        if let Some((_, range)) = classes.iter().find(|(known, _)| *known == name) {
            for config in &mut all[range.clone()] {
                config.requests.get_or_insert_default().push(want.name.clone());
            }
            continue;
        }
        let start = all.len();
        all.extend(want.class.spec.config.iter().flatten().map(|config| DeviceAllocationConfiguration {
            source: "FromClass".to_owned(),
            requests: Some(vec![want.name.clone()]),
            opaque: config.opaque.clone(),
        }));
        classes.push((name, start..all.len()));
    }
    let devices = claim.spec.devices.clone().unwrap_or_default();
    for config in devices.config.into_iter().flatten() {
        let requests = config.requests.unwrap_or_default();
        let taken = |name: &String| wants.iter().any(|want| want.name == *name || want.name.split('/').next() == Some(name.as_str()));
        if requests.is_empty() || requests.iter().any(taken) {
            all.push(DeviceAllocationConfiguration { source: "FromClaim".to_owned(), requests: Some(requests), opaque: config.opaque });
        }
    }
    // What is for all requests names none.
    for config in &mut all {
        let named = config.requests.as_ref().map_or(0, Vec::len);
        if named == 0 || named == wants.len() {
            config.requests = None;
        }
    }
    all
}

/// Where the devices can be used, all of them; `None` is everywhere.
fn node_selector(chosen: &[Chosen<'_>], node: &Node) -> Option<NodeSelector> {
    let mut term = NodeSelectorTerm::default();
    let add = |from: &Option<Vec<NodeSelectorRequirement>>, to: &mut Option<Vec<NodeSelectorRequirement>>| {
        for requirement in from.iter().flatten() {
            let to = to.get_or_insert_default();
            if !to.contains(requirement) {
                to.push(requirement.clone());
            }
        }
    };
    for one in chosen {
        let reach = reach(one.slice, one.device);
        if reach.node_name.is_some() || one.device.binds_to_node == Some(true) {
            let name = node.metadata.name.clone().unwrap_or_default();
            let here = NodeSelectorRequirement { key: "metadata.name".into(), operator: "In".into(), values: Some(vec![name]) };
            let term = NodeSelectorTerm { match_fields: Some(vec![here]), match_expressions: None };
            return Some(NodeSelector { node_selector_terms: vec![term] });
        }
        if let Some(own) = reach.selector.and_then(|selector| selector.node_selector_terms.first()) {
            add(&own.match_fields, &mut term.match_fields);
            add(&own.match_expressions, &mut term.match_expressions);
        }
    }
    (term != NodeSelectorTerm::default()).then(|| NodeSelector { node_selector_terms: vec![term] })
}
