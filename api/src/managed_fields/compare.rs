//! What has changed between two versions of an object, as sets of fields (upstream: `structured-merge-diff/typed/compare.go`).

use super::set::{Node, Set, field_element};
use super::shape::{Place, Shape, below, lenient_element};
use crate::schema::Schema;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The fields that were added, removed and changed.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub added: Set,
    pub removed: Set,
    pub modified: Set,
}

/// Compares two whole objects.
pub(super) fn compare(schema: &Schema, place: Place<'_>, old: &Value, new: &Value) -> Comparison {
    let diff = values(schema, place, Some(old), Some(new));
    Comparison { added: diff.added.children, removed: diff.removed.children, modified: diff.modified.children }
}

#[derive(Default)]
struct Diff {
    added: Node,
    removed: Node,
    modified: Node,
}

impl Diff {
    fn put(&mut self, element: Box<str>, below: Diff) {
        for (ours, theirs) in [(&mut self.added, below.added), (&mut self.removed, below.removed), (&mut self.modified, below.modified)] {
            if !theirs.is_empty() {
                ours.children.put(element.clone(), theirs);
            }
        }
    }
}

fn values(schema: &Schema, place: Place<'_>, old: Option<&Value>, new: Option<&Value>) -> Diff {
    let mut diff = Diff::default();
    if old == new {
        return diff;
    }
    let mut leaf = true;
    let shape = place.shape(schema, new.or(old));
    match &shape {
        Shape::Leaf => {}
        Shape::Struct(_) | Shape::Map(_) => {
            if let Some((old, new)) = parts(old, new, Value::as_object, Map::is_empty) {
                leaf = false;
                for (name, value) in old.into_iter().flatten() {
                    diff.put(field_element(name), values(schema, below(&shape, name), Some(value), new.and_then(|n| n.get(name))));
                }
                for (name, value) in new.into_iter().flatten().filter(|(name, _)| old.is_none_or(|o| !o.contains_key(*name))) {
                    diff.put(field_element(name), values(schema, below(&shape, name), None, Some(value)));
                }
            }
        }
        Shape::List(item, relation) => {
            if let Some((old, new)) = parts(old, new, Value::as_array, Vec::is_empty) {
                leaf = false;
                let mut both: BTreeMap<Box<str>, [Vec<&Value>; 2]> = BTreeMap::new();
                for (side, list) in [old, new].into_iter().enumerate() {
                    for value in list.into_iter().flatten() {
                        both.entry(lenient_element(schema, *item, relation, value)).or_default()[side].push(value);
                    }
                }
                for (element, [old, new]) in both {
                    diff.put(element, items(schema, *item, &old, &new));
                }
            }
        }
    }
    match (old, new) {
        (None, _) => diff.added.member = true,
        (_, None) => diff.removed.member = true,
        _ => diff.modified.member = leaf,
    }
    diff
}

/// Both sides as maps or lists, if there is something in one of them: else they are compared as leaves.
fn parts<'a, T>(
    old: Option<&'a Value>,
    new: Option<&'a Value>,
    cast: impl Fn(&'a Value) -> Option<&'a T>,
    is_empty: impl Fn(&T) -> bool,
) -> Option<(Option<&'a T>, Option<&'a T>)> {
    let (old, new) = (old.and_then(&cast), new.and_then(&cast));
    (!old.is_none_or(&is_empty) || !new.is_none_or(&is_empty)).then_some((old, new))
}

/// The items of one identity; there is more than one only in lists that were stored before their keys were checked.
fn items(schema: &Schema, item: Place<'_>, old: &[&Value], new: &[&Value]) -> Diff {
    if old.len() <= 1 && new.len() <= 1 {
        return values(schema, item, old.first().copied(), new.first().copied());
    }
    let mut diff = Diff::default();
    match (old.is_empty(), new.is_empty()) {
        (true, _) => diff.added.member = true,
        (_, true) => diff.removed.member = true,
        _ => diff.modified.member = old != new,
    }
    diff
}
