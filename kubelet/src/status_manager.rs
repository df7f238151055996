//! Sends pod statuses to the API: at once, one request at a time per pod, the latest only, as patches of what changed (upstream:
//! `pkg/kubelet/status/status_manager.go`), and deletes pods of which nothing is left.

use crate::{container::identity, pod::worker::StatusSink};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::sync::Semaphore;
use tracing::Instrument;

/// How many requests run at once for all pods. Enough for a full node's start; more would only queue at the server.
const PARALLEL: usize = 32;
/// How soon a failed request is tried again, doubling up to the second figure.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

type Key = (String, String);

#[derive(Default)]
struct Entry {
    /// The newest version the API has shown.
    api: Option<Arc<Pod>>,
    /// What it should be told.
    desired: Option<Arc<PodStatus>>,
    /// What it was told last: a server that makes something else of it is not told again until there is news.
    sent: Option<Arc<PodStatus>>,
    /// The UID on this node, which differs from the API's for static pods.
    uid: String,
    /// The pod may be deleted.
    ended: bool,
    in_flight: bool,
}

/// See the module.
pub struct StatusManager {
    client: Option<Client>,
    entries: Mutex<HashMap<Key, Entry>>,
    slots: Semaphore,
    this: Weak<StatusManager>,
}

fn key(pod: &Pod) -> Key {
    (identity::namespace(pod).to_owned(), identity::name(pod).to_owned())
}

/// Versions of one resource compare as numbers.
fn version(pod: &Pod) -> Option<u64> {
    pod.metadata.resource_version.as_deref().and_then(|v| v.parse().ok())
}

/// The conditions that are the kubelet's to say.
const OWN_CONDITIONS: [&str; 4] = ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"];

/// Whether somebody has written over what the kubelet says of a pod: those of a node that cannot be heard are said to be not ready, and that has to be taken back.
fn written_over(known: &Pod, shown: &Pod) -> bool {
    let own = |pod: &Pod, kind: &str| {
        let all = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        all.filter(|condition| condition.type_ == kind).map(|condition| condition.status.clone()).next()
    };
    OWN_CONDITIONS.iter().any(|kind| own(known, kind) != own(shown, kind))
}

/// What one request would do.
enum Step {
    Patch(Value),
    Delete,
}

impl Entry {
    /// What has to be sent, if anything: the newest status first, the deletion after it.
    fn step(&self) -> Option<Step> {
        let api = self.api.as_ref()?;
        let same_pod = identity::is_mirror(api) || api.metadata.uid.as_deref() == Some(self.uid.as_str());
        if !same_pod {
            return None;
        }
        let old = api.status.clone().unwrap_or_default();
        let news = self.desired.as_ref().filter(|new| self.sent.as_ref() != Some(*new));
        if let Some(patch) = news.and_then(|new| status_patch(&old, new)) {
            return Some(Step::Patch(json!({"metadata": {"uid": api.metadata.uid}, "status": patch})));
        }
        let leaving = self.ended && api.metadata.deletion_timestamp.is_some() && !identity::is_mirror(api);
        leaving.then_some(Step::Delete)
    }
}

impl StatusManager {
    /// Without a client statuses go nowhere.
    pub fn new(client: Option<Client>) -> Arc<Self> {
        Arc::new_cyclic(|this| StatusManager { client, entries: Mutex::default(), slots: Semaphore::new(PARALLEL), this: this.clone() })
    }

    /// The API shows this version of a pod.
    pub fn seen(&self, pod: Arc<Pod>) {
        let key = key(&pod);
        let mut entries = self.entries.lock();
        let entry = entries.entry(key.clone()).or_default();
        let uid = identity::uid(&pod).to_owned();
        if !identity::is_mirror(&pod) && entry.uid != uid {
            *entry = Entry { uid, in_flight: entry.in_flight, ..Default::default() };
        }
        // The answer to our own patch may be newer than what the watch is showing.
        let known = entry.api.take();
        if known.as_ref().is_none_or(|known| known.metadata.uid != pod.metadata.uid) {
            entry.sent = None;
        }
        entry.api = match known {
            Some(known) if known.metadata.uid == pod.metadata.uid && version(&known) > version(&pod) => Some(known),
            Some(known) if version(&known) < version(&pod) && written_over(&known, &pod) => {
                entry.sent = None;
                Some(pod)
            }
            _ => Some(pod),
        };
        let due = entry.step().is_some();
        drop(entries);
        if due {
            self.send(key);
        }
    }

    /// The API shows the pod no longer.
    pub fn gone(&self, pod: &Pod) {
        let mut entries = self.entries.lock();
        let key = key(pod);
        if let Some(entry) = entries.get_mut(&key).filter(|e| e.api.as_ref().is_some_and(|a| a.metadata.uid == pod.metadata.uid)) {
            entry.api = None;
            if entry.uid == identity::uid(pod) {
                entries.remove(&key);
            }
        }
    }

