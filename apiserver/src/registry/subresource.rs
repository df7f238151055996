//! Which part of an object a path may change. A subresource of the object's own kind (`status`, `approval`, ...) shows all of it
//! and takes a part; the rest is put back to what it was before anything is checked.

use super::metadata;
use api::field::ErrorList;
use api::{Object, Resource};
use serde_json::{Map, Value};

/// The part of an object that a write may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Everything but what the subresources are for.
    Main,
    /// `status`, and what of the metadata clients keep there: see [`KEPT_BY_STATUS`].
    Status,
    /// The fields at these paths, through the subresource of that name.
    Fields(&'static str, &'static [&'static [&'static str]]),
    /// The resources of containers.
    Resize,
    /// All of it: for what the server itself changes on a client's behalf (a pod's node).
    Whole,
}

/// The subresources that change a part of their own object.
const VIEWS: &[(&str, View)] = &[
    ("status", View::Status),
    ("approval", View::Fields("approval", &[&["metadata"], &["status", "conditions"]])),
    ("ephemeralcontainers", View::Fields("ephemeralcontainers", &[&["spec", "ephemeralContainers"]])),
    ("finalize", View::Fields("finalize", &[&["metadata"], &["spec", "finalizers"]])),
    ("resize", View::Resize),
];

/// What of the metadata clients may write.
const WRITABLE: &[&str] = &["labels", "annotations", "finalizers", "ownerReferences"];

/// What of the metadata a write of the status leaves as it is, by kind; other kinds' statuses are written together with it
/// (upstream: `PrepareForUpdate` of the kinds' status strategies).
const KEPT_BY_STATUS: &[(&str, &str, &[&str])] = &[
    ("", "pods", &["ownerReferences"]),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies", WRITABLE),
    ("apiregistration.k8s.io", "apiservices", WRITABLE),
    ("apps", "deployments", &["labels"]),
    ("flowcontrol.apiserver.k8s.io", "flowschemas", WRITABLE),
    ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations", WRITABLE),
    ("networking.k8s.io", "servicecidrs", WRITABLE),
    ("resource.k8s.io", "resourceclaims", WRITABLE),
    ("storage.k8s.io", "volumeattachments", WRITABLE),
];

/// Which lists of containers a resize looks into.
const CONTAINER_LISTS: [&str; 2] = ["containers", "initContainers"];

impl View {
    /// The view of a subresource; `None` if it is not a part of its own object.
    pub fn of(subresource: &str) -> Option<View> {
        match subresource {
            "" => Some(View::Main),
            _ => VIEWS.iter().find(|(name, _)| *name == subresource).map(|(_, view)| *view),
        }
    }

    /// Whether a write through it is one of a client's wishes, which the generation counts. A pod's binding is not.
    pub fn changes_spec(self) -> bool {
        matches!(self, View::Main | View::Fields(..) | View::Resize)
    }

    /// Puts back from `old` what a write through this view may not change.
    pub fn restrict(self, row: &Resource, new: &mut Value, old: &Value) {
        match self {
            View::Whole => {}
            View::Main => {
                if row.has_status() {
                    restore(new, old, "status");
                }
            }
            View::Status => {
                let status = new.get("status").cloned();
                let meta = new.get("metadata").cloned();
                let mut whole = old.clone();
                set(&mut whole, "metadata", meta);
                set(&mut whole, "status", status);
                let kept = KEPT_BY_STATUS.iter().filter(|(group, plural, _)| (*group, *plural) == (&*row.group, &*row.plural));
                for field in kept.flat_map(|(_, _, fields)| *fields) {
                    copy(&mut whole, old, &["metadata", field]);
                }
                *new = whole;
            }
            View::Fields(_, paths) => {
                let mut whole = old.clone();
                for path in paths {
                    copy(&mut whole, new, path);
                }
                keep_identity(&mut whole, new);
                *new = whole;
            }
            View::Resize => {
                let mut whole = old.clone();
                for list in CONTAINER_LISTS {
                    resize(&mut whole["spec"][list], &new["spec"][list]);
                }
                keep_identity(&mut whole, new);
                *new = whole;
            }
        }
    }

    /// The kind's own preparation.
    pub fn prepare(self, new: &mut dyn Object, old: &dyn Object) {
        match self {
            View::Main => new.prepare_for_update(old),
            View::Status => new.prepare_for_status_update(old),
            View::Fields(..) | View::Resize | View::Whole => {}
        }
    }

    /// The kind's own validation.
    pub fn validate(self, new: &dyn Object, old: &dyn Object, errors: &mut ErrorList) {
        match self {
            View::Main => new.validate_update(old, errors),
            View::Fields(name, _) => new.validate_subresource_update(name, old, errors),
            View::Resize => new.validate_subresource_update("resize", old, errors),
            View::Status => new.validate_status_update(old, errors),
            View::Whole => {}
        }
    }
}

fn set(object: &mut Value, key: &str, value: Option<Value>) {
    if let Some(fields) = object.as_object_mut() {
        match value {
            Some(value) => {
                fields.insert(key.to_owned(), value);
            }
            None => {
                fields.remove(key);
            }
        }
    }
}

fn restore(new: &mut Value, old: &Value, key: &str) {
    set(new, key, old.get(key).cloned());
}

/// The uid and version that the client named count on every path.
fn keep_identity(whole: &mut Value, new: &Value) {
    for field in ["uid", "resourceVersion"] {
        let named = metadata::text(new, field).to_owned();
        match named.is_empty() {
            true => metadata::of(whole).remove(field),
            false => metadata::of(whole).insert(field.to_owned(), named.into()),
        };
    }
}

