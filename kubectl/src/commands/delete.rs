//! `kubectl delete`: objects by name, selector or manifest, and waiting until they are gone.

use super::{dry_run_flag, file_flags};
use crate::cli::{Args, Command, Flag};
use crate::connection::{Connection, JSON, Url};
use crate::context::{Context, DryRun};
use crate::error::{Error, Result, message};
use crate::selection::{self, Fetch, Rules, Target};
use serde_json::{Value, json};
use std::time::Duration;

/// How long a wait without `--timeout` may last: a week, as upstream has it.
const FOREVER: Duration = Duration::from_secs(7 * 24 * 3600);

/// The command.
pub fn cli() -> Command {
    Command::new("delete", "Delete resources by file names, stdin, resources and names, or by resources and label selector")
        .usage("([-f FILENAME] | [-k DIRECTORY] | TYPE [(NAME | -l label | --all)])")
        .flags(file_flags("The manifests whose objects to delete."))
        .flags([
            Flag::switch("all", "All objects of the type in the namespace."),
            Flag::switch("all-namespaces", "In all namespaces.").short('A'),
            Flag::string("cascade", "background", "background, orphan or foreground: what becomes of dependants.").bare("background"),
            dry_run_flag(),
            Flag::string("field-selector", "", "Only objects whose fields match."),
            Flag::switch("force", "Remove the object at once, without waiting for anything on its node."),
            Flag::int("grace-period", "-1", "Seconds to end in; negative for the object's own."),
            Flag::switch("ignore-not-found", "Succeed when the object is not there."),
            Flag::switch("interactive", "Ask before deleting.").short('i'),
            Flag::switch("now", "End the object within a second."),
            Flag::string("output", "", "name: print only kind and name.").short('o'),
            Flag::string("raw", "", "A path to DELETE as it is."),
            Flag::string("selector", "", "Only objects whose labels match.").short('l'),
            Flag::duration("timeout", "0s", "How long to wait until the object is gone; 0 for as long as it takes."),
            Flag::switch_on("wait", "Wait until the object is gone."),
        ])
        .exec(exec)
}

struct Plan {
    grace: i64,
    cascade: &'static str,
    dry_run: DryRun,
    wait: bool,
    ignore_not_found: bool,
}

