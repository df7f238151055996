//! `kubectl set env`: environment variables of containers: set, taken away, filled from a ConfigMap or Secret, or listed.

use super::{Report, containers, each, flags, pod_spec, split, targets};
use crate::cli::{Args, Command, Flag};
use crate::connection::Url;
use crate::context::Context;
use crate::error::{Error, Result, message};
use crate::selection::{self, Rules};
use serde_json::{Value, json};

pub(super) fn cli() -> Command {
    Command::new("env", "Update environment variables on a pod template")
        .usage("RESOURCE/NAME KEY_1=VAL_1 ... KEY_N=VAL_N")
        .flags(flags())
        .flags([
            Flag::string("containers", "*", "The containers to change; wildcards are allowed.").short('c'),
            Flag::strings("env", "KEY=VALUE pairs to set.").short('e'),
            Flag::string("from", "", "A configmap or secret to take keys from, as TYPE/NAME."),
            Flag::strings("keys", "Only these keys of --from."),
            Flag::switch("list", "Print the environment instead of changing it."),
            Flag::switch_on("overwrite", "Replace values that are there."),
            Flag::string("prefix", "", "What to put before names that come from --from."),
            Flag::switch("resolve", "With --list: look up what values refer to."),
        ])
        .exec(exec)
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    let (resources, mut pairs) = split(&args.positional, "environment variable")?;
    pairs.extend(args.list("env").iter().cloned());
    if resources.is_empty() && args.list("filename").is_empty() && args.text("kustomize").is_none() {
        return Err(message("one or more resources must be specified as <resource> <name> or <resource>/<name>"));
    }
    if args.bool("list") && args.text("output").is_some() {
        return Err(message("--list and --output may not be specified together"));
    }
    if !args.list("keys").is_empty() && args.text("from").is_none() {
        return Err(message("when specifying --keys, a configmap or secret must be provided with --from"));
    }
    if args.bool("list") {
        return list(ctx, args, &resources);
    }
    let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
    for pair in &pairs {
        match (pair.split_once('='), pair.strip_suffix('-')) {
            (Some((name, value)), _) if !name.is_empty() => wanted.push(json!({"name": name, "value": value})),
            (None, Some(name)) => unwanted.push(name.to_owned()),
            _ => return Err(message(format!("invalid environment variable: {pair}"))),
        }
    }
    if let Some(both) = unwanted.iter().find(|u| wanted.iter().any(|w| w["name"] == **u)) {
        return Err(message(format!("can not both modify and remove an environment variable in the same command: {both}")));
    }
    if let Some(source) = args.text("from") {
        wanted.extend(from(ctx, args, source)?);
    }
    let pattern = args.str("containers");
    each(ctx, args, &resources, &Report { done: "env updated", silent_when_same: true }, |ctx, target, object| {
        let mut found = false;
        for container in containers(pod_spec(target, object)?, pattern, true) {
            found = true;
            let old = container["env"].as_array().cloned().unwrap_or_default();
            if !args.bool("overwrite") {
                refuse_overwrites(&old, &wanted)?;
            }
            let new = merge(&old, &wanted, &unwanted);
            if new != old {
                container["env"] = json!(new);
            }
        }
        if !found {
            ctx.complain(&format!("Warning: {}/{} does not have any containers matching {pattern:?}\n", target.resource.kind, target.name));
        }
        Ok(())
    })
}

fn refuse_overwrites(old: &[Value], wanted: &[Value]) -> Result<()> {
    let taken = |w: &&Value| old.iter().find(|o| o["name"] == w["name"]);
    match wanted.iter().find_map(|w| taken(&w)) {
        Some(o) => {
            let text = |f: &str| o[f].as_str().unwrap_or("").to_owned();
            Err(message(format!("'{}' already has a value ({}), and --overwrite is false", text("name"), text("value"))))
        }
        None => Ok(()),
    }
}

/// The environment with changes in place and additions behind, each name once.
fn merge(old: &[Value], wanted: &[Value], unwanted: &[String]) -> Vec<Value> {
    let named = |list: &[Value], name: &Value| list.iter().rev().find(|e| e["name"] == *name).cloned();
    let mut new: Vec<Value> = Vec::new();
    for e in old.iter().filter(|e| !unwanted.iter().any(|u| e["name"] == **u)) {
        match named(wanted, &e["name"]) {
            Some(_) if new.iter().any(|n| n["name"] == e["name"]) => {}
            Some(newer) => new.push(newer),
            None => new.push(e.clone()),
        }
    }
    for e in wanted {
        if !new.iter().any(|n| n["name"] == e["name"]) {
            new.extend(named(wanted, &e["name"]));
        }
    }
    new
}

