//! What is wrong with an Ingress (upstream: `pkg/apis/networking/validation`).

use crate::field::{ErrorList, Path};
use crate::validation::{invalid, names, numbers};
use k8s_openapi::api::networking::v1::{HTTPIngressPath, IngressBackend, IngressRule, IngressServiceBackend, IngressSpec};
use serde_json::Value;

const PATH_TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];
const NOT_IN_PATHS: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const NOT_AT_THE_END: [&str; 2] = ["/..", "/."];

/// Checks a spec.
pub fn spec(spec: &IngressSpec, path: &Path, errors: &mut ErrorList) {
    let rules = spec.rules.as_deref().unwrap_or_default();
    if rules.is_empty() && spec.default_backend.is_none() {
        errors.invalid(path, Value::Null, "either `defaultBackend` or `rules` must be specified");
    }
    if let Some(default) = &spec.default_backend {
        backend(default, &path.child("defaultBackend"), errors);
    }
    for (i, rule) in rules.iter().enumerate() {
        one_rule(rule, &path.child("rules").index(i), errors);
    }
    for (i, tls) in spec.tls.iter().flatten().enumerate() {
        let at = path.child("tls").index(i);
        for (h, name) in tls.hosts.iter().flatten().enumerate() {
            invalid(errors, &at.child("hosts").index(h), name, host_messages(name));
        }
        if let Some(secret) = tls.secret_name.as_deref().filter(|s| !s.is_empty()) {
            invalid(errors, &at.child("secretName"), secret, names::dns1123_subdomain(secret));
        }
    }
    if let Some(class) = spec.ingress_class_name.as_deref() {
        invalid(errors, &path.child("ingressClassName"), class, names::dns1123_subdomain(class));
    }
}

fn host_messages(name: &str) -> Vec<String> {
    if name.contains('*') { names::wildcard_dns1123_subdomain(name) } else { names::dns1123_subdomain(name) }
}

fn one_rule(rule: &IngressRule, path: &Path, errors: &mut ErrorList) {
    if let Some(host) = rule.host.as_deref().filter(|h| !h.is_empty()) {
        let at = path.child("host");
        if names::parse_ip(host).is_some() {
            errors.invalid(&at, host, "must be a DNS name, not an IP address");
        }
        invalid(errors, &at, host, host_messages(host));
    }
    let Some(http) = &rule.http else { return };
    let at = path.child("http").child("paths");
    if http.paths.is_empty() {
        errors.required(&at, "");
    }
    for (i, one) in http.paths.iter().enumerate() {
        http_path(one, &at.index(i), errors);
    }
}

fn http_path(one: &HTTPIngressPath, path: &Path, errors: &mut ErrorList) {
    let (text, at) = (one.path.as_deref().unwrap_or_default(), path.child("path"));
    match one.path_type.as_str() {
        "" => errors.required(&path.child("pathType"), "pathType must be specified"),
        "Exact" | "Prefix" => {
            if !text.starts_with('/') {
                errors.invalid(&at, text, "must be an absolute path");
            }
            for bad in NOT_IN_PATHS.into_iter().filter(|b| text.contains(b)) {
                errors.invalid(&at, text, &format!("must not contain '{bad}'"));
            }
            for bad in NOT_AT_THE_END.into_iter().filter(|b| text.ends_with(b)) {
                errors.invalid(&at, text, &format!("cannot end with '{bad}'"));
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !text.starts_with('/') {
                errors.invalid(&at, text, "must be an absolute path");
            }
        }
        other => errors.not_supported(&path.child("pathType"), other, &PATH_TYPES),
    }
    backend(&one.backend, &path.child("backend"), errors);
}

fn backend(backend: &IngressBackend, path: &Path, errors: &mut ErrorList) {
    match (&backend.resource, &backend.service) {
        (Some(_), Some(_)) => errors.invalid(path, "", "cannot set both resource and service backends"),
        (None, None) => errors.invalid(path, "", "resource or service backend is required"),
        (Some(resource), None) => {
            let at = path.child("resource");
            for (field, value) in [("kind", &resource.kind), ("name", &resource.name)] {
                if value.is_empty() {
                    errors.required(&at.child(field), "");
                } else {
                    invalid(errors, &at.child(field), value, names::path_segment(value));
                }
            }
        }
        (None, Some(service)) => service_backend(service, path, errors),
    }
}

fn service_backend(service: &IngressServiceBackend, path: &Path, errors: &mut ErrorList) {
    let at = path.child("service");
    if service.name.is_empty() {
        errors.required(&at.child("name"), "");
    } else {
        invalid(errors, &at.child("name"), &service.name, names::dns1123_label(&service.name));
    }
    let port = service.port.clone().unwrap_or_default();
    match (port.name.as_deref().filter(|n| !n.is_empty()), port.number.filter(|n| *n != 0)) {
        (Some(_), Some(_)) => errors.invalid(path, "", "cannot set both port name & port number"),
        (Some(name), None) => invalid(errors, &at.child("port").child("name"), name, names::port_name(name)),
        (None, Some(number)) => {
            numbers::port(number.into()).iter().for_each(|m| errors.invalid(&at.child("port").child("number"), number, m));
        }
        (None, None) => errors.required(path, "port name or number is required"),
    }
}
