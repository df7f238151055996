//! The command line that this process was started with, for `/flagz`: every flag with its value, whether it was given or is the default.
//!
//! It is the process's, so it is kept once for all of it. A component that runs inside another process has none.

use clap::{ArgMatches, Command, Parser};
use std::{collections::BTreeMap, ffi::OsString, sync::OnceLock};

static FLAGS: OnceLock<BTreeMap<String, String>> = OnceLock::new();

/// Reads a command line, or says what is wrong with it and ends the process.
pub fn parse<T: Parser>(words: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> T {
    let matches = T::command().get_matches_from(words);
    // Whoever comes first is the process.
    FLAGS.get_or_init(|| values(&T::command(), &matches));
    T::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
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
    }

    #[test]
    fn flags_have_the_values_they_were_given_or_their_defaults() {
        let matches = Flags::command().get_matches_from(["x", "--names", "a,b"]);
        let got = values(&Flags::command(), &matches);
        let want = [("names", "a,b"), ("port", "5"), ("v", "")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(got, BTreeMap::from(want));
        let read = Flags::from_arg_matches(&matches).expect("good flags");
        assert_eq!((read.names.len(), read.port, read.v), (2, 5, None));
    }
}
