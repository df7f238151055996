//! `/scale`: the part of a workload that an autoscaler sees (upstream: `registry/apps/deployment/storage`, `ScaleREST`).

use super::metadata;
use api::field::{ErrorList, Path};
use api::{Resource, StatusError, status::Result};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Map, Value, json};

/// The group of `Scale`, whatever the resource's own.
pub const GROUP: &str = "autoscaling";

/// The metadata that a scale shares with its object.
const SHARED: [&str; 5] = ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"];

/// The `Scale` of an object as served. A custom resource's definition says where in it the replicas stand; one without them has no scale.
pub fn of(row: &Resource, object: &Value) -> Result<Value> {
    let shared = SHARED.iter().filter_map(|f| Some(((*f).to_owned(), object["metadata"].get(f)?.clone())));
    let metadata: Map<String, Value> = shared.collect();
    let mut spec = Map::new();
    let (wanted, present, selector) = match row.custom.as_ref().and_then(|c| c.scale.as_ref()) {
        Some(scale) => (scale.wanted(object).map_err(StatusError::internal)?, scale.present(object), scale.selector(object)),
        None => {
            let replicas = |part: &str| object[part]["replicas"].as_i64().unwrap_or(0);
            (replicas("spec"), replicas("status"), selector_text(&object["spec"]["selector"]))
        }
    };
    if wanted != 0 {
        spec.insert("replicas".into(), wanted.into());
    }
    let mut status = json!({ "replicas": present });
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    Ok(json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status}))
}

/// A selector as text: a `LabelSelector`, or the plain map of a replication controller.
fn selector_text(selector: &Value) -> String {
    let parsed = match selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some() {
        true => serde_json::from_value::<LabelSelector>(selector.clone()).ok(),
        false => {
            let labels = selector.as_object().into_iter().flatten();
            let labels = labels.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())));
            Some(LabelSelector { match_labels: Some(labels.collect()), match_expressions: None })
        }
    };
    parsed
        .filter(|s| *s != LabelSelector::default())
        .map(|s| api::printer::selector(Some(&s)))
        .filter(|s| s != api::printer::NONE)
        .unwrap_or_default()
}

/// The object with the replicas that `scale` wants. The version and uid it names count for the object.
pub fn apply(row: &Resource, object: &Value, scale: &Value) -> Result<Value> {
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let mut errors = ErrorList::new();
        errors.invalid(&Path::new("spec").child("replicas"), replicas, "must be greater than or equal to 0");
        return Err(StatusError::invalid(GROUP, "Scale", metadata::text(object, "name"), errors));
    }
    let mut new = object.clone();
    match row.custom.as_ref().and_then(|c| c.scale.as_ref()) {
        Some(scale) => scale.set(&mut new, replicas),
        None => new["spec"]["replicas"] = replicas.into(),
    }
    for field in ["uid", "resourceVersion"] {
        let named = metadata::text(scale, field).to_owned();
        match named.is_empty() {
            true => metadata::of(&mut new).remove(field),
            false => metadata::of(&mut new).insert(field.into(), named.into()),
        };
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_shows_replicas_and_selector() {
        let object = json!({"metadata": {"name": "a", "uid": "u", "labels": {"x": "y"}},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}}, "status": {}});
        let row = api::resources::find("apps", "v1", "deployments").unwrap();
        assert_eq!(
            of(row, &object).unwrap(),
            json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {"name": "a", "uid": "u"},
                "spec": {"replicas": 2}, "status": {"replicas": 0, "selector": "a=b"}})
        );
        assert_eq!(of(row, &json!({"metadata": {}, "spec": {"selector": {"a": "b"}}})).unwrap()["status"]["selector"], "a=b");
    }
}
