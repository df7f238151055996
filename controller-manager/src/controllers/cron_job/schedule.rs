//! When a CronJob is due. The patterns are `croner`'s to read; `@every` and the time zone are ours (upstream: `robfig/cron`).

use croner::Cron;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::str::FromStr;

/// A schedule.
#[derive(Debug)]
pub struct Schedule {
    due: Due,
    zone: TimeZone,
}

#[derive(Debug)]
enum Due {
    Pattern(Box<Cron>),
    Every(SignedDuration),
}

/// How many runs may be missed before users are told.
const MANY: usize = 100;

/// The last time that was due, and whether very many were.
#[derive(Debug, PartialEq, Eq)]
pub struct Missed {
    /// The last.
    pub last: Timestamp,
    /// Whether there were more than a hundred.
    pub many: bool,
}

impl Schedule {
    /// Reads a schedule in the form that the API takes. Without a zone it is in that of this process.
    pub fn parse(text: &str, zone: Option<&str>) -> Result<Self, String> {
        let (within, rest) = match text.strip_prefix("CRON_TZ=").or_else(|| text.strip_prefix("TZ=")) {
            Some(after) => after.split_once(' ').map_or((Some(after), ""), |(zone, rest)| (Some(zone), rest.trim())),
            None => (None, text),
        };
        let zone = match zone.or(within) {
            Some(name) => TimeZone::get(name).map_err(|error| error.to_string())?,
            None => TimeZone::system(),
        };
        let due = match rest.strip_prefix("@every ") {
            Some(duration) => Due::Every(every(duration)?),
            None => Due::Pattern(Box::new(Cron::from_str(&with_ends(rest)).map_err(|error| error.to_string())?)),
        };
        Ok(Self { due, zone })
    }

    /// The first time after this one.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match &self.due {
            Due::Every(period) => whole_second(after).checked_add(*period).ok(),
            Due::Pattern(pattern) => {
                pattern.find_next_occurrence(&after.to_zoned(self.zone.clone()), false).ok().map(|time| time.timestamp())
            }
        }
    }

    /// The last time after `since` and not after `now`.
    pub fn missed(&self, since: Timestamp, now: Timestamp) -> Option<Missed> {
        let first = self.next(since).filter(|first| *first <= now)?;
        let last = match &self.due {
            Due::Every(period) => {
                let times = now.duration_since(first).as_secs() / period.as_secs().max(1);
                first.checked_add(SignedDuration::from_secs(times * period.as_secs())).ok()?
            }
            Due::Pattern(pattern) => pattern.find_previous_occurrence(&now.to_zoned(self.zone.clone()), true).ok()?.timestamp().max(first),
        };
        let many = std::iter::successors(Some(first), |time| self.next(*time)).take_while(|time| *time <= last).nth(MANY).is_some();
        Some(Missed { last, many })
    }

    /// How a time reads in the schedule's zone.
    pub fn show(&self, time: Timestamp) -> String {
        time.to_zoned(self.zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string().replace("+00:00", "Z")
    }
}

/// `5/15` runs on to the end of its field, which has to be said to the library.
fn with_ends(pattern: &str) -> String {
    const LAST: [&str; 5] = ["59", "23", "31", "12", "6"];
    let part = |part: &str, last: &str| match part.split_once('/') {
        Some((start, step)) if start.bytes().all(|b| b.is_ascii_alphanumeric()) => format!("{start}-{last}/{step}"),
        _ => part.to_owned(),
    };
    let field = |(position, field): (usize, &str)| match LAST.get(position) {
        Some(last) => field.split(',').filter(|p| !p.is_empty()).map(|p| part(p, last)).collect::<Vec<_>>().join(","),
        None => field.to_owned(),
    };
    pattern.split_whitespace().enumerate().map(field).collect::<Vec<_>>().join(" ")
}

fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// A period as Go writes durations, `1h30m`; at least a second.
fn every(text: &str) -> Result<SignedDuration, String> {
    let parsed: SignedDuration = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    Ok(SignedDuration::from_secs(parsed.as_secs().max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_next_time() {
        let from = "2026-03-28T22:30:15Z";
        for (schedule, zone, expected) in [
            ("*/5 * * * *", "UTC", "2026-03-28T22:35:00Z"),
            ("@hourly", "UTC", "2026-03-28T23:00:00Z"),
            ("0 9 * * MON", "UTC", "2026-03-30T09:00:00Z"),
            // The day of the month or the day of the week.
            ("0 0 1 * 0", "UTC", "2026-03-29T00:00:00Z"),
            ("5/15 22 ? * *", "UTC", "2026-03-28T22:35:00Z"),
            ("0 0 * * *", "America/New_York", "2026-03-29T04:00:00Z"),
            // The clocks go forward in between.
            ("30 9 * * *", "Europe/Berlin", "2026-03-29T07:30:00Z"),
            ("TZ=Asia/Tokyo 0 8 * * *", "", "2026-03-28T23:00:00Z"),
            ("@every 1h30m", "UTC", "2026-03-29T00:00:15Z"),
            ("0 0 29 2 *", "UTC", "2028-02-29T00:00:00Z"),
        ] {
            let parsed = Schedule::parse(schedule, Some(zone).filter(|zone| !zone.is_empty())).unwrap();
            assert_eq!(parsed.next(at(from)), Some(at(expected)), "{schedule} {zone}");
        }
        assert!(Schedule::parse("nope", None).is_err());
        assert!(Schedule::parse("@daily", Some("Nowhere/Land")).is_err());
    }

    #[test]
    fn what_was_missed() {
        let minutely = Schedule::parse("* * * * *", Some("UTC")).unwrap();
        let since = at("2026-01-01T00:00:30Z");
        for (now, expected) in [
            ("2026-01-01T00:00:59Z", None),
            ("2026-01-01T00:01:00Z", Some(("2026-01-01T00:01:00Z", false))),
            ("2026-01-01T00:05:10Z", Some(("2026-01-01T00:05:00Z", false))),
            ("2026-01-01T02:00:10Z", Some(("2026-01-01T02:00:00Z", true))),
        ] {
            let expected = expected.map(|(last, many)| Missed { last: at(last), many });
            assert_eq!(minutely.missed(since, at(now)), expected, "{now}");
        }
        let every = Schedule::parse("@every 40s", Some("UTC")).unwrap();
        assert_eq!(every.missed(since, at("2026-01-01T00:02:00Z")), Some(Missed { last: at("2026-01-01T00:01:50Z"), many: false }));
        assert_eq!(Schedule::parse("@daily", Some("Asia/Tokyo")).unwrap().show(at("2026-01-01T00:00:00Z")), "2026-01-01T09:00:00+09:00");
    }
}