fn plan(ctx: &mut Context, args: &Args) -> Result<Plan> {
    let cascade = match args.str("cascade") {
        "background" => "Background",
        "foreground" => "Foreground",
        "orphan" => "Orphan",
        "true" => {
            ctx.warn("--cascade=true is deprecated (boolean value) and can be replaced with --cascade=background.");
            "Background"
        }
        "false" => {
            ctx.warn("--cascade=false is deprecated (boolean value) and can be replaced with --cascade=orphan.");
            "Orphan"
        }
        other => return Err(message(format!("invalid cascade value ({other}). Must be \"background\", \"foreground\", or \"orphan\""))),
    };
    let mut grace = args.int("grace-period");
    if args.bool("now") {
        if grace != -1 {
            return Err(message("--now and --grace-period cannot be specified together"));
        }
        grace = 1;
    }
    if grace == 0 && !args.bool("force") {
        // Upstream protects data: only --force makes it truly zero.
        grace = 1;
    }
    if args.bool("force") && grace < 0 {
        grace = 0;
    }
    if args.bool("force") && grace > 0 {
        return Err(message("--force and --grace-period greater than 0 cannot be specified together"));
    }
    let selects = args.text("selector").is_some() || args.text("field-selector").is_some();
    if args.bool("all") && selects {
        return Err(message("setting 'all' parameter but found a non empty selector. "));
    }
    if !["", "name"].contains(&args.str("output")) {
        return Err(message(format!("unexpected -o output mode: {}. We only support '-o name'", args.str("output"))));
    }
    let dry_run = ctx.dry_run(args)?;
    let wait = if args.bool("force") && !args.changed("wait") { false } else { args.bool("wait") };
    let ignore_not_found = args.bool("ignore-not-found") || (args.bool("all") || selects) && !args.changed("ignore-not-found");
    Ok(Plan { grace, cascade, dry_run, wait, ignore_not_found })
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    if let Some(path) = args.text("raw") {
        if !args.positional.is_empty() {
            return Err(args.usage("arguments may not be passed when --raw is specified"));
        }
        let bytes = ctx.connection()?.bytes(http::Method::DELETE, &Url::new(path), JSON, None)?;
        ctx.print_bytes(&bytes);
        return Ok(());
    }
    let plan = plan(ctx, args)?;
    if plan.grace == 0 {
        ctx.warn("Immediate deletion does not wait for confirmation that the running resource has been terminated. The resource may continue to run on the cluster indefinitely.");
    }
    let (targets, mut errors) = targets(ctx, args, &plan)?;
    if args.bool("interactive") && !confirm(ctx, &targets)? {
        ctx.print("deletion is cancelled\n");
        return Ok(());
    }
    let connection = ctx.connection()?;
    let (mut gone, mut found) = (Vec::new(), 0);
    for target in &targets {
        found += 1;
        if ctx.namespace_given() && !target.resource.namespaced && found == 1 {
            ctx.complain("Warning: deleting cluster-scoped resources, not scoped to the provided namespace\n");
        }
        if plan.dry_run == DryRun::Client {
            report(ctx, args, target, &plan);
            continue;
        }
        let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": plan.cascade});
        if plan.grace >= 0 {
            options["gracePeriodSeconds"] = json!(plan.grace);
        }
        if plan.dry_run == DryRun::Server {
            options["dryRun"] = json!(["All"]);
        }
        match target.require_name().and_then(|()| connection.delete(&Url::new(target.path()), &options)) {
            Ok(answer) => {
                ctx.drain_warnings();
                report(ctx, args, target, &plan);
                // The answer is the object itself while finalizers or grace keep it, else a Status that names its UID.
                let uid = answer["metadata"]["uid"].as_str().or(answer["details"]["uid"].as_str()).unwrap_or("").to_owned();
                gone.push((target, uid));
            }
            Err(e @ Error::Unreachable { .. }) => return Err(e),
            Err(e) if e.is_not_found() && plan.ignore_not_found => {}
            Err(e) => errors.push(if target.source.is_empty() { e } else { e.during("error when deleting", &target.source) }),
        }
    }
    if found == 0 && errors.is_empty() {
        ctx.print("No resources found\n");
    }
    Error::collect(errors)?;
    if !plan.wait || plan.dry_run != DryRun::None {
        return Ok(());
    }
    ctx.flush();
    let limit = match args.duration("timeout") {
        d if d.is_zero() => FOREVER,
        d => d,
    };
    wait_for_absence(&connection, &gone, limit)
}

fn targets(ctx: &mut Context, args: &Args, plan: &Plan) -> Result<(Vec<Target>, Vec<Error>)> {
    if !args.list("filename").is_empty() || args.text("kustomize").is_some() {
        let documents = crate::manifest::read(ctx, args)?;
        return selection::resolve(ctx, documents);
    }
    if args.positional.is_empty() {
        return Err(message(
            "You must provide one or more resources by argument or filename.\nExample resource specifications include:\n   '-f rsrc.yaml'\n   '--filename=rsrc.json'\n   '<resource> <name>'\n   '<resource>'",
        ));
    }
    let rules = Rules {
        empty_selector: false,
        selector: args.text("selector").is_some() || args.text("field-selector").is_some(),
        all: args.bool("all"),
        all_namespaces: args.bool("all-namespaces"),
    };
    let mapper = ctx.mapper()?;
    let choices = selection::choose(&mapper, &args.positional, rules)?;
    if choices.iter().any(|c| c.name.is_some()) {
        // By name there is nothing to look up first: the deletion itself tells whether it is there.
        let namespace = ctx.namespace()?;
        let target = |c: selection::Choice| Target {
            namespace: if c.resource.namespaced { namespace.clone() } else { String::new() },
            resource: c.resource,
            name: c.name.unwrap_or_default(),
            source: String::new(),
            object: Value::Null,
        };
        return Ok((choices.into_iter().map(target).collect(), Vec::new()));
    }
    let how = Fetch {
        selector: args.str("selector").to_owned(),
        field_selector: args.str("field-selector").to_owned(),
        all_namespaces: args.bool("all-namespaces"),
    };
    let (targets, errors) = selection::fetch(ctx, &choices, &how)?;
    let _ = plan;
    Ok((targets, errors))
}