    fn send(&self, key: Key) {
        let Some(this) = self.this.upgrade() else { return };
        let Some(client) = self.client.clone() else { return };
        match self.entries.lock().get_mut(&key) {
            Some(entry) if !entry.in_flight => entry.in_flight = true,
            _ => return,
        }
        tokio::spawn(async move { this.drain(client, key).await });
    }

    /// Sends until there is nothing left to send for this pod.
    async fn drain(&self, client: Client, key: Key) {
        let pods: Api<Pod> = Api::namespaced(client, &key.0);
        let mut wait = RETRY.0;
        loop {
            let (step, uid, desired) = {
                let mut entries = self.entries.lock();
                let Some(entry) = entries.get_mut(&key) else { return };
                match entry.step() {
                    Some(step) => (step, entry.api.as_ref().and_then(|p| p.metadata.uid.clone()), entry.desired.clone()),
                    None => {
                        entry.in_flight = false;
                        return;
                    }
                }
            };
            let sent = {
                // The semaphore is never closed.
                let _slot = self.slots.acquire().await;
                let sending = tracing::debug_span!("status", pod = format!("{}/{}", key.0, key.1));
                self.apply(&pods, &key, step, uid, desired).instrument(sending).await
            };
            match sent {
                Ok(()) => wait = RETRY.0,
                Err(error) => {
                    tracing::warn!(pod = format!("{}/{}", key.0, key.1), %error, "the status could not be sent; trying again");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY.1);
                }
            }
        }
    }

    async fn apply(
        &self,
        pods: &Api<Pod>,
        key: &Key,
        step: Step,
        uid: Option<String>,
        desired: Option<Arc<PodStatus>>,
    ) -> kube::Result<()> {
        let answer = match step {
            Step::Patch(patch) => {
                let patched = pods.patch_status(&key.1, &PatchParams::default(), &Patch::Strategic(patch)).await;
                patched.map(Some)
            }
            Step::Delete => {
                let preconditions = Preconditions { uid, resource_version: None };
                let params = DeleteParams { grace_period_seconds: Some(0), preconditions: Some(preconditions), ..Default::default() };
                pods.delete(&key.1, &params).await.map(|_| None)
            }
        };
        let mut entries = self.entries.lock();
        let newest = match answer {
            Ok(pod) => pod,
            // Gone, or another pod by now: the watch will say so, or has said so.
            Err(kube::Error::Api(status)) if status.code == 404 || (status.code == 409 && status.reason == "Conflict") => None,
            Err(error) => return Err(error),
        };
        if let Some(entry) = entries.get_mut(key) {
            entry.api = match (entry.api.take(), newest) {
                // What the watch has shown meanwhile is kept, for others hold it, too.
                (Some(shown), Some(answer)) if shown.metadata.uid == answer.metadata.uid && version(&shown) >= version(&answer) => {
                    Some(shown)
                }
                (_, Some(mut answer)) => {
                    answer.metadata.managed_fields = None;
                    Some(Arc::new(answer))
                }
                (_, None) => None,
            };
            entry.sent = desired;
        }
        Ok(())
    }
}

impl StatusSink for StatusManager {
    fn report(&self, pod: &Arc<Pod>, status: Arc<PodStatus>) {
        let key = key(pod);
        let due = {
            let mut entries = self.entries.lock();
            let entry = entries.entry(key.clone()).or_default();
            identity::uid(pod).clone_into(&mut entry.uid);
            entry.desired = Some(status);
            entry.step().is_some()
        };
        if due {
            self.send(key);
        }
    }

    fn ended(&self, pod: &Arc<Pod>) {
        let key = key(pod);
        if let Some(entry) = self.entries.lock().get_mut(&key).filter(|e| e.uid == identity::uid(pod)) {
            entry.ended = true;
        }
        self.send(key);
    }

    fn forget(&self, uid: &str) {
        self.entries.lock().retain(|_, entry| entry.uid != uid || entry.api.is_some());
    }
}

