//! OpenAPI v2 (Swagger): one document for everything that is served, for clients that ask for nothing newer. It is made from the documents of version 3,
//! so that the two cannot disagree (upstream: `kube-openapi/pkg/builder`).
//!
//! Version 2 cannot say some things: defaults stand nowhere, a reference stands alone, and what is one of several types has none
//! but the one that upstream gives it.

use crate::resource::Resource;
use crate::schema::descriptions::Descriptions;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

const JSON_AND_MORE: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// The document for all rows.
pub fn document(rows: &[&Resource]) -> Value {
    let descriptions = Descriptions::builtin();
    let mut versions: BTreeMap<(&str, &str), Vec<&Resource>> = BTreeMap::new();
    for row in rows {
        versions.entry((&row.group, &row.version)).or_default().push(row);
    }
    let (mut paths, mut definitions) = (Map::new(), Map::new());
    for rows in versions.values() {
        let mut document = super::document_with(rows, &descriptions);
        for row in rows.iter().filter(|r| r.custom.is_some()) {
            let schema = &mut document["components"]["schemas"][row.schema.as_ref()];
            *schema = crate::custom::openapi::version2(schema);
        }
        if let Some(Value::Object(schemas)) = document["components"].get_mut("schemas").map(Value::take) {
            definitions.extend(schemas.into_iter().map(|(name, s)| (name, schema(s))));
        }
        if let Value::Object(items) = document["paths"].take() {
            paths.extend(items.into_iter().map(|(path, item)| (path, path_item(item))));
        }
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.36.2"},
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": {"BearerToken": {"description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header"}},
        "security": [{"BearerToken": []}]
    })
}

/// A schema without what version 2 does not know.
pub fn schema(value: Value) -> Value {
    let Value::Object(mut fields) = value else { return value };
    fields.remove("default");
    fields.remove("nullable");
    // What several types fit has the text form as its type, and what holds anything has none.
    if let Some(Value::Array(types)) = fields.remove("oneOf")
        && types.iter().any(|t| t["type"] == "string")
    {
        fields.insert("type".into(), "string".into());
    }
    for word in ["anyOf", "not"] {
        fields.remove(word);
    }
    if let Some(Value::Array(all)) = fields.remove("allOf")
        && let [one] = all.as_slice()
        && let Some(reference) = one.get("$ref")
    {
        fields.insert("$ref".into(), reference.clone());
    }
    if let Some(Value::String(reference)) = fields.get_mut("$ref") {
        *reference = reference.replace("#/components/schemas/", "#/definitions/");
    }
    for word in ["items", "additionalProperties"] {
        if let Some(inner) = fields.get_mut(word) {
            *inner = schema(inner.take());
        }
    }
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        properties.values_mut().for_each(|p| *p = schema(p.take()));
    }
    Value::Object(fields)
}

fn parameter(mut value: Value) -> Value {
    if let Some(Value::Object(schema)) = value.get_mut("schema").map(Value::take)
        && let Some(fields) = value.as_object_mut()
    {
        fields.remove("schema");
        fields.extend(schema);
    }
    value
}

fn path_item(value: Value) -> Value {
    let Value::Object(mut fields) = value else { return value };
    for (key, value) in &mut fields {
        *value = match (key.as_str(), value.take()) {
            ("parameters", Value::Array(list)) => list.into_iter().map(parameter).collect(),
            (_, operation) => self::operation(operation),
        };
    }
    Value::Object(fields)
}

fn operation(mut value: Value) -> Value {
    let mut parameters: Vec<Value> = match value["parameters"].take() {
        Value::Array(list) => list.into_iter().map(parameter).collect(),
        _ => Vec::new(),
    };
    let mut consumes = json!(["*/*"]);
    if let Some(Value::Object(body)) = value.as_object_mut().and_then(|f| f.remove("requestBody")) {
        let content = body["content"].as_object().into_iter().flatten();
        let media: Vec<&String> = content.clone().map(|(media, _)| media).collect();
        if media.iter().any(|m| m.contains("patch")) {
            consumes = json!(media);
        }
        if let Some((_, first)) = content.into_iter().next() {
            parameters.push(json!({"name": "body", "in": "body", "required": true, "schema": schema(first["schema"].clone())}));
        }
    }
    if let Some(responses) = value["responses"].as_object_mut() {
        for response in responses.values_mut() {
            let first = response["content"].as_object().and_then(|c| c.values().next().map(|m| m["schema"].clone()));
            if let (Some(first), Some(fields)) = (first, response.as_object_mut()) {
                fields.insert("schema".into(), schema(first));
            }
            if let Some(fields) = response.as_object_mut() {
                fields.remove("content");
            }
        }
    }
    value["consumes"] = consumes;
    value["produces"] = json!(JSON_AND_MORE);
    value["schemes"] = json!(["https"]);
    if parameters.is_empty() {
        value.as_object_mut().and_then(|f| f.remove("parameters"));
    } else {
        value["parameters"] = parameters.into();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_says_what_clients_look_for() {
        let rows: Vec<&Resource> = crate::resources::all().iter().map(|r| &**r).collect();
        let document = document(&rows);
        let pod = &document["definitions"]["io.k8s.api.core.v1.Pod"];
        assert_eq!(pod["x-kubernetes-group-version-kind"], json!([{"group": "", "kind": "Pod", "version": "v1"}]));
        assert_eq!(pod["properties"]["spec"]["$ref"], "#/definitions/io.k8s.api.core.v1.PodSpec");
        let containers = &document["definitions"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["items"]["$ref"], "#/definitions/io.k8s.api.core.v1.Container");
        assert_eq!(document["definitions"]["io.k8s.apimachinery.pkg.api.resource.Quantity"]["type"], "string");
        let create = &document["paths"]["/api/v1/namespaces/{namespace}/pods"]["post"];
        assert_eq!(create["operationId"], "createCoreV1NamespacedPod");
        let body = create["parameters"].as_array().and_then(|p| p.iter().find(|p| p["in"] == "body"));
        assert_eq!(body.map(|b| &b["schema"]["$ref"]), Some(&json!("#/definitions/io.k8s.api.core.v1.Pod")));
        let text = document.to_string();
        for part in text.split("\"#/definitions/").skip(1) {
            let name = part.split('"').next().unwrap_or_default();
            assert!(document["definitions"].get(name).is_some(), "{name}");
        }
        assert!(!text.contains("#/components"));
        assert_eq!(pod["properties"]["spec"].get("default"), None);
    }
}
