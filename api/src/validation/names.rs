//! Checks of single texts: DNS names, qualified names, label values, identifiers, addresses.
//!
//! Matched by hand rather than with regular expressions, since they run on every write; the expressions appear in the messages only.

use std::net::IpAddr;

/// How long a DNS label may be (RFC 1123).
pub const LABEL_MAX: usize = 63;
/// How long a DNS subdomain may be (RFC 1123).
pub const SUBDOMAIN_MAX: usize = 253;

const QUALIFIED_FORMAT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_FORMAT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_FORMAT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";

/// A message that shows examples and the expression that was not matched.
fn explain(message: &str, format: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{format}')");
    }
    let shown = examples.iter().map(|e| format!("'{e}', ")).collect::<Vec<_>>().join(" or ");
    format!("{message} (e.g. {shown}regex used for validation is '{format}')")
}

/// What a text longer than `max` is told.
pub fn too_long(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn check(value: &str, max: usize, matches: bool, message: impl FnOnce() -> String) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > max {
        messages.push(too_long(max));
    }
    if !matches {
        messages.push(message());
    }
    messages
}

/// Whether `value` starts and ends with a character that `edge` takes and has only ones that `inner` takes.
fn framed(value: &str, edge: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = value.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => edge(*first) && edge(*last) && bytes.iter().all(|b| inner(*b)),
        _ => false,
    }
}

fn lower_alphanumeric(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn label_matches(value: &str) -> bool {
    framed(value, lower_alphanumeric, |b| lower_alphanumeric(b) || b == b'-')
}

fn qualified_matches(value: &str) -> bool {
    framed(value, |b| b.is_ascii_alphanumeric(), |b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// A lowercase RFC 1123 label: `my-name`.
pub fn dns1123_label(value: &str) -> Vec<String> {
    check(value, LABEL_MAX, label_matches(value), || {
        // What would be right but for its dots is told just that.
        if value.split('.').all(label_matches) {
            return "must not contain dots".into();
        }
        let message = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an \
                       alphanumeric character";
        explain(message, LABEL_FORMAT, &["my-name", "123-abc"])
    })
}

/// A lowercase RFC 1123 subdomain: `example.com`.
pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    check(value, SUBDOMAIN_MAX, value.split('.').all(label_matches), || {
        let message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and \
                       end with an alphanumeric character";
        explain(message, SUBDOMAIN_FORMAT, &["example.com"])
    })
}

/// The same, with underscores allowed anywhere: what resolvers take as a search path.
pub fn dns1123_subdomain_with_underscore(value: &str) -> Vec<String> {
    let edge = |b: u8| lower_alphanumeric(b) || b == b'_';
    let part = |label: &str| framed(label, edge, |b| edge(b) || b == b'-');
    check(value, SUBDOMAIN_MAX, value.split('.').all(part), || {
        let message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-', '_' or '.', and must start \
                       and end with an alphanumeric character";
        explain(message, "[a-z0-9_]([-_a-z0-9]*[a-z0-9_])?(\\.[a-z0-9_]([-_a-z0-9]*[a-z0-9_])?)*", &["example.com"])
    })
}

/// An RFC 1123 subdomain whose first label is `*`.
pub fn wildcard_dns1123_subdomain(value: &str) -> Vec<String> {
    let matches = value.strip_prefix("*.").is_some_and(|rest| rest.split('.').all(label_matches));
    check(value, SUBDOMAIN_MAX, matches, || {
        let message = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower \
                       case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
        explain(message, &format!("\\*\\.{SUBDOMAIN_FORMAT}"), &["*.example.com"])
    })
}

/// An RFC 1035 label, which starts with a letter.
pub fn dns1035_label(value: &str) -> Vec<String> {
    let matches = label_matches(value) && value.as_bytes()[0].is_ascii_lowercase();
    check(value, LABEL_MAX, matches, || {
        let message = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, \
                       and end with an alphanumeric character";
        explain(message, "[a-z]([-a-z0-9]*[a-z0-9])?", &["my-name", "abc-123"])
    })
}

/// A name with an optional prefix that is a DNS subdomain: `example.com/MyName`.
pub fn qualified_name(value: &str) -> Vec<String> {
    const MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
    let examples = ["MyName", "my.name", "123-abc"];
    let mut messages = Vec::new();
    let parts: Vec<&str> = value.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                messages.push("prefix part must be non-empty".into());
            } else {
                messages.extend(dns1123_subdomain(prefix).into_iter().map(|m| format!("prefix part {m}")));
            }
            *name
        }
        _ => {
            let text = explain(MESSAGE, QUALIFIED_FORMAT, &examples);
            return vec![format!("a qualified name {text} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')")];
        }
    };
    if name.is_empty() {
        messages.push("name part must be non-empty".into());
    } else if name.len() > LABEL_MAX {
        messages.push(format!("name part {}", too_long(LABEL_MAX)));
    }
    if !qualified_matches(name) {
        messages.push(format!("name part {}", explain(MESSAGE, QUALIFIED_FORMAT, &examples)));
    }
    messages
}

