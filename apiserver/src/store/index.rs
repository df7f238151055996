//! Which revisions of which keys there are: the part of an embedded store that is kept in memory, and all its rules. Pure: no value,
//! no IO, no clock. The values lie in a [log](super::log) under their revisions.
//!
//! Every key has its versions in order, the last one the current state, a deletion being a version without a value. Reading at a
//! revision takes of each key the last version not after it; so a reader is not disturbed by writes that are applied here before they are
//! durable, as long as it reads at a revision that is.

use super::{Expect, LeaseId, Range, Revision, StoreError};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

/// One state of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// The revision that made it.
    pub revision: Revision,
    /// The revision that made the key; 0 for a deletion.
    pub created: Revision,
    /// The lease that ends it, or 0.
    pub lease: LeaseId,
    /// How many bytes its value has.
    pub size: u32,
}

impl Version {
    /// Whether the key is gone with it.
    pub fn is_deletion(&self) -> bool {
        self.created == 0
    }
}

struct Versions {
    latest: Version,
    /// The ones before, oldest first, until compaction takes them.
    older: Vec<Version>,
}

impl Versions {
    fn at(&self, revision: Revision) -> Option<&Version> {
        if self.latest.revision <= revision {
            return Some(&self.latest);
        }
        self.older.iter().rev().find(|v| v.revision <= revision)
    }
}

/// A version that nothing but history needs, once the store is compacted to `since`.
struct Superseded {
    since: Revision,
    version: Revision,
    size: u32,
    key: Arc<str>,
}

/// What a list found: keys with their versions, and how many more there are.
pub struct Selection {
    /// The versions in key order.
    pub found: Vec<(Arc<str>, Version)>,
    /// How many more are in the range.
    pub remaining: usize,
}

/// See the module's head.
pub struct Index {
    keys: BTreeMap<Arc<str>, Versions>,
    /// The last revision, whether durable or not.
    revision: Revision,
    compacted: Revision,
    /// In the order of `since`.
    superseded: VecDeque<Superseded>,
    superseded_bytes: usize,
    /// The keys whose current state ends with a lease.
    leases: BTreeMap<LeaseId, BTreeSet<Arc<str>>>,
}

impl Index {
    /// The index of an empty log that was compacted to this revision.
    pub fn new(compacted: Revision) -> Index {
        Index {
            keys: BTreeMap::new(),
            revision: compacted.max(1),
            compacted,
            superseded: VecDeque::new(),
            superseded_bytes: 0,
            leases: BTreeMap::new(),
        }
    }

    /// The last revision.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// What was overwritten or deleted at or before this revision is gone.
    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    /// The current state of a key that exists.
    pub fn current(&self, key: &str) -> Option<Version> {
        self.keys.get(key).map(|v| v.latest).filter(|v| !v.is_deletion())
    }

    /// The state of a key as of a revision.
    pub fn version_at(&self, key: &str, revision: Revision) -> Option<Version> {
        self.keys.get(key)?.at(revision).copied().filter(|v| !v.is_deletion())
    }

    /// Whether `expect` holds for the key; the error is what stands there instead.
    pub fn check(&self, key: &str, expect: Expect) -> Result<Option<Version>, Option<Version>> {
        let current = self.current(key);
        let holds = match expect {
            Expect::Any => true,
            Expect::Absent => current.is_none(),
            Expect::At(revision) => current.is_some_and(|v| v.revision == revision),
        };
        if holds { Ok(current) } else { Err(current) }
    }

    /// Adds a version. Its revision is larger than all added before; `created` 0 makes it a deletion.
    pub fn add(&mut self, key: &str, version: Version) {
        // When the log is read back, what still stands may be older than a deletion that was compacted away: its revision is not used again.
        self.revision = self.revision.max(version.revision);
        let (key, previous) = match self.keys.get_key_value(key) {
            Some((key, versions)) => (key.clone(), Some(versions.latest)),
            None => (Arc::from(key), None),
        };
        if let Some(previous) = previous {
            self.unlease(&key, previous.lease);
            if !previous.is_deletion() {
                self.supersede(version.revision, previous, &key);
            }
        }
        if version.is_deletion() {
            self.supersede(version.revision, version, &key);
        } else if version.lease != 0 {
            self.leases.entry(version.lease).or_default().insert(key.clone());
        }
        match self.keys.get_mut(&key) {
            Some(versions) => versions.older.push(std::mem::replace(&mut versions.latest, version)),
            None => {
                self.keys.insert(key, Versions { latest: version, older: Vec::new() });
            }
        }
    }

