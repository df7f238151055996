//! `kubectl diff`: what applying manifests would change, by a program that compares two directories (upstream: `kubectl/pkg/cmd/diff`).
//! Left out: `--prune`.

use super::{field_manager_flag, file_flags};
use crate::apply::{self, patch};
use crate::cli::{Args, Command, Flag};
use crate::connection::{APPLY_PATCH, Url};
use crate::context::Context;
use crate::encoding::yaml;
use crate::error::{Error, Result, message};
use crate::manifest;
use crate::selection::{self, Target};
use serde_json::{Value, json};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

/// How often an object is asked for again when it changed between the look and the dry run.
const TRIES: usize = 4;

/// The command.
pub fn cli() -> Command {
    Command::new("diff", "Diff the live version against a would-be applied version")
        .usage("-f FILENAME")
        .flags(file_flags("The manifests to compare."))
        .flags([
            Flag::int64("concurrency", "1", "Accepted; objects are compared one after another."),
            field_manager_flag("kubectl-client-side-apply"),
            Flag::switch("force-conflicts", "Take over fields that others own (server-side)."),
            Flag::string("selector", "", "Only objects whose labels match.").short('l'),
            Flag::switch("server-side", "Let the server merge."),
            Flag::switch("show-managed-fields", "Compare managed fields, too."),
        ])
        .exec(exec)
}

/// Exit code 1 says that there are differences, so that failures get the next one.
fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    diff(ctx, args).map_err(|error| match error {
        Error::Exit(_) => error,
        other => Error::ExitWithText { code: other.exit_code().max(2), text: other.text() },
    })
}

fn diff(ctx: &mut Context, args: &Args) -> Result<()> {
    if !args.positional.is_empty() {
        return Err(args.usage(format!("Unexpected args: [{}]", args.positional.join(" "))));
    }
    if args.list("filename").is_empty() && args.text("kustomize").is_none() {
        return Err(message("must specify one of -f and -k"));
    }
    if args.bool("force-conflicts") && !args.bool("server-side") {
        return Err(message("--force-conflicts only works with --server-side"));
    }
    let documents = manifest::read(ctx, args)?;
    let (targets, errors) = selection::resolve(ctx, documents)?;
    Error::collect(errors)?;
    let (live, merged) = (temporary("LIVE-")?, temporary("MERGED-")?);
    for target in &targets {
        let (mut before, mut after) = compared(ctx, args, target)?;
        let managed = args.bool("show-managed-fields");
        mask(&target.resource.kind, &mut before, &mut after);
        let name = file_name(target);
        for (directory, object) in [(&live, before), (&merged, after)] {
            let mut text = String::new();
            if let Some(mut object) = object {
                if let (false, Some(metadata)) = (managed, object["metadata"].as_object_mut()) {
                    metadata.remove("managedFields");
                }
                text = yaml::to_string(&object);
            }
            std::fs::write(directory.path().join(&name), text)?;
        }
    }
    compare(ctx, live.path(), merged.path())
}

/// A directory that goes with the value. Only its owner may read it: what it holds may be secret.
fn temporary(prefix: &str) -> Result<TempDir> {
    Ok(tempfile::Builder::new().prefix(prefix).permissions(Permissions::from_mode(0o700)).tempdir()?)
}

/// `apps.v1.Deployment.default.web`.
fn file_name(target: &Target) -> String {
    let r = &target.resource;
    let group = if r.group.is_empty() { String::new() } else { format!("{}.", r.group) };
    format!("{group}{}.{}.{}.{}", r.version, r.kind, target.namespace, target.name)
}

