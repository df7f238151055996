//! What becomes of a proposal: recent proposals are remembered against flapping, and policies bound how fast the number changes (upstream: `horizontal.go`,
//! from `normalizeDesiredReplicas` on).

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// Without policies: at least this many, and twice as many as there are.
const FREE: i32 = 4;

/// What an autoscaler has proposed and done. It is lost with the process, as upstream's is; the number there is then counts as proposed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Proposals, before they were stabilised.
    proposals: Vec<(Timestamp, i32)>,
    /// Replicas added.
    added: Vec<(Timestamp, i32)>,
    /// Replicas removed.
    removed: Vec<(Timestamp, i32)>,
}

impl History {
    /// The first look: what is there counts as proposed.
    pub fn begin(&mut self, current: i32, now: Timestamp) {
        if self.proposals.is_empty() {
            self.proposals.push((now, current));
        }
    }

    /// A change that was made; changes older than every period of the policies are forgotten.
    pub fn record(&mut self, behavior: Option<&HorizontalPodAutoscalerBehavior>, from: i32, to: i32, now: Timestamp) {
        let Some(behavior) = behavior else { return };
        let (events, rules) = match to > from {
            true => (&mut self.added, &behavior.scale_up),
            false => (&mut self.removed, &behavior.scale_down),
        };
        let periods = rules.iter().flat_map(|rules| rules.policies.iter().flatten()).map(|policy| policy.period_seconds);
        let longest = periods.max().unwrap_or(0);
        events.retain(|(at, _)| *at > now - seconds(longest));
        events.push((now, (to - from).abs()));
    }

    fn remember(&mut self, proposal: i32, since: Timestamp, now: Timestamp) {
        self.proposals.retain(|(at, _)| *at >= since);
        self.proposals.push((now, proposal));
    }
}

fn seconds(seconds: i32) -> SignedDuration {
    SignedDuration::from_secs(i64::from(seconds))
}

/// What holds a number back, or that nothing does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Note {
    /// The condition's reason.
    pub reason: &'static str,
    /// Its text.
    pub message: &'static str,
}

/// What came of a proposal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalized {
    /// So many replicas.
    pub replicas: i32,
    /// The condition AbleToScale.
    pub able: Note,
    /// The condition ScalingLimited, and whether it is true.
    pub limited: (bool, Note),
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wanted {
    /// How many there are.
    pub current: i32,
    /// How many are proposed.
    pub proposed: i32,
    /// At least.
    pub min: i32,
    /// At most.
    pub max: i32,
    /// For how long the highest proposal counts on the way down, if the autoscaler says nothing of it.
    pub downscale: SignedDuration,
}

const READY: Note = Note { reason: "ReadyForNewScale", message: "recommended size matches current size" };
const UP_STABILIZED: Note = Note {
    reason: "ScaleUpStabilized",
    message: "recent recommendations were lower than current one, applying the lowest recent recommendation",
};
const DOWN_STABILIZED: Note = Note {
    reason: "ScaleDownStabilized",
    message: "recent recommendations were higher than current one, applying the highest recent recommendation",
};
const WITHIN: Note = Note { reason: "DesiredWithinRange", message: "the desired count is within the acceptable range" };
const TOO_FEW: Note = Note { reason: "TooFewReplicas", message: "the desired replica count is less than the minimum replica count" };
const TOO_MANY: Note = Note { reason: "TooManyReplicas", message: "the desired replica count is more than the maximum replica count" };
const UP_LIMIT: Note =
    Note { reason: "ScaleUpLimit", message: "the desired replica count is increasing faster than the maximum scale rate" };
const DOWN_LIMIT: Note =
    Note { reason: "ScaleDownLimit", message: "the desired replica count is decreasing faster than the maximum scale rate" };

/// Bounds a proposal by what was proposed and done recently.
pub fn normalize(wanted: Wanted, behavior: Option<&HorizontalPodAutoscalerBehavior>, history: &mut History, now: Timestamp) -> Normalized {
    let (stabilized, able) = match behavior {
        None => stabilize_down(wanted, history, now),
        Some(behavior) => stabilize(wanted, behavior, history, now),
    };
    let able = if stabilized == wanted.proposed { READY } else { able };
    let wanted = Wanted { proposed: stabilized, ..wanted };
    let (replicas, note) = match behavior {
        None => by_default(wanted),
        Some(behavior) => by_policies(wanted, behavior, history, now),
    };
    Normalized { replicas, able, limited: (replicas != stabilized, note) }
}

fn stabilize_down(wanted: Wanted, history: &mut History, now: Timestamp) -> (i32, Note) {
    let since = now - wanted.downscale;
    let recent = history.proposals.iter().filter(|(at, _)| *at > since).map(|(_, proposal)| *proposal);
    let highest = recent.chain([wanted.proposed]).max().unwrap_or(wanted.proposed);
    history.remember(wanted.proposed, since, now);
    (highest, DOWN_STABILIZED)
}

