//! `kubectl api-versions`.

use crate::cli::{Args, Command};
use crate::context::Context;
use crate::error::Result;

/// The command.
pub fn cli() -> Command {
    Command::new("api-versions", "Print the supported API versions on the server, in the form of \"group/version\"").exec(exec)
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    if !args.positional.is_empty() {
        return Err(args.usage(format!("unexpected arguments: [{}]", args.positional.join(" "))));
    }
    let mut versions = ctx.mapper()?.versions()?.to_vec();
    versions.sort();
    let text: String = versions.iter().map(|v| format!("{v}\n")).collect();
    ctx.print(&text);
    Ok(())
}
