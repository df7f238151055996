//! How fast nodes that have failed are emptied (upstream: `node_lifecycle_controller.go`, `ComputeZoneState`, and its rate limited queue of each zone).
//!
//! A few failed nodes are emptied one after the other. When most of a zone has failed, something else may be wrong, and it is done more slowly or, in a small zone, not
//! at all; when every zone has failed altogether, it is rather we who cannot see them, and nobody is evicted.

use k8s_openapi::api::core::v1::Node;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// The rates and where they change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Nodes a second (`--node-eviction-rate`).
    pub normal: f64,
    /// Nodes a second in a large zone of which much has failed (`--secondary-node-eviction-rate`).
    pub reduced: f64,
    /// The share of failed nodes from which a zone counts as partly disrupted (`--unhealthy-zone-threshold`).
    pub unhealthy: f64,
    /// The size up to which a zone is small (`--large-cluster-size-threshold`).
    pub large: usize,
}

impl Default for Rates {
    fn default() -> Self {
        Self { normal: 0.1, reduced: 0.01, unhealthy: 0.55, large: 50 }
    }
}

/// How much of a zone has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Normal,
    Partial,
    Full,
}

/// A zone's nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Count {
    ready: usize,
    failed: usize,
}

impl Count {
    fn state(self, rates: &Rates) -> State {
        let share = self.failed as f64 / (self.ready + self.failed).max(1) as f64;
        match self {
            Count { ready: 0, failed } if failed > 0 => State::Full,
            Count { failed, .. } if failed > 2 && share >= rates.unhealthy => State::Partial,
            _ => State::Normal,
        }
    }
}

/// Whether a failed node may be emptied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// Now.
    Now,
    /// Others come first; look again then, or when something changes.
    Later(Option<Duration>),
    /// All have failed: what was begun is taken back.
    Never,
}

fn zone_of(node: &Node) -> String {
    let label = |name: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(name)).map_or("", String::as_str);
    format!("{}/{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

/// When the next node of each zone may be emptied.
#[derive(Default)]
pub struct Zones {
    next: HashMap<String, Instant>,
}

impl Zones {
    /// Whether `node`, which has failed, may be emptied now; if so, the next of its zone has to wait.
    pub fn ask<'a>(
        &mut self,
        node: &Node,
        all: impl IntoIterator<Item = &'a Node>,
        is_ready: fn(&Node) -> bool,
        rates: &Rates,
        now: Instant,
    ) -> Verdict {
        let mut counts: HashMap<String, Count> = HashMap::new();
        for other in all {
            let count = counts.entry(zone_of(other)).or_default();
            if is_ready(other) { count.ready += 1 } else { count.failed += 1 }
        }
        self.next.retain(|zone, _| counts.contains_key(zone));
        if counts.values().all(|count| count.state(rates) == State::Full) {
            return Verdict::Never;
        }
        let zone = zone_of(node);
        let count = counts.get(&zone).copied().unwrap_or_default();
        let rate = match count.state(rates) {
            State::Normal | State::Full => rates.normal,
            State::Partial if count.ready + count.failed > rates.large => rates.reduced,
            State::Partial => 0.0,
        };
        if rate <= 0.0 {
            return Verdict::Later(None);
        }
        match self.next.get(&zone).map(|next| next.saturating_duration_since(now)).filter(|wait| !wait.is_zero()) {
            Some(wait) => Verdict::Later(Some(wait)),
            None => {
                // Without a bound nobody has to wait.
                if rate.is_finite() {
                    self.next.insert(zone, now + Duration::from_secs_f64(1.0 / rate));
                }
                Verdict::Now
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(zone: &str, ready: bool) -> Node {
        let labels = json!({"topology.kubernetes.io/zone": zone});
        serde_json::from_value(json!({"metadata": {"name": "n", "labels": labels}, "spec": {"unschedulable": !ready}})).unwrap()
    }

    fn is_ready(node: &Node) -> bool {
        node.spec.as_ref().and_then(|spec| spec.unschedulable) != Some(true)
    }

    /// Asks for a failed node of zone a, where so many of zone a and b are ready and not.
    fn ask(zones: &mut Zones, a: (usize, usize), b: (usize, usize), now: Instant) -> Verdict {
        let of = |zone: &str, (ready, failed): (usize, usize)| [vec![node(zone, true); ready], vec![node(zone, false); failed]].concat();
        let all = [of("a", a), of("b", b)].concat();
        zones.ask(&node("a", false), &all, is_ready, &Rates::default(), now)
    }

    #[tokio::test(start_paused = true)]
    async fn how_fast_depends_on_how_much_has_failed() {
        let now = Instant::now();
        let cases = [
            ((9, 1), (0, 0), Verdict::Now),
            ((0, 1), (0, 0), Verdict::Never),
            ((0, 3), (0, 2), Verdict::Never),
            ((0, 3), (1, 0), Verdict::Now),
            ((2, 2), (0, 0), Verdict::Now),
            ((2, 3), (0, 0), Verdict::Later(None)),
            ((40, 60), (0, 0), Verdict::Now),
        ];
        for (a, b, expected) in cases {
            assert_eq!(ask(&mut Zones::default(), a, b, now), expected, "{a:?} {b:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_after_the_other() {
        let (mut zones, start) = (Zones::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(ask(&mut zones, (9, 2), (0, 0), start), Verdict::Now);
        assert_eq!(ask(&mut zones, (9, 2), (0, 0), after(4)), Verdict::Later(Some(Duration::from_secs(6))));
        assert_eq!(ask(&mut zones, (9, 2), (0, 0), after(10)), Verdict::Now);
        assert_eq!(ask(&mut zones, (40, 60), (0, 0), after(20)), Verdict::Now);
        assert_eq!(ask(&mut zones, (40, 60), (0, 0), after(60)), Verdict::Later(Some(Duration::from_secs(60))), "a hundred seconds each");
    }
}
