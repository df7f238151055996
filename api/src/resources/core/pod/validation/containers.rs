//! Validation of containers: what all kinds of container have in common, and what init and ephemeral containers may not have.

use super::{Context, environment, mounts, probes, resources, security};
use crate::field::{ErrorList, Path};
use crate::resources::core::pod::ephemeral::as_container;
use crate::resources::defaulting::{items, str};
use crate::validation::{invalid, names, numbers};
use k8s_openapi::api::core::v1::{Container, ContainerPort, PodSpec};
use std::collections::HashSet;

/// The protocols of ports.
pub const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const RESTART_POLICIES: &[&str] = &["Always", "Never", "OnFailure"];

/// The containers of a pod that do its work.
pub fn regular(errors: &mut ErrorList, path: &Path, context: &Context) {
    let containers = &context.spec.containers;
    if containers.is_empty() {
        errors.required(path, "");
        return;
    }
    let mut names = HashSet::new();
    for (i, container) in containers.iter().enumerate() {
        let path = path.index(i);
        common(errors, &path, container, context);
        unique_name(errors, &path, container, &mut names);
        probes::all(errors, &path, container, context.spec.termination_grace_period_seconds);
        restart_policy(errors, &path, container);
    }
    host_ports(errors, path, containers.iter());
}

fn unique_name<'a>(errors: &mut ErrorList, path: &Path, container: &'a Container, names: &mut HashSet<&'a str>) {
    if !names.insert(&container.name) {
        errors.duplicate(&path.child("name"), container.name.as_str());
    }
}

fn restart_policy(errors: &mut ErrorList, path: &Path, container: &Container) {
    if let Some(policy) = container.restart_policy.as_deref().filter(|p| !RESTART_POLICIES.contains(p)) {
        errors.not_supported(&path.child("restartPolicy"), policy, RESTART_POLICIES);
    }
}

/// The containers that run before those, or beside them when they restart always.
pub fn init(errors: &mut ErrorList, path: &Path, context: &Context) {
    let mut names: HashSet<&str> = context.spec.containers.iter().map(|c| c.name.as_str()).collect();
    for (i, container) in items(&context.spec.init_containers).iter().enumerate() {
        let at = path.index(i);
        common(errors, &at, container, context);
        restart_policy(errors, &at, container);
        if !container.name.is_empty() {
            unique_name(errors, &at, container, &mut names);
        }
        // Init containers run one by one, so only ports of one container can be in each other's way.
        host_ports(errors, path, std::iter::once(container));
        if container.restart_policy.as_deref() == Some("Always") {
            probes::all(errors, &at, container, context.spec.termination_grace_period_seconds);
            continue;
        }
        let forbidden = [
            ("lifecycle", container.lifecycle.is_some()),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
        ];
        for (field, _) in forbidden.iter().filter(|(_, given)| *given) {
            errors.forbidden(&at.child(field), "may not be set for init containers without restartPolicy=Always");
        }
    }
}

/// The containers that are added to a running pod to look into it.
pub fn ephemeral(errors: &mut ErrorList, path: &Path, context: &Context) {
    let spec = context.spec;
    let others: HashSet<&str> = spec.containers.iter().chain(items(&spec.init_containers)).map(|c| c.name.as_str()).collect();
    let mut all = others.clone();
    for (i, ephemeral) in items(&spec.ephemeral_containers).iter().enumerate() {
        let path = path.index(i);
        let container = as_container(ephemeral);
        common(errors, &path, &container, context);
        image_only_for_pod(errors, &path, &container);
        if !all.insert(&ephemeral.name) {
            errors.duplicate(&path.child("name"), ephemeral.name.as_str());
        }
        if let Some(target) = ephemeral.target_container_name.as_deref().filter(|t| !t.is_empty() && !others.contains(t)) {
            errors.not_found(&path.child("targetContainerName"), target);
        }
        ephemeral_only_has(errors, &path, &container);
    }
}

/// Nothing that a pod's service depends on may hang on an ephemeral container.
fn ephemeral_only_has(errors: &mut ErrorList, path: &Path, c: &Container) {
    const WHY: &str = "cannot be set for an Ephemeral Container";
    let empty_resources = c.resources.as_ref().is_none_or(|r| r.limits.is_none() && r.requests.is_none() && r.claims.is_none());
    let fields = [
        ("ports", c.ports.is_some()),
        ("resources", !empty_resources),
        ("resizePolicy", c.resize_policy.is_some()),
        ("restartPolicy", c.restart_policy.is_some()),
        ("livenessProbe", c.liveness_probe.is_some()),
        ("readinessProbe", c.readiness_probe.is_some()),
        ("startupProbe", c.startup_probe.is_some()),
        ("lifecycle", c.lifecycle.is_some()),
    ];
    for (field, _) in fields.iter().filter(|(_, given)| *given) {
        errors.forbidden(&path.child(field), WHY);
    }
    for (i, mount) in items(&c.volume_mounts).iter().enumerate() {
        let path = path.child("volumeMounts").index(i);
        for (field, value) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
            if !str(value).is_empty() {
                errors.forbidden(&path.child(field), WHY);
            }
        }
    }
}

