//! Creating and deleting the pods of an owner, many at a time (upstream: `RealPodControl`, `slowStartBatch`).
//!
//! Creations start with one and double with every round that went well, so that a quota or a bad template is hit once and not a thousand times. What is not even tried
//! after a failure is no longer expected. Events are those of the owner.

use crate::ops::{DeleteOptions, Executor, Request, namespace_is_terminating};
use crate::pods;
use client::events::EventType;
use client::{Change, Expectations, ObjectKey};
use futures::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::Resource;
use std::sync::Arc;

/// How many pods are created or deleted in one go at most (upstream: `BurstReplicas`).
pub const BURST: usize = 500;

/// What the owner wants to have changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Pods to create.
    pub create: Vec<Pod>,
    /// Pods to delete.
    pub delete: Vec<Arc<Pod>>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// So many pods were created.
    pub created: usize,
    /// These were deleted.
    pub deleted: Vec<Arc<Pod>>,
    /// The first failure.
    pub failure: Option<kube::Error>,
    /// The namespace is being deleted: nothing will ever be created there any more, and the owner is going too.
    pub is_doomed: bool,
}

/// Carries changes out; the first failure is returned after all has been tried.
pub async fn apply(
    executor: &Executor,
    expectations: &Expectations<ObjectKey>,
    key: &ObjectKey,
    owner: &ObjectReference,
    changes: Changes,
) -> Outcome {
    let uids = changes.delete.iter().filter_map(|pod| pod.metadata.uid.clone());
    expectations.expect(key, changes.create.len(), uids);
    let mut outcome = Outcome::default();
    create(executor, expectations, key, owner, changes.create, &mut outcome).await;
    delete(executor, expectations, key, owner, changes.delete, &mut outcome).await;
    outcome
}

async fn create(
    executor: &Executor,
    expectations: &Expectations<ObjectKey>,
    key: &ObjectKey,
    owner: &ObjectReference,
    pods: Vec<Pod>,
    outcome: &mut Outcome,
) {
    let mut left = pods.into_iter();
    let mut batch = 1;
    let mut failure = None;
    while failure.is_none() && left.len() > 0 {
        let requests: FuturesUnordered<_> = left.by_ref().take(batch).map(|pod| executor.send(Request::create(&pod))).collect();
        let answers: Vec<_> = requests.collect().await;
        for answer in answers {
            match answer {
                Ok(pod) => {
                    outcome.created += 1;
                    let message = format!("Created pod: {}", pod["metadata"]["name"].as_str().unwrap_or_default());
                    executor.recorder().record(owner.clone(), EventType::Normal, "SuccessfulCreate", message, "");
                }
                Err(error) => {
                    expectations.creation_observed(key);
                    if !namespace_is_terminating(&error) {
                        executor.recorder().record(
                            owner.clone(),
                            EventType::Warning,
                            "FailedCreate",
                            format!("Error creating: {}", text(&error)),
                            "",
                        );
                    }
                    failure = Some(error);
                }
            }
        }
        batch *= 2;
    }
    for _ in left {
        expectations.creation_observed(key);
    }
    outcome.is_doomed = failure.as_ref().is_some_and(namespace_is_terminating);
    outcome.failure = failure.filter(|_| !outcome.is_doomed);
}

async fn delete(
    executor: &Executor,
    expectations: &Expectations<ObjectKey>,
    key: &ObjectKey,
    owner: &ObjectReference,
    pods: Vec<Arc<Pod>>,
    outcome: &mut Outcome,
) {
    let requests: FuturesUnordered<_> = pods
        .into_iter()
        .map(|pod| async move {
            let options = DeleteOptions { uid: pod.metadata.uid.clone(), ..DeleteOptions::default() };
            let answer = executor.send(Request::delete::<Pod>(&ObjectKey::of(pod.as_ref()), &options).tolerating(&[404, 409])).await;
            (pod, answer)
        })
        .collect();
    let answers: Vec<_> = requests.collect().await;
    for (pod, answer) in answers {
        let name = pod.meta().name.as_deref().unwrap_or_default();
        if answer.is_ok() {
            outcome.deleted.push(pod.clone());
        }
        match answer {
            Ok(answer) if answer.is_null() => expectations.deletion_observed(key, pod.metadata.uid.as_deref().unwrap_or_default()),
            Ok(_) => executor.recorder().record(owner.clone(), EventType::Normal, "SuccessfulDelete", format!("Deleted pod: {name}"), ""),
            Err(error) => {
                expectations.deletion_observed(key, pod.metadata.uid.as_deref().unwrap_or_default());
                executor.recorder().record(
                    owner.clone(),
                    EventType::Warning,
                    "FailedDelete",
                    format!("Error deleting: {}", text(&error)),
                    "",
                );
                outcome.failure.get_or_insert(error);
            }
        }
    }
}

/// Notes what a change of a pod fulfils of what is expected for its owner.
pub fn observe(expectations: &Expectations<ObjectKey>, key: &ObjectKey, change: &Change<Pod>) {
    let pod = change.object();
    match change {
        Change::Added(pod) if !pods::is_terminating(pod) => expectations.creation_observed(key),
        Change::Updated { new, .. } if !pods::is_terminating(new) => {}
        _ => expectations.deletion_observed(key, pod.metadata.uid.as_deref().unwrap_or_default()),
    }
}

/// What the apiserver said, without the client's words around it.
pub fn text(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}
