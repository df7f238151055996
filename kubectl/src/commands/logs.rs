//! `kubectl logs`: what containers have printed, once or as they go on.

use crate::cli::{Args, Command, Flag};
use crate::connection::{Connection, Url};
use crate::context::Context;
use crate::error::{Error, Result, message};
use crate::remote;
use futures::AsyncReadExt;
use serde_json::Value;

/// How many lines a selector shows of each container, unless told.
const SELECTOR_TAIL: i64 = 10;
/// What one read from a log stream may bring.
const PIECE: usize = 32 * 1024;

/// The command.
pub fn cli() -> Command {
    Command::new("logs", "Print the logs for a container in a pod")
        .aliases(&["log"])
        .usage("[-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]")
        .flags([
            Flag::switch("all-containers", "Of all containers of the pod."),
            Flag::switch("all-pods", "Of all pods of the object."),
            Flag::string("container", "", "Of this container.").short('c'),
            Flag::switch("follow", "Go on with what is printed later.").short('f'),
            Flag::switch("ignore-errors", "Go on when one of several logs fails (with --follow)."),
            Flag::switch("insecure-skip-tls-verify-backend", "Do not check the kubelet's certificate."),
            Flag::int64("limit-bytes", "0", "At most so many bytes; 0 for no limit."),
            Flag::int("max-log-requests", "5", "How many logs may be followed at once with a selector."),
            Flag::duration("pod-running-timeout", "20s", "How long to wait until one pod is running."),
            Flag::switch("prefix", "Name pod and container before each line."),
            Flag::switch("previous", "Of the container's previous run.").short('p'),
            Flag::string("selector", "", "Of the pods whose labels match.").short('l'),
            Flag::duration("since", "0s", "Only what is newer than this."),
            Flag::string("since-time", "", "Only what was printed after this (RFC 3339)."),
            Flag::int64("tail", "-1", "Only so many last lines; -1 for all (10 with a selector)."),
            Flag::switch("timestamps", "With the time of each line."),
        ])
        .exec(exec)
}

/// One log to show.
struct Source {
    url: Url,
    prefix: String,
}

fn check(args: &Args) -> Result<()> {
    let selector = args.text("selector").is_some();
    match args.positional.as_slice() {
        [] if !selector => {
            return Err(args.usage(
                "expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\nPOD or TYPE/NAME is a required argument for the logs command",
            ));
        }
        [_, ..] if selector => return Err(args.usage("only a selector (-l) or a POD name is allowed")),
        [_, _, _, ..] => {
            return Err(args.usage(
                "expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\nPOD or TYPE/NAME is a required argument for the logs command",
            ));
        }
        [_, _] if args.changed("container") => return Err(message("only one of -c or an inline [CONTAINER] arg is allowed")),
        _ => {}
    }
    if args.bool("all-containers") && args.text("container").is_some() {
        return Err(message("--all-containers=true should not be specified with container name"));
    }
    if args.changed("since-time") && args.changed("since") {
        return Err(args.usage("at most one of `sinceTime` or `sinceSeconds` may be specified"));
    }
    if args.changed("since") && args.nanos("since") <= 0 {
        return Err(message("--since must be greater than 0"));
    }
    if args.int("limit-bytes") < 0 || args.changed("limit-bytes") && args.int("limit-bytes") == 0 {
        return Err(message("--limit-bytes must be greater than 0"));
    }
    if args.int("tail") < -1 {
        return Err(message("--tail must be greater than or equal to -1"));
    }
    if args.changed("since-time") && args.str("since-time").parse::<jiff::Timestamp>().is_err() {
        let text = args.str("since-time");
        return Err(message(format!("parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\"")));
    }
    Ok(())
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    check(args)?;
    let namespace = ctx.namespace()?;
    let pods = pods(ctx, args, &namespace)?;
    let inline = args.positional.get(1).map(String::as_str);
    let wanted = args.text("container").or(inline).unwrap_or("");
    let mut sources = Vec::new();
    for pod in &pods {
        let containers = if args.bool("all-containers") {
            remote::containers(pod)
        } else {
            let name = pod["metadata"]["name"].as_str().unwrap_or("");
            let (container, note) =
                remote::default_container(pod, wanted).map_err(|_| message(format!("container {wanted} is not valid for pod {name}")))?;
            if let Some(note) = note {
                ctx.complain(&note);
            }
            vec![container]
        };
        for container in containers {
            let pod_name = pod["metadata"]["name"].as_str().unwrap_or("");
            let prefix = if args.bool("prefix") { format!("[pod/{pod_name}/{container}] ") } else { String::new() };
            sources.push(Source { url: url(args, &namespace, pod_name, &container), prefix });
        }
    }
    let connection = ctx.connection()?;
    if args.bool("follow") && sources.len() > 1 {
        let most = usize::try_from(args.int("max-log-requests")).unwrap_or(1);
        if sources.len() > most {
            return Err(message(format!(
                "you are attempting to follow {} log streams, but maximum allowed concurrency is {most}, use --max-log-requests to increase the limit",
                sources.len()
            )));
        }
        return together(ctx, &connection, sources, args.bool("ignore-errors"));
    }
    for source in &sources {
        one(ctx, &connection, source)?;
    }
    Ok(())
}

