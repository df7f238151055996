//! Durations as Go reads and writes them, which is how the configuration has them: `1h2m3.5s`, `100ms`.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use std::{fmt, time::Duration};

/// A span of time. Negative ones are kept, because validation names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(pub jiff::SignedDuration);

impl GoDuration {
    /// Whole seconds.
    pub const fn seconds(seconds: i64) -> Self {
        GoDuration(jiff::SignedDuration::from_secs(seconds))
    }

    /// Whole milliseconds.
    pub const fn millis(millis: i64) -> Self {
        GoDuration(jiff::SignedDuration::from_millis(millis))
    }

    /// As the rest of the program has it; a negative one is none.
    pub fn get(self) -> Duration {
        Duration::try_from(self.0).unwrap_or(Duration::ZERO)
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        let (sign, nanos) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
        // The parts below a second keep the largest unit that leaves something before the point.
        let fraction = |unit: u128| {
            let (whole, rest) = (nanos / unit, nanos % unit);
            let digits = format!("{:0width$}", rest, width = unit.ilog10() as usize);
            let digits = digits.trim_end_matches('0');
            if digits.is_empty() { whole.to_string() } else { format!("{whole}.{digits}") }
        };
        if nanos == 0 {
            return f.write_str("0s");
        }
        if nanos < 1_000_000_000 {
            let (unit, name) = match nanos {
                0..1_000 => return write!(f, "{sign}{nanos}ns"),
                1_000..1_000_000 => (1_000, "µs"),
                _ => (1_000_000, "ms"),
            };
            return write!(f, "{sign}{}{name}", fraction(unit));
        }
        let minutes = nanos / 60_000_000_000;
        let seconds = nanos % 60_000_000_000;
        let digits = format!("{:09}", seconds % 1_000_000_000);
        let digits = digits.trim_end_matches('0');
        let point = if digits.is_empty() { "" } else { "." };
        f.write_str(sign)?;
        if minutes >= 60 {
            write!(f, "{}h", minutes / 60)?;
        }
        if minutes > 0 {
            write!(f, "{}m", minutes % 60)?;
        }
        write!(f, "{}{point}{digits}s", seconds / 1_000_000_000)
    }
}

impl std::str::FromStr for GoDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "0" {
            return Ok(GoDuration::default());
        }
        text.parse().map(GoDuration).map_err(|_| format!("time: invalid duration {text:?}"))
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_as_go_does() {
        for (given, shown) in [
            ("0s", "0s"),
            ("0", "0s"),
            ("300s", "5m0s"),
            ("1h", "1h0m0s"),
            ("1h2m3.5s", "1h2m3.5s"),
            ("100ms", "100ms"),
            ("1500ms", "1.5s"),
            ("1500us", "1.5ms"),
            ("-90s", "-1m30s"),
        ] {
            assert_eq!(given.parse::<GoDuration>().map(|d| d.to_string()), Ok(shown.to_owned()), "{given}");
        }
        assert_eq!("5x".parse::<GoDuration>(), Err("time: invalid duration \"5x\"".into()));
    }
}
