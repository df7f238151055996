//! `kubectl patch`.

use super::{dry_run_flag, field_manager_flag, file_flags, scale};
use crate::cli::{Args, Command, Flag};
use crate::connection::{JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH, Url};
use crate::context::{Context, DryRun};
use crate::encoding::json::Order;
use crate::error::{Error, Result, message};
use crate::{manifest, printers};
use serde_json::Value;

/// The kinds of patch by their names on the command line.
const TYPES: [(&str, &str); 3] = [("json", JSON_PATCH), ("merge", MERGE_PATCH), ("strategic", STRATEGIC_MERGE_PATCH)];

/// The command.
pub fn cli() -> Command {
    Command::new("patch", "Update fields of a resource")
        .usage("(-f FILENAME | TYPE NAME) [-p PATCH|--patch-file FILE]")
        .flags(printers::flags())
        .flags(file_flags("The manifests whose objects to patch."))
        .flags([
            dry_run_flag(),
            field_manager_flag("kubectl-patch"),
            Flag::switch("local", "Patch the manifest's object without the server."),
            Flag::string("patch", "", "The patch.").short('p'),
            Flag::string("patch-file", "", "A file with the patch."),
            Flag::string("subresource", "", "The subresource to patch: status, scale, resize."),
            Flag::string("type", "strategic", "json, merge or strategic."),
        ])
        .exec(exec)
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    if args.changed("patch") && args.changed("patch-file") {
        return Err(message("cannot specify --patch and --patch-file together"));
    }
    let Some((_, media_type)) = TYPES.iter().find(|(name, _)| *name == args.str("type").to_lowercase()) else {
        return Err(message(format!("--type must be one of [json merge strategic], not {:?}", args.str("type"))));
    };
    let text = match (args.text("patch"), args.text("patch-file")) {
        (Some(p), _) => p.to_owned(),
        (None, Some(file)) => String::from_utf8_lossy(&ctx.read_file(file)?).into_owned(),
        (None, None) => return Err(message("must specify --patch or --patch-file containing the contents of the patch")),
    };
    let patch = match serde_json::from_str(&text) {
        Ok(patch) => patch,
        // What begins like JSON is the server's to refuse.
        Err(_) if text.trim_start().starts_with('{') && !args.bool("local") => Value::Null,
        Err(_) => manifest::parse_document(&text)
            .map_err(|e| message(format!("unable to parse {text:?}: {}", e.trim_start_matches("error converting YAML to JSON: "))))?,
    };
    let dry_run = ctx.dry_run(args)?;
    let (targets, mut errors) = scale::targets(ctx, args)?;
    for target in targets {
        let mut object = target.object.clone();
        let outcome = if dry_run == DryRun::Client || args.bool("local") {
            if *media_type == JSON_PATCH {
                let patch: json_patch::Patch = serde_json::from_value(patch.clone()).map_err(|e| message(e.to_string()))?;
                json_patch::patch(&mut object, &patch).map_err(|e| message(e.to_string()))?;
            } else {
                crate::apply::patch::preview(&target.resource, &mut object, &patch, media_type)?;
            }
            Ok(object)
        } else {
            let subresource = args.text("subresource").map(|s| format!("/{s}")).unwrap_or_default();
            let url = Url::new(format!("{}{subresource}", target.path()))
                .query("dryRun", if dry_run == DryRun::Server { "All" } else { "" })
                .query("fieldManager", args.str("field-manager"));
            match &patch {
                Value::Null => ctx.connection()?.send_text(http::Method::PATCH, &url, media_type, &text),
                patch => ctx.connection()?.patch(&url, media_type, patch),
            }
        };
        ctx.drain_warnings();
        match outcome {
            Ok(object) => {
                let operation = if object == target.object { "patched (no change)" } else { "patched" };
                let text = printers::for_change(ctx, args, operation, Order::Sorted)?.print(&object)?;
                ctx.print(&text);
            }
            Err(e @ Error::Unreachable { .. }) => return Err(e),
            Err(e) => errors.push(e),
        }
    }
    Error::collect(errors)
}
