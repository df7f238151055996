//! Merging a configuration into an object, and taking fields out of one (upstream: `structured-merge-diff/typed/{merge,remove}.go`).

use super::set::{Set, field_element};
use super::shape::{Place, Shape, below, lenient_element};
use crate::schema::{Relation, Schema};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The object with everything that `config` sets.
pub(super) fn merge(schema: &Schema, place: Place<'_>, object: &Value, config: &Value) -> Value {
    let shape = place.shape(schema, Some(config));
    match (&shape, object, config) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(object), Value::Object(config)) => {
            let mut out = object.clone();
            for (name, value) in config {
                let merged = match object.get(name) {
                    Some(had) => merge(schema, below(&shape, name), had, value),
                    None => value.clone(),
                };
                out.insert(name.clone(), merged);
            }
            Value::Object(out)
        }
        (Shape::List(item, relation), Value::Array(object), Value::Array(config)) => {
            Value::Array(lists(schema, *item, relation, object, config))
        }
        _ => config.clone(),
    }
}

/// Items of both, in the configuration's order; items that only the object has stay where they are between the shared ones.
fn lists(schema: &Schema, item: Place<'_>, relation: &Relation, object: &[Value], config: &[Value]) -> Vec<Value> {
    let name = |v: &Value| lenient_element(schema, item, relation, v);
    let (left, right): (Vec<Box<str>>, Vec<Box<str>>) = (object.iter().map(name).collect(), config.iter().map(name).collect());
    let mut had: BTreeMap<&str, &Value> = BTreeMap::new();
    for (element, value) in left.iter().zip(object) {
        had.entry(element).or_insert(value);
    }
    let given: BTreeSet<&str> = right.iter().map(AsRef::as_ref).collect();
    let mut shared: VecDeque<&str> = right.iter().map(AsRef::as_ref).filter(|e| had.contains_key(e)).collect();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    let merged = |at: usize| had.get(right[at].as_ref()).map_or_else(|| config[at].clone(), |h| merge(schema, item, h, &config[at]));
    let mut out = Vec::with_capacity(left.len() + right.len());
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        if l < left.len() && r < right.len() {
            if left[l] == right[r] {
                out.push(merged(r));
                done.insert(&right[r]);
                shared.pop_front();
                (l, r) = (l + 1, r + 1);
                continue;
            }
            // Shared, but it is another one's turn: it comes when the configuration names it.
            if given.contains(left[l].as_ref()) && shared.front().is_some_and(|next| *next != left[l].as_ref()) {
                l += 1;
                continue;
            }
        }
        if l < left.len() {
            if !given.contains(left[l].as_ref()) {
                out.push(object[l].clone());
                l += 1;
                continue;
            }
            if done.contains(left[l].as_ref()) {
                l += 1;
            }
        }
        if r < right.len() {
            out.push(merged(r));
            done.insert(&right[r]);
            if shared.front() == Some(&right[r].as_ref()) {
                shared.pop_front();
            }
            r += 1;
        }
    }
    out
}

/// The value without the fields of `set`. A map or list of which nothing stays becomes null.
pub(super) fn remove(schema: &Schema, place: Place<'_>, value: &Value, set: &Set) -> Value {
    if set.is_empty() {
        return value.clone();
    }
    let shape = place.shape(schema, Some(value));
    match (&shape, value) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(map)) if !map.is_empty() => {
            let mut out = Map::new();
            for (name, value) in map {
                match set.get(&field_element(name)) {
                    Some(node) if node.member => {}
                    Some(node) => drop(out.insert(name.clone(), remove(schema, below(&shape, name), value, &node.children))),
                    None => drop(out.insert(name.clone(), value.clone())),
                }
            }
            if out.is_empty() { Value::Null } else { Value::Object(out) }
        }
        (Shape::List(item, relation), Value::Array(items)) if !items.is_empty() => {
            let mut out = Vec::with_capacity(items.len());
            for value in items {
                match set.get(&lenient_element(schema, *item, relation, value)) {
                    Some(node) if node.member => {}
                    Some(node) => out.push(remove(schema, *item, value, &node.children)),
                    None => out.push(value.clone()),
                }
            }
            if out.is_empty() { Value::Null } else { Value::Array(out) }
        }
        _ => value.clone(),
    }
}