/// The object as it is and as it would be.
fn compared(ctx: &mut Context, args: &Args, target: &Target) -> Result<(Option<Value>, Option<Value>)> {
    let connection = ctx.connection()?;
    let mut tries = 0;
    loop {
        tries += 1;
        let live = match target.require_name().and_then(|()| connection.get(&Url::new(target.path()))) {
            Ok(live) => Some(live),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let merged = if args.bool("server-side") { on_server(ctx, args, target) } else { here(ctx, args, target, live.as_ref()) };
        match merged {
            Ok(merged) => return Ok((live, Some(merged))),
            Err(error) if error.reason() == "Conflict" && tries < TRIES && !args.bool("server-side") => {}
            Err(error) => return Err(error),
        }
    }
}

fn on_server(ctx: &mut Context, args: &Args, target: &Target) -> Result<Value> {
    let manager = if args.changed("field-manager") { args.str("field-manager") } else { "kubectl" };
    let url = Url::new(target.path())
        .query("dryRun", "All")
        .query("fieldManager", manager)
        .query("force", if args.bool("force-conflicts") { "true" } else { "false" });
    ctx.connection()?.patch(&url, APPLY_PATCH, &target.object)
}

fn here(ctx: &mut Context, args: &Args, target: &Target, live: Option<&Value>) -> Result<Value> {
    let connection = ctx.connection()?;
    let query = |path: String| Url::new(path).query("dryRun", "All").query("fieldManager", args.str("field-manager"));
    let Some(live) = live else { return connection.post(&query(target.resource.path(&target.namespace)), &target.object) };
    // As the annotation holds it: with annotations, if none, so that those of the live object are not taken for removed.
    let mut modified = target.object.clone();
    if !modified["metadata"]["annotations"].is_object() {
        modified["metadata"]["annotations"] = json!({});
    }
    let original: Value = apply::last_applied(live).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let (mut patch, media_type) = patch::plan(&target.resource, &original, &modified, live)?;
    // What would be written must be what was looked at.
    patch["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
    connection.patch(&query(target.path()), media_type, &patch)
}

/// Hides the values of secrets, but for whether they change.
fn mask(kind: &str, before: &mut Option<Value>, after: &mut Option<Value>) {
    if kind != "Secret" {
        return;
    }
    let old = before.as_ref().map(|b| b["data"].clone()).unwrap_or_default();
    let new = after.as_ref().map(|a| a["data"].clone()).unwrap_or_default();
    let hide = |object: &mut Option<Value>, other: &Value, changed: &str| {
        for (key, value) in object.as_mut().and_then(|o| o["data"].as_object_mut()).into_iter().flatten() {
            let differs = other.get(key).is_some_and(|o| o != value);
            *value = json!(if differs { format!("*** ({changed})") } else { "***".to_owned() });
        }
    };
    hide(before, &new, "before");
    hide(after, &old, "after");
    for object in [before, after].into_iter().flatten() {
        if let Some(annotations) = object["metadata"]["annotations"].as_object_mut().filter(|a| a.contains_key(apply::LAST_APPLIED)) {
            annotations.insert(apply::LAST_APPLIED.to_owned(), json!("***"));
        }
    }
}

/// Runs the program that compares: exit code 1 says that there are differences, more that it failed.
fn compare(ctx: &mut Context, live: &Path, merged: &Path) -> Result<()> {
    let external = ctx.var("KUBECTL_EXTERNAL_DIFF").unwrap_or("diff -u -N").to_owned();
    // Upstream takes words with these characters only, so that nothing reaches a shell.
    let plain = |word: &&str| word.chars().all(|c| c.is_ascii_alphanumeric() || "-=/_.".contains(c));
    let mut words = external.split_whitespace().enumerate().filter(|(i, word)| *i == 0 || plain(word)).map(|(_, word)| word);
    let program = words.next().unwrap_or("diff");
    let output = std::process::Command::new(program).args(words).arg(live).arg(merged).output().map_err(|error| Error::ExitWith {
        code: 2,
        message: format!("failed to run {program:?}: {}", crate::error::go_io_error(&error)),
    })?;
    ctx.print_bytes(&output.stdout);
    ctx.complain(&String::from_utf8_lossy(&output.stderr));
    match output.status.code() {
        Some(0) => Ok(()),
        Some(code @ 1..) => Err(Error::Exit(code)),
        _ => Err(message(format!("{program:?} was ended by a signal"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_show_only_that_they_change() {
        let secret = |a: &str| Some(json!({"metadata": {"annotations": {apply::LAST_APPLIED: "x"}}, "data": {"a": a, "b": "Yg=="}}));
        let (mut before, mut after) = (secret("MQ=="), secret("Mg=="));
        mask("Secret", &mut before, &mut after);
        assert_eq!(before.unwrap()["data"], json!({"a": "*** (before)", "b": "***"}));
        let after = after.unwrap();
        assert_eq!((&after["data"]["a"], &after["metadata"]["annotations"][apply::LAST_APPLIED]), (&json!("*** (after)"), &json!("***")));
    }
}
