//! The one thread that writes. It takes whatever has queued up while the last batch went to disk, decides each write against the index (so a batch
//! may hold several writes to one key), appends them as one batch, and only when that is durable answers the writers and tells the
//! watchers, in revision order. Its speed is that of the disk's syncs times the size of the batch, which grows with the load by itself.
//!
//! With each batch it removes a little of what nobody needs any more, so that compaction is never a pause. When the disk fails (it is full,
//! mostly), what the log then holds is not known, and only reading it again tells: until that has worked, writes are refused.

use super::embedded::{Retention, Shared, read_index};
use super::index::{Index, Version};
use super::log::{Append, Log, Record};
use super::{Event, Expect, KeyValue, LeaseId, Revision, StoreError, StoreResult, VALUE_LIMIT};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// How many writes go into a batch at most. With more, the first of them waits longer without the disk being faster.
const BATCH: usize = 256;
/// How many bytes of values go into a batch at most: few segments of the log.
const BATCH_BYTES: usize = 1 << 20;
/// How many old records a batch removes for each that it writes, and at least.
const REMOVED_PER_WRITE: usize = 2;
const REMOVED_AT_LEAST: usize = 2 * HELD;
/// How many revisions stay beyond their age until they are removed together: neighbours in the log go for little more than one of them would.
const HELD: usize = 128;
/// How often the time of a revision is noted, for compaction by age.
const MARK_EVERY: Duration = Duration::from_secs(10);

/// How long to leave a log that cannot be written to alone: twice as long each time, until a write succeeds.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(16);

/// What the committer is asked to do.
pub(super) enum Request {
    /// A put (`value` is there) or a delete.
    Write {
        key: String,
        value: Option<Bytes>,
        expect: Expect,
        lease: LeaseId,
        answer: oneshot::Sender<StoreResult<Revision>>,
        permit: OwnedSemaphorePermit,
    },
    /// Forget what was overwritten or deleted up to a revision.
    Compact { revision: Revision, answer: oneshot::Sender<StoreResult<()>> },
    /// End.
    Close,
}

/// What is answered once the batch is durable.
enum Outcome {
    Written(Revision),
    Conflict(Option<Version>),
    Failed(StoreError),
}

type Answer = (oneshot::Sender<StoreResult<Revision>>, OwnedSemaphorePermit, Outcome);

pub(super) struct Committer<L> {
    pub(super) shared: Arc<Shared<L>>,
    pub(super) requests: Receiver<Request>,
    pub(super) retention: Retention,
    /// When which revision was the last, oldest first.
    marks: VecDeque<(Instant, Revision)>,
    /// Up to where history is older than it need be kept.
    target: Revision,
    /// How long to wait before the log is opened again.
    pause: Duration,
}

impl<L: Log> Committer<L> {
    pub(super) fn new(shared: Arc<Shared<L>>, requests: Receiver<Request>, retention: Retention) -> Self {
        Committer { shared, requests, retention, marks: VecDeque::new(), target: 0, pause: FIRST_PAUSE }
    }

    /// Runs until it is closed, or until nobody can send requests any more.
    pub(super) fn run(mut self) {
        while let Some((requests, open)) = self.gather() {
            match self.commit(requests) {
                Ok(()) => self.pause = FIRST_PAUSE,
                Err(error) => {
                    tracing::error!(%error, "the store cannot write");
                    self.shared.fail(&error.to_string());
                    if !open || !self.recover() {
                        break;
                    }
                }
            }
            if !open {
                break;
            }
        }
        // Whoever is still queued hears that the store is closed, by its answer being dropped.
        self.shared.end();
    }

    /// Opens the log again, as often as it takes; false when the store is closed before.
    fn recover(&mut self) -> bool {
        loop {
            if !self.refuse_for(self.pause) {
                return false;
            }
            self.pause = (2 * self.pause).min(LONGEST_PAUSE);
            match self.reopen() {
                Ok(()) => {
                    tracing::info!(revision = self.shared.durable(), "the store has been opened again");
                    return true;
                }
                Err(error) => {
                    tracing::warn!(%error, "the store cannot be opened again");
                    self.shared.fail(&error.to_string());
                }
            }
        }
    }

