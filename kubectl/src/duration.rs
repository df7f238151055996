//! Go's duration syntax (`1h30m`, `250ms`), which flags such as `--timeout` take, and its way of printing them.

use std::time::Duration;

/// Units in nanoseconds, longest names first so that `ms` is not read as `m`.
const UNITS: [(&str, f64); 8] = [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];

/// A signed duration in nanoseconds, or Go's error text.
pub fn parse_nanos(text: &str) -> Result<i128, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = &rest[..end];
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {text:?}"));
        }
        let (_, scale) =
            UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(|| format!("time: unknown unit {unit:?} in duration {text:?}"))?;
        total += number * scale;
        rest = &rest[end..];
    }
    // Go's durations are 64-bit nanoseconds: 292 years.
    if total > i64::MAX as f64 {
        return Err(invalid());
    }
    Ok(if negative { -(total as i128) } else { total as i128 })
}

/// A duration; below zero reads as zero, for callers to whom both mean "no limit".
pub fn parse(text: &str) -> Result<Duration, String> {
    let nanos = parse_nanos(text)?;
    Ok(Duration::from_nanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX)))
}

/// How Go prints a duration: `1m30s`, `250ms`, `0s`.
pub fn format(d: Duration) -> String {
    let nanos = d.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < 1_000_000_000 {
        let (value, unit) = match nanos {
            n if n < 1_000 => (n as f64, "ns"),
            n if n < 1_000_000 => (n as f64 / 1e3, "µs"),
            n => (n as f64 / 1e6, "ms"),
        };
        return format!("{value}{unit}");
    }
    let seconds = d.as_secs();
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, (seconds % 60) as f64 + f64::from(d.subsec_nanos()) / 1e9);
    match (h, m) {
        (0, 0) => format!("{s}s"),
        (0, _) => format!("{m}m{s}s"),
        _ => format!("{h}h{m}m{s}s"),
    }
}

/// How ages are shown: two units while they matter, one when they do not (upstream: `apimachinery/pkg/util/duration`).
pub fn human(seconds: i64) -> String {
    match seconds {
        // Clocks of two machines may differ by a second.
        s if s < -1 => "<invalid>".to_owned(),
        s if s < 0 => "0s".to_owned(),
        s if s < 120 => format!("{s}s"),
        s => {
            let minutes = s / 60;
            let (hours, days) = (s / 3600, s / 86400);
            let two = |a: i64, ua: &str, b: i64, ub: &str| if b == 0 { format!("{a}{ua}") } else { format!("{a}{ua}{b}{ub}") };
            match () {
                () if minutes < 10 => two(minutes, "m", s % 60, "s"),
                () if minutes < 180 => format!("{minutes}m"),
                () if hours < 8 => two(hours, "h", minutes % 60, "m"),
                () if hours < 48 => format!("{hours}h"),
                () if hours < 24 * 8 => two(days, "d", hours % 24, "h"),
                () if hours < 24 * 365 * 2 => format!("{days}d"),
                () if hours < 24 * 365 * 8 => two(days / 365, "y", days % 365, "d"),
                () => format!("{}y", days / 365),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_as_go_does() {
        let cases = [
            ("0", Ok(0)),
            ("30s", Ok(30_000_000_000)),
            ("1m30s", Ok(90_000_000_000)),
            ("1.5h", Ok(5_400_000_000_000)),
            ("-1s", Ok(-1_000_000_000)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_nanos(text), expected, "{text}");
        }
        assert_eq!(parse_nanos("30").unwrap_err(), "time: missing unit in duration \"30\"");
        assert_eq!(parse_nanos("3x").unwrap_err(), "time: unknown unit \"x\" in duration \"3x\"");
        assert_eq!(parse_nanos("").unwrap_err(), "time: invalid duration \"\"");
        assert_eq!(parse_nanos("abc").unwrap_err(), "time: invalid duration \"abc\"");
    }

    #[test]
    fn ages_are_short() {
        let cases = [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (10799, "179m"),
            (10800, "3h"),
            (12000, "3h20m"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (864_000, "10d"),
            (63_072_000, "2y"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(human(seconds), expected);
        }
    }

    #[test]
    fn prints_as_go_does() {
        for (ms, expected) in [(0, "0s"), (1500, "1.5s"), (90_000, "1m30s"), (3_600_000, "1h0m0s"), (250, "250ms")] {
            assert_eq!(format(Duration::from_millis(ms)), expected);
        }
    }
}
