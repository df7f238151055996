//! The workers of a node, one per pod UID: they are started when a pod appears, told when it changes, and forgotten when they are done.
//!
//! It also tells workers of what the runtime reports, and ends what the runtime has of pods that nobody wants any more.

use super::worker::{Failure, Update, Worker};
use crate::{
    container::identity::{self, POD_NAME, POD_NAMESPACE, POD_UID},
    node::Node,
    runtime::{EVENT_QUEUE, RuntimeError, RuntimeEvent},
};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::AbortHandle,
};
use tokio_util::sync::CancellationToken;

/// How often the runtime's lists are compared where it tells of exits itself (upstream: 300 s with events).
const RELIST: Duration = Duration::from_secs(300);
/// How often where it does not (upstream: 1 s).
const RELIST_WITHOUT_EVENTS: Duration = Duration::from_secs(1);

/// How long after asking for events again the lists are compared.
const CATCH_UP: Duration = Duration::from_secs(2);

struct Handle {
    updates: watch::Sender<Update>,
    waker: Arc<Notify>,
    /// Cancelled once nothing of the pod runs any more.
    ended: CancellationToken,
    task: AbortHandle,
}

#[derive(Default)]
struct State {
    by_uid: HashMap<String, Handle>,
    /// Static pods that wait for another of the same name to be gone.
    held: HashMap<String, Arc<Pod>>,
}

/// The workers of one node.
pub struct Workers {
    node: Arc<Node>,
    state: Mutex<State>,
}

fn full_name(pod: &Pod) -> String {
    format!("{}/{}", identity::namespace(pod), identity::name(pod))
}

/// Whether anything but the status differs, which is the kubelet's own word coming back, as a rule.
fn wanted_differently(old: &Pod, new: &Pod) -> bool {
    let gates = |pod: &Pod| {
        let conditions = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        let gates = pod.spec.iter().flat_map(|s| s.readiness_gates.iter().flatten());
        gates.map(|g| conditions.iter().find(|c| c.type_ == g.condition_type).map(|c| c.status.clone())).collect::<Vec<_>>()
    };
    let meta = |pod: &Pod| {
        let m = &pod.metadata;
        (m.labels.clone(), m.annotations.clone(), m.deletion_timestamp.clone(), m.deletion_grace_period_seconds, m.generation)
    };
    old.spec != new.spec || meta(old) != meta(new) || gates(old) != gates(new)
}

impl Workers {
    /// None yet.
    pub fn new(node: Arc<Node>) -> Arc<Self> {
        Arc::new(Workers { node, state: Mutex::default() })
    }

    /// The node.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// The pod is wanted as it is here.
    pub fn update(self: &Arc<Self>, pod: Arc<Pod>) {
        self.send(pod, None, false);
    }

    /// The pod is evicted, or fails for another reason of the node's.
    pub fn fail(self: &Arc<Self>, pod: Arc<Pod>, failure: Failure) {
        self.send(pod, Some(failure), false);
    }

    /// Waits until nothing of the pod runs any more. Answers at once for a pod that nobody knows.
    pub async fn ended(&self, uid: &str) {
        let ended = self.state.lock().by_uid.get(uid).map(|handle| handle.ended.clone());
        if let Some(ended) = ended {
            ended.cancelled().await;
        }
    }

