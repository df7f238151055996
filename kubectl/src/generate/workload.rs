//! Pods and what makes them: `run`, Deployment, Job, CronJob.

use super::{Generator, command, metadata, name};
use crate::cli::{Args, Flag};
use crate::connection::Url;
use crate::context::Context;
use crate::error::{Result, message};
use serde_json::{Value, json};

pub(super) fn generators() -> Vec<Generator> {
    vec![
        Generator {
            words: "deployment",
            aliases: &["deploy"],
            about: "Create a deployment with the specified name",
            usage: "NAME --image=image -- [COMMAND] [args...]",
            noun: "deployment",
            flags: || {
                vec![
                    Flag::strings("image", "The images to run.").required(),
                    Flag::int("port", "-1", "The port the container exposes."),
                    Flag::int("replicas", "1", "How many pods.").short('r'),
                ]
            },
            build: deployment,
        },
        Generator {
            words: "job",
            aliases: &[],
            about: "Create a job with the specified name",
            usage: "NAME --image=image [--from=cronjob/name] -- [COMMAND] [args...]",
            noun: "job",
            flags: || {
                vec![
                    Flag::string("from", "", "A CronJob to make one job of, as cronjob/name."),
                    Flag::string("image", "", "The image to run."),
                ]
            },
            build: job,
        },
        Generator {
            words: "cronjob",
            aliases: &["cj"],
            about: "Create a cron job with the specified name",
            usage: "NAME --image=image --schedule='0/5 * * * ?' -- [COMMAND] [args...]",
            noun: "cronjob",
            flags: || {
                vec![
                    Flag::string("image", "", "The image to run.").required(),
                    Flag::string("restart", "", "The job's restart policy: OnFailure or Never."),
                    Flag::string("schedule", "", "The schedule in cron's format.").required(),
                ]
            },
            build: cronjob,
        },
    ]
}

/// A container name made of an image name: its last part, without tag or digest.
fn container_name(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split('@').next().unwrap_or(last).split(':').next().unwrap_or(last).to_owned()
}

fn deployment(_: &mut Context, args: &Args) -> Result<Value> {
    let name = name(args)?;
    let images = args.list("image");
    let command = command(args);
    if images.len() > 1 && !command.is_empty() {
        return Err(message("cannot specify multiple --image options and command"));
    }
    let mut containers: Vec<Value> = Vec::new();
    for image in images {
        let mut c = json!({"name": container_name(image), "image": image, "resources": {}});
        if !command.is_empty() {
            c["command"] = json!(command);
        }
        containers.push(c);
    }
    if args.int("port") >= 0
        && let Some(first) = containers.first_mut()
    {
        first["ports"] = json!([{"containerPort": args.int("port")}]);
    }
    let labels = json!({ "app": name });
    let mut meta = metadata(&name);
    meta["labels"] = labels.clone();
    Ok(json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta,
        "spec": {
            "replicas": args.int("replicas"), "selector": {"matchLabels": labels}, "strategy": {},
            "template": {"metadata": {"creationTimestamp": null, "labels": labels}, "spec": {"containers": containers}},
        },
        "status": {},
    }))
}

fn job(ctx: &mut Context, args: &Args) -> Result<Value> {
    let name = name(args)?;
    let (image, from) = (args.text("image"), args.text("from"));
    if image.is_some() == from.is_some() {
        return Err(message("either --image or --from must be specified"));
    }
    let command = command(args);
    if let Some(from) = from {
        if !command.is_empty() {
            return Err(message("cannot specify --from and command"));
        }
        return job_from(ctx, &name, from);
    }
    let mut container = json!({"name": name, "image": image, "resources": {}});
    if !command.is_empty() {
        container["command"] = json!(command);
    }
    Ok(json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata(&name),
        "spec": {"template": {"metadata": {"creationTimestamp": null}, "spec": {"containers": [container], "restartPolicy": "Never"}}},
        "status": {},
    }))
}

