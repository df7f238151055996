//! How many replicas a metric asks for (upstream: `replica_calculator.go`).
//!
//! Pods without a sample and pods that are not ready yet must not lead to a change that their samples might take back: on the way up they count as idle,
//! on the way down as fully used, and a change of direction by that means no change.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How pods start, which costs CPU that says nothing about their work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Startup {
    /// How long after its start a pod's CPU use is taken for that of its start.
    pub initialization: SignedDuration,
    /// How soon after its start a pod is ready for the first time.
    pub readiness: SignedDuration,
}

/// A pod's value of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// In thousandths.
    pub value: i64,
    /// When it was taken.
    pub at: Timestamp,
    /// Over how long it is an average.
    pub window: SignedDuration,
}

/// Samples by the pod's name.
pub type Samples = BTreeMap<String, Sample>;

/// How far from the target use may be without a change, as a share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Above.
    pub up: f64,
    /// Below.
    pub down: f64,
}

impl Tolerance {
    /// Whether the ratio of use to target is close enough to 1.
    pub fn covers(self, ratio: f64) -> bool {
        (1.0 - self.down) <= ratio && ratio <= (1.0 + self.up)
    }
}

/// What is asked for and measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Proposal {
    /// So many replicas.
    pub replicas: i32,
    /// Use in percent of what is requested, where that is the target.
    pub utilization: Option<i32>,
    /// The average use per pod, in thousandths.
    pub average: i64,
}

/// What pods are compared by.
pub enum Target<'a> {
    /// A percentage of what they request, which is given by their names, in thousandths.
    Utilization { percent: i32, requests: &'a BTreeMap<String, i64> },
    /// An amount per pod, in thousandths.
    Average(i64),
}

impl Target<'_> {
    /// Use divided by target, use in percent, use per pod.
    fn ratio(&self, samples: &Samples) -> Result<(f64, Option<i32>, i64), String> {
        match self {
            Target::Average(target) => {
                let total: i64 = samples.values().map(|sample| sample.value).sum();
                let average = total / i64::try_from(samples.len().max(1)).unwrap_or(i64::MAX);
                Ok((average as f64 / *target as f64, None, average))
            }
            Target::Utilization { percent, requests } => {
                let known = samples.iter().filter_map(|(pod, sample)| Some((sample.value, *requests.get(pod)?)));
                let (mut used, mut requested, mut count) = (0_i64, 0_i64, 0_i64);
                known.for_each(|(value, request)| (used, requested, count) = (used + value, requested + request, count + 1));
                if requested == 0 {
                    return Err("no metrics returned matched known pods".to_owned());
                }
                let utilization = i32::try_from(used * 100 / requested).unwrap_or(i32::MAX);
                Ok((f64::from(utilization) / f64::from(*percent), Some(utilization), used / count))
            }
        }
    }

    /// What a pod without a sample is taken to use when there is too little use.
    fn full(&self, pod: &str) -> i64 {
        match self {
            Target::Average(target) => *target,
            Target::Utilization { percent, requests } => requests.get(pod).copied().unwrap_or(0) * i64::from((*percent).max(100)) / 100,
        }
    }
}

/// Pods by what their samples are worth.
#[derive(Debug, Default, PartialEq)]
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

/// Whether a pod's CPU use is not that of a pod that does its work.
fn starting(pod: &Pod, sample: &Sample, startup: Startup, now: Timestamp) -> bool {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
    let (Some(ready), Some(started)) = (crate::pods::condition(pod, "Ready"), started) else { return true };
    let changed = ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    if started + startup.initialization > now {
        return ready.status == "False" || sample.at < changed + sample.window;
    }
    ready.status == "False" && started + startup.readiness > changed
}

fn group(pods: &[Arc<Pod>], samples: &Samples, startup: Option<Startup>, now: Timestamp) -> Groups {
    let mut groups = Groups::default();
    for pod in pods {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let phase = crate::pods::phase(pod);
        if crate::pods::is_terminating(pod) || phase == "Failed" {
            groups.ignored.insert(name);
        } else if phase == "Pending" {
            groups.unready.insert(name);
        } else {
            match samples.get(&name) {
                None => drop(groups.missing.insert(name)),
                Some(sample) if startup.is_some_and(|startup| starting(pod, sample, startup, now)) => drop(groups.unready.insert(name)),
                Some(_) => groups.ready += 1,
            }
        }
    }
    groups
}

fn ceil(value: f64) -> i32 {
    // A cast saturates, which is what is wanted of a ratio without bounds.
    value.ceil() as i32
}