fn stabilize(wanted: Wanted, behavior: &HorizontalPodAutoscalerBehavior, history: &mut History, now: Timestamp) -> (i32, Note) {
    let window = |rules: &Option<HPAScalingRules>, otherwise| {
        now - rules.as_ref().and_then(|rules| rules.stabilization_window_seconds).map_or(otherwise, seconds)
    };
    let (up_since, down_since) = (window(&behavior.scale_up, SignedDuration::ZERO), window(&behavior.scale_down, wanted.downscale));
    let recent = |since: Timestamp| history.proposals.iter().filter(move |(at, _)| *at > since).map(|(_, proposal)| *proposal);
    let lowest = recent(up_since).chain([wanted.proposed]).min().unwrap_or(wanted.proposed);
    let highest = recent(down_since).chain([wanted.proposed]).max().unwrap_or(wanted.proposed);
    let stabilized = wanted.current.max(lowest).min(highest);
    history.remember(wanted.proposed, up_since.min(down_since), now);
    (stabilized, if wanted.proposed >= wanted.current { UP_STABILIZED } else { DOWN_STABILIZED })
}

fn by_default(wanted: Wanted) -> (i32, Note) {
    let fastest = wanted.current.saturating_mul(2).max(FREE);
    let (most, why) = if wanted.max > fastest { (fastest, UP_LIMIT) } else { (wanted.max, TOO_MANY) };
    match wanted.proposed {
        proposed if proposed < wanted.min => (wanted.min, TOO_FEW),
        proposed if proposed > most => (most, why),
        proposed => (proposed, WITHIN),
    }
}

fn by_policies(wanted: Wanted, behavior: &HorizontalPodAutoscalerBehavior, history: &History, now: Timestamp) -> (i32, Note) {
    if wanted.proposed > wanted.current {
        let limit = limit(true, wanted.current, behavior.scale_up.as_ref(), history, now).max(wanted.current);
        let (most, why) = if wanted.max > limit { (limit, UP_LIMIT) } else { (wanted.max, TOO_MANY) };
        return if wanted.proposed > most { (most, why) } else { (wanted.proposed, WITHIN) };
    }
    if wanted.proposed < wanted.current {
        let limit = limit(false, wanted.current, behavior.scale_down.as_ref(), history, now).min(wanted.current);
        let (least, why) = if wanted.min < limit { (limit, DOWN_LIMIT) } else { (wanted.min, TOO_FEW) };
        return if wanted.proposed < least { (least, why) } else { (wanted.proposed, WITHIN) };
    }
    (wanted.proposed, WITHIN)
}

fn policy(type_: &str, value: i32, period_seconds: i32) -> HPAScalingPolicy {
    HPAScalingPolicy { type_: type_.to_owned(), value, period_seconds }
}

/// The policies of a direction that names none.
fn default_policies(up: bool) -> Vec<HPAScalingPolicy> {
    match up {
        true => vec![policy("Pods", 4, 15), policy("Percent", 100, 15)],
        false => vec![policy("Percent", 100, 15)],
    }
}

