//! `kubectl debug`: a container to look around with, in a pod, in a copy of it, or on a node (upstream: `kubectl/pkg/cmd/debug`).
//!
//! Left out: `--filename`, and `--custom`, a container of one's own over the profile.

use crate::cli::{Args, Command, Flag};
use crate::connection::{STRATEGIC_MERGE_PATCH, Url};
use crate::context::Context;
use crate::error::{Result, message};
use crate::generate::debug::{self, Copying, Keep, Profile, Wanted};
use crate::remote::{self, Streams};
use crate::selection::{self, Choice, Rules};
use api::generate_name::{SUFFIX_LENGTH, random_suffix};
use serde_json::{Value, json};
use std::time::Duration;

/// How long the container has until it runs.
const START: Duration = Duration::from_secs(600);

/// The command.
pub fn cli() -> Command {
    Command::new("debug", "Create debugging sessions for troubleshooting workloads and nodes")
        .usage("(POD | TYPE[[.VERSION].GROUP]/NAME) [ -- COMMAND [args...] ]")
        .flags([
            Flag::switch("arguments-only", "What follows -- are arguments, not the command."),
            Flag::switch("attach", "Attach to the container once it runs; so it is with -i."),
            Flag::string("container", "", "The container's name.").short('c'),
            Flag::string("copy-to", "", "Make a copy of the pod under this name."),
            Flag::strings("env", "Environment variables, as key=value."),
            Flag::string("image", "", "The container's image."),
            Flag::string("image-pull-policy", "", "Always, IfNotPresent or Never."),
            Flag::switch("keep-annotations", "A copy keeps annotations."),
            Flag::switch_on("keep-init-containers", "A copy keeps init containers."),
            Flag::switch("keep-labels", "A copy keeps labels."),
            Flag::switch("keep-liveness", "A copy keeps liveness probes."),
            Flag::switch("keep-readiness", "A copy keeps readiness probes."),
            Flag::switch("keep-startup", "A copy keeps startup probes."),
            Flag::string("profile", "legacy", "What it may do: legacy, general, baseline, netadmin, restricted or sysadmin."),
            Flag::switch("quiet", "Say nothing of what is done.").short('q'),
            Flag::switch("replace", "Delete the pod that was copied."),
            Flag::switch("same-node", "The copy goes to the same node."),
            Flag::strings("set-image", "Images of the copy's containers, as name=image; * are all."),
            Flag::switch_on("share-processes", "The copy's containers see each other's processes."),
            Flag::switch("stdin", "Keep standard input open.").short('i'),
            Flag::string("target", "", "The container whose processes the new one sees."),
            Flag::switch("tty", "Give it a terminal.").short('t'),
        ])
        .exec(exec)
}

fn pairs(args: &Args, flag: &str) -> Result<Vec<(String, String)>> {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').ok_or_else(|| message(format!("{text} must be formatted as key=value")))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    args.list(flag).iter().map(pair).collect()
}

