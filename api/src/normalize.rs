//! Makes a serialised typed object look as upstream's encoder writes it: nothing that Go's `omitempty` leaves out, and everything it writes though it is
//! empty (`resources: {}`, `status: {}`, `drivers: null`).
//!
//! An empty list or map that is always written becomes `null`: upstream stores objects as protocol buffers, which do not tell the two apart, so that is what
//! its clients see. The order of fields is the map's, not Go's; no client may depend on it.

use crate::schema::{Definition, Field, Presence, Root, Schema, Type};
use serde_json::{Map, Value};

/// Normalises a whole object in place.
pub fn normalize(root: Root<'_>, value: &mut Value) {
    typed(root.schema, &root.ty(), value);
}

/// What upstream writes for an object of which nothing is set, without `apiVersion` and `kind`.
pub fn empty(root: Root<'_>) -> Value {
    let mut value = Value::Object(Map::new());
    normalize(root, &mut value);
    value
}

fn typed(schema: &Schema, ty: &Type, value: &mut Value) {
    match (ty, value) {
        (Type::Struct(id), Value::Object(map)) => members(schema, schema.get(*id), map),
        (Type::List(item), Value::Array(items)) if has_structs(item) => items.iter_mut().for_each(|v| typed(schema, item, v)),
        (Type::Map(item), Value::Object(map)) if has_structs(item) => map.values_mut().for_each(|v| typed(schema, item, v)),
        // Go writes a whole number without a fraction, whatever its type.
        (Type::Float64, value) => {
            if let Some(whole) = value.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 1e15) {
                *value = Value::from(whole as i64);
            }
        }
        _ => {}
    }
}

fn has_structs(ty: &Type) -> bool {
    match ty {
        Type::Struct(_) => true,
        Type::List(item) | Type::Map(item) => has_structs(item),
        _ => false,
    }
}

fn members(schema: &Schema, definition: &Definition, map: &mut Map<String, Value>) {
    map.retain(|name, value| {
        let Some(field) = definition.field(name) else { return true };
        if value.is_null() {
            return false;
        }
        typed(schema, &field.ty, value);
        let zero = is_zero(field, value);
        if zero && field.presence == Presence::Always && matches!(field.ty, Type::List(_) | Type::Map(_)) {
            *value = Value::Null;
        }
        !zero || field.presence == Presence::Always
    });
    for field in definition.written_unset() {
        if !map.contains_key(field.name.as_ref()) {
            map.insert(field.name.to_string(), zero(schema, field));
        }
    }
}

/// Whether Go counts the value as empty. Structs never are, a pointer is only when it is nil.
fn is_zero(field: &Field, value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty() && matches!(field.ty, Type::List(_)),
        Value::Object(map) => map.is_empty() && matches!(field.ty, Type::Map(_)),
        _ if field.pointer || field.ty.is_struct() => false,
        Value::Bool(b) => !b,
        Value::String(s) => s.is_empty(),
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::Null => true,
    }
}

fn zero(schema: &Schema, field: &Field) -> Value {
    if field.pointer {
        return Value::Null;
    }
    zero_of(schema, &field.ty)
}

/// What Go writes for the zero value of a type.
pub(crate) fn zero_of(schema: &Schema, ty: &Type) -> Value {
    match ty {
        Type::String => Value::String(String::new()),
        Type::Bool => Value::Bool(false),
        Type::Int32 | Type::Int64 | Type::Float64 | Type::IntOrString => Value::from(0),
        Type::Quantity => Value::String("0".into()),
        Type::Struct(_) => {
            let mut value = Value::Object(Map::new());
            typed(schema, ty, &mut value);
            value
        }
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;
    use serde_json::json;

    fn check(definition: &str, mut given: Value, expected: Value) {
        normalize(schema::find(definition).expect(definition), &mut given);
        assert_eq!(given, expected, "{definition}");
    }

    #[test]
    fn empties() {
        check(
            "io.k8s.api.core.v1.PodSpec",
            json!({"containers": [{"name": "c", "args": [], "image": "", "stdin": false, "securityContext": {}}], "priority": 0, "hostNetwork": false, "nodeName": ""}),
            json!({"containers": [{"name": "c", "resources": {}, "securityContext": {}}], "priority": 0}),
        );
        check("io.k8s.api.core.v1.ConfigMap", json!({"data": {}}), json!({"metadata": {}}));
        check("io.k8s.api.storage.v1.CSINodeSpec", json!({"drivers": []}), json!({"drivers": null}));
        check(
            "io.k8s.api.core.v1.PodCondition",
            json!({"type": "Ready", "status": "True"}),
            json!({"type": "Ready", "status": "True", "lastProbeTime": null, "lastTransitionTime": null}),
        );
        check(
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionStatus",
            json!({}),
            json!({"acceptedNames": {"kind": "", "plural": ""}, "conditions": null, "storedVersions": null}),
        );
    }

    /// Every object in the recorded answers of an upstream apiserver is already as we would write it, also after everything it need not say was taken away.
    #[test]
    fn upstream_objects_are_normal() {
        let mut seen = 0;
        for directory in ["kinds", "verbs", "patches"] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/oracle/answers").join(directory);
            for entry in std::fs::read_dir(&path).expect("the recorded answers are in the repository") {
                let file = entry.expect("readable").path();
                let answers: Value = serde_json::from_str(&std::fs::read_to_string(&file).expect("readable")).expect("JSON");
                for answer in answers.as_array().into_iter().flatten() {
                    let (Some(api_version), Some(kind)) = (answer["body"]["apiVersion"].as_str(), answer["body"]["kind"].as_str()) else {
                        continue;
                    };
                    let Some(root) = schema::of_kind(api_version, kind) else { continue };
                    let mut ours = answer["body"].clone();
                    normalize(root, &mut ours);
                    assert_eq!(ours, answer["body"], "{}", file.display());
                    seen += 1;
                }
            }
        }
        assert!(seen > 100, "only {seen} objects were compared");
    }
}
