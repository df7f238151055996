//! The command line that this process was started with, for `/flagz`: every flag with its value, whether it was given or is the default.
//!
//! It is the process's, so it is kept once for all of it. A component that runs inside another process has none.

use clap::error::{ContextKind, ErrorKind};
use clap::{ArgMatches, Command, Parser};
use std::{collections::BTreeMap, error::Error, ffi::OsString, sync::OnceLock};

static FLAGS: OnceLock<BTreeMap<String, String>> = OnceLock::new();

/// Reads a command line, or says what is wrong with it and ends the process, as upstream's components do: with 1.
pub fn parse<T: Parser>(words: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> T {
    let matches = T::command().try_get_matches_from(words).unwrap_or_else(|error| {
        let Some(complaint) = complaint(&T::command(), &error) else { error.exit() };
        eprintln!("Error: {complaint}\n{}", T::command().render_usage());
        std::process::exit(1)
    });
    // Whoever comes first is the process.
    FLAGS.get_or_init(|| values(&T::command(), &matches));
    T::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// What is wrong with a command line, in upstream's words where it has some for it.
fn complaint(command: &Command, error: &clap::Error) -> Option<String> {
    let said = |kind| error.get(kind).map(ToString::to_string);
    let flag = || said(ContextKind::InvalidArg).map(|arg| arg.split([' ', '=', '[']).next().unwrap_or_default().to_owned());
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let word = said(ContextKind::InvalidArg)?;
            Some(match word.strip_prefix('-') {
                Some(_) if word.starts_with("--") => format!("unknown flag: {}", flag()?),
                Some(letters) => format!("unknown shorthand flag: {:?} in {word}", letters.chars().next()?),
                None => format!("{:?} does not take any arguments, got [{word:?}]", command.get_name()),
            })
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => match said(ContextKind::InvalidValue).filter(|value| !value.is_empty()) {
            Some(value) => {
                let why = error.source().map(|why| format!(": {why}")).unwrap_or_default();
                Some(format!("invalid argument {value:?} for {:?} flag{why}", flag()?))
            }
            None => Some(format!("flag needs an argument: {}", flag()?)),
        },
        _ => None,
    }
}

/// What was read, by the flags' names.
pub fn flags() -> BTreeMap<String, String> {
    FLAGS.get().cloned().unwrap_or_default()
}

fn values(command: &Command, matches: &ArgMatches) -> BTreeMap<String, String> {
    let flags = command.get_arguments().filter_map(|argument| {
        let given = matches.try_get_raw(argument.get_id().as_str()).ok().flatten();
        let words: Vec<_> = given.into_iter().flatten().map(|word| word.to_string_lossy()).collect();
        let name = argument.get_long().map(str::to_owned).or_else(|| argument.get_short().map(String::from))?;
        Some((name, words.join(",")))
    });
    flags.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, FromArgMatches};

    #[derive(Parser)]
    struct Flags {
        #[arg(long, value_delimiter = ',')]
        names: Vec<String>,
        #[arg(long, default_value_t = 5)]
        port: u16,
        #[arg(short)]
        v: Option<u8>,
        #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
        quick: Option<bool>,
    }

    #[test]
    fn what_is_wrong_is_said_as_upstream_says_it() {
        for (words, expected) in [
            (&["--nope", "1"] as &[&str], "unknown flag: --nope"),
            (&["--nope=1"], "unknown flag: --nope"),
            (&["-x"], "unknown shorthand flag: 'x' in -x"),
            (&["word"], "\"x\" does not take any arguments, got [\"word\"]"),
            (&["--port", "many"], "invalid argument \"many\" for \"--port\" flag: invalid digit found in string"),
            (&["--quick=maybe"], "invalid argument \"maybe\" for \"--quick\" flag"),
            (&["--port"], "flag needs an argument: --port"),
        ] {
            let command = Flags::command().name("x");
            let error = command.clone().try_get_matches_from(["x"].iter().chain(words)).expect_err("bad words");
            assert_eq!(complaint(&command, &error).as_deref(), Some(expected));
        }
    }

    #[test]
    fn flags_have_the_values_they_were_given_or_their_defaults() {
        let matches = Flags::command().get_matches_from(["x", "--names", "a,b"]);
        let got = values(&Flags::command(), &matches);
        let want = [("names", "a,b"), ("port", "5"), ("v", ""), ("quick", "")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(got, BTreeMap::from(want));
        let read = Flags::from_arg_matches(&matches).expect("good flags");
        assert_eq!((read.names.len(), read.port, read.v, read.quick), (2, 5, None, None));
    }
}