/// Refuses what does not go together.
fn check(ctx: &mut Context, args: &Args, command: &[String]) -> Result<()> {
    let given = |flag: &str| !args.str(flag).is_empty();
    let images = !args.list("set-image").is_empty();
    let refuse = |text: &str| Err(message(text));
    if args.bool("attach") && args.changed("attach") && !given("image") && !given("container") {
        return refuse("you must specify --container or create a new container using --image in order to attach.");
    }
    if given("copy-to") {
        if !given("image") && !images && command.is_empty() {
            return refuse("you must specify --image, --set-image or command arguments.");
        }
        if !command.is_empty() && !given("container") && !given("image") {
            return refuse("you must specify an existing container or a new image when specifying args.");
        }
    } else if args.bool("replace") {
        return refuse("--replace may only be used with --copy-to.");
    } else if args.bool("same-node") {
        return refuse("--same-node may only be used with --copy-to.");
    } else if images {
        return refuse("--set-image may only be used with --copy-to.");
    } else if !given("image") {
        return refuse("you must specify --image when not using --copy-to.");
    }
    if args.str("image").contains(char::is_whitespace) {
        return Err(message(format!("invalid image name {:?}: invalid reference format", args.str("image"))));
    }
    if !["", "Always", "IfNotPresent", "Never"].contains(&args.str("image-pull-policy")) {
        return Err(message(format!("invalid image pull policy: {}", args.str("image-pull-policy"))));
    }
    if given("target") {
        if given("copy-to") {
            return refuse("--target is incompatible with --copy-to. Use --share-processes instead.");
        }
        if !args.bool("quiet") {
            ctx.print(&format!(
                "Targeting container {:?}. If you don't see processes from this container it may be because the container runtime doesn't support this feature.\n",
                args.str("target")
            ));
        }
    }
    if args.bool("tty") && !args.bool("stdin") {
        return refuse("-i/--stdin is required for containers with -t/--tty=true");
    }
    Ok(())
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    let (words, command) = args.positional.split_at(args.dash.unwrap_or(args.positional.len()));
    let profile = Profile::parse(args.str("profile"))?;
    check(ctx, args, command)?;
    if words.is_empty() {
        return Err(message("NAME or filename is required for debug"));
    }
    if profile == Profile::Legacy {
        ctx.complain("--profile=legacy is deprecated and will be removed in the future. It is recommended to explicitly specify a profile, for example \"--profile=general\".\n");
    }
    let wanted = Wanted {
        image: args.str("image").to_owned(),
        pull_policy: args.str("image-pull-policy").to_owned(),
        command: command.to_vec(),
        as_arguments: args.bool("arguments-only"),
        env: pairs(args, "env")?,
        stdin: args.bool("stdin"),
        tty: args.bool("tty"),
    };
    let keep = Keep {
        labels: args.bool("keep-labels"),
        annotations: args.bool("keep-annotations"),
        liveness: args.bool("keep-liveness"),
        readiness: args.bool("keep-readiness"),
        startup: args.bool("keep-startup"),
        init_containers: args.bool("keep-init-containers"),
    };
    let namespace = ctx.namespace()?;
    for word in words {
        let mapper = ctx.mapper()?;
        let arguments = if word.contains('/') { vec![word.to_owned()] } else { vec!["pods".to_owned(), word.to_owned()] };
        let choice = selection::choose(&mapper, &arguments, Rules::default())?.into_iter().next();
        let Some(Choice { resource, name: Some(name) }) = choice else { return Err(message("no objects were passed")) };
        let connection = ctx.connection()?;
        let object = connection.get(&Url::new(resource.object_path(&namespace, &name)))?;
        let (pod, container) = match object["kind"].as_str() {
            Some("Pod") if args.str("copy-to").is_empty() => in_pod(ctx, args, &object, &wanted, profile, keep)?,
            Some("Pod") => in_copy(ctx, args, &object, &wanted, profile, keep)?,
            Some("Node") => on_node(ctx, args, &namespace, &name, &wanted, profile, keep)?,
            _ => {
                let (version, kind) = (object["apiVersion"].as_str().unwrap_or(""), object["kind"].as_str().unwrap_or(""));
                return Err(message(format!("{:?} not supported by debug", format!("{version}, Kind={kind}"))));
            }
        };
        let attach = args.bool("attach") || wanted.stdin && !args.changed("attach");
        if let Some(container) = container.filter(|_| attach) {
            attach_to(ctx, &namespace, &pod, &container, &wanted)?;
        }
    }
    Ok(())
}

/// The name that was given, or a new one.
fn container_name(ctx: &mut Context, args: &Args, pod: &Value) -> String {
    if !args.str("container").is_empty() {
        return args.str("container").to_owned();
    }
    let taken = remote::containers(pod);
    let name = loop {
        let name = format!("debugger-{}", random_suffix(SUFFIX_LENGTH, &mut rand::rng()));
        if !taken.contains(&name) {
            break name;
        }
    };
    if !args.bool("quiet") {
        ctx.print(&format!("Defaulting debug container name to {name}.\n"));
    }
    name
}