/// Copies the field at `path`, or its absence.
fn copy(whole: &mut Value, new: &Value, path: &[&str]) {
    let Some((last, parents)) = path.split_last() else { return };
    let value = path.iter().try_fold(new, |v, key| v.get(key)).cloned();
    let mut at = whole;
    for key in parents {
        let Some(fields) = at.as_object_mut() else { return };
        at = fields.entry((*key).to_owned()).or_insert_with(|| Value::Object(Map::new()));
    }
    set(at, last, value);
}

/// Takes what the containers are to get. Where the new list has others, or in another order, it is taken as it is, for validation to refuse.
fn resize(old: &mut Value, new: &Value) {
    let names = |list: &Value| list.as_array().into_iter().flatten().map(|c| c.get("name").cloned()).collect::<Vec<_>>();
    if names(old) != names(new) {
        *old = new.clone();
        return;
    }
    for (container, wanted) in old.as_array_mut().into_iter().flatten().zip(new.as_array().into_iter().flatten()) {
        for field in ["resources", "resizePolicy"] {
            set(container, field, wanted.get(field).cloned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_view_changes_its_part_and_nothing_else() {
        let row = api::resources::find("", "v1", "pods").unwrap();
        let old = json!({
            "metadata": {"name": "a", "labels": {"l": "1"}, "resourceVersion": "5"},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}, "status": {"phase": "Pending"},
        });
        let sent = json!({
            "metadata": {"name": "a", "labels": {"l": "2"}, "resourceVersion": "4"},
            "spec": {"nodeName": "m", "containers": [{"name": "c", "image": "j", "resources": {"limits": {}}}], "ephemeralContainers": [1]},
            "status": {"phase": "Running"},
        });
        let through = |subresource: &str| {
            let mut new = sent.clone();
            View::of(subresource).unwrap().restrict(row, &mut new, &old);
            new
        };
        let main = through("");
        assert_eq!((&main["spec"], &main["status"]), (&sent["spec"], &old["status"]));
        let status = through("status");
        assert_eq!((&status["spec"], &status["status"], &status["metadata"]), (&old["spec"], &sent["status"], &sent["metadata"]));
        let ephemeral = through("ephemeralcontainers");
        assert_eq!(ephemeral["spec"], json!({"nodeName": "n", "containers": old["spec"]["containers"], "ephemeralContainers": [1]}));
        assert_eq!(ephemeral["metadata"], json!({"name": "a", "labels": {"l": "1"}, "resourceVersion": "4"}));
        let resized = through("resize");
        assert_eq!(resized["spec"]["containers"], json!([{"name": "c", "image": "i", "resources": {"limits": {}}}]));
        assert_eq!(View::of("log"), None);
    }

    #[test]
    fn approving_and_finalizing_may_annotate() {
        let old = json!({"metadata": {"name": "a"}, "spec": {"x": 1}, "status": {"certificate": "c"}});
        let sent = json!({"metadata": {"name": "a", "annotations": {"a": "1"}}, "spec": {"x": 2, "finalizers": ["f"]},
            "status": {"conditions": [{"type": "Approved"}], "certificate": "other"}});
        let through = |subresource: &str| {
            let mut new = sent.clone();
            View::of(subresource).unwrap().restrict(api::resources::find("", "v1", "namespaces").unwrap(), &mut new, &old);
            new
        };
        let status = json!({"conditions": [{"type": "Approved"}], "certificate": "c"});
        assert_eq!(through("approval"), json!({"metadata": sent["metadata"], "spec": {"x": 1}, "status": status}));
        let spec = json!({"x": 1, "finalizers": ["f"]});
        assert_eq!(through("finalize"), json!({"metadata": sent["metadata"], "spec": spec, "status": old["status"]}));
    }

    #[test]
    fn a_status_is_written_without_the_metadata_that_its_kind_keeps() {
        let old = json!({"metadata": {"labels": {"l": "1"}, "ownerReferences": [{"name": "o"}]}, "status": {}});
        let sent = json!({"metadata": {"labels": {"l": "2"}, "annotations": {"a": "2"}}, "status": {"replicas": 1}});
        for (group, plural, want) in [
            ("", "pods", json!({"labels": {"l": "2"}, "annotations": {"a": "2"}, "ownerReferences": [{"name": "o"}]})),
            ("apps", "deployments", json!({"labels": {"l": "1"}, "annotations": {"a": "2"}})),
            ("apps", "replicasets", json!({"labels": {"l": "2"}, "annotations": {"a": "2"}})),
            ("storage.k8s.io", "volumeattachments", json!({"labels": {"l": "1"}, "ownerReferences": [{"name": "o"}]})),
        ] {
            let mut new = sent.clone();
            View::Status.restrict(api::resources::find(group, "v1", plural).unwrap(), &mut new, &old);
            assert_eq!((&new["metadata"], &new["status"]), (&want, &sent["status"]), "{plural}");
        }
    }

    #[test]
    fn kinds_that_keep_metadata_are_served() {
        for (group, plural, _) in KEPT_BY_STATUS {
            let row = api::resources::find(group, "v1", plural).unwrap_or_else(|| panic!("no {plural}"));
            assert!(row.has_status(), "{plural}");
        }
    }

    #[test]
    fn a_resize_that_names_other_containers_goes_to_validation_as_it_is() {
        let list = |names: &[&str]| names.iter().map(|n| json!({"name": n, "image": n})).collect::<Value>();
        for (new, want) in [(list(&["a", "b"]), list(&["a", "b"])), (list(&["b", "a"]), list(&["b", "a"])), (list(&["a"]), list(&["a"]))] {
            let mut old = list(&["a", "b"]);
            resize(&mut old, &new);
            assert_eq!(old, want);
        }
    }
}
