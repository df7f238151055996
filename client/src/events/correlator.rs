//! What becomes of a report before it is written (upstream: `client-go/tools/record/events_cache.go`). Pure: the report carries the time.
//!
//! 1. From the tenth different message on about one object and reason within ten minutes, messages are combined into one event.
//! 2. An event that was written before is counted up instead of written again.
//! 3. Each object may cause 25 writes per source at once and one more every five minutes; the rest is dropped.

use super::{Report, Source, event_name, namespace_of};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Event, EventSource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use lru::LruCache;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::num::NonZeroUsize;

/// Entries in each of the three memories.
const ENTRIES: NonZeroUsize = NonZeroUsize::new(4096).expect("4096 is not 0");
/// So many different messages, and they are combined.
const SIMILAR: usize = 10;
/// Messages further apart are not similar.
const SIMILAR_WITHIN: SignedDuration = SignedDuration::from_secs(600);
/// Writes that an object may cause at once.
const BURST: f64 = 25.0;
/// After that, one in so many seconds.
const REFILL_SECONDS: f64 = 300.0;
/// How a combined message begins.
const COMBINED: &str = "(combined from similar events): ";

/// What to do about a report.
#[derive(Debug, PartialEq)]
pub enum Decision {
    /// Too many.
    Drop,
    /// Write this.
    Create(Box<Event>),
    /// Count up the event of that name; should it be gone, write `event`.
    Patch {
        /// A strategic merge patch of the event with `event`'s name.
        patch: Value,
        /// The event with its new count.
        event: Box<Event>,
    },
}

/// What an event is recognised by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EventKey {
    object: [String; 5],
    event_type: &'static str,
    reason: String,
    /// None of a combined event.
    message_and_field: Option<(String, String)>,
}

struct Similar {
    messages: BTreeSet<String>,
    last: Timestamp,
}

struct Observed {
    name: String,
    count: i32,
    first: Timestamp,
}

struct Bucket {
    tokens: f64,
    last: Timestamp,
}

/// The three memories.
pub struct Correlator {
    source: Source,
    similar: LruCache<EventKey, Similar>,
    observed: LruCache<EventKey, Observed>,
    buckets: LruCache<[String; 5], Bucket>,
}

impl Correlator {
    /// Nothing seen yet.
    pub fn new(source: Source) -> Self {
        Self { source, similar: LruCache::new(ENTRIES), observed: LruCache::new(ENTRIES), buckets: LruCache::new(ENTRIES) }
    }

    /// What to write, and the key under which [`Correlator::written`] remembers it.
    pub fn correlate(&mut self, report: &Report) -> (EventKey, Decision) {
        let (key, message) = self.combine(report);
        let mut event = self.event(report, message);
        let earlier = self.observed.get(&key).map(|observed| (observed.name.clone(), observed.count, observed.first));
        if let Some((name, count, first)) = &earlier {
            event.metadata.name = Some(name.clone());
            event.count = Some(count + 1);
            event.first_timestamp = Some(Time(*first));
        }
        self.remember(&key, &event);
        if !self.take_token(&key.object, report.at) {
            return (key, Decision::Drop);
        }
        let decision = match earlier {
            None => Decision::Create(Box::new(event)),
            Some(_) => {
                let patch = json!({"count": event.count, "message": event.message, "lastTimestamp": event.last_timestamp});
                Decision::Patch { patch, event: Box::new(event) }
            }
        };
        (key, decision)
    }

    /// What the server made of it.
    pub fn written(&mut self, key: &EventKey, event: &Event) {
        self.remember(key, event);
    }

    fn remember(&mut self, key: &EventKey, event: &Event) {
        if let (Some(name), Some(first)) = (&event.metadata.name, &event.first_timestamp) {
            let observed = Observed { name: name.clone(), count: event.count.unwrap_or(1), first: first.0 };
            self.observed.put(key.clone(), observed);
        }
    }

    /// The key and the message, those of the combined event if there are many similar ones.
    fn combine(&mut self, report: &Report) -> (EventKey, String) {
        let about = &report.about;
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let object = [text(&about.kind), text(&about.namespace), text(&about.name), text(&about.uid), text(&about.api_version)];
        let combined = EventKey { object, event_type: report.event_type.as_str(), reason: report.reason.clone(), message_and_field: None };
        let fresh = || Similar { messages: BTreeSet::new(), last: report.at };
        let similar = self.similar.get_or_insert_mut(combined.clone(), fresh);
        if report.at.duration_since(similar.last) > SIMILAR_WITHIN {
            *similar = fresh();
        }
        similar.messages.insert(report.message.clone());
        similar.last = report.at;
        if similar.messages.len() < SIMILAR {
            let message_and_field = Some((report.message.clone(), text(&about.field_path)));
            return (EventKey { message_and_field, ..combined }, report.message.clone());
        }
        similar.messages.pop_first();
        (combined, format!("{COMBINED}{}", report.message))
    }

