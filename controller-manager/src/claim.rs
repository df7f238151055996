//! Which objects belong to an owner with a selector (upstream: `controller_ref_manager.go`): those that it controls and that match, and those that match
//! and that nobody controls, which it adopts. What it controls and no longer matches, it releases.

use crate::controller::controller_of;
use crate::ops::{Executor, PatchKind, Request};
use client::cache::Cacheable;
use client::{Cache, ObjectKey};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;
use std::sync::Arc;

/// The index of objects that nobody controls by their namespace.
pub const ORPHANS: &str = "orphans";

/// The index of objects that nobody controls, as every controller that wants it adds it.
pub fn orphan<K: Resource>(object: &K) -> Vec<String> {
    if controller_of(object).is_some() { Vec::new() } else { object.meta().namespace.iter().cloned().collect() }
}

/// What may belong to an owner: what it controls, and what nobody in its namespace does. The cache needs the index [`ORPHANS`].
pub fn candidates<O: Resource, K: Cacheable>(cache: &Cache<K>, owner: &O) -> Vec<Arc<K>> {
    let mut all = cache.owned_by(owner.meta().uid.as_deref().unwrap_or_default());
    all.extend(cache.by_index(ORPHANS, owner.meta().namespace.as_deref().unwrap_or_default()));
    all
}

/// The outcome.
pub struct Claim<K> {
    /// What belongs to the owner already.
    pub owned: Vec<Arc<K>>,
    /// What it adopts.
    pub adopt: Vec<Request>,
    /// What it lets go.
    pub release: Vec<Request>,
}

impl<K: DeserializeOwned> Claim<K> {
    /// Lets go and adopts. Returns all that belongs to the owner then. Before anything is adopted the apiserver is asked whether the owner is still
    /// there: the cache may be late, and what a dead owner adopts would be deleted.
    pub async fn settle<O>(self, executor: &Executor, owner: &O) -> Result<Vec<Arc<K>>, kube::Error>
    where
        O: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let mut owned = self.owned;
        for request in self.release {
            executor.send(request).await?;
        }
        if self.adopt.is_empty() {
            return Ok(owned);
        }
        let key = ObjectKey::of(owner);
        let fresh = Api::<O>::namespaced(executor.client().clone(), &key.namespace).get_opt(&key.name).await?;
        if fresh.is_none_or(|fresh| fresh.meta().uid != owner.meta().uid || fresh.meta().deletion_timestamp.is_some()) {
            return Ok(owned);
        }
        for request in self.adopt {
            let answer = executor.send(request).await?;
            if !answer.is_null() {
                owned.push(Arc::new(serde_json::from_value(answer).map_err(kube::Error::SerdeError)?));
            }
        }
        Ok(owned)
    }
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

/// Sorts out `candidates`, which are the objects of the owner's namespace or at least all that it controls and all that match. A `finalizer` is given to
/// what is adopted and taken from what is released.
pub fn claim<O, K>(owner: &O, candidates: &[Arc<K>], finalizer: Option<&str>, matches: impl Fn(&K) -> bool) -> Claim<K>
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
                let mut patch = json!({"metadata": {"uid": candidate.meta().uid, "ownerReferences": [{"$patch": "delete", "uid": uid}]}});
                if let Some(finalizer) = finalizer {
                    patch["metadata"]["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
                }
                // 404: gone. 422: the UID is another's now.
                claim.release.push(Request::patch::<K>(&key, "", PatchKind::Strategic, patch).tolerating(&[404, 422]));
            }
            None if owner_is_going || candidate.meta().deletion_timestamp.is_some() || !matches(candidate) => {}
            None => {
                let mut patch = json!({"metadata": {"uid": candidate.meta().uid, "ownerReferences": [controller_reference(owner)]}});
                if let Some(finalizer) = finalizer {
                    patch["metadata"]["finalizers"] = Value::from(vec![finalizer]);
                }
                claim.adopt.push(Request::patch::<K>(&key, "", PatchKind::Strategic, patch).tolerating(&[404]));
            }
        }
    }
    claim
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trim::held;
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use k8s_openapi::api::core::v1::Pod;

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
        Arc::new(held(pod))
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
        let paths = |sent: &[Request]| sent.iter().map(|request| request.name.clone()).collect::<Vec<_>>();
        let claimed = claim(&owner, &pods, None, matches);
        assert_eq!(claimed.owned.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect::<Vec<_>>(), ["mine"]);
        assert_eq!(paths(&claimed.adopt), ["orphan"]);
        assert_eq!(paths(&claimed.release), ["mine-no-longer"]);

        let mut going = owner;
        going.metadata.deletion_timestamp =
            Some("2026-01-01T00:00:00Z".parse().map(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time).unwrap());
        let claimed = claim(&going, &pods, None, matches);
        assert_eq!((claimed.owned.len(), claimed.adopt.len(), claimed.release.len()), (1, 0, 0));
    }
}
