//! `kubectl edit`: the live object in the user's editor, and what was changed back to the server.

use super::{field_manager_flag, file_flags, scale, validate_flag};
use crate::apply::patch;
use crate::cli::{Args, Command, Flag};
use crate::connection::{MERGE_PATCH, Url};
use crate::context::Context;
use crate::encoding::json::Order;
use crate::error::{Error, Result, go_io_error, message};
use crate::printers::{self, Json, Printer, Yaml};
use serde_json::{Value, json};
use std::io::Write;
use tempfile::NamedTempFile;

/// What stands before the object in the editor.
const PREAMBLE: &str = "# Please edit the object below. Lines beginning with a '#' will be ignored,\n# and an empty file will abort the edit. If an error occurs while saving this file will be\n# reopened with the relevant failures.\n#\n";

/// The command.
pub fn cli() -> Command {
    Command::new("edit", "Edit a resource on the server")
        .usage("(RESOURCE/NAME | -f FILENAME)")
        .flags(printers::flags())
        .flags(file_flags("The manifests whose objects to edit."))
        .flags([
            field_manager_flag("kubectl-edit"),
            Flag::switch("output-patch", "Print the patch."),
            Flag::switch("save-config", "Accepted."),
            Flag::string("subresource", "", "The subresource to edit: status."),
            validate_flag(),
            Flag::switch("windows-line-endings", "Accepted."),
        ])
        .exec(exec)
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    if args.positional.is_empty() && args.list("filename").is_empty() {
        return Err(message("must specify one of -f and -k"));
    }
    let (targets, errors) = scale::targets(ctx, args)?;
    Error::collect(errors)?;
    let json = args.str("output") == "json";
    for target in targets {
        let shown = if json { Json::new(Order::Sorted, false).print(&target.object)? } else { Yaml::new(false).print(&target.object)? };
        let mut text = if json { shown } else { format!("{PREAMBLE}{shown}") };
        loop {
            let edited = edit(ctx, &text, if json { "json" } else { "yaml" })?;
            if edited == text {
                ctx.complain("Edit cancelled, no changes made.\n");
                break;
            }
            let body: String = edited.lines().filter(|l| !l.starts_with('#')).map(|l| format!("{l}\n")).collect();
            if body.trim().is_empty() {
                ctx.complain("Edit cancelled, saved file was empty.\n");
                break;
            }
            match send(ctx, args, &target, &body) {
                Ok(Some(object)) => {
                    let line = printers::Name::new("edited").print(&object)?;
                    ctx.print(&line);
                    break;
                }
                Ok(None) => {
                    ctx.complain("Edit cancelled, no changes made.\n");
                    break;
                }
                Err(e) if matches!(e, Error::Unreachable { .. }) => return Err(e),
                Err(e) => {
                    // The editor opens again with the failure on top; saving it unchanged gives up.
                    let why: String = e.text().lines().map(|l| format!("# {l}\n")).collect();
                    let again = format!("{PREAMBLE}{why}#\n{body}");
                    if again == text {
                        let kept = keep(&edited)?;
                        ctx.complain(&format!("{}A copy of your changes has been stored to {kept:?}\n", e.text()));
                        return Err(message("Edit cancelled, no valid changes were saved."));
                    }
                    text = again;
                }
            }
        }
    }
    Ok(())
}

fn send(ctx: &mut Context, args: &Args, target: &crate::selection::Target, body: &str) -> Result<Option<Value>> {
    let mut old = target.object.clone();
    if let Some(metadata) = old["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    let new = crate::manifest::parse_document(body).map_err(message)?;
    if new["metadata"]["name"] != old["metadata"]["name"] {
        return Err(message("At least one of apiVersion, kind and name was changed"));
    }
    let change = patch::three_way(&old, &new, &old);
    if change == json!({}) {
        return Ok(None);
    }
    let subresource = args.text("subresource").map(|s| format!("/{s}")).unwrap_or_default();
    let url = Url::new(format!("{}{subresource}", target.path())).query("fieldManager", args.str("field-manager"));
    let object = ctx.connection()?.patch(&url, MERGE_PATCH, &change)?;
    if args.bool("output-patch") {
        ctx.print(&format!("Patch: {}\n", crate::encoding::json::to_string(&change)));
    }
    Ok(Some(object))
}

/// A file that stays, for changes that could not be saved.
fn keep(text: &str) -> Result<String> {
    let (_, path) = temporary(text, "yaml")?.keep().map_err(|e| message(e.to_string()))?;
    Ok(path.display().to_string())
}

/// A file with a text that only its owner may read (Secrets pass through here), and that goes with the value.
fn temporary(text: &str, extension: &str) -> Result<NamedTempFile> {
    let mut file = tempfile::Builder::new().prefix("kubectl-edit-").suffix(&format!(".{extension}")).tempfile()?;
    file.write_all(text.as_bytes())?;
    Ok(file)
}

/// Shows a text in the editor and answers what was saved.
fn edit(ctx: &mut Context, text: &str, extension: &str) -> Result<String> {
    let editor = ctx.var("KUBE_EDITOR").or(ctx.var("EDITOR")).unwrap_or("vi").to_owned();
    let file = temporary(text, extension)?;
    ctx.flush();
    let status = std::process::Command::new("sh").arg("-c").arg(format!("{editor} \"$0\"")).arg(file.path()).status();
    match status {
        // By its name: most editors put another file in its place.
        Ok(s) if s.success() => Ok(std::fs::read_to_string(file.path())?),
        Ok(s) => Err(message(format!("there was a problem with the editor {editor:?}: {s}"))),
        Err(e) => Err(message(format!("unable to launch the editor {editor:?}: {}", go_io_error(&e)))),
    }
}
