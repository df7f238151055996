//! From what is seen to what is to be done: which conditions the node has, and which shortage calls for an eviction. A pure step over a small state
//! (upstream: `synchronize` in `eviction_manager.go`).

use super::{
    sample::Sample,
    signal::{Pressure, SIGNALS},
    threshold::Threshold,
};
use jiff::{SignedDuration, Timestamp};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

type Key = (&'static str, Duration);

/// How often there is a look while nothing is near its threshold (upstream: always).
const CALM: Duration = Duration::from_secs(10);
/// How often when something is.
const NEAR: Duration = Duration::from_secs(1);
/// Near is within so many hundredths of the whole: on a machine of 16 GiB a process needs about a second to fill them.
const NEAR_PERCENT: i64 = 5;

/// What is remembered from one look to the next.
#[derive(Default)]
pub struct State {
    /// Since when each threshold has been met without a break.
    since: HashMap<Key, Timestamp>,
    /// When each condition was last called for.
    called_for: BTreeMap<Pressure, Timestamp>,
    /// Thresholds whose grace period is over: they count as met until what is to be reclaimed is free, too.
    unresolved: HashSet<Key>,
}

/// What follows from a look.
#[derive(Clone, Default)]
pub struct Step {
    /// The conditions that the node has.
    pub pressures: Vec<Pressure>,
    /// The shortages that have lasted long enough, the one to see to first at the front.
    pub starved: Vec<Threshold>,
    /// When to look again.
    pub next: Duration,
}

impl State {
    /// One look. `transition`: how long a condition stays after it was last called for.
    pub fn step(&mut self, thresholds: &[Threshold], sample: &Sample, transition: Duration, now: Timestamp) -> Step {
        let observed = |t: &Threshold| (t.signal.observe)(sample);
        let is_met = |t: &&Threshold| {
            observed(t).is_some_and(|seen| t.is_met(seen, false) || (self.unresolved.contains(&t.key()) && t.is_met(seen, true)))
        };
        let met: Vec<Threshold> = thresholds.iter().filter(is_met).copied().collect();
        self.since = met.iter().map(|t| (t.key(), self.since.get(&t.key()).copied().unwrap_or(now))).collect();
        for threshold in &met {
            self.called_for.insert(threshold.signal.pressure, now);
        }
        let lasted = |at: Timestamp| Duration::try_from(now.duration_since(at)).unwrap_or(Duration::ZERO);
        self.called_for.retain(|_, at| *at == now || lasted(*at) < transition);
        let mut starved: Vec<Threshold> = met.iter().filter(|t| lasted(self.since[&t.key()]) >= t.grace).copied().collect();
        self.unresolved = starved.iter().map(Threshold::key).collect();
        let place = |t: &Threshold| SIGNALS.iter().position(|s| s.name == t.signal.name);
        starved.sort_by_key(|t| (place(t), t.grace));
        let near = thresholds
            .iter()
            .any(|t| observed(t).is_some_and(|seen| seen.available - t.value.of(seen.capacity) < seen.capacity / 100 * NEAR_PERCENT));
        Step { pressures: self.called_for.keys().copied().collect(), starved, next: if near { NEAR } else { CALM } }
    }

    /// How long until the node has none of its conditions any more, if nothing calls for one again.
    pub fn relief(&self, transition: Duration, now: Timestamp) -> Option<Duration> {
        let last = self.called_for.values().max()?;
        let end = *last + SignedDuration::try_from(transition).unwrap_or(SignedDuration::ZERO);
        Some(Duration::try_from(end.duration_since(now)).unwrap_or(Duration::ZERO))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{signal::Observation, threshold},
        *,
    };
    use crate::config::KubeletConfiguration;
    use serde_json::{Value, json};

    fn thresholds(config: Value) -> Vec<Threshold> {
        let config: KubeletConfiguration = serde_json::from_value(config).expect("it can be read");
        threshold::parse(&config).expect("good ones")
    }

    fn left(available: i64) -> Sample {
        Sample { memory: Some(Observation { available, capacity: 1000 }), ..Default::default() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    const FIVE: Duration = Duration::from_secs(300);

    #[test]
    fn a_hard_threshold_acts_at_once_and_its_condition_stays_a_while() {
        let thresholds = thresholds(json!({"evictionHard": {"memory.available": "100"}, "enforceNodeAllocatable": []}));
        let mut state = State::default();
        let mut look = |second, available| {
            let step = state.step(&thresholds, &left(available), FIVE, at(second));
            (step.pressures.len(), step.starved.len(), step.next.as_secs())
        };
        assert_eq!(look(0, 500), (0, 0, 10));
        assert_eq!(look(10, 120), (0, 0, 1), "near");
        assert_eq!(look(11, 99), (1, 1, 1));
        assert_eq!(look(12, 500), (1, 0, 10), "over, but not long enough");
        assert_eq!(look(310, 500), (1, 0, 10));
        assert_eq!(look(311, 500), (0, 0, 10), "five minutes after it was last called for");
    }

    #[test]
    fn a_soft_threshold_waits_and_a_break_starts_it_anew() {
        let config = json!({"evictionHard": {}, "evictionSoft": {"memory.available": "100"}, "evictionSoftGracePeriod": {"memory.available": "30s"},
            "evictionMinimumReclaim": {"memory.available": "50"}, "enforceNodeAllocatable": []});
        let thresholds = thresholds(config);
        let mut state = State::default();
        let mut starved = |second, available| state.step(&thresholds, &left(available), FIVE, at(second)).starved.len();
        assert_eq!([starved(0, 99), starved(20, 99), starved(21, 100), starved(22, 99), starved(51, 99)], [0; 5]);
        assert_eq!(starved(52, 99), 1);
        assert_eq!(starved(53, 140), 1, "not all that is to be reclaimed is free");
        assert_eq!(starved(54, 150), 0);
        assert_eq!(starved(55, 140), 0, "once it is over, the threshold itself counts");
    }

    #[test]
    fn memory_comes_first_and_unknown_amounts_meet_nothing() {
        let thresholds =
            thresholds(json!({"evictionHard": {"pid.available": "10%", "memory.available": "100", "nodefs.available": "10%"}}));
        let sample = Sample { processes: Some(Observation { available: 1, capacity: 100 }), ..left(1) };
        let step = State::default().step(&thresholds, &sample, FIVE, at(0));
        assert_eq!(step.starved.iter().map(|t| t.signal.name).collect::<Vec<_>>(), ["memory.available", "pid.available"]);
        assert_eq!(step.pressures, [Pressure::MemoryPressure, Pressure::PIDPressure]);
    }
}