/// The job a CronJob would start now.
fn job_from(ctx: &mut Context, name: &str, from: &str) -> Result<Value> {
    let mapper = ctx.mapper()?;
    let choice = crate::selection::choose(&mapper, &[from.to_owned()], crate::selection::Rules::default())?;
    let Some(choice) = choice.into_iter().next() else { return Err(message("from must be an existing cronjob")) };
    let (Some(object), namespace) = (choice.name.as_deref(), ctx.namespace()?) else {
        return Err(message("from must be an existing cronjob"));
    };
    let cron = ctx.connection()?.get(&Url::new(choice.resource.object_path(&namespace, object)))?;
    if cron["kind"] != "CronJob" {
        return Err(message(format!("unknown object type {}, only cronjob is supported", cron["kind"].as_str().unwrap_or(""))));
    }
    let template = &cron["spec"]["jobTemplate"];
    let mut meta = metadata(name);
    meta["annotations"] = template["metadata"]["annotations"].as_object().map_or_else(|| json!({}), |a| json!(a));
    meta["annotations"]["cronjob.kubernetes.io/instantiate"] = json!("manual");
    if template["metadata"]["labels"].is_object() {
        meta["labels"] = template["metadata"]["labels"].clone();
    }
    meta["ownerReferences"] = json!([{
        "apiVersion": "batch/v1", "kind": "CronJob", "name": cron["metadata"]["name"], "uid": cron["metadata"]["uid"], "controller": true,
    }]);
    Ok(json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": template["spec"], "status": {}}))
}

fn cronjob(_: &mut Context, args: &Args) -> Result<Value> {
    let name = name(args)?;
    let restart = args.text("restart").unwrap_or("OnFailure");
    let mut container = json!({"name": name, "image": args.str("image"), "resources": {}});
    let command = command(args);
    if !command.is_empty() {
        container["command"] = json!(command);
    }
    let template = json!({"metadata": {"creationTimestamp": null}, "spec": {"containers": [container], "restartPolicy": restart}});
    Ok(json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata(&name),
        "spec": {"jobTemplate": {"metadata": metadata(&name), "spec": {"template": template}}, "schedule": args.str("schedule")},
        "status": {},
    }))
}

/// The pod of `kubectl run`.
pub fn pod(args: &Args, name: &str) -> Result<Value> {
    let restart = match args.str("restart") {
        "" | "Always" => "Always",
        "OnFailure" => "OnFailure",
        "Never" => "Never",
        other => return Err(message(format!("invalid restart policy: {other}\nSee 'kubectl run -h' for help and examples"))),
    };
    let labels = match args.text("labels") {
        Some(text) => super::pairs(&text.split(',').map(str::to_owned).collect::<Vec<_>>(), "label")?,
        None => super::pairs(&[format!("run={name}")], "label")?,
    };
    let mut container = json!({"name": name, "image": args.str("image"), "resources": {}});
    let arguments = command(args);
    if !arguments.is_empty() {
        let field = if args.bool("command") { "command" } else { "args" };
        container[field] = json!(arguments);
    }
    if let Some(policy) = args.text("image-pull-policy") {
        container["imagePullPolicy"] = json!(policy);
    }
    if !args.list("env").is_empty() {
        let mut env = Vec::new();
        for pair in args.list("env") {
            match pair.split_once('=') {
                Some((k, v)) if !k.is_empty() => {
                    env.push(if v.is_empty() { json!({"name": k}) } else { json!({"name": k, "value": v}) });
                }
                _ => return Err(message(format!("invalid env: {pair}"))),
            }
        }
        container["env"] = json!(env);
    }
    if let Some(port) = args.text("port") {
        let number: i64 = port.parse().map_err(|_| message(format!("strconv.Atoi: parsing {port:?}: invalid syntax")))?;
        container["ports"] = json!([{ "containerPort": number }]);
    }
    if args.bool("stdin") {
        container["stdin"] = json!(true);
        if !args.bool("leave-stdin-open") {
            container["stdinOnce"] = json!(true);
        }
    }
    if args.bool("tty") {
        container["tty"] = json!(true);
    }
    if args.bool("privileged") {
        container["securityContext"] = json!({"privileged": true});
    }
    let mut meta = metadata(name);
    meta["labels"] = Value::Object(labels);
    let annotations = super::pairs(args.list("annotations"), "annotation")?;
    if !annotations.is_empty() {
        meta["annotations"] = Value::Object(annotations);
    }
    Ok(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": meta,
        "spec": {"containers": [container], "dnsPolicy": "ClusterFirst", "restartPolicy": restart},
        "status": {},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_named_for_their_image() {
        for (image, expected) in [("nginx", "nginx"), ("a/b:1", "b"), ("c@sha256:abc", "c"), ("host:5000/x/y:2", "y")] {
            assert_eq!(container_name(image), expected);
        }
    }
}