    fn supersede(&mut self, since: Revision, version: Version, key: &Arc<str>) {
        self.superseded_bytes += version.size as usize;
        self.superseded.push_back(Superseded { since, version: version.revision, size: version.size, key: key.clone() });
    }

    fn unlease(&mut self, key: &Arc<str>, lease: LeaseId) {
        if let Some(keys) = self.leases.get_mut(&lease) {
            keys.remove(key);
            if keys.is_empty() {
                self.leases.remove(&lease);
            }
        }
    }

    /// The lease that ends first, and a key of it.
    pub fn first_lease(&self) -> Option<(LeaseId, Arc<str>)> {
        let (lease, keys) = self.leases.first_key_value()?;
        keys.first().map(|key| (*lease, key.clone()))
    }

    /// The part of a range that exists at its revision, `durable` if it names none.
    pub fn select(&self, range: &Range, durable: Revision) -> Result<Selection, StoreError> {
        let at = match range.at {
            Some(at) if at > durable => return Err(StoreError::Future(durable)),
            Some(at) if at < self.compacted => return Err(StoreError::Compacted(self.compacted)),
            Some(at) => at,
            None => durable,
        };
        let start = match &range.after {
            Some(after) if after.as_str() >= range.prefix.as_str() => Bound::Excluded(after.as_str()),
            _ => Bound::Included(range.prefix.as_str()),
        };
        let limit = if range.limit == 0 { usize::MAX } else { range.limit };
        let mut selection = Selection { found: Vec::new(), remaining: 0 };
        let keys = self.keys.range::<str, _>((start, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(&range.prefix));
        for (key, versions) in keys {
            match versions.at(at) {
                Some(version) if !version.is_deletion() => {
                    if selection.found.len() < limit {
                        selection.found.push((key.clone(), *version));
                    } else {
                        selection.remaining += 1;
                    }
                }
                _ => {}
            }
        }
        Ok(selection)
    }

    /// Compacts up to and with `to`, but stops after about `most` versions; answers the versions to remove from the log,
    /// with the sizes of their values.
    pub fn compact(&mut self, to: Revision, most: usize) -> Vec<(Revision, u32)> {
        let to = to.min(self.revision);
        let mut removed = Vec::new();
        while let Some(oldest) = self.superseded.front() {
            if oldest.since > to {
                break;
            }
            // All of one revision goes at once: a deletion supersedes two versions.
            if removed.len() >= most && oldest.since > self.compacted {
                return removed;
            }
            self.compacted = self.compacted.max(oldest.since);
            if let Some(superseded) = self.superseded.pop_front() {
                self.superseded_bytes -= superseded.size as usize;
                removed.push((superseded.version, superseded.size));
                self.forget(&superseded.key, superseded.version);
            }
        }
        self.compacted = self.compacted.max(to);
        removed
    }

    fn forget(&mut self, key: &Arc<str>, revision: Revision) {
        let Some(versions) = self.keys.get_mut(key) else { return };
        versions.older.retain(|v| v.revision != revision);
        if versions.latest.revision == revision {
            // A deletion that nobody can read from before; nothing older is left either, as that was superseded earlier.
            self.keys.remove(key);
        }
    }

    /// Up to where to compact so that no more than this many bytes stay superseded.
    pub fn compaction_for(&self, bytes: usize, versions: usize) -> Option<Revision> {
        let mut excess = self.superseded_bytes.saturating_sub(bytes);
        let surplus = self.superseded.len().saturating_sub(versions);
        let mut target = None;
        for (index, superseded) in self.superseded.iter().enumerate() {
            if excess == 0 && index >= surplus {
                break;
            }
            excess = excess.saturating_sub(superseded.size as usize);
            target = Some(superseded.since);
        }
        target
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(index: &mut Index, key: &str, revision: Revision) {
        let created = index.current(key).map_or(revision, |v| v.created);
        index.add(key, Version { revision, created, lease: 0, size: 10 });
    }

    fn delete(index: &mut Index, key: &str, revision: Revision) {
        index.add(key, Version { revision, created: 0, lease: 0, size: 0 });
    }

    fn keys(index: &Index, at: Revision) -> Vec<(String, Revision)> {
        let range = Range { prefix: String::new(), after: None, limit: 0, at: Some(at) };
        let selection = index.select(&range, index.revision()).unwrap();
        selection.found.iter().map(|(k, v)| (k.to_string(), v.revision)).collect()
    }

    #[test]
    fn a_revision_that_was_compacted_away_is_not_used_again() {
        let mut index = Index::new(4);
        put(&mut index, "a", 2);
        assert_eq!(index.revision(), 4);
    }

    #[test]
    fn reads_at_a_revision_see_what_stood_there_then() {
        let mut index = Index::new(1);
        put(&mut index, "a", 2);
        put(&mut index, "b", 3);
        put(&mut index, "a", 4);
        delete(&mut index, "a", 5);
        put(&mut index, "a", 6);
        let all = |list: &[(&str, Revision)]| list.iter().map(|(k, r)| (k.to_string(), *r)).collect::<Vec<_>>();
        assert_eq!(keys(&index, 3), all(&[("a", 2), ("b", 3)]));
        assert_eq!(keys(&index, 4), all(&[("a", 4), ("b", 3)]));
        assert_eq!(keys(&index, 5), all(&[("b", 3)]));
        assert_eq!(keys(&index, 6), all(&[("a", 6), ("b", 3)]));
        assert_eq!(index.current("a").unwrap().created, 6);
    }

    #[test]
    fn compaction_forgets_what_only_history_needs() {
        let mut index = Index::new(1);
        put(&mut index, "a", 2);
        put(&mut index, "a", 3);
        put(&mut index, "b", 4);
        delete(&mut index, "a", 5);
        put(&mut index, "b", 6);
        assert_eq!(index.compact(4, 100), [(2, 10)]);
        assert_eq!(keys(&index, 4), [("a".to_string(), 3), ("b".to_string(), 4)]);
        assert_eq!(index.compact(6, 100), [(3, 10), (5, 0), (4, 10)]);
        assert_eq!((index.superseded.len(), index.superseded_bytes, index.keys.len()), (0, 0, 1));
        let old = Range { prefix: String::new(), after: None, limit: 0, at: Some(5) };
        assert!(matches!(index.select(&old, 6), Err(StoreError::Compacted(6))));
    }

    #[test]
    fn compaction_in_steps_ends_where_it_says() {
        let mut index = Index::new(1);
        for revision in 2..20 {
            put(&mut index, "a", revision);
        }
        assert_eq!(index.compaction_for(100, 1000), Some(9));
        assert_eq!(index.compaction_for(1000, 5), Some(14));
        assert_eq!(index.compaction_for(1000, 1000), None);
        assert_eq!(index.compact(15, 4), [(2, 10), (3, 10), (4, 10), (5, 10)]);
        assert_eq!(index.compacted(), 6);
        assert_eq!(index.compact(15, 100).len(), 9);
        assert_eq!(index.compacted(), 15);
    }

    #[test]
    fn pages_go_on_after_a_key_and_count_the_rest() {
        let mut index = Index::new(1);
        for (at, key) in ["p/a", "p/b", "p/c", "q/a"].iter().enumerate() {
            put(&mut index, key, 2 + at as u64);
        }
        for (after, limit, found, remaining) in [(None, 2, "p/a", 1), (Some("p/a"), 1, "p/b", 1), (Some("p/b"), 0, "p/c", 0)] {
            let range = Range { prefix: "p/".into(), after: after.map(str::to_owned), limit, at: None };
            let selection = index.select(&range, index.revision()).unwrap();
            assert_eq!((&*selection.found[0].0, selection.remaining), (found, remaining));
        }
    }

    #[test]
    fn a_key_leaves_its_lease_when_it_is_overwritten() {
        let mut index = Index::new(1);
        index.add("a", Version { revision: 2, created: 2, lease: 7, size: 1 });
        index.add("b", Version { revision: 3, created: 3, lease: 5, size: 1 });
        assert_eq!(index.first_lease().unwrap().0, 5);
        put(&mut index, "b", 4);
        assert_eq!(index.first_lease().unwrap().1.as_ref(), "a");
        delete(&mut index, "a", 5);
        assert!(index.first_lease().is_none());
    }
}
