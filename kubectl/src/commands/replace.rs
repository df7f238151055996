//! `kubectl replace`: a whole object by another.

use super::{create, dry_run_flag, field_manager_flag, file_flags, validate_flag};
use crate::cli::{Args, Command, Flag};
use crate::connection::{JSON, Url};
use crate::context::{Context, DryRun};
use crate::encoding::json::Order;
use crate::error::{Error, Result, message};
use crate::{apply, manifest, printers, selection};
use serde_json::json;
use std::time::{Duration, Instant};

/// How long an object may take to go when `--timeout` does not say.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often it is looked for meanwhile.
const PAUSE: Duration = Duration::from_millis(200);

/// The command.
pub fn cli() -> Command {
    Command::new("replace", "Replace a resource by file name or stdin")
        .usage("-f FILENAME")
        .flags(printers::flags())
        .flags(file_flags("The manifests to put in place."))
        .flags([
            Flag::string("cascade", "background", "background, orphan or foreground: what becomes of dependants (with --force).")
                .bare("background"),
            dry_run_flag(),
            field_manager_flag("kubectl-replace"),
            Flag::switch("force", "Delete and create again."),
            Flag::int("grace-period", "-1", "Seconds for the old object to end in (with --force)."),
            Flag::string("raw", "", "A path to PUT the file to as it is."),
            Flag::switch("save-config", "Keep the manifest in an annotation, for a later apply."),
            Flag::string("subresource", "", "The subresource to replace: status, scale."),
            Flag::duration("timeout", "0s", "How long to wait for the old object to go (with --force)."),
            validate_flag(),
            Flag::switch("wait", "Accepted; --force always waits."),
        ])
        .exec(exec)
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    if let Some(path) = args.text("raw") {
        let [file] = args.list("filename") else { return Err(args.usage("--raw can only use a single local file or stdin")) };
        let body = if file == "-" { ctx.read_stdin()? } else { ctx.read_file(file)? };
        let answer = ctx.connection()?.bytes(http::Method::PUT, &Url::new(path), JSON, Some((JSON, body)))?;
        ctx.print_bytes(&answer);
        return Ok(());
    }
    if args.list("filename").is_empty() && args.text("kustomize").is_none() {
        return Err(args.usage("must specify --filename to replace"));
    }
    if args.int("grace-period") >= 0 && !args.bool("force") {
        return Err(message("--grace-period must have --force specified"));
    }
    if !args.duration("timeout").is_zero() && !args.bool("force") {
        return Err(message("--timeout must have --force specified"));
    }
    let dry_run = ctx.dry_run(args)?;
    let documents = manifest::read(ctx, args)?;
    let (targets, mut errors) = selection::resolve(ctx, documents)?;
    let connection = ctx.connection()?;
    let subresource = args.text("subresource").map(|s| format!("/{s}")).unwrap_or_default();
    for mut target in targets {
        if args.bool("save-config") {
            apply::annotate(&mut target.object);
        }
        let outcome = if let Err(unnamed) = target.require_name() {
            Err(unnamed)
        } else if dry_run == DryRun::Client {
            Ok(target.object.clone())
        } else if args.bool("force") {
            anew(ctx, args, &target, dry_run)
        } else {
            let url = create::create_url(args, format!("{}{subresource}", target.path()), dry_run)?;
            connection.put(&url, &target.object)
        };
        ctx.drain_warnings();
        match outcome {
            Ok(object) => {
                let text = printers::for_change(ctx, args, &format!("replaced{}", dry_run.suffix()), Order::Sorted)?.print(&object)?;
                ctx.print(&text);
            }
            Err(e @ Error::Unreachable { .. }) => return Err(e),
            Err(e) => errors.push(e.during("error when replacing", &target.source)),
        }
    }
    Error::collect(errors)
}

fn anew(ctx: &mut Context, args: &Args, target: &selection::Target, dry_run: DryRun) -> Result<serde_json::Value> {
    let connection = ctx.connection()?;
    let mut options = json!({"propagationPolicy": "Background"});
    if args.int("grace-period") >= 0 {
        options["gracePeriodSeconds"] = json!(args.int("grace-period"));
    }
    match connection.delete(&Url::new(target.path()), &options) {
        Ok(_) => {
            let kind = crate::printers::resource_name(&target.object);
            let kind = kind.split('/').next().unwrap_or("").to_owned();
            ctx.print(&format!("{kind} \"{}\" deleted\n", target.name));
            let limit = if args.duration("timeout").is_zero() { PATIENCE } else { args.duration("timeout") };
            let deadline = Instant::now() + limit;
            while connection.get(&Url::new(target.path())).map_or_else(|e| !e.is_not_found(), |_| true) {
                if Instant::now() > deadline {
                    return Err(message("timed out waiting for the condition"));
                }
                std::thread::sleep(PAUSE);
            }
        }
        Err(e) if e.is_not_found() => {}
        Err(e) => return Err(e),
    }
    connection.post(&create::create_url(args, target.resource.path(&target.namespace), dry_run)?, &target.object)
}
