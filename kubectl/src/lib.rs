//! kubectl: the command line of Kubernetes. A command is a file in `commands/` with `cli()`, its flags, and `exec()`, what it does; the table
//! of them is in `commands/mod.rs`.
//!
//! Kinds are known only by discovery, so custom resources work wherever built-in ones do; what is printed for a list comes from the
//! server's tables. The measure of everything here is upstream's kubectl: the same line prints the same bytes and exits with the same code.

pub mod apply;
pub mod cli;
pub mod commands;
pub mod connection;
pub mod context;
pub mod describe;
pub mod discovery;
pub mod duration;
pub mod encoding;
pub mod error;
pub mod explain;
pub mod family;
pub mod generate;
pub mod jsonpath;
pub mod kubeconfig;
pub mod manifest;
pub mod printers;
pub mod remote;
pub mod selection;
pub mod template;
pub mod timeline;
pub mod why;

pub use context::Context;
pub use error::{Error, Result};

/// Runs one command line and answers its exit code.
pub fn run(mut context: Context, words: Vec<String>) -> i32 {
    match dispatch(&mut context, &words) {
        Ok(()) => context.finish(),
        Err(error) => {
            context.finish();
            context.complain(&error.text());
            error.exit_code()
        }
    }
}

fn dispatch(context: &mut Context, words: &[String]) -> Result<()> {
    let root = commands::root();
    let global = commands::global_flags();
    let wants_help = words.iter().take_while(|w| *w != "--").any(|w| w == "--help" || w == "-h");
    let words: Vec<String> = match words.first().map(String::as_str) {
        // `kubectl help get` is `kubectl get --help`.
        Some("help") => words[1..].iter().cloned().chain(["--help".to_owned()]).collect(),
        _ => words.to_vec(),
    };
    let wants_help = wants_help || words.last().is_some_and(|w| w == "--help");
    let (command, path, rest) = match cli::find(&root, &global, &words) {
        Err(unknown) => return plugin(context, &words, unknown),
        Ok(found) => found,
    };
    if wants_help {
        context.print(&command.help(&path));
        return Ok(());
    }
    // A command's own flag stands in front of a global one of the same name (`create rolebinding --user`).
    let own = |f: &&cli::Flag| !command.flags.iter().any(|o| o.name == f.name);
    let flags = command.flags.iter().chain(global.iter().filter(own)).cloned().collect();
    let args = cli::Args::parse(&path, flags, &rest, command.interspersed)?;
    let Some(exec) = command.exec else {
        if args.positional.is_empty() {
            context.print(&command.help(&path));
            return Ok(());
        }
        return Err(Error::Usage { path, message: format!("unknown command {:?}", args.positional.join(" ")) });
    };
    args.check_required()?;
    context.configure(&args)?;
    if command.namespace_first && !(args.knows("raw") && args.text("raw").is_some()) {
        context.namespace()?;
    }
    exec(context, &args)
}

/// A word that is no command may be a plugin's, which takes this process's place.
fn plugin(context: &mut Context, words: &[String], unknown: Error) -> Result<()> {
    use std::os::unix::process::CommandExt;
    if let Some(flag) = words.first().filter(|w| w.starts_with('-')) {
        return Err(Error::Verbatim(format!("Error: flags cannot be placed before plugin name: {flag}")));
    }
    let Some((file, used)) = commands::plugin::find(context, words) else { return Err(unknown) };
    let why = std::process::Command::new(&file).args(&words[used..]).exec();
    Err(error::message(format!("{}: {}", file.display(), error::go_io_error(&why))))
}
