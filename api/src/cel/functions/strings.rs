//! Texts. Positions count characters.

use super::super::value::{Text, Val};
use super::{Outcome, failed, number};
use regex::Regex;
use std::fmt::Write;

/// A function of a text; the text is `values[0]`.
pub(super) fn call<'a>(name: &str, text: &Text<'a>, values: &[Val<'a>], regex: Option<&Regex>) -> Option<Outcome<'a>> {
    let size = || i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    Some(match (name, &values[1..]) {
        ("startsWith", [Val::String(s)]) => Ok(Val::Bool(text.starts_with(&**s))),
        ("endsWith", [Val::String(s)]) => Ok(Val::Bool(text.ends_with(&**s))),
        ("contains", [Val::String(s)]) => Ok(Val::Bool(text.contains(&**s))),
        ("matches", [Val::String(pattern)]) => with(regex, pattern, |r| Val::Bool(r.is_match(text))),
        ("find", [Val::String(pattern)]) => with(regex, pattern, |r| Val::text(r.find(text).map_or("", |m| m.as_str()))),
        ("findAll", [Val::String(pattern)]) => with(regex, pattern, |r| found(r, text, -1)),
        ("findAll", [Val::String(pattern), Val::Int(n)]) => with(regex, pattern, |r| found(r, text, *n)),
        ("charAt", [Val::Int(at)]) => match usize::try_from(*at) {
            Ok(index) if *at <= size() => Ok(Val::text(text.chars().nth(index).map(String::from).unwrap_or_default())),
            _ => failed(format!("index out of range: {at}")),
        },
        ("indexOf", [Val::String(s)]) => Ok(Val::Int(index(text, s, 0))),
        ("indexOf", [Val::String(s), Val::Int(from)]) => match usize::try_from(*from) {
            Ok(start) if *from <= size() => Ok(Val::Int(index(text, s, start))),
            _ => failed(format!("index out of range: {from}")),
        },
        ("lastIndexOf", [Val::String(s)]) => Ok(Val::Int(last_index(text, s, usize::MAX))),
        ("lastIndexOf", [Val::String(s), Val::Int(to)]) => match usize::try_from(*to) {
            Ok(end) if *to <= size() => Ok(Val::Int(last_index(text, s, end))),
            _ => failed(format!("index out of range: {to}")),
        },
        ("lowerAscii", []) => Ok(Val::text(text.to_ascii_lowercase())),
        ("upperAscii", []) => Ok(Val::text(text.to_ascii_uppercase())),
        ("replace", [Val::String(old), Val::String(new)]) => Ok(Val::text(text.replace(&**old, new))),
        ("replace", [Val::String(old), Val::String(new), Val::Int(n)]) => Ok(match usize::try_from(*n) {
            Ok(n) => Val::text(text.replacen(&**old, new, n)),
            Err(_) => Val::text(text.replace(&**old, new)),
        }),
        ("split", [Val::String(by)]) => Ok(split(text, by, -1)),
        ("split", [Val::String(by), Val::Int(n)]) => Ok(split(text, by, *n)),
        ("substring", [Val::Int(start)]) => substring(text, *start, size(), size()),
        ("substring", [Val::Int(start), Val::Int(end)]) => substring(text, *start, *end, size()),
        ("trim", []) => Ok(Val::text(text.trim())),
        ("reverse", []) => Ok(Val::text(text.chars().rev().collect::<String>())),
        ("format", [Val::List(arguments)]) => format(text, &arguments.iter().collect::<Vec<_>>()),
        _ => return None,
    })
}

fn with<'a>(compiled: Option<&Regex>, pattern: &str, then: impl FnOnce(&Regex) -> Val<'a>) -> Outcome<'a> {
    match compiled {
        Some(regex) => Ok(then(regex)),
        None => crate::go_regex::compile(pattern).map_or_else(failed, |regex| Ok(then(&regex))),
    }
}

fn found<'a>(regex: &Regex, text: &str, limit: i64) -> Val<'a> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    Val::list(regex.find_iter(text).take(limit).map(|m| Val::text(m.as_str())).collect())
}

/// The position in characters of a position in bytes.
fn position(text: &str, byte: usize) -> i64 {
    i64::try_from(text[..byte].chars().count()).unwrap_or(i64::MAX)
}

fn index(text: &str, wanted: &str, start: usize) -> i64 {
    let from = text.char_indices().nth(start).map_or(text.len(), |(at, _)| at);
    text[from..].find(wanted).map_or(-1, |at| position(text, from + at))
}

/// The last place at or before `end` where `wanted` begins.
fn last_index(text: &str, wanted: &str, end: usize) -> i64 {
    let mut last = -1;
    for (n, (at, _)) in text.char_indices().chain([(text.len(), ' ')]).enumerate() {
        if n > end {
            break;
        }
        if text[at..].starts_with(wanted) {
            last = i64::try_from(n).unwrap_or(i64::MAX);
        }
    }
    last
}

