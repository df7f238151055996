//! Pods from the API: those bound to this node, as a watch tells of them.

use super::mirror::Mirrors;
use crate::{container::identity, pod::workers::Workers, status_manager::StatusManager};
use client::Change;
use k8s_openapi::api::core::v1::Pod;
use std::sync::Arc;

/// Where a change of a pod goes: mirrors to their keeper, all others to their workers, and every version to whoever patches statuses.
pub fn route(change: &Change<Pod>, workers: &Arc<Workers>, statuses: &StatusManager, mirrors: Option<&Mirrors>) {
    let pod = change.object();
    if let Change::Deleted(_) = change {
        statuses.gone(pod);
        match mirrors.filter(|_| identity::is_mirror(pod)) {
            Some(mirrors) => mirrors.gone(pod),
            None => workers.remove(identity::uid(pod)),
        }
        return;
    }
    // A pod of the same name with another UID means that the old one is gone, though the watch has merged the two changes.
    if let Some(old) = change.old().filter(|old| old.metadata.uid != pod.metadata.uid && !identity::is_mirror(old)) {
        workers.remove(identity::uid(old));
    }
    statuses.seen(pod.clone());
    match mirrors.filter(|_| identity::is_mirror(pod)) {
        Some(mirrors) => mirrors.seen(pod.clone()),
        None => workers.update(pod.clone()),
    }
}
