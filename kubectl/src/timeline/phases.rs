//! The phases of a pod's life with their lengths, out of its moments.

use super::{Moment, Step};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

/// One phase of a pod's life.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Phase {
    /// `scheduling`, `set-up`, `image`, `start`, `readiness`, `ready`, `ending`.
    pub name: &'static str,
    /// When it began.
    pub from: Timestamp,
    /// How long it took, in seconds; of the last one, so far.
    pub seconds: f64,
}

/// What begins each phase, in the order of a pod's life.
const BEGINS: &[(&str, &[Step])] = &[
    ("scheduling", &[Step::Created]),
    ("set-up", &[Step::Scheduled]),
    ("image", &[Step::Pulling]),
    ("create", &[Step::Pulled]),
    ("start", &[Step::ContainerCreated]),
    ("readiness", &[Step::Started]),
    ("ready", &[Step::Ready]),
    ("ending", &[Step::Ending]),
];

/// The phases of one pod up to its first readiness, and what came after; `moments` are its own, in order. A phase that no moment began is left out, and
/// the one before goes on.
pub fn phases(moments: &[Moment], now: Timestamp) -> Vec<Phase> {
    let mut begun: Vec<(&'static str, Timestamp)> = Vec::new();
    let mut at = 0;
    for moment in moments {
        let next = BEGINS.iter().enumerate().skip(at).find(|(_, (_, steps))| steps.contains(&moment.step));
        if let Some((index, (name, _))) = next {
            // A moment known to the second only may seem to lie before the one it follows.
            let from = begun.last().map_or(moment.at, |(_, last)| moment.at.max(*last));
            begun.push((name, from));
            at = index + 1;
        }
    }
    let ends: Vec<Timestamp> = begun.iter().skip(1).map(|(_, from)| *from).chain([now]).collect();
    begun
        .into_iter()
        .zip(ends)
        .map(|((name, from), to)| Phase { name, from, seconds: to.duration_since(from).max(SignedDuration::ZERO).as_secs_f64() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_in_phases() {
        let moment = |at: &str, step| Moment {
            at: format!("2026-01-01T00:00:{at}Z").parse().unwrap(),
            exact: true,
            object: "pod/a".into(),
            step,
            what: String::new(),
            who: String::new(),
            warning: false,
        };
        let life = [
            moment("00.0", Step::Created),
            moment("00.5", Step::Scheduled),
            moment("01.0", Step::Pulled),
            moment("01.2", Step::ContainerCreated),
            moment("01.5", Step::Started),
            moment("01.0", Step::Ready),
            moment("20.0", Step::Started),
        ];
        let found: Vec<_> =
            phases(&life, "2026-01-01T00:00:31.5Z".parse().unwrap()).into_iter().map(|p| (p.name, (p.seconds * 10.0).round())).collect();
        assert_eq!(found, [("scheduling", 5.0), ("set-up", 5.0), ("create", 2.0), ("start", 3.0), ("readiness", 0.0), ("ready", 300.0)]);
    }
}
