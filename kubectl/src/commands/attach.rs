//! `kubectl attach`: the streams of a container's own process.

use crate::cli::{Args, Command, Flag};
use crate::connection::Url;
use crate::context::Context;
use crate::error::{Result, message};
use crate::remote::{self, Streams};

/// The command.
pub fn cli() -> Command {
    Command::new("attach", "Attach to a running container")
        .usage("(POD | TYPE/NAME) -c CONTAINER")
        .flags([
            Flag::string("container", "", "To this container.").short('c'),
            Flag::duration("pod-running-timeout", "1m0s", "How long to wait until one pod is running."),
            Flag::switch("quiet", "Print nothing but what the container prints.").short('q'),
            Flag::switch("stdin", "Pass standard input on.").short('i'),
            Flag::switch("tty", "Standard input is a terminal.").short('t'),
        ])
        .exec(exec)
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    let word = match args.positional.as_slice() {
        [] => return Err(args.usage("at least 1 argument is required for attach")),
        [word] => word.clone(),
        [kind, name] => format!("{kind}/{name}"),
        more => {
            return Err(args.usage(format!(
                "expected POD, TYPE/NAME, or TYPE NAME, (at most 2 arguments) saw {}: [{}]",
                more.len(),
                more.join(" ")
            )));
        }
    };
    let namespace = ctx.namespace()?;
    let pods = remote::pods_of(ctx, &word, &namespace)?;
    let pod = &pods[0];
    let name = pod["metadata"]["name"].as_str().unwrap_or("").to_owned();
    let phase = pod["status"]["phase"].as_str().unwrap_or("");
    if ["Succeeded", "Failed"].contains(&phase) {
        return Err(message(format!("cannot attach a container in a completed pod; current phase is {phase}")));
    }
    let (container, note) = remote::default_container(pod, args.str("container"))?;
    if let Some(note) = note.filter(|_| !args.bool("quiet")) {
        ctx.complain(&note);
    }
    let mut tty = args.bool("tty");
    let has_tty = pod["spec"]["containers"].as_array().is_some_and(|c| c.iter().any(|c| c["name"] == *container && c["tty"] == true));
    if tty && !has_tty {
        tty = false;
        ctx.complain(&format!("error: Unable to use a TTY - container {container} did not allocate one\n"));
    }
    tty |= has_tty && !args.bool("stdin");
    if !args.bool("quiet") {
        ctx.complain("If you don't see a command prompt, try pressing enter.\n");
    }
    let streams = Streams { stdin: args.bool("stdin"), stderr: !tty, tty };
    let url = Url::new(format!("/api/v1/namespaces/{namespace}/pods/{name}/attach"));
    remote::interactive(ctx, &streams.query(url, &container), streams)
}