    fn event(&self, report: &Report, message: String) -> Event {
        let instance = Some(self.source.instance.clone());
        Event {
            metadata: ObjectMeta {
                name: Some(event_name(&report.about, report.at)),
                namespace: Some(namespace_of(&report.about).to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: report.about.clone(),
            reason: Some(report.reason.clone()),
            message: Some(message),
            first_timestamp: Some(Time(report.at)),
            last_timestamp: Some(Time(report.at)),
            count: Some(1),
            type_: Some(report.event_type.as_str().to_owned()),
            source: Some(EventSource {
                component: Some(self.source.component.clone()),
                host: instance.clone().filter(|instance| !instance.is_empty()),
            }),
            reporting_component: Some(self.source.component.clone()),
            reporting_instance: instance,
            ..Event::default()
        }
    }

    fn take_token(&mut self, object: &[String; 5], now: Timestamp) -> bool {
        let bucket = self.buckets.get_or_insert_mut(object.clone(), || Bucket { tokens: BURST, last: now });
        let elapsed = now.duration_since(bucket.last).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + elapsed / REFILL_SECONDS).min(BURST);
        bucket.last = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::EventType;
    use k8s_openapi::api::core::v1::ObjectReference;

    fn report(message: &str, second: i64) -> Report {
        Report {
            about: ObjectReference { kind: Some("Pod".into()), namespace: Some("ns".into()), name: Some("p".into()), ..Default::default() },
            related: None,
            event_type: EventType::Warning,
            reason: "Failed".into(),
            message: message.into(),
            action: String::new(),
            at: Timestamp::from_second(second).unwrap(),
        }
    }

    fn correlator() -> Correlator {
        Correlator::new(Source { component: "kubelet".into(), instance: "n1".into() })
    }

    #[test]
    fn the_same_again_is_counted() {
        let mut correlator = correlator();
        let (_, first) = correlator.correlate(&report("m", 100));
        let Decision::Create(first) = first else { panic!("{first:?}") };
        assert_eq!(first.metadata.name.as_deref(), Some("p.174876e800"));
        assert_eq!(first.source.as_ref().and_then(|s| s.host.as_deref()), Some("n1"));
        let (_, second) = correlator.correlate(&report("m", 160));
        let Decision::Patch { patch, event } = second else { panic!("{second:?}") };
        assert_eq!(event.metadata.name.as_deref(), Some("p.174876e800"));
        assert_eq!(patch, json!({"count": 2, "message": "m", "lastTimestamp": "1970-01-01T00:02:40Z"}));
        assert_eq!(event.first_timestamp, first.first_timestamp);
    }

    #[test]
    fn the_tenth_different_message_is_combined() {
        let mut correlator = correlator();
        for n in 1..10 {
            assert!(matches!(correlator.correlate(&report(&format!("m{n}"), n)).1, Decision::Create(_)), "message {n}");
        }
        let Decision::Create(combined) = correlator.correlate(&report("m10", 10)).1 else { panic!("the first combined one is created") };
        assert_eq!(combined.message.as_deref(), Some("(combined from similar events): m10"));
        let Decision::Patch { patch, .. } = correlator.correlate(&report("m11", 11)).1 else { panic!("the next one is counted") };
        assert_eq!(patch["count"], 2);
        assert_eq!(patch["message"], "(combined from similar events): m11");
        let Decision::Create(later) = correlator.correlate(&report("m12", 700)).1 else {
            panic!("ten minutes later they are told apart again")
        };
        assert_eq!(later.message.as_deref(), Some("m12"));
    }

    #[test]
    fn an_object_may_cause_25_writes_then_one_in_five_minutes() {
        let mut correlator = correlator();
        let dropped = |correlator: &mut Correlator, second| correlator.correlate(&report("m", second)).1 == Decision::Drop;
        assert_eq!((0..30).filter(|_| dropped(&mut correlator, 0)).count(), 5);
        assert!(dropped(&mut correlator, 299));
        assert!(!dropped(&mut correlator, 301));
    }
}
