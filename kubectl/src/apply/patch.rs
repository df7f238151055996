//! Which patch takes a live object to what a manifest asks for: a strategic merge patch for built-in kinds, whose lists have keys, and a
//! JSON merge patch for all others. The patches themselves are `api`'s.

use crate::connection::{MERGE_PATCH, STRATEGIC_MERGE_PATCH};
use crate::discovery::Resource;
use crate::error::{Result, message};
use api::schema;
use serde_json::Value;

/// The patch for a live object and its media type. `original` is what was applied last, or null.
pub fn plan(resource: &Resource, original: &Value, modified: &Value, live: &Value) -> Result<(Value, &'static str)> {
    match schema::of_kind(&resource.api_version(), &resource.kind) {
        Some(root) => {
            let original = if original.is_null() { &Value::Object(serde_json::Map::new()) } else { original };
            let patch = api::patch::create_three_way_strategic_merge_patch(root, original, modified, live).map_err(|e| {
                message(format!("creating patch with:\noriginal:\n{original}\nmodified:\n{modified}\ncurrent:\n{live}\nfor: {e}"))
            })?;
            Ok((patch, STRATEGIC_MERGE_PATCH))
        }
        None => Ok((three_way(original, modified, live), MERGE_PATCH)),
    }
}

/// As a JSON merge patch, whatever the kind.
pub fn three_way(original: &Value, modified: &Value, live: &Value) -> Value {
    api::patch::create_three_way_json_merge_patch(original, modified, live)
}

/// The object as the patch would leave it.
pub fn preview(resource: &Resource, object: &mut Value, patch: &Value, media_type: &str) -> Result<()> {
    match schema::of_kind(&resource.api_version(), &resource.kind).filter(|_| media_type == STRATEGIC_MERGE_PATCH) {
        Some(root) => *object = api::patch::strategic(root, object.take(), patch).map_err(|e| message(e.to_string()))?,
        None => json_patch::merge(object, patch),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn built_in_kinds_merge_their_lists() {
        let resource = Resource { version: "v1".into(), kind: "Pod".into(), ..Resource::default() };
        let pod = |image: &str, extra: Value| json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "c", "image": image, "imagePullPolicy": extra}]}});
        let without = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "c", "image": "b"}]}});
        let (patch, media_type) = plan(&resource, &without, &without, &pod("a", json!("Always"))).unwrap();
        assert_eq!(media_type, STRATEGIC_MERGE_PATCH);
        let mut object = pod("a", json!("Always"));
        preview(&resource, &mut object, &patch, media_type).unwrap();
        assert_eq!(object, pod("b", json!("Always")));
    }

    #[test]
    fn other_kinds_replace_them() {
        let resource = Resource { group: "x.io".into(), version: "v1".into(), kind: "Foo".into(), ..Resource::default() };
        let (patch, media_type) = plan(&resource, &json!({"a": 1, "b": 1}), &json!({"a": 2}), &json!({"a": 1, "b": 1, "c": 3})).unwrap();
        assert_eq!((patch, media_type), (json!({"a": 2, "b": null}), MERGE_PATCH));
    }
}
