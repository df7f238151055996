//! Points and spans of time.

use super::super::value::Val;
use super::{Outcome, failed};
use k8s_openapi::jiff::{SignedDuration, Timestamp, Zoned, tz::TimeZone};

/// The units of a duration's text, in nanoseconds.
const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// A duration as Go reads it: `1h30m`, `-1.5s`.
pub fn parse_duration(text: &str) -> Option<SignedDuration> {
    let (sign, mut rest) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|at| *at > 0)?;
        let (number, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let unit = UNITS.iter().find(|(name, _)| *name == &tail[..end])?.1;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        total += whole
            .parse::<i128>()
            .or_else(|e| if whole.is_empty() && !fraction.is_empty() { Ok(0) } else { Err(e) })
            .ok()?
            .checked_mul(unit)?;
        let mut place = unit;
        for digit in fraction.bytes() {
            place /= 10;
            total += i128::from(digit.checked_sub(b'0').filter(|d| *d < 10)?) * place;
        }
        rest = &tail[end..];
    }
    if text.len() < 2 {
        return None;
    }
    Some(SignedDuration::from_nanos(i64::try_from(total * sign).ok()?))
}

/// A duration in seconds, as CEL writes it: `90s`, `0.5s`.
pub fn show_duration(duration: SignedDuration) -> String {
    let nanos = duration.as_nanos();
    let (whole, fraction) = (nanos / 1_000_000_000, (nanos % 1_000_000_000).abs());
    if fraction == 0 {
        return format!("{whole}s");
    }
    let sign = if nanos < 0 && whole == 0 { "-" } else { "" };
    format!("{sign}{whole}.{}s", format!("{fraction:09}").trim_end_matches('0'))
}

/// A part of a point or a span of time.
pub(super) fn call<'a>(name: &str, value: &Val<'a>, arguments: &[Val<'a>]) -> Option<Outcome<'a>> {
    match value {
        Val::Duration(d) => Some(Ok(Val::Int(match name {
            "getHours" => d.as_hours(),
            "getMinutes" => d.as_mins(),
            "getSeconds" => d.as_secs(),
            "getMilliseconds" => i64::try_from(d.as_millis()).unwrap_or(i64::MAX),
            _ => return None,
        }))),
        Val::Timestamp(t) => {
            let zone = match arguments {
                [Val::String(name)] => name.to_string(),
                _ => "UTC".to_owned(),
            };
            let Some(at) = in_zone(*t, &zone) else { return Some(failed(format!("unknown time zone {zone}"))) };
            let part = i64::from(match name {
                "getFullYear" => at.year(),
                "getMonth" => i16::from(at.month()) - 1,
                "getDayOfYear" => at.day_of_year() - 1,
                "getDayOfMonth" => i16::from(at.day()) - 1,
                "getDate" => i16::from(at.day()),
                "getDayOfWeek" => i16::from(at.weekday().to_sunday_zero_offset()),
                "getHours" => i16::from(at.hour()),
                "getMinutes" => i16::from(at.minute()),
                "getSeconds" => i16::from(at.second()),
                "getMilliseconds" => at.millisecond(),
                _ => return None,
            });
            Some(Ok(Val::Int(part)))
        }
        _ => None,
    }
}

/// A time in a zone that is named or given as `+02:00`.
fn in_zone(time: Timestamp, zone: &str) -> Option<Zoned> {
    if let Some((hours, minutes)) = zone.split_once(':') {
        let sign = if hours.starts_with('-') { -1 } else { 1 };
        let seconds = hours.parse::<i32>().ok()? * 3600 + sign * minutes.parse::<i32>().ok()? * 60;
        let offset = k8s_openapi::jiff::tz::Offset::from_seconds(seconds).ok()?;
        return Some(time.to_zoned(TimeZone::fixed(offset)));
    }
    Some(time.to_zoned(TimeZone::get(zone).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, shown) in [
            ("1h30m", Some("5400s")),
            ("-1.5s", Some("-1.5s")),
            ("100ms", Some("0.1s")),
            ("0", Some("0s")),
            ("1", None),
            ("", None),
            ("1x", None),
        ] {
            assert_eq!(parse_duration(text).map(show_duration).as_deref(), shown, "{text}");
        }
    }
}
