//! The pure part of `apply`: the annotation that remembers the last manifest, and the patch that three states make
//! (upstream: `kubectl/pkg/cmd/apply`, `kubectl/pkg/util/apply.go`).

pub mod metadata_change;
pub mod patch;

use crate::encoding::json;
use serde_json::{Value, json};

/// The annotation that holds what was applied last.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The manifest as the annotation holds it: one line of JSON, without the annotation itself.
pub fn last_applied_text(object: &Value) -> String {
    let mut object = object.clone();
    if !object["metadata"]["annotations"].is_object() {
        object["metadata"]["annotations"] = json!({});
    }
    if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
        annotations.remove(LAST_APPLIED);
    }
    format!("{}\n", json::to_string(&object))
}

/// Writes the annotation into the object.
pub fn annotate(object: &mut Value) {
    let text = last_applied_text(object);
    if !object["metadata"]["annotations"].is_object() {
        object["metadata"]["annotations"] = json!({});
    }
    object["metadata"]["annotations"][LAST_APPLIED] = Value::String(text);
}

/// What the annotation of a live object holds, if it has one.
pub fn last_applied(live: &Value) -> Option<&str> {
    live["metadata"]["annotations"][LAST_APPLIED].as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotation_is_upstreams() {
        let mut object = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "x", "namespace": "d"}, "spec": {"a": "<"}});
        annotate(&mut object);
        let expected = "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"annotations\":{},\"name\":\"x\",\"namespace\":\"d\"},\"spec\":{\"a\":\"\\u003c\"}}\n";
        assert_eq!(last_applied(&object), Some(expected));
        // Again gives the same: the annotation does not nest.
        annotate(&mut object);
        assert_eq!(last_applied(&object), Some(expected));
    }
}
