//! Answers of others, kept as long as they say and no longer than half a minute (kubeadm's Corefile: `cache 30`), refusals included (RFC 2308).
//!
//! Answers from the cluster's own zone never come here: they are made from the index faster than they could be found, and are never stale.

use crate::message::shortest;
use crate::zone::Answer;
use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::{LowerName, RData, Record, RecordType};
use lru::LruCache;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

/// Answers kept (CoreDNS: 9984 of each kind).
const CAPACITY: NonZeroUsize = NonZeroUsize::new(10_000).expect("it is not zero");
const LONGEST: Duration = Duration::from_secs(30);
/// How long a failure is believed (RFC 2308, section 7; CoreDNS: `servfail`).
const FAILURE: Duration = Duration::from_secs(5);

/// What an answer depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    name: LowerName,
    kind: RecordType,
    dnssec: bool,
    checking_disabled: bool,
}

impl Key {
    /// The key of a query.
    pub fn new(query: &Query, dnssec: bool, checking_disabled: bool) -> Self {
        Self { name: LowerName::new(query.name()), kind: query.query_type(), dnssec, checking_disabled }
    }
}

struct Kept {
    answer: Answer,
    since: Instant,
    until: Instant,
}

/// The cache.
pub struct Cache(LruCache<Key, Kept>);

impl Default for Cache {
    fn default() -> Self {
        Self(LruCache::new(CAPACITY))
    }
}

impl Cache {
    /// The answer, with the time that is left of each record.
    pub fn get(&mut self, key: &Key, now: Instant) -> Option<Answer> {
        let kept = self.0.get(key)?;
        if kept.until <= now {
            self.0.pop(key);
            return None;
        }
        let mut answer = kept.answer.clone();
        let age = u32::try_from(now.duration_since(kept.since).as_secs()).unwrap_or(u32::MAX);
        sections(&mut answer, |record| record.ttl = record.ttl.saturating_sub(age));
        Some(answer)
    }

    /// Keeps an answer, if it may be kept.
    pub fn put(&mut self, key: Key, answer: &Answer, now: Instant) {
        let Some(keep) = lifetime(answer) else { return };
        let mut answer = answer.clone();
        let most = u32::try_from(LONGEST.as_secs()).unwrap_or(u32::MAX);
        sections(&mut answer, |record| record.ttl = record.ttl.min(most));
        self.0.put(key, Kept { answer, since: now, until: now + keep });
    }
}

fn sections(answer: &mut Answer, change: impl FnMut(&mut Record)) {
    let Answer { answers, authority, additional, .. } = answer;
    answers.iter_mut().chain(authority).chain(additional).for_each(change);
}

/// How long an answer may be kept; nothing if it may not.
fn lifetime(answer: &Answer) -> Option<Duration> {
    let seconds = match answer.code {
        ResponseCode::ServFail => return Some(FAILURE),
        ResponseCode::NoError if !answer.answers.is_empty() => shortest(answer.answers.iter().chain(&answer.authority))?,
        // That there is nothing is as true as the zone's SOA says.
        ResponseCode::NoError | ResponseCode::NXDomain => answer.authority.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
            _ => None,
        })?,
        _ => return None,
    };
    (seconds > 0).then(|| Duration::from_secs(seconds.into()).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::Name;
    use hickory_proto::rr::rdata::{A, SOA};

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn address(ttl: u32) -> Record {
        Record::from_rdata(name("example.com."), ttl, RData::A(A::new(192, 0, 2, 1)))
    }

    fn soa(ttl: u32, minimum: u32) -> Record {
        Record::from_rdata(name("com."), ttl, RData::SOA(SOA::new(name("a."), name("b."), 1, 1, 1, 1, minimum)))
    }

    #[test]
    fn answers_are_kept_as_long_as_they_say() {
        let of = |code, answers, authority| Answer { code, answers, authority, ..Answer::default() };
        let cases = [
            (of(ResponseCode::NoError, vec![address(20), address(10)], vec![]), Some(10)),
            (of(ResponseCode::NoError, vec![address(300)], vec![]), Some(30)),
            (of(ResponseCode::NoError, vec![address(0)], vec![]), None),
            (of(ResponseCode::NXDomain, vec![], vec![soa(20, 7)]), Some(7)),
            (of(ResponseCode::NoError, vec![], vec![soa(5, 900)]), Some(5)),
            (of(ResponseCode::NXDomain, vec![], vec![]), None),
            (of(ResponseCode::ServFail, vec![], vec![]), Some(5)),
            (of(ResponseCode::Refused, vec![], vec![]), None),
        ];
        for (answer, seconds) in cases {
            assert_eq!(lifetime(&answer), seconds.map(Duration::from_secs), "{answer:?}");
        }
    }

    #[test]
    fn time_runs_while_an_answer_is_kept() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        let key = |text: &str, dnssec| Key::new(&Query::query(name(text), RecordType::A), dnssec, false);
        cache.put(key("example.com.", false), &Answer { answers: vec![address(300)], ..Answer::default() }, start);
        let left = |cache: &mut Cache, after| {
            let found = cache.get(&key("EXAMPLE.com.", false), start + Duration::from_secs(after));
            found.map(|answer| answer.answers[0].ttl)
        };
        assert_eq!((left(&mut cache, 0), left(&mut cache, 12), left(&mut cache, 29)), (Some(30), Some(18), Some(1)));
        assert_eq!(cache.get(&key("example.com.", true), start), None);
        assert_eq!((left(&mut cache, 30), cache.0.len()), (None, 0));
    }
}
