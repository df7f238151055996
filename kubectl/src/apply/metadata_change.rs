//! What `label` and `annotate` share: reading `key=value` and `key-` off the command line and sending the difference as a merge patch.

use crate::cli::Args;
use crate::connection::{MERGE_PATCH, Url};
use crate::context::{Context, DryRun};
use crate::encoding::json::Order;
use crate::error::{Error, Result, message};
use crate::printers;
use crate::selection::{self, Fetch, Rules, Target};
use serde_json::{Map, Value, json};

/// How the two commands differ.
pub struct Change {
    /// The field of the metadata.
    pub field: &'static str,
    /// One of its entries, in messages.
    pub noun: &'static str,
    /// Refuses a value that cannot be one.
    pub check: fn(&str, &str) -> Result<()>,
    /// The errors for keys that have a value already.
    pub refuse: fn(&[(String, String)]) -> Vec<String>,
    /// What happened, for the last line: whether anything changed, and whether entries were only taken away.
    pub report: fn(bool, bool) -> &'static str,
}

/// The resources a line names, and what to set and remove.
struct Wanted {
    resources: Vec<String>,
    set: Vec<(String, String)>,
    remove: Vec<String>,
}

fn is_change(word: &str) -> bool {
    // The first word may be TYPE/NAME with neither; a change has `=` or ends in `-`.
    word.contains('=') && !word.starts_with('=') || word.ends_with('-')
}

fn wanted(args: &Args, change: &Change) -> Result<Wanted> {
    let first = args.positional.iter().position(|w| is_change(w)).unwrap_or(args.positional.len());
    let (resources, changes) = args.positional.split_at(first);
    let (mut set, mut remove): (Vec<(String, String)>, Vec<String>) = (Vec::new(), Vec::new());
    for word in changes {
        match (word.split_once('='), word.strip_suffix('-')) {
            (Some((key, value)), _) if !key.is_empty() => {
                (change.check)(key, value)?;
                set.push((key.to_owned(), value.to_owned()));
            }
            (None, Some(key)) => remove.push(key.to_owned()),
            _ => return Err(message(format!("unknown {} spec: {word}", change.noun))),
        }
    }
    if remove.iter().any(|k| set.iter().any(|(s, _)| s == k)) {
        return Err(message(format!("can not both modify and remove {} {} in the same command", article(change.noun), change.noun)));
    }
    Ok(Wanted { resources: resources.to_vec(), set, remove })
}

fn article(noun: &str) -> &'static str {
    if noun.starts_with('a') { "an" } else { "a" }
}

/// Runs the command.
pub fn exec(ctx: &mut Context, args: &Args, change: &Change) -> Result<()> {
    let wanted = wanted(args, change)?;
    let from_file = !args.list("filename").is_empty() || args.text("kustomize").is_some();
    if args.bool("all") && args.text("selector").is_some() {
        return Err(message("cannot set --all and --selector at the same time"));
    }
    if args.bool("all") && args.text("field-selector").is_some() {
        return Err(message("cannot set --all and --field-selector at the same time"));
    }
    if wanted.resources.is_empty() && !from_file {
        return Err(message("one or more resources must be specified as <resource> <name> or <resource>/<name>"));
    }
    if wanted.set.is_empty() && wanted.remove.is_empty() && !args.bool("list") {
        return Err(message(format!("at least one {} update is required", change.noun)));
    }
    let dry_run = ctx.dry_run(args)?;
    let (targets, mut errors) = targets(ctx, args, &wanted.resources, from_file)?;
    if targets.len() > 1 && args.text("resource-version").is_some() {
        return Err(message("--resource-version may only be used with a single resource"));
    }
    for target in targets {
        if let Err(e) = one(ctx, args, change, &wanted, &target, dry_run) {
            match e {
                e @ Error::Unreachable { .. } => return Err(e),
                Error::Many(more) => errors.extend(more),
                e => errors.push(e),
            }
        }
    }
    Error::collect(errors)
}

