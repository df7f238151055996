//! The revisions of a StatefulSet: which it is at, which it is to get to, and which are no longer needed.

use super::identity::{revision, spec};
use crate::ops::{DeleteOptions, Executor, Op, Request};
use crate::revisions::{self, HASH_LABEL};
use client::ObjectKey;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use std::sync::Arc;

/// How many names are tried for one revision. Collisions of 32 bits are rare, so that a second is all that is ever needed.
const TRIES: i32 = 10;

/// Where a set is in its history.
pub struct History {
    /// The revision that it comes from.
    pub current: Arc<ControllerRevision>,
    /// The revision of its template.
    pub update: Arc<ControllerRevision>,
    /// How many names of revisions were taken by others.
    pub collisions: i32,
}

/// The revision of the set's template among those that there are, and whether it has to get the highest number because the set was rolled back to it.
fn find(set: &StatefulSet, revisions: &[Arc<ControllerRevision>]) -> Option<(Arc<ControllerRevision>, bool)> {
    let template = spec(set).template;
    let mut sorted = revisions.to_vec();
    revisions::sort(&mut sorted);
    let found = sorted.iter().rfind(|revision| revisions::is_of(revision, &template))?.clone();
    let is_last = sorted.last().is_some_and(|last| last.revision == found.revision);
    Some((found, !is_last))
}

/// Finds out, and records the template if it is new.
pub async fn settle(executor: &Executor, set: &StatefulSet, all: &[Arc<ControllerRevision>]) -> anyhow::Result<History> {
    let mut collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    let next = revisions::next(all);
    let update = match find(set, all) {
        Some((found, false)) => found,
        Some((found, true)) => {
            let renumbered = ControllerRevision { revision: next, ..found.as_ref().clone() };
            Arc::new(serde_json::from_value(executor.send(Request::replace(&renumbered)).await?)?)
        }
        None => create(executor, set, next, &mut collisions).await?,
    };
    let noted = set.status.as_ref().and_then(|status| status.current_revision.as_ref());
    let current = all.iter().find(|revision| revision.metadata.name.as_ref() == noted).cloned().unwrap_or_else(|| update.clone());
    Ok(History { current, update, collisions })
}

async fn create(executor: &Executor, set: &StatefulSet, number: i64, collisions: &mut i32) -> anyhow::Result<Arc<ControllerRevision>> {
    let template = spec(set).template;
    for _ in 0..TRIES {
        let revision = revisions::new(set, &template, HASH_LABEL, number, Some(*collisions));
        match executor.send(Request::create(&revision)).await {
            Ok(created) => return Ok(Arc::new(serde_json::from_value(created)?)),
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
                let api: Api<ControllerRevision> = Api::namespaced(executor.client().clone(), namespace);
                let existing = api.get(revision.metadata.name.as_deref().unwrap_or_default()).await?;
                if existing.data == revision.data {
                    return Ok(Arc::new(existing));
                }
                *collisions += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    anyhow::bail!("no free name for a revision after {TRIES} tries")
}

/// Deletes the revisions that are in nobody's way back.
pub fn clean_up(set: &StatefulSet, all: &[Arc<ControllerRevision>], history: &History, pods: &[Arc<Pod>]) -> Vec<Op> {
    let is_used = |of: &ControllerRevision| {
        let name = of.metadata.name.as_deref();
        name == history.current.metadata.name.as_deref()
            || name == history.update.metadata.name.as_deref()
            || pods.iter().any(|pod| revision(pod) == name)
    };
    let kept = usize::try_from(spec(set).revision_history_limit.unwrap_or(10)).unwrap_or(0);
    revisions::surplus(all, is_used, kept)
        .iter()
        .map(|gone| {
            let options = DeleteOptions { uid: gone.metadata.uid.clone(), ..DeleteOptions::default() };
            Op::send(Request::delete::<ControllerRevision>(&ObjectKey::of(gone.as_ref()), &options).tolerating(&[404, 409]))
        })
        .collect()
}
