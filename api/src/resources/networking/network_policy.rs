//! NetworkPolicy: what traffic pods may send and receive.

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource, texts};
use crate::resources::defaulting::absent;
use crate::validation::{invalid, labels, names, numbers};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::networking::v1::{NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

const COLUMNS: &[Column] = &[NAME, shown("Pod-Selector", "string"), AGE];

impl Kind for NetworkPolicy {
    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        let ingress = spec.ingress.iter_mut().flatten().flat_map(|r| r.ports.iter_mut().flatten());
        let egress = spec.egress.iter_mut().flatten().flat_map(|r| r.ports.iter_mut().flatten());
        ingress.chain(egress).for_each(|port| absent(&mut port.protocol, "TCP".into()));
        if spec.policy_types.as_ref().is_none_or(|t| t.is_empty()) {
            let mut types = vec!["Ingress".to_owned()];
            if spec.egress.as_ref().is_some_and(|e| !e.is_empty()) {
                types.push("Egress".into());
            }
            spec.policy_types = Some(types);
        }
    }

    fn validate(&self, errors: &mut ErrorList) {
        let Some(spec) = &self.spec else { return };
        let path = Path::new("spec");
        labels::selector(errors, &path.child("podSelector"), spec.pod_selector.as_ref());
        for (i, rule) in spec.ingress.iter().flatten().enumerate() {
            let at = path.child("ingress").index(i);
            validate_rule(rule.ports.as_deref(), rule.from.as_deref(), "from", &at, errors);
        }
        for (i, rule) in spec.egress.iter().flatten().enumerate() {
            let at = path.child("egress").index(i);
            validate_rule(rule.ports.as_deref(), rule.to.as_deref(), "to", &at, errors);
        }
        let (types, at) = (spec.policy_types.as_deref().unwrap_or_default(), path.child("policyTypes"));
        if types.len() > POLICY_TYPES.len() {
            errors.invalid(&at, json!(types), "may not specify more than two policyTypes");
            return;
        }
        for (i, kind) in types.iter().enumerate().filter(|(_, t)| !POLICY_TYPES.contains(&t.as_str())) {
            errors.not_supported(&at.index(i), kind.as_str(), &POLICY_TYPES);
        }
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let pods = self.spec.as_ref().and_then(|s| s.pod_selector.as_ref());
        vec![printer::name(&self.metadata), json!(printer::selector(pods)), printer::age(&self.metadata, context)]
    }
}

const POLICY_TYPES: [&str; 2] = ["Ingress", "Egress"];

fn validate_rule(
    ports: Option<&[NetworkPolicyPort]>,
    peers: Option<&[NetworkPolicyPeer]>,
    direction: &str,
    path: &Path,
    errors: &mut ErrorList,
) {
    for (i, port) in ports.unwrap_or_default().iter().enumerate() {
        validate_port(port, &path.child("ports").index(i), errors);
    }
    for (i, peer) in peers.unwrap_or_default().iter().enumerate() {
        validate_peer(peer, &path.child(direction).index(i), errors);
    }
}

fn validate_port(port: &NetworkPolicyPort, path: &Path, errors: &mut ErrorList) {
    if let Some(protocol) = port.protocol.as_deref().filter(|p| !["TCP", "UDP", "SCTP"].contains(p)) {
        errors.not_supported(&path.child("protocol"), protocol, &["TCP", "UDP", "SCTP"]);
    }
    if let Some(value) = &port.port {
        numbers::port_or_name(errors, &path.child("port"), value);
    }
    let (at, Some(end)) = (path.child("endPort"), port.end_port) else { return };
    match &port.port {
        None => errors.invalid(&at, end, "may not be specified when `port` is not specified"),
        Some(IntOrString::String(_)) => errors.invalid(&at, end, "may not be specified when `port` is non-numeric"),
        Some(IntOrString::Int(begin)) if end < *begin => errors.invalid(&at, end, "must be greater than or equal to `port`"),
        Some(IntOrString::Int(_)) => numbers::port(end.into()).iter().for_each(|m| errors.invalid(&at, end, m)),
    }
}

fn validate_peer(peer: &NetworkPolicyPeer, path: &Path, errors: &mut ErrorList) {
    labels::selector(errors, &path.child("podSelector"), peer.pod_selector.as_ref());
    labels::selector(errors, &path.child("namespaceSelector"), peer.namespace_selector.as_ref());
    let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
    match &peer.ip_block {
        None if !selects => errors.required(path, "must specify a peer"),
        None => {}
        Some(_) if selects => errors.forbidden(path, "may not specify both ipBlock and another peer"),
        Some(block) => {
            let at = path.child("ipBlock");
            if block.cidr.is_empty() {
                errors.required(&at.child("cidr"), "");
                return;
            }
            invalid(errors, &at.child("cidr"), &block.cidr, names::cidr(&block.cidr));
            for (i, except) in block.except.iter().flatten().enumerate() {
                let at = at.child("except").index(i);
                invalid(errors, &at, except, names::cidr(except));
                let (outer, inner) = (names::parse_cidr(&block.cidr), names::parse_cidr(except));
                if let (Some(outer), Some(inner)) = (outer, inner)
                    && !strictly_within(inner, outer)
                {
                    errors.invalid(&at, except.as_str(), "must be a strict subset of `cidr`");
                }
            }
        }
    }
}

fn strictly_within(inner: (std::net::IpAddr, u8), outer: (std::net::IpAddr, u8)) -> bool {
    use std::net::IpAddr;
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)) << 96, 4),
        IpAddr::V6(ip) => (u128::from(ip), 6),
    };
    let ((a, family_a), (b, family_b)) = (bits(inner.0), bits(outer.0));
    let mask = if outer.1 == 0 { 0 } else { u128::MAX << (128 - u32::from(outer.1)) };
    family_a == family_b && inner.1 > outer.1 && a & mask == b & mask
}

/// The row.
pub fn row() -> Resource {
    Resource { short_names: texts(&["netpol"]), generation: true, columns: COLUMNS.into(), ..Resource::of::<NetworkPolicy>() }
}