/// How many replicas the samples of pods ask for. How pods start matters for CPU alone.
pub fn by_samples(
    current: i32,
    target: &Target<'_>,
    pods: &[Arc<Pod>],
    mut samples: Samples,
    startup: Option<Startup>,
    tolerance: Tolerance,
    now: Timestamp,
) -> Result<Proposal, String> {
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let groups = group(pods, &samples, startup, now);
    samples.retain(|pod, _| !groups.ignored.contains(pod) && !groups.unready.contains(pod));
    if samples.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let (ratio, utilization, average) = target.ratio(&samples)?;
    let proposal = |replicas| Ok(Proposal { replicas, utilization, average });
    let up_with_unready = !groups.unready.is_empty() && ratio > 1.0;
    if !up_with_unready && groups.missing.is_empty() {
        return proposal(if tolerance.covers(ratio) { current } else { ceil(ratio * groups.ready as f64) });
    }
    let taken_for = |value| Sample { value, at: now, window: SignedDuration::ZERO };
    for pod in &groups.missing {
        if ratio < 1.0 {
            samples.insert(pod.clone(), taken_for(target.full(pod)));
        } else if ratio > 1.0 {
            samples.insert(pod.clone(), taken_for(0));
        }
    }
    if up_with_unready {
        samples.extend(groups.unready.iter().map(|pod| (pod.clone(), taken_for(0))));
    }
    let (again, ..) = target.ratio(&samples)?;
    if tolerance.covers(again) || (ratio < 1.0 && again > 1.0) || (ratio > 1.0 && again < 1.0) {
        return proposal(current);
    }
    let replicas = ceil(again * samples.len() as f64);
    let turns = (again < 1.0 && replicas > current) || (again > 1.0 && replicas < current);
    proposal(if turns { current } else { replicas })
}

/// How many replicas one value for all asks for, against a target for all. Only ready pods count as having shared in it.
pub fn by_value(current: i32, usage: i64, target: i64, pods: &[Arc<Pod>], tolerance: Tolerance) -> Result<i32, String> {
    let ratio = usage as f64 / target as f64;
    if current == 0 {
        return Ok(ceil(ratio));
    }
    if tolerance.covers(ratio) {
        return Ok(current);
    }
    if pods.is_empty() {
        return Err("unable to calculate ready pods: no pods returned by selector while calculating replica count".to_owned());
    }
    let ready = pods.iter().filter(|pod| crate::pods::phase(pod) == "Running" && crate::pods::is_ready(pod)).count();
    Ok(ceil(ratio * ready as f64))
}

/// How many replicas one value for all asks for, against a target for each, and the value for each.
pub fn by_shared_value(current: i32, usage: i64, target: i64, tolerance: Tolerance) -> (i32, i64) {
    let ratio = usage as f64 / (target as f64 * f64::from(current));
    let replicas = if tolerance.covers(ratio) { current } else { ceil(usage as f64 / target as f64) };
    (replicas, (usage as f64 / f64::from(current)).ceil() as i64)
}

