//! `kubectl rollout`: how a workload's update goes, and steering it. `history` and `undo` know deployments.

use super::{dry_run_flag, field_manager_flag, file_flags, scale};
use crate::cli::{Args, Command, Flag};
use crate::connection::{Connection, JSON, JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH, Url};
use crate::context::{Context, DryRun};
use crate::encoding::json::Order;
use crate::encoding::tabwriter::{DESCRIBE, align};
use crate::error::{Error, Result, message};
use crate::printers;
use crate::selection::Target;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const REVISION: &str = "deployment.kubernetes.io/revision";
const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
/// What restart writes into the template, so that its pods are replaced.
const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";
/// How long a status without `--timeout` waits: as long as upstream's watch of a week.
const FOREVER: Duration = Duration::from_secs(7 * 24 * 3600);

/// The command and its subcommands.
pub fn cli() -> Command {
    let changing = |name: &'static str, about: &'static str, manager: &'static str| {
        Command::new(name, about)
            .usage("RESOURCE")
            .flags(printers::flags())
            .flags(file_flags("The manifests whose objects are meant."))
            .flags([field_manager_flag(manager), Flag::string("selector", "", "Only objects whose labels match.").short('l')])
    };
    Command::new("rollout", "Manage the rollout of a resource")
        .usage("SUBCOMMAND")
        .command(
            changing("history", "View rollout history", "kubectl-rollout")
                .usage("(TYPE NAME | TYPE/NAME) [flags]")
                .flags([Flag::int64("revision", "0", "Show the template of this revision.")])
                .exec(history),
        )
        .command(changing("pause", "Mark the provided resource as paused", "kubectl-rollout").exec(|c, a| each(c, a, |t| pausing(t, true))))
        .command(changing("resume", "Resume a paused resource", "kubectl-rollout").exec(|c, a| each(c, a, |t| pausing(t, false))))
        .command(changing("restart", "Restart a resource", "kubectl-rollout").exec(|c, a| each(c, a, restarting)))
        .command(
            changing("status", "Show the status of the rollout", "kubectl-rollout")
                .usage("(TYPE NAME | TYPE/NAME) [flags]")
                .flags([
                    Flag::int64("revision", "0", "Expect this revision."),
                    Flag::duration("timeout", "0s", "How long to wait; 0 for as long as it takes."),
                    Flag::switch_on("watch", "Wait until it is done.").short('w'),
                ])
                .exec(status),
        )
        .command(
            changing("undo", "Undo a previous rollout", "kubectl-rollout")
                .usage("(TYPE NAME | TYPE/NAME) [flags]")
                .flags([dry_run_flag(), Flag::int64("to-revision", "0", "The revision to go back to; 0 for the one before.")])
                .exec(undo),
        )
}

fn required(args: &Args) -> Result<()> {
    if args.positional.is_empty() && args.list("filename").is_empty() && args.text("selector").is_none() {
        return Err(message("required resource not specified"));
    }
    Ok(())
}

/// A patch, and what to call it.
type Step = (Value, &'static str, &'static str);

/// Patches every object.
fn each(ctx: &mut Context, args: &Args, step: fn(&Target) -> Result<Step>) -> Result<()> {
    required(args)?;
    let (targets, mut errors) = scale::targets(ctx, args)?;
    for target in targets {
        let outcome = step(&target).and_then(|(patch, media_type, word)| {
            let url = Url::new(target.path()).query("fieldManager", args.str("field-manager"));
            Ok((ctx.connection()?.patch(&url, media_type, &patch)?, word))
        });
        match outcome {
            Ok((object, word)) => {
                let text = printers::for_change(ctx, args, word, Order::Sorted)?.print(&object)?;
                ctx.print(&text);
            }
            Err(e) => errors.push(e),
        }
    }
    Error::collect(errors)
}

fn pausing(target: &Target, pause: bool) -> Result<Step> {
    if target.resource.kind != "Deployment" {
        return Err(message(
            format!("{} pausing is not supported", described(target)).replace("pausing", if pause { "pausing" } else { "resuming" }),
        ));
    }
    match (target.object["spec"]["paused"] == true, pause) {
        (true, true) => Err(message(format!("{} is already paused", described(target)))),
        (false, false) => Err(message(format!("{} is not paused", described(target)))),
        _ => Ok((
            json!({"spec": {"paused": if pause { json!(true) } else { Value::Null }}}),
            MERGE_PATCH,
            if pause { "paused" } else { "resumed" },
        )),
    }
}

