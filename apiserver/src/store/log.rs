//! What an embedded store needs of whatever keeps its values: a log of writes by revision. The rules are in the [index](super::index),
//! the order in the [committer](super::committer); a log only has to append a batch atomically and durably.

use super::{KeyValue, LeaseId, Revision};
use bytes::Bytes;

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: String,
    /// What was put; `None` for a deletion.
    pub value: Option<Bytes>,
    /// The revision that made the key; 0 for a deletion.
    pub created: Revision,
    /// The lease that ends it, or 0.
    pub lease: LeaseId,
}

impl Record {
    /// The entry that the record made at its revision; `None` for a deletion.
    pub fn into_key_value(self, revision: Revision) -> Option<KeyValue> {
        let value = self.value?;
        Some(KeyValue { key: self.key, value, create_revision: self.created, mod_revision: revision, lease: self.lease })
    }
}

/// A batch: all of it happens, or nothing.
#[derive(Debug, Default)]
pub struct Append {
    /// The writes, in revision order.
    pub writes: Vec<(Revision, Record)>,
    /// Revisions whose records are to be removed, with the sizes of their values.
    pub removed: Vec<(Revision, u32)>,
    /// The revision the log is compacted to afterwards, where it changes.
    pub compacted: Option<Revision>,
}

/// The disk failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LogError(pub String);

/// Where records are kept. All methods may block.
pub trait Log: Send + Sync + 'static {
    /// Applies a batch; when it returns the batch is durable.
    fn append(&self, batch: &Append) -> Result<(), LogError>;

    /// The record of a revision, `None` if there is none (any more).
    fn read(&self, revision: Revision) -> Result<Option<Record>, LogError>;

    /// Calls `visit` with the records after a revision in order, until it answers false.
    fn scan(&self, after: Revision, visit: &mut dyn FnMut(Revision, Record) -> bool) -> Result<(), LogError>;

    /// Starts anew from what the disk holds, after an append failed (of which all may be there, or nothing), and lets go of what it has cached.
    /// Fails where it cannot be written to.
    fn reopen(&self) -> Result<(), LogError>;

    /// The revision it is compacted to; 0 if it never was.
    fn compacted(&self) -> Result<Revision, LogError>;
}
