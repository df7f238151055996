//! Defaults of a schema (upstream: `schema/defaulting`). A null where none is allowed counts as absent.

use super::Structural;
use serde_json::Value;

/// Fills in what is absent.
pub fn default(schema: &Structural, value: &mut Value) {
    let absent = |value: &Value, schema: &Structural| value.is_null() && !schema.nullable;
    match value {
        Value::Object(map) => {
            for (name, property) in &schema.properties {
                let Some(default) = &property.default else { continue };
                if map.get(name).is_none_or(|v| absent(v, property)) {
                    map.insert(name.clone(), default.clone());
                }
            }
            for (name, value) in map.iter_mut() {
                let Some(schema) = schema.member(name) else { continue };
                if let Some(default) = schema.default.as_ref().filter(|_| absent(value, schema)) {
                    *value = default.clone();
                }
                self::default(schema, value);
            }
        }
        Value::Array(items) => {
            let Some(schema) = schema.items.as_deref() else { return };
            for value in items {
                if let Some(default) = schema.default.as_ref().filter(|_| absent(value, schema)) {
                    *value = default.clone();
                }
                self::default(schema, value);
            }
        }
        _ => {}
    }
}

/// Drops the nulls of properties that may not be null.
pub fn drop_nulls(schema: &Structural, value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|name, value| !value.is_null() || schema.properties.get(name).is_none_or(|p| p.nullable || p.default.is_some()));
            for (name, value) in map.iter_mut() {
                if let Some(schema) = schema.member(name) {
                    drop_nulls(schema, value);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.items.as_deref() {
                items.iter_mut().for_each(|value| drop_nulls(schema, value));
            }
        }
        _ => {}
    }
}
