//! What was typed: flags, commands and their help, without any idea of what they mean and without IO.
//!
//! kubectl's command line is pflag's and cobra's, whose rules scripts rely on (a switch takes a value only after `=`, `--dry-run`
//! alone means something other than `--dry-run=x`, flags may stand before the command word, error texts name the flag in both
//! spellings). clap's grammar and messages differ in each of these, so this small parser stands in its place.

mod command;
mod flag;
mod parse;

pub use command::{Command, Exec, find};
pub use flag::{Flag, Kind};
pub use parse::Args;
