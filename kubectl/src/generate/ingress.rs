//! Ingresses from rules such as `host/path*=service:port,tls=secret`.

use super::{Generator, metadata, name, pairs};
use crate::cli::{Args, Flag};
use crate::context::Context;
use crate::error::{Result, message};
use serde_json::{Map, Value, json};

pub(super) fn generators() -> Vec<Generator> {
    vec![Generator {
        words: "ingress",
        aliases: &["ing"],
        about: "Create an ingress with the specified name",
        usage: "NAME --rule=host/path=service:port[,tls[=secret]]",
        noun: "ingress",
        flags: || {
            vec![
                Flag::array("annotation", "Annotations, as key=value."),
                Flag::string("class", "", "The ingress class."),
                Flag::string("default-backend", "", "Where what no rule matches goes, as service:port."),
                Flag::array("rule", "A rule, as host/path=service:port[,tls[=secret]]."),
            ]
        },
        build,
    }]
}

fn backend(text: &str) -> Option<Value> {
    let (service, port) = text.split_once(':').filter(|(s, p)| !s.is_empty() && !p.is_empty())?;
    let port = port.parse::<u16>().map_or_else(|_| json!({ "name": port }), |n| json!({ "number": n }));
    Some(json!({"service": {"name": service, "port": port}}))
}

fn build(_: &mut Context, args: &Args) -> Result<Value> {
    let name = name(args)?;
    if args.list("rule").is_empty() && args.text("default-backend").is_none() {
        return Err(message(
            "not enough information provided: every ingress has to either specify a default-backend (which catches all traffic) or a list of rules (which catch specific paths)",
        ));
    }
    let mut spec = Map::new();
    if let Some(text) = args.text("default-backend") {
        let b = backend(text).ok_or_else(|| message("default-backend should be in format servicename:serviceport"))?;
        spec.insert("defaultBackend".into(), b);
    }
    if let Some(class) = args.text("class") {
        spec.insert("ingressClassName".into(), json!(class));
    }
    let (mut rules, mut tls): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    for text in args.list("rule") {
        let bad = || message(format!("rule {text} is invalid and should be in format host/path=svcname:svcport[,tls[=secret]]"));
        let mut parts = text.split(',');
        let (from, to) = parts.next().and_then(|p| p.split_once('=')).ok_or_else(bad)?;
        let (host, path) = from.split_once('/').map(|(h, p)| (h, format!("/{p}"))).ok_or_else(bad)?;
        let (path, kind) = match path.strip_suffix('*') {
            Some(p) => (p.to_owned(), "Prefix"),
            None => (path, "Exact"),
        };
        let entry = json!({"path": path, "pathType": kind, "backend": backend(to).ok_or_else(bad)?});
        match rules.iter_mut().find(|r| r["host"].as_str().unwrap_or("") == host) {
            Some(rule) => rule["http"]["paths"].as_array_mut().expect("made as a list below").push(entry),
            None => {
                let mut rule = json!({"http": {"paths": [entry]}});
                if !host.is_empty() {
                    rule["host"] = json!(host);
                }
                rules.push(rule);
            }
        }
        for option in parts.filter(|o| o.starts_with("tls")) {
            let secret = option.split_once('=').map_or("", |(_, s)| s);
            match tls.iter_mut().find(|t| t["secretName"].as_str().unwrap_or("") == secret) {
                Some(t) if !host.is_empty() => t["hosts"].as_array_mut().expect("made as a list below").push(json!(host)),
                Some(_) => {}
                None => {
                    let mut t = json!({"hosts": if host.is_empty() { json!([]) } else { json!([host]) }});
                    if !secret.is_empty() {
                        t["secretName"] = json!(secret);
                    }
                    tls.push(t);
                }
            }
        }
    }
    for (field, list) in [("rules", rules), ("tls", tls)] {
        if !list.is_empty() {
            spec.insert(field.into(), json!(list));
        }
    }
    let mut meta = metadata(&name);
    let annotations = pairs(args.list("annotation"), "annotation")?;
    if !annotations.is_empty() {
        meta["annotations"] = Value::Object(annotations);
    }
    Ok(json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": meta, "spec": spec, "status": {"loadBalancer": {}}}))
}
