//! Events as moments.

use super::{Moment, Step, reference, time};
use crate::describe::event_source;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// What kind of step an event's reason tells; other reasons are [`Step::Other`], or [`Step::Waiting`] when they warn.
const REASONS: &[(&str, Step)] = &[
    ("Scheduled", Step::Scheduled),
    ("FailedScheduling", Step::Waiting),
    ("Pulling", Step::Pulling),
    ("Pulled", Step::Pulled),
    ("Created", Step::ContainerCreated),
    ("Started", Step::Started),
    ("Unhealthy", Step::Probe),
    ("ProbeWarning", Step::Probe),
    ("BackOff", Step::Waiting),
    ("Killing", Step::Ending),
    ("Preempted", Step::Ending),
    ("Preempting", Step::Ending),
    ("Evicted", Step::Ending),
    ("TaintManagerEviction", Step::Ending),
    ("NodeNotReady", Step::NotReady),
    ("NodeReady", Step::Ready),
    ("ScalingReplicaSet", Step::Scaled),
    ("SuccessfulCreate", Step::Scaled),
    ("SuccessfulDelete", Step::Scaled),
    ("SuccessfulRescale", Step::Scaled),
    ("Completed", Step::Ready),
];

/// The moments of one event: its first time, and its last if it was seen more than once.
pub fn moments(event: &Value) -> Vec<Moment> {
    let text = |v: &Value| v.as_str().unwrap_or("").trim().to_owned();
    let (reason, message) = (text(&event["reason"]), text(&event["message"]));
    let warning = event["type"] == "Warning";
    let step =
        REASONS.iter().find(|(known, _)| *known == reason).map_or(if warning { Step::Waiting } else { Step::Other }, |(_, step)| *step);
    let object = &event["involvedObject"];
    let host = event["source"]["host"].as_str().filter(|host| !host.is_empty());
    let host = host.map_or(String::new(), |host| format!(", {host}"));
    let moment = |at, exact, what| Moment {
        at,
        exact,
        object: reference(&object["kind"], &object["name"]),
        step,
        what,
        who: format!("{}{host}", event_source(event)),
        warning,
    };
    let what = if message.is_empty() { reason.clone() } else { format!("{reason}: {message}") };
    let Some((first, exact)) = first(event) else { return Vec::new() };
    let mut all = vec![moment(first, exact, what.clone())];
    let count = event["series"]["count"].as_i64().or(event["count"].as_i64()).unwrap_or(1);
    let (last, exact) = match time(&event["series"]["lastObservedTime"]) {
        Some(last) => (Some(last), true),
        None => (time(&event["lastTimestamp"]), false),
    };
    if let Some(last) = last.filter(|_| count > 1) {
        all.push(moment(last, exact, format!("{what} (for the {count}th time)")));
    }
    all
}

/// When it first happened, and whether to the fraction of a second.
fn first(event: &Value) -> Option<(Timestamp, bool)> {
    if let Some(at) = time(&event["eventTime"]) {
        return Some((at, true));
    }
    let coarse = time(&event["firstTimestamp"]).or_else(|| time(&event["metadata"]["creationTimestamp"]))?;
    Some(by_name(event, coarse).map_or((coarse, false), |at| (at, true)))
}

/// client-go's recorders name an event after its object and the nanosecond: `web.18a5b1c2d3e4f506`. Taken only where it agrees with the event's time.
fn by_name(event: &Value, coarse: Timestamp) -> Option<Timestamp> {
    let (_, suffix) = event["metadata"]["name"].as_str()?.rsplit_once('.')?;
    let at = Timestamp::from_nanosecond(i128::from(i64::from_str_radix(suffix, 16).ok()?)).ok()?;
    let behind = at.duration_since(coarse);
    (behind >= SignedDuration::ZERO && behind < SignedDuration::from_secs(1)).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(name: &str, rest: Value) -> Value {
        let mut event = json!({
            "metadata": {"name": name}, "involvedObject": {"kind": "Pod", "name": "web"}, "type": "Normal", "reason": "Pulled",
            "message": "there", "source": {"component": "kubelet", "host": "n1"}, "firstTimestamp": "2026-01-01T00:00:05Z"});
        event.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        event
    }

    #[test]
    fn a_name_tells_the_nanosecond_when_it_agrees() {
        let at: Timestamp = "2026-01-01T00:00:05.25Z".parse().unwrap();
        let named = format!("web.{:x}", at.as_nanosecond());
        let [moment] = &moments(&event(&named, json!({})))[..] else { panic!("one moment") };
        assert_eq!((moment.at, moment.exact, moment.step), (at, true, Step::Pulled));
        assert_eq!((moment.object.as_str(), moment.what.as_str(), moment.who.as_str()), ("pod/web", "Pulled: there", "kubelet, n1"));

        let later = event(&named, json!({"firstTimestamp": "2026-01-01T00:00:09Z"}));
        assert_eq!((moments(&later)[0].at.as_second(), moments(&later)[0].exact), (at.as_second() + 4, false));
        assert!(!moments(&event("web.zz", json!({})))[0].exact);
    }

    #[test]
    fn what_came_again_is_told_twice() {
        let again = event("web.1", json!({"type": "Warning", "reason": "BackOff", "count": 4, "lastTimestamp": "2026-01-01T00:01:00Z"}));
        let told = moments(&again);
        assert_eq!(told.iter().map(|m| m.what.as_str()).collect::<Vec<_>>(), ["BackOff: there", "BackOff: there (for the 4th time)"]);
        assert!(told.iter().all(|m| m.warning && m.step == Step::Waiting));
        let series = event(
            "web.1",
            json!({"eventTime": "2026-01-01T00:00:01.5Z", "series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:02.5Z"}}),
        );
        assert_eq!(
            moments(&series).iter().map(|m| m.at.to_string()).collect::<Vec<_>>(),
            ["2026-01-01T00:00:01.5Z", "2026-01-01T00:00:02.5Z"]
        );
    }
}