/// The value of a label, which may be empty.
pub fn label_value(value: &str) -> Vec<String> {
    check(value, LABEL_MAX, value.is_empty() || qualified_matches(value), || {
        let message = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and \
                       end with an alphanumeric character";
        explain(message, "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?", &["MyValue", "my_value", "12345"])
    })
}

/// A key of a ConfigMap or Secret, which is also a file's name.
pub fn config_key(value: &str) -> Vec<String> {
    let matches = !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    let mut messages = check(value, SUBDOMAIN_MAX, matches, || {
        let message = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        explain(message, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"])
    });
    match value {
        "." => messages.push("must not be '.'".into()),
        ".." => messages.push("must not be '..'".into()),
        _ if value.starts_with("..") => messages.push("must not start with '..'".into()),
        _ => {}
    }
    messages
}

/// The name of an environment variable: anything printable but `=`.
pub fn environment_name(value: &str) -> Vec<String> {
    if value.is_empty() {
        return vec!["environment variable name must be non-empty".into()];
    }
    if value.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=') {
        return Vec::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".into()]
}

/// The name of a port: an IANA service name.
pub fn port_name(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > 15 {
        messages.push(too_long(15));
    }
    if value.is_empty() || !value.bytes().all(|b| lower_alphanumeric(b) || b == b'-') {
        messages.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !value.bytes().any(|b| b.is_ascii_lowercase()) {
        messages.push("must contain at least one letter (a-z)".into());
    }
    if value.contains("--") {
        messages.push("must not contain consecutive hyphens".into());
    }
    if value.starts_with('-') || value.ends_with('-') {
        messages.push("must not begin or end with a hyphen".into());
    }
    messages
}

/// The name of an HTTP header.
pub fn http_header_name(value: &str) -> Vec<String> {
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    vec![explain("a valid HTTP header must consist of alphanumeric characters or '-'", "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// An identifier as in C.
pub fn c_identifier(value: &str) -> Vec<String> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if value.bytes().all(inner) && value.bytes().next().is_some_and(|b| !b.is_ascii_digit()) {
        return Vec::new();
    }
    let message =
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'";
    vec![explain(message, "[A-Za-z_][A-Za-z0-9_]*", &["my_name", "MY_NAME", "MyName"])]
}

/// A text that can stand in a URL path segment.
pub fn path_segment(value: &str) -> Vec<String> {
    if matches!(value, "." | "..") {
        return vec![format!("may not be '{value}'")];
    }
    ["/", "%"].iter().filter(|c| value.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// The address in a text, if it is one. Leading zeros in the parts of an IPv4 address, which some systems read as octal, are read as decimal, as upstream
/// does for objects that were stored when Go still took them.
pub fn parse_ip(value: &str) -> Option<IpAddr> {
    if let Ok(ip) = value.parse() {
        return Some(ip);
    }
    let parts = value.split('.').map(|part| match part {
        "" => None,
        _ if part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) => None,
        _ => part.parse::<u8>().ok(),
    });
    let bytes: Vec<u8> = parts.collect::<Option<_>>()?;
    <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from)
}

/// An IP address.
pub fn ip(value: &str) -> Vec<String> {
    match parse_ip(value) {
        Some(_) => Vec::new(),
        None => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()],
    }
}

/// The address and prefix length in a text, if it is a CIDR block.
pub fn parse_cidr(value: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = value.split_once('/')?;
    let address = parse_ip(address)?;
    let length: u8 = length.parse().ok().filter(|_| length.bytes().all(|b| b.is_ascii_digit()))?;
    (length <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, length))
}

/// A CIDR block.
pub fn cidr(value: &str) -> Vec<String> {
    match parse_cidr(value) {
        Some(_) => Vec::new(),
        None => vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".into()],
    }
}

/// An address in the one form that Go prints it in (upstream: `IsValidIP`).
pub fn canonical_ip(value: &str) -> Vec<String> {
    match (ip(value), parse_ip(value)) {
        (wrong, Some(address)) if wrong.is_empty() => canonical(value, &address.to_string()),
        (wrong, _) => wrong,
    }
}

/// A CIDR block in the one form that Go prints it in, without bits beyond its prefix (upstream: `IsValidCIDR`).
pub fn canonical_cidr(value: &str) -> Vec<String> {
    let Some((address, length)) = parse_cidr(value) else { return cidr(value) };
    let (bits, width) = match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    };
    let beyond = 1u128.checked_shl(width - u32::from(length)).map_or(u128::MAX, |first| first - 1);
    if bits & beyond != 0 {
        return vec!["must not have bits set beyond the prefix length".into()];
    }
    canonical(value, &format!("{address}/{length}"))
}

fn canonical(value: &str, form: &str) -> Vec<String> {
    if value == form { Vec::new() } else { vec![format!("must be in canonical form ({form:?})")] }
}

/// A number followed by a percent sign.
pub fn percent(value: &str) -> Vec<String> {
    let digits = value.strip_suffix('%').unwrap_or("");
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Vec::new();
    }
    vec![explain("a valid percent string must be a numeric string followed by an ending '%'", "[0-9]+%", &["1%", "93%"])]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_and_refused_as_upstream_does() {
        type Check = fn(&str) -> Vec<String>;
        let cases: &[(Check, &[&str], &[&str])] = &[
            (dns1123_label, &["a", "0", "a-b", "a--b"], &["", "A", "-a", "a-", "a.b", "a_b", "ä"]),
            (dns1123_subdomain, &["a", "a.b", "0.1", "a-b.c-d"], &["", ".a", "a.", "a..b", "A.b", "-a.b", "a-.b"]),
            (dns1035_label, &["a", "a0", "a-b"], &["", "0a", "-a", "a-"]),
            (wildcard_dns1123_subdomain, &["*.a", "*.a.b"], &["*", "*a", "*.*.a", "a.b", "*."]),
            (qualified_name, &["a", "A.b_c-d", "e.x/A", "9"], &["", "/a", "a/", "a/b/c", "-a", "E.x/a", "a b"]),
            (label_value, &["", "a", "A.b_c"], &["-a", "a-", "a b", "a/b"]),
            (config_key, &["a", "A.b_c-d", ".a", "-"], &["", ".", "..", "..a", "a/b", "a b"]),
            (environment_name, &["A", "a.b", "a b", "1"], &["", "a=b", "\u{7f}", "ä"]),
            (port_name, &["http", "a-1"], &["", "80", "-a", "a-", "a--b", "A", "a234567890123456"]),
            (c_identifier, &["a", "_", "A1"], &["", "1a", "a-b"]),
            (ip, &["1.2.3.4", "::1", "010.0.0.1"], &["", "1.2.3", "1.2.3.256", "a", "1.2.3.4/8"]),
            (cidr, &["1.2.3.0/24", "::/0"], &["1.2.3.4", "1.2.3.0/33", "nope", "1.2.3.0/+1"]),
            (canonical_ip, &["1.2.3.4", "::1", "2001:db8::1"], &["", "010.0.0.1", "2001:DB8::1", "::0001", "a"]),
            (canonical_cidr, &["1.2.3.0/24", "::/0", "0.0.0.0/0", "1.2.3.4/32"], &["1.2.3.4/24", "1.2.3.0", "2001:DB8::/32", "::1/127"]),
            (percent, &["1%", "100%"], &["", "%", "1", "-1%", "1%%"]),
            (path_segment, &["a", "a:b", "system:x"], &[".", "..", "a/b", "a%b"]),
        ];
        for (i, (check, good, bad)) in cases.iter().enumerate() {
            for value in *good {
                assert_eq!(check(value), Vec::<String>::new(), "case {i}: {value:?}");
            }
            for value in *bad {
                assert!(!check(value).is_empty(), "case {i}: {value:?}");
            }
        }
    }

    #[test]
    fn messages_show_examples_and_the_expression() {
        let want = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an \
                    alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
        assert_eq!(dns1123_label("Bad"), [want]);
    }
}
