//! Server-side printing: objects as rows of cells, and objects reduced to their metadata
//! (upstream: `apiserver/pkg/registry/rest/table.go`, `endpoints/handlers/response.go`).

use api::resource::{PrintContext, Resource};
use api::{Object, StatusError, status::Result};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// What a table's row carries of its object (`includeObject` in the query).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// Its metadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

impl IncludeObject {
    /// Reads the query parameter.
    pub fn parse(text: Option<&str>) -> Result<Self> {
        match text.unwrap_or("") {
            "" | "Metadata" => Ok(IncludeObject::Metadata),
            "None" => Ok(IncludeObject::None),
            "Object" => Ok(IncludeObject::Object),
            other => Err(StatusError::bad_request(format!("unrecognized includeObject value: {other:?}"))),
        }
    }
}

fn columns(row: &Resource) -> Value {
    let column = |c: &api::resource::Column| json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority});
    row.columns.iter().map(column).collect()
}

/// The object's metadata as `PartialObjectMetadata`.
pub fn metadata_only(row: &Resource, object: &Value) -> Value {
    let mut metadata = object.get("metadata").cloned().unwrap_or_default();
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.retain(|key, _| !row.derived_annotations.contains(&key.as_str()));
        if annotations.is_empty() {
            metadata.as_object_mut().map(|m| m.remove("annotations"));
        }
    }
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
}

/// A `PartialObjectMetadataList` of objects under a list's metadata.
pub fn metadata_list(row: &Resource, list_metadata: Value, objects: &[Value]) -> Value {
    let items: Vec<Value> = objects.iter().map(|object| metadata_only(row, object)).collect();
    json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": list_metadata, "items": items})
}

/// A `Table` of objects. Watch events after the first leave the columns out.
pub fn table(row: &Resource, list_metadata: Value, objects: Vec<Value>, include: IncludeObject, with_columns: bool) -> Result<Value> {
    let context = PrintContext { now: Timestamp::now() };
    let rows = objects.into_iter().map(|object| table_row(row, object, include, &context)).collect::<Result<Vec<_>>>()?;
    let columns = if with_columns { columns(row) } else { Value::Null };
    Ok(json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": list_metadata, "columnDefinitions": columns, "rows": rows}))
}

/// What clients that colour or hide rows go by: that a pod has ended, and how.
fn conditions(object: &dyn Object) -> Option<Value> {
    let (reason, message) = match object.downcast_ref::<Pod>()?.status.as_ref()?.phase.as_deref()? {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]))
}

fn table_row(row: &Resource, object: Value, include: IncludeObject, context: &PrintContext) -> Result<Value> {
    let typed = row.typed(&object).map_err(StatusError::internal)?;
    let shown = match include {
        IncludeObject::None => None,
        IncludeObject::Metadata => Some(metadata_only(row, &object)),
        IncludeObject::Object => Some(object),
    };
    let mut out = json!({"cells": (row.cells)(&*typed, context)});
    if let Some(conditions) = conditions(&*typed) {
        out["conditions"] = conditions;
    }
    if let Some(shown) = shown {
        out["object"] = shown;
    }
    Ok(out)
}
