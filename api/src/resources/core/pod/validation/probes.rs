//! Validation of probes and of the handlers around a container's life.

use super::containers::one_of;
use crate::field::{ErrorList, Path};
use crate::resources::defaulting::{items, str};
use crate::validation::{invalid, names, numbers};
use k8s_openapi::api::core::v1::{Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, SleepAction, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// What probes and lifecycle handlers can do, together.
#[derive(Default)]
struct Actions<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

/// The handlers and probes of a container that may have them.
pub fn all(errors: &mut ErrorList, path: &Path, container: &Container, grace: Option<i64>) {
    if let Some(lifecycle) = &container.lifecycle {
        let path = path.child("lifecycle");
        for (field, handler) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
            if let Some(handler) = handler {
                actions(errors, &path.child(field), &of_handler(handler), grace);
            }
        }
    }
    if let Some(probe) = &container.liveness_probe {
        let path = path.child("livenessProbe");
        self::probe(errors, &path, probe, grace);
        success_threshold_is_one(errors, &path, probe);
    }
    if let Some(probe) = &container.readiness_probe {
        let path = path.child("readinessProbe");
        self::probe(errors, &path, probe, grace);
        if let Some(seconds) = probe.termination_grace_period_seconds {
            errors.invalid(&path.child("terminationGracePeriodSeconds"), seconds, "must not be set for readinessProbes");
        }
    }
    if let Some(probe) = &container.startup_probe {
        let path = path.child("startupProbe");
        self::probe(errors, &path, probe, grace);
        success_threshold_is_one(errors, &path, probe);
    }
}

fn of_handler(handler: &LifecycleHandler) -> Actions<'_> {
    Actions {
        exec: handler.exec.as_ref(),
        http_get: handler.http_get.as_ref(),
        tcp_socket: handler.tcp_socket.as_ref(),
        sleep: handler.sleep.as_ref(),
        ..Actions::default()
    }
}

fn success_threshold_is_one(errors: &mut ErrorList, path: &Path, probe: &Probe) {
    let threshold = probe.success_threshold.unwrap_or(0);
    if threshold != 1 {
        errors.invalid(&path.child("successThreshold"), threshold, "must be 1");
    }
}

fn probe(errors: &mut ErrorList, path: &Path, probe: &Probe, grace: Option<i64>) {
    let of_probe = Actions {
        exec: probe.exec.as_ref(),
        http_get: probe.http_get.as_ref(),
        tcp_socket: probe.tcp_socket.as_ref(),
        grpc: probe.grpc.as_ref(),
        sleep: None,
    };
    actions(errors, path, &of_probe, grace);
    for (field, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        numbers::not_negative(errors, &path.child(field), value.unwrap_or(0));
    }
    if let Some(seconds) = probe.termination_grace_period_seconds.filter(|s| *s <= 0) {
        errors.invalid(&path.child("terminationGracePeriodSeconds"), seconds, "must be greater than 0");
    }
}

/// Exactly one action, and that one right.
fn actions(errors: &mut ErrorList, path: &Path, actions: &Actions<'_>, grace: Option<i64>) {
    let mut count = 0;
    let mut first = |errors: &mut ErrorList, field: &str| {
        count += 1;
        if count > 1 {
            errors.forbidden(&path.child(field), "may not specify more than 1 handler type");
        }
        count == 1
    };
    if let Some(exec) = actions.exec
        && first(errors, "exec")
        && items(&exec.command).is_empty()
    {
        errors.required(&path.child("exec").child("command"), "");
    }
    if let Some(http) = actions.http_get
        && first(errors, "httpGet")
    {
        http_get(errors, &path.child("httpGet"), http);
    }
    if let Some(tcp) = actions.tcp_socket
        && first(errors, "tcpSocket")
    {
        numbers::port_or_name(errors, &path.child("tcpSocket").child("port"), &tcp.port);
    }
    if let Some(grpc) = actions.grpc
        && first(errors, "grpc")
    {
        numbers::port_or_name(errors, &path.child("grpc").child("port"), &IntOrString::Int(grpc.port));
    }
    if let Some(sleep) = actions.sleep
        && first(errors, "sleep")
        && let Some(grace) = grace.filter(|g| sleep.seconds < 0 || sleep.seconds > *g)
    {
        let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.invalid(&path.child("sleep"), sleep.seconds, &why);
    }
    if count == 0 {
        errors.required(path, "must specify a handler type");
    }
}

fn http_get(errors: &mut ErrorList, path: &Path, http: &HTTPGetAction) {
    if str(&http.path).is_empty() {
        errors.required(&path.child("path"), "");
    }
    numbers::port_or_name(errors, &path.child("port"), &http.port);
    one_of(errors, &path.child("scheme"), str(&http.scheme), &["HTTP", "HTTPS"]);
    for header in items(&http.http_headers) {
        invalid(errors, &path.child("httpHeaders"), &header.name, names::http_header_name(&header.name));
    }
}
