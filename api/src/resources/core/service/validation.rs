//! Validation of services, in upstream's order (upstream: `ValidateService` in `pkg/apis/core/validation`).
//!
//! Whether a `healthCheckNodePort` is there is not asked: it is given out after validation.

use super::addresses::{needs_cluster_ip, needs_health_check_port};
use super::defaults::externally_accessible;
use crate::field::{ErrorList, Path};
use crate::resources::core::endpoints::ordinary_address;
use crate::resources::core::pod::validation::containers::{PROTOCOLS, one_of};
use crate::resources::defaulting::{items, str};
use crate::validation::{IMMUTABLE, invalid, labels, names, numbers};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec, SessionAffinityConfig};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;
use std::collections::HashSet;

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const FAMILIES: &[&str] = &["IPv4", "IPv6"];
const FAMILY_POLICIES: &[&str] = &["PreferDualStack", "RequireDualStack", "SingleStack"];
const TRAFFIC: &[&str] = &["Cluster", "Local"];
const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameNode", "PreferSameZone"];
/// A day.
const AFFINITY_SECONDS_MAX: i32 = 86_400;
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

fn is_headless(spec: &ServiceSpec) -> bool {
    items(&spec.cluster_ips) == ["None"]
}

pub(super) fn service(errors: &mut ErrorList, service: &Service) {
    let empty = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&empty);
    let path = Path::new("spec");
    let ports = items(&spec.ports);
    let type_ = str(&spec.type_);
    if ports.is_empty() && !is_headless(spec) && type_ != "ExternalName" {
        errors.required(&path.child("ports"), "");
    }
    by_type(errors, &path, spec);
    let mut seen = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        self::port(errors, &path.child("ports").index(i), port, ports.len() > 1, &mut seen);
    }
    labels::labels(errors, &path.child("selector"), spec.selector.as_ref());
    one_of(errors, &path.child("sessionAffinity"), str(&spec.session_affinity), &["ClientIP", "None"]);
    match (str(&spec.session_affinity), &spec.session_affinity_config) {
        ("ClientIP", config) => affinity(errors, &path.child("sessionAffinityConfig"), config.as_ref()),
        ("None", Some(_)) => errors.forbidden(&path.child("sessionAffinityConfig"), "must not be set when session affinity is None"),
        _ => {}
    }
    cluster_ips(errors, &path, spec);
    for (i, ip) in items(&spec.external_ips).iter().enumerate() {
        let path = path.child("externalIPs").index(i);
        let messages = names::ip(ip);
        if messages.is_empty() {
            ordinary_address(errors, &path, ip);
        }
        invalid(errors, &path, ip, messages);
    }
    one_of(errors, &path.child("type"), type_, TYPES);
    numbers_of(errors, &path.child("ports"), ports, type_);
    balancer(errors, &path, service, spec);
    balancer_class(errors, spec, None);
    traffic(errors, &path, spec);
}

fn by_type(errors: &mut ErrorList, path: &Path, spec: &ServiceSpec) {
    match str(&spec.type_) {
        type_ @ ("LoadBalancer" | "NodePort") if is_headless(spec) => {
            let why = format!("may not be set to 'None' for {type_} services");
            errors.invalid(&path.child("clusterIPs").index(0), "None", &why);
        }
        "ExternalName" => {
            let given = [
                ("clusterIPs", !items(&spec.cluster_ips).is_empty()),
                ("ipFamilies", !items(&spec.ip_families).is_empty()),
                ("ipFamilyPolicy", spec.ip_family_policy.is_some()),
            ];
            for (field, _) in given.iter().filter(|(_, given)| *given) {
                errors.forbidden(&path.child(field), "may not be set for ExternalName services");
            }
            let name = str(&spec.external_name);
            match name.strip_suffix('.').unwrap_or(name) {
                "" => errors.required(&path.child("externalName"), ""),
                name => invalid(errors, &path.child("externalName"), name, names::dns1123_subdomain(name)),
            }
        }
        _ => {}
    }
}

