//! Objects made from flags: the generators behind `create KIND`, `run`, `expose` and `autoscale`. Each is a function from arguments to an object;
//! the table says which word calls it.

mod config_data;
pub mod debug;
mod ingress;
mod policy;
mod rbac;
mod service;
pub mod workload;

use crate::cli::{Args, Flag};
use crate::context::Context;
use crate::error::{Result, message};
use serde_json::{Map, Value, json};

/// One generator.
pub struct Generator {
    /// The words after `create`: `configmap`, `secret generic`.
    pub words: &'static str,
    /// Other words for the last of them.
    pub aliases: &'static [&'static str],
    /// One line of help.
    pub about: &'static str,
    /// Its usage line.
    pub usage: &'static str,
    /// What it calls itself in `failed to create ...`; empty for those whose refusals pass as they are.
    pub noun: &'static str,
    /// Its flags, without those of every generator.
    pub flags: fn() -> Vec<Flag>,
    /// Makes the object.
    pub build: fn(&mut Context, &Args) -> Result<Value>,
}

/// Generators of objects that live in no namespace.
pub const CLUSTER_WIDE: [&str; 4] = ["clusterrole", "clusterrolebinding", "namespace", "priorityclass"];

/// All generators, in the order of the help text.
pub fn table() -> Vec<Generator> {
    let mut all = Vec::new();
    all.extend(rbac::generators());
    all.extend(config_data::generators());
    all.extend(workload::generators());
    all.extend(service::generators());
    all.extend(policy::generators());
    all.extend(ingress::generators());
    all.sort_by_key(|g| g.words);
    all
}

/// The one NAME that generators take.
pub fn name(args: &Args) -> Result<String> {
    // What stands behind `--` is a command for the container.
    let names = &args.positional[..args.dash.unwrap_or(args.positional.len())];
    match names {
        [name] => Ok(name.clone()),
        _ => Err(args.usage(format!("exactly one NAME is required, got {}", args.positional.len()))),
    }
}

/// What stands behind `--`, or behind the name.
pub fn command(args: &Args) -> Vec<String> {
    args.positional.get(args.dash.unwrap_or(1)..).map(<[String]>::to_vec).unwrap_or_default()
}

/// Metadata with a name, as Go's encoder writes it: with the timestamp that is not set yet.
pub fn metadata(name: &str) -> Value {
    json!({"creationTimestamp": null, "name": name})
}

/// `key=value` pairs; the error is upstream's for the flag they came in.
pub fn pairs(list: &[String], what: &str) -> Result<Map<String, Value>> {
    let mut map = Map::new();
    for pair in list {
        match pair.split_once('=') {
            Some((k, v)) if !k.is_empty() => drop(map.insert(k.to_owned(), json!(v))),
            _ => return Err(message(format!("unexpected {what} format: {pair}"))),
        }
    }
    Ok(map)
}

/// A label selector in its `k=v,...` form as a `LabelSelector`.
pub fn label_selector(text: &str) -> Result<Value> {
    let mut labels = Map::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        match part.split_once("==").or_else(|| part.split_once('=')) {
            Some((k, v)) => drop(labels.insert(k.trim().to_owned(), json!(v.trim()))),
            None => return Err(message(format!("couldn't parse the selector string \"{text}\": found '{part}', expected: '='"))),
        }
    }
    Ok(json!({ "matchLabels": labels }))
}