fn described(target: &Target) -> String {
    format!("{} {:?}", target.resource.group_resource(), target.name)
}

fn restarting(target: &Target) -> Result<Step> {
    if !["Deployment", "DaemonSet", "StatefulSet"].contains(&target.resource.kind.as_str()) {
        return Err(message(format!("{} restarting is not supported", described(target))));
    }
    if target.object["spec"]["paused"] == true {
        return Err(message(format!("{} can't restart paused deployment (run rollout resume first)", described(target))));
    }
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    Ok((json!({"spec": {"template": {"metadata": {"annotations": {RESTARTED_AT: now}}}}}), STRATEGIC_MERGE_PATCH, "restarted"))
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// What to say of a rollout now, and whether it is done.
fn progress(target: &Target, object: &Value, revision: i64) -> Result<(String, bool)> {
    let (name, spec, status) = (&target.name, &object["spec"], &object["status"]);
    let observed = number(&object["metadata"]["generation"]) <= number(&status["observedGeneration"]);
    let wanted = spec["replicas"].as_i64().unwrap_or(1);
    match target.resource.kind.as_str() {
        "Deployment" => {
            if revision > 0 && object["metadata"]["annotations"][REVISION] != revision.to_string().as_str() {
                let at = object["metadata"]["annotations"][REVISION].as_str().unwrap_or("").to_owned();
                return Err(message(format!("desired revision ({revision}) is different from the running revision ({at})")));
            }
            if !observed {
                return Ok(("Waiting for deployment spec update to be observed...\n".into(), false));
            }
            let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
            if conditions.iter().any(|c| c["type"] == "Progressing" && c["reason"] == "ProgressDeadlineExceeded") {
                return Err(message(format!("deployment {name:?} exceeded its progress deadline")));
            }
            let (updated, total, available) =
                (number(&status["updatedReplicas"]), number(&status["replicas"]), number(&status["availableReplicas"]));
            Ok(if updated < wanted {
                (
                    format!(
                        "Waiting for deployment {name:?} rollout to finish: {updated} out of {wanted} new replicas have been updated...\n"
                    ),
                    false,
                )
            } else if total > updated {
                (
                    format!(
                        "Waiting for deployment {name:?} rollout to finish: {} old replicas are pending termination...\n",
                        total - updated
                    ),
                    false,
                )
            } else if available < updated {
                (
                    format!(
                        "Waiting for deployment {name:?} rollout to finish: {available} of {updated} updated replicas are available...\n"
                    ),
                    false,
                )
            } else {
                (format!("deployment {name:?} successfully rolled out\n"), true)
            })
        }
        "DaemonSet" => {
            if spec["updateStrategy"]["type"] != "RollingUpdate" {
                return Err(message("rollout status is only available for RollingUpdate strategy type"));
            }
            if !observed {
                return Ok(("Waiting for daemon set spec update to be observed...\n".into(), false));
            }
            let (updated, desired, available) =
                (number(&status["updatedNumberScheduled"]), number(&status["desiredNumberScheduled"]), number(&status["numberAvailable"]));
            Ok(if updated < desired {
                (
                    format!(
                        "Waiting for daemon set {name:?} rollout to finish: {updated} out of {desired} new pods have been updated...\n"
                    ),
                    false,
                )
            } else if available < desired {
                (
                    format!("Waiting for daemon set {name:?} rollout to finish: {available} of {desired} updated pods are available...\n"),
                    false,
                )
            } else {
                (format!("daemon set {name:?} successfully rolled out\n"), true)
            })
        }
        "StatefulSet" => {
            if spec["updateStrategy"]["type"] != "RollingUpdate" {
                return Err(message("rollout status is only available for RollingUpdate strategy type"));
            }
            if number(&status["observedGeneration"]) == 0 || !observed {
                return Ok(("Waiting for statefulset spec update to be observed...\n".into(), false));
            }
            let (ready, updated) = (number(&status["readyReplicas"]), number(&status["updatedReplicas"]));
            if ready < wanted {
                return Ok((format!("Waiting for {} pods to be ready...\n", wanted - ready), false));
            }
            let partition = number(&spec["updateStrategy"]["rollingUpdate"]["partition"]);
            if partition > 0 {
                let least = wanted - partition;
                return Ok(if updated < least {
                    (format!("Waiting for partitioned roll out to finish: {updated} out of {least} new pods have been updated...\n"), false)
                } else {
                    (format!("partitioned roll out complete: {updated} new pods have been updated...\n"), true)
                });
            }
            if status["updateRevision"] != status["currentRevision"] {
                let to = status["updateRevision"].as_str().unwrap_or("");
                return Ok((format!("waiting for statefulset rolling update to complete {updated} pods at revision {to}...\n"), false));
            }
            let at = status["currentRevision"].as_str().unwrap_or("");
            Ok((format!("statefulset rolling update complete {} pods at revision {at}...\n", number(&status["currentReplicas"])), true))
        }
        kind => Err(message(format!("no status viewer has been implemented for {kind}"))),
    }
}

fn status(ctx: &mut Context, args: &Args) -> Result<()> {
    required(args)?;
    let (targets, errors) = scale::targets(ctx, args)?;
    Error::collect(errors)?;
    let limit = if args.duration("timeout").is_zero() { FOREVER } else { args.duration("timeout") };
    let deadline = Instant::now() + limit;
    let connection = ctx.connection()?;
    for target in targets {
        let mut said = String::new();
        let (mut object, by_name) = (
            target.object.clone(),
            Url::new(target.resource.path(&target.namespace)).query("fieldSelector", format!("metadata.name={}", target.name)),
        );
        loop {
            let (text, done) = progress(&target, &object, args.int("revision"))?;
            if text != said {
                ctx.print(&text);
                ctx.flush();
                said = text;
            }
            if done || !args.bool("watch") {
                break;
            }
            let version = object["metadata"]["resourceVersion"].as_str().unwrap_or("").to_owned();
            let url = by_name.clone().query("resourceVersion", version).query("watch", "true");
            let left = deadline.saturating_duration_since(Instant::now());
            let next = connection.block_on(async { tokio::time::timeout(left, next_change(&connection, &url)).await });
            object = match next {
                Err(_) => return Err(message("timed out waiting for the condition")),
                Ok(Ok(Some(event))) if event["type"] == "DELETED" => return Err(message("object has been deleted")),
                Ok(Ok(Some(event))) if event["type"] != "ERROR" => event["object"].clone(),
                // The watch ended: look again.
                Ok(Ok(_)) => connection.get(&Url::new(target.path()))?,
                Ok(Err(e)) => return Err(e),
            };
        }
    }
    Ok(())
}

async fn next_change(connection: &Connection, url: &Url) -> Result<Option<Value>> {
    let mut stream = connection.stream(url, JSON).await?;
    loop {
        match Connection::next_line(&mut stream).await? {
            Some(event) if event["type"] == "BOOKMARK" => {}
            other => return Ok(other),
        }
    }
}

/// A deployment's replica sets with their revisions, oldest first.
fn revisions(ctx: &mut Context, target: &Target) -> Result<Vec<(i64, Value)>> {
    if target.resource.kind != "Deployment" {
        return Err(message(format!("no history viewer has been implemented for {:?}", target.resource.kind)));
    }
    let url = Url::new(format!("/apis/apps/v1/namespaces/{}/replicasets", target.namespace));
    let list = ctx.connection()?.get(&url)?;
    let owned = |r: &&Value| {
        r["metadata"]["ownerReferences"].as_array().is_some_and(|o| o.iter().any(|o| o["uid"] == target.object["metadata"]["uid"]))
    };
    let revision = |r: &Value| r["metadata"]["annotations"][REVISION].as_str().and_then(|t| t.parse().ok()).unwrap_or(0);
    let mut all: Vec<(i64, Value)> =
        list["items"].as_array().into_iter().flatten().filter(owned).map(|r| (revision(r), r.clone())).collect();
    all.sort_by_key(|(n, _)| *n);
    Ok(all)
}

fn history(ctx: &mut Context, args: &Args) -> Result<()> {
    required(args)?;
    if args.int("revision") < 0 {
        return Err(message("revision must be a positive integer: ".to_owned() + &args.int("revision").to_string()));
    }
    let (targets, errors) = scale::targets(ctx, args)?;
    for target in &targets {
        let all = revisions(ctx, target)?;
        let title = crate::printers::resource_name(&target.object);
        if args.int("revision") > 0 {
            let Some((n, set)) = all.iter().find(|(n, _)| *n == args.int("revision")) else {
                return Err(message("unable to find the specified revision"));
            };
            let text = crate::describe::pod_template(&set["spec"]["template"]);
            ctx.print(&format!("{title} with revision #{n}\n{text}\n"));
            continue;
        }
        if all.is_empty() {
            ctx.print(&format!("{title} \nNo rollout history found.\n"));
            continue;
        }
        let mut text = "REVISION\tCHANGE-CAUSE\n".to_owned();
        for (n, set) in &all {
            let cause = set["metadata"]["annotations"][CHANGE_CAUSE].as_str().filter(|c| !c.is_empty()).unwrap_or("<none>");
            text += &format!("{n}\t{cause}\n");
        }
        ctx.print(&format!("{title} \n{}\n", align(DESCRIBE, &text)));
    }
    Error::collect(errors)
}

fn undo(ctx: &mut Context, args: &Args) -> Result<()> {
    required(args)?;
    let dry_run = ctx.dry_run(args)?;
    let (targets, mut errors) = scale::targets(ctx, args)?;
    for target in &targets {
        if let Err(e) = undo_one(ctx, args, target, dry_run) {
            errors.push(e);
        }
    }
    Error::collect(errors)
}

fn undo_one(ctx: &mut Context, args: &Args, target: &Target, dry_run: DryRun) -> Result<()> {
    if target.object["spec"]["paused"] == true {
        return Err(message("you cannot rollback a paused deployment; resume it first with 'kubectl rollout resume' and try again"));
    }
    let all = revisions(ctx, target)?;
    let wanted = args.int("to-revision");
    let found = match wanted {
        0 => all.len().checked_sub(2).and_then(|i| all.get(i)),
        n => all.iter().find(|(r, _)| *r == n),
    };
    let Some((_, set)) = found else {
        return Err(match wanted {
            0 => message(format!("no rollout history found for deployment {:?}", target.name)),
            n => message(format!("unable to find specified revision {n} in history")),
        });
    };
    let mut template = set["spec"]["template"].clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove("pod-template-hash");
    }
    if template == target.object["spec"]["template"] {
        let text = printers::for_change(ctx, args, "skipped rollback (current template already matches revision", Order::Sorted)?
            .print(&target.object)?;
        ctx.print(&text.replace("matches revision\n", &format!("matches revision {wanted})\n")));
        return Ok(());
    }
    if dry_run == DryRun::Client {
        // Here the operation is the template that would come back.
        let operation = format!("{}{}", crate::describe::pod_template(&set["spec"]["template"]), dry_run.suffix());
        let text = printers::for_change(ctx, args, &operation, Order::Sorted)?.print(&target.object)?;
        ctx.print(&text);
        return Ok(());
    }
    let patch = json!([{"op": "replace", "path": "/spec/template", "value": template}]);
    let url = Url::new(target.path()).query("dryRun", if dry_run == DryRun::Server { "All" } else { "" });
    let object = ctx.connection()?.patch(&url, JSON_PATCH, &patch)?;
    let text = printers::for_change(ctx, args, &format!("rolled back{}", dry_run.suffix()), Order::Sorted)?.print(&object)?;
    ctx.print(&text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_in_upstreams_words() {
        let target = Target {
            resource: crate::discovery::Resource { kind: "Deployment".into(), ..Default::default() },
            namespace: String::new(),
            name: "d".into(),
            source: String::new(),
            object: Value::Null,
        };
        let cases = [
            (json!({}), "Waiting for deployment \"d\" rollout to finish: 0 out of 2 new replicas have been updated...\n", false),
            (
                json!({"updatedReplicas": 2, "replicas": 3}),
                "Waiting for deployment \"d\" rollout to finish: 1 old replicas are pending termination...\n",
                false,
            ),
            (
                json!({"updatedReplicas": 2, "replicas": 2, "availableReplicas": 1}),
                "Waiting for deployment \"d\" rollout to finish: 1 of 2 updated replicas are available...\n",
                false,
            ),
            (json!({"updatedReplicas": 2, "replicas": 2, "availableReplicas": 2}), "deployment \"d\" successfully rolled out\n", true),
        ];
        for (status, text, done) in cases {
            let object = json!({"spec": {"replicas": 2}, "status": status});
            assert_eq!(progress(&target, &object, 0).unwrap(), (text.to_owned(), done));
        }
    }
}