fn port<'a>(errors: &mut ErrorList, path: &Path, port: &'a ServicePort, name_needed: bool, seen: &mut HashSet<&'a str>) {
    match str(&port.name) {
        "" if name_needed => errors.required(&path.child("name"), ""),
        "" => {}
        name => {
            invalid(errors, &path.child("name"), name, names::dns1123_label(name));
            if !seen.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
        }
    }
    numbers::port(port.port.into()).iter().for_each(|m| errors.invalid(&path.child("port"), port.port, m));
    one_of(errors, &path.child("protocol"), str(&port.protocol), PROTOCOLS);
    let target = port.target_port.clone().unwrap_or(IntOrString::Int(0));
    numbers::port_or_name(errors, &path.child("targetPort"), &target);
    if let Some(protocol) = &port.app_protocol {
        labels::label_name(errors, &path.child("appProtocol"), protocol);
    }
}

fn affinity(errors: &mut ErrorList, path: &Path, config: Option<&SessionAffinityConfig>) {
    const WHEN: &str = "when session affinity type is ClientIP";
    let at = path.child("clientIP");
    match config.map(|c| c.client_ip.as_ref().map(|c| c.timeout_seconds)) {
        None => errors.required(path, WHEN),
        Some(None) => errors.required(&at, WHEN),
        Some(Some(None)) => errors.required(&at.child("timeoutSeconds"), WHEN),
        Some(Some(Some(seconds))) if !(1..=AFFINITY_SECONDS_MAX).contains(&seconds) => {
            let why = format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
            errors.invalid(&at.child("timeoutSeconds"), seconds, &why);
        }
        Some(Some(Some(_))) => {}
    }
}

/// Addresses in the cluster, their families and how many there should be.
fn cluster_ips(errors: &mut ErrorList, path: &Path, spec: &ServiceSpec) {
    if str(&spec.type_) == "ExternalName" {
        return;
    }
    let (ips, families) = (items(&spec.cluster_ips), items(&spec.ip_families));
    let at = path.child("clusterIPs");
    match (str(&spec.cluster_ip), ips.first()) {
        ("", Some(_)) => errors.invalid(&at, ips, "must be empty when `clusterIP` is not specified"),
        ("", None) => {}
        (_, None) => errors.required(&at, ""),
        (ip, Some(first)) if ip != first => errors.invalid(&at, ips, "first value must match `clusterIP`"),
        _ => {}
    }
    for (i, family) in families.iter().enumerate() {
        let path = path.child("ipFamilies").index(i);
        if !FAMILIES.contains(&family.as_str()) {
            errors.not_supported(&path, family.as_str(), FAMILIES);
        }
        if families[..i].contains(family) {
            errors.duplicate(&path, family.as_str());
        }
    }
    if let Some(policy) = spec.ip_family_policy.as_deref().filter(|p| !FAMILY_POLICIES.contains(p)) {
        errors.not_supported(&path.child("ipFamilyPolicy"), policy, FAMILY_POLICIES);
    }
    let mut malformed = false;
    for (i, ip) in ips.iter().enumerate() {
        if i == 0 && ip == "None" {
            if ips.len() > 1 {
                malformed = true;
                errors.invalid(&at, ips, "'None' must be the first and only value");
            }
            continue;
        }
        let messages = names::ip(ip);
        malformed |= !messages.is_empty();
        invalid(errors, &at.index(i), ip, messages);
    }
    if ips.len() > 2 {
        errors.invalid(&at, ips, "may only hold up to 2 values");
    }
    // What follows compares addresses, which takes addresses.
    if malformed {
        return;
    }
    let is_v4 = |ip: &String| names::parse_ip(ip).is_some_and(|ip| ip.is_ipv4());
    if ips.len() > 1 && ips.iter().map(is_v4).collect::<HashSet<_>>().len() < 2 {
        errors.invalid(&at, ips, "may specify no more than one IP for each IP family");
    }
    for (i, (ip, family)) in ips.iter().zip(families).enumerate().filter(|_| !is_headless(spec)) {
        let wanted = if is_v4(ip) { "IPv4" } else { "IPv6" };
        if family != wanted && FAMILIES.contains(&family.as_str()) {
            errors.invalid(&at.index(i), ip.as_str(), &format!("expected an {family} value as indicated by `ipFamilies[{i}]`"));
        }
    }
}

