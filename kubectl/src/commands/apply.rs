//! `kubectl apply`: client-side with three-way patches, or server-side. Left out so far: `--prune`, `edit-last-applied`, `set-last-applied`.

use super::{create, dry_run_flag, field_manager_flag, field_validation, file_flags, validate_flag};
use crate::apply::{self, patch};
use crate::cli::{Args, Command, Flag};
use crate::connection::{APPLY_PATCH, Url};
use crate::context::{Context, DryRun};
use crate::encoding::json::Order;
use crate::error::{Error, Result, message};
use crate::manifest;
use crate::printers::{self, Offer};
use crate::selection::{self, Fetch, Rules, Target};
use serde_json::{Value, json};
use std::time::Duration;

/// How often a patch is tried again after a conflict, and how long between, as upstream does.
const TRIES: usize = 5;
const PAUSE: Duration = Duration::from_secs(1);
/// After so many tries upstream begins to pause.
const TRIES_WITHOUT_PAUSE: usize = 4;

/// The command and its subcommands.
pub fn cli() -> Command {
    Command::new("apply", "Apply a configuration to a resource by file name or stdin")
        .usage("(-f FILENAME | -k DIRECTORY)")
        .flags(printers::flags())
        .flags(file_flags("The manifests to apply."))
        .flags([
            Flag::switch("all", "With --prune: all objects of the pruned kinds."),
            Flag::string("cascade", "background", "background, orphan or foreground: what becomes of dependants of a replaced object.")
                .bare("background"),
            dry_run_flag(),
            field_manager_flag("kubectl-client-side-apply"),
            Flag::switch("force", "Delete and create again what cannot be changed."),
            Flag::switch("force-conflicts", "Take over fields that others own (server-side)."),
            Flag::int("grace-period", "-1", "Seconds for a replaced object to end in."),
            Flag::switch_on("openapi-patch", "Accepted; patches follow the server's types."),
            Flag::switch_on("overwrite", "Replace what others have changed since."),
            Flag::switch("prune", "Not supported yet."),
            Flag::string("selector", "", "Only objects whose labels match.").short('l'),
            Flag::switch("server-side", "Let the server merge."),
            Flag::duration("timeout", "0s", "How long to wait for a replaced object to go."),
            validate_flag(),
            Flag::switch("wait", "Wait for replaced objects to be gone."),
        ])
        .exec(exec)
        .command(
            Command::new("view-last-applied", "View the latest last-applied-configuration annotations of a resource/object")
                .usage("(TYPE [NAME | -l label] | TYPE/NAME | -f FILENAME)")
                .flags(file_flags("The manifests whose live objects to look at."))
                .flags([
                    Flag::switch("all", "All objects of the type."),
                    Flag::string("output", "yaml", "yaml or json.").short('o'),
                    Flag::string("selector", "", "Only objects whose labels match.").short('l'),
                ])
                .exec(view_last_applied),
        )
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    if !args.positional.is_empty() {
        return Err(args.usage(format!("Unexpected args: [{}]", args.positional.join(" "))));
    }
    if args.list("filename").is_empty() && args.text("kustomize").is_none() {
        return Err(message("must specify one of -f and -k"));
    }
    let server_side = args.bool("server-side");
    let dry_run = ctx.dry_run(args)?;
    if args.bool("force-conflicts") && !server_side {
        return Err(message("--force-conflicts only works with --server-side"));
    }
    if dry_run == DryRun::Client && server_side {
        return Err(message("--dry-run=client doesn't work with --server-side (did you mean --dry-run=server instead?)"));
    }
    if args.bool("force") && server_side {
        return Err(message("--force cannot be used with --server-side"));
    }
    if args.bool("prune") {
        return Err(message("--prune is not supported yet"));
    }
    // Asked before anything happens, so that a wrong format changes nothing.
    let mut printer = printers::from_args(ctx, args, Offer { lists: false, order: Order::Sorted })?;
    let documents = manifest::read(ctx, args)?;
    let (targets, mut errors) = selection::resolve(ctx, documents)?;
    if targets.is_empty() {
        Error::collect(errors)?;
        return Err(message("no objects passed to apply"));
    }
    let mut results = Vec::new();
    for target in &targets {
        let outcome = if server_side { apply_on_server(ctx, args, target, dry_run) } else { apply_here(ctx, args, target, dry_run) };
        ctx.drain_warnings();
        match outcome {
            Ok((object, operation)) if printer.is_none() => {
                let text = printers::for_change(ctx, args, &format!("{operation}{}", dry_run.suffix()), Order::Sorted)?.print(&object)?;
                ctx.print(&text);
            }
            Ok((object, _)) => results.push(object),
            Err(e @ Error::Unreachable { .. }) => return Err(e),
            Err(e) => errors.push(e),
        }
    }
    if let Some(printer) = &mut printer {
        let text = match results.as_slice() {
            [] => String::new(),
            [one] => printer.print(one)?,
            many => printer.print(&json!({"apiVersion": "v1", "items": many, "kind": "List", "metadata": {}}))?,
        };
        ctx.print(&text);
    }
    Error::collect(errors)
}

