//! Which revision was current when, so that it is known which are past.
//!
//! A page of a list can be continued for as long as upstream keeps history: five minutes. Much of what is older could still be told, but clients rely on being
//! sent on from a list that has become too old (upstream: `storagebackend.DefaultCompactInterval`), whether or not anything has changed since.

use crate::store::Revision;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// How long a list can be continued.
const KEPT: Duration = Duration::from_secs(5 * 60);
/// How often a revision is noted.
const EVERY: Duration = Duration::from_secs(10);

/// Times and the revisions that were current then, one that is no longer kept and those since.
#[derive(Debug, Default)]
pub(super) struct Marks(VecDeque<(Instant, Revision)>);

impl Marks {
    /// This revision is current now.
    pub fn note(&mut self, now: Instant, revision: Revision) {
        if self.0.back().is_some_and(|(last, _)| now < *last + EVERY) {
            return;
        }
        self.0.push_back((now, revision));
        while self.0.get(1).is_some_and(|(time, _)| *time + KEPT <= now) {
            self.0.pop_front();
        }
    }

    /// The oldest revision that is not past.
    pub fn oldest(&self, now: Instant) -> Revision {
        let past = self.0.iter().take_while(|(time, _)| *time + KEPT <= now);
        past.last().map_or(0, |(_, revision)| *revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_are_past_five_minutes_after_another_one_was_current() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut marks = Marks::default();
        assert_eq!(marks.oldest(at(0)), 0);
        for (seconds, revision) in [(0, 5), (1, 6), (10, 7), (200, 8)] {
            marks.note(at(seconds), revision);
        }
        for (seconds, oldest) in [(299, 0), (300, 5), (309, 5), (310, 7), (499, 7), (500, 8), (5000, 8)] {
            assert_eq!(marks.oldest(at(seconds)), oldest, "{seconds}");
        }
        for second in 0..10_000 {
            marks.note(at(500 + second), 10 + second);
        }
        assert!(marks.0.len() <= 32, "{}", marks.0.len());
        assert_eq!(marks.oldest(at(10_499)), 9_700);
    }
}