/// How far the policies let the number go, counted from what it was at the start of each one's period.
fn limit(up: bool, current: i32, rules: Option<&HPAScalingRules>, history: &History, now: Timestamp) -> i32 {
    let select = rules.and_then(|rules| rules.select_policy.as_deref()).unwrap_or("Max");
    if select == "Disabled" {
        return current;
    }
    let given = rules.and_then(|rules| rules.policies.clone()).filter(|policies| !policies.is_empty());
    let limits = given.unwrap_or_else(|| default_policies(up)).into_iter().map(|policy| {
        let since = now - seconds(policy.period_seconds);
        let sum = |events: &[(Timestamp, i32)]| events.iter().filter(|(at, _)| *at > since).map(|(_, change)| change).sum::<i32>();
        let start = current - sum(&history.added) + sum(&history.removed);
        let share = f64::from(policy.value) / 100.0;
        match (up, policy.type_.as_str()) {
            (true, "Percent") => (f64::from(start) * (1.0 + share)).ceil() as i32,
            (true, _) => start.saturating_add(policy.value),
            (false, "Percent") => (f64::from(start) * (1.0 - share)) as i32,
            (false, _) => start.saturating_sub(policy.value),
        }
    });
    // The greatest change is the highest number on the way up and the lowest on the way down.
    let limit = if up == (select == "Max") { limits.max() } else { limits.min() };
    limit.unwrap_or(current)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn behavior(value: Value) -> HorizontalPodAutoscalerBehavior {
        serde_json::from_value(value).unwrap()
    }

    fn wanted(current: i32, proposed: i32) -> Wanted {
        Wanted { current, proposed, min: 1, max: 100, downscale: seconds(300) }
    }

    #[test]
    fn without_behaviour_it_doubles_at_most_and_goes_down_slowly() {
        let step = |wanted, history: &mut History, now| {
            let got = normalize(wanted, None, history, at(now));
            (got.replicas, got.able.reason, got.limited.1.reason)
        };
        let mut history = History::default();
        history.begin(3, at(0));
        assert_eq!(step(wanted(3, 50), &mut history, 0), (6, "ReadyForNewScale", "ScaleUpLimit"));
        assert_eq!(step(wanted(6, 50), &mut history, 15), (12, "ReadyForNewScale", "ScaleUpLimit"));
        assert_eq!(step(wanted(50, 2), &mut history, 100), (50, "ScaleDownStabilized", "DesiredWithinRange"));
        assert_eq!(step(wanted(50, 2), &mut history, 314), (50, "ScaleDownStabilized", "DesiredWithinRange"));
        assert_eq!(step(wanted(50, 2), &mut history, 316), (2, "ReadyForNewScale", "DesiredWithinRange"));
        assert_eq!(step(Wanted { min: 5, ..wanted(6, 2) }, &mut history, 1000), (5, "ReadyForNewScale", "TooFewReplicas"));
        assert_eq!(step(Wanted { max: 7, ..wanted(6, 9) }, &mut history, 2000), (7, "ReadyForNewScale", "TooManyReplicas"));
        assert_eq!(history.proposals.len(), 1, "what is old is forgotten");
    }

    #[test]
    fn policies_bound_the_rate() {
        let cases = [
            (json!({"scaleUp": {"policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}]}}), wanted(5, 50), 7, "ScaleUpLimit"),
            (json!({"scaleUp": {"policies": [{"type": "Percent", "value": 10, "periodSeconds": 60}]}}), wanted(5, 50), 6, "ScaleUpLimit"),
            (
                json!({"scaleUp": {"policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}, {"type": "Percent", "value": 100, "periodSeconds": 60}]}}),
                wanted(5, 50),
                10,
                "ScaleUpLimit",
            ),
            (
                json!({"scaleUp": {"selectPolicy": "Min", "policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}, {"type": "Percent", "value": 100, "periodSeconds": 60}]}}),
                wanted(5, 50),
                7,
                "ScaleUpLimit",
            ),
            (json!({"scaleUp": {"selectPolicy": "Disabled"}}), wanted(5, 50), 5, "ScaleUpLimit"),
            (json!({"scaleUp": {}}), wanted(1, 50), 5, "ScaleUpLimit"),
            (
                json!({"scaleDown": {"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}]}}),
                wanted(50, 5),
                48,
                "ScaleDownLimit",
            ),
            (
                json!({"scaleDown": {"stabilizationWindowSeconds": 0, "policies": [{"type": "Percent", "value": 10, "periodSeconds": 60}]}}),
                wanted(50, 5),
                45,
                "ScaleDownLimit",
            ),
            (
                json!({"scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": "Min", "policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}, {"type": "Percent", "value": 10, "periodSeconds": 60}]}}),
                wanted(50, 5),
                48,
                "ScaleDownLimit",
            ),
            (json!({"scaleDown": {"stabilizationWindowSeconds": 0}}), wanted(50, 5), 5, "DesiredWithinRange"),
        ];
        for (given, wanted, replicas, reason) in cases {
            let got = normalize(wanted, Some(&behavior(given.clone())), &mut History::default(), at(0));
            assert_eq!((got.replicas, got.limited.1.reason), (replicas, reason), "{given}");
        }
    }

    #[test]
    fn a_policy_counts_from_the_start_of_its_period() {
        let behavior = behavior(json!({"scaleUp": {"policies": [{"type": "Pods", "value": 4, "periodSeconds": 60}]}}));
        let mut history = History::default();
        history.record(Some(&behavior), 5, 8, at(0));
        assert_eq!(normalize(wanted(8, 50), Some(&behavior), &mut history, at(30)).replicas, 9, "three of four are used up");
        assert_eq!(normalize(wanted(8, 50), Some(&behavior), &mut history, at(61)).replicas, 12);
        history.record(Some(&behavior), 8, 12, at(100));
        assert_eq!(history.added, [(at(100), 4)], "what no policy looks back to is forgotten");
    }

    #[test]
    fn windows_smooth_both_ways() {
        let behavior = behavior(json!({"scaleUp": {"stabilizationWindowSeconds": 60}, "scaleDown": {"stabilizationWindowSeconds": 60}}));
        let mut history = History::default();
        history.begin(5, at(0));
        let up = normalize(wanted(5, 8), Some(&behavior), &mut history, at(10));
        assert_eq!((up.replicas, up.able.reason), (5, "ScaleUpStabilized"));
        let later = normalize(wanted(5, 8), Some(&behavior), &mut history, at(61));
        assert_eq!((later.replicas, later.able.reason), (8, "ReadyForNewScale"));
        let down = normalize(wanted(8, 2), Some(&behavior), &mut history, at(62));
        assert_eq!((down.replicas, down.able.reason), (8, "ScaleDownStabilized"));
    }
}
