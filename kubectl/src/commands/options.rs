//! `kubectl options`: the flags of every command.

use crate::cli::{Args, Command};
use crate::context::Context;
use crate::error::Result;

/// The command.
pub fn cli() -> Command {
    Command::new("options", "Print the list of flags inherited by all commands").exec(exec)
}

fn exec(ctx: &mut Context, _: &Args) -> Result<()> {
    let mut lines: Vec<String> = super::global_flags().iter().filter(|f| !f.hidden).map(|f| f.help_lines()).collect();
    lines.sort();
    ctx.print(&format!("The following options can be passed to any command:\n\n{}", lines.join("\n")));
    Ok(())
}
