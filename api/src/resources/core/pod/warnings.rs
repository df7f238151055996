//! What a pod or template may say but had better not: it is taken, with a warning (upstream: `pkg/api/pod/warnings.go`).

use super::ephemeral::as_container;
use crate::field::Path;
use crate::resources::core::resource_name::parse;
use crate::resources::defaulting::{items, str};
use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::{BTreeMap, HashMap};

/// Labels of nodes that have been renamed, and what to use instead.
const RENAMED: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
];

/// Warnings about a template at `path`.
pub fn template(path: &Path, template: &PodTemplateSpec) -> Vec<String> {
    template.spec.iter().flat_map(|spec| pod_spec(&path.child("spec"), spec)).collect()
}

/// Warnings about a pod's or template's spec at `path`.
pub fn pod_spec(path: &Path, spec: &PodSpec) -> Vec<String> {
    let mut out = Vec::new();
    node_selector(&mut out, &path.child("nodeSelector"), spec);
    for (i, secret) in items(&spec.image_pull_secrets).iter().enumerate() {
        if secret.name.is_empty() {
            out.push(format!("{}: invalid empty name {:?}", path.child("imagePullSecrets").index(i), ""));
        }
    }
    let mut seen = HashMap::new();
    for (i, alias) in items(&spec.host_aliases).iter().enumerate() {
        if let Some(first) = seen.insert(alias.ip.as_str(), i) {
            let at = path.child("hostAliases");
            out.push(format!("{}: duplicate ip {:?} with {}", at.index(i).child("ip"), alias.ip, at.index(first).child("ip")));
            seen.insert(alias.ip.as_str(), first);
        }
    }
    let regular = spec.containers.iter().enumerate().map(|(i, c)| (path.child("containers").index(i), c.clone()));
    let init = items(&spec.init_containers).iter().enumerate().map(|(i, c)| (path.child("initContainers").index(i), c.clone()));
    let ephemeral = items(&spec.ephemeral_containers).iter().enumerate();
    let ephemeral = ephemeral.map(|(i, c)| (path.child("ephemeralContainers").index(i), as_container(c)));
    for (path, container) in init.chain(regular).chain(ephemeral) {
        self::container(&mut out, &path, &container);
    }
    fractional(&mut out, &path.child("overhead"), spec.overhead.as_ref());
    out
}

fn node_selector(out: &mut Vec<String>, path: &Path, spec: &PodSpec) {
    for (key, _) in spec.node_selector.iter().flatten() {
        if let Some((_, now)) = RENAMED.iter().find(|(old, _)| old == key) {
            out.push(format!("{}: deprecated since v1.14; use {now:?} instead", path.key(key)));
        }
    }
}

fn container(out: &mut Vec<String>, path: &Path, c: &Container) {
    duplicate_ports(out, &path.child("ports"), c);
    duplicate_variables(out, &path.child("env"), c);
    if let Some(resources) = &c.resources {
        fractional(out, &path.child("resources").child("limits"), resources.limits.as_ref());
        fractional(out, &path.child("resources").child("requests"), resources.requests.as_ref());
    }
}

/// A port that stands twice.
fn duplicate_ports(out: &mut Vec<String>, path: &Path, c: &Container) {
    let ports = items(&c.ports);
    for (i, port) in ports.iter().enumerate() {
        let same = |p: &&k8s_openapi::api::core::v1::ContainerPort| {
            p.container_port == port.container_port && str(&p.protocol) == str(&port.protocol)
        };
        let Some(first) = ports[..i].iter().position(|p| same(&p)) else { continue };
        let other = &ports[first];
        // One port of the container may be reached through several of the node.
        let (a, b) = (port.host_port.unwrap_or(0), other.host_port.unwrap_or(0));
        if a == b && str(&port.host_ip) == str(&other.host_ip) || a == 0 && b == 0 {
            out.push(format!("{}: duplicate port definition with {}", path.index(i), path.index(first)));
        }
    }
}

/// A variable that is set twice, and not from its own former value.
fn duplicate_variables(out: &mut Vec<String>, path: &Path, c: &Container) {
    let mut seen: BTreeMap<&str, ()> = BTreeMap::new();
    for (i, variable) in items(&c.env).iter().enumerate() {
        let name = variable.name.as_str();
        if name.is_empty() || seen.insert(name, ()).is_none() {
            continue;
        }
        if !str(&variable.value).contains(&format!("$({name})")) {
            out.push(format!("{}: hides previous definition of {name:?}, which may be dropped when using apply", path.index(i)));
        }
    }
}

/// Bytes come whole.
fn fractional(out: &mut Vec<String>, path: &Path, list: Option<&BTreeMap<String, Quantity>>) {
    for (name, quantity) in list.into_iter().flatten() {
        let bytes = matches!(name.as_str(), "memory" | "ephemeral-storage");
        if bytes && parse(quantity).milli_value() % 1000 != 0 {
            out.push(format!("{}: fractional byte value {:?} is invalid, must be an integer", path.key(name), quantity.0));
        }
    }
}
