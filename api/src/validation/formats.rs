//! The formats that schemas of custom resources may ask of texts (upstream: `kube-openapi/pkg/validation/strfmt`).

use crate::go_regex;
use base64::Engine as _;
use k8s_openapi::jiff::{Timestamp, civil};
use regex::Regex;
use std::net::IpAddr;
use std::sync::LazyLock;

type Check = fn(&str) -> bool;

/// The formats and their checks. Others are not asked for anything.
const FORMATS: [(&str, Check); 25] = [
    ("bsonobjectid", |t| t.len() == 24 && hex(t)),
    ("byte", |t| base64::engine::general_purpose::STANDARD.decode(t).is_ok()),
    ("cidr", |t| crate::validation::names::parse_cidr(t).is_some() || wide_cidr(t)),
    ("creditcard", |t| matching(0, t) && luhn(t)),
    ("date", |t| t.len() == 10 && t.parse::<civil::Date>().is_ok()),
    ("date-time", is_time),
    ("datetime", is_time),
    ("duration", |t| matching(1, t)),
    ("email", |t| t.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty() && !t.contains(char::is_whitespace))),
    ("hexcolor", |t| matches!(t.strip_prefix('#').unwrap_or(t).len(), 3 | 6) && hex(t.strip_prefix('#').unwrap_or(t))),
    ("hostname", |t| t.len() <= 255 && matching(2, t)),
    ("ipv4", |t| matches!(t.parse(), Ok(IpAddr::V4(_)))),
    ("ipv6", |t| matches!(t.parse(), Ok(IpAddr::V6(_)))),
    ("isbn", |t| isbn(t, 10) || isbn(t, 13)),
    ("isbn10", |t| isbn(t, 10)),
    ("isbn13", |t| isbn(t, 13)),
    ("k8s-long-name", |t| crate::validation::names::dns1123_subdomain(t).is_empty()),
    ("k8s-short-name", |t| crate::validation::names::dns1123_label(t).is_empty()),
    ("mac", |t| matching(3, t)),
    ("rgbcolor", |t| matching(4, t)),
    ("ssn", |t| matching(5, t)),
    ("uri", is_uri),
    ("uuid", |t| uuid(t, None)),
    ("uuid3", |t| uuid(t, Some('3'))),
    ("uuid4", |t| uuid(t, Some('4'))),
];

const PATTERNS: [&str; 6] = [
    r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35\d{3})\d{11})$",
    r"^\s*([+-]?\d+(\.\d+)?\s*(ns|nano|us|µs|μs|micro|ms|milli|s|sec|second|seconds|m|min|minute|minutes|h|hr|hour|hours|d|day|days|w|week|wk|weeks)\s*)+$|^0$",
    r"^([a-zA-Z0-9\p{L}]([a-zA-Z0-9\p{L}-]{0,61}[a-zA-Z0-9\p{L}])?)(\.([a-zA-Z0-9\p{L}]([a-zA-Z0-9\p{L}-]{0,61}[a-zA-Z0-9\p{L}])?))*\.?$",
    r"^(([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}|([0-9A-Fa-f]{2}[:-]){7}[0-9A-Fa-f]{2}|([0-9A-Fa-f]{4}\.){2}[0-9A-Fa-f]{4})$",
    r"^rgb\(\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*\)$",
    r"^\d{3}[- ]?\d{2}[- ]?\d{4}$",
];

static COMPILED: LazyLock<Vec<Option<Regex>>> =
    LazyLock::new(|| PATTERNS.iter().map(|p| go_regex::compile(&p.replace("\\p{L}", "")).ok()).collect());

fn matching(pattern: usize, text: &str) -> bool {
    COMPILED[pattern].as_ref().is_none_or(|r| r.is_match(text))
}

/// Whether a text has a format; `None` if there is no such format.
pub fn matches(format: &str, text: &str) -> Option<bool> {
    FORMATS.iter().find(|(name, _)| *name == format).map(|(_, check)| check(text))
}

