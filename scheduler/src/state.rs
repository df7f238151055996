//! What the scheduler believes about the cluster: what the watches told, plus the pods it has assumed on nodes whose binding is on its way
//! (upstream: `pkg/scheduler/backend/cache`). No IO, no clock.
//!
//! An assumed pod stays until the watch shows it bound or gone, or its binding fails: the API is the only one to say what came of it.

use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;
use k8s_openapi::api::core::v1::Node;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

struct Placed {
    node: String,
    assumed: bool,
}

/// See the module's description.
#[derive(Default)]
pub struct ClusterState {
    nodes: HashMap<String, Arc<NodeInfo>>,
    /// By UID.
    pods: HashMap<String, Placed>,
    changed: HashSet<String>,
    /// Pods that preemption has promised room, by the node's name.
    nominated: Arc<HashMap<String, Vec<Arc<PodInfo>>>>,
    /// Changed in place as long as no cycle holds it.
    snapshot: Arc<Snapshot>,
}

impl ClusterState {
    /// A node is there or has changed.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        self.change(&name).set_node(node);
    }

    /// A node is gone. Its pods may still be there; their deletion comes later, or not at all.
    pub fn remove_node(&mut self, name: &str) {
        self.change(name).node = None;
        self.drop_if_empty(name);
    }

    /// A pod is bound to a node, or has changed there.
    pub fn set_pod(&mut self, pod: Arc<PodInfo>) {
        let Some(node) = pod.node_name().map(str::to_owned) else { return };
        self.place(pod, node, false);
    }

    /// A pod is gone or has ended.
    pub fn remove_pod(&mut self, uid: &str) {
        let Some(placed) = self.pods.remove(uid) else { return };
        self.change(&placed.node).remove_pod(uid);
        self.drop_if_empty(&placed.node);
    }

    /// A pod is about to be bound to a node.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.place(pod, node.to_owned(), true);
    }

    /// The binding failed. Nothing happens if the watch has shown it bound in the meantime.
    pub fn forget(&mut self, uid: &str) {
        if self.is_assumed(uid) {
            self.remove_pod(uid);
        }
    }

    /// Whether the pod is assumed to be on a node, and not yet seen there.
    pub fn is_assumed(&self, uid: &str) -> bool {
        self.pods.get(uid).is_some_and(|placed| placed.assumed)
    }

    /// The nodes as they are now. Nodes of which only pods are known are left out.
    pub fn snapshot(&mut self) -> Arc<Snapshot> {
        for name in self.changed.drain() {
            let node = self.nodes.get(&name).filter(|info| info.node.is_some()).cloned();
            Arc::make_mut(&mut self.snapshot).set(&name, node);
        }
        self.snapshot.clone()
    }

    /// Promises a pod room on a node.
    pub fn nominate(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.denominate(pod.uid());
        Arc::make_mut(&mut self.nominated).entry(node.to_owned()).or_default().push(pod);
    }

    /// Takes the promise back, if there is one.
    pub fn denominate(&mut self, uid: &str) {
        if self.nominated.values().flatten().any(|pod| pod.uid() == uid) {
            Arc::make_mut(&mut self.nominated).retain(|_, pods| {
                pods.retain(|pod| pod.uid() != uid);
                !pods.is_empty()
            });
        }
    }

    /// The promises as they are now.
    pub fn nominated(&self) -> Arc<HashMap<String, Vec<Arc<PodInfo>>>> {
        self.nominated.clone()
    }

    fn place(&mut self, pod: Arc<PodInfo>, node: String, assumed: bool) {
        self.remove_pod(pod.uid());
        self.pods.insert(pod.uid().to_owned(), Placed { node: node.clone(), assumed });
        self.change(&node).add_pod(pod);
    }

    fn change(&mut self, name: &str) -> &mut NodeInfo {
        self.changed.insert(name.to_owned());
        Arc::make_mut(self.nodes.entry(name.to_owned()).or_default())
    }

    fn drop_if_empty(&mut self, name: &str) {
        if self.nodes.get(name).is_some_and(|info| info.node.is_none() && info.pods.is_empty()) {
            self.nodes.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{node, pod};
    use serde_json::json;

    fn requested(state: &mut ClusterState, node: &str) -> Option<i64> {
        state.snapshot().get(node).map(|info| info.requested.milli_cpu)
    }

    #[test]
    fn an_assumed_pod_counts_until_it_is_seen_or_forgotten() {
        let mut state = ClusterState::default();
        state.set_node(node("n1", json!({})));
        state.set_node(node("n2", json!({})));
        let a = pod("a", json!({"containers": [{"resources": {"requests": {"cpu": "1"}}}]}));
        state.assume(a.clone(), "n1");
        assert_eq!(requested(&mut state, "n1"), Some(1000));
        state.forget(a.uid());
        assert_eq!(requested(&mut state, "n1"), Some(0));

        state.assume(a.clone(), "n1");
        let bound = pod("a", json!({"nodeName": "n2", "containers": [{"resources": {"requests": {"cpu": "1"}}}]}));
        state.set_pod(bound);
        assert_eq!((requested(&mut state, "n1"), requested(&mut state, "n2")), (Some(0), Some(1000)));
        state.forget(a.uid());
        assert_eq!(requested(&mut state, "n2"), Some(1000), "what the API says is not forgotten");
        state.remove_pod(a.uid());
        assert_eq!(requested(&mut state, "n2"), Some(0));
    }

    #[test]
    fn a_snapshot_does_not_change() {
        let mut state = ClusterState::default();
        state.set_node(node("n1", json!({})));
        let before = state.snapshot();
        state.set_pod(pod("a", json!({"nodeName": "n1", "containers": []})));
        state.set_pod(pod("b", json!({"nodeName": "early", "containers": []})));
        assert!(before.get("n1").unwrap().pods.is_empty());
        let after = state.snapshot();
        assert_eq!(after.get("n1").unwrap().pods.len(), 1);
        assert!(after.get("early").is_none(), "its node is not known yet");
        state.set_node(node("early", json!({})));
        assert_eq!(state.snapshot().get("early").unwrap().pods.len(), 1);
        state.remove_node("n1");
        assert!(state.snapshot().get("n1").is_none());
    }
}
