//! EndpointSlice: some of the addresses behind a service.

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource};
use crate::resources::defaulting::{absent, items};
use crate::validation::{IMMUTABLE, invalid, names};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort};
use serde_json::json;

const COLUMNS: &[Column] = &[NAME, shown("AddressType", "string"), shown("Ports", "string"), shown("Endpoints", "string"), AGE];

impl Kind for EndpointSlice {
    fn set_defaults(&mut self) {
        for port in self.ports.iter_mut().flatten() {
            absent(&mut port.name, String::new());
            absent(&mut port.protocol, "TCP".into());
        }
    }

    fn validate(&self, errors: &mut ErrorList) {
        match self.address_type.as_str() {
            "" => errors.required(&Path::new("addressType"), ""),
            kind if !ADDRESS_TYPES.contains(&kind) => errors.not_supported(&Path::new("addressType"), kind, &ADDRESS_TYPES),
            kind => validate_endpoints(items(&self.endpoints), kind, errors),
        }
        validate_ports(items(&self.ports), errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        Kind::validate(self, errors);
        if self.address_type != old.address_type {
            errors.invalid(&Path::new("addressType"), self.address_type.as_str(), IMMUTABLE);
        }
    }

    fn raises_generation(&self, old: &Self) -> Option<bool> {
        // Labels count as well: they say what the slice is of.
        let said = |slice: &Self| {
            let mut said = slice.clone();
            said.metadata.generation = None;
            said.metadata.managed_fields = None;
            said.metadata.resource_version = None;
            said
        };
        Some(said(self) != said(old))
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let ports = some_of(items(&self.ports).iter().map(|p| match (p.port, p.name.as_deref()) {
            (Some(port), _) => port.to_string(),
            (None, Some("") | None) => "*".into(),
            (None, Some(name)) => name.into(),
        }));
        let addresses = some_of(items(&self.endpoints).iter().flat_map(|e| e.addresses.iter().cloned()));
        vec![printer::name(&self.metadata), json!(self.address_type), json!(ports), json!(addresses), printer::age(&self.metadata, context)]
    }
}

/// How many ports or addresses a column shows before it only counts.
const SHOWN: usize = 3;

fn some_of(all: impl Iterator<Item = String>) -> String {
    let mut list: Vec<String> = all.collect();
    let more = list.len().saturating_sub(SHOWN);
    list.truncate(SHOWN);
    match (list.is_empty(), more) {
        (true, _) => printer::UNSET.into(),
        (false, 0) => list.join(","),
        (false, more) => format!("{} + {more} more...", list.join(",")),
    }
}

const ADDRESS_TYPES: [&str; 3] = ["FQDN", "IPv4", "IPv6"];
const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;

fn validate_endpoints(endpoints: &[Endpoint], kind: &str, errors: &mut ErrorList) {
    let path = Path::new("endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        errors.too_many(&path, endpoints.len(), MAX_ENDPOINTS);
        return;
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let at = path.index(i).child("addresses");
        match endpoint.addresses.len() {
            0 => errors.required(&at, "must contain at least 1 address"),
            n if n > MAX_ADDRESSES => errors.too_many(&at, n, MAX_ADDRESSES),
            _ => {}
        }
        for (a, address) in endpoint.addresses.iter().enumerate() {
            let wrong = match kind {
                "FQDN" => names::dns1123_subdomain(address),
                "IPv4" if address.parse::<std::net::Ipv4Addr>().is_err() => vec!["must be a valid IPv4 address".into()],
                "IPv6" if address.parse::<std::net::Ipv6Addr>().is_err() => vec!["must be a valid IPv6 address".into()],
                _ => Vec::new(),
            };
            invalid(errors, &at.index(a), address, wrong);
        }
        if let Some(node) = endpoint.node_name.as_deref() {
            invalid(errors, &path.index(i).child("nodeName"), node, names::dns1123_subdomain(node));
        }
        if let Some(hostname) = endpoint.hostname.as_deref() {
            invalid(errors, &path.index(i).child("hostname"), hostname, names::dns1123_label(hostname));
        }
    }
}

fn validate_ports(ports: &[EndpointPort], errors: &mut ErrorList) {
    let path = Path::new("ports");
    if ports.len() > MAX_PORTS {
        errors.too_many(&path, ports.len(), MAX_PORTS);
        return;
    }
    let mut seen = std::collections::BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let (name, at) = (port.name.as_deref().unwrap_or_default(), path.index(i));
        if !name.is_empty() {
            invalid(errors, &at.child("name"), name, names::dns1123_label(name));
        }
        if !seen.insert(name) {
            errors.duplicate(&at.child("name"), name);
        }
        match port.protocol.as_deref() {
            None => errors.required(&at.child("protocol"), ""),
            Some("TCP" | "UDP" | "SCTP") => {}
            Some(other) => errors.not_supported(&at.child("protocol"), other, &["SCTP", "TCP", "UDP"]),
        }
    }
}

/// The row.
pub fn row() -> Resource {
    Resource { generation: true, columns: COLUMNS.into(), ..Resource::of::<EndpointSlice>() }
}