const CONFLICT_ADVICE: &str = "\nPlease review the fields above--they currently have other managers. Here\nare the ways you can resolve this warning:\n* If you intend to manage all of these fields, please re-run the apply\n  command with the `--force-conflicts` flag.\n* If you do not intend to manage all of the fields, please edit your\n  manifest to remove references to the fields that should keep their\n  current managers.\n* You may co-own fields by updating your manifest to match the existing\n  value; in this case, you'll become the manager if the other manager(s)\n  stop managing the field (remove it from their configuration).\nSee https://kubernetes.io/docs/reference/using-api/server-side-apply/#conflicts";

fn apply_on_server(ctx: &mut Context, args: &Args, target: &Target, dry_run: DryRun) -> Result<(Value, &'static str)> {
    let manager = if args.changed("field-manager") { args.str("field-manager") } else { "kubectl" };
    let url = Url::new(target.path())
        .query("dryRun", if dry_run == DryRun::Server { "All" } else { "" })
        .query("fieldManager", manager)
        .query("fieldValidation", field_validation(args)?)
        .query("force", if args.bool("force-conflicts") { "true" } else { "false" });
    match ctx.connection()?.patch(&url, APPLY_PATCH, &target.object) {
        Ok(object) => Ok((object, "serverside-applied")),
        Err(e) if e.reason() == "Conflict" => Err(Error::Message(format!("{e}{CONFLICT_ADVICE}"))),
        Err(e) => Err(e),
    }
}

fn apply_here(ctx: &mut Context, args: &Args, target: &Target, dry_run: DryRun) -> Result<(Value, &'static str)> {
    let connection = ctx.connection()?;
    let source = target.source.clone();
    let mut modified = target.object.clone();
    apply::annotate(&mut modified);
    if let (true, Some(prefix)) = (target.name.is_empty(), target.object["metadata"]["generateName"].as_str()) {
        return Err(message(format!("from {prefix}: cannot use generate name with apply")));
    }
    let live = match target.require_name().and_then(|()| connection.get(&Url::new(target.path()))) {
        Ok(live) => live,
        Err(e) if e.is_not_found() => {
            if dry_run == DryRun::Client {
                return Ok((modified, "created"));
            }
            let url = create::create_url(args, target.resource.path(&target.namespace), dry_run)?;
            let created = connection.post(&url, &modified).map_err(|e| e.during("error when creating", &source))?;
            return Ok((created, "created"));
        }
        Err(e @ Error::Unreachable { .. }) => return Err(e),
        Err(e) => {
            return Err(e.during(
                &format!("error when retrieving current configuration of:\n{}\nfrom server for: {source:?}", described(target)),
                "",
            ));
        }
    };
    if apply::last_applied(&live).is_none() {
        ctx.warn(&format!(
            "resource {}/{} is missing the {} annotation which is required by kubectl apply. kubectl apply should only be used on resources created declaratively by either kubectl create --save-config or kubectl apply. The missing annotation will be patched automatically.",
            target.resource.name, target.name, apply::LAST_APPLIED
        ));
    }
    patch_live(ctx, args, target, &modified, live, dry_run)
}

/// How errors describe an object.
fn described(target: &Target) -> String {
    let r = &target.resource;
    let version = format!("{}/{}", r.group, r.version);
    format!(
        "Resource: \"{version}, Resource={}\", GroupVersionKind: \"{version}, Kind={}\"\nName: {:?}, Namespace: {:?}",
        r.name, r.kind, target.name, target.namespace
    )
}

/// The patch and its media type.
fn plan(target: &Target, modified: &Value, live: &Value) -> Result<(Value, &'static str)> {
    let original: Value = match apply::last_applied(live) {
        Some(text) if !text.trim().is_empty() => {
            serde_json::from_str(text).map_err(|e| message(format!("reading the last applied configuration: {e}")))?
        }
        _ => Value::Null,
    };
    patch::plan(&target.resource, &original, modified, live)
}