fn common(errors: &mut ErrorList, path: &Path, c: &Container, context: &Context) {
    if c.name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        invalid(errors, &path.child("name"), &c.name, names::dns1123_label(&c.name));
    }
    if str(&c.image).is_empty() {
        errors.required(&path.child("image"), "");
    }
    one_of(errors, &path.child("terminationMessagePolicy"), str(&c.termination_message_policy), &["File", "FallbackToLogsOnError"]);
    ports(errors, &path.child("ports"), items(&c.ports));
    environment::variables(errors, &path.child("env"), items(&c.env));
    environment::sources(errors, &path.child("envFrom"), items(&c.env_from));
    mounts::volume_mounts(errors, &path.child("volumeMounts"), c, context);
    mounts::volume_devices(errors, &path.child("volumeDevices"), c, context);
    one_of(errors, &path.child("imagePullPolicy"), str(&c.image_pull_policy), &["Always", "IfNotPresent", "Never"]);
    if let Some(requirements) = &c.resources {
        resources::container(errors, &path.child("resources"), requirements, &context.claim_names());
    }
    resources::resize_policy(errors, &path.child("resizePolicy"), items(&c.resize_policy), str(&context.spec.restart_policy));
    if let Some(security_context) = &c.security_context {
        security::container(errors, &path.child("securityContext"), security_context, context.host_users());
    }
}

/// A text that must be one of a few.
pub fn one_of(errors: &mut ErrorList, path: &Path, value: &str, supported: &[&str]) {
    if value.is_empty() {
        errors.required(path, "");
    } else if !supported.contains(&value) {
        errors.not_supported(path, value, supported);
    }
}

fn ports(errors: &mut ErrorList, path: &Path, ports: &[ContainerPort]) {
    let mut seen = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = str(&port.name);
        if !name.is_empty() {
            let messages = names::port_name(name);
            if !messages.is_empty() {
                invalid(errors, &path.child("name"), name, messages);
            } else if !seen.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
        }
        if port.container_port == 0 {
            errors.required(&path.child("containerPort"), "");
        } else {
            let messages = numbers::port(port.container_port.into());
            messages.iter().for_each(|m| errors.invalid(&path.child("containerPort"), port.container_port, m));
        }
        if let Some(host_port) = port.host_port.filter(|p| *p != 0) {
            let messages = numbers::port(host_port.into());
            messages.iter().for_each(|m| errors.invalid(&path.child("hostPort"), host_port, m));
        }
        one_of(errors, &path.child("protocol"), str(&port.protocol), PROTOCOLS);
    }
}

/// No two containers may ask for the same port of the node.
fn host_ports<'a>(errors: &mut ErrorList, path: &Path, containers: impl Iterator<Item = &'a Container>) {
    let mut seen = HashSet::new();
    for (i, container) in containers.enumerate() {
        for (j, port) in items(&container.ports).iter().enumerate() {
            let Some(number) = port.host_port.filter(|p| *p != 0) else { continue };
            let key = format!("{}/{}/{number}", str(&port.protocol), str(&port.host_ip));
            if !seen.insert(key.clone()) {
                errors.duplicate(&path.index(i).child("ports").index(j).child("hostPort"), key);
            }
        }
    }
}

/// What is asked of images in pods and, since it was not always, not in templates.
pub fn image_only_for_pod(errors: &mut ErrorList, path: &Path, container: &Container) {
    let image = str(&container.image);
    if image.trim() != image {
        errors.invalid(&path.child("image"), image, "must not have leading or trailing whitespace");
    }
}

/// On the node's network the port that a container opens is the node's.
pub fn host_network(errors: &mut ErrorList, path: &Path, spec: &PodSpec, is_pod: bool) {
    if spec.host_network != Some(true) {
        return;
    }
    for (i, container) in spec.containers.iter().enumerate() {
        for (j, port) in items(&container.ports).iter().enumerate() {
            let host_port = port.host_port.unwrap_or(0);
            if (is_pod || host_port != 0) && host_port != port.container_port {
                let path = path.child("containers").index(i).child("ports").index(j).child("hostPort");
                errors.invalid(&path, host_port, "must match `containerPort` when `hostNetwork` is true");
            }
        }
    }
}