    fn send(self: &Arc<Self>, pod: Arc<Pod>, failure: Option<Failure>, removed: bool) {
        let uid = identity::uid(&pod).to_owned();
        let mut state = self.state.lock();
        let back = !removed && failure.is_none() && state.by_uid.get(&uid).is_some_and(|handle| handle.updates.borrow().removed);
        if back {
            // A static pod keeps its UID when its manifest comes back: it runs anew once it has ended.
            state.held.insert(full_name(&pod), pod);
            return;
        }
        if let Some(handle) = state.by_uid.get(&uid) {
            handle.updates.send_if_modified(|update| {
                let news = failure.is_some() || wanted_differently(&update.pod, &pod);
                update.pod = pod;
                update.failure = update.failure.take().or(failure);
                news
            });
            return;
        }
        let name = full_name(&pod);
        if state.by_uid.values().any(|h| full_name(&h.updates.borrow().pod) == name) && identity::is_static(&pod) {
            state.held.insert(name, pod);
            return;
        }
        let waker = Arc::new(Notify::new());
        let ended = CancellationToken::new();
        let worker = Worker::new(self.node.clone(), &pod, waker.clone(), ended.clone());
        let (updates, receiver) = watch::channel(Update { pod, removed, failure });
        let (workers, key) = (self.clone(), uid.clone());
        let task = tokio::spawn(async move {
            worker.run(receiver).await;
            workers.done(&key);
        });
        state.by_uid.insert(uid, Handle { updates, waker, ended, task: task.abort_handle() });
    }

    /// Ends all workers where they are, as the end of the process would. What runs goes on; the next kubelet takes it over.
    pub fn abandon(&self) {
        for (_, handle) in self.state.lock().by_uid.drain() {
            handle.task.abort();
        }
    }

    fn done(self: &Arc<Self>, uid: &str) {
        let next = {
            let mut state = self.state.lock();
            let name = state.by_uid.remove(uid).map(|h| full_name(&h.updates.borrow().pod));
            name.and_then(|name| state.held.remove(&name))
        };
        if let Some(pod) = next {
            self.update(pod);
        }
    }

    /// The pod is gone from its source.
    pub fn remove(&self, uid: &str) {
        let mut state = self.state.lock();
        state.held.retain(|_, pod| identity::uid(pod) != uid);
        if let Some(handle) = state.by_uid.get(uid) {
            handle.updates.send_modify(|update| update.removed = true);
        }
    }

