//! Applies a strategic merge patch: a merge patch whose lists are merged by the keys the schema gives them, with directives for what merging cannot say.

use super::order::arrange;
use super::{DELETE_FROM, DIRECTIVE, PatchError, RETAIN_KEYS, SET_ORDER, no_merge_key};
use crate::schema::{Field, Root, Schema, Strategy, Type};
use serde_json::{Map, Value};

type Result<T> = std::result::Result<T, PatchError>;

/// The patched object.
pub fn strategic(root: Root<'_>, object: Value, patch: &Value) -> Result<Value> {
    let Value::Object(patch) = patch else { return Err(PatchError::Malformed("Invalid JSON document".into())) };
    let object = if let Value::Object(object) = object { object } else { Map::new() };
    merge_map(root.schema, &root.ty(), object, patch.clone()).map(Value::Object)
}

/// The field `name` of a type: its type and strategy. An unknown field is replaced as a whole; decoding deals with it afterwards.
pub(super) fn member<'s>(schema: &'s Schema, ty: &'s Type, name: &str) -> (&'s Type, Option<&'s Field>) {
    match ty {
        Type::Struct(id) => schema.get(*id).field(name).map_or((&Type::Json, None), |f| (&f.ty, Some(f))),
        Type::Map(item) => (item, None),
        _ => (&Type::Json, None),
    }
}

pub(super) fn strategy(field: Option<&Field>) -> Strategy {
    field.map(|f| f.strategy.clone()).unwrap_or_default()
}

pub(super) fn item_type(ty: &Type) -> &Type {
    if let Type::List(item) = ty { item } else { &Type::Json }
}

fn is_directive(key: &str) -> bool {
    key == DIRECTIVE || key == RETAIN_KEYS || key.starts_with(SET_ORDER) || key.starts_with(DELETE_FROM)
}

