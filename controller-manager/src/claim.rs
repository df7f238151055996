//! Which objects belong to an owner with a selector (upstream: `controller_ref_manager.go`): those that it controls and that match, and those that match
//! and that nobody controls, which it adopts. What it controls and no longer matches, it releases.

use crate::controller::controller_of;
use crate::ops::{Op, PatchKind, Request};
use client::ObjectKey;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use serde_json::json;
use std::sync::Arc;

/// The outcome.
pub struct Claim<K> {
    /// What belongs to the owner already.
    pub owned: Vec<Arc<K>>,
    /// What it adopts. It belongs to it as soon as the patch has come back through the watch.
    pub adopt: Vec<Op>,
    /// What it lets go.
    pub release: Vec<Op>,
}

/// The reference that makes an owner an object's controller.
pub fn controller_reference<O: Resource<DynamicType = ()>>(owner: &O) -> OwnerReference {
    let meta = owner.meta();
    OwnerReference {
        api_version: O::api_version(&()).into_owned(),
        kind: O::kind(&()).into_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Sorts out `candidates`, which are the objects of the owner's namespace or at least all that it controls and all that match.
pub fn claim<O, K>(owner: &O, candidates: &[Arc<K>], matches: impl Fn(&K) -> bool) -> Claim<K>
where
    O: Resource<DynamicType = ()>,
    K: Resource<DynamicType = ()>,
{
    let uid = owner.meta().uid.as_deref().unwrap_or_default();
    let owner_is_going = owner.meta().deletion_timestamp.is_some();
    let mut claim = Claim { owned: Vec::new(), adopt: Vec::new(), release: Vec::new() };
    for candidate in candidates {
        let key = ObjectKey::of(candidate.as_ref());
        match controller_of(candidate.as_ref()) {
            Some(controller) if controller.uid != uid => {}
            Some(_) if matches(candidate) => claim.owned.push(candidate.clone()),
            Some(_) if owner_is_going => {}
            Some(_) => {
                let patch = json!({"metadata": {"uid": candidate.meta().uid, "ownerReferences": [{"$patch": "delete", "uid": uid}]}});
                // 404: gone. 422: the UID is another's now.
                claim.release.push(Op::send(Request::patch::<K>(&key, "", PatchKind::Strategic, patch).tolerating(&[404, 422])));
            }
            None if owner_is_going || candidate.meta().deletion_timestamp.is_some() || !matches(candidate) => {}
            None => {
                let patch = json!({"metadata": {"uid": candidate.meta().uid, "ownerReferences": [controller_reference(owner)]}});
                claim.adopt.push(Op::send(Request::patch::<K>(&key, "", PatchKind::Strategic, patch).tolerating(&[404])));
            }
        }
    }
    claim
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::Value;

    fn pod(name: &str, label: &str, owner: Option<&str>, more: Value) -> Arc<Pod> {
        let owners: Vec<Value> = owner
            .into_iter()
            .map(|uid| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": uid, "uid": uid, "controller": true}))
            .collect();
        let mut pod =
            json!({"metadata": {"namespace": "ns", "name": name, "uid": name, "labels": {"app": label}, "ownerReferences": owners}});
        if let Some(more) = more.as_object() {
            pod["metadata"].as_object_mut().unwrap().extend(more.clone());
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn who_belongs_to_whom() {
        let owner: ReplicaSet = serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "rs", "uid": "rs"}})).unwrap();
        let pods = [
            pod("mine", "web", Some("rs"), json!({})),
            pod("mine-no-longer", "db", Some("rs"), json!({})),
            pod("orphan", "web", None, json!({})),
            pod("stranger", "db", None, json!({})),
            pod("of-another", "web", Some("other"), json!({})),
            pod("orphan-going", "web", None, json!({"deletionTimestamp": "2026-01-01T00:00:00Z"})),
        ];
        let matches = |pod: &Pod| pod.metadata.labels.as_ref().is_some_and(|labels| labels.get("app").is_some_and(|app| app == "web"));
        let paths = |ops: &[Op]| {
            let path =
                |op: &Op| if let Op::Send(request) = op { request.path.rsplit('/').next().unwrap().to_owned() } else { String::new() };
            ops.iter().map(path).collect::<Vec<_>>()
        };
        let claimed = claim(&owner, &pods, matches);
        assert_eq!(claimed.owned.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect::<Vec<_>>(), ["mine"]);
        assert_eq!(paths(&claimed.adopt), ["orphan"]);
        assert_eq!(paths(&claimed.release), ["mine-no-longer"]);

        let mut going = owner;
        going.metadata.deletion_timestamp =
            Some("2026-01-01T00:00:00Z".parse().map(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time).unwrap());
        let claimed = claim(&going, &pods, matches);
        assert_eq!((claimed.owned.len(), claimed.adopt.len(), claimed.release.len()), (1, 0, 0));
    }
}
