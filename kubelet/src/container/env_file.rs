//! Environment files: variables that a container of the pod left in a file of an `emptyDir`, for others to start with (upstream: `pkg/kubelet/util/env`,
//! KEP-3721).
//!
//! Their grammar is a part of the shell's: `NAME='value'`, where the value stands in single quotes, may have several lines and knows no escapes; blank
//! lines and comments go between. Anything else is refused, so that no file means one thing to a shell and another here.

use std::collections::BTreeMap;

/// The variables in a file. The error says which line is wrong.
pub fn parse(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut variables = BTreeMap::new();
    let mut rest = text;
    let mut line = 1;
    loop {
        let begin = rest.trim_start();
        line += lines(&rest[..rest.len() - begin.len()]);
        if begin.is_empty() {
            return Ok(variables);
        }
        if begin.starts_with('#') {
            rest = begin.find('\n').map_or("", |at| &begin[at..]);
            continue;
        }
        let wrong = || format!("invalid environment variable format at line {line}: want NAME='value'");
        let (name, value) = begin.split_once('=').ok_or_else(wrong)?;
        let (value, after) = value.strip_prefix('\'').and_then(|value| value.split_once('\'')).ok_or_else(wrong)?;
        if !is_name(name) {
            return Err(wrong());
        }
        let (tail, next) = after.find('\n').map_or((after, ""), |at| after.split_at(at));
        let tail = tail.trim();
        if !tail.is_empty() && !tail.starts_with('#') {
            return Err(wrong());
        }
        variables.insert(name.to_owned(), value.to_owned());
        line += lines(value);
        rest = next;
    }
}

fn lines(text: &str) -> usize {
    text.bytes().filter(|b| *b == b'\n').count()
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_') && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_in_quotes_and_may_have_lines() {
        let got = parse("# first\n A='one' # said\n\nB='two\n three'\nC=''\n").expect("a good file");
        let got: Vec<_> = got.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(got, [("A", "one"), ("B", "two\n three"), ("C", "")]);
        for (bad, line) in
            [("A=one\n", 1), ("\nA='x\n", 2), ("A='x' y\n", 1), ("9='x'\n", 1), ("A='1\n2'\nexport B='x'\n", 3), ("word\n", 1)]
        {
            let error = parse(bad).expect_err(bad);
            assert!(error.contains(&format!("at line {line}:")), "{bad:?}: {error}");
        }
    }
}
