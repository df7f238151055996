//! `kubectl describe`.

use super::file_flags;
use crate::cli::{Args, Command, Flag};
use crate::connection::Url;
use crate::context::Context;
use crate::describe::{self, Asker};
use crate::error::{Error, Result};
use crate::selection::{self, Choice, Fetch, Rules, Target};

/// The command.
pub fn cli() -> Command {
    Command::new("describe", "Show details of a specific resource or group of resources")
        .usage("(-f FILENAME | TYPE [NAME_PREFIX | -l label] | TYPE/NAME)")
        .flags(file_flags("The manifests whose objects to describe."))
        .flags([
            Flag::switch("all-namespaces", "In all namespaces.").short('A'),
            Flag::int64("chunk-size", "500", "How many objects to ask for at once; 0 for all."),
            Flag::string("selector", "", "Only objects whose labels match.").short('l'),
            Flag::switch_on("show-events", "Show the objects' events."),
        ])
        .exec(exec)
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    let from_file = !args.list("filename").is_empty();
    if args.positional.is_empty() && !from_file {
        return Err(args.usage("You must specify the type of resource to describe. Use \"kubectl api-resources\" for a complete list of supported resources.\n"));
    }
    let (targets, errors, by_prefix) = if from_file { from_files(ctx, args)? } else { chosen(ctx, args)? };
    let connection = ctx.connection()?;
    let asker = Asker { connection: &connection, events: args.bool("show-events"), now: jiff::Timestamp::now().as_second() };
    for (i, t) in targets.iter().enumerate() {
        let text = describe::describe(&asker, &t.resource, &t.object)?;
        // What a prefix found is set apart by less than what was asked for.
        match (by_prefix, i) {
            (true, _) => ctx.print(&format!("{text}\n")),
            (false, 0) => ctx.print(&text),
            (false, _) => ctx.print(&format!("\n\n{text}")),
        }
    }
    if targets.is_empty() && errors.is_empty() {
        let text = if args.bool("all-namespaces") {
            "No resources found\n".to_owned()
        } else {
            format!("No resources found in {} namespace.\n", ctx.namespace()?)
        };
        ctx.complain(&text);
    }
    Error::collect(errors)
}

fn from_files(ctx: &mut Context, args: &Args) -> Result<(Vec<Target>, Vec<Error>, bool)> {
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
    Ok((targets, errors, false))
}

/// What the line names, and whether its name was only the beginning of theirs.
fn chosen(ctx: &mut Context, args: &Args) -> Result<(Vec<Target>, Vec<Error>, bool)> {
    let rules =
        Rules { empty_selector: true, selector: args.text("selector").is_some(), all: false, all_namespaces: args.bool("all-namespaces") };
    let mapper = ctx.mapper()?;
    let choices = selection::choose(&mapper, &args.positional, rules)?;
    let how = Fetch { selector: args.str("selector").to_owned(), all_namespaces: args.bool("all-namespaces"), ..Fetch::default() };
    let (targets, errors) = selection::fetch(ctx, &choices, &how)?;
    // A lone name that is not there may be the beginning of names that are.
    let ([Choice { resource, name: Some(prefix) }], [error]) = (choices.as_slice(), errors.as_slice()) else {
        return Ok((targets, errors, false));
    };
    if !error.is_not_found() {
        return Ok((targets, errors, false));
    }
    let (mut all, _) = selection::fetch(ctx, &[Choice { resource: resource.clone(), name: None }], &how)?;
    all.retain(|t| t.name.starts_with(prefix));
    if all.is_empty() { Ok((targets, errors, false)) } else { Ok((all, Vec::new(), true)) }
}
