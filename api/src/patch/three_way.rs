//! The patch of `kubectl apply`: what the user changed since the last time, against what the object has become meanwhile. What others added stays; what
//! the user has taken out of the manifest goes.

use super::diff::{Wanted, objects};
use super::strategic::{member, strategy};
use super::{PatchError, SET_ORDER};
use crate::schema::{Root, Schema, Type};
use serde_json::{Map, Value};

/// As a strategic merge patch. `original` is the manifest of the last time, `modified` today's, `current` the object.
pub fn create_three_way_strategic_merge_patch(
    root: Root<'_>,
    original: &Value,
    modified: &Value,
    current: &Value,
) -> Result<Value, PatchError> {
    let changes = objects(root, current, modified, Wanted { additions: true, deletions: false, order: true })?;
    let deletions = objects(root, original, modified, Wanted { additions: false, deletions: true, order: true })?;
    Ok(combine(root.schema, &root.ty(), deletions, changes))
}

/// Both patches in one; where they name the same, `changes` counts.
fn combine(schema: &Schema, ty: &Type, deletions: Value, changes: Value) -> Value {
    let (mut out, changes) = match (deletions, changes) {
        (Value::Object(deletions), Value::Object(changes)) => (deletions, changes),
        (_, changes) => return changes,
    };
    for (name, change) in changes {
        let (inner, field) = member(schema, ty, &name);
        let key = strategy(field).key;
        let merged = match (out.remove(&name), change) {
            (Some(had @ Value::Object(_)), change @ Value::Object(_)) => combine(schema, inner, had, change),
            (Some(Value::Array(had)), Value::Array(change)) if strategy(field).merge && !name.starts_with(SET_ORDER) => {
                let item = if let Type::List(item) = inner { item.as_ref() } else { &Type::Json };
                Value::Array(combine_items(schema, item, had, change, key.as_deref()))
            }
            (_, change) => change,
        };
        out.insert(name, merged);
    }
    Value::Object(out)
}

/// The changed items first, then the deleted ones.
fn combine_items(schema: &Schema, item: &Type, had: Vec<Value>, change: Vec<Value>, key: Option<&str>) -> Vec<Value> {
    let Some(key) = key else { return change };
    let mut rest = had;
    let mut out = Vec::with_capacity(rest.len() + change.len());
    for value in change {
        let same = rest.iter().position(|h| h.get(key) == value.get(key));
        out.push(match same {
            Some(at) => combine(schema, item, rest.remove(at), value),
            None => value,
        });
    }
    out.extend(rest);
    out
}

/// As a JSON merge patch, for kinds whose schema is not known: lists are replaced.
pub fn create_three_way_json_merge_patch(original: &Value, modified: &Value, current: &Value) -> Value {
    let none = Map::new();
    let map = |value: &'_ Value| value.as_object().cloned().unwrap_or_else(|| none.clone());
    Value::Object(json_merge(&map(original), &map(modified), &map(current)))
}

fn json_merge(original: &Map<String, Value>, modified: &Map<String, Value>, current: &Map<String, Value>) -> Map<String, Value> {
    static NONE: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    let mut patch = Map::new();
    for (name, new) in modified {
        match (new, current.get(name)) {
            (Value::Object(new), Some(Value::Object(now))) => {
                let before = original.get(name).and_then(Value::as_object).unwrap_or(&NONE);
                let inner = json_merge(before, new, now);
                if !inner.is_empty() {
                    patch.insert(name.clone(), Value::Object(inner));
                }
            }
            (new, Some(now)) if new == now => {}
            _ => drop(patch.insert(name.clone(), new.clone())),
        }
    }
    for name in original.keys().filter(|k| !modified.contains_key(*k) && current.contains_key(*k)) {
        patch.insert(name.clone(), Value::Null);
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patch::strategic;
    use crate::schema;
    use serde_json::json;

    #[test]
    fn others_additions_stay() {
        let root = schema::of_kind("v1", "Pod").expect("Pod");
        let original =
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"containers": [{"name": "c", "image": "i"}, {"name": "gone"}]}});
        let modified = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [{"name": "c", "image": "j"}]}});
        let current = json!({"metadata": {"labels": {"a": "1", "b": "2", "mine": "x"}}, "spec": {"nodeName": "n", "containers": [
            {"name": "c", "image": "i", "imagePullPolicy": "Always"}, {"name": "gone"}, {"name": "sidecar"}]}});
        let patch = create_three_way_strategic_merge_patch(root, &original, &modified, &current).expect("patch");
        assert_eq!(
            patch,
            json!({"metadata": {"labels": {"b": null}}, "spec": {"$setElementOrder/containers": [{"name": "c"}],
                "containers": [{"name": "c", "image": "j"}, {"name": "gone", "$patch": "delete"}]}})
        );
        let applied = strategic(root, current.clone(), &patch).expect("applies");
        assert_eq!(
            applied,
            json!({"metadata": {"labels": {"a": "1", "mine": "x"}}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "j", "imagePullPolicy": "Always"}, {"name": "sidecar"}]}})
        );
        assert_eq!(create_three_way_strategic_merge_patch(root, &modified, &modified, &applied), Ok(json!({})), "again: nothing to do");
    }

    #[test]
    fn json_merge_patches() {
        for (original, modified, current, patch) in [
            (json!({"a": 1, "b": 2}), json!({"a": 1}), json!({"a": 1, "b": 2, "c": 3}), json!({"b": null})),
            (json!({"b": 2}), json!({}), json!({}), json!({})),
            (json!({}), json!({"l": [1]}), json!({"l": [2]}), json!({"l": [1]})),
            (json!({"m": {"x": 1}}), json!({"m": {"y": 1}}), json!({"m": {"x": 1, "z": 1}}), json!({"m": {"x": null, "y": 1}})),
        ] {
            assert_eq!(create_three_way_json_merge_patch(&original, &modified, &current), patch, "{original} {modified} {current}");
        }
    }
}
