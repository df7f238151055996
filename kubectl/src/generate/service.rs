//! Services.

use super::{Generator, metadata, name};
use crate::cli::{Args, Flag};
use crate::error::{Result, message};
use serde_json::{Value, json};

pub(super) fn generators() -> Vec<Generator> {
    vec![
        Generator {
            words: "service clusterip",
            aliases: &[],
            about: "Create a ClusterIP service",
            usage: "NAME [--tcp=<port>:<targetPort>]",
            noun: "ClusterIP service",
            flags: || vec![Flag::string("clusterip", "", "The cluster IP; None for a headless service."), tcp_flag()],
            build: |_, args| build(args, "ClusterIP"),
        },
        Generator {
            words: "service externalname",
            aliases: &[],
            about: "Create an ExternalName service",
            usage: "NAME --external-name external.name",
            noun: "ExternalName service",
            flags: || vec![Flag::string("external-name", "", "The name the service stands for.").required(), tcp_flag()],
            build: |_, args| build(args, "ExternalName"),
        },
        Generator {
            words: "service loadbalancer",
            aliases: &[],
            about: "Create a LoadBalancer service",
            usage: "NAME [--tcp=port:targetPort]",
            noun: "LoadBalancer service",
            flags: || vec![tcp_flag()],
            build: |_, args| build(args, "LoadBalancer"),
        },
        Generator {
            words: "service nodeport",
            aliases: &[],
            about: "Create a NodePort service",
            usage: "NAME [--tcp=port:targetPort]",
            noun: "NodePort service",
            flags: || vec![Flag::int("node-port", "0", "The port on every node."), tcp_flag()],
            build: |_, args| build(args, "NodePort"),
        },
    ]
}

fn tcp_flag() -> Flag {
    Flag::strings("tcp", "Ports, as port or port:targetPort.")
}

fn build(args: &Args, kind: &str) -> Result<Value> {
    let name = name(args)?;
    let headless = args.str("clusterip") == "None";
    if args.list("tcp").is_empty() && kind != "ExternalName" && !(kind == "ClusterIP" && headless) {
        return Err(message("at least one tcp port specifier must be provided"));
    }
    let mut ports = Vec::new();
    for spec in args.list("tcp") {
        let (port, target) = port(spec)?;
        let mut p = json!({"name": spec.replace(':', "-"), "port": port, "protocol": "TCP", "targetPort": target});
        if kind == "NodePort" && args.int("node-port") != 0 {
            p["nodePort"] = json!(args.int("node-port"));
        }
        ports.push(p);
    }
    let mut meta = metadata(&name);
    meta["labels"] = json!({ "app": name });
    let mut spec = json!({"selector": {"app": name}, "type": kind});
    if !ports.is_empty() {
        spec["ports"] = json!(ports);
    }
    for (flag, field) in [("clusterip", "clusterIP"), ("external-name", "externalName")] {
        if let Some(value) = args.text(flag) {
            spec[field] = json!(value);
        }
    }
    Ok(json!({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec, "status": {"loadBalancer": {}}}))
}

/// `80`, `80:8080`, `80:http`.
fn port(spec: &str) -> Result<(u32, Value)> {
    let (port, target) = spec.split_once(':').unwrap_or((spec, ""));
    let number = |t: &str| -> Result<u32> {
        let why = |e: std::num::ParseIntError| match e.kind() {
            std::num::IntErrorKind::PosOverflow => "value out of range",
            _ => "invalid syntax",
        };
        t.parse::<u16>().map(u32::from).map_err(|e| message(format!("strconv.ParseUint: parsing {t:?}: {}", why(e))))
    };
    let from = number(port)?;
    if from == 0 && target.is_empty() {
        return Err(message(format!("invalid port number {from}, must be between 1 and 65535, inclusive")));
    }
    let to = match target {
        "" => json!(from),
        t => t.parse::<u32>().map_or_else(|_| json!(t), |n| json!(n)),
    };
    Ok((from, to))
}