fn kind_name(target: &Target) -> String {
    let kind = target.resource.kind.to_lowercase();
    if target.resource.group.is_empty() { kind } else { format!("{kind}.{}", target.resource.group) }
}

fn confirm(ctx: &mut Context, targets: &[Target]) -> Result<bool> {
    let lines: String = targets.iter().map(|t| format!("{}/{}\n", kind_name(t), t.name)).collect();
    ctx.print(&format!("You are about to delete the following {} resource(s):\n{lines}Do you want to continue? (y/N): ", targets.len()));
    ctx.flush();
    let answer = String::from_utf8_lossy(&ctx.read_stdin()?).trim().to_lowercase();
    Ok(answer == "y" || answer == "yes")
}

fn report(ctx: &mut Context, args: &Args, target: &Target, plan: &Plan) {
    if args.str("output") == "name" {
        ctx.print(&format!("{}/{}\n", kind_name(target), target.name));
        return;
    }
    let operation = if plan.grace == 0 { "force deleted" } else { "deleted" };
    ctx.print(&format!("{} \"{}\" {operation}{}\n", kind_name(target), target.name, plan.dry_run.suffix()));
}

/// Waits for each object in turn, by watching it. An object of the same name with another UID counts as gone.
fn wait_for_absence(connection: &Connection, gone: &[(&Target, String)], limit: Duration) -> Result<()> {
    let deadline = std::time::Instant::now() + limit;
    for (target, uid) in gone {
        let by_name = Url::new(target.resource.path(&target.namespace)).query("fieldSelector", format!("metadata.name={}", target.name));
        loop {
            let list = match connection.get(&by_name) {
                Ok(l) => l,
                // Whoever may delete need not be allowed to list.
                Err(e) if matches!(e.reason(), "Forbidden" | "MethodNotAllowed" | "NotFound") => break,
                Err(e) => return Err(e),
            };
            let items = list["items"].as_array().map_or(&[][..], Vec::as_slice);
            let same = |o: &Value| uid.is_empty() || o["metadata"]["uid"] == **uid;
            if !items.iter().any(same) {
                break;
            }
            let version = list["metadata"]["resourceVersion"].as_str().unwrap_or("").to_owned();
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return Err(timed_out(target));
            }
            let watch = by_name.clone().query("resourceVersion", version).query("watch", "true");
            let deleted = connection.block_on(async {
                let watching = async {
                    let mut stream = connection.stream(&watch, JSON).await?;
                    while let Some(event) = Connection::next_line(&mut stream).await? {
                        match event["type"].as_str() {
                            Some("DELETED") => return Ok(true),
                            Some("ERROR") => return Ok(false),
                            _ => {}
                        }
                    }
                    Ok::<bool, Error>(false)
                };
                tokio::time::timeout(left, watching).await
            });
            match deleted {
                Err(_) => return Err(timed_out(target)),
                Ok(Ok(true)) => break,
                // The watch ended: list again.
                Ok(Ok(false)) => {}
                Ok(Err(e)) => return Err(e),
            }
        }
    }
    Ok(())
}

fn timed_out(target: &Target) -> Error {
    message(format!("timed out waiting for the condition on {}/{}", target.resource.name, target.name))
}