fn targets(ctx: &mut Context, args: &Args, resources: &[String], from_file: bool) -> Result<(Vec<Target>, Vec<Error>)> {
    if from_file {
        let documents = crate::manifest::read(ctx, args)?;
        let (mut targets, mut errors) = selection::resolve(ctx, documents)?;
        if !args.bool("local") {
            let connection = ctx.connection()?;
            targets.retain_mut(|t| match connection.get(&Url::new(t.path())) {
                Ok(live) => {
                    t.object = live;
                    true
                }
                Err(e) => {
                    errors.push(e);
                    false
                }
            });
        }
        return Ok((targets, errors));
    }
    if args.bool("local") {
        return Err(message("can only use local files by -f pod.yaml or --filename=pod.json when --local=true is set"));
    }
    let rules = Rules {
        empty_selector: false,
        selector: args.text("selector").is_some() || args.text("field-selector").is_some(),
        all: args.bool("all"),
        all_namespaces: args.bool("all-namespaces"),
    };
    let mapper = ctx.mapper()?;
    let choices = selection::choose(&mapper, resources, rules)?;
    let how = Fetch {
        selector: args.str("selector").to_owned(),
        field_selector: args.str("field-selector").to_owned(),
        all_namespaces: args.bool("all-namespaces"),
    };
    selection::fetch(ctx, &choices, &how)
}

fn one(ctx: &mut Context, args: &Args, change: &Change, wanted: &Wanted, target: &Target, dry_run: DryRun) -> Result<()> {
    let old: Map<String, Value> = target.object["metadata"][change.field].as_object().cloned().unwrap_or_default();
    if args.bool("list") {
        let mut new = old.clone();
        wanted.remove.iter().for_each(|key| drop(new.remove(key)));
        new.extend(wanted.set.iter().map(|(k, v)| (k.clone(), json!(v))));
        return list(ctx, &new);
    }
    if !args.bool("overwrite") {
        let current = |k: &str| old.get(k).and_then(Value::as_str).map(str::to_owned);
        let taken: Vec<(String, String)> = wanted
            .set
            .iter()
            .filter_map(|(k, v)| Some((k.clone(), current(k)?)).filter(|(_, c)| change.noun == "annotation" || c != v))
            .collect();
        if !taken.is_empty() {
            return Error::collect((change.refuse)(&taken).into_iter().map(message).collect());
        }
    }
    let (mut new, mut entries) = (old.clone(), Map::new());
    for key in &wanted.remove {
        if new.remove(key).is_none() && change.noun == "label" {
            ctx.print(&format!("label {key:?} not found.\n"));
        }
        if old.contains_key(key) {
            entries.insert(key.clone(), Value::Null);
        }
    }
    for (key, value) in &wanted.set {
        new.insert(key.clone(), json!(value));
        if old.get(key) != Some(&json!(value)) {
            entries.insert(key.clone(), json!(value));
        }
    }
    let mut patch = json!({"metadata": {change.field: entries}});
    if let Some(version) = args.text("resource-version") {
        patch["metadata"]["resourceVersion"] = json!(version);
    }
    // Taking away from nothing leaves an empty map where there was none, which upstream counts.
    let changed = !entries.is_empty() || !wanted.remove.is_empty() && !target.object["metadata"][change.field].is_object();
    let shrunk = !args.bool("overwrite") && wanted.set.is_empty() && !entries.is_empty();
    let mut object = target.object.clone();
    if dry_run == DryRun::Client || args.bool("local") {
        json_patch::merge(&mut object, &patch);
    } else if !entries.is_empty() || args.text("resource-version").is_some() {
        let url = Url::new(target.path())
            .query("dryRun", if dry_run == DryRun::Server { "All" } else { "" })
            .query("fieldManager", args.str("field-manager"));
        object = ctx.connection()?.patch(&url, MERGE_PATCH, &patch)?;
    }
    ctx.drain_warnings();
    let operation = format!("{}{}", (change.report)(changed, shrunk), dry_run.suffix());
    let text = printers::for_change(ctx, args, &operation, Order::Sorted)?.print(&object)?;
    ctx.print(&text);
    Ok(())
}

fn list(ctx: &mut Context, entries: &Map<String, Value>) -> Result<()> {
    let mut lines: Vec<String> = entries.iter().map(|(k, v)| format!("{k}={}\n", v.as_str().unwrap_or(""))).collect();
    lines.sort();
    ctx.print(&lines.concat());
    Ok(())
}