/// Each number once for each protocol, on the service's address and on the nodes.
fn numbers_of(errors: &mut ErrorList, path: &Path, ports: &[ServicePort], type_: &str) {
    let node_port = |p: &ServicePort| p.node_port.unwrap_or(0);
    for (i, _) in ports.iter().enumerate().filter(|(_, p)| type_ == "ClusterIP" && node_port(p) != 0) {
        errors.forbidden(&path.index(i).child("nodePort"), "may not be used when `type` is 'ClusterIP'");
    }
    for (i, port) in ports.iter().enumerate().filter(|(_, p)| node_port(p) != 0) {
        if ports[..i].iter().any(|p| p.protocol == port.protocol && p.node_port == port.node_port) {
            errors.duplicate(&path.index(i).child("nodePort"), node_port(port));
        }
    }
    for (i, port) in ports.iter().enumerate() {
        if ports[..i].iter().any(|p| p.protocol == port.protocol && p.port == port.port) {
            let (protocol, number) = (str(&port.protocol), port.port);
            let shown = format!(
                "{{\"Name\":\"\",\"Protocol\":{protocol:?},\"AppProtocol\":null,\"Port\":{number},\"TargetPort\":0,\"NodePort\":0}}"
            );
            errors.duplicate_as(&path.index(i), &shown);
        }
    }
}

fn balancer(errors: &mut ErrorList, path: &Path, service: &Service, spec: &ServiceSpec) {
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    let balanced = str(&spec.type_) == "LoadBalancer";
    let ranges = items(&spec.load_balancer_source_ranges);
    let annotation = service.metadata.annotations.as_ref().and_then(|a| a.get(SOURCE_RANGES));
    if !ranges.is_empty() {
        let path = path.child("LoadBalancerSourceRanges");
        if !balanced {
            errors.forbidden(&path, ONLY);
        }
        for (i, range) in ranges.iter().map(|r| r.trim()).enumerate() {
            invalid(errors, &path.index(i), range, names::cidr(range));
        }
    } else if let Some(ranges) = annotation {
        let path = Path::new("metadata").child("annotations").key(SOURCE_RANGES);
        if !balanced {
            errors.forbidden(&path, ONLY);
        }
        for range in ranges.split(',').map(str::trim).filter(|_| !ranges.trim().is_empty()) {
            invalid(errors, &path, range, names::cidr(range));
        }
    }
    match (balanced, spec.allocate_load_balancer_node_ports) {
        (false, Some(_)) => errors.forbidden(&path.child("allocateLoadBalancerNodePorts"), ONLY),
        (true, None) => errors.required(&Path::new("allocateLoadBalancerNodePorts"), ""),
        _ => {}
    }
}

fn balancer_class(errors: &mut ErrorList, spec: &ServiceSpec, old: Option<&ServiceSpec>) {
    let path = Path::new("spec").child("loadBalancerClass");
    let balanced = |s: &ServiceSpec| str(&s.type_) == "LoadBalancer";
    if let Some(old) = old.filter(|old| balanced(old) && balanced(spec) && old.load_balancer_class != spec.load_balancer_class) {
        let _ = old;
        errors.invalid(&path, json!(spec.load_balancer_class), "may not change once set");
    }
    match &spec.load_balancer_class {
        Some(class) if balanced(spec) => labels::label_name(errors, &path, class),
        Some(_) => errors.forbidden(&path, "may only be used when `type` is 'LoadBalancer'"),
        None => {}
    }
}

