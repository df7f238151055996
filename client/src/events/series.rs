//! Repeated events of `events.k8s.io/v1` (upstream: `client-go/tools/events`). Pure: the report carries the time.
//!
//! The second equal event within six minutes turns the first into a series; the following ones only count in memory, and the count is
//! written when the series has been quiet for six minutes. Equal means everything but note and time, and the object reference includes
//! the object's resourceVersion.

use super::{Report, Source, event_name, namespace_of};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use std::collections::HashMap;
use std::time::Duration;

/// How long a series may be quiet before it ends.
const FINISH_AFTER: SignedDuration = SignedDuration::from_secs(6 * 60);
/// How often is looked for series that have ended: not with every event, since each look is at all of them.
const LOOK_AFTER: SignedDuration = SignedDuration::from_secs(30);
/// Events remembered at most; the rest is written without being counted.
const ENTRIES: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SeriesKey {
    object: [Option<String>; 7],
    event_type: &'static str,
    reason: String,
    action: String,
}

impl SeriesKey {
    fn of(report: &Report) -> Self {
        let ObjectReference { api_version, kind, namespace, name, uid, resource_version, field_path } = report.about.clone();
        Self {
            object: [api_version, kind, namespace, name, uid, resource_version, field_path],
            event_type: report.event_type.as_str(),
            reason: report.reason.clone(),
            action: report.action.clone(),
        }
    }
}

/// The events of the last minutes.
pub struct SeriesCache {
    source: Source,
    events: HashMap<SeriesKey, (Event, Timestamp)>,
    /// When was last looked for series that have ended.
    looked: Timestamp,
}

fn has_ended(last: Timestamp, now: Timestamp) -> bool {
    now.duration_since(last) >= FINISH_AFTER
}

impl SeriesCache {
    /// Nothing seen yet.
    pub fn new(source: Source) -> Self {
        Self { source, events: HashMap::new(), looked: Timestamp::UNIX_EPOCH }
    }

    /// What has to be written because of a report.
    pub fn observe(&mut self, report: &Report) -> Vec<Event> {
        let key = SeriesKey::of(report);
        let own_has_ended = self.events.get(&key).is_some_and(|(_, last)| has_ended(*last, report.at));
        let is_time = report.at.duration_since(self.looked) >= LOOK_AFTER;
        let mut writes = if own_has_ended || is_time { self.expire(report.at) } else { Vec::new() };
        match self.events.get_mut(&key) {
            Some((event, last)) => {
                *last = report.at;
                let first_repetition = event.series.is_none();
                let count = event.series.as_ref().map_or(1, |series| series.count) + 1;
                event.series = Some(EventSeries { count, last_observed_time: MicroTime(report.at) });
                if first_repetition {
                    writes.push(event.clone());
                }
            }
            None => {
                let event = self.event(report);
                if self.events.len() < ENTRIES {
                    self.events.insert(key, (event.clone(), report.at));
                }
                writes.push(event);
            }
        }
        writes
    }

    /// Forgets what has been quiet for six minutes, and says which counts have to be written for that.
    pub fn expire(&mut self, now: Timestamp) -> Vec<Event> {
        self.looked = now;
        let finished = self.events.extract_if(|_, (_, last)| has_ended(*last, now));
        // A series of two was written when it began.
        finished.map(|(_, (event, _))| event).filter(|event| event.series.as_ref().is_some_and(|series| series.count > 2)).collect()
    }

    /// After how long [`SeriesCache::expire`] has to be called if nothing is observed; `None` if there is nothing to expire.
    pub fn next_expiry(&self) -> Option<Duration> {
        (!self.events.is_empty()).then_some(Duration::from_secs(6 * 60))
    }

    fn event(&self, report: &Report) -> Event {
        Event {
            metadata: ObjectMeta {
                name: Some(event_name(&report.about, report.at)),
                namespace: Some(namespace_of(&report.about).to_owned()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(report.at)),
            reporting_controller: Some(self.source.component.clone()),
            reporting_instance: Some(self.source.instance.clone()),
            action: Some(report.action.clone()),
            reason: Some(report.reason.clone()),
            regarding: Some(report.about.clone()),
            related: report.related.clone(),
            note: Some(report.message.clone()),
            type_: Some(report.event_type.as_str().to_owned()),
            ..Event::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::EventType;

    fn report(version: &str, second: i64) -> Report {
        Report {
            about: ObjectReference { name: Some("p".into()), resource_version: Some(version.into()), ..Default::default() },
            related: None,
            event_type: EventType::Warning,
            reason: "FailedScheduling".into(),
            message: "0/1 nodes are available".into(),
            action: "Scheduling".into(),
            at: Timestamp::from_second(second).unwrap(),
        }
    }

    #[test]
    fn repetitions_become_a_series_that_is_written_when_it_begins_and_ends() {
        let mut cache = SeriesCache::new(Source::default());
        let counts = |events: Vec<Event>| events.iter().map(|e| e.series.as_ref().map_or(1, |s| s.count)).collect::<Vec<_>>();
        assert_eq!(counts(cache.observe(&report("1", 0))), [1]);
        assert_eq!(counts(cache.observe(&report("1", 10))), [2]);
        assert_eq!(counts(cache.observe(&report("1", 20))), [] as [i32; 0]);
        assert_eq!(counts(cache.observe(&report("2", 30))), [1], "another version of the object is another event");
        assert_eq!(counts(cache.expire(Timestamp::from_second(379).unwrap())), [] as [i32; 0]);
        assert_eq!(counts(cache.expire(Timestamp::from_second(380).unwrap())), [3]);
        assert!(cache.next_expiry().is_some());
        cache.expire(Timestamp::from_second(1000).unwrap());
        assert!(cache.next_expiry().is_none());
    }
}