fn pods(ctx: &mut Context, args: &Args, namespace: &str) -> Result<Vec<Value>> {
    if let Some(selector) = args.text("selector") {
        let url = Url::new(format!("/api/v1/namespaces/{namespace}/pods")).query("labelSelector", selector);
        let pods = ctx.connection()?.get(&url)?["items"].as_array().cloned().unwrap_or_default();
        if pods.is_empty() {
            ctx.complain(&format!("No resources found in {namespace} namespace.\n"));
        }
        return Ok(pods);
    }
    let mut pods = remote::pods_of(ctx, &args.positional[0], namespace).map_err(|e| match e.reason() {
        "NotFound" => message(format!("error from server (NotFound): {e} in namespace {namespace:?}")),
        _ => e,
    })?;
    if args.bool("all-pods") {
        return Ok(pods);
    }
    if pods.len() > 1 {
        let name = pods[0]["metadata"]["name"].as_str().unwrap_or("").to_owned();
        ctx.complain(&format!("Found {} pods, using pod/{name}\n", pods.len()));
        pods.truncate(1);
    }
    Ok(pods)
}

fn url(args: &Args, namespace: &str, pod: &str, container: &str) -> Url {
    let flag = |name: &str| if args.bool(name) { "true" } else { "" };
    let number = |n: i64, shown: bool| if shown { n.to_string() } else { String::new() };
    let tail = match args.int("tail") {
        -1 if args.text("selector").is_some() && !args.changed("tail") => SELECTOR_TAIL,
        n => n,
    };
    // Whole seconds, rounded up, as the API takes them.
    let since = (args.nanos("since") + 999_999_999) / 1_000_000_000;
    Url::new(format!("/api/v1/namespaces/{namespace}/pods/{pod}/log"))
        .query("container", container)
        .query("follow", flag("follow"))
        .query("insecureSkipTLSVerifyBackend", flag("insecure-skip-tls-verify-backend"))
        .query("limitBytes", number(args.int("limit-bytes"), args.int("limit-bytes") > 0))
        .query("previous", flag("previous"))
        .query("sinceSeconds", if since > 0 { since.to_string() } else { String::new() })
        .query("sinceTime", args.str("since-time"))
        .query("tailLines", number(tail, tail >= 0))
        .query("timestamps", flag("timestamps"))
}

/// Copies one log, as its pieces come.
fn one(ctx: &mut Context, connection: &Connection, source: &Source) -> Result<()> {
    let mut stream = connection.block_on(connection.stream(&source.url, "application/json, */*"))?;
    let mut buffer = vec![0; PIECE];
    let mut fresh = true;
    loop {
        let n = connection.block_on(stream.read(&mut buffer))?;
        if n == 0 {
            return Ok(());
        }
        for line in buffer[..n].split_inclusive(|b| *b == b'\n') {
            if fresh {
                ctx.print(&source.prefix);
            }
            ctx.print_bytes(line);
            fresh = line.ends_with(b"\n");
        }
        ctx.flush();
    }
}

/// Follows several logs at once, line by line.
fn together(ctx: &mut Context, connection: &Connection, sources: Vec<Source>, ignore_errors: bool) -> Result<()> {
    use futures::{AsyncBufReadExt, StreamExt, stream::SelectAll};
    let mut all = SelectAll::new();
    for source in sources {
        match connection.block_on(connection.stream(&source.url, "application/json, */*")) {
            Ok(stream) => all.push(stream.lines().map(move |line| (source.prefix.clone(), line))),
            Err(e) if ignore_errors => ctx.complain(&e.text()),
            Err(e) => return Err(e),
        }
    }
    while let Some((prefix, line)) = connection.block_on(all.next()) {
        match line {
            Ok(line) => ctx.print(&format!("{prefix}{line}\n")),
            Err(e) if ignore_errors => ctx.complain(&Error::from(e).text()),
            Err(e) => return Err(e.into()),
        }
        ctx.flush();
    }
    Ok(())
}