/// What pods request of a resource by their names, in thousandths; of one container or of all that run as long as the pod does.
pub fn requests(pods: &[Arc<Pod>], resource: &str, container: Option<&str>) -> Result<BTreeMap<String, i64>, String> {
    let amount = |of: Option<&k8s_openapi::api::core::v1::ResourceRequirements>| {
        let quantity = of?.requests.as_ref()?.get(resource)?;
        api::quantity::Quantity::of(quantity).ok().map(|quantity| quantity.milli_value())
    };
    let of_pod = |pod: &Arc<Pod>| {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let spec = pod.spec.clone().unwrap_or_default();
        if let (None, Some(whole)) = (container, amount(spec.resources.as_ref())) {
            return Ok((name, whole));
        }
        let lasting = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
        let all = spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(lasting));
        let mut sum = 0;
        for one in all.filter(|one| container.is_none_or(|wanted| one.name == wanted)) {
            let missing = || format!("missing request for {resource} in container {} of Pod {name}", one.name);
            sum += amount(one.resources.as_ref()).ok_or_else(missing)?;
        }
        Ok((name, sum))
    };
    pods.iter().map(of_pod).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trim::held;
    use serde_json::{Value, json};

    const NOW: &str = "2026-01-01T01:00:00Z";
    const STARTUP: Startup = Startup { initialization: SignedDuration::from_secs(300), readiness: SignedDuration::from_secs(30) };
    const TENTH: Tolerance = Tolerance { up: 0.1, down: 0.1 };

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    /// `+`: running and ready for long, `-`: never ready, `p`: pending, `f`: failed, `x`: being deleted.
    fn pods(kinds: &str) -> Vec<Arc<Pod>> {
        let one = |(i, kind): (usize, char)| -> Arc<Pod> {
            let ready = |status: &str, at: &str| json!([{"type": "Ready", "status": status, "lastTransitionTime": at}]);
            let (phase, conditions): (&str, Value) = match kind {
                '-' => ("Running", ready("False", "2026-01-01T00:00:10Z")),
                'p' => ("Pending", json!([])),
                'f' => ("Failed", json!([])),
                _ => ("Running", ready("True", "2026-01-01T00:00:10Z")),
            };
            let deleted = (kind == 'x').then_some(NOW);
            let resources = json!({"requests": {"cpu": "1"}});
            let spec = json!({"containers": [{"name": "c", "resources": resources}]});
            let status = json!({"phase": phase, "startTime": "2026-01-01T00:00:00Z", "conditions": conditions});
            let metadata = json!({"name": format!("p{i}"), "deletionTimestamp": deleted});
            Arc::new(held(json!({"metadata": metadata, "spec": spec, "status": status})))
        };
        kinds.chars().enumerate().map(one).collect()
    }

    fn samples(values: &[Option<i64>]) -> Samples {
        let sample = |value: i64| Sample { value, at: now(), window: SignedDuration::from_secs(60) };
        values.iter().enumerate().filter_map(|(i, value)| Some((format!("p{i}"), sample((*value)?)))).collect()
    }

    /// The cases of upstream's `replica_calculator_test.go`, their numbers.
    #[test]
    fn utilization() {
        // The pods, how many there are, the target in percent, what they use; how many there should be, and the use in percent.
        type Case = (&'static str, i32, i32, Vec<Option<i64>>, i32, i32);
        let cases: Vec<Case> = vec![
            ("+++", 3, 30, vec![Some(300), Some(500), Some(700)], 5, 50),
            ("-++", 3, 30, vec![Some(300), Some(500), Some(700)], 4, 60),
            ("p++", 3, 30, vec![None, Some(500), Some(700)], 4, 60),
            ("f+++", 3, 30, vec![None, Some(500), Some(700), Some(300)], 5, 50),
            ("x+++", 3, 30, vec![None, Some(500), Some(700), Some(300)], 5, 50),
            ("+++", 3, 100, vec![Some(1010), Some(1030), Some(1020)], 3, 102),
            ("+++++", 5, 50, vec![Some(100), Some(300), Some(500), Some(250), Some(250)], 3, 28),
            ("+++-+", 5, 50, vec![Some(100), Some(300), Some(500), Some(250), Some(250)], 3, 28),
            ("++++", 4, 100, vec![Some(400), Some(95), None, None], 3, 24),
            ("++", 2, 100, vec![Some(1000), None], 2, 100),
            ("++", 2, 100, vec![Some(2000), None], 2, 200),
        ];
        for (kinds, current, percent, values, replicas, utilization) in cases {
            let pods = pods(kinds);
            let requests = requests(&pods, "cpu", None).unwrap();
            let target = Target::Utilization { percent, requests: &requests };
            let got = by_samples(current, &target, &pods, samples(&values), Some(STARTUP), TENTH, now()).unwrap();
            assert_eq!((got.replicas, got.utilization), (replicas, Some(utilization)), "{kinds} {percent} {values:?}");
        }
    }

    #[test]
    fn averages_and_single_values() {
        let got =
            by_samples(3, &Target::Average(15_000), &pods("+++"), samples(&[Some(20_000), Some(10_000), Some(30_000)]), None, TENTH, now());
        assert_eq!(got.unwrap(), Proposal { replicas: 4, utilization: None, average: 20_000 });
        assert_eq!(by_value(3, 20_000, 15_000, &pods("+++"), TENTH), Ok(4));
        assert_eq!(by_value(3, 15_500, 15_000, &pods("+++"), TENTH), Ok(3));
        assert_eq!(by_value(0, 20_000, 15_000, &[], TENTH), Ok(2));
        assert_eq!(by_value(4, 8_600, 4_400, &pods("+++-"), TENTH), Ok(6), "unready pods have no part in it");
        assert_eq!(by_shared_value(2, 9_000, 3_000, TENTH), (3, 4_500));
        assert_eq!(by_shared_value(3, 9_100, 3_000, TENTH), (3, 3_034));
    }

    #[test]
    fn what_cannot_be_told() {
        let none = by_samples(1, &Target::Average(1), &[], Samples::new(), None, TENTH, now());
        assert_eq!(none.unwrap_err(), "no pods returned by selector while calculating replica count");
        let unready = by_samples(1, &Target::Average(1), &pods("p"), samples(&[Some(1)]), None, TENTH, now());
        assert_eq!(unready.unwrap_err(), "did not receive metrics for targeted pods (pods might be unready)");
        assert_eq!(requests(&pods("+"), "memory", None).unwrap_err(), "missing request for memory in container c of Pod p0");
    }

    #[test]
    fn one_sided_tolerance() {
        let asymmetric = Tolerance { up: 0.5, down: 0.0 };
        for (ratio, covered) in [(1.4, true), (1.6, false), (0.99, false), (1.0, true)] {
            assert_eq!(asymmetric.covers(ratio), covered, "{ratio}");
        }
    }
}
