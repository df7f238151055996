//! The revisions of a DaemonSet: which its pods are to be of, and which are no longer needed.

use crate::ops::{DeleteOptions, Executor, Op, PatchKind, Request};
use crate::revisions::{self, REVISION_LABEL};
use client::ObjectKey;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::json;
use std::sync::Arc;

/// Where a set is in its history.
#[derive(Debug)]
pub struct History {
    /// The hashes of the present version: the one that pods get, then those of duplicates, which are as good.
    pub hashes: Vec<String>,
    /// The revisions of other versions, and the duplicates; these may be deleted, for their pods are given the hash that counts.
    pub old: Vec<Arc<ControllerRevision>>,
}

fn hash(revision: &ControllerRevision) -> Option<&String> {
    revision.metadata.labels.as_ref()?.get(REVISION_LABEL)
}

/// Finds out, and records the template if it is new. A set that was rolled back gets its revision under the highest number.
pub async fn settle(executor: &Executor, set: &DaemonSet, all: &[Arc<ControllerRevision>]) -> anyhow::Result<History> {
    let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let mut sorted = all.to_vec();
    revisions::sort(&mut sorted);
    let (mut present, mut old): (Vec<_>, Vec<_>) = sorted.into_iter().partition(|revision| revisions::is_of(revision, &template));
    let next = revisions::next(&old);
    let current = match present.pop() {
        None => create(executor, set, next).await?,
        Some(current) if current.revision < next => {
            executor.send(Request::replace(&ControllerRevision { revision: next, ..current.as_ref().clone() })).await?;
            current
        }
        Some(current) => current,
    };
    let hashes = std::iter::once(&current).chain(&present).filter_map(|revision| hash(revision).cloned()).collect();
    old.extend(present);
    Ok(History { hashes, old })
}

async fn create(executor: &Executor, set: &DaemonSet, number: i64) -> anyhow::Result<Arc<ControllerRevision>> {
    let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let collisions = set.status.as_ref().and_then(|status| status.collision_count);
    let revision = revisions::new(set, &template, REVISION_LABEL, number, collisions);
    match executor.send(Request::create(&revision)).await {
        Ok(created) => Ok(Arc::new(serde_json::from_value(created)?)),
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
            let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
            let api: Api<ControllerRevision> = Api::namespaced(executor.client().clone(), namespace);
            let existing = api.get(revision.metadata.name.as_deref().unwrap_or_default()).await?;
            if existing.data == revision.data {
                return Ok(Arc::new(existing));
            }
            let mut told = set.clone();
            told.status.get_or_insert_default().collision_count = Some(collisions.unwrap_or(0) + 1);
            executor.send(Request::replace_status(&told)).await?;
            Err(kube::Error::Api(status).into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Gives the hash that counts to pods that have a duplicate's: once the duplicate is gone they would pass for outdated.
pub fn relabel(history: &History, pods: &[Arc<Pod>]) -> Vec<Op> {
    let Some((hash, duplicates)) = history.hashes.split_first() else { return Vec::new() };
    let label = |pod: &Pod| pod.metadata.labels.as_ref()?.get(REVISION_LABEL).cloned();
    pods.iter()
        .filter(|pod| label(pod).is_some_and(|own| duplicates.contains(&own) && own != *hash))
        .map(|pod| {
            let patch = json!({"metadata": {"uid": pod.metadata.uid, "labels": {REVISION_LABEL: hash}}});
            Op::send(Request::patch::<Pod>(&ObjectKey::of(pod.as_ref()), "", PatchKind::Merge, patch).tolerating(&[404, 409]))
        })
        .collect()
}

/// Deletes the revisions that nobody needs to go back to.
pub fn clean_up(set: &DaemonSet, history: &History, pods: &[Arc<Pod>]) -> Vec<Op> {
    let in_use = |of: &ControllerRevision| {
        let label = |pod: &Pod| pod.metadata.labels.as_ref().and_then(|labels| labels.get(REVISION_LABEL)).cloned();
        hash(of).is_some_and(|hash| pods.iter().any(|pod| label(pod).as_ref() == Some(hash)))
    };
    let limit = set.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
    // Those in use count against the limit, unlike a StatefulSet's.
    let used = history.old.iter().filter(|revision| in_use(revision)).count();
    revisions::surplus(&history.old, in_use, usize::try_from(limit).unwrap_or(0).saturating_sub(used))
        .iter()
        .map(|gone| {
            let options = DeleteOptions { uid: gone.metadata.uid.clone(), ..DeleteOptions::default() };
            Op::send(Request::delete::<ControllerRevision>(&ObjectKey::of(gone.as_ref()), &options).tolerating(&[404, 409]))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_of_a_duplicate_are_of_the_present_version() {
        let pod = |name: &str, hash: &str| {
            let metadata = json!({"namespace": "ns", "name": name, "uid": name, "labels": {REVISION_LABEL: hash}});
            Arc::new(serde_json::from_value::<Pod>(json!({"metadata": metadata})).unwrap())
        };
        let pods = [pod("kept", "present"), pod("twin", "duplicate"), pod("old", "old")];
        let history = |hashes: &[&str]| History { hashes: hashes.iter().map(|hash| (*hash).to_owned()).collect(), old: Vec::new() };
        assert_eq!(relabel(&history(&["present"]), &pods), []);
        let patched = relabel(&history(&["present", "duplicate"]), &pods);
        let [Op::Send(request)] = patched.as_slice() else { panic!("{patched:?}") };
        assert_eq!((request.name.as_str(), &request.body["metadata"]["labels"][REVISION_LABEL]), ("twin", &json!("present")));
    }
}