fn merge_map(schema: &Schema, ty: &Type, mut original: Map<String, Value>, mut patch: Map<String, Value>) -> Result<Map<String, Value>> {
    if let Some(directive) = patch.remove(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => Ok(without_directives_in(patch)),
            Some("delete") => Ok(Map::new()),
            _ => Err(PatchError::Other(format!("unknown patch type found: {}", super::go_show(&directive)))),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    set_element_order(schema, ty, &mut original, &mut patch)?;
    for (key, value) in patch {
        let (key, deletes) = match key.strip_prefix(DELETE_FROM) {
            Some(name) => (name.to_owned(), true),
            None => (key, false),
        };
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let merged = match (original.remove(&key), value) {
            (None, _) if deletes => continue,
            (Some(Value::Array(had)), Value::Array(gone)) if deletes => {
                Value::Array(had.into_iter().filter(|i| !gone.contains(i)).collect())
            }
            (Some(had), _) if deletes => had,
            (Some(Value::Object(had)), Value::Object(patch)) => {
                let (ty, field) = member(schema, ty, &key);
                if strategy(field).replace {
                    Value::Object(without_directives_in(patch))
                } else {
                    Value::Object(merge_map(schema, ty, had, patch)?)
                }
            }
            (Some(Value::Array(had)), Value::Array(patch)) => {
                let (ty, field) = member(schema, ty, &key);
                let strategy = strategy(field);
                if strategy.merge {
                    Value::Array(merge_list(schema, item_type(ty), had, patch, strategy.key.as_deref())?)
                } else {
                    without_directives(Value::Array(patch))
                }
            }
            // A map that says how to merge it, where there is nothing to merge it with, comes to nothing.
            (None, Value::Object(patch)) if patch.contains_key(DIRECTIVE) => continue,
            (_, value) => without_directives(value),
        };
        original.insert(key, merged);
    }
    Ok(original)
}

/// Only the fields that the patch's `$retainKeys` names stay.
fn retain_keys(original: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<()> {
    let Some(list) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let malformed = || PatchError::Unprocessable("invalid patch format of retainKeys".into());
    let Value::Array(list) = list else { return Err(malformed()) };
    let names: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
    if patch.iter().any(|(k, v)| !v.is_null() && !is_directive(k) && !names.contains(&k.as_str())) {
        return Err(malformed());
    }
    original.retain(|k, _| names.contains(&k.as_str()));
    Ok(())
}

/// Merges the lists whose order the patch fixes, and takes them out of the patch.
fn set_element_order(schema: &Schema, ty: &Type, original: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<()> {
    let orders: Vec<String> = patch.keys().filter(|k| k.starts_with(SET_ORDER)).cloned().collect();
    for directive in orders {
        let name = &directive[SET_ORDER.len()..];
        let Some(Value::Array(wanted)) = patch.remove(&directive) else {
            return Err(PatchError::Unprocessable(format!("invalid patch format of setElementOrder list: {directive}")));
        };
        let (ty, field) = member(schema, ty, name);
        let key = strategy(field).key;
        let key = key.as_deref();
        let given = match patch.remove(name) {
            Some(Value::Array(items)) => Some(items),
            Some(other) => {
                // The list is replaced by something else, so that its order says nothing.
                patch.insert(name.to_owned(), other);
                continue;
            }
            None => None,
        };
        if let Some(items) = &given {
            check_order(items, &wanted, key, name)?;
        }
        if let Some(Value::Array(gone)) = patch.remove(&format!("{DELETE_FROM}{name}"))
            && let Some(Value::Array(had)) = original.get_mut(name)
        {
            had.retain(|i| !gone.contains(i));
        }
        let (merged, server) = match (original.remove(name), given) {
            (Some(Value::Array(had)), Some(items)) => (merge_list(schema, item_type(ty), had.clone(), items, key)?, had),
            (Some(Value::Array(had)), None) => (had.clone(), had),
            (_, Some(items)) => (merge_list(schema, item_type(ty), Vec::new(), items, key)?, Vec::new()),
            (_, None) => continue,
        };
        original.insert(name.to_owned(), Value::Array(arrange(merged, &wanted, &server, key)));
    }
    Ok(())
}

/// What the patch gives must stand in the order that it asks for.
fn check_order(items: &[Value], wanted: &[Value], key: Option<&str>, name: &str) -> Result<()> {
    let mut from = 0;
    for item in items.iter().filter(|i| i.get(DIRECTIVE).is_none()) {
        match super::order::position(wanted, item, key) {
            Some(at) if at >= from => from = at,
            _ => {
                let show = |list: &[Value]| list.iter().map(|i| format!("{}\n", super::go_show(i))).collect::<String>();
                let why = format!("The order in patch list:\n{} doesn't match {SET_ORDER}{name} list:\n{}\n", show(items), show(wanted));
                return Err(PatchError::Other(why));
            }
        }
    }
    Ok(())
}

fn merge_list(schema: &Schema, item: &Type, original: Vec<Value>, patch: Vec<Value>, key: Option<&str>) -> Result<Vec<Value>> {
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    let maps = original.iter().chain(&patch).any(Value::is_object);
    if !maps {
        let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
        for value in original.iter().chain(&patch) {
            if !merged.contains(value) {
                merged.push(value.clone());
            }
        }
        return Ok(arrange(merged, &patch, &original, None));
    }
    let Some(key) = key else {
        let name = if let Type::Struct(id) = item { schema.get(*id).name.to_string() } else { "list".into() };
        return Err(PatchError::Other(format!("cannot merge lists without merge key for {name}")));
    };
    let (mut merged, mut given, mut replace) = (original.clone(), Vec::new(), false);
    for value in patch {
        match value.get(DIRECTIVE).map(|d| d.as_str().unwrap_or_default()) {
            None => given.push(value),
            Some("delete") => {
                let gone = value.get(key).ok_or_else(|| no_merge_key(&value, key))?.clone();
                merged.retain(|i| i.get(key) != Some(&gone));
            }
            Some("replace") => replace = true,
            Some("merge") => return Err(PatchError::Other("merging lists cannot yet be specified in the patch".into())),
            Some(other) => return Err(PatchError::Other(format!("unknown patch type found: {other}"))),
        }
    }
    if replace {
        return Ok(given.into_iter().map(without_directives).collect());
    }
    let order = given.clone();
    for value in given {
        let identity = value.get(key).ok_or_else(|| no_merge_key(&value, key))?;
        match merged.iter_mut().find(|i| i.get(key) == Some(identity)) {
            Some(Value::Object(had)) => {
                let Value::Object(value) = value else { continue };
                *had = merge_map(schema, item, std::mem::take(had), value)?;
            }
            _ => merged.push(without_directives(value)),
        }
    }
    Ok(arrange(merged, &order, &original, Some(key)))
}

/// What the patch adds where the object has nothing: its directives and nulls mean nothing there.
fn without_directives(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(without_directives_in(map)),
        Value::Array(items) => Value::Array(items.into_iter().filter(|i| i.get(DIRECTIVE).is_none()).map(without_directives).collect()),
        other => other,
    }
}

fn without_directives_in(map: Map<String, Value>) -> Map<String, Value> {
    map.into_iter()
        .filter(|(k, v)| !is_directive(k) && !v.is_null() && v.get(DIRECTIVE).is_none())
        .map(|(k, v)| (k, without_directives(v)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;
    use serde_json::json;

    fn patched(kind: (&str, &str), object: Value, patch: Value) -> Result<Value> {
        strategic(schema::of_kind(kind.0, kind.1).expect(kind.1), object, &patch)
    }

    /// The recorded answers of an upstream apiserver (tests/oracle, `strategic-containers` and `strategic-lists`), cut down to what the patch touches.
    #[test]
    fn as_recorded() {
        let pod = ("v1", "Pod");
        let with = |containers: Value| json!({"spec": {"containers": containers}});
        for (name, object, patch, expected) in [
            (
                "merged by name, in the patch's order",
                with(json!([{"name": "c", "image": "i", "env": [{"name": "A", "value": "1"}]}, {"name": "d", "image": "j"}])),
                with(json!([{"name": "c", "image": "i:2", "env": [{"name": "B", "value": "2"}]}, {"name": "e", "image": "k"}])),
                with(
                    json!([{"name": "c", "image": "i:2", "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "1"}]}, {"name": "e", "image": "k"}, {"name": "d", "image": "j"}]),
                ),
            ),
            (
                "deleted",
                with(json!([{"name": "c"}, {"name": "d"}])),
                with(json!([{"name": "d", "$patch": "delete"}])),
                with(json!([{"name": "c"}])),
            ),
            (
                "replaced",
                with(json!([{"name": "c", "env": [{"name": "A"}]}])),
                with(json!([{"name": "c", "env": [{"$patch": "replace"}, {"name": "Z"}]}])),
                with(json!([{"name": "c", "env": [{"name": "Z"}]}])),
            ),
            (
                "in a given order",
                with(json!([{"name": "c", "image": "i"}, {"name": "e"}])),
                json!({"spec": {"$setElementOrder/containers": [{"name": "e"}, {"name": "c"}], "containers": [{"name": "c", "image": "j"}]}}),
                with(json!([{"name": "e"}, {"name": "c", "image": "j"}])),
            ),
            (
                "a null in an item",
                json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
                json!({"spec": {"volumes": [{"name": "v", "configMap": {"name": "x"}, "emptyDir": null}]}}),
                json!({"spec": {"volumes": [{"name": "v", "configMap": {"name": "x"}}]}}),
            ),
            (
                "an atomic list",
                json!({"spec": {"tolerations": [{"key": "b"}]}}),
                json!({"spec": {"tolerations": [{"key": "a", "operator": "Exists"}]}}),
                json!({"spec": {"tolerations": [{"key": "a", "operator": "Exists"}]}}),
            ),
            (
                "a set",
                json!({"metadata": {"finalizers": ["x.y/1"]}}),
                json!({"metadata": {"finalizers": ["x.y/2"]}}),
                json!({"metadata": {"finalizers": ["x.y/2", "x.y/1"]}}),
            ),
            (
                "out of a set",
                json!({"metadata": {"finalizers": ["x.y/1", "x.y/2"]}}),
                json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x.y/1"]}}),
                json!({"metadata": {"finalizers": ["x.y/2"]}}),
            ),
            (
                "a map replaced",
                json!({"spec": {"nodeSelector": {"a": "b"}}}),
                json!({"spec": {"nodeSelector": {"$patch": "replace", "c": "d"}}}),
                json!({"spec": {"nodeSelector": {"c": "d"}}}),
            ),
            (
                "a field removed",
                json!({"metadata": {"labels": {"a": "b"}}}),
                json!({"metadata": {"labels": null}}),
                json!({"metadata": {}}),
            ),
            ("directives where there is nothing", json!({}), with(json!([{"name": "c", "$patch": "delete"}])), with(json!([]))),
        ] {
            assert_eq!(patched(pod, object, patch).as_ref(), Ok(&expected), "{name}");
        }
        let strategy = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
        assert_eq!(patched(("apps/v1", "Deployment"), strategy, patch), Ok(json!({"spec": {"strategy": {"type": "Recreate"}}})));
    }

    #[test]
    fn refused() {
        let pod = json!({"spec": {"containers": [{"name": "c"}]}});
        for (patch, message) in [
            (json!({"spec": {"containers": [{"image": "noname"}]}}), "map: map[image:noname] does not contain declared merge key: name"),
            (json!({"spec": {"$patch": "nope"}}), "unknown patch type found: nope"),
            (json!([]), "Invalid JSON document"),
        ] {
            assert_eq!(patched(("v1", "Pod"), pod.clone(), patch).expect_err(message).to_string(), message);
        }
    }
}
