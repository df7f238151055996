//! Pruning: what the schema does not declare is dropped, and told of (upstream: `schema/pruning`).

use super::{Additional, Structural};
use crate::openapi::OBJECT_META;
use serde_json::Value;

/// Prunes an object. `root` says that it is a whole resource, whose type and metadata are not the schema's. The paths of what was dropped are added to
/// `unknown`: `spec.list[0].x`.
pub fn prune(schema: &Structural, value: &mut Value, root: bool, unknown: &mut Vec<String>) {
    let mut path = String::new();
    walk(Some(schema), value, root, &mut path, unknown);
    unknown.sort_unstable();
}

fn below(path: &mut String, step: &str, then: impl FnOnce(&mut String)) {
    let length = path.len();
    path.push_str(step);
    then(path);
    path.truncate(length);
}

/// Metadata of an object inside another one: as that of any object. What is no metadata at all is left to validation.
fn metadata(value: &mut Value, path: &str, unknown: &mut Vec<String>) {
    let Some(root) = crate::schema::find(OBJECT_META) else { return };
    if let Ok(decoded) = crate::decode::value(root, value) {
        let fields = decoded.strict.iter().filter_map(|text| text.strip_prefix("unknown field \"")?.strip_suffix('"'));
        unknown.extend(fields.map(|field| format!("{path}.metadata.{field}")));
        *value = decoded.value;
    }
}

fn walk(schema: Option<&Structural>, value: &mut Value, root: bool, path: &mut String, unknown: &mut Vec<String>) {
    let keep = schema.is_some_and(|s| s.preserve_unknown);
    let embedded = !root && schema.is_some_and(|s| s.embedded);
    let root = root || embedded;
    match value {
        Value::Object(map) => {
            let mut gone = Vec::new();
            for (name, value) in map.iter_mut() {
                if root && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                    if embedded && name == "metadata" {
                        metadata(value, path, unknown);
                    }
                    continue;
                }
                let step = if path.is_empty() { name.clone() } else { format!(".{name}") };
                let declared = schema.and_then(|s| s.member(name));
                let free = matches!(schema.map(|s| &s.additional), Some(Additional::Bool(true)));
                match declared {
                    Some(schema) => below(path, &step, |p| walk(Some(schema), value, false, p, unknown)),
                    None if keep || free => {}
                    None => {
                        gone.push(name.clone());
                        unknown.push(format!("{path}{step}"));
                    }
                }
            }
            gone.iter().for_each(|name| drop(map.remove(name)));
        }
        Value::Array(items) => {
            let item = schema.and_then(|s| s.items.as_deref());
            if item.is_none() && (keep || schema.is_some_and(|s| s.items.is_none())) {
                return;
            }
            for (i, value) in items.iter_mut().enumerate() {
                below(path, &format!("[{i}]"), |p| walk(item, value, false, p, unknown));
            }
        }
        _ => {}
    }
}
