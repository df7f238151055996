//! Leaf values that upstream decodes by hand: quantities, times, bytes. Each becomes the canonical text that upstream would print.

use crate::quantity::Quantity;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

/// A quantity in canonical form.
pub(super) fn quantity(text: &str) -> Result<Value, String> {
    let parsed: Quantity = text.trim().parse().map_err(|e: crate::quantity::ParseError| e.to_string())?;
    Ok(parsed.to_string().into())
}

/// Base64 as Go takes it: line breaks are skipped.
pub(super) fn bytes(text: &str) -> Result<Value, String> {
    let joined: String;
    let plain = if text.contains(['\r', '\n']) {
        joined = text.replace(['\r', '\n'], "");
        &joined
    } else {
        text
    };
    STANDARD.decode(plain).map_err(|e| {
        let at = match e {
            base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
            base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => plain.trim_end_matches('=').len() / 4 * 4,
        };
        format!("illegal base64 data at input byte {at}")
    })?;
    Ok(plain.into())
}

const SECONDS: &str = "2006-01-02T15:04:05Z07:00";
const MICROS: &str = "2006-01-02T15:04:05.000000Z07:00";
/// The parts of a time in Go's notation, with how many digits each has (0: the part stands for itself).
const PARTS: [(&str, usize); 11] =
    [("2006", 4), ("-", 0), ("01", 2), ("-", 0), ("02", 2), ("T", 0), ("15", 2), (":", 0), ("04", 2), (":", 0), ("05", 2)];

/// A time with whole seconds, in UTC.
pub(super) fn time(text: &str) -> Result<Value, String> {
    let rest = date_and_time(text, SECONDS)?;
    let digits = rest.strip_prefix(['.', ',']).map_or(0, |r| 1 + r.len() - r.trim_start_matches(|c: char| c.is_ascii_digit()).len());
    zone(text, if digits > 1 { &rest[digits..] } else { rest }, SECONDS)?;
    let at = parse(text)?;
    Ok(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into())
}

/// A time with microseconds, in UTC.
pub(super) fn micro_time(text: &str) -> Result<Value, String> {
    let rest = date_and_time(text, MICROS)?;
    let fraction = rest.strip_prefix('.').filter(|r| r.len() >= 6 && r.as_bytes()[..6].iter().all(u8::is_ascii_digit));
    let rest = fraction.ok_or_else(|| cannot(text, MICROS, rest, ".000000"))?;
    zone(text, &rest[6..], MICROS)?;
    let at = parse(text)?;
    Ok(at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string().into())
}

fn cannot(text: &str, layout: &str, rest: &str, part: &str) -> String {
    format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {part:?}")
}

fn date_and_time<'a>(text: &'a str, layout: &str) -> Result<&'a str, String> {
    let mut rest = text;
    for (part, digits) in PARTS {
        let taken = if digits == 0 {
            rest.strip_prefix(part)
        } else {
            let bytes = rest.as_bytes();
            (bytes.len() >= digits && bytes[..digits].iter().all(u8::is_ascii_digit)).then(|| &rest[digits..])
        };
        rest = taken.ok_or_else(|| cannot(text, layout, rest, part))?;
    }
    Ok(rest)
}

fn zone(text: &str, rest: &str, layout: &str) -> Result<(), String> {
    let bytes = rest.as_bytes();
    let offset =
        bytes.len() >= 6 && matches!(bytes[0], b'+' | b'-') && bytes[3] == b':' && [1, 2, 4, 5].iter().all(|i| bytes[*i].is_ascii_digit());
    let after = if bytes.first() == Some(&b'Z') {
        &rest[1..]
    } else if offset {
        &rest[6..]
    } else {
        return Err(cannot(text, layout, rest, "Z07:00"));
    };
    if after.is_empty() { Ok(()) } else { Err(format!("parsing time {text:?}: extra text: {after:?}")) }
}

/// The shape is right by now, so what is left to be wrong is a number out of its range.
fn parse(text: &str) -> Result<Timestamp, String> {
    text.parse::<Timestamp>().map_err(|_| {
        let number = |at: std::ops::Range<usize>| text[at].parse::<u32>().unwrap_or(0);
        let part = match (number(5..7), number(8..10), number(11..13), number(14..16)) {
            (0 | 13.., ..) => "month",
            (_, _, 24.., _) => "hour",
            (_, _, _, 60..) => "minute",
            _ if number(17..19) > 59 => "second",
            _ => "day",
        };
        format!("parsing time {text:?}: {part} out of range")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (given, canonical) in [
            ("2020-01-02T03:04:05Z", "2020-01-02T03:04:05Z"),
            ("2020-01-02T03:04:05.999Z", "2020-01-02T03:04:05Z"),
            ("2020-01-02T03:04:05+02:00", "2020-01-02T01:04:05Z"),
        ] {
            assert_eq!(time(given), Ok(canonical.into()), "{given}");
        }
        assert_eq!(micro_time("2020-01-02T03:04:05.123456Z"), Ok("2020-01-02T03:04:05.123456Z".into()));
        for (given, message) in [
            ("", "parsing time \"\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"\" as \"2006\""),
            ("2020-01-02", "parsing time \"2020-01-02\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"\" as \"T\""),
            ("2020-13-02T00:00:00Z", "parsing time \"2020-13-02T00:00:00Z\": month out of range"),
            ("2020-02-31T00:00:00Z", "parsing time \"2020-02-31T00:00:00Z\": day out of range"),
            (
                "2020-01-02T00:00:00",
                "parsing time \"2020-01-02T00:00:00\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"\" as \"Z07:00\"",
            ),
            ("2020-01-02T00:00:00Zx", "parsing time \"2020-01-02T00:00:00Zx\": extra text: \"x\""),
        ] {
            assert_eq!(time(given), Err(message.into()), "{given}");
        }
    }
}
