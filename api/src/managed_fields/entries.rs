//! The entries of `metadata.managedFields`: read, merged, bounded, sorted and written (upstream: `managedfields/internal/{managedfields,capmanagers}.go`).

use super::set::Set;
use serde_json::{Map, Value, json};

/// How an entry's owner writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // The names say it.
pub enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// One owner and what it owns.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its name.
    pub manager: String,
    /// How it writes.
    pub operation: Operation,
    /// The version it writes in.
    pub api_version: String,
    /// When it last changed what it owns, as text.
    pub time: Option<String>,
    /// The subresource it writes through, or empty.
    pub subresource: String,
    /// What it owns.
    pub set: Set,
}

impl Entry {
    /// Whether two entries are one owner's. An applier stays the same when it changes its version.
    pub fn same_owner(&self, other: &Entry) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// The owner in a conflict's message: `"hpa" using apps/v1`.
    pub fn describe(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text += &format!(" with subresource {:?}", self.subresource);
        }
        if self.operation == Operation::Update {
            text += &format!(" using {}", self.api_version);
        }
        text
    }
}

/// Reads entries; those that are none are left out.
pub fn read(managed: &Value) -> Vec<Entry> {
    let text = |entry: &Value, name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let entries = managed.as_array().into_iter().flatten().filter_map(|entry| {
        let operation = match entry.get("operation").and_then(Value::as_str) {
            Some("Apply") => Operation::Apply,
            Some("Update") => Operation::Update,
            _ => return None,
        };
        Some(Entry {
            manager: text(entry, "manager"),
            operation,
            api_version: text(entry, "apiVersion"),
            time: entry.get("time").and_then(Value::as_str).map(str::to_owned),
            subresource: text(entry, "subresource"),
            set: entry.get("fieldsV1").map(Set::from_value).unwrap_or_default(),
        })
    });
    entries.collect()
}

/// Writes entries in upstream's order; null if there are none.
pub fn write(mut entries: Vec<Entry>) -> Value {
    entries.retain(|e| !e.set.is_empty());
    if entries.is_empty() {
        return Value::Null;
    }
    entries.sort_by(|a, b| {
        let rank = |e: &Entry| (e.operation, e.time.clone(), e.manager.clone(), e.api_version.clone(), e.subresource.clone());
        rank(a).cmp(&rank(b))
    });
    entries.iter().map(write_one).collect()
}

fn write_one(entry: &Entry) -> Value {
    let mut map = Map::new();
    for (name, value) in [("manager", &entry.manager), ("apiVersion", &entry.api_version), ("subresource", &entry.subresource)] {
        if !value.is_empty() {
            map.insert(name.into(), value.as_str().into());
        }
    }
    if let Some(time) = &entry.time {
        map.insert("time".into(), time.as_str().into());
    }
    map.insert("operation".into(), entry.operation.as_str().into());
    map.insert("fieldsType".into(), "FieldsV1".into());
    map.insert("fieldsV1".into(), entry.set.to_value());
    Value::Object(map)
}

/// How many owners that update an object are told apart (upstream's bound); the oldest beyond it become one.
pub const MAX_UPDATERS: usize = 10;
const ANCIENT: &str = "ancient-changes";

/// Keeps the bound.
pub fn cap(entries: &mut Vec<Entry>) {
    loop {
        let mut updaters: Vec<usize> = (0..entries.len()).filter(|i| entries[*i].operation == Operation::Update).collect();
        if updaters.len() <= MAX_UPDATERS {
            return;
        }
        updaters.sort_by(|a, b| entries[*a].time.cmp(&entries[*b].time));
        // The two oldest of one version become its bucket; owners of different versions are never put together.
        let pair = updaters.iter().enumerate().find_map(|(n, second)| {
            let first = updaters[..n].iter().find(|f| entries[**f].api_version == entries[*second].api_version)?;
            Some((*first, *second))
        });
        let Some((first, second)) = pair else { return };
        let newer = entries[second].clone();
        let bucket = &mut entries[first];
        bucket.manager = ANCIENT.into();
        bucket.subresource = String::new();
        bucket.set.union(&newer.set);
        bucket.time = newer.time;
        entries.remove(second);
    }
}

/// An entry that says: forget all owners.
pub fn is_reset(managed: &Value) -> bool {
    managed.as_array().is_some_and(|entries| entries.len() == 1 && entries[0] == json!({}))
}