fn traffic(errors: &mut ErrorList, path: &Path, spec: &ServiceSpec) {
    let at = path.child("externalTrafficPolicy");
    let policy = str(&spec.external_traffic_policy);
    if externally_accessible(spec) {
        one_of(errors, &at, policy, TRAFFIC);
    } else if !policy.is_empty() {
        errors.invalid(&at, policy, "may only be set for externally-accessible services");
    }
    let at = path.child("healthCheckNodePort");
    if let Some(port) = spec.health_check_node_port.filter(|p| *p != 0) {
        if needs_health_check_port(spec) {
            numbers::port(port.into()).iter().for_each(|m| errors.invalid(&at, port, m));
        } else {
            let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.invalid(&at, port, why);
        }
    }
    match spec.internal_traffic_policy.as_deref() {
        None if needs_cluster_ip(spec) => errors.required(&path.child("internalTrafficPolicy"), ""),
        Some(policy) if !TRAFFIC.contains(&policy) => errors.not_supported(&path.child("internalTrafficPolicy"), policy, TRAFFIC),
        _ => {}
    }
    if let Some(distribution) = spec.traffic_distribution.as_deref().filter(|d| !DISTRIBUTIONS.contains(d)) {
        errors.not_supported(&path.child("trafficDistribution"), distribution, DISTRIBUTIONS);
    }
}

pub(super) fn update(errors: &mut ErrorList, new: &Service, old: &Service) {
    let empty = ServiceSpec::default();
    let (spec, before) = (new.spec.as_ref().unwrap_or(&empty), old.spec.as_ref().unwrap_or(&empty));
    if str(&spec.type_) != "ExternalName" && str(&before.type_) != "ExternalName" {
        keeps_addresses(errors, spec, before);
        keeps_families(errors, spec, before);
    }
    balancer_class(errors, spec, Some(before));
    let changed = spec.health_check_node_port != before.health_check_node_port;
    if needs_health_check_port(before) && needs_health_check_port(spec) && changed {
        errors.forbidden(&Path::new("spec").child("healthCheckNodePort"), IMMUTABLE);
    }
    service(errors, new);
}

/// A second address may come and go; the first stays.
fn keeps_addresses(errors: &mut ErrorList, new: &ServiceSpec, old: &ServiceSpec) {
    if is_headless(new) && is_headless(old) {
        return;
    }
    let (now, before) = (items(&new.cluster_ips), items(&old.cluster_ips));
    let path = Path::new("spec").child("clusterIPs");
    const FIXED: &str = "may not change once set";
    if now.len() == before.len() {
        for (i, _) in before.iter().zip(now).enumerate().filter(|(_, (a, b))| a != b) {
            errors.invalid(&path.index(i), now, FIXED);
        }
        return;
    }
    if now.len() < before.len() && now.is_empty() {
        errors.invalid(&path.index(0), json!(new.cluster_ips), "primary clusterIP can not be unset");
    }
    if let (Some(first), Some(old_first)) = (now.first(), before.first())
        && first != old_first
    {
        errors.invalid(&path.index(0), now, FIXED);
    }
    if before.len() > now.len() && now.len() == 1 && new.ip_family_policy.as_deref() != Some("SingleStack") {
        let why = "must be set to 'SingleStack' when releasing the secondary clusterIP";
        errors.invalid(&Path::new("spec").child("ipFamilyPolicy"), json!(new.ip_family_policy), why);
    }
}

fn keeps_families(errors: &mut ErrorList, new: &ServiceSpec, old: &ServiceSpec) {
    if is_headless(new) || is_headless(old) {
        return;
    }
    let (now, before) = (items(&new.ip_families), items(&old.ip_families));
    let path = Path::new("spec").child("ipFamilies").index(0);
    for _ in before.iter().zip(now).filter(|(a, b)| a != b).take(if now.len() == before.len() { 2 } else { 1 }) {
        errors.invalid(&path, now, "may not change once set");
    }
    if before.len() > now.len() && now.len() == 1 && new.ip_family_policy.as_deref() != Some("SingleStack") {
        let why = "must be set to 'SingleStack' when releasing the secondary ipFamily";
        errors.invalid(&Path::new("spec").child("ipFamilyPolicy"), json!(new.ip_family_policy), why);
    }
}
