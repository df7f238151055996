//! ControllerRevisions: what a StatefulSet's or DaemonSet's template was, so that a rollout can be told from the version before and undone
//! (upstream: `pkg/controller/history`).
//!
//! A revision holds a strategic merge patch that puts the template back. Two are the same if their templates mean the same, not if their bytes are: fields
//! that one writer leaves out and another writes empty do not start a rollout.

use crate::claim::controller_reference;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::Resource;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The label on pods that names their revision.
pub const REVISION_LABEL: &str = "controller-revision-hash";
/// The label on a StatefulSet's revisions that holds the hash of their data.
pub const HASH_LABEL: &str = "controller.kubernetes.io/hash";

/// 32 bits (FNV-1a) of some text, written with letters that make no words. Like upstream's in form; in value it need only differ between texts.
pub fn hash(text: &[u8], collisions: Option<i32>) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let seed = collisions.map(i32::to_le_bytes);
    let all = text.iter().chain(seed.iter().flatten());
    let hash = all.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    hash.to_string().bytes().map(|digit| char::from(LETTERS[usize::from(digit) % LETTERS.len()])).collect()
}

/// The patch that puts a template back.
pub fn patch(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).expect("API types have string keys and no failing serializers");
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// The template that a revision puts back. `None` if it holds something else.
pub fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.get("spec")?.get("template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// What is the same written in two ways becomes one: no `resources` are empty `resources`, a container may name its fields in any order.
fn plain(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let Some(spec) = &mut template.spec else { return template };
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        container.resources.get_or_insert_default();
    }
    template.metadata.get_or_insert_default().creation_timestamp = None;
    template
}

/// Whether a revision is of this template.
pub fn is_of(revision: &ControllerRevision, of: &PodTemplateSpec) -> bool {
    template(revision).is_some_and(|recorded| plain(&recorded) == plain(of))
}

/// Sorts by number, the oldest first.
pub fn sort(revisions: &mut [Arc<ControllerRevision>]) {
    revisions.sort_by_key(|revision| {
        let created = revision.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (revision.revision, created, revision.metadata.name.clone())
    });
}

/// The number after the highest.
pub fn next(revisions: &[Arc<ControllerRevision>]) -> i64 {
    revisions.iter().map(|revision| revision.revision).max().unwrap_or(0) + 1
}

/// A revision of a template, with the hash in its name and under a label.
pub fn new<O: Resource<DynamicType = ()>>(
    owner: &O,
    template: &PodTemplateSpec,
    label: &str,
    number: i64,
    collisions: Option<i32>,
) -> ControllerRevision {
    let data = patch(template);
    let hash = hash(data.to_string().as_bytes(), collisions);
    let mut labels: BTreeMap<String, String> = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    labels.insert(label.to_owned(), hash.clone());
    let meta = owner.meta();
    // A name may have 253 characters; upstream leaves 30 of them to the hash.
    let prefix: String = meta.name.iter().flat_map(|name| name.chars()).take(223).collect();
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{prefix}-{hash}")),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            annotations: meta.annotations.clone(),
            owner_references: Some(vec![controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data)),
        revision: number,
    }
}

/// The revisions to delete: the oldest of those that nobody uses, but for so many.
pub fn surplus(
    revisions: &[Arc<ControllerRevision>],
    is_used: impl Fn(&ControllerRevision) -> bool,
    kept: usize,
) -> Vec<Arc<ControllerRevision>> {
    let mut unused: Vec<_> = revisions.iter().filter(|revision| !is_used(revision)).cloned().collect();
    sort(&mut unused);
    unused.truncate(unused.len().saturating_sub(kept));
    unused
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::StatefulSet;

    fn template_of(container: Value) -> PodTemplateSpec {
        serde_json::from_value(json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}})).unwrap()
    }

    fn revision(name: &str, number: i64) -> Arc<ControllerRevision> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "revision": number})).unwrap())
    }

    #[test]
    fn what_is_recorded_is_put_back() {
        let owner: StatefulSet = serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "web", "uid": "u"}})).unwrap();
        let template_one = template_of(json!({"name": "c", "image": "one"}));
        let made = new(&owner, &template_one, HASH_LABEL, 3, Some(0));
        assert_eq!(template(&made).as_ref(), Some(&template_one));
        assert_eq!(made.data.as_ref().unwrap().0["spec"]["template"]["$patch"], "replace");
        let labels = made.metadata.labels.clone().unwrap();
        assert_eq!((labels["app"].as_str(), made.metadata.name.clone()), ("web", Some(format!("web-{}", labels[HASH_LABEL]))));
        for (container, expected) in [
            (json!({"name": "c", "image": "one"}), true),
            (json!({"name": "c", "image": "one", "resources": {}}), true),
            (json!({"name": "c", "image": "two"}), false),
        ] {
            assert_eq!(is_of(&made, &template_of(container.clone())), expected, "{container}");
        }
        assert_ne!(new(&owner, &template_one, HASH_LABEL, 3, Some(1)).metadata.name, made.metadata.name, "a collision changes the name");
    }

    #[test]
    fn the_oldest_unused_go() {
        let all = [revision("c", 3), revision("a", 1), revision("b", 2), revision("d", 4)];
        assert_eq!(next(&all), 5);
        for (limit, expected) in [(0, vec!["a", "b"]), (1, vec!["a"]), (2, vec![]), (9, vec![])] {
            let gone = surplus(&all, |r| r.revision >= 3, limit);
            assert_eq!(gone.iter().map(|r| r.metadata.name.as_deref().unwrap()).collect::<Vec<_>>(), expected, "{limit}");
        }
    }
}
