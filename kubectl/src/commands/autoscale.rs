//! `kubectl autoscale`: a HorizontalPodAutoscaler for what can be scaled.

use super::{create, dry_run_flag, field_manager_flag, file_flags, scale};
use crate::cli::{Args, Command, Flag};
use crate::context::{Context, DryRun};
use crate::encoding::json::Order;
use crate::error::{Error, Result, message};
use crate::selection::Target;
use crate::{apply, printers};
use serde_json::{Value, json};

/// The command.
pub fn cli() -> Command {
    Command::new("autoscale", "Auto-scale a deployment, replica set, stateful set, or replication controller")
        .usage("(-f FILENAME | TYPE NAME | TYPE/NAME) [--min=MINPODS] --max=MAXPODS [--cpu-percent=CPU]")
        .flags(printers::flags())
        .flags(file_flags("The manifests whose objects to scale."))
        .flags([
            Flag::int("cpu-percent", "-1", "The average CPU use to aim for, in percent of what pods ask for."),
            dry_run_flag(),
            field_manager_flag("kubectl-autoscale"),
            Flag::int("max", "-1", "The most pods.").required(),
            Flag::int("min", "-1", "The fewest pods."),
            Flag::string("name", "", "The autoscaler's name; that of the object when not given."),
            Flag::switch("save-config", "Keep the object in an annotation, for a later apply."),
        ])
        .exec(exec)
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    let (min, max) = (args.int("min"), args.int("max"));
    if max < 1 {
        return Err(message(format!("--max=MAXPODS is required and must be at least 1, max: {max}")));
    }
    if max < min {
        return Err(message(format!("--max=MAXPODS must be larger or equal to --min=MINPODS, max: {max}, min: {min}")));
    }
    let dry_run = ctx.dry_run(args)?;
    let (targets, mut errors) = scale::targets(ctx, args)?;
    for target in &targets {
        match one(ctx, args, target, dry_run) {
            Ok(text) => ctx.print(&text),
            Err(e @ Error::Unreachable { .. }) => return Err(e),
            Err(e) => errors.push(e),
        }
    }
    Error::collect(errors)
}

fn one(ctx: &mut Context, args: &Args, target: &Target, dry_run: DryRun) -> Result<String> {
    if !target.resource.subresources.iter().any(|s| s == "scale") {
        let r = &target.resource;
        return Err(message(format!(
            "cannot autoscale a {}: could not find scale subresource for {}/{}, Resource={} in discovery information",
            r.kind, r.group, r.version, r.name
        )));
    }
    let mut object = autoscaler(args, target);
    if args.bool("save-config") {
        apply::annotate(&mut object);
    }
    if dry_run != DryRun::Client {
        object = create::post(ctx, args, &object, dry_run)?;
    }
    ctx.drain_warnings();
    printers::for_change(ctx, args, &format!("autoscaled{}", dry_run.suffix()), Order::Typed)?.print(&object)
}

/// The autoscaler of an object.
fn autoscaler(args: &Args, target: &Target) -> Value {
    let mut spec = json!({
        "maxReplicas": args.int("max"),
        "scaleTargetRef": {"apiVersion": target.resource.api_version(), "kind": target.resource.kind, "name": target.name},
    });
    if args.int("min") > 0 {
        spec["minReplicas"] = json!(args.int("min"));
    }
    if args.int("cpu-percent") >= 0 {
        spec["targetCPUUtilizationPercentage"] = json!(args.int("cpu-percent"));
    }
    json!({
        "apiVersion": "autoscaling/v1",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"creationTimestamp": null, "name": args.text("name").unwrap_or(&target.name)},
        "spec": spec,
        "status": {"currentReplicas": 0, "desiredReplicas": 0},
    })
}
