//! Regular expressions as Go reads them (RE2): `\d`, `\w`, `\s` and `\b` mean ASCII alone, and what is wrong is told in Go's words.

use regex::{Regex, RegexBuilder};
use std::borrow::Cow;

/// The largest compiled pattern: what a client may make the server keep.
const SIZE_LIMIT: usize = 1 << 20;

/// What each of Go's classes is outside and inside brackets.
const CLASSES: [(char, &str, &str); 6] = [
    ('d', "[0-9]", "0-9"),
    ('D', "[^0-9]", "\\D"),
    ('w', "[0-9A-Za-z_]", "0-9A-Za-z_"),
    ('W', "[^0-9A-Za-z_]", "\\W"),
    ('s', "[\\t\\n\\f\\r ]", "\\t\\n\\f\\r "),
    ('S', "[^\\t\\n\\f\\r ]", "\\S"),
];

/// Compiles a pattern. The error is Go's: "error parsing regexp: ...".
pub fn compile(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(&translate(pattern))
        .size_limit(SIZE_LIMIT)
        .build()
        .map_err(|e| format!("error parsing regexp: {}", reason(pattern, &e)))
}

/// The pattern with Go's classes spelled out.
fn translate(pattern: &str) -> Cow<'_, str> {
    if !pattern.contains(['\\', '[']) {
        return Cow::Borrowed(pattern);
    }
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut chars = pattern.chars().peekable();
    let mut bracket = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                let Some(next) = chars.next() else {
                    out.push('\\');
                    break;
                };
                match CLASSES.iter().find(|(name, ..)| *name == next) {
                    Some((_, _, inside)) if bracket => out.push_str(inside),
                    Some((_, outside, _)) => out.push_str(outside),
                    None if next == 'b' && !bracket => out.push_str("(?-u:\\b)"),
                    None if next == 'Q' && !bracket => quote(&mut chars, &mut out),
                    None => {
                        out.push('\\');
                        out.push(next);
                    }
                }
            }
            '[' if bracket => {
                // A class by name, else a plain bracket, which Rust would take for a nested class.
                if chars.peek() == Some(&':') {
                    out.push('[')
                } else {
                    out.push_str("\\[")
                }
                if chars.peek() == Some(&':') {
                    for c in chars.by_ref() {
                        out.push(c);
                        if c == ']' {
                            break;
                        }
                    }
                }
            }
            '[' => {
                bracket = true;
                out.push('[');
                if chars.peek() == Some(&'^') {
                    chars.next();
                    out.push('^');
                }
                // A bracket that closes at once is a member.
                if chars.peek() == Some(&']') {
                    chars.next();
                    out.push_str("\\]");
                }
            }
            ']' if bracket => {
                bracket = false;
                out.push(']');
            }
            // Set operations are Rust's alone.
            '&' | '~' if bracket => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// `\Q...\E`: everything as it stands.
fn quote(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) {
    let mut text = String::new();
    for c in chars.by_ref() {
        text.push(c);
        if text.ends_with("\\E") {
            text.truncate(text.len() - 2);
            break;
        }
    }
    out.push_str(&regex::escape(&text));
}

/// Go's words for what Rust found wrong.
fn reason(pattern: &str, error: &regex::Error) -> String {
    let text = error.to_string();
    let found = |what: &str| text.contains(what);
    if found("unclosed group") {
        format!("missing closing ): `{pattern}`")
    } else if found("unopened group") {
        format!("unexpected ): `{pattern}`")
    } else if found("unclosed character class") {
        let at = pattern.rfind('[').unwrap_or(0);
        format!("missing closing ]: `{}`", &pattern[at..])
    } else if found("repetition operator missing expression") {
        let operator = pattern.chars().find(|c| "*+?".contains(*c)).unwrap_or('*');
        format!("missing argument to repetition operator: `{operator}`")
    } else if found("look-around") {
        let at = pattern.find("(?").unwrap_or(0);
        let shown: String = pattern[at..].chars().take(if pattern[at..].starts_with("(?<") { 4 } else { 3 }).collect();
        format!("invalid or unsupported Perl syntax: `{shown}`")
    } else if found("incomplete escape") {
        "trailing backslash at end of expression: ``".into()
    } else if found("unrecognized escape") {
        let at = pattern.find('\\').unwrap_or(0);
        let shown: String = pattern[at..].chars().take(2).collect();
        format!("invalid escape sequence: `{shown}`")
    } else if found("invalid character class range") {
        format!("invalid character class range: `{pattern}`")
    } else if found("size limit") {
        "expression too large".into()
    } else {
        format!("invalid regexp: `{pattern}`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_ascii_and_errors_are_gos() {
        for (pattern, yes, no) in [
            (r"^\d+$", "12", "١٢"),
            (r"^\w[\w-]*$", "a-b", "é"),
            (r"^[[:alpha:]]+$", "ab", "1"),
            (r"^[a[]$", "[", "b"),
            (r"^\Qa.b\E$", "a.b", "axb"),
            (r"^[]a]$", "]", "b"),
            (r"^.+$", "é", ""),
            (r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "a-b", "-"),
        ] {
            let regex = compile(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}"));
            assert!(regex.is_match(yes), "{pattern} {yes}");
            assert!(!regex.is_match(no), "{pattern} {no}");
        }
        assert_eq!(compile("a(b").unwrap_err(), "error parsing regexp: missing closing ): `a(b`");
        assert_eq!(compile("a)").unwrap_err(), "error parsing regexp: unexpected ): `a)`");
        assert_eq!(compile("*a").unwrap_err(), "error parsing regexp: missing argument to repetition operator: `*`");
    }
}
