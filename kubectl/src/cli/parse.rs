//! pflag's grammar: `--name=value`, `--name value`, `-nvalue`, `-n=value`, grouped switches, `--` ends the flags, and flags and
//! arguments mix freely.

use super::flag::{Flag, Kind};
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::time::Duration;

/// A command's flags and arguments as given.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// The command path, `kubectl create configmap`.
    pub path: String,
    /// The arguments that are no flags.
    pub positional: Vec<String>,
    /// How many arguments stood before `--`, if it was there.
    pub dash: Option<usize>,
    given: HashMap<&'static str, Vec<String>>,
    flags: HashMap<&'static str, Flag>,
}

/// How far flags are searched in `words` when looking for the command word.
pub(super) fn takes_next(flags: &[Flag], word: &str) -> bool {
    if let Some(name) = word.strip_prefix("--") {
        return !name.contains('=') && flags.iter().any(|f| f.name == name && f.bare.is_none());
    }
    let mut letters = word.chars().skip(1);
    match (letters.next(), letters.next()) {
        (Some(c), None) => flags.iter().any(|f| f.short == Some(c) && f.bare.is_none()),
        _ => false,
    }
}

impl Args {
    /// Reads `words` by the rules of `flags`.
    pub fn parse(path: &str, flags: Vec<Flag>, words: &[String], interspersed: bool) -> Result<Args> {
        let mut args = Args { path: path.to_owned(), ..Args::default() };
        args.flags = flags.into_iter().map(|f| (f.name, f)).collect();
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            if word == "--" {
                args.dash = Some(args.positional.len());
                args.positional.extend(rest.cloned());
                break;
            }
            if let Some(long) = word.strip_prefix("--") {
                args.long(long, &mut rest)?;
            } else if word.len() > 1 && word.starts_with('-') {
                args.shorts(&word[1..], &mut rest)?;
            } else {
                args.positional.push(word.clone());
                if !interspersed {
                    args.positional.extend(rest.cloned());
                    break;
                }
            }
        }
        Ok(args)
    }

    /// Fails as cobra does when a required flag is missing.
    pub fn check_required(&self) -> Result<()> {
        let mut missing: Vec<_> =
            self.flags.values().filter(|f| f.required && !self.changed(f.name)).map(|f| format!("{:?}", f.name)).collect();
        missing.sort();
        if missing.is_empty() { Ok(()) } else { Err(Error::Message(format!("required flag(s) {} not set", missing.join(", ")))) }
    }

    fn error<T>(&self, message: String) -> Result<T> {
        Err(Error::Flags { path: self.path.clone(), message })
    }

    fn long<'a>(&mut self, word: &str, rest: &mut impl Iterator<Item = &'a String>) -> Result<()> {
        let (name, value) = match word.split_once('=') {
            Some((n, v)) => (n, Some(v)),
            None => (word, None),
        };
        if name.is_empty() || name.starts_with('-') {
            return self.error(format!("bad flag syntax: --{word}"));
        }
        // Upstream accepts underscores in flag names.
        let dashed = name.replace('_', "-");
        let Some(flag) = self.flags.get(dashed.as_str()).cloned() else {
            return self.error(format!("unknown flag: --{name}"));
        };
        let value = match (value, flag.bare) {
            (Some(v), _) => v.to_owned(),
            (None, Some(bare)) => bare.to_owned(),
            (None, None) => match rest.next() {
                Some(v) => v.clone(),
                None => return self.error(format!("flag needs an argument: --{name}")),
            },
        };
        self.set(&flag, value)
    }

    fn shorts<'a>(&mut self, letters: &str, rest: &mut impl Iterator<Item = &'a String>) -> Result<()> {
        let mut left = letters;
        while let Some(c) = left.chars().next() {
            let after = &left[c.len_utf8()..];
            let Some(flag) = self.flags.values().find(|f| f.short == Some(c)).cloned() else {
                if c == 'h' {
                    self.given.insert("help", vec!["true".into()]);
                    return Ok(());
                }
                return self.error(format!("unknown shorthand flag: {c:?} in -{left}"));
            };
            let value = match (after.strip_prefix('='), flag.bare) {
                (Some(v), _) => v.to_owned(),
                (None, Some(bare)) => {
                    self.set(&flag, bare.to_owned())?;
                    left = after;
                    continue;
                }
                (None, None) if !after.is_empty() => after.to_owned(),
                (None, None) => match rest.next() {
                    Some(v) => v.clone(),
                    None => return self.error(format!("flag needs an argument: {c:?} in -{left}")),
                },
            };
            return self.set(&flag, value);
        }
        Ok(())
    }

    fn set(&mut self, flag: &Flag, value: String) -> Result<()> {
        if let Some(why) = flag.kind.check(&value) {
            return self.error(format!("invalid argument {value:?} for {:?} flag: {why}", flag.spelled()));
        }
        let slot = self.given.entry(flag.name).or_default();
        match flag.kind {
            Kind::Strings => slot.extend(split_commas(&value)),
            Kind::StringArray => slot.push(value),
            _ => *slot = vec![value],
        }
        Ok(())
    }

    /// Whether the flag was given.
    pub fn changed(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// Whether the command knows the flag.
    pub fn knows(&self, name: &str) -> bool {
        self.flags.contains_key(name)
    }

    /// The flag's text, or its default; empty for a flag the command does not have.
    pub fn str(&self, name: &str) -> &str {
        match self.given.get(name).and_then(|v| v.last()) {
            Some(v) => v,
            None => self.flags.get(name).map_or("", |f| f.default),
        }
    }

    /// The flag's text when it is not empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        Some(self.str(name)).filter(|s| !s.is_empty())
    }

    /// The text of a global flag, unless the command has a list flag of that name.
    pub fn global(&self, name: &str) -> Option<&str> {
        self.text(name).filter(|_| self.flags.get(name).is_some_and(|f| !f.kind.is_list()))
    }

    /// Takes a flag back, for code that gives it another meaning.
    pub fn forget(&mut self, name: &str) {
        self.given.remove(name);
    }

    /// Whether the switch is on.
    pub fn bool(&self, name: &str) -> bool {
        matches!(self.str(name), "1" | "t" | "T" | "true" | "TRUE" | "True")
    }

    /// The flag's number.
    pub fn int(&self, name: &str) -> i64 {
        // Kind::check refused everything else when the flag was set.
        self.str(name).parse().unwrap_or(0)
    }

    /// The flag's texts.
    pub fn list(&self, name: &str) -> &[String] {
        self.given.get(name).map_or(&[], Vec::as_slice)
    }

    /// The flag's duration.
    pub fn duration(&self, name: &str) -> Duration {
        // Kind::check refused everything else when the flag was set.
        crate::duration::parse(self.str(name)).unwrap_or_default()
    }

    /// The flag's duration in nanoseconds, where below zero has a meaning.
    pub fn nanos(&self, name: &str) -> i128 {
        crate::duration::parse_nanos(self.str(name)).unwrap_or_default()
    }

    /// An error that points at the command's help.
    pub fn usage(&self, message: impl Into<String>) -> Error {
        Error::Usage { path: self.path.clone(), message: message.into() }
    }
}