/// Whether a format is one that is checked.
pub fn is_known(format: &str) -> bool {
    format == "password" || format == "uuid5" || FORMATS.iter().any(|(name, _)| *name == format)
}

fn hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_time(text: &str) -> bool {
    text.len() >= 20 && text.as_bytes().get(10).is_some_and(|b| matches!(b, b'T' | b't')) && text.parse::<Timestamp>().is_ok()
}

/// An absolute URI or an absolute path, as Go's `url.ParseRequestURI` takes them.
fn is_uri(text: &str) -> bool {
    let scheme =
        |s: &str| s.starts_with(|c: char| c.is_ascii_alphabetic()) && s.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    let fine = !text.chars().any(|c| c.is_ascii_control() || c == ' ');
    fine && (text.starts_with('/') || text.split_once(':').is_some_and(|(s, rest)| scheme(s) && !rest.is_empty()))
}

/// A range whose address is written as IPv4 usually is.
fn wide_cidr(text: &str) -> bool {
    text.split_once('/').is_some_and(|(ip, bits)| match (ip.parse::<IpAddr>(), bits.parse::<u8>()) {
        (Ok(ip), Ok(bits)) => bits <= if ip.is_ipv4() { 32 } else { 128 },
        _ => false,
    })
}

fn uuid(text: &str, version: Option<char>) -> bool {
    let plain: String = text.chars().filter(|c| *c != '-').collect();
    let dashes =
        matches!(text.len(), 32 | 36) && text.char_indices().all(|(at, c)| c != '-' || matches!(at, 8 | 12 | 13 | 16 | 18 | 20 | 23));
    dashes && plain.len() == 32 && hex(&plain) && version.is_none_or(|v| plain.chars().nth(12) == Some(v))
}

fn luhn(text: &str) -> bool {
    let digits = text.bytes().rev().filter(u8::is_ascii_digit).map(|b| u32::from(b - b'0'));
    let sum: u32 = digits.enumerate().map(|(at, d)| if at % 2 == 0 { d } else { (d * 2) / 10 + (d * 2) % 10 }).sum();
    sum.is_multiple_of(10)
}

fn isbn(text: &str, length: usize) -> bool {
    let digits: Vec<u32> = text
        .chars()
        .filter(|c| !"- ".contains(*c))
        .map(|c| if c == 'X' { Some(10) } else { c.to_digit(10) })
        .collect::<Option<_>>()
        .unwrap_or_default();
    if digits.len() != length {
        return false;
    }
    let weigh = |at: usize| if length == 10 { 10 - at as u32 } else { 1 + 2 * (at as u32 % 2) };
    let sum: u32 = digits.iter().enumerate().map(|(at, d)| d * weigh(at)).sum();
    sum.is_multiple_of(if length == 10 { 11 } else { 10 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        for (format, good, bad) in [
            ("date-time", "2020-01-01T00:00:00Z", "2020-01-01"),
            ("date", "2020-01-31", "2020-02-31"),
            ("duration", "1h 30m", "x"),
            ("email", "a@b.c", "a.b.c"),
            ("hostname", "a.example.com", "-a"),
            ("ipv4", "10.0.0.1", "::1"),
            ("ipv6", "::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0"),
            ("mac", "01:23:45:67:89:ab", "01:23"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567"),
            ("uri", "https://a/b", "a b"),
            ("byte", "aGk=", "aGk"),
            ("isbn", "978-3-16-148410-0", "978-3-16-148410-1"),
            ("hexcolor", "#fff", "#ff"),
            ("rgbcolor", "rgb(0,1,255)", "rgb(0,1,256)"),
            ("creditcard", "4111111111111111", "4111111111111112"),
            ("k8s-short-name", "a-b", "A"),
        ] {
            assert_eq!(matches(format, good), Some(true), "{format} {good}");
            assert_eq!(matches(format, bad), Some(false), "{format} {bad}");
        }
        assert_eq!(matches("unheard-of", "x"), None);
    }
}
