//! `kubectl cordon` and `uncordon`: whether new pods may come to a node.

use super::{dry_run_flag, scale};
use crate::cli::{Args, Command, Flag};
use crate::connection::{MERGE_PATCH, Url};
use crate::context::{Context, DryRun};
use crate::error::{Error, Result};
use crate::selection::Target;
use serde_json::json;

/// `cordon`.
pub fn cli() -> Command {
    command("cordon", "Mark node as unschedulable").exec(|ctx, args| exec(ctx, args, true))
}

/// `uncordon`.
pub fn uncordon_cli() -> Command {
    command("uncordon", "Mark node as schedulable").exec(|ctx, args| exec(ctx, args, false))
}

fn command(name: &'static str, about: &'static str) -> Command {
    Command::new(name, about)
        .usage("NODE")
        .flags([dry_run_flag(), Flag::string("selector", "", "Only nodes whose labels match.").short('l')])
}

/// The nodes a line names.
pub(super) fn nodes(ctx: &mut Context, args: &Args) -> Result<(Vec<Target>, Vec<Error>)> {
    if args.positional.is_empty() && args.text("selector").is_none() {
        return Err(args.usage(format!("USAGE: {} NODE [flags]", args.path.trim_start_matches("kubectl "))));
    }
    if !args.positional.is_empty() && args.text("selector").is_some() {
        return Err(crate::error::message("error: cannot specify both a node name and a --selector option"));
    }
    let mut with_type = args.clone();
    if !args.positional.iter().any(|a| a.contains('/')) {
        with_type.positional.insert(0, "nodes".to_owned());
    }
    scale::targets(ctx, &with_type)
}

fn exec(ctx: &mut Context, args: &Args, cordon: bool) -> Result<()> {
    let dry_run = ctx.dry_run(args)?;
    let (targets, mut errors) = nodes(ctx, args)?;
    for target in targets {
        if let Err(e) = mark(ctx, &target, cordon, dry_run) {
            errors.push(e);
        }
    }
    Error::collect(errors)
}

/// Marks one node, and says so.
pub(super) fn mark(ctx: &mut Context, target: &Target, cordon: bool, dry_run: DryRun) -> Result<()> {
    let word = if cordon { "cordoned" } else { "uncordoned" };
    let is = target.object["spec"]["unschedulable"] == true;
    if is == cordon {
        ctx.print(&format!("node/{} already {word}{}\n", target.name, dry_run.suffix()));
        return Ok(());
    }
    if dry_run != DryRun::Client {
        let value = if cordon { json!(true) } else { json!(null) };
        let url = Url::new(target.path()).query("dryRun", if dry_run == DryRun::Server { "All" } else { "" });
        ctx.connection()?.patch(&url, MERGE_PATCH, &json!({"spec": {"unschedulable": value}}))?;
    }
    ctx.print(&format!("node/{} {word}{}\n", target.name, dry_run.suffix()));
    Ok(())
}