fn patch_live(
    ctx: &mut Context,
    args: &Args,
    target: &Target,
    modified: &Value,
    mut live: Value,
    dry_run: DryRun,
) -> Result<(Value, &'static str)> {
    let connection = ctx.connection()?;
    for attempt in 1.. {
        let (mut patch, media_type) = plan(target, modified, &live)?;
        if patch == json!({}) {
            return Ok((live, "unchanged"));
        }
        if dry_run == DryRun::Client {
            let mut object = live;
            patch::preview(&target.resource, &mut object, &patch, media_type)?;
            return Ok((object, "configured"));
        }
        if let Some(version) = target.object["metadata"]["resourceVersion"].as_str() {
            patch["metadata"]["resourceVersion"] = json!(version);
        }
        let url = Url::new(target.path())
            .query("dryRun", if dry_run == DryRun::Server { "All" } else { "" })
            .query("fieldManager", args.str("field-manager"))
            .query("fieldValidation", field_validation(args)?);
        match connection.patch(&url, media_type, &patch) {
            // Upstream says so even when the server finds nothing to change.
            Ok(object) => return Ok((object, "configured")),
            Err(e) if e.reason() == "Conflict" && attempt < TRIES => {
                if attempt > TRIES_WITHOUT_PAUSE {
                    std::thread::sleep(PAUSE);
                }
                live = connection.get(&Url::new(target.path()))?;
            }
            Err(e) if args.bool("force") && matches!(e.reason(), "Conflict" | "Invalid") => return replace(ctx, args, target, modified),
            Err(e @ Error::Unreachable { .. }) => return Err(e),
            Err(e) => {
                let shown = crate::encoding::json::to_string(&patch);
                let step = format!(
                    "error when applying patch:\n{shown}\nto:\n{}\nfor: {:?}: error when patching",
                    described(target),
                    target.source
                );
                return Err(e.during(&step, &target.source));
            }
        }
    }
    unreachable!("the loop ends at the last attempt")
}

/// `--force`: out with the old object, in with the new.
fn replace(ctx: &mut Context, args: &Args, target: &Target, modified: &Value) -> Result<(Value, &'static str)> {
    let connection = ctx.connection()?;
    let mut options = json!({"propagationPolicy": "Background"});
    if args.int("grace-period") >= 0 {
        options["gracePeriodSeconds"] = json!(args.int("grace-period"));
    }
    connection.delete(&Url::new(target.path()), &options)?;
    let deadline =
        std::time::Instant::now() + if args.duration("timeout").is_zero() { Duration::from_secs(300) } else { args.duration("timeout") };
    loop {
        match connection.get(&Url::new(target.path())) {
            Err(e) if e.is_not_found() => break,
            Err(e) => return Err(e),
            Ok(_) if std::time::Instant::now() > deadline => return Err(message("timed out waiting for the condition")),
            Ok(_) => std::thread::sleep(PAUSE),
        }
    }
    let url = create::create_url(args, target.resource.path(&target.namespace), DryRun::None)?;
    Ok((connection.post(&url, modified)?, "configured"))
}

fn view_last_applied(ctx: &mut Context, args: &Args) -> Result<()> {
    let output = args.str("output");
    if !["yaml", "json"].contains(&output) {
        return Err(args.usage(format!("Unexpected -o output mode: {output}, the flag 'output' must be one of yaml|json")));
    }
    let (targets, errors) = if args.list("filename").is_empty() {
        let rules = Rules { selector: args.text("selector").is_some(), all: args.bool("all"), ..Rules::default() };
        let mapper = ctx.mapper()?;
        let choices = selection::choose(&mapper, &args.positional, rules)?;
        selection::fetch(ctx, &choices, &Fetch { selector: args.str("selector").to_owned(), ..Fetch::default() })?
    } else {
        let documents = manifest::read(ctx, args)?;
        let (mut targets, errors) = selection::resolve(ctx, documents)?;
        let connection = ctx.connection()?;
        for t in &mut targets {
            t.object = connection.get(&Url::new(t.path()))?;
        }
        (targets, errors)
    };
    Error::collect(errors)?;
    for t in targets {
        let Some(text) = apply::last_applied(&t.object) else {
            // Upstream only logs it.
            ctx.complain(&format!("no last-applied-configuration annotation found on resource: {}\n", t.name));
            continue;
        };
        let object: Value = serde_json::from_str(text).map_err(|e| message(e.to_string()))?;
        let shown = match output {
            "json" => format!("{}\n", crate::encoding::json::to_string_indented(&object, "  ", Order::Sorted)),
            _ => crate::encoding::yaml::to_string(&object),
        };
        ctx.print(&shown);
    }
    Ok(())
}
