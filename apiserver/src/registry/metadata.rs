//! What the registry does to the metadata of every object, whatever its kind: system fields, what a client may not change, names.
//! Pure functions; the time and random text come from the caller (upstream: `registry/rest/{meta,create,update}.go`).

use api::{StatusError, status::Result};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Map, Value};

/// The generated part of a name: 5 characters, and a prefix cut so that a label can hold the whole (upstream: `names.SimpleNameGenerator`).
const SUFFIX: usize = 5;
const MAX_GENERATED: usize = 63;

/// `prefix` and a random suffix without vowels, so that no word comes out, and without letters and digits that look alike.
pub fn generate_name(prefix: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut name: String = prefix.chars().take(MAX_GENERATED - SUFFIX).collect();
    for _ in 0..SUFFIX {
        name.push(char::from(ALPHABET[rand::random_range(0..ALPHABET.len())]));
    }
    name
}

/// The object's `metadata`, made empty if it is missing or no object.
pub fn of(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let fields = object.as_object_mut().expect("made an object above");
    let metadata = fields.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    metadata.as_object_mut().expect("made an object above")
}

/// A text field of the object's metadata, or empty.
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or("")
}

/// Makes the object's namespace the request's, unless it names another.
pub fn match_namespace(object: &mut Value, namespace: &str) -> Result<()> {
    let own = text(object, "namespace").to_owned();
    if own == namespace {
        return Ok(());
    }
    let metadata = of(object);
    if own.is_empty() {
        metadata.insert("namespace".into(), namespace.into());
        return Ok(());
    }
    if namespace.is_empty() {
        metadata.remove("namespace");
        return Ok(());
    }
    Err(StatusError::bad_request("the namespace of the provided object does not match the namespace sent on the request"))
}

/// Whether the object is the one in the URL. One without a name takes it from there.
pub fn match_name(object: &mut Value, name: &str) -> Result<()> {
    let own = text(object, "name");
    if own.is_empty() {
        of(object).insert("name".into(), name.into());
        return Ok(());
    }
    if own == name {
        return Ok(());
    }
    Err(StatusError::bad_request(format!("the name of the object ({own}) does not match the name on the URL ({name})")))
}

/// Drops labels and annotations of which a patch has left nothing: empty and absent are the same, and the kinds need not know.
pub fn drop_empty_maps(object: &mut Value) {
    let metadata = of(object);
    for field in ["labels", "annotations"] {
        if metadata.get(field).and_then(Value::as_object).is_some_and(Map::is_empty) {
            metadata.remove(field);
        }
    }
}

/// Where the client wrote an empty list: who says that a list is empty owns it, though nothing of it is stored. Lists within lists are not looked for.
pub fn empty_lists(object: &Value) -> Vec<Vec<String>> {
    fn walk(value: &Value, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
        match value {
            Value::Array(items) if items.is_empty() => found.push(path.clone()),
            Value::Object(map) => {
                for (key, value) in map.iter().filter(|(_, v)| v.is_array() || v.is_object()) {
                    path.push(key.clone());
                    walk(value, path, found);
                    path.pop();
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(object, &mut Vec::new(), &mut found);
    found
}

/// Puts the empty lists back where the object says that there is none.
pub fn restore_empty_lists(object: &mut Value, paths: &[Vec<String>]) {
    for path in paths {
        let found = path.iter().try_fold(&mut *object, |value, key| value.get_mut(key));
        if let Some(value) = found.filter(|v| v.is_null()) {
            *value = Value::Array(Vec::new());
        }
    }
}

/// Takes the managed fields out of an object. They are kept apart from the typed object: nothing but their own module reads them.
pub fn take_managed_fields(object: &mut Value) -> Value {
    object.get_mut("metadata").and_then(Value::as_object_mut).and_then(|m| m.remove("managedFields")).unwrap_or_default()
}

/// Puts them back.
pub fn put_managed_fields(object: &mut Value, managed: Value) {
    match &managed {
        Value::Array(entries) if !entries.is_empty() => {
            of(object).insert("managedFields".into(), managed);
        }
        _ => {
            of(object).remove("managedFields");
        }
    }
}

/// Fills in what the server decides about a new object.
pub fn fill_system_fields(metadata: &mut ObjectMeta, now: Time) {
    metadata.creation_timestamp = Some(now);
    metadata.uid = Some(uuid::Uuid::new_v4().to_string());
    metadata.self_link = None;
    metadata.deletion_timestamp = None;
    metadata.deletion_grace_period_seconds = None;
}

/// Carries over what an update can never change, or need not repeat.
pub fn carry_over(new: &mut ObjectMeta, old: &ObjectMeta) {
    new.generation = old.generation;
    if new.uid.as_deref().unwrap_or("").is_empty() {
        new.uid.clone_from(&old.uid);
    }
    new.creation_timestamp.clone_from(&old.creation_timestamp);
    if old.deletion_timestamp.is_some() {
        new.deletion_timestamp.clone_from(&old.deletion_timestamp);
    }
    if old.deletion_grace_period_seconds.is_some() && new.deletion_grace_period_seconds.is_none() {
        new.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
    }
    new.self_link = None;
}

/// Whether anything but metadata and status differs.
pub fn spec_differs(new: &Value, old: &Value) -> bool {
    fn wanted(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
        let fields = object.as_object().into_iter().flatten();
        fields.filter(|(key, _)| !matches!(key.as_str(), "metadata" | "status" | "apiVersion" | "kind"))
    }
    // Both are sorted by key.
    !wanted(new).eq(wanted(old))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn generated_names_fit_a_label() {
        let name = generate_name("gen-");
        assert!(name.starts_with("gen-") && name.len() == 9);
        assert_eq!(generate_name(&"x".repeat(100)).len(), 63);
        assert_ne!(generate_name("a"), generate_name("a"));
    }

    #[test]
    fn the_url_decides_namespace_and_name() {
        let mut object = json!({});
        match_namespace(&mut object, "ns").unwrap();
        match_name(&mut object, "a").unwrap();
        assert_eq!(object, json!({"metadata": {"namespace": "ns", "name": "a"}}));
        assert_eq!(match_namespace(&mut object, "other").unwrap_err().code(), 400);
        assert_eq!(
            match_name(&mut object, "b").unwrap_err().to_string(),
            "the name of the object (a) does not match the name on the URL (b)"
        );
        match_namespace(&mut object, "").unwrap();
        assert_eq!(object, json!({"metadata": {"name": "a"}}));
    }

    #[test]
    fn only_what_is_wanted_counts_as_a_change_of_the_spec() {
        let old = json!({"metadata": {"labels": {}}, "spec": {"a": 1}, "status": {}});
        for (new, want) in [
            (json!({"metadata": {}, "spec": {"a": 1}, "status": {"x": 1}}), false),
            (json!({"spec": {"a": 2}}), true),
            (json!({"spec": {"a": 1}, "data": {}}), true),
            (json!({}), true),
        ] {
            assert_eq!(spec_differs(&new, &old), want, "{new}");
        }
    }
}