    fn reopen(&self) -> StoreResult<()> {
        let log = &self.shared.log;
        log.reopen()?;
        let index = read_index(log)?;
        log.reopen()?;
        Ok(self.shared.recovered(index)?)
    }

    /// Answers what comes in by dropping it, for so long; false when the store is closed.
    fn refuse_for(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        loop {
            match self.requests.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(Request::Close) | Err(RecvTimeoutError::Disconnected) => return false,
                Ok(Request::Write { .. } | Request::Compact { .. }) => {}
                Err(RecvTimeoutError::Timeout) => return true,
            }
        }
    }

    /// Waits for something to do and takes all of it that fits into a batch; the flag is false when this is the last.
    fn gather(&mut self) -> Option<(Vec<Request>, bool)> {
        let first = match self.shared.next_expiry() {
            None => self.requests.recv().ok()?,
            Some(wait) => match self.requests.recv_timeout(wait) {
                Ok(request) => request,
                Err(RecvTimeoutError::Timeout) => return Some((Vec::new(), true)),
                Err(RecvTimeoutError::Disconnected) => return None,
            },
        };
        let mut requests = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(request) = next {
            if let Request::Write { value: Some(value), .. } = &request {
                bytes += value.len();
            }
            if matches!(request, Request::Close) {
                return Some((requests, false));
            }
            requests.push(request);
            next = if requests.len() < BATCH && bytes < BATCH_BYTES { self.requests.try_recv().ok() } else { None };
        }
        Some((requests, true))
    }

    fn commit(&mut self, requests: Vec<Request>) -> Result<(), super::log::LogError> {
        let mut append = Append::default();
        let mut answers: Vec<Answer> = Vec::with_capacity(requests.len());
        let mut compactions = Vec::new();
        let shared = self.shared.clone();
        {
            // Readers read at the last durable revision, so what is added here does not show before it is durable.
            let mut index = shared.index.write();
            for request in requests {
                match request {
                    Request::Write { key, value, expect, lease, answer, permit } => {
                        let outcome = self.decide(&mut index, &mut append, key, value, expect, lease);
                        answers.push((answer, permit, outcome));
                    }
                    Request::Compact { revision, answer } => compactions.push((revision, answer)),
                    Request::Close => {}
                }
            }
            self.expire(&mut index, &mut append);
            let before = index.compacted();
            for (revision, _) in &compactions {
                append.removed.extend(index.compact((*revision).min(self.shared.durable()), usize::MAX));
            }
            if !append.writes.is_empty()
                && let Some(target) = self.compaction_target(&index)
            {
                let most = REMOVED_AT_LEAST.max(append.writes.len() * REMOVED_PER_WRITE);
                append.removed.extend(index.compact(target, most));
            }
            append.compacted = (index.compacted() != before).then(|| index.compacted());
        }
        if !append.writes.is_empty() || append.compacted.is_some() {
            self.shared.log.append(&append)?;
        }
        if let Some((revision, _)) = append.writes.last() {
            let revision = *revision;
            self.mark(revision);
            self.shared.announce(revision, append.writes.into_iter().map(|(revision, record)| event(revision, record)).collect());
        }
        for (answer, permit, outcome) in answers {
            // A writer that has gone away has its write all the same.
            let _ = answer.send(self.answer(outcome));
            drop(permit);
        }
        for (_, answer) in compactions {
            let _ = answer.send(Ok(()));
        }
        Ok(())
    }

    fn decide(&self, index: &mut Index, append: &mut Append, key: String, value: Option<Bytes>, expect: Expect, lease: LeaseId) -> Outcome {
        let size = value.as_ref().map_or(0, Bytes::len);
        if size > VALUE_LIMIT || key.len() > usize::from(u16::MAX) {
            return Outcome::Failed(StoreError::TooLarge(size));
        }
        if lease != 0 && self.shared.until(lease).is_none() {
            return Outcome::Failed(StoreError::NoLease);
        }
        let current = match index.check(&key, expect) {
            Ok(current) => current,
            Err(current) => return Outcome::Conflict(current),
        };
        if value.is_none() && current.is_none() {
            return Outcome::Conflict(None);
        }
        let revision = index.revision() + 1;
        let created = match (&value, current) {
            (None, _) => 0,
            (Some(_), Some(current)) => current.created,
            (Some(_), None) => revision,
        };
        index.add(&key, Version { revision, created, lease, size: size as u32 });
        append.writes.push((revision, Record { key, value, created, lease }));
        Outcome::Written(revision)
    }

    /// Deletes what ended leases hold, as much as fits into a batch; the rest follows with the next.
    fn expire(&self, index: &mut Index, append: &mut Append) {
        while append.writes.len() < 2 * BATCH
            && let Some((lease, key)) = index.first_lease()
            && self.shared.until(lease).is_none()
        {
            self.decide(index, append, key.to_string(), None, Expect::Any, 0);
        }
    }

    /// Where history may begin: what is older than the retention's age, once that is worth it, or exceeds its size.
    fn compaction_target(&mut self, index: &Index) -> Option<Revision> {
        let aged = self.marks.iter().take_while(|(time, _)| time.elapsed() >= self.retention.age).count();
        if let Some((_, revision)) = self.marks.drain(..aged).next_back() {
            self.target = revision;
        }
        let by_age = Some(self.target).filter(|target| *target >= index.compacted() + HELD as Revision);
        let by_size = index.compaction_for(self.retention.bytes, self.retention.versions);
        let target = by_age.max(by_size)?.min(self.shared.durable());
        (target > index.compacted()).then_some(target)
    }

    fn mark(&mut self, revision: Revision) {
        if self.marks.back().is_none_or(|(time, _)| time.elapsed() >= MARK_EVERY) {
            self.marks.push_back((Instant::now(), revision));
        }
    }

    fn answer(&self, outcome: Outcome) -> StoreResult<Revision> {
        match outcome {
            Outcome::Written(revision) => Ok(revision),
            Outcome::Failed(error) => Err(error),
            Outcome::Conflict(None) => Err(StoreError::Conflict(None)),
            Outcome::Conflict(Some(version)) => Err(match self.shared.read(version.revision) {
                Ok(current) => StoreError::Conflict(current),
                Err(error) => error,
            }),
        }
    }
}

fn event(revision: Revision, record: Record) -> Event {
    let key = record.key.clone();
    let current: Option<KeyValue> = record.into_key_value(revision);
    Event { revision, key, current }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::embedded::Options;
    use crate::store::memory;

    /// What is beyond its age goes many at a time, and what is beyond its size at once.
    #[tokio::test]
    async fn old_records_go_together() {
        let all = Retention { age: Duration::ZERO, bytes: usize::MAX, versions: usize::MAX };
        for (retention, kept, gone) in [(all, HELD - 2, HELD + 2), (Retention { versions: 10, ..all }, 8, 12)] {
            let store = memory::open(Options { retention, ..Options::default() }).unwrap();
            let first = store.put("/a".into(), "0".into(), Expect::Any, 0).await.unwrap();
            let overwrite = async |times: usize| {
                for _ in 0..times {
                    store.put("/a".into(), "1".into(), Expect::Any, 0).await.unwrap();
                }
            };
            overwrite(kept).await;
            assert!(store.watch("/".into(), first).await.is_ok(), "{retention:?}");
            overwrite(gone - kept).await;
            assert!(matches!(store.watch("/".into(), first).await, Err(StoreError::Compacted(_))), "{retention:?}");
        }
    }
}
