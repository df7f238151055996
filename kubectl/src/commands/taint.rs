//! `kubectl taint`: what keeps pods off a node.

use super::{cordon, dry_run_flag, field_manager_flag, validate_flag};
use crate::cli::{Args, Command, Flag};
use crate::connection::{MERGE_PATCH, Url};
use crate::context::{Context, DryRun};
use crate::encoding::json::Order;
use crate::error::{Error, Result, message};
use crate::printers;
use serde_json::{Value, json};

/// What a taint may do.
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// The command.
pub fn cli() -> Command {
    Command::new("taint", "Update the taints on one or more nodes")
        .usage("NODE NAME KEY_1=VAL_1:TAINT_EFFECT_1 ... KEY_N=VAL_N:TAINT_EFFECT_N")
        .flags(printers::flags())
        .flags([
            Flag::switch("all", "All nodes."),
            dry_run_flag(),
            field_manager_flag("kubectl-taint"),
            Flag::switch("overwrite", "Replace taints that are there."),
            Flag::string("selector", "", "Only nodes whose labels match.").short('l'),
            validate_flag(),
        ])
        .exec(exec)
}

#[derive(Debug, PartialEq)]
struct Taint {
    key: String,
    value: String,
    effect: String,
}

/// `key=value:effect`, or with a dash at the end to remove; without an effect all are removed.
fn parse(word: &str) -> Result<(Taint, bool)> {
    let (text, remove) = word.strip_suffix('-').map_or((word, false), |t| (t, true));
    let (left, effect) = text.split_once(':').unwrap_or((text, ""));
    let (key, value) = left.split_once('=').unwrap_or((left, ""));
    if !remove && effect.is_empty() || !effect.is_empty() && !EFFECTS.contains(&effect) {
        return Err(match effect {
            "" => message(format!("unknown taint spec: {word}")),
            other => message(format!("invalid taint effect: {other}, unsupported taint effect")),
        });
    }
    Ok((Taint { key: key.to_owned(), value: value.to_owned(), effect: effect.to_owned() }, remove))
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    let is_taint = |w: &String| w.contains('=') || w.contains(':') || w.ends_with('-');
    let first = args.positional.iter().position(is_taint).unwrap_or(args.positional.len());
    let (resources, words) = args.positional.split_at(first);
    if resources.is_empty() {
        return Err(message("one or more resources must be specified as <resource> <name>"));
    }
    if !["node", "nodes", "no"].contains(&resources[0].as_str()) {
        return Err(message(format!("invalid resource type {}, only node(s) is supported", resources[0])));
    }
    if words.is_empty() {
        return Err(message("at least one taint update is required"));
    }
    let parsed: Vec<(Taint, bool)> = words.iter().map(|w| parse(w)).collect::<Result<_>>().map_err(|e| args.usage(e.to_string()))?;
    let mut only_nodes = args.clone();
    only_nodes.positional = resources[1..].to_vec();
    let dry_run = ctx.dry_run(args)?;
    let (targets, mut errors) = if args.bool("all") {
        only_nodes.positional = vec!["nodes".to_owned()];
        super::scale::targets(ctx, &only_nodes)?
    } else {
        cordon::nodes(ctx, &only_nodes)?
    };
    for target in targets {
        let old: Vec<Value> = target.object["spec"]["taints"].as_array().cloned().unwrap_or_default();
        let (new, operation) = match change(&old, &parsed, args.bool("overwrite")) {
            Ok(done) => done,
            Err(text) => {
                errors.push(message(format!("node {} {text}", target.name)));
                continue;
            }
        };
        let mut object = target.object.clone();
        object["spec"]["taints"] = json!(new);
        if dry_run != DryRun::Client {
            let url = Url::new(target.path())
                .query("dryRun", if dry_run == DryRun::Server { "All" } else { "" })
                .query("fieldManager", args.str("field-manager"));
            let patch = json!({"metadata": {"resourceVersion": target.object["metadata"]["resourceVersion"]}, "spec": {"taints": new}});
            match ctx.connection()?.patch(&url, MERGE_PATCH, &patch) {
                Ok(o) => object = o,
                Err(e) => {
                    errors.push(e);
                    continue;
                }
            }
        }
        let text = printers::for_change(ctx, args, &format!("{operation}{}", dry_run.suffix()), Order::Sorted)?.print(&object)?;
        ctx.print(&text);
    }
    Error::collect(errors)
}

/// The taints afterwards, and what to call what happened.
fn change(old: &[Value], wanted: &[(Taint, bool)], overwrite: bool) -> Result<(Vec<Value>, &'static str), String> {
    let mut new = old.to_vec();
    let mut operation = "untainted";
    for (t, remove) in wanted {
        let same = |v: &Value| v["key"] == t.key.as_str() && (t.effect.is_empty() || v["effect"] == t.effect.as_str());
        let there = new.iter().any(same);
        if *remove {
            if !there {
                let effect = if t.effect.is_empty() { String::new() } else { format!(":{}", t.effect) };
                return Err(format!("taint \"{}{effect}\" not found", t.key).replacen("taint", "taint", 1));
            }
            new.retain(|v| !same(v));
            continue;
        }
        if there && !overwrite {
            return Err(format!("already has {} taint(s) with same effect(s) and --overwrite is false", t.key));
        }
        operation = if there { "modified" } else { "tainted" };
        new.retain(|v| !same(v));
        let mut taint = json!({"effect": t.effect, "key": t.key});
        if !t.value.is_empty() {
            taint["value"] = json!(t.value);
        }
        new.insert(0, taint);
    }
    Ok((new, operation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_are_set_and_removed() {
        let old = [json!({"key": "a", "value": "b", "effect": "NoSchedule"})];
        let run = |word: &str, overwrite| change(&old, &[parse(word).unwrap()], overwrite);
        assert_eq!(run("c=d:NoExecute", false).unwrap().1, "tainted");
        assert_eq!(run("a=x:NoSchedule", true).unwrap().1, "modified");
        assert_eq!(run("a-", false).unwrap(), (vec![], "untainted"));
        assert!(run("a=x:NoSchedule", false).unwrap_err().starts_with("already has a taint(s)"));
        assert!(parse("a=b").is_err() && parse("a=b:Foo").is_err());
    }
}