/// A key as the name of a variable.
fn variable(key: &str) -> String {
    key.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c.to_ascii_uppercase() } else { '_' }).collect()
}

/// Variables that refer to the keys of a ConfigMap or Secret.
fn from(ctx: &mut Context, args: &Args, source: &str) -> Result<Vec<Value>> {
    let choices = selection::choose(&*ctx.mapper()?, &[source.to_owned()], Rules::default())?;
    let (found, errors) = selection::fetch(ctx, &choices, &selection::Fetch::default())?;
    Error::collect(errors)?;
    let mut variables = Vec::new();
    for target in found {
        let reference = match target.resource.group_resource().as_str() {
            "configmaps" => "configMapKeyRef",
            "secrets" => "secretKeyRef",
            _ => return Err(message(format!("unsupported resource specified in --from: {source}"))),
        };
        for key in target.object["data"].as_object().into_iter().flat_map(|d| d.keys()) {
            if !args.list("keys").is_empty() && !args.list("keys").contains(key) {
                continue;
            }
            let name = variable(key);
            if name != *key {
                ctx.complain(&format!("Warning: key {key} transferred to {name}\n"));
            }
            let name = format!("{}{name}", args.str("prefix"));
            variables.push(json!({"name": name, "valueFrom": {reference: {"name": target.name, "key": key}}}));
        }
    }
    Ok(variables)
}

fn list(ctx: &mut Context, args: &Args, resources: &[String]) -> Result<()> {
    let (found, errors) = targets(ctx, args, resources)?;
    for mut target in found {
        let mut object = target.object.take();
        let spec = pod_spec(&target, &mut object)?;
        for container in containers(spec, args.str("containers"), true) {
            let name = container["name"].as_str().unwrap_or("");
            ctx.print(&format!("# {} {}, container {name}\n", target.resource.kind, target.name));
            for e in container["env"].as_array().into_iter().flatten() {
                let line = line(ctx, &target.namespace, e, args.bool("resolve"))?;
                ctx.print(&line);
            }
        }
    }
    Error::collect(errors)
}

/// One variable as `NAME=value`, or as a comment that says where its value comes from.
fn line(ctx: &mut Context, namespace: &str, e: &Value, resolve: bool) -> Result<String> {
    use base64::Engine;
    let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
    let name = text(&e["name"]);
    for (field, kind, resource) in [("configMapKeyRef", "configmap", "configmaps"), ("secretKeyRef", "secret", "secrets")] {
        let reference = &e["valueFrom"][field];
        if reference.is_null() {
            continue;
        }
        let (object, key) = (text(&reference["name"]), text(&reference["key"]));
        if !resolve {
            return Ok(format!("# {name} from {kind} {object}, key {key}\n"));
        }
        let live = ctx.connection()?.get(&Url::new(format!("/api/v1/namespaces/{namespace}/{resource}/{object}")))?;
        let Some(value) = live["data"][&key].as_str() else {
            return Err(message(format!("key {key} not found in {kind} {object}")));
        };
        let plain = match kind {
            "secret" => base64::engine::general_purpose::STANDARD.decode(value).map(|b| String::from_utf8_lossy(&b).into_owned()),
            _ => Ok(value.to_owned()),
        };
        return Ok(format!("{name}={}\n", plain.map_err(|e| message(e.to_string()))?));
    }
    let (field, resource) = (&e["valueFrom"]["fieldRef"]["fieldPath"], &e["valueFrom"]["resourceFieldRef"]["resource"]);
    Ok(match (field.as_str(), resource.as_str()) {
        (Some(path), _) => format!("# {name} from field path {path}\n"),
        (_, Some(resource)) => format!("# {name} from resource {resource}\n"),
        _ => format!("{name}={}\n", text(&e["value"])),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_stay_in_place_and_additions_come_last() {
        let e = |name: &str, value: &str| json!({"name": name, "value": value});
        let new = merge(&[e("A", "1"), e("B", "2"), e("C", "3")], &[e("D", "4"), e("B", "5")], &["A".to_owned()]);
        assert_eq!(new, [e("B", "5"), e("C", "3"), e("D", "4")]);
    }

    #[test]
    fn keys_become_names_of_variables() {
        assert_eq!([variable("a.b-c"), variable("X_1")], ["A_B_C", "X_1"]);
    }

    #[test]
    fn what_is_there_is_kept_when_overwriting_is_off() {
        let e = |name: &str, value: &str| json!({"name": name, "value": value});
        let refused = refuse_overwrites(&[e("A", "1")], &[e("A", "2")]).unwrap_err();
        assert_eq!(refused.to_string(), "'A' already has a value (1), and --overwrite is false");
    }
}