    /// The pods there are workers for, newest versions.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.state.lock().by_uid.values().map(|h| h.updates.borrow().pod.clone()).collect()
    }

    /// The pods that have not run their course.
    pub fn active(&self) -> Vec<Arc<Pod>> {
        let over = |pod: &Pod| matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
        let state = self.state.lock();
        let running = state.by_uid.values().filter(|h| !h.ended.is_cancelled()).map(|h| h.updates.borrow().pod.clone());
        running.filter(|pod| !over(pod) && pod.spec.is_some()).collect()
    }

    /// The UIDs of all pods there are workers for, and whether nothing of them runs any more.
    pub fn known(&self) -> HashMap<String, bool> {
        self.state.lock().by_uid.iter().map(|(uid, handle)| (uid.clone(), handle.ended.is_cancelled())).collect()
    }

    /// A pod by namespace and name.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.pods().into_iter().find(|p| identity::namespace(p) == namespace && identity::name(p) == name)
    }

    /// Wakes the worker of a pod.
    pub fn wake(&self, uid: &str) {
        if let Some(handle) = self.state.lock().by_uid.get(uid) {
            handle.waker.notify_one();
        }
    }

    /// Follows the runtime for good: its events where it has any, its lists every now and then. `ready` says when all sources of pods have
    /// been heard, before which nothing is an orphan.
    pub async fn follow_runtime(self: Arc<Self>, mut ready: watch::Receiver<bool>, stop: CancellationToken) {
        let (sender, mut events) = mpsc::channel(EVENT_QUEUE);
        let runtime = self.node.runtime.clone();
        let (has_events, mut mode) = watch::channel(true);
        let source = tokio::spawn(async move {
            let mut broke_off = false;
            loop {
                // What happened between two streams is in neither of them, so once the next one stands the lists are compared.
                let missed = async {
                    if broke_off {
                        tokio::time::sleep(CATCH_UP).await;
                        has_events.send_replace(true);
                    }
                    std::future::pending().await
                };
                let ended = tokio::select! {
                    ended = runtime.events(sender.clone()) => ended,
                    ended = missed => ended,
                };
                broke_off = true;
                match ended {
                    Err(RuntimeError::Unimplemented(why)) => {
                        tracing::warn!(%why, "the runtime has no events; its lists are compared every second");
                        has_events.send_replace(false);
                        return;
                    }
                    Err(error) => tracing::warn!(%error, "the runtime's events broke off"),
                    Ok(()) => {}
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let mut known: HashMap<String, (String, i32)> = HashMap::new();
        loop {
            let sources_ready = *ready.borrow_and_update();
            if let Err(error) = self.relist(&mut known, sources_ready).await {
                tracing::warn!(%error, "the runtime could not be listed");
            }
            let wait = if *mode.borrow_and_update() { RELIST } else { RELIST_WITHOUT_EVENTS };
            let until = tokio::time::sleep(wait);
            tokio::pin!(until);
            loop {
                tokio::select! {
                    () = stop.cancelled() => { source.abort(); return; }
                    Some(event) = events.recv() => if !self.tell(&event, &known) { break },
                    Ok(()) = mode.changed() => break,
                    Ok(()) = ready.changed() => break,
                    () = &mut until => break,
                }
            }
        }
    }

    /// Wakes whom the event is about. Answers whether that is known; if not, a relist finds out.
    fn tell(&self, event: &RuntimeEvent, known: &HashMap<String, (String, i32)>) -> bool {
        let Some((uid, _)) = known.get(&event.container_id) else { return false };
        self.wake(uid);
        self.node.vitals.housekeeping.notify_one();
        true
    }

    /// Compares the runtime's lists with the last ones: wakes pods whose containers changed, and ends what has no pod.
    async fn relist(self: &Arc<Self>, known: &mut HashMap<String, (String, i32)>, sources_ready: bool) -> Result<(), RuntimeError> {
        let runtime = &self.node.runtime;
        let (containers, sandboxes) = tokio::try_join!(runtime.list_containers(&[]), runtime.list_sandboxes(&[]))?;
        let uid = |labels: &HashMap<String, String>| labels.get(POD_UID).cloned();
        let mut fresh = HashMap::new();
        for container in &containers {
            if let Some(uid) = uid(&container.labels) {
                fresh.insert(container.id.clone(), (uid, container.state));
            }
        }
        for sandbox in &sandboxes {
            if let Some(uid) = uid(&sandbox.labels) {
                fresh.insert(sandbox.id.clone(), (uid, 100 + sandbox.state));
            }
        }
        let changed: HashSet<&String> = fresh.iter().filter(|(id, now)| known.get(*id) != Some(*now)).map(|(_, (uid, _))| uid).collect();
        if !changed.is_empty() {
            self.node.vitals.housekeeping.notify_one();
        }
        for uid in changed {
            self.wake(uid);
        }
        if sources_ready {
            let mut orphans = HashMap::new();
            for labels in containers.iter().map(|c| &c.labels).chain(sandboxes.iter().map(|s| &s.labels)) {
                if let Some(uid) = uid(labels).filter(|uid| !self.state.lock().by_uid.contains_key(uid)) {
                    orphans.entry(uid).or_insert_with(|| labels.clone());
                }
            }
            for (uid, labels) in orphans {
                self.end_orphan(&uid, &labels);
            }
        }
        *known = fresh;
        Ok(())
    }

    /// Ends what the runtime has of a pod that no source knows: a worker is started that has nothing to do but to end it.
    fn end_orphan(self: &Arc<Self>, uid: &str, labels: &HashMap<String, String>) {
        let mut pod = Pod::default();
        pod.metadata.uid = Some(uid.to_owned());
        pod.metadata.name = labels.get(POD_NAME).cloned();
        pod.metadata.namespace = labels.get(POD_NAMESPACE).cloned();
        tracing::info!(pod = %identity::described(&pod), "ending what is left of a pod that is gone");
        self.send(Arc::new(pod), None, true);
    }
}