/// The strategic merge patch from one status to another; `None` if they are equal.
pub fn status_patch(old: &PodStatus, new: &PodStatus) -> Option<Value> {
    // A status is plain data, so this cannot fail; if it did, the whole status would be sent.
    let old = serde_json::to_value(old).unwrap_or_default();
    let new = serde_json::to_value(new).unwrap_or_default();
    let mut patch = Map::new();
    let empty = Map::new();
    let (old, new) = (old.as_object().unwrap_or(&empty), new.as_object().unwrap_or(&empty));
    for (name, value) in new {
        let before = old.get(name).unwrap_or(&Value::Null);
        if before == value {
            continue;
        }
        match name.as_str() {
            "conditions" => keyed(&mut patch, name, "type", before, value),
            "podIPs" | "hostIPs" => keyed(&mut patch, name, "ip", before, value),
            _ => drop(patch.insert(name.clone(), difference(before, value))),
        }
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// A list whose items are merged by a key: the items that changed, those to delete, and the order of all.
fn keyed(patch: &mut Map<String, Value>, name: &str, by: &str, old: &Value, new: &Value) {
    let none = Vec::new();
    let (old, new) = (old.as_array().unwrap_or(&none), new.as_array().unwrap_or(&none));
    let find = |list: &[Value], key: &Value| list.iter().find(|item| item[by] == *key).cloned();
    let mut items = Vec::new();
    for item in new {
        let mut change = match find(old, &item[by]) {
            Some(before) if before == *item => continue,
            // An item is sent whole, with null for what it lost: half a condition says nothing to whoever reads the patch.
            Some(before) => with_nulls(&before, item),
            None => item.clone(),
        };
        change[by] = item[by].clone();
        items.push(change);
    }
    for item in old.iter().filter(|item| find(new, &item[by]).is_none()) {
        items.push(json!({"$patch": "delete", by: item[by]}));
    }
    let order: Vec<Value> = new.iter().map(|item| json!({by: item[by]})).collect();
    patch.insert(format!("$setElementOrder/{name}"), Value::Array(order));
    patch.insert(name.to_owned(), Value::Array(items));
}

/// The item, and null for every field that only the old one has.
fn with_nulls(old: &Value, new: &Value) -> Value {
    let mut out = new.clone();
    let lost = old.as_object().into_iter().flatten().map(|(name, _)| name).filter(|name| new.get(*name).is_none());
    for name in lost {
        out[name] = Value::Null;
    }
    out
}

/// What turns one value into another by merging: objects by their fields, with null for those that are gone; everything else whole.
fn difference(old: &Value, new: &Value) -> Value {
    let (Some(before), Some(after)) = (old.as_object(), new.as_object()) else { return new.clone() };
    let mut out = Map::new();
    for (name, value) in after {
        match before.get(name) {
            Some(same) if same == value => {}
            Some(other) => drop(out.insert(name.clone(), difference(other, value))),
            None => drop(out.insert(name.clone(), value.clone())),
        }
    }
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        out.insert(name.clone(), Value::Null);
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).expect("a status")
    }

    #[test]
    fn a_patch_has_what_changed_and_nothing_else() {
        let old = status(json!({"phase": "Pending", "qosClass": "BestEffort", "reason": "x", "podIPs": [{"ip": "10.0.0.1"}],
            "conditions": [{"type": "Ready", "status": "False", "message": "m"}, {"type": "PodScheduled", "status": "True"}]}));
        let new = status(json!({"phase": "Running", "qosClass": "BestEffort", "podIPs": [{"ip": "10.0.0.2"}],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}]}));
        assert_eq!(status_patch(&old, &old), None);
        let want = json!({"phase": "Running", "reason": null,
            "$setElementOrder/podIPs": [{"ip": "10.0.0.2"}],
            "podIPs": [{"ip": "10.0.0.2"}, {"$patch": "delete", "ip": "10.0.0.1"}],
            "$setElementOrder/conditions": [{"type": "Ready"}, {"type": "PodScheduled"}],
            "conditions": [{"type": "Ready", "status": "True", "message": null}]});
        assert_eq!(status_patch(&old, &new), Some(want));
    }

    #[test]
    fn what_others_wrote_over_is_said_again() {
        let pod = |version: &str, ready: &str, gate: &str| -> Arc<Pod> {
            let conditions = json!([{"type": "Ready", "status": ready}, {"type": "example.com/gate", "status": gate}]);
            let metadata = json!({"namespace": "ns", "name": "p", "uid": "u", "resourceVersion": version});
            Arc::new(serde_json::from_value(json!({"metadata": metadata, "status": {"conditions": conditions}})).expect("a pod"))
        };
        let manager = StatusManager::new(None);
        let told = pod("5", "True", "False");
        let due = |shown: Arc<Pod>| {
            let entry = Entry {
                api: Some(told.clone()),
                uid: "u".into(),
                desired: told.status.clone().map(Arc::new),
                sent: told.status.clone().map(Arc::new),
                ..Entry::default()
            };
            manager.entries.lock().insert(key(&told), entry);
            manager.seen(shown);
            manager.entries.lock()[&key(&told)].step().is_some()
        };
        assert!(!due(pod("5", "True", "False")), "its own words");
        assert!(due(pod("6", "False", "False")), "its node was not heard");
        assert!(!due(pod("4", "False", "False")), "old news");
        assert!(!due(pod("6", "True", "True")), "another's condition");
    }

    #[test]
    fn a_pod_is_deleted_only_after_its_last_status() {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"uid": "u", "deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"}}),
        )
        .expect("a pod");
        let mut entry = Entry {
            api: Some(Arc::new(pod)),
            uid: "u".into(),
            ended: true,
            desired: Some(Arc::new(status(json!({"phase": "Succeeded"})))),
            ..Default::default()
        };
        assert!(matches!(entry.step(), Some(Step::Patch(_))));
        entry.desired = Some(Arc::new(status(json!({"phase": "Running"}))));
        assert!(matches!(entry.step(), Some(Step::Delete)));
        entry.uid = "other".into();
        assert!(entry.step().is_none());
    }
}
