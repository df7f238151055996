//! Who a StatefulSet's pods are: name and ordinal, labels, host name, and which revision they are of (upstream: `stateful_set_utils.go`).

use super::claims;
use crate::claim::controller_reference;
use crate::pods;
use crate::revisions::REVISION_LABEL;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use serde_json::{Value, json};

const POD_NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The spec; there is always one.
pub fn spec(set: &StatefulSet) -> StatefulSetSpec {
    set.spec.clone().unwrap_or_default()
}

/// The first ordinal.
pub fn start(set: &StatefulSet) -> i64 {
    let ordinals = set.spec.as_ref().and_then(|spec| spec.ordinals.as_ref());
    ordinals.and_then(|ordinals| ordinals.start).unwrap_or(0).into()
}

/// How many.
pub fn replicas(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// The name of the set that a pod's name points to, and its ordinal.
pub fn parent(pod: &Pod) -> Option<(&str, i64)> {
    let (parent, ordinal) = pod.metadata.name.as_deref()?.rsplit_once('-')?;
    let digits = !ordinal.is_empty() && ordinal.bytes().all(|byte| byte.is_ascii_digit());
    let ordinal: i32 = ordinal.parse().ok().filter(|_| digits)?;
    Some((parent, ordinal.into()))
}

/// A pod's ordinal.
pub fn ordinal(pod: &Pod) -> Option<i64> {
    parent(pod).map(|(_, ordinal)| ordinal)
}

/// Whether a pod's ordinal is one that the set is to have.
pub fn in_range(set: &StatefulSet, ordinal: i64) -> bool {
    (start(set)..start(set) + i64::from(replicas(set))).contains(&ordinal)
}

/// The name of the pod with that ordinal.
pub fn pod_name(set: &StatefulSet, ordinal: i64) -> String {
    format!("{}-{ordinal}", set.metadata.name.as_deref().unwrap_or_default())
}

/// The revision that a pod is of.
pub fn revision(pod: &Pod) -> Option<&str> {
    pod.metadata.labels.as_ref()?.get(REVISION_LABEL).map(String::as_str)
}

/// Whether name and labels are as they should be.
pub fn matches(set: &StatefulSet, pod: &Pod) -> bool {
    let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get(POD_NAME_LABEL));
    ordinal(pod).is_some_and(|ordinal| pod.metadata.name == Some(pod_name(set, ordinal))) && label == pod.metadata.name.as_ref()
}

/// Gives a pod the labels of its identity.
pub fn label(pod: &mut Pod) {
    let (name, ordinal) = (pod.metadata.name.clone().unwrap_or_default(), ordinal(pod));
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME_LABEL.to_owned(), name);
    labels.extend(ordinal.map(|ordinal| (POD_INDEX_LABEL.to_owned(), ordinal.to_string())));
}

/// The patch that gives a pod that is there the labels and the claims that this one has, if it is still in the same edition.
pub fn repairing(pod: &Pod) -> Value {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let claims: Vec<_> = volumes.filter(|volume| volume.persistent_volume_claim.is_some()).collect();
    let meta = &pod.metadata;
    let metadata = json!({"uid": meta.uid, "resourceVersion": meta.resource_version, "labels": meta.labels});
    json!({"metadata": metadata, "spec": {"volumes": claims}})
}

/// A pod of that template and revision in that place.
pub fn new_pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i64) -> Pod {
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let mut pod = pods::from_template(Some(template), namespace, String::new(), controller_reference(set));
    let name = pod_name(set, ordinal);
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    label(&mut pod);
    pod.metadata.labels.get_or_insert_default().insert(REVISION_LABEL.to_owned(), revision.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain = set.spec.as_ref().and_then(|spec| spec.service_name.clone()).filter(|service| !service.is_empty());
    claims::mount(set, &mut pod);
    pod
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_and_ordinals() {
        for (name, expected) in [
            ("web-0", Some(("web", 0))),
            ("web-12", Some(("web", 12))),
            ("a-b-3", Some(("a-b", 3))),
            ("web", None),
            ("web-", None),
            ("web-x", None),
            ("web-+1", None),
            ("web-99999999999", None),
        ] {
            let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
            assert_eq!(parent(&pod), expected, "{name}");
        }
    }

    #[test]
    fn a_pod_knows_who_it_is() {
        let claim = json!({"metadata": {"name": "data"}, "spec": {}});
        let spec = json!({
            "replicas": 2, "serviceName": "svc", "ordinals": {"start": 5}, "selector": {}, "volumeClaimTemplates": [claim],
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c"}], "volumes": [{"name": "data"}, {"name": "tmp"}]}},
        });
        let set: StatefulSet =
            serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "web", "uid": "u"}, "spec": spec})).unwrap();
        let pod = new_pod(&set, &set.spec.as_ref().unwrap().template, "web-r1", 5);
        assert!(matches(&set, &pod) && claims::are_mounted(&set, &pod));
        assert!(in_range(&set, 5) && in_range(&set, 6) && !in_range(&set, 7) && !in_range(&set, 4));
        let labels = pod.metadata.labels.clone().unwrap();
        let expected = [
            ("app", "web"),
            ("apps.kubernetes.io/pod-index", "5"),
            ("controller-revision-hash", "web-r1"),
            ("statefulset.kubernetes.io/pod-name", "web-5"),
        ];
        assert_eq!(labels, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        let spec = pod.spec.unwrap();
        assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("web-5"), Some("svc")));
        let volumes: Vec<_> =
            spec.volumes.unwrap().into_iter().map(|v| (v.name, v.persistent_volume_claim.map(|c| c.claim_name))).collect();
        assert_eq!(volumes, [("data".to_owned(), Some("data-web-5".to_owned())), ("tmp".to_owned(), None)]);
    }
}
