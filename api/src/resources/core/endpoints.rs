//! Endpoints: the addresses behind a service, in the old form with all of them in one object.

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource, texts};
use crate::resources::core::pod::validation::containers::{PROTOCOLS, one_of};
use crate::resources::defaulting::{items, text};
use crate::validation::{invalid, labels, names, numbers};
use k8s_openapi::api::core::v1::EndpointSubset;
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort};
use serde_json::json;

const COLUMNS: &[Column] = &[NAME, shown("Endpoints", "string"), AGE];

impl Kind for Endpoints {
    fn set_defaults(&mut self) {
        for port in self.subsets.iter_mut().flatten().flat_map(|s| s.ports.iter_mut().flatten()) {
            text(&mut port.protocol, "TCP");
        }
    }

    fn validate(&self, errors: &mut ErrorList) {
        for (i, subset) in items(&self.subsets).iter().enumerate() {
            let path = Path::new("subsets").index(i);
            let lists = [("addresses", items(&subset.addresses)), ("notReadyAddresses", items(&subset.not_ready_addresses))];
            if lists.iter().all(|(_, list)| list.is_empty()) {
                errors.required(&path, "must specify `addresses` or `notReadyAddresses`");
            }
            for (field, list) in lists {
                for (j, address) in list.iter().enumerate() {
                    validate_address(errors, &path.child(field).index(j), address);
                }
            }
            let ports = items(&subset.ports);
            for (j, port) in ports.iter().enumerate() {
                validate_port(errors, &path.child("ports").index(j), port, ports.len() > 1);
            }
        }
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        vec![printer::name(&self.metadata), json!(addresses(items(&self.subsets))), printer::age(&self.metadata, context)]
    }
}

/// How many addresses the column shows before it only counts.
const SHOWN: usize = 3;

/// The addresses that are ready, with their ports: `1.2.3.4:80,1.2.3.5:80 + 7 more...`.
fn addresses(subsets: &[EndpointSubset]) -> String {
    let mut all: Vec<String> = Vec::new();
    for subset in subsets {
        let ready = items(&subset.addresses).iter();
        match items(&subset.ports) {
            [] => all.extend(ready.map(|a| a.ip.clone())),
            ports => {
                for port in ports {
                    all.extend(ready.clone().map(|a| host_port(&a.ip, port.port)));
                }
            }
        }
    }
    match all.len() {
        0 => printer::NONE.into(),
        n if n > SHOWN => format!("{} + {} more...", all[..SHOWN].join(","), n - SHOWN),
        _ => all.join(","),
    }
}

fn host_port(ip: &str, port: i32) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

fn validate_address(errors: &mut ErrorList, path: &Path, address: &EndpointAddress) {
    invalid(errors, &path.child("ip"), &address.ip, names::ip(&address.ip));
    if let Some(name) = address.hostname.as_deref().filter(|n| !n.is_empty()) {
        invalid(errors, &path.child("hostname"), name, names::dns1123_label(name));
    }
    if let Some(name) = &address.node_name {
        invalid(errors, &path.child("nodeName"), name, names::dns1123_subdomain(name));
    }
    ordinary_address(errors, &path.child("ip"), &address.ip);
}

/// An address that traffic can be sent to from anywhere: none that means the machine or link one is on.
pub fn ordinary_address(errors: &mut ErrorList, path: &Path, address: &str) {
    let Some(ip) = names::parse_ip(address) else { return errors.invalid(path, address, "must be a valid IP address") };
    let (link, multicast) = match ip {
        std::net::IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        std::net::IpAddr::V6(ip) => (ip.is_unicast_link_local(), ip.segments()[0] & 0xff0f == 0xff02),
    };
    if ip.is_unspecified() {
        errors.invalid(path, address, &format!("may not be unspecified ({address})"));
    }
    if ip.is_loopback() {
        errors.invalid(path, address, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if link {
        errors.invalid(path, address, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if multicast {
        errors.invalid(path, address, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

fn validate_port(errors: &mut ErrorList, path: &Path, port: &EndpointPort, name_needed: bool) {
    match port.name.as_deref().unwrap_or("") {
        "" if name_needed => errors.required(&path.child("name"), ""),
        "" => {}
        name => invalid(errors, &path.child("name"), name, names::dns1123_label(name)),
    }
    numbers::port(port.port.into()).iter().for_each(|m| errors.invalid(&path.child("port"), port.port, m));
    one_of(errors, &path.child("protocol"), port.protocol.as_deref().unwrap_or(""), PROTOCOLS);
    if let Some(protocol) = &port.app_protocol {
        labels::label_name(errors, &path.child("appProtocol"), protocol);
    }
}

/// The row.
pub fn row() -> Resource {
    Resource {
        short_names: texts(&["ep"]),
        columns: COLUMNS.into(),
        deprecation: Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".into()),
        ..Resource::of::<Endpoints>()
    }
}