fn pod_url(pod: &Value, subresource: &str) -> Url {
    let text = |field: &str| pod["metadata"][field].as_str().unwrap_or("").to_owned();
    Url::new(format!("/api/v1/namespaces/{}/pods/{}{subresource}", text("namespace"), text("name")))
}

type Made = (String, Option<String>);

fn in_pod(ctx: &mut Context, args: &Args, pod: &Value, wanted: &Wanted, profile: Profile, keep: Keep) -> Result<Made> {
    let name = container_name(ctx, args, pod);
    let patch = debug::ephemeral(wanted, &name, args.str("target"), profile, keep);
    ctx.connection()?.patch(&pod_url(pod, "/ephemeralcontainers"), STRATEGIC_MERGE_PATCH, &patch)?;
    Ok((pod["metadata"]["name"].as_str().unwrap_or("").to_owned(), Some(name)))
}

fn in_copy(ctx: &mut Context, args: &Args, pod: &Value, wanted: &Wanted, profile: Profile, keep: Keep) -> Result<Made> {
    let how = Copying {
        name: args.str("copy-to").to_owned(),
        same_node: args.bool("same-node"),
        share_processes: args.changed("share-processes").then(|| args.bool("share-processes")),
        images: pairs(args, "set-image")?,
    };
    let named = if wanted.image.is_empty() { args.str("container").to_owned() } else { container_name(ctx, args, pod) };
    let (copied, container) = debug::copy(pod, &how, wanted, &named, profile, keep)?;
    let connection = ctx.connection()?;
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or("");
    connection.post(&Url::new(format!("/api/v1/namespaces/{namespace}/pods")), &copied)?;
    if args.bool("replace") {
        connection.delete(&pod_url(pod, ""), &json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}))?;
    }
    Ok((how.name, container))
}

fn on_node(ctx: &mut Context, args: &Args, namespace: &str, node: &str, wanted: &Wanted, profile: Profile, keep: Keep) -> Result<Made> {
    let container = if args.str("container").is_empty() { "debugger" } else { args.str("container") };
    let pod = format!("node-debugger-{node}-{}", random_suffix(SUFFIX_LENGTH, &mut rand::rng()));
    if !args.bool("quiet") {
        ctx.print(&format!("Creating debugging pod {pod} with container {container} on node {node}.\n"));
    }
    let made = debug::on_node(wanted, &pod, container, node, profile, keep);
    ctx.connection()?.post(&Url::new(format!("/api/v1/namespaces/{namespace}/pods")), &made)?;
    Ok((pod, Some(container.to_owned())))
}

/// Waits until the container runs, and attaches to it; shows what it said if it has ended already.
fn attach_to(ctx: &mut Context, namespace: &str, pod: &str, container: &str, wanted: &Wanted) -> Result<()> {
    let connection = ctx.connection()?;
    ctx.flush();
    let started = remote::wait_for(&connection, namespace, pod, START, |pod| {
        let state = state(pod, container);
        !state["running"].is_null() || !state["terminated"].is_null()
    })?;
    let at = format!("/api/v1/namespaces/{namespace}/pods/{pod}");
    if !state(&started, container)["terminated"].is_null() {
        let log = connection.get_bytes(&Url::new(format!("{at}/log")).query("container", container))?;
        ctx.print_bytes(&log);
        return Ok(());
    }
    ctx.complain("If you don't see a command prompt, try pressing enter.\n");
    let tty = wanted.tty && ctx.stdin_is_terminal;
    let streams = Streams { stdin: wanted.stdin, stderr: !wanted.tty, tty };
    remote::interactive(ctx, &streams.query(Url::new(format!("{at}/attach")), container), streams)
}

/// What the pod's status says of the container, whatever its kind.
fn state<'a>(pod: &'a Value, container: &str) -> &'a Value {
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let mut all = lists.into_iter().flat_map(|list| pod["status"][list].as_array().into_iter().flatten());
    all.find(|status| status["name"] == container).map_or(&Value::Null, |status| &status["state"])
}
