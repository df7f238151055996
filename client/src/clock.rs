//! The clock, which is a parameter wherever time decides something: back-off, deadlines, what statuses say.
//!
//! A component reads the wall clock. A simulation reads tokio's, which a test can pause: hours of back-off then pass in milliseconds, and every run
//! of a seed is the same.

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Where a component reads the time.
#[derive(Clone, Copy, Debug, Default)]
pub enum Clock {
    /// The machine's.
    #[default]
    Wall,
    /// Tokio's, from a moment on.
    Simulated {
        /// That moment on tokio's clock.
        origin: Instant,
        /// And what the calendar said then.
        start: Timestamp,
    },
}

impl Clock {
    /// Tokio's clock from now on, at `start` in the calendar.
    pub fn simulated(start: Timestamp) -> Self {
        Clock::Simulated { origin: Instant::now(), start }
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        match self {
            Clock::Wall => Timestamp::now(),
            Clock::Simulated { origin, start } => *start + SignedDuration::try_from(origin.elapsed()).unwrap_or(SignedDuration::ZERO),
        }
    }

    /// Now, in whole seconds, as the API has times.
    pub fn second(&self) -> Timestamp {
        // The second of a valid time is one.
        Timestamp::from_second(self.now().as_second()).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}
