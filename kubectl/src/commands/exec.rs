//! `kubectl exec`: a command in a container.

use crate::cli::{Args, Command, Flag};
use crate::connection::Url;
use crate::context::Context;
use crate::error::{Result, message};
use crate::remote::{self, Streams};

/// The command.
pub fn cli() -> Command {
    Command::new("exec", "Execute a command in a container")
        .usage("(POD | TYPE/NAME) [-c CONTAINER] [flags] -- COMMAND [args...]")
        .flags([
            Flag::string("container", "", "In this container.").short('c'),
            Flag::strings("filename", "The manifest of the pod.").short('f'),
            Flag::duration("pod-running-timeout", "1m0s", "How long to wait until one pod is running."),
            Flag::switch("quiet", "Print nothing but what the command prints.").short('q'),
            Flag::switch("stdin", "Pass standard input on.").short('i'),
            Flag::switch("tty", "Give the command a terminal.").short('t'),
        ])
        .exec(exec)
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    let dash = args.dash.unwrap_or(args.positional.len());
    let (before, command) = args.positional.split_at(dash);
    let from_file = !args.list("filename").is_empty();
    if before.is_empty() && !from_file {
        return Err(args.usage("pod, type/name or --filename must be specified"));
    }
    if before.len() > 1 || args.dash.is_none() && before.len() > 1 {
        return Err(args.usage("exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead"));
    }
    if command.is_empty() {
        return Err(message("you must specify at least one command for the container"));
    }
    let mut namespace = ctx.namespace()?;
    let word = if from_file {
        let documents = crate::manifest::read(ctx, args)?;
        let (targets, errors) = crate::selection::resolve(ctx, documents)?;
        crate::error::Error::collect(errors)?;
        let Some(target) = targets.into_iter().next() else { return Err(message("no objects passed to exec")) };
        namespace = target.namespace;
        format!("{}/{}", target.resource.name, target.name)
    } else {
        before[0].clone()
    };
    let pods = remote::pods_of(ctx, &word, &namespace)?;
    let pod = &pods[0];
    let name = pod["metadata"]["name"].as_str().unwrap_or("").to_owned();
    let phase = pod["status"]["phase"].as_str().unwrap_or("");
    if ["Succeeded", "Failed"].contains(&phase) {
        return Err(message(format!("cannot exec into a container in a completed pod; current phase is {phase}")));
    }
    let (container, note) = remote::default_container(pod, args.str("container"))?;
    if let Some(note) = note.filter(|_| !args.bool("quiet")) {
        ctx.complain(&note);
    }
    let mut streams = Streams { stdin: args.bool("stdin"), stderr: true, tty: args.bool("tty") };
    if streams.tty && (!streams.stdin || !ctx.stdin_is_terminal) {
        if streams.stdin {
            ctx.complain("Unable to use a TTY - input is not a terminal or the right kind of file\n");
        }
        streams.tty = streams.tty && !streams.stdin;
    }
    if streams.tty {
        streams.stderr = false;
    }
    let mut url = Url::new(format!("/api/v1/namespaces/{namespace}/pods/{name}/exec"));
    for word in command {
        url = url.query_even_empty("command", word);
    }
    remote::interactive(ctx, &streams.query(url, &container), streams)
}
