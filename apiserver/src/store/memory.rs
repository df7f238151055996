//! A store in memory, for tests and for control planes that need not survive: a log that forgets when the process ends.

use super::embedded::{self, Options};
use super::index::Index;
use super::log::{Append, Log, LogError, Record};
use super::{Revision, Store, StoreResult};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// An empty store in memory.
pub fn open(options: Options) -> StoreResult<Arc<dyn Store>> {
    embedded::open(MemoryLog::default(), Index::new(0), options)
}

#[derive(Default)]
struct MemoryLog {
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    records: BTreeMap<Revision, Record>,
    compacted: Revision,
}

impl Log for MemoryLog {
    fn append(&self, batch: &Append) -> Result<(), LogError> {
        let mut state = self.state.write();
        state.records.extend(batch.writes.iter().cloned());
        for (revision, _) in &batch.removed {
            state.records.remove(revision);
        }
        state.compacted = batch.compacted.unwrap_or(state.compacted);
        Ok(())
    }

    fn read(&self, revision: Revision) -> Result<Option<Record>, LogError> {
        Ok(self.state.read().records.get(&revision).cloned())
    }

    fn scan(&self, after: Revision, visit: &mut dyn FnMut(Revision, Record) -> bool) -> Result<(), LogError> {
        let state = self.state.read();
        let mut rest = state.records.range((Bound::Excluded(after), Bound::Unbounded));
        while rest.next().is_some_and(|(revision, record)| visit(*revision, record.clone())) {}
        Ok(())
    }

    fn reopen(&self) -> Result<(), LogError> {
        Ok(())
    }

    fn compacted(&self) -> Result<Revision, LogError> {
        Ok(self.state.read().compacted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn fresh() -> Option<(Arc<dyn Store>, ())> {
        Some((open(Options::default()).unwrap(), ()))
    }

    crate::store::suite::suite!(fresh);
}
