//! `kubectl run`: one pod from flags.

use super::{create, dry_run_flag, field_manager_flag};
use crate::cli::{Args, Command, Flag};
use crate::context::{Context, DryRun};
use crate::encoding::json::Order;
use crate::error::{Result, message};
use crate::generate::{metadata, workload};
use crate::{apply, printers};
use serde_json::{Value, json};

/// The command.
pub fn cli() -> Command {
    Command::new("run", "Run a particular image on the cluster")
        .usage("NAME --image=image [--env=\"key=value\"] [--port=port] [--dry-run=server|client] [--overrides=inline-json] [--command] -- [COMMAND] [args...]")
        .flags(printers::flags())
        .flags([
            Flag::array("annotations", "Annotations, as key=value."),
            Flag::switch("attach", "Attach to the pod once it runs."),
            Flag::switch("command", "What follows replaces the image's entry point, not its arguments."),
            dry_run_flag(),
            Flag::array("env", "Environment variables, as key=value."),
            Flag::switch("expose", "Make a Service for the port too."),
            field_manager_flag("kubectl-run"),
            Flag::string("image", "", "The image to run.").required(),
            Flag::string("image-pull-policy", "", "Always, IfNotPresent or Never."),
            Flag::string("labels", "", "Labels, as key=value pairs.").short('l'),
            Flag::switch("leave-stdin-open", "Keep stdin open for later attaches."),
            Flag::string("override-type", "merge", "How --overrides apply: json, merge or strategic."),
            Flag::string("overrides", "", "JSON that changes the pod."),
            Flag::duration("pod-running-timeout", "1m0s", "How long to wait for the pod when attaching."),
            Flag::string("port", "", "The port the container exposes."),
            Flag::switch("privileged", "Run privileged."),
            Flag::switch("quiet", "Print nothing but the pod's output.").short('q'),
            Flag::string("restart", "Always", "Always, OnFailure or Never."),
            Flag::switch("rm", "Delete the pod when it ends; needs attaching."),
            Flag::switch("save-config", "Keep the object in an annotation, for a later apply."),
            Flag::switch("stdin", "Keep stdin open.").short('i'),
            Flag::switch("tty", "Give the container a terminal.").short('t'),
        ])
        .exec(exec)
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    let Some(name) = args.positional.first().filter(|_| args.dash != Some(0)) else {
        return Err(args.usage("NAME is required for run"));
    };
    let image = args.str("image");
    if image.is_empty() {
        return Err(message("--image is required"));
    }
    if image.contains(char::is_whitespace) {
        return Err(message(format!("Invalid image name {image:?}: invalid reference format")));
    }
    let dry_run = ctx.dry_run(args)?;
    let attach = args.bool("attach") || (args.bool("stdin") || args.bool("tty")) && !args.changed("attach");
    if args.bool("tty") && !args.bool("stdin") {
        return Err(args.usage("-i/--stdin is required for containers with -t/--tty=true"));
    }
    if args.bool("rm") && !attach {
        return Err(args.usage("--rm should only be used for attached containers"));
    }
    if args.bool("rm") && dry_run != DryRun::None {
        return Err(args.usage("--rm can't be used with --dry-run"));
    }
    if args.bool("expose") && args.text("port").is_none() {
        return Err(args.usage("--port must be set when exposing a service"));
    }
    if (args.bool("attach") || attach) && dry_run != DryRun::None {
        return Err(args.usage("--dry-run=[server|client] can't be used with attached containers options (--attach, --stdin, or --tty)"));
    }
    let mut pod = workload::pod(args, name)?;
    if ctx.namespace_given() {
        pod["metadata"]["namespace"] = json!(ctx.namespace()?);
    }
    if let Some(text) = args.text("overrides") {
        pod = overridden(args, &pod, text)?;
    }
    if args.bool("save-config") {
        apply::annotate(&mut pod);
    }
    let mut printer = printers::for_change(ctx, args, &format!("created{}", dry_run.suffix()), Order::Typed)?;
    let created = if dry_run == DryRun::Client { pod.clone() } else { create::post(ctx, args, &pod, dry_run)? };
    ctx.drain_warnings();
    let service = if args.bool("expose") { Some(expose(ctx, args, &pod, name, dry_run)?) } else { None };
    if attach {
        let namespace = ctx.namespace()?;
        let outcome = crate::remote::run_attached(ctx, args, &namespace, name);
        if args.bool("rm") {
            let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
            ctx.connection()?.delete(&crate::connection::Url::new(path), &json!({"propagationPolicy": "Background"}))?;
            if !args.bool("quiet") {
                ctx.print(&format!("pod {name:?} deleted\n"));
            }
        }
        return outcome;
    }
    if let Some(service) = service {
        let text = printer.print(&service)?;
        ctx.print(&text);
        // Upstream ends the Service's document before the pod's begins.
        if args.str("output") == "yaml" {
            ctx.print("---\n");
        }
    }
    let text = printer.print(&created)?;
    ctx.print(&text);
    Ok(())
}

fn overridden(args: &Args, pod: &Value, text: &str) -> Result<Value> {
    let invalid = |e: serde_json::Error| message(format!("Invalid JSON Patch: {e}"));
    let mut object = pod.clone();
    match args.str("override-type") {
        "json" => {
            let patch: json_patch::Patch = serde_json::from_str(text).map_err(invalid)?;
            json_patch::patch(&mut object, &patch).map_err(|e| message(e.to_string()))?;
        }
        "merge" | "strategic" => {
            let value = crate::manifest::parse_document(text).map_err(message)?;
            json_patch::merge(&mut object, &value);
        }
        other => return Err(message(format!("invalid override type: {other}"))),
    }
    Ok(object)
}

fn expose(ctx: &mut Context, args: &Args, pod: &Value, name: &str, dry_run: DryRun) -> Result<Value> {
    let port = &pod["spec"]["containers"][0]["ports"][0]["containerPort"];
    let mut meta = metadata(name);
    if let Some(ns) = pod["metadata"]["namespace"].as_str() {
        meta["namespace"] = json!(ns);
    }
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": meta,
        "spec": {"ports": [{"port": port, "protocol": "TCP", "targetPort": port}], "selector": pod["metadata"]["labels"]},
        "status": {"loadBalancer": {}},
    });
    if dry_run == DryRun::Client { Ok(service) } else { create::post(ctx, args, &service, dry_run) }
}
