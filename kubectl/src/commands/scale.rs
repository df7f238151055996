//! `kubectl scale`: how many replicas.

use super::{dry_run_flag, file_flags};
use crate::cli::{Args, Command, Flag};
use crate::connection::{MERGE_PATCH, Url};
use crate::context::{Context, DryRun};
use crate::encoding::json::Order;
use crate::error::{Error, Result, message};
use crate::printers;
use crate::selection::{self, Fetch, Rules, Target};
use serde_json::json;

/// The command.
pub fn cli() -> Command {
    Command::new("scale", "Set a new size for a deployment, replica set, or replication controller")
        .usage("[--resource-version=version] [--current-replicas=count] --replicas=COUNT (-f FILENAME | TYPE NAME)")
        .flags(printers::flags())
        .flags(file_flags("The manifests whose objects to scale."))
        .flags([
            Flag::switch("all", "All objects of the type."),
            Flag::int("current-replicas", "-1", "Only if the object has so many replicas."),
            dry_run_flag(),
            Flag::int("replicas", "0", "How many replicas.").required(),
            Flag::string("resource-version", "", "Only if the object has this version."),
            Flag::string("selector", "", "Only objects whose labels match.").short('l'),
            Flag::duration("timeout", "0s", "Accepted; scaling is not waited for."),
        ])
        .exec(exec)
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    if args.int("replicas") < 0 {
        return Err(message("The --replicas=COUNT flag is required, and COUNT must be greater than or equal to 0"));
    }
    let dry_run = ctx.dry_run(args)?;
    let (targets, mut errors) = targets(ctx, args)?;
    if targets.len() > 1 && args.text("resource-version").is_some() {
        return Err(message("cannot use --resource-version with multiple resources"));
    }
    let count = targets.len();
    for target in targets {
        match one(ctx, args, &target, dry_run) {
            Ok(()) => {}
            Err(e @ Error::Unreachable { .. }) => return Err(e),
            Err(e) => errors.push(e),
        }
    }
    Error::collect(errors)?;
    if count == 0 { Err(message("no objects passed to scale")) } else { Ok(()) }
}

/// The objects a line means, for commands that take TYPE NAME, TYPE/NAME, `-l`, `--all` or `-f` and look at what is there.
pub(super) fn targets(ctx: &mut Context, args: &Args) -> Result<(Vec<Target>, Vec<Error>)> {
    if !args.list("filename").is_empty() {
        let documents = crate::manifest::read(ctx, args)?;
        let (mut targets, mut errors) = selection::resolve(ctx, documents)?;
        let connection = ctx.connection()?;
        targets.retain_mut(|t| match connection.get(&Url::new(t.path())) {
            Ok(object) => {
                t.object = object;
                true
            }
            Err(e) => {
                errors.push(e);
                false
            }
        });
        return Ok((targets, errors));
    }
    let rules = Rules {
        selector: args.text("selector").is_some(),
        all: args.bool("all"),
        all_namespaces: args.knows("all-namespaces") && args.bool("all-namespaces"),
        empty_selector: false,
    };
    let mapper = ctx.mapper()?;
    let choices = selection::choose(&mapper, &args.positional, rules)?;
    let how = Fetch { selector: args.str("selector").to_owned(), all_namespaces: rules.all_namespaces, ..Fetch::default() };
    selection::fetch(ctx, &choices, &how)
}

fn one(ctx: &mut Context, args: &Args, target: &Target, dry_run: DryRun) -> Result<()> {
    let connection = ctx.connection()?;
    let url = Url::new(format!("{}/scale", target.path()));
    let wanted = args.int("current-replicas");
    if wanted >= 0 && dry_run != DryRun::Client {
        let scale = connection.get(&url)?;
        let have = scale["spec"]["replicas"].as_i64().unwrap_or(0);
        if have != wanted {
            return Err(message(format!("Expected replicas to be {wanted}, was {have}")));
        }
    }
    if dry_run != DryRun::Client {
        let mut patch = json!({"spec": {"replicas": args.int("replicas")}});
        if let Some(version) = args.text("resource-version") {
            patch["metadata"] = json!({"resourceVersion": version});
        }
        let url = url.query("dryRun", if dry_run == DryRun::Server { "All" } else { "" });
        connection.patch(&url, MERGE_PATCH, &patch)?;
    }
    ctx.drain_warnings();
    let text = printers::for_change(ctx, args, &format!("scaled{}", dry_run.suffix()), Order::Sorted)?.print(&target.object)?;
    ctx.print(&text);
    Ok(())
}
