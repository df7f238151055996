//! How a custom resource's schema is published (upstream: `pkg/controller/openapi/builder`). Clients that validate see only what they can check:
//! a schema that keeps unknown fields at its root is published without its fields in version 2.

use crate::openapi::OBJECT_META;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionVersion;
use serde_json::{Map, Value, json};

/// The definition's name: `com.example.v1.Widget`.
pub fn name(group: &str, version: &str, kind: &str) -> String {
    let parts: Vec<&str> = group.split('.').rev().collect();
    format!("{}.{version}.{kind}", parts.join("."))
}

/// The schema of whole objects, as version 3 has it.
pub(super) fn published(version: &CustomResourceDefinitionVersion, keeps_unknown: bool) -> Value {
    let schema = version.schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref());
    let mut out =
        schema.map_or_else(|| json!({"type": "object"}), |s| serde_json::to_value(s).unwrap_or_else(|_| json!({"type": "object"})));
    if keeps_unknown || schema.is_none() {
        out["x-kubernetes-preserve-unknown-fields"] = true.into();
    }
    embedded(&mut out, true);
    out
}

const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA: &str =
    "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// Whole resources, the root first of all, have type and metadata.
fn embedded(schema: &mut Value, root: bool) {
    let whole = root || schema["x-kubernetes-embedded-resource"] == true;
    if whole && schema.is_object() {
        let metadata = json!({"description": METADATA, "allOf": [{"$ref": format!("#/components/schemas/{OBJECT_META}")}]});
        if !schema["properties"].is_object() {
            schema["properties"] = json!({});
        }
        let properties = &mut schema["properties"];
        properties["apiVersion"] = json!({"type": "string", "description": API_VERSION});
        properties["kind"] = json!({"type": "string", "description": KIND});
        properties["metadata"] = metadata;
    }
    let Some(fields) = schema.as_object_mut() else { return };
    for (name, value) in fields.iter_mut() {
        match (name.as_str(), value) {
            ("items" | "additionalProperties", value @ Value::Object(_)) => embedded(value, false),
            ("properties", Value::Object(properties)) => {
                for (name, value) in properties.iter_mut() {
                    if !(whole && name == "metadata") {
                        embedded(value, false);
                    }
                }
            }
            _ => {}
        }
    }
}

/// The same as version 2 has it. Clients of that version cope neither with what may be null nor with what keeps unknown fields, so both are published as
/// anything (upstream: `openapi/v2/conversion.go`).
pub fn version2(published: &Value) -> Value {
    if published["x-kubernetes-preserve-unknown-fields"] == true {
        return json!({"type": "object", "x-kubernetes-group-version-kind": published["x-kubernetes-group-version-kind"]});
    }
    let mut out = published.clone();
    simplify(&mut out);
    out
}

fn simplify(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    // Metadata is but a reference.
    if fields.get("allOf").is_some_and(|all| all[0].get("$ref").is_some()) {
        return;
    }
    let flag = |fields: &Map<String, Value>, name: &str| fields.get(name).is_some_and(|v| v == true);
    let (nullable, open) = (flag(fields, "nullable"), flag(fields, "x-kubernetes-preserve-unknown-fields"));
    let mut gone = vec!["allOf", "anyOf", "oneOf", "not", "nullable"];
    if nullable || open {
        gone.extend(["items", "properties"]);
    }
    gone.iter().for_each(|name| drop(fields.remove(*name)));
    let ty = fields.get("type").and_then(Value::as_str).unwrap_or("").to_owned();
    if nullable || (ty == "array" && !fields.contains_key("items")) || (open && ty == "object") {
        fields.remove("type");
    }
    let lost: Vec<String> = fields
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(_, p)| p["nullable"] == true)
        .map(|(name, _)| name.clone())
        .collect();
    let values_lost = fields.get("additionalProperties").is_some_and(|v| v["nullable"] == true);
    if let Some(Value::Array(required)) = fields.get_mut("required") {
        required.retain(|name| !values_lost && !lost.iter().any(|l| name == l));
        if required.is_empty() {
            fields.remove("required");
        }
    }
    for (name, value) in fields.iter_mut() {
        match (name.as_str(), value) {
            ("items" | "additionalProperties", value) => simplify(value),
            ("properties", Value::Object(properties)) => properties.values_mut().for_each(simplify),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_leaves_out_what_its_clients_cannot_read() {
        let published = json!({"type": "object", "required": ["a", "b"], "properties": {
            "a": {"type": "string", "nullable": true}, "b": {"type": "string", "anyOf": [{"pattern": "x"}]},
            "c": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"d": {"type": "string"}}}}});
        let expected = json!({"type": "object", "required": ["b"], "properties": {
            "a": {}, "b": {"type": "string"}, "c": {"x-kubernetes-preserve-unknown-fields": true}}});
        assert_eq!(version2(&published), expected);
        assert_eq!(version2(&json!({"type": "object", "properties": {}, "x-kubernetes-preserve-unknown-fields": true}))["type"], "object");
    }
}