/// Comma-separated values with double quotes, as Go's csv reader splits them.
fn split_commas(text: &str) -> Vec<String> {
    if text.is_empty() {
        return Vec::new();
    }
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let field = fields.last_mut().expect("starts with one field");
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(String::new()),
            other => field.push(other),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Result<Args> {
        let flags = vec![
            Flag::string("output", "", "").short('o'),
            Flag::switch("watch", "").short('w'),
            Flag::switch("all", "").short('A'),
            Flag::string("dry-run", "none", "").bare("unchanged"),
            Flag::strings("label-columns", "").short('L'),
            Flag::int("replicas", "1", ""),
        ];
        Args::parse("kubectl get", flags, &line.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>(), true)
    }

    #[test]
    fn understands_every_spelling() {
        for line in [
            &["-o", "yaml", "p"][..],
            &["-oyaml", "p"],
            &["-o=yaml", "p"],
            &["p", "--output=yaml"],
            &["--output", "yaml", "p"],
            &["-wAoyaml", "p"],
        ] {
            let args = parse(line).unwrap();
            assert_eq!((args.str("output"), args.positional.as_slice()), ("yaml", &["p".to_owned()][..]), "{line:?}");
        }
        assert_eq!(parse(&["--dry-run", "p"]).unwrap().str("dry-run"), "unchanged");
        assert_eq!(parse(&["p"]).unwrap().str("dry-run"), "none");
        assert_eq!(parse(&["-L", "a,b", "-Lc"]).unwrap().list("label-columns"), ["a", "b", "c"]);
        let args = parse(&["a", "--", "-x", "b"]).unwrap();
        assert_eq!((args.dash, args.positional.len()), (Some(1), 3));
        assert!(!parse(&["--watch=false"]).unwrap().bool("watch"));
    }

    #[test]
    fn refuses_with_pflags_words() {
        let cases: [(&[&str], &str); 6] = [
            (&["--foo"], "unknown flag: --foo"),
            (&["-z"], "unknown shorthand flag: 'z' in -z"),
            (&["-wz"], "unknown shorthand flag: 'z' in -z"),
            (&["-o"], "flag needs an argument: 'o' in -o"),
            (&["--output"], "flag needs an argument: --output"),
            (&["--replicas=x"], "invalid argument \"x\" for \"--replicas\" flag: strconv.ParseInt: parsing \"x\": invalid syntax"),
        ];
        for (line, expected) in cases {
            assert_eq!(parse(line).unwrap_err().to_string(), expected);
        }
    }
}