fn split<'a>(text: &str, by: &str, limit: i64) -> Val<'a> {
    let parts: Vec<String> = match (by, limit) {
        (_, 0) => Vec::new(),
        ("", n) => {
            let mut parts: Vec<String> = text.chars().map(String::from).collect();
            if let Ok(n) = usize::try_from(n)
                && parts.len() > n
            {
                let rest = parts.split_off(n - 1).concat();
                parts.push(rest);
            }
            parts
        }
        (by, n) => match usize::try_from(n) {
            Ok(n) => text.splitn(n, by).map(String::from).collect(),
            Err(_) => text.split(by).map(String::from).collect(),
        },
    };
    Val::list(parts.into_iter().map(Val::text).collect())
}

fn substring<'a>(text: &str, start: i64, end: i64, size: i64) -> Outcome<'a> {
    if start > end {
        return failed(format!("invalid substring range. start: {start}, end: {end}"));
    }
    if start < 0 || start > size {
        return failed(format!("index out of range: {start}"));
    }
    if end > size {
        return failed(format!("index out of range: {end}"));
    }
    let (start, length) = (usize::try_from(start).unwrap_or(0), usize::try_from(end - start).unwrap_or(0));
    Ok(Val::text(text.chars().skip(start).take(length).collect::<String>()))
}

/// `"%s is %d".format([a, b])`.
fn format<'a>(pattern: &str, arguments: &[Val<'a>]) -> Outcome<'a> {
    let mut out = String::new();
    let mut rest = arguments.iter();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.peek() == Some(&'%') {
            chars.next();
            out.push('%');
            continue;
        }
        let mut precision = None;
        if chars.peek() == Some(&'.') {
            chars.next();
            let mut digits = String::new();
            while let Some(d) = chars.next_if(char::is_ascii_digit) {
                digits.push(d);
            }
            precision = digits.parse::<usize>().ok().filter(|p| *p <= 1000);
        }
        let Some(verb) = chars.next() else { return failed("could not parse formatting clause: unexpected end of string") };
        let Some(value) = rest.next() else { return failed("index 0 out of range") };
        let wrong = || failed(format!("could not parse formatting clause: unrecognized formatting clause \"{verb}\""));
        match (verb, value) {
            ('s', value) => out.push_str(&shown(value)),
            ('d', Val::Int(n)) => out.push_str(&n.to_string()),
            ('d', Val::Uint(n)) => out.push_str(&n.to_string()),
            ('d', Val::Double(n)) => out.push_str(&number(*n)),
            ('f', Val::Double(n)) => write!(out, "{n:.*}", precision.unwrap_or(6)).unwrap_or(()),
            ('f', Val::Int(n)) => write!(out, "{:.*}", precision.unwrap_or(6), *n as f64).unwrap_or(()),
            ('e', Val::Double(n)) => out.push_str(&exponent(*n, precision.unwrap_or(6))),
            ('b', Val::Int(n)) => write!(out, "{n:b}").unwrap_or(()),
            ('b', Val::Uint(n)) => write!(out, "{n:b}").unwrap_or(()),
            ('b', Val::Bool(b)) => out.push(if *b { '1' } else { '0' }),
            ('o', Val::Int(n)) => write!(out, "{n:o}").unwrap_or(()),
            ('o', Val::Uint(n)) => write!(out, "{n:o}").unwrap_or(()),
            ('x', Val::Int(n)) => write!(out, "{n:x}").unwrap_or(()),
            ('X', Val::Int(n)) => write!(out, "{n:X}").unwrap_or(()),
            ('x', Val::Uint(n)) => write!(out, "{n:x}").unwrap_or(()),
            ('X', Val::Uint(n)) => write!(out, "{n:X}").unwrap_or(()),
            ('x', Val::String(s)) => s.bytes().for_each(|b| write!(out, "{b:02x}").unwrap_or(())),
            ('X', Val::String(s)) => s.bytes().for_each(|b| write!(out, "{b:02X}").unwrap_or(())),
            ('x', Val::Bytes(s)) => s.iter().for_each(|b| write!(out, "{b:02x}").unwrap_or(())),
            ('d' | 'f' | 'e' | 'b' | 'o' | 'x' | 'X', value) => {
                return failed(format!("error during formatting: wrong type for clause {verb}: {}", value.type_name()));
            }
            _ => return wrong(),
        }
    }
    Ok(Val::text(out))
}

/// `1.5e+00`, as Go writes it.
fn exponent(n: f64, precision: usize) -> String {
    let text = format!("{n:.precision$e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => {
            let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |d| ('-', d));
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        None => text,
    }
}

/// A value as `%s` shows it.
fn shown(value: &Val<'_>) -> String {
    match value {
        Val::String(s) => s.to_string(),
        Val::Bytes(b) => String::from_utf8_lossy(b).into_owned(),
        Val::Double(n) => number(*n),
        Val::Null => "null".into(),
        Val::List(list) => format!("[{}]", list.iter().map(|v| shown(&v)).collect::<Vec<_>>().join(", ")),
        Val::Map(map) => {
            let mut entries: Vec<String> = map.entries().map(|(k, v)| format!("{k}: {}", shown(&v))).collect();
            entries.sort();
            format!("{{{}}}", entries.join(", "))
        }
        other => match other.to_json() {
            serde_json::Value::String(s) => s,
            json => json.to_string(),
        },
    }
}
