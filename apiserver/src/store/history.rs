//! A watch of an embedded store: first what the log has from the start revision on, read in pieces, then what the committer announces.

use super::embedded::Shared;
use super::log::Log;
use super::{Batch, Event, Revision, StoreError, StoreResult, Watch};
use futures::stream::{self, StreamExt};
use std::sync::Arc;
use tokio::sync::mpsc;

/// How many records are read from the log at a time.
const PIECE: usize = 256;

struct Replay<L> {
    shared: Arc<Shared<L>>,
    prefix: String,
    /// Everything up to here has been delivered.
    cursor: Revision,
    /// Up to here the log is read; what comes after it stands in the channel.
    until: Revision,
    batches: mpsc::Receiver<Batch>,
    over: bool,
}

/// The changes under `prefix` after `from`. `batches` has all those after `durable`.
pub(super) fn watch<L: Log>(
    shared: Arc<Shared<L>>,
    prefix: String,
    from: Revision,
    durable: Revision,
    batches: mpsc::Receiver<Batch>,
) -> Watch {
    let replay = Replay { shared, prefix, cursor: from, until: durable, batches, over: false };
    stream::unfold(replay, |mut replay| async move {
        let next = replay.next().await?;
        Some((next, replay))
    })
    .boxed()
}

impl<L: Log> Replay<L> {
    async fn next(&mut self) -> Option<StoreResult<Batch>> {
        if self.over {
            return None;
        }
        let batch = if self.cursor < self.until { self.read().await } else { self.receive().await? };
        match &batch {
            Ok(batch) => self.cursor = batch.revision,
            Err(_) => self.over = true,
        }
        Some(batch)
    }

    async fn receive(&mut self) -> Option<StoreResult<Batch>> {
        match self.batches.recv().await {
            Some(batch) => Some(Ok(batch)),
            None if self.shared.is_closed() => None,
            None if let Some(failure) = self.shared.failure() => Some(Err(failure)),
            // The channel was full and the committer did not wait.
            None => Some(Err(StoreError::Compacted(self.shared.index.read().compacted()))),
        }
    }

    async fn read(&self) -> StoreResult<Batch> {
        let (shared, prefix, cursor, until) = (self.shared.clone(), self.prefix.clone(), self.cursor, self.until);
        let read = tokio::task::spawn_blocking(move || {
            let mut events = Vec::new();
            let mut revision = until;
            let mut left = PIECE;
            shared.log.scan(cursor, &mut |at, record| {
                if at > until {
                    return false;
                }
                if record.key.starts_with(&prefix) {
                    let key = record.key.clone();
                    events.push(Event { revision: at, key, current: record.into_key_value(at) });
                }
                left -= 1;
                if left == 0 {
                    revision = at;
                }
                left > 0
            })?;
            // What was removed while it was read is missing.
            let compacted = shared.index.read().compacted();
            if compacted > cursor { Err(StoreError::Compacted(compacted)) } else { Ok(Batch { events, revision }) }
        });
        read.await.map_err(|e| StoreError::Unavailable(e.to_string()))?
    }
}
