//! Since when endpoints are to be what they are becoming: the annotation from which others measure how late they are (upstream:
//! `TriggerTimeTracker`).

use crate::pods;
use client::ObjectKey;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The annotation of Endpoints and slices.
pub const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// What services and their pods looked like last. Holds one entry for each service, and in it one for each of its pods.
#[derive(Default)]
pub struct TriggerTimes {
    seen: Mutex<HashMap<ObjectKey, Seen>>,
}

#[derive(Default)]
struct Seen {
    service: Option<Timestamp>,
    pods: HashMap<String, Timestamp>,
}

impl TriggerTimes {
    /// The earliest of what has happened since the last look: that a pod has become ready or unready, that the service was made. Of a service that is seen
    /// for the first time only the latter counts, for nobody knows what was dealt with before.
    pub fn since_last(&self, service: &Service, pods: &[Arc<Pod>]) -> Option<Timestamp> {
        let ready = |pod: &Arc<Pod>| {
            let changed = pods::condition(pod, "Ready")?.last_transition_time.as_ref()?.0;
            Some((pod.metadata.name.clone()?, changed))
        };
        let now = Seen {
            service: service.metadata.creation_timestamp.as_ref().map(|time| time.0),
            pods: pods.iter().filter_map(ready).collect(),
        };
        let mut all = self.seen.lock();
        let Some(before) = all.get(&ObjectKey::of(service)) else {
            let made = now.service;
            all.insert(ObjectKey::of(service), now);
            return made;
        };
        let changed = now.pods.iter().filter(|(pod, at)| before.pods.get(*pod).is_none_or(|seen| *at > seen)).map(|(_, at)| *at);
        let earliest = changed.chain(now.service.filter(|at| Some(*at) > before.service)).min();
        all.insert(ObjectKey::of(service), now);
        earliest
    }

    /// The service is gone.
    pub fn forget(&self, service: &ObjectKey) {
        self.seen.lock().remove(service);
    }
}

/// Notes a time among annotations, or that there is none.
pub fn note(annotations: &mut Option<BTreeMap<String, String>>, time: Option<Timestamp>) {
    match time {
        Some(time) => drop(annotations.get_or_insert_default().insert(TRIGGER_TIME.to_owned(), time.to_string())),
        None => {
            annotations.as_mut().map(|annotations| annotations.remove(TRIGGER_TIME));
        }
    }
    *annotations = annotations.take().filter(|annotations| !annotations.is_empty());
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_earliest_change_since_the_last_look() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let service = |created: i64| -> Service {
            serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "s", "creationTimestamp": at(created)}})).unwrap()
        };
        let pod = |(name, ready): &(&str, i64)| -> Arc<Pod> {
            let conditions = json!([{"type": "Ready", "status": "True", "lastTransitionTime": at(*ready)}]);
            Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "status": {"conditions": conditions}})).unwrap())
        };
        let times = TriggerTimes::default();
        for (what, created, pods, expected) in [
            ("a service of which nothing is known", 10, vec![("a", 20)], Some(10)),
            ("nothing has happened", 10, vec![("a", 20)], None),
            ("two changes", 10, vec![("a", 25), ("b", 22)], Some(22)),
            ("one pod gone", 10, vec![("b", 22)], None),
            ("it is back", 10, vec![("a", 25), ("b", 22)], Some(25)),
            ("made anew", 30, vec![("a", 25), ("b", 22)], Some(30)),
        ] {
            let pods: Vec<_> = pods.iter().map(pod).collect();
            assert_eq!(times.since_last(&service(created), &pods), expected.map(at), "{what}");
        }
        times.forget(&ObjectKey::new("ns", "s"));
        assert_eq!(times.since_last(&service(30), &[]), Some(at(30)));
    }

    #[test]
    fn what_is_noted() {
        let mut annotations = None;
        note(&mut annotations, Some(Timestamp::UNIX_EPOCH));
        assert_eq!(annotations, Some(BTreeMap::from([(TRIGGER_TIME.to_owned(), "1970-01-01T00:00:00Z".to_owned())])));
        note(&mut annotations, None);
        assert_eq!(annotations, None);
    }
}
